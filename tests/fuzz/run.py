"""Gives damaged and odd inputs to everything that reads other people's files.

    python tests/fuzz/run.py --inputs 10000 --seed 0

Every input must be read, or refused with the one line that the command line prints. Anything else, such as another kind
of error, some seconds without an end, or gigabytes of memory, is a failure, and its name makes the same input again:

    python tests/fuzz/run.py --seed 0 --only recipes:123
"""

import argparse
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.targets import TARGETS, told_in_one_line

from ssl_inv.catalogue import RecipeError

SECONDS = 20
MEMORY = 8 * 2**30
"""Bounds of one input. The machine may be busy, and the address space is larger than what is used of it."""


class SlowError(Exception):
    """An input took too long."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raise a `SlowError` in a block that takes too long."""

    def late(*_: object) -> None:
        raise SlowError(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def failure(kind: str, number: int, seed: int, place: Path) -> tuple[str, str | None]:
    """What became of an input: `read`, `refused` or `failed`; and the traceback of a failure."""
    folder = place / kind
    folder.mkdir(exist_ok=True)
    try:
        with bounded(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[kind][0](Random(f"{seed}-{kind}-{number}"), folder)
    except RecipeError as error:
        told = told_in_one_line(error)
        return ("refused", None) if told else ("failed", f"no line of text: {str(error)!r}")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "failed", traceback.format_exc()
    return "read", None


def run(inputs: int, seed: int, place: Path) -> tuple[Counter[str], dict[str, str]]:
    """How many inputs of each kind were read and refused, and the tracebacks of failures by the name of the input."""
    counts: Counter[str] = Counter()
    failures = {}
    for kind, (_, share) in TARGETS.items():
        for number in range(max(1, round(inputs * share))):
            state, problem = failure(kind, number, seed, place)
            counts[f"{kind} {state}"] += 1
            if problem is not None:
                failures[f"{kind}:{number}"] = problem
    return counts, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one input")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory() as place:
        if arguments.only:
            kind, _, number = arguments.only.partition(":")
            state, problem = failure(kind, int(number), arguments.seed, Path(place))
            sys.stdout.write(f"{state}\n{problem or ''}")
            return int(problem is not None)
        begun = time.perf_counter()
        counts, failures = run(arguments.inputs, arguments.seed, Path(place))
    for name, problem in failures.items():
        sys.stdout.write(f"{name}\n{problem}\n")
    for what, count in sorted(counts.items()):
        sys.stdout.write(f"{count:7,} {what}\n")
    total = sum(counts.values())
    sys.stdout.write(f"{total:,} inputs in {time.perf_counter() - begun:.0f} s, {len(failures)} failures\n")
    return int(bool(failures))


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
