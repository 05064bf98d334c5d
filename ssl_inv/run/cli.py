"""The command line: parsing, and refusing what is wrong before anything heavy is imported."""

import argparse
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from ssl_inv.catalogue import suggest
from ssl_inv.run.environment import keep_freed_memory
from ssl_inv.run.explain import explained, recipe_head
from ssl_inv.run.folder import RunFolder, default_output, require_new, require_writable
from ssl_inv.run.recipe import (
    JUDGED,
    SECTIONS,
    Recipe,
    RecipeError,
    apply_overrides,
    check_overrides,
    find_recipe,
    load_recipe,
    require_files,
    resolve,
    resolve_section,
    shipped_recipes,
)

MOST_IMAGES = 50
"""Strips on one page of views: with more, it would be a picture that few programs open."""


MOST_MARGIN = 10.0
"""A view that shows more around its object than ten times its size is a view of something else."""


_EPILOG = (
    "Any setting of the recipe is changed with --section.key value, and what belongs to a setting with --section.key.key value; "
    "`ssl-inv recipes NAME --explain` prints all, with what they mean. "
    "Another objective, data set or augmentation (--data.name ...) begins with its own defaults."
)


_SOME_SECTIONS = {
    **dict.fromkeys(
        ("evaluate", "embed"),
        f"Settings of {', '.join(JUDGED[:-1])} and {JUDGED[-1]} are changed with --section.key value; those of a run are its own.",
    ),
    "render": "Settings of the solids are changed with --data.key value: `ssl-inv recipes sie-rendered --explain` prints them.",
}
"""What is said of settings by commands that take those of some sections only."""


_WITHOUT_RECIPE = {
    "export": "a run is exported with the recipe that it has",
    "tracks": "tracks are found without a recipe",
}
"""Commands that take no settings of a recipe, and why."""


def _pretrain(arguments: argparse.Namespace) -> None:
    recipe, folder = _new_run(arguments) if arguments.resume is None else _resumed_run(arguments)
    from ssl_inv.run.pretrain import pretrain

    numbered = arguments.output is None and arguments.resume is None
    pretrain(recipe, folder, arguments.resume is not None, arguments.quiet, numbered)


def _new_run(arguments: argparse.Namespace) -> tuple[Recipe, RunFolder]:
    if arguments.recipe is None:
        raise RecipeError("a recipe is missing: ssl-inv pretrain RECIPE; `ssl-inv recipes` lists them")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    require_files(recipe)
    folder = RunFolder(Path(arguments.output) if arguments.output else default_output(arguments.recipe))
    # The processes that the first one starts for further devices find its folder there already.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        (require_new if arguments.output else require_writable)(folder.path)
    return recipe, folder


def _resumed_run(arguments: argparse.Namespace) -> tuple[Recipe, RunFolder]:
    if arguments.output is not None:
        raise RecipeError("--output and --resume exclude each other: a resumed run stays in its folder")
    folder = RunFolder.open(Path(arguments.resume))
    if arguments.recipe is not None:
        folder.refuse_another_recipe(load_recipe(arguments.recipe, arguments.overrides))
    elif arguments.overrides:
        folder.refuse_another_recipe(
            resolve(apply_overrides(folder.recipe().sections(), arguments.overrides), str(folder.recipe_file))
        )
    require_files(folder.recipe())
    return folder.recipe(), folder


def _evaluate(arguments: argparse.Namespace) -> None:
    check_overrides(arguments.overrides)
    output = None if arguments.output is None else Path(arguments.output)
    if output is not None and not (output / "features").is_dir():
        require_new(output)
    from ssl_inv.run.commands import evaluate

    evaluate(arguments.model, arguments.data, arguments.overrides, output, arguments.pretrained)


def _embed(arguments: argparse.Namespace) -> None:
    check_overrides(arguments.overrides)
    if arguments.shard_size < 1:
        raise RecipeError(f"--shard-size must be at least 1, got {arguments.shard_size}")
    require_writable(Path(arguments.output))
    from ssl_inv.run.commands import embed

    embed(
        arguments.model,
        arguments.data,
        arguments.overrides,
        Path(arguments.output),
        arguments.format,
        arguments.shard_size,
        arguments.pretrained,
    )


