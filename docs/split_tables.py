"""The tables of docs/splits.md, and the sentences on it that have numbers, from docs/results/split-study.json.

The file is made by benchmarks/split_study.py: one entry for each cell and seed.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from benchmark_tables import facts
from tables import number, table

from ssl_inv.run.side_by_side.over_seeds import deviation, mean

Content = Mapping[str, Any]
ALIKE = 2.0
"""Standard errors of a difference over seeds, up to which means are called alike."""

LINEAR, ROTATION = "linear", "rotation"
INVARIANT, EQUIVARIANT = "invariant", "equivariant"

SHARES = {
    **{f"share {share}": f"SIE, {share}" for share in (0.125, 0.25, 0.5, 0.75)},
    "joint, share 0.125": "SimCLR + SIE, 0.125",
    "joint": "SimCLR + SIE, 0.5",
    "joint, share 0.75": "SimCLR + SIE, 0.75",
}
ORDERS = {
    "joint": "both together",
    "invariant alone": "invariant alone",
    "equivariant alone": "equivariant alone",
    "random, held, equivariant": "equivariant, on a random network that is held",
    "random, held, invariant": "invariant, on a random network that is held",
    "random to stage 3, equivariant": "equivariant in stage 4, random before it",
    "random to stage 3, invariant": "invariant in stage 4, random before it",
    "invariant to stage 3, equivariant": "invariant, held to stage 3, then equivariant in stage 4",
    "equivariant to stage 3, invariant": "equivariant, held to stage 3, then invariant in stage 4",
    "invariant 300, held, equivariant 300": "invariant, held, then equivariant",
    "equivariant 300, held, invariant 300": "equivariant, held, then invariant",
    "invariant 150, held, equivariant 150": "invariant, held, then equivariant",
    "equivariant 150, held, invariant 150": "equivariant, held, then invariant",
    "invariant 150, free, equivariant 150": "invariant, then equivariant in all layers",
    "equivariant 150, free, invariant 150": "equivariant, then invariant in all layers",
}
DEPTHS = {
    "joint": "both after stage 4, the equivariant part in the last channels",
    "equivariant first channels": "both after stage 4, the equivariant part in the first channels",
    "equivariant at stage 3": "equivariant after stage 3, invariant after stage 4",
    "equivariant at stage 2": "equivariant after stage 2, invariant after stage 4",
    "invariant at stage 3": "invariant after stage 3, equivariant after stage 4",
}
LAYERS = {"simclr": "SimCLR", "equimod": "EquiMod", "share 0.5": "SIE", "joint": "SimCLR + SIE"}
STAGES = [f"layer {place:02d}" for place in range(5)]
STAGE_NAMES = ["stem", *(f"stage {place}" for place in range(1, 5))]


class Study:
    """The cells of a file.

    Args:
        content: of the file.
    """

    def __init__(self, content: Content) -> None:
        self.content = content
        self._cells: dict[str, list[Content]] = {}
        for one in content["cells"]:
            self._cells.setdefault(one["cell"], []).append(one)

    def __contains__(self, cell: str) -> bool:
        return cell in self._cells

    def seeds(self, cell: str) -> list[int]:
        """The seeds of a cell."""
        return [int(one["seed"]) for one in self._cells.get(cell, ())]

    def values(
        self, cell: str, measure: str, part: str = "", seeds: Collection[int] | None = None
    ) -> tuple[float | None, ...]:
        """A number of every seed, or of some. Parts in the other order are named by what they learn."""
        if cell == "equivariant first channels" and measure in ("pose_leak", "class_leak"):
            return ()  # the protocol takes the first channels for the invariant part
        if cell == "equivariant first channels":
            part = {INVARIANT: EQUIVARIANT, EQUIVARIANT: INVARIANT}.get(part, part)
        key = f"{measure} | {part}" if part else measure
        cells = self._cells.get(cell, ())
        return tuple(one["numbers"].get(key) for one in cells if seeds is None or one["seed"] in seeds)

    def alike(self, measure: str, seeds: int) -> float:
        """How far two means of so many seeds may be apart and are not told from each other.

        The deviation over seeds is that of all cells of several seeds and of all parts: one cell has too few.
        """
        every = [self.values(cell, measure, part) for cell in self._cells for part in ("all", INVARIANT, EQUIVARIANT)]
        known = [one for one in map(deviation, every) if one is not None]
        pooled = math.sqrt(sum(one**2 for one in known) / len(known)) if known else 0.0
        return ALIKE * math.sqrt(2 / seeds) * pooled

    def steps(self, cell: str) -> str:
        """The steps of every phase."""
        return " + ".join(map(str, self._cells[cell][0]["steps"]))

    def stage(self, cell: str, kind: str, measure: str, stage: str) -> tuple[float | None, ...]:
        """A number of every seed after a stage."""
        cells = [one for one in self._cells.get(cell, ()) if "stages" in one]
        return tuple(one["stages"][kind].get(f"{measure} | {stage}") for one in cells)

    @property
    def told(self) -> str:
        """Commit, machine and command."""
        cells = [one for some in self._cells.values() for one in some]
        commits = list(dict.fromkeys(str(one["commit"])[:7] for one in cells))
        known = {key: self.content[key] for key in ("command", "machine")}
        known |= {"seeds": sorted({int(one["seed"]) for one in cells}), "commit": commits[0]}
        if len(commits) > 1:
            known["note"] = f"some cells at commit {', '.join(commits[1:])}"
        return facts(known | {"uncommitted": any("uncommitted" in one for one in cells)})


_HEAD = ["linear, all", "invariant", "equivariant", "R2, all", "invariant", "equivariant", "pose leak", "class leak"]
_COLUMNS = [
    *((measure, part) for measure in (LINEAR, ROTATION) for part in ("all", INVARIANT, EQUIVARIANT)),
    ("pose_leak", ""),
    ("class_leak", ""),
]


def _rows(study: Study, cells: Mapping[str, str], steps: bool = False) -> str:
    head = ["", "seeds", *(["steps"] if steps else []), *_HEAD]
    rows = []
    for cell, heading in cells.items():
        if cell in study:
            numbers = [
                number("/top1" if measure == LINEAR else measure, study.values(cell, measure, part))
                for measure, part in _COLUMNS
            ]
            rows.append([heading, str(len(study.seeds(cell))), *([study.steps(cell)] if steps else []), *numbers])
    return table(head, rows, range(1, len(head)))


def shares(content: Content) -> str:
    """How large the equivariant part is."""
    return _rows(Study(content), SHARES)


def orders(content: Content) -> str:
    """One part after the other."""
    return _rows(Study(content), ORDERS, steps=True)


def depths(content: Content) -> str:
    """Where the parts leave the network."""
    return _rows(Study(content), DEPTHS)


def layers(content: Content) -> str:
    """R2 and linear accuracy after every stage."""
    study, parts = Study(content), []
    for measure, heading in ((ROTATION, "R2 of the rotation"), (LINEAR, "linear, %")):
        rows = []
        for cell, name in LAYERS.items():
            if cell in study:
                rows.append([name, str(len(study.seeds(cell))), *_stages(study, cell, "trained", measure)])
        most = max((cell for cell in LAYERS if cell in study), key=lambda cell: len(study.seeds(cell)))
        rows.append(["untrained", str(len(study.seeds(most))), *_stages(study, most, "untrained", measure)])
        parts.append(table([heading, "seeds", *STAGE_NAMES], rows, range(1, 7)))
    return "\n\n".join(parts)


def _stages(study: Study, cell: str, kind: str, measure: str) -> list[str]:
    name = "/top1" if measure == LINEAR else measure
    return [number(name, study.stage(cell, kind, measure, stage)) for stage in STAGES]


# Sentences.


def findings(content: Content) -> str:
    """What the tables say, as far as their cells are there."""
    study = Study(content)
    found = [line for make in (needs, shared, beginnings, order, size, place, leaving) for line in make(study)]
    return "\n".join(f"- {line}" for line in found) + f"\n\n{_limits(study)}\n\n{study.told}" * bool(found)


def _limits(study: Study) -> str:
    """Up to what difference means are called alike."""
    one, three = (
        f"{100 * study.alike(LINEAR, seeds):.0f} points of linear accuracy and {study.alike(ROTATION, seeds):.2f} of R2"
        for seeds in (1, 3)
    )
    return (
        f"*About as much* says that the difference is not told from chance, not that there is none: up to {one} in "
        f"means of one seed, and {three} of three seeds. The 200 objects that all cells are judged on leave some 3 "
        "points of linear accuracy beside."
    )


class Found(NamedTuple):
    """The mean of a cell.

    Attributes:
        value: the mean over seeds.
        text: with its deviation.
        alike: what another mean of as many seeds may be away and is not told from it.
    """

    value: float
    text: str
    alike: float


def against(first: Found, second: Found) -> str:
    """A comparison in words."""
    if abs(first.value - second.value) <= max(first.alike, second.alike):
        return "about as much as"
    return "more than" if first.value > second.value else "less than"


def _has(*cells: str) -> Callable[[Callable[[Study], list[str]]], Callable[[Study], list[str]]]:
    """No sentences where a cell is missing."""

    def only(make: Callable[[Study], list[str]]) -> Callable[[Study], list[str]]:
        return lambda study: make(study) if all(cell in study for cell in cells) else []

    return only


def _of(study: Study, cells: Sequence[str], measure: str, part: str) -> list[Found]:
    """The mean of every cell over the seeds that all of them have."""
    seeds = set.intersection(*(set(study.seeds(cell)) for cell in cells))
    name, unit = ("/top1", " %") if measure == LINEAR else (measure, "")
    alike = study.alike(measure, len(seeds))
    found = []
    for cell in cells:
        values = study.values(cell, measure, part, seeds)
        centre = mean(values)
        assert centre is not None
        found.append(Found(centre, number(name, values) + unit, alike))
    return found


@_has(
    "joint",
    "invariant alone",
    "equivariant alone",
    *(f"{first} 300, held, {then} 300" for first, then in ((INVARIANT, EQUIVARIANT), (EQUIVARIANT, INVARIANT))),
    *(f"random, held, {then}" for then in (INVARIANT, EQUIVARIANT)),
)
def needs(study: Study) -> list[str]:
    """Does a part need the other one?"""
    lines = []
    for part, other, measure, what in (
        (EQUIVARIANT, INVARIANT, ROTATION, "rotation R2"),
        (INVARIANT, EQUIVARIANT, LINEAR, "linear accuracy"),
    ):
        alone, joint = _of(study, [f"{part} alone", "joint"], measure, part)
        cells = [f"{other} 300, held, {part} 300", f"random, held, {part}", f"{other} alone", f"{part} alone"]
        held, random, before, own = _of(study, cells, measure, part)
        lines.append(
            f"**Does the {part} part need the other?** It has a {what} of {alone.text} alone, and {joint.text} beside "
            f"the {other} part: alone, {against(alone, joint)} beside it. As one layer on a network that only "
            f"the {other} part has trained it has {held.text}. That is {against(held, random)} as one layer on a "
            f"random network, {random.text}, {against(held, before)} the same channels there before they are "
            f"trained, {before.text}, and {against(held, own)} alone, {own.text}."
        )
    return lines


@_has(
    "joint",
    *(f"invariant 150, {way}, equivariant 150" for way in ("held", "free")),
    *(f"equivariant 150, {way}, invariant 150" for way in ("held", "free")),
)
def order(study: Study) -> list[str]:
    """With as many steps in all."""
    lines = []
    for first, then, measure, what in (
        (INVARIANT, EQUIVARIANT, LINEAR, "linear accuracy of the invariant part"),
        (EQUIVARIANT, INVARIANT, ROTATION, "R2 of the equivariant part"),
    ):
        cells = [f"{first} 150, {way}, {then} 150" for way in ("held", "free")]
        held, free, joint = _of(study, [*cells, "joint"], measure, first)
        lines.append(
            f"**{first.capitalize()} first, 300 steps in all.** The {what} is {held.text} where its network is held, "
            f"and {free.text} after the other part has trained all layers: {against(free, held)} before. Both "
            f"together, where each part has all 300 steps and not 150, reach {joint.text}, {against(joint, held)} the "
            "first."
        )
    return lines


@_has("invariant alone", "equivariant alone")
def shared(study: Study) -> list[str]:
    """What channels know that no loss asks for anything."""
    (own,), (other,) = (_of(study, ["equivariant alone"], ROTATION, part) for part in (EQUIVARIANT, INVARIANT))
    (kind,), (beside,) = (_of(study, ["invariant alone"], LINEAR, part) for part in (INVARIANT, EQUIVARIANT))
    return [
        "**The parts share their layers.** Where the equivariant part alone is trained, the channels that no loss asks "
        f"for anything have {100 * other.value / own.value:.0f} % of its R2: {other.text} and {own.text}. Where the "
        f"invariant part alone is trained, they have {100 * beside.value / kind.value:.0f} % of its linear accuracy: "
        f"{beside.text} and {kind.text}. So a leak of that size comes about where no loss asks for it."
    ]


@_has(
    "equivariant alone",
    "invariant alone",
    *(f"{first} to stage 3, {then}" for first, then in ((INVARIANT, EQUIVARIANT), (EQUIVARIANT, INVARIANT))),
    *(f"random to stage 3, {then}" for then in (INVARIANT, EQUIVARIANT)),
)
def beginnings(study: Study) -> list[str]:
    """What the first three stages of a part are good for."""
    lines = []
    for first, then, measure, what in (
        (INVARIANT, EQUIVARIANT, ROTATION, "rotation R2"),
        (EQUIVARIANT, INVARIANT, LINEAR, "linear accuracy"),
    ):
        other, alone = _of(study, [f"{first} to stage 3, {then}", f"{then} alone"], measure, then)
        (random,) = _of(study, [f"random to stage 3, {then}"], measure, then)
        lines.append(
            f"**A stage 4 of its own.** On the first three stages of a network that only the {first} part has trained, "
            f"the {then} part has a {what} of {other.text}, {against(other, alone)} on its own, {alone.text}. On "
            f"random ones it has {random.text}. Each phase has 300 steps."
        )
    return lines


@_has("share 0.125", "share 0.25", "share 0.5", "share 0.75")
def size(study: Study) -> list[str]:
    """How large each part must be."""
    cells = [f"share {share}" for share in (0.125, 0.25, 0.5, 0.75)]
    pose, kind = _of(study, cells, ROTATION, EQUIVARIANT), _of(study, cells, LINEAR, INVARIANT)
    best = max(one.value for one in pose)
    least = next(
        cell.replace("share", "a share of")
        for cell, one in zip(cells, pose, strict=True)
        if one.value >= best - one.alike
    )
    top = max(one.value for one in kind)
    most = next(
        cell.replace("share", "a share of")
        for cell, one in reversed(list(zip(cells, kind, strict=True)))
        if one.value >= top - one.alike
    )
    texts = [", ".join(one.text for one in some) for some in (pose, kind)]
    return [
        f"**Size.** With shares of 0.125, 0.25, 0.5 and 0.75, SIE's equivariant part has an R2 of {texts[0]}: "
        f"{least} cannot be told from the best. Its invariant part has a linear accuracy of {texts[1]}: up to {most} "
        "it cannot be told from its best. A probe has fewer features where a part is smaller."
    ]


@_has("joint", *list(DEPTHS)[1:])
def place(study: Study) -> list[str]:
    """Where the split is made."""
    here, other = _of(study, ["joint", "equivariant first channels"], ROTATION, EQUIVARIANT)
    cells = ["equivariant at stage 3", "equivariant at stage 2"]
    third, second = _of(study, cells, ROTATION, EQUIVARIANT)
    kind = _of(study, ["joint", *cells, "invariant at stage 3"], LINEAR, INVARIANT)
    return [
        f"**Channels.** In the first channels, the equivariant part has an R2 of {other.text}, {against(other, here)} "
        f"in the last, {here.text}. Before training nothing tells channels apart, so the order of the parts can make "
        "no difference.",
        f"**Depth.** An equivariant part after stage 3 has {third.text}, {against(third, here)} after stage 4, and "
        f"after stage 2 {second.text}, {against(second, here)} after stage 4. The linear accuracy of the "
        f"invariant part, which then has twice the channels, is {kind[1].text} and {kind[2].text}, both after stage 4 "
        f"{kind[0].text}; of an invariant part after stage 3 it is {kind[3].text}.",
    ]


@_has(*LAYERS)
def leaving(study: Study) -> list[str]:
    """Where the pose leaves."""
    ways: dict[str, list[str]] = {"lose": [], "gain": []}
    most = max(LAYERS, key=lambda cell: len(study.seeds(cell)))
    for cell, kind, name in (*((one, "trained", LAYERS[one]) for one in LAYERS), (most, "untrained", "random weights")):
        first, last = (study.stage(cell, kind, ROTATION, STAGES[at]) for at in (0, -1))
        before, after = mean(first), mean(last)
        if before is None or after is None:
            return []
        way = "gain" if after > before else "lose"
        ways[way].append(f"{name} {number(ROTATION, first)} and {number(ROTATION, last)}")
    lost, gained = (", ".join(ways[way]) for way in ("lose", "gain"))
    return [
        "**Layers.** By R2 from 16 components, after the stem and at the end. Less at the end: "
        f"{lost or 'none'}. More: {gained or 'none'}. A number without a deviation is of one network."
    ]


ALL: dict[str, Callable[[Content], str]] = {
    "findings": findings,
    "shares": shares,
    "orders": orders,
    "depths": depths,
    "layers": layers,
}
"""What makes each block of the page."""
