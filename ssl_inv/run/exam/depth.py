"""At which layer something is known best, and from which on it is lost: sentences made from the numbers of a page."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ssl_inv.evaluation.results import Result, StandardError
from ssl_inv.nn.layer_features import depth_of
from ssl_inv.run.exam.examining import Examined
from ssl_inv.run.tables import shown

FOLLOWED = re.compile(r"r2/(relative|absolute)/[^/]+|geodesic/linear/relative/[^/]+/median|(knn|linear|logistic)/top1")
"""The results that sentences are made of: the pose and other parameters first, then the class."""

CAVEAT = "The best layer is chosen on the objects that its number is of, which makes it look a little too good."

_TOKENS = {"all": "mean over positions", "patches": "mean over patches", "class": "class token"}


class Layer(NamedTuple):
    """The result of one layer."""

    number: int
    result: Result


def depth_sentences(found: Mapping[str, Examined]) -> dict[str, list[str]]:
    """Sentences by encoder; empty where no layers were measured."""
    said = {}
    for name, one in found.items():
        curves: dict[tuple[str, str], list[Layer]] = {}
        for row in one.table:
            depth = depth_of(row.trained.part)
            if depth is not None and row.trained.value is not None and FOLLOWED.fullmatch(row.trained.name):
                curves.setdefault((row.trained.name, depth[0]), []).append(Layer(depth[1], row.trained))
        sentences = [
            f"{measure}, {_TOKENS.get(token, token)}: {sentence(sorted(layers), measure.startswith('geodesic'))}"
            for (measure, token), layers in curves.items()
            if len(layers) > 1
        ]
        if sentences:
            said[name] = sentences
    return said


def sentence(layers: Sequence[Layer], smaller: bool = False) -> str:
    """Where the best number is, and from which layer on all are worse by more than chance.

    Args:
        layers: in their order.
        smaller: whether a smaller number is better.
    """
    sign = -1 if smaller else 1
    best = max(layers, key=lambda one: sign * float(one.result.value or 0))
    last = layers[-1]
    told = f"best at layer {best.number} ({_value(best.result)})"
    if best.number == last.number:
        first = layers[0]
        return f"{told}, the last; {_value(first.result)} at layer {first.number}."
    told += f"; {_value(last.result)} at the last, layer {last.number}."
    later = [one for one in layers if one.number > best.number]
    worse = [_worse(one.result, best.result, sign) for one in later]
    if any(one is None for one in worse):
        return told
    if not worse[-1]:
        return f"{told} The last is not worse by more than chance."
    start = next(place for place in range(len(worse)) if all(worse[place:]))
    return f"{told} Worse by more than chance from layer {later[start].number} on."


def _worse(result: Result, best: Result, sign: int) -> bool | None:
    """Whether a number is worse in 97.5 % of the resamples of objects; None if they are not known."""
    one, other = result.spread, best.spread
    if not isinstance(one, StandardError) or not isinstance(other, StandardError) or one.objects != other.objects:
        return None
    if len(one.draws) != len(other.draws):
        return None
    draws = sign * (other.draws - one.draws)
    draws = draws[draws.isfinite()]
    return bool(len(draws)) and float(draws.quantile(0.025)) > 0


def _value(result: Result) -> str:
    spread = "" if result.spread is None else f" ± {shown(float(result.spread))}"
    return f"{shown(float(result.value or 0))}{spread}"