def _export(arguments: argparse.Namespace) -> None:
    folder = RunFolder.open(Path(arguments.run))
    if arguments.output is not None:
        require_new(Path(arguments.output))
    from ssl_inv.run.commands import export

    export(folder, arguments.format, None if arguments.output is None else Path(arguments.output))


def _render(arguments: argparse.Namespace) -> None:
    if not 1 <= arguments.quality <= 95:
        raise RecipeError(f"--quality must lie between 1 and 95, got {arguments.quality}")
    content = apply_overrides({"data": {"name": "rendered"}}, arguments.overrides, ["data"])
    chosen = resolve_section("data", content["data"], "the command line")
    if chosen.name != "rendered":
        raise RecipeError(f"data.name: render writes 'rendered' data, not {chosen.name!r}")
    require_new(Path(arguments.output))
    from ssl_inv.run.commands import render

    render(chosen, Path(arguments.output), arguments.quality)


def _tracks(arguments: argparse.Namespace) -> None:
    if arguments.size < 1:
        raise RecipeError(f"--size must be at least 1, got {arguments.size}")
    if not 0 <= arguments.margin <= MOST_MARGIN:
        raise RecipeError(f"--margin must lie between 0 and {MOST_MARGIN:g}, got {arguments.margin:g}")
    if not Path(arguments.videos).expanduser().exists():
        raise RecipeError(f"there is no folder or file {arguments.videos!r}")
    require_writable(Path(arguments.output))
    from ssl_inv.run.commands import tracks

    settings = {name: getattr(arguments, name) for name in ("tracker", "length", "step", "objects", "agreement")}
    tracks(arguments.videos, arguments.frames, Path(arguments.output), settings, arguments.size, arguments.margin)


def _views(arguments: argparse.Namespace) -> None:
    if not 1 <= arguments.images <= MOST_IMAGES:
        raise RecipeError(f"--images must lie between 1 and {MOST_IMAGES}, got {arguments.images}")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    require_files(recipe)
    output = _free_page() if arguments.output is None else Path(arguments.output)
    if output.suffix not in (".png", ".html"):
        raise RecipeError(f"--output: {arguments.output!r} is no page; its name must end with .png or .html")
    if output.exists():
        raise RecipeError(f"output {str(output)!r} exists already; choose another name")
    require_writable(output)
    from ssl_inv.run.commands import views

    views(arguments.recipe, recipe, output, arguments.images)


def _free_page() -> Path:
    """`views.png`, with a number behind it if there is one already."""
    return next(
        path for number in itertools.count(1) if not (path := Path(f"views{f'-{number}' * (number > 1)}.png")).exists()
    )


def _check(arguments: argparse.Namespace) -> None:
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    require_files(recipe)
    from ssl_inv.run.commands import check

    check(arguments.recipe, recipe)


