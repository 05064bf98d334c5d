"""The command line: it parses the arguments and refuses mistakes before anything heavy is imported."""

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from ssl_inv.catalogue import RecipeError, suggest
from ssl_inv.run.arguments import number, one_of
from ssl_inv.run.environment import prepare_process
from ssl_inv.run.explain import explained, recipe_head
from ssl_inv.run.folder import RunFolder, default_output, require_new, require_writable
from ssl_inv.run.recipe import (
    JUDGED,
    SECTIONS,
    Recipe,
    apply_overrides,
    check_overrides,
    find_recipe,
    load_recipe,
    load_runnable,
    require_files,
    resolve,
    resolve_section,
    shipped_recipes,
)

MOST_IMAGES = 50
"""Most images on one page of views: few programs open a larger picture."""

_IMAGES = 6
"""Images on one page of views, if it is not said."""

MOST_MARGIN = 10.0
"""Largest margin around a tracked object, in shares of its box: beyond that a view shows something else."""

_EPILOG = (
    "--section.key value changes a setting of the recipe; --section.key.key value changes a setting inside another. "
    "`ssl-inv recipes NAME --explain` prints all settings and their meaning. "
    "Another objective, data set or augmentation (--data.name ...) starts from its own defaults."
)

_SOME_SECTIONS = {
    **dict.fromkeys(
        ("evaluate", "embed"),
        f"--section.key value changes settings of {', '.join(JUDGED[:-1])} and {JUDGED[-1]}; "
        "the other settings of a run are fixed.",
    ),
    "render": "--data.key value changes settings of the solids: `ssl-inv recipes sie-rendered --explain` prints them.",
}
"""The epilogs of commands that accept only some sections."""

_WITHOUT_RECIPE = {
    "export": "a run is exported with its own recipe",
    "tracks": "tracks are found without a recipe",
}
"""Commands that accept no settings of a recipe, and why."""


def _pretrain(arguments: argparse.Namespace) -> None:
    recipe, folder = _new_run(arguments) if arguments.resume is None else _resumed_run(arguments)
    from ssl_inv.run.pretrain import pretrain

    numbered = arguments.output is None and arguments.resume is None
    pretrain(recipe, folder, arguments.resume is not None, arguments.quiet, numbered)


def _new_run(arguments: argparse.Namespace) -> tuple[Recipe, RunFolder]:
    if arguments.recipe is None:
        raise RecipeError("a recipe is missing: ssl-inv pretrain RECIPE; `ssl-inv recipes` lists them")
    recipe = load_runnable(arguments.recipe, arguments.overrides)
    folder = RunFolder(arguments.output or default_output(arguments.recipe))
    # The first process starts the others after it has made the folder.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        (require_new if arguments.output else require_writable)(folder.path)
    return recipe, folder


def _resumed_run(arguments: argparse.Namespace) -> tuple[Recipe, RunFolder]:
    if arguments.output is not None:
        raise RecipeError("--output and --resume exclude each other: a resumed run stays in its folder")
    folder = RunFolder.open(arguments.resume)
    recipe = folder.recipe()
    if arguments.recipe is not None:
        folder.refuse_another_recipe(load_recipe(arguments.recipe, arguments.overrides))
    elif arguments.overrides:
        content = apply_overrides(recipe.sections(), arguments.overrides)
        folder.refuse_another_recipe(resolve(content, str(folder.recipe_file)))
    require_files(recipe)
    return recipe, folder


def _evaluate(arguments: argparse.Namespace) -> None:
    check_overrides(arguments.overrides)
    if arguments.output is not None and not (arguments.output / "features").is_dir():
        require_new(arguments.output)
    from ssl_inv.run.commands import evaluate

    evaluate(arguments.model, arguments.data, arguments.overrides, arguments.pretrained, arguments.output)


def _embed(arguments: argparse.Namespace) -> None:
    check_overrides(arguments.overrides)
    require_writable(arguments.output)
    from ssl_inv.run.commands import embed

    model = arguments.model, arguments.data, arguments.overrides, arguments.pretrained
    embed(*model, arguments.output, arguments.format, arguments.shard_size)


def _export(arguments: argparse.Namespace) -> None:
    folder = RunFolder.open(arguments.run)
    if arguments.output is not None:
        require_new(arguments.output)
    from ssl_inv.run.commands import export

    export(folder, arguments.format, arguments.output)


def _render(arguments: argparse.Namespace) -> None:
    content = apply_overrides({"data": {"name": "rendered"}}, arguments.overrides, ["data"])
    chosen = resolve_section("data", content["data"], "the command line")
    if chosen.name != "rendered":
        raise RecipeError(f"data.name: render writes 'rendered' data, not {chosen.name!r}")
    require_new(arguments.output)
    from ssl_inv.run.commands import render

    render(chosen, arguments.output, arguments.quality)


def _tracks(arguments: argparse.Namespace) -> None:
    if not Path(arguments.videos).expanduser().exists():
        raise RecipeError(f"there is no folder or file {arguments.videos!r}")
    require_writable(arguments.output)
    from ssl_inv.run.commands import tracks

    settings = {name: getattr(arguments, name) for name in ("tracker", "length", "step", "objects", "agreement")}
    tracks(arguments.videos, arguments.frames, arguments.output, settings, arguments.size, arguments.margin)


