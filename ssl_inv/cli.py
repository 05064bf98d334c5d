"""The command line: parsing and printing only. Nothing heavy is imported before the arguments are known to be right."""

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

from ssl_inv.recipe import SECTIONS, RecipeError, load_recipe, shipped_recipes

_EPILOG = "Settings of a recipe are changed with --section.key value; `ssl-inv recipes NAME` lists them all."


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with one line."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message and "'" in message:
            given = message.split("'")[1]
            close = get_close_matches(given, _COMMANDS, n=1)
            message = f"no command is called {given!r}; " + (f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_COMMANDS)}")
        raise RecipeError(message)


def _pretrain(arguments: argparse.Namespace) -> None:
    from ssl_inv.commands import pretrain

    pretrain(arguments.recipe, arguments.overrides, arguments.output, arguments.resume, arguments.quiet)


def _evaluate(arguments: argparse.Namespace) -> None:
    from ssl_inv.commands import evaluate

    evaluate(arguments.model, arguments.data, arguments.overrides, arguments.output, arguments.pretrained)


def _embed(arguments: argparse.Namespace) -> None:
    from ssl_inv.commands import embed

    embed(arguments.model, arguments.data, arguments.overrides, arguments.output, arguments.format, arguments.shard_size, arguments.pretrained)


def _export(arguments: argparse.Namespace) -> None:
    from ssl_inv.commands import export

    export(arguments.run, arguments.format, arguments.output)


def _render(arguments: argparse.Namespace) -> None:
    from ssl_inv.commands import render

    render(arguments.output, arguments.overrides, arguments.quality)


def _check(arguments: argparse.Namespace) -> None:
    from ssl_inv.commands import check

    check(arguments.recipe, arguments.overrides)


def _recipes(arguments: argparse.Namespace) -> None:
    if arguments.recipe is not None:
        sys.stdout.write(load_recipe(arguments.recipe, arguments.overrides).dump())
        return
    for name, path in shipped_recipes().items():
        head = [line.lstrip("# ").rstrip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        facts = {key: next((line[len(key) + 1 :].strip() for line in head if line.startswith(f"{key}:")), "") for key in ("time", "score")}
        sys.stdout.write(f"{name}\n  {head[0]}\n" + "".join(f"  {key}: {value}\n" for key, value in facts.items() if value))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ssl-inv", description="Pretrain image encoders that know what is in an image and how it was seen.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser, metavar="COMMAND")

    def command(name: str, run: object, description: str, takes_overrides: bool = True) -> argparse.ArgumentParser:
        epilog = _EPILOG if takes_overrides else None
        one = commands.add_parser(name, help=description, description=f"{description}.", epilog=epilog, allow_abbrev=False)
        one.set_defaults(run=run, takes_overrides=takes_overrides)
        return one

    one = command("pretrain", _pretrain, "pretrain an encoder by a recipe, judge it, export it and write a report")
    one.add_argument("recipe", nargs="?", metavar="RECIPE", help="name of a shipped recipe or path of a recipe file")
    one.add_argument("--output", metavar="FOLDER", help="where the run goes; runs/RECIPE-TIME by default")
    one.add_argument("--resume", metavar="RUN", help="continue the run in this folder, to the same result as if it had not been interrupted")
    one.add_argument("--quiet", action="store_true", help="print warnings and the results only")

    one = command("evaluate", _evaluate, "judge a run, an exported folder or any timm model")
    _model_and_data(one)
    one.add_argument("--output", metavar="FOLDER", help="also write results.json and the features there")

    one = command("embed", _embed, "write the features of every image, with what is known about it")
    _model_and_data(one)
    one.add_argument("--output", metavar="FOLDER", required=True, help="folder for the shards and manifest.json; an interrupted run goes on")
    one.add_argument("--format", choices=["parquet", "npy"], default="parquet")
    one.add_argument("--shard-size", type=int, default=50_000, metavar="ROWS", help="images in a shard (50,000)")

    one = command("export", _export, "write the backbone of a run for other libraries", takes_overrides=False)
    one.add_argument("run", metavar="RUN", help="folder of a run")
    one.add_argument("--format", choices=["timm", "torchvision", "onnx"], default="timm")
    one.add_argument("--output", metavar="PATH", help="folder (timm) or file; inside the run by default")

    one = command("render", _render, "write rendered solids as a data set in the layout of 3DIEBench")
    one.add_argument("output", metavar="FOLDER")
    one.add_argument("--quality", type=int, default=95, help="JPEG quality (95)")

    one = command("recipes", _recipes, "list the shipped recipes, or print one with all its settings")
    one.add_argument("recipe", nargs="?", metavar="RECIPE")

    one = command("check", _check, "check a recipe, build it and run one step; writes nothing")
    one.add_argument("recipe", metavar="RECIPE")
    return parser


def _model_and_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder of a run, exported folder, or timm:NAME")
    parser.add_argument("--data", metavar="DATA", help="recipe whose data to take, folder, zip or CSV; the run's own data by default")
    parser.add_argument("--pretrained", action="store_true", help="for timm:NAME, load timm's weights, which may download them")


_COMMANDS = ("pretrain", "evaluate", "embed", "export", "render", "recipes", "check")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; settings of a recipe are left in `overrides`.

    Raises:
        RecipeError: on the first mistake.
    """
    parser = _parser()
    parsed, rest = parser.parse_known_args(list(arguments))
    if rest and not parsed.takes_overrides:
        raise RecipeError(f"unexpected argument {rest[0]!r}")
    options = [action for one in (parser, *parser._subparsers._group_actions[0].choices.values()) for action in one._option_string_actions]  # type: ignore[union-attr, attr-defined]
    for one in rest:
        if one.startswith("--") and "." not in one.partition("=")[0]:
            close = get_close_matches(one, [*options, *(f"--{section}." for section in SECTIONS)], n=1)
            raise RecipeError(f"{one}: no such option" + (f"; did you mean {close[0]}?" if close else ""))
    parsed.overrides = rest
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 2 for a mistake in what was asked, 1 for a run that failed, 130 when interrupted."""
    try:
        parsed = parse(sys.argv[1:] if arguments is None else arguments)
        parsed.run(parsed)
    except RecipeError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output is gone; Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if type(error).__module__.startswith("ssl_inv."):
            return _fail(str(error), 1)
        raise
    return 0


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