def _recipes(arguments: argparse.Namespace) -> None:
    if arguments.recipe is not None:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        head = recipe_head(find_recipe(arguments.recipe)).text
        sys.stdout.write((f"{head}\n" if head else "") + (explained(recipe) if arguments.explain else recipe.dump()))
        return
    if arguments.overrides or arguments.explain:
        raise RecipeError("a recipe is missing: ssl-inv recipes RECIPE; without one, all are listed")
    titles = {name: recipe_head(path).title for name, path in shipped_recipes().items()}
    width = max(map(len, titles))
    sys.stdout.write("".join(f"{name:{width}}  {title}\n" for name, title in titles.items()))
    sys.stdout.write(
        "\nssl-inv recipes NAME prints one: how to run it, how long it takes, what it scores, and every setting\n"
    )


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with one line."""

    def error(self, message: str) -> NoReturn:
        if match := re.match(r"argument (\S+): invalid choice: '?([^'(]*?)'? \(", message):
            choices = next(
                action.choices for action in self._actions if match[1] in (action.metavar, *action.option_strings)
            )
            raise RecipeError(
                f"{match[1].replace('COMMAND', 'command')}: there is no {match[2]!r}; {suggest(match[2], choices)}"
            )
        if match := re.match(r"argument (\S+): invalid int value: (.*)", message):
            raise RecipeError(f"{match[1]}: expected a whole number, got {match[2]}")
        if match := re.match(r"argument (\S+): invalid float value: (.*)", message):
            raise RecipeError(f"{match[1]}: expected a number, got {match[2]}")
        if match := re.match(r"argument (\S+): expected one argument", message):
            raise RecipeError(f"{match[1]}: a value is missing")
        if match := re.match(r"the following arguments are required: (\S+?),?( |$)", message):
            raise RecipeError(f"{match[1]} is missing: {' '.join(self.format_usage().removeprefix('usage: ').split())}")
        raise RecipeError(message)


def _parser() -> argparse.ArgumentParser:
    about = "Pretrain image encoders that know what is in an image and how it was seen."
    parser = _Parser(prog="ssl-inv", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"ssl-inv {version('ssl-inv')}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser, metavar="COMMAND")

    def command(name: str, call: Callable[[argparse.Namespace], None], description: str) -> argparse.ArgumentParser:
        epilog = None if name in _WITHOUT_RECIPE else _SOME_SECTIONS.get(name, _EPILOG)
        one = commands.add_parser(
            name, help=description, description=f"{description}.", epilog=epilog, allow_abbrev=False
        )
        one.set_defaults(call=call, parser=one)
        return one

    one = command("pretrain", _pretrain, "pretrain an encoder by a recipe, judge it, export it and write a report")
    one.add_argument("recipe", nargs="?", metavar="RECIPE", help="name of a shipped recipe or path of a recipe file")
    one.add_argument("--output", metavar="FOLDER", help="where the run goes; runs/RECIPE-TIME by default")
    one.add_argument(
        "--resume",
        metavar="RUN",
        help="continue the run in this folder, to the result that it would have had uninterrupted",
    )
    one.add_argument("--quiet", action="store_true", help="print warnings and the results only")

    one = command("evaluate", _evaluate, "judge a run, an exported folder or any timm model")
    _model_and_data(one)
    one.add_argument(
        "--output", metavar="FOLDER", help="also write results.json there, and keep the features for a further call"
    )

    one = command("embed", _embed, "write the features of every image, with what is known about it")
    _model_and_data(one)
    one.add_argument(
        "--output",
        metavar="FOLDER",
        required=True,
        help="folder for shards and manifest.json; an interrupted call goes on",
    )
    one.add_argument("--format", choices=["parquet", "npy"], default="parquet", help="form of the shards (parquet)")
    one.add_argument("--shard-size", type=int, default=50_000, metavar="ROWS", help="images in a shard, about (50000)")

    one = command("export", _export, "write the backbone of a run for other libraries")
    one.add_argument("run", metavar="RUN", help="folder of a run")
    one.add_argument(
        "--format", choices=["timm", "torchvision", "onnx"], default="timm", help="for which library (timm)"
    )
    one.add_argument("--output", metavar="PATH", help="folder (timm) or file; inside the run by default")

    one = command("render", _render, "write rendered solids as a data set in the layout of 3DIEBench")
    one.add_argument("output", metavar="FOLDER", help="folder to write")
    one.add_argument("--quality", type=int, default=95, help="JPEG quality (95)")

    _tracks_options(command("tracks", _tracks, "find what moves in videos, follow it, and write its views as a table"))

    one = command("recipes", _recipes, "list the shipped recipes, or print one with all its settings")
    one.add_argument("recipe", nargs="?", metavar="RECIPE", help="name of a shipped recipe or path of a recipe file")
    one.add_argument("--explain", action="store_true", help="say of every setting what it means")

    one = command(
        "views", _views, "draw the views that a run begins with, and where in the images they lie; writes one page"
    )
    one.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe or path of a recipe file")
    one.add_argument(
        "--output", metavar="FILE", help="page to write, .png or .html; views.png by default, numbered if there is one"
    )
    one.add_argument("--images", type=int, default=6, metavar="N", help=f"images to show, at most {MOST_IMAGES} (6)")

    one = command("check", _check, "check a recipe, build it and run one step; writes nothing")
    one.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe or path of a recipe file")
    return parser


def _model_and_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder of a run, exported folder, or timm:NAME")
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="recipe whose data to take, data set, folder, zip or CSV; the run's own by default",
    )
    parser.add_argument(
        "--pretrained", action="store_true", help="for timm:NAME, load timm's weights, which may download them"
    )


def _tracks_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "videos", metavar="VIDEOS", help="folder of videos or of folders with frames, zip of frames, or one video"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", required=True, help="folder for table and images; an interrupted call goes on"
    )
    parser.add_argument(
        "--frames", default="*", metavar="PATTERN", help="which images are frames, such as '*.jpg' beside masks (all)"
    )
    parser.add_argument(
        "--tracker", choices=["flow", "csrt", "kcf"], default="flow", help="how objects are followed (flow)"
    )
    parser.add_argument(
        "--length", type=int, default=30, metavar="FRAMES", help="frames that an object is followed for at a time (30)"
    )
    parser.add_argument("--step", type=int, default=5, metavar="FRAMES", help="frames from one view to the next (5)")
    parser.add_argument("--objects", type=int, default=2, metavar="N", help="most objects at a time (2)")
    parser.add_argument(
        "--agreement",
        type=float,
        default=0.5,
        help="overlap with the first box after following back; 0: no check (0.5)",
    )
    parser.add_argument("--size", type=int, default=128, metavar="PIXELS", help="side of the views (128)")
    parser.add_argument(
        "--margin", type=float, default=0.2, help="what a view shows around its box, as a share of the box's side (0.2)"
    )


def _without_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments, and apart from them those of the form `--section.key value` or `--section.key=value`."""
    rest, overrides = [], []
    waiting = list(arguments)
    while waiting:
        one = waiting.pop(0)
        key, equals, _ = one.partition("=")
        if not re.match(r"--[^.]+\.", key):
            rest.append(one)
            continue
        overrides.append(one)
        if not equals and waiting and not waiting[0].startswith("--"):
            overrides.append(waiting.pop(0))
    return rest, overrides


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; settings of a recipe are left in `overrides`.

    Raises:
        RecipeError: on the first mistake.
    """
    arguments, overrides = _without_overrides(arguments)
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version"):
        raise RecipeError(f"{arguments[0]}: no such option; {suggest(arguments[0], ['--help', '--version'])}")
    parsed, unknown = _parser().parse_known_args(arguments)
    if unknown:
        options = [name for name in parsed.parser._option_string_actions if name.startswith("--")]
        if unknown[0].removeprefix("--") in SECTIONS:
            raise RecipeError(f"{unknown[0]}: settings are given one by one, {unknown[0]}.KEY VALUE")
        if unknown[0].startswith("-"):
            raise RecipeError(f"{unknown[0]}: no such option; {suggest(unknown[0], options)}")
        raise RecipeError(f"unexpected argument {unknown[0]!r}; settings are given as --section.key value")
    if overrides and parsed.command in _WITHOUT_RECIPE:
        raise RecipeError(f"{overrides[0]}: no such option; {_WITHOUT_RECIPE[parsed.command]}")
    parsed.overrides = overrides
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 2 for a mistake in what was asked, 1 for a run that failed, 130 when
    interrupted.
    """
    # Read when torch is loaded. Threads that spin while they wait for each other cost little on idle cores and most of
    # the speed on busy ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    try:
        parsed = parse(sys.argv[1:] if arguments is None else arguments)
        parsed.call(parsed)
        sys.stdout.flush()
    except RecipeError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted", 130)
    except BrokenPipeError:
        # The reader of our output is gone; Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if (message := _explanation(error)) is None:
            raise
        return _fail(message, 1)
    return 0


def _explanation(error: Exception) -> str | None:
    """What to say instead of a traceback, or None for what only a programmer can understand."""
    if type(error).__module__.startswith("ssl_inv."):
        # From a loader process the message is a traceback that ends with "package.Class: message".
        return (
            re.sub(r"^[\w.]+: ", "", str(error).strip().splitlines()[-1])
            if "Original Traceback" in str(error)
            else str(error)
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if type(error).__name__ == "OutOfMemoryError":
        return f"{str(error).partition('.')[0]}; try a smaller trainer.batch_size"
    return None


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