def _views(arguments: argparse.Namespace) -> None:
    if arguments.operations:
        if arguments.images is not None:
            raise RecipeError("--images and --operations exclude each other: operations are drawn on one image")
        if arguments.recipe is None and arguments.overrides:
            problem = "settings are those of a recipe, whose first image is drawn on"
            raise RecipeError(f"{problem}: ssl-inv views --operations RECIPE {' '.join(arguments.overrides)}")
    elif arguments.recipe is None:
        raise RecipeError("a recipe is missing: ssl-inv views RECIPE; `ssl-inv recipes` lists them")
    recipe = None if arguments.recipe is None else load_runnable(arguments.recipe, arguments.overrides)
    stem = "operations" if arguments.operations else "views"
    numbered = (Path(f"{stem}-{number}.png") for number in itertools.count(2))
    free = next(path for path in itertools.chain([Path(f"{stem}.png")], numbered) if not path.exists())
    output = arguments.output or free
    if output.suffix not in (".png", ".html"):
        raise RecipeError(f"--output: {str(output)!r} is no page; its name must end with .png or .html")
    if output.exists():
        raise RecipeError(f"output {str(output)!r} exists already; choose another name")
    require_writable(output)
    from ssl_inv.run.commands import operations, views

    if arguments.operations:
        operations(recipe, output)
    elif recipe is not None:
        views(arguments.recipe, recipe, output, arguments.images or _IMAGES)


def _check(arguments: argparse.Namespace) -> None:
    recipe = load_runnable(arguments.recipe, arguments.overrides)
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
    """An argument parser that raises every mistake as an `ArgumentError`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False, exit_on_error=False)

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, f"{message}; see {self.prog} --help")


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the program, and those of its commands by name."""
    about = "Pretrain image encoders that know what is in an image and how it was seen."
    parser = _Parser(prog="ssl-inv", description=about)
    parser.add_argument("--version", action="version", version=f"ssl-inv {version('ssl-inv')}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser, metavar="COMMAND")

    def command(name: str, call: Callable[[argparse.Namespace], None], description: str) -> argparse.ArgumentParser:
        epilog = None if name in _WITHOUT_RECIPE else _SOME_SECTIONS.get(name, _EPILOG)
        one: argparse.ArgumentParser = commands.add_parser(
            name, help=description, description=f"{description}.", epilog=epilog
        )
        one.set_defaults(call=call)
        return one

    recipe: dict[str, Any] = {"metavar": "RECIPE", "help": "name of a shipped recipe, or path of a recipe file"}

    one = command("pretrain", _pretrain, "pretrain an encoder, evaluate it, export it and write a report")
    one.add_argument("recipe", nargs="?", **recipe)
    _output(one, "FOLDER", "folder of the run; runs/RECIPE-TIME by default")
    resume = "continue the run in this folder; the result is as if it had never stopped"
    one.add_argument("--resume", type=Path, metavar="RUN", help=resume)
    one.add_argument("--quiet", action="store_true", help="print only warnings and results")

    one = command("evaluate", _evaluate, "evaluate a run, an exported folder or any timm model")
    _model_and_data(one)
    _output(one, "FOLDER", "also write results.json there, and cache the features")

    one = command("embed", _embed, "write the features of every image, with what is known about the image")
    _model_and_data(one)
    _output(one, "FOLDER", "folder for shards and manifest.json; a second call continues", required=True)
    one.add_argument("--format", **one_of(["parquet", "npy"]), default="parquet", help="format of the shards (parquet)")
    one.add_argument(
        "--shard-size", type=number(int, 1), default=50_000, metavar="ROWS", help="images per shard, about (50000)"
    )

    one = command("export", _export, "write the backbone of a run for other libraries")
    one.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    formats = ["timm", "torchvision", "onnx"]
    one.add_argument("--format", **one_of(formats), default="timm", help="for which library (timm)")
    _output(one, "PATH", "folder (timm) or file; inside the run by default")

    one = command("render", _render, "write rendered solids as a data set in the layout of 3DIEBench")
    one.add_argument("output", type=Path, metavar="FOLDER", help="folder to write")
    one.add_argument("--quality", type=number(int, 1, 95), default=95, metavar="Q", help="JPEG quality (95)")

    _tracks_options(command("tracks", _tracks, "find and follow moving objects in videos, and write their views"))

    one = command("recipes", _recipes, "list the shipped recipes, or print one with all its settings")
    one.add_argument("recipe", nargs="?", **recipe)
    one.add_argument("--explain", action="store_true", help="say what every setting means")

    one = command("views", _views, "draw the first views of a run and where they lie in their images, on one page")
    one.add_argument("recipe", nargs="?", **recipe)
    _output(one, "FILE", "page to write, .png or .html; views.png, views-2.png, ... by default")
    most = f"images to show, at most {MOST_IMAGES} ({_IMAGES})"
    one.add_argument("--images", type=number(int, 1, MOST_IMAGES), metavar="N", help=most)
    sheet = "draw every operation at three strengths instead, on the first image of the recipe or on a built-in one"
    one.add_argument("--operations", action="store_true", help=sheet)

    one = command("check", _check, "check a recipe, build it and run one step; writes nothing")
    one.add_argument("recipe", **recipe)
    return parser, dict(commands.choices)


def _output(parser: argparse.ArgumentParser, metavar: str, what: str, required: bool = False) -> None:
    parser.add_argument("--output", type=Path, metavar=metavar, required=required, help=what)


def _model_and_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder of a run, exported folder, or timm:NAME")
    data = "recipe whose data to use, data set, folder, zip, tar or CSV; by default the data of the run"
    parser.add_argument("--data", metavar="DATA", help=data)
    parser.add_argument(
        "--pretrained", action="store_true", help="for timm:NAME: load timm's weights; this may download them"
    )


def _tracks_options(parser: argparse.ArgumentParser) -> None:
    def option(name: str, kind: Any, default: Any, what: str, metavar: str | None = None) -> None:
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=f"{what} ({default})")

    videos = "folder of videos or of folders with frames, zip of frames, or one video"
    parser.add_argument("videos", metavar="VIDEOS", help=videos)
    _output(parser, "FOLDER", "folder for table and images; a second call continues", required=True)
    frames = "which images are frames, such as '*.jpg' beside masks (all)"
    parser.add_argument("--frames", default="*", metavar="PATTERN", help=frames)
    trackers = ["flow", "csrt", "kcf"]
    parser.add_argument("--tracker", **one_of(trackers), default="flow", help="how objects are followed (flow)")
    option("--length", number(int), 30, "frames that an object is followed for at a time", "FRAMES")
    option("--step", number(int), 5, "frames from one view to the next", "FRAMES")
    option("--objects", number(int), 2, "most objects at a time", "N")
    option("--agreement", number(float), 0.5, "overlap with the first box after following back; 0: no check")
    option("--size", number(int, 1), 128, "side of the views", "PIXELS")
    option("--margin", number(float, 0, MOST_MARGIN), 0.2, "what a view shows around its box, in sides of the box")


