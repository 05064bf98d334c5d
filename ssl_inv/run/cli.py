"""The command line: it parses the arguments and refuses mistakes before anything heavy is imported."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from typing import Any, NoReturn, TextIO

from ssl_inv.catalogue import RecipeError, SettingError, suggest
from ssl_inv.engine.cluster import ALONE, Place, place
from ssl_inv.plain import printable
from ssl_inv.run.command_line.data import add_data
from ssl_inv.run.command_line.encoders import add_encoders
from ssl_inv.run.command_line.runs import add_runs
from ssl_inv.run.command_line.search import add_search
from ssl_inv.run.command_line.sharing import add_sharing
from ssl_inv.run.command_line.training import add_training
from ssl_inv.run.command_line.trusted import trust_option, typed_modules
from ssl_inv.run.environment import prepare_process
from ssl_inv.run.recipe import JUDGED, SECTIONS
from ssl_inv.trust import allowing

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
    "data": "--data.key value changes settings of the data, such as --data.labels none.",
    "shard": "--data.key value changes settings of the data, such as --data.exclude '[masks]'.",
    "sweep": "--section.key A,B runs both values, --trainer.seed 0:5 the seeds 0 to 4; all combinations are run. "
    "A value with a comma in it stands in brackets or quotes: '[1,2]' is one list.",
    "neighbours": "--data.key value changes settings of the index's data, such as --data.path after they were moved.",
    "render": "--data.key value changes settings: `ssl-inv recipes sie-rendered --explain` prints those of solids.",
}
"""The epilogs of commands that accept only some sections."""

_WITHOUT_RECIPE = {
    "runs": "runs are chosen by --where KEY=VALUE",
    "compare": "runs are compared as they are; --group takes settings without --",
    "export": "a run is exported with its own recipe",
    "report": "a run is reported with its own recipe",
    "push": "an export is sent as it is",
    "tracks": "tracks are found without a recipe",
}
"""Commands that accept no settings of a recipe, and why."""


_WITHOUT_MODULES = ("runs", "push", "render", "tracks")
"""Commands that build nothing that a recipe names."""


_SHARED = ("pretrain", "evaluate", "embed", "render")
"""Commands that several processes run together."""

_WRITING = ("export", "push", "report", "shard", "tracks")
"""Commands that write what several processes must not write at once."""

_LONGEST = 2000
"""Characters of the longest message. A value of a recipe may be as long as its author likes."""


class _Printable(io.TextIOBase):
    """Standard output for texts that others wrote: control characters are shown and not obeyed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


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
        one.set_defaults(call=call, trust=[])
        if name not in _WITHOUT_MODULES:
            trust_option(one)
        return one

    for add in (add_training, add_runs, add_encoders, add_search, add_sharing, add_data):
        add(command)
    return parser, dict(commands.choices)


def _require_words(arguments: Sequence[str]) -> None:
    """Refuse empty words. As a path, one would be the current folder, and as a setting it would be null."""
    for before, word in zip(("", *arguments), arguments, strict=False):
        name, equals, value = word.partition("=")
        own = word.startswith("--") and bool(equals) and not value.strip()
        if word.strip() and not own:
            continue
        option = name if own else before
        what = f"{option}:" if option.startswith("--") and "=" not in option else "an argument"
        raise RecipeError(f"{what} is empty; is a variable of the shell not set?")


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
    _require_words(arguments)
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
        The exit code: 0; 2 for a mistake in the arguments; 1 for a run that failed; 130 for an interrupted one, or 128
        and the number of the signal.
    """
    prepare_process()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal cannot show is no reason to fail; sys.stderr escapes it already.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        parsed = parse(sys.argv[1:] if arguments is None else arguments)
        with allowing([*parsed.trust, *typed_modules(parsed.overrides)]), redirect_stdout(_Printable(sys.stdout)):
            _require_alone(parsed.command)
            parsed.call(parsed)
        sys.stdout.flush()
    except RecipeError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted", getattr(error, "code", 130))
    except BrokenPipeError:
        # Nobody reads our output any more. Without this, Python would complain again when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if (message := _explanation(error)) is None:
            raise
        return _fail(message, 1)
    return 0


def _require_alone(command: str) -> None:
    """Refuse to run a command in several processes that all write the same."""
    if command not in _WRITING:
        return
    here = place()
    if here.started_outside and (here.processes or 1) > 1:
        if not here.first:
            raise SystemExit(2)
        several = f"{here.launcher} has started {here.processes} processes"
        raise RecipeError(f"{command}: {several}, but only {', '.join(_SHARED[:-1])} and {_SHARED[-1]} are shared")


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
    # numpy raises a `MemoryError`, and torch a RuntimeError whose text tells it.
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        first = (str(error).strip().splitlines() or [""])[0].rpartition("Allocator: ")[2]
        return f"there is not enough memory{first and f' ({first})'}; try a smaller data.size or trainer.batch_size"
    return None


def _fail(message: str, code: int) -> int:
    here = _here()
    # The first process speaks of a signal to all of them, and the first of a machine of the files there.
    if (here.rank > 0 and code not in (1, 2)) or (here.local_rank > 0 and code == 2):
        return code
    line = printable(" ".join(message.split()))
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    sys.stderr.write(f"error: {f'rank {here.rank}: ' * (here.rank > 0)}{line}\n")
    return code


def _here() -> Place:
    try:
        return place()
    except SettingError:
        return ALONE


if __name__ == "__main__":
    sys.exit(main())
