"""All protocols on one encoder, each number beside the number of an untrained encoder and of shuffled targets."""

from collections.abc import Callable, Mapping
from functools import partial

from ssl_inv.catalogue import PROTOCOLS
from ssl_inv.evaluation import protocols
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.results import Comparison, Result, compare

Protocols = Mapping[str, Protocol]
"""Protocols by name, in the order of their results."""

KINDS: dict[str, type[Protocol]] = {name: PROTOCOLS.find(name).load() for name in protocols.PROTOCOLS}
"""The classes of all protocols by name."""

FULL: Protocols = {name: KINDS[name]() for name in protocols.STANDING}
"""The protocols that every evaluation runs, with the published settings, made for a GPU."""

QUICK: Protocols = {name: KINDS[name].quick() for name in protocols.STANDING}
"""Smaller probes, trained for fewer steps: seconds on a CPU for some thousand objects. Not comparable with published
numbers.
"""


def skipped(encoded: Encoded, protocols: Protocols = QUICK) -> dict[str, str]:
    """The protocols that need something that is missing, with the reasons."""
    return {name: reason for name, protocol in protocols.items() if (reason := protocol.lacks(encoded)) is not None}


def evaluate(
    encoded: Encoded, protocols: Protocols = QUICK, begins: Callable[[str], None] = lambda protocol: None
) -> list[Result]:
    """The results of every protocol that is not `skipped`. Where the data do not allow a measurement, a result without
    a value says why.

    Args:
        encoded: the encoder under test.
        protocols: what is measured and how.
        begins: called with the name of every protocol before it runs.

    Raises:
        ValueError: if a protocol refuses the data, such as labels that differ between views of one object.
    """
    results: list[Result] = []
    for name, protocol in protocols.items():
        if protocol.lacks(encoded) is None:
            begins(name)
            results += protocol.run(encoded)
    return results


def evaluate_with_baselines(
    trained: Encoded,
    untrained: Encoded | None,
    protocols: Protocols = QUICK,
    references: dict[tuple[str, str], float] | None = None,
    seed: int = 0,
    begins: Callable[[str, str], None] = lambda round_name, protocol: None,
) -> list[Comparison]:
    """`evaluate`, and for every number the baselines: an untrained encoder, and shuffled training targets.

    Args:
        trained: the encoder under test.
        untrained: the same architecture with random weights, on the same views; None leaves this baseline out.
        protocols: what is measured and how.
        references: published numbers by (name, part).
        seed: decides how targets are shuffled.
        begins: called before every protocol runs, with `shuffled`, `untrained` or `trained`, and its name.

    Raises:
        ValueError: as `evaluate`; or if a reference belongs to no result.
    """
    table = [
        row
        for name in protocols
        if protocols[name].lacks(trained) is None
        for row in measured(name, protocols[name], trained, untrained, seed, begins)
    ]
    return compare([row.trained for row in table], *_baselines(table), references)


def measured(
    name: str,
    protocol: Protocol,
    trained: Encoded,
    untrained: Encoded | None,
    seed: int = 0,
    begins: Callable[[str, str], None] = lambda round_name, protocol: None,
) -> list[Comparison]:
    """One protocol's results with their baselines; see `evaluate_with_baselines`."""
    begins("shuffled", name)
    shuffled = list(protocol.shuffled(trained, seed))
    alone = {name: protocol}
    baseline = [] if untrained is None else evaluate(untrained, alone, partial(begins, "untrained"))
    return compare(evaluate(trained, alone, partial(begins, "trained")), baseline, shuffled)


def _baselines(table: list[Comparison]) -> tuple[list[Result], list[Result]]:
    untrained = [row.untrained for row in table if row.untrained is not None]
    return untrained, [row.shuffled for row in table if row.shuffled is not None]