def _without_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits off the arguments of the form `--section.key value` or `--section.key=value`."""
    rest, overrides = [], []
    waiting = list(arguments)
    while waiting:
        one = waiting.pop(0)
        key, equals, _ = one.partition("=")
        if not key.startswith("--") or "." not in key[3:]:
            rest.append(one)
            continue
        overrides.append(one)
        if not equals and waiting and not waiting[0].startswith("--"):
            overrides.append(waiting.pop(0))
    return rest, overrides


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line. `overrides` holds the settings of the recipe as they were typed.

    Raises:
        RecipeError: on the first mistake.
    """
    arguments, overrides = _without_overrides(arguments)
    parser, commands = _parser()
    if not arguments:
        raise RecipeError(f"COMMAND is missing: {', '.join(commands)}; see ssl-inv --help")
    first, options = arguments[0], ["-h", "--help", "--version"]
    if first.startswith("-") and first not in options:
        raise RecipeError(f"{first}: no such option; {suggest(first, options)}")
    if not first.startswith("-") and first not in commands:
        raise RecipeError(f"command: there is no {first!r}; {suggest(first, commands)}")
    try:
        parsed, unknown = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise RecipeError(f"{error.argument_name}: {error.message}" if error.argument_name else error.message) from None
    if unknown:
        if unknown[0].removeprefix("--") in SECTIONS:
            raise RecipeError(f"{unknown[0]}: settings are given one by one, {unknown[0]}.KEY VALUE")
        if unknown[0].startswith("-"):
            known = [name for action in commands[first]._actions for name in action.option_strings]
            raise RecipeError(f"{unknown[0]}: no such option; {suggest(unknown[0], known)}")
        raise RecipeError(f"unexpected argument {unknown[0]!r}; settings are given as --section.key value")
    if overrides and first in _WITHOUT_RECIPE:
        raise RecipeError(f"{overrides[0]}: no such option; {_WITHOUT_RECIPE[first]}")
    parsed.overrides = overrides
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0; 2 for a mistake in the arguments; 1 for a run that failed; 130 for an interrupted one.
    """
    prepare_process()
    try:
        parsed = parse(sys.argv[1:] if arguments is None else arguments)
        parsed.call(parsed)
        sys.stdout.flush()
    except RecipeError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted", 130)
    except BrokenPipeError:
        # Nobody reads our output any more. Without this, Python would complain again when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if (message := _explanation(error)) is None:
            raise
        return _fail(message, 1)
    return 0


def _explanation(error: Exception) -> str | None:
    """One line in place of a traceback; None for errors that need the traceback."""
    if type(error).__module__.startswith("ssl_inv."):
        # From a loader process the message is a traceback whose last line is "package.Class: message".
        last = str(error).strip().splitlines()[-1]
        return last.partition(": ")[2] if "Original Traceback" in str(error) else str(error)
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
