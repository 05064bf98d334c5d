"""The page docs/exam_results.md: the encoders that benchmarks/exam_encoders.py has trained, side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exam_cells import Cell
from exam_findings import findings, over_seeds
from tables import escaped, sentence, table

from ssl_inv.run.side_by_side.over_seeds import deviation, mean

POSES_ALONE = ("sie-quaternion", "frontier", "frontier-equimod", "frontier-split")
"""Those whose recipe needs recorded rotations."""

ENCODERS = (
    "untrained",
    "supervised",
    "simclr",
    "vicreg",
    "sie",
    "sie-quaternion",
    "seq-jepa",
    "equimod",
    "ec-reconstruction",
    "obow",
    "obow-sie",
    "frontier",
    "frontier-equimod",
    "frontier-split",
)
"""The rows, whether they have been run or not."""

DATA = {"solids": "Rendered solids", "cifar10": "CIFAR-10", "grocery": "Grocery Store"}
USUAL = ("linear", "R2 rotation", "R2 crop")
"""The headings of what papers report: of the pose where there is one, else of the crop."""

SEEDS = 3
"""As many seeds as the tables are meant to have."""


@dataclass(frozen=True)
class Column:
    """A number of every encoder.

    Attributes:
        heading: of the column.
        name: of the result.
        part: of the features; `any` is the first that has a result. All features are the default: encoders with two
            parts are then as wide as others.
        factor: multiplies the number.
        digits: behind the point.
        above: whether the number with shuffled targets is subtracted.
    """

    heading: str
    name: str
    part: str = "all"
    factor: float = 1.0
    digits: int = 2
    above: bool = False

    def key(self, cell: Cell) -> str | None:
        """The result of a cell."""
        parts = _parts(cell, self.name) if self.part == "any" else [self.part]
        keys = (f"{self.name} | {part}" for part in parts)
        return next((key for key in keys if key in cell["results"]), None)

    @property
    def protocol(self) -> str:
        """The protocol that gives it."""
        first = self.name.partition("/")[0]
        return _PROTOCOLS.get(first, first)

    def numbers(self, cells: Sequence[Cell]) -> list[tuple[float, float | None]]:
        """The value and its standard error, of each seed that has one."""
        keys = [(cell, key) for cell in cells if (key := self.key(cell)) is not None]
        found = [
            (*cell["results"][key], cell["shuffled"].get(key, math.nan) if self.above else 0) for cell, key in keys
        ]
        return [(value - zero, spread) for value, spread, zero in found if math.isfinite(value - zero)]

    def shown(self, value: float, spread: float | None, brackets: bool = False) -> str:
        """A number with what it may be off by."""
        text = f"{self.factor * value:.{self.digits}f}"
        if spread is None or not math.isfinite(spread):
            return text
        around = f"{self.factor * spread:.{self.digits}f}"
        return f"{text} ({around})" if brackets else f"{text} ± {around}"


_PROTOCOLS = {
    "r2": "transforms_r2",
    "group": "group_action",
    "lee": "lie_derivative",
    "eq_t": "lie_derivative",
    "eq_r": "lie_derivative",
    "shift": "shift_consistency",
    "shift_chosen": "shift_consistency",
    "uniformity": "alignment",
    "dimension": "intrinsic_dimension",
    "collapse": "neural_collapse",
    "unseen": "unseen_classes",
}
"""The protocol of results, by the first word of their names, where that is not its name."""


def _parts(cell: Cell, name: str) -> list[str]:
    split = (key.split(" | ") for key in cell["results"])
    return [part for one, part in split if one == name]


def percent(heading: str, name: str, part: str = "all") -> Column:
    """A share, in percent."""
    return Column(heading, name, part, 100, 1)


TABLES = {
    "What is in an image": [
        percent("linear", "linear/top1"),
        percent("logistic", "logistic/top1"),
        percent("kNN", "knn/top1"),
        percent("1 % of labels", "few_labels/1%/linear"),
        percent("10 % of labels", "few_labels/10%/linear"),
        percent("1-shot", "few_shot/1-shot"),
        percent("5-shot", "few_shot/5-shot"),
        percent("kNN, all views of an object right", "worst_view/knn/worst_case"),
    ],
    "How it was seen": [
        Column("R2 rotation", "r2/relative/rotation"),
        Column("R2 rotation, equivariant part", "r2/relative/rotation", "equivariant"),
        Column("R2 rotation, invariant part", "r2/relative/rotation", "invariant"),
        Column("R2 hue of the floor", "r2/relative/floor_hue"),
        Column("R2 hue of the light", "r2/relative/light_hue"),
        Column("R2 crop", "r2/relative/crop"),
        Column("R2 crop, equivariant part", "r2/relative/crop", "equivariant"),
        Column("R2 crop, invariant part", "r2/relative/crop", "invariant"),
        Column("R2 brightness", "r2/relative/brightness"),
        Column("R2 hue", "r2/relative/hue"),
        Column("median error of the rotation, degrees", "geodesic/mlp/relative/rotation/median", digits=1),
        Column("the same, predicted linearly", "geodesic/linear/relative/rotation/median", digits=1),
        percent("MRR of the predicted view", "retrieval/val-val/mrr", "any"),
        Column("MRR above that with shuffled targets", "retrieval/val-val/mrr", "any", 100, 1, above=True),
        Column("separation of the parts, linear", "leakage/linear/separation", "split"),
        Column("separation of the parts, MLP", "leakage/mlp/separation", "split"),
    ],
    "Whether it holds elsewhere": [
        Column("R2 rotation, classes of the fit", "unseen/r2/relative/rotation/seen"),
        Column("R2 rotation, other classes", "unseen/r2/relative/rotation/unseen"),
        percent("retrieval, classes of the fit", "unseen/retrieval/learnt/seen"),
        percent("retrieval, other classes", "unseen/retrieval/learnt/unseen"),
        percent("errors, clean", "corruptions/clean"),
        percent("more of them when corrupted", "corruptions/relative"),
        percent("attentive probe", "token_heads/attentive/top1"),
        percent("fine-tuned for 30 steps", "fine_tuning/top1"),
        percent("patches found after a homography", "correspondence/homography/recall"),
        percent("patches found from 30 to 60 degrees away", "correspondence_3d/30-60/recall"),
        percent("mIoU of regions", "dense/linear/regions/miou"),
    ],
    "Whether features obey the group": [
        Column("R2 of a linear map", "group/linear/r2"),
        Column("R2 of a linear map, above shuffled actions", "group/linear/r2", above=True),
        Column("R2 of its own predictor", "group/predictor/r2", "any"),
        Column("error of composition, less that with shuffled actions", "group/linear/composition", above=True),
        Column("error of the inverse, less that with shuffled actions", "group/linear/inverse", above=True),
        Column("spread of the maps", "group/linear/spread"),
        Column("R2 of an orthogonal map, above shuffled actions", "group/orthogonal/r2", above=True),
        Column("object's own frame, R2 of the translation", "frames/object/r2"),
        Column("last frame, R2 of the translation", "frames/last/r2"),
    ],
    "What happens when an image moves a little": [
        Column("LEE of vectors, shift", "lee/vector/translation_x"),
        Column("LEE of vectors, hue", "lee/vector/hue"),
        Column("EQ-T, dB", "eq_t", digits=1),
        Column("EQ-R, dB", "eq_r", digits=1),
        percent("same class after 1 pixel", "shift/1/consistency"),
        percent("after 8 pixels", "shift/8/consistency"),
        percent("after 1 pixel, crop chosen", "shift_chosen/1/consistency"),
        Column("sensitivity to rotation", "sensitivity/rotate"),
        Column("sensitivity to hue", "sensitivity/hue"),
    ],
    "What the features look like, without a probe": [
        Column("RankMe", "spectrum/rankme", digits=1),
        Column("LiDAR", "lidar", digits=1),
        Column("LiDAR above the noise", "lidar/above_noise", digits=1),
        Column("alignment", "alignment"),
        Column("uniformity", "uniformity"),
        Column("CLID, learnability", "clid/learnability"),
        Column("CLID, dimension", "clid/dimension", digits=1),
        Column("dimension of content, TwoNN", "dimension/content/two_nn", digits=1),
        Column("dimension of pose, TwoNN", "dimension/pose/two_nn", digits=1),
        Column("NC1 of classes", "collapse/classes/nc1"),
        Column("NC1 of objects", "collapse/objects/nc1"),
    ],
    "Beside the supervised encoder": [
        Column("CKA", "cka/second/all"),
        percent("head on relative features", "stitching/own"),
        percent("the same head on the supervised features", "stitching/cross"),
        percent("rank-1 retrieval, own gallery", "compatibility/cmc1/new/new"),
        percent("rank-1 retrieval, supervised gallery, orthogonal map", "compatibility/cmc1/orthogonal/old"),
    ],
}
"""The columns of every table. One that no encoder has a number in is left out, and the page says so."""

_MADE = "<!-- Made by `make docs` from docs/exam. Change that by benchmarks/exam_encoders.py. -->"

OPENING = """\
Encoders that were trained here on one small budget, each examined by the protocols of `ssl-inv evaluate` that its data
allow. All have the same network and images, and see the same number of objects a step for the same number of steps.
Objective and optimiser are those of the shipped recipes, but for what 32 pixels and images without poses ask for
(`sections` in `benchmarks/exam_encoders.py`). On solids all see plain views but `obow` and `obow-sie`, which see their
crops and colours. Of an object, a step takes two views for most, three for `frontier`, four for `seq-jepa` and
`ec-reconstruction`, five for `frontier-split` and `obow-sie`, eight for `obow`: so objectives differ in images and
time. The budget is minutes on one thread of a CPU: it shows what each protocol tells apart, and is no ranking of
methods at their best. How protocols are defined, and what each orders wrongly, stands in their docstrings.

`supervised` is told the classes of the training objects, on which probes are fitted too. `untrained` has random
weights. `sie-quaternion` is SIE whose predictor begins as rotations, which its docstring advises for short runs.
Numbers are of all features, so that encoders with two parts are as wide as others, if a heading does not name a part.
Mean ± standard deviation over seeds; where there is one seed, the standard error over validation objects stands in
brackets, if it is known. A number behind a mean is of how many seeds, where not all have it. A dash is a number that
the protocol does not give for this encoder; *not run* is a protocol that it was not measured by. With one seed,
differences between encoders are those of two trained networks, not of two methods."""


def page(cells: Sequence[Cell]) -> str:
    """The page."""
    parts = [_MADE, "# Encoders in the exam", OPENING]
    for data, name in DATA.items():
        own = [cell for cell in cells if cell["data"] == data]
        if own:
            parts += [f"## {name}", *_of_data(own)]
    lacking = [name for data, name in DATA.items() if data != "grocery" and not any(c["data"] == data for c in cells)]
    if lacking:
        parts.append(f"Not run yet: {', '.join(lacking)}.")
    return "\n\n".join([*parts, _HOW]) + "\n"


_HOW = """\
## How to add to it

`python benchmarks/exam_encoders.py runs/exam --data solids --seeds 0 1 2` trains and examines what `docs/exam` lacks,
and goes on where it was stopped; for CIFAR-10 it is `--data cifar10 --images cifar10_jpeg.zip`. `make docs` writes this
page."""


def _of_data(cells: Sequence[Cell]) -> list[str]:
    names = [one for one in ENCODERS if one not in POSES_ALONE or cells[0]["data"] == "solids"]
    by_encoder = {one: [cell for cell in cells if cell["encoder"] == one] for one in names}
    shown = [_facts(cells), _missing(by_encoder)]
    left_out: list[str] = []
    for title, columns in TABLES.items():
        known = [column for column in columns if any(column.numbers(one) for one in by_encoder.values())]
        left_out += [column.heading for column in columns if column not in known]
        if known:
            shown += [f"### {title}", _table(by_encoder, known)]
    shown += ["### What it says beside linear accuracy and R2", _findings(by_encoder)]
    shown.append(_unmeasured(cells, left_out))
    return [*shown, "### What a cell took", _costs(by_encoder)]


def _findings(by_encoder: Mapping[str, Sequence[Cell]]) -> str:
    every = [column for columns in TABLES.values() for column in columns]
    # Of what shuffled targets leave as well, only the rest tells encoders apart.
    above = {column.name for column in every if column.above}
    columns = {column.heading: column for column in every if column.above or column.name not in above}
    trained = {name: cells for name, cells in by_encoder.items() if len(cells) > 1 and name != "untrained"}
    numbers = {
        heading: {name: over_seeds(found) for name, cells in trained.items() if (found := column.numbers(cells))}
        for heading, column in columns.items()
    }
    random = {heading: column.numbers(by_encoder["untrained"]) for heading, column in columns.items()}
    return findings(
        {heading: one for heading, one in numbers.items() if one},
        {heading: over_seeds(one) for heading, one in random.items() if one},
        USUAL,
        lambda heading, number: columns[heading].shown(number[0], None),
    )


def _facts(cells: Sequence[Cell]) -> str:
    first = cells[0]
    budget, versions = first["budget"], first["versions"]
    commits = sorted({str(cell["versions"].get("commit", "unknown"))[:7] for cell in cells})
    threads = sorted({cell["threads"] for cell in cells})
    dates = sorted(cell["date"][:10] for cell in cells)
    channels = first["recipe"]["backbone"]["arguments"]["channels"]
    what = "objects in all, within 45 degrees," if first["data"] == "solids" else "training images of a class,"
    return (
        f"{budget['objects']:,} {what} 32 pixels, resnet18 with widths {channels}, {budget['steps']} steps of "
        f"{budget['batch']} objects; probes on {budget['examined']} training objects with {budget['views']} views. "
        f"Commit {', '.join(commits)}, torch {versions['torch']}, {first['machine']}, "
        f"{', '.join(map(str, threads))} thread, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}."
    )


def _missing(by_encoder: Mapping[str, Sequence[Cell]]) -> str:
    seeds = {name: sorted(cell["seed"] for cell in cells) for name, cells in by_encoder.items()}
    none = [f"`{name}`" for name, one in seeds.items() if not one]
    few = [f"`{name}` {len(one)} of {SEEDS}" for name, one in seeds.items() if one and len(one) < SEEDS]
    lines = [f"**Not run yet**: {', '.join(none)}."] if none else []
    lines += [f"**Fewer seeds than {SEEDS}**: {', '.join(few)}."] if few else []
    every = [cell for cells in by_encoder.values() for cell in cells]
    asked = dict.fromkeys(one for cell in every for one in cell["protocols"])
    short = {one: sum(one in cell["protocols"] for cell in every) for one in asked}
    partly = [f"`{one}` {count} of {len(every)} cells" for one, count in short.items() if count < len(every)]
    lines += [f"**Protocols that not all cells were measured by**: {', '.join(partly)}."] if partly else []
    return "\n\n".join(lines) or f"All encoders have {SEEDS} seeds or more."


def _table(by_encoder: Mapping[str, Sequence[Cell]], columns: Sequence[Column]) -> str:
    rows = []
    for name, cells in by_encoder.items():
        if not cells:
            rows.append([f"`{name}`", "0", *("not run" for _ in columns)])
            continue
        rows.append([f"`{name}`", str(len(cells)), *(_cell(column, cells) for column in columns)])
    chance = by_encoder["supervised"]
    rows.append(["shuffled targets, `supervised`", str(len(chance)), *(_chance(one, chance) for one in columns)])
    return table(["encoder", "seeds", *(column.heading for column in columns)], rows, range(1, len(columns) + 2))


def _cell(column: Column, cells: Sequence[Cell]) -> str:
    numbers = column.numbers(cells)
    if not numbers:
        return "-" if any(column.protocol in cell["protocols"] for cell in cells) else "not run"
    if len(numbers) == 1:
        return column.shown(*numbers[0], brackets=True)
    values = tuple(value for value, _ in numbers)
    centre = mean(values)
    assert centre is not None
    return column.shown(centre, deviation(values)) + (f" ({len(values)})" if len(values) < len(cells) else "")


def _chance(column: Column, cells: Sequence[Cell]) -> str:
    keys = [(cell, key) for cell in cells if (key := column.key(cell)) is not None and key in cell["shuffled"]]
    if column.above:
        return "0"
    values = tuple(cell["shuffled"][key] for cell, key in keys if math.isfinite(cell["shuffled"][key]))
    centre = mean(values) if values else None
    return "-" if centre is None else column.shown(centre, None)


_MAPS = (
    "- `lee/map`: the maps of this network have 2 x 2 cells, on which it says nothing: even the best maps have 1.00. "
    "Cells that were measured before this was known have such numbers, which are not shown."
)


def _unmeasured(cells: Sequence[Cell], left_out: Sequence[str]) -> str:
    reasons: dict[tuple[str, str], set[str]] = {}
    for cell in cells:
        # A protocol that measured nothing of an encoder gives its reason under its own name.
        own = {key.split(" | ")[0]: why for key, why in cell["lacking"].items() if "/" not in key}
        for name, why in {**cell["skipped"], **own}.items():
            reasons.setdefault((name, why), set()).add(cell["encoder"])
    every = {cell["encoder"] for cell in cells}
    lines = [
        f"- `{name}`: {escaped(why)} ({'all encoders' if who == every else _some(who)})"
        for (name, why), who in sorted(reasons.items())
    ]
    lines.append(_MAPS)
    if left_out:
        lines.append(f"- Columns that no encoder has a number in are left out: *{'*; *'.join(left_out)}*.")
    return "\n".join(["### Not measured", "", *lines])


def _some(encoders: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in ENCODERS if name in encoders)


def _costs(by_encoder: Mapping[str, Sequence[Cell]]) -> str:
    rows = []
    protocols: dict[str, list[float]] = {}
    for name, cells in by_encoder.items():
        trained = tuple(cell["training"]["cpu_seconds"] for cell in cells if "cpu_seconds" in cell["training"])
        exams = tuple(sum(cost[0] for cost in cell["costs"].values()) for cell in cells if cell["costs"])
        if exams:
            own = f"{mean(trained):.0f}" if trained else "-"
            rows.append([f"`{name}`", own, f"{mean(exams):.0f}"])
        for cell in cells:
            for protocol, cost in cell["costs"].items():
                protocols.setdefault(protocol, []).append(cost[0])
    made = table(["encoder", "training, s of CPU", "exam, s"], rows, range(1, 3))
    longest = sorted(protocols, key=lambda one: -sum(protocols[one]) / len(protocols[one]))[:5]
    each = ", ".join(f"`{one}` {sum(protocols[one]) / len(protocols[one]):.1f} s" for one in longest)
    words = "an exam measures the encoder, its untrained self and shuffled targets; the longest protocols on average:"
    return f"{made}\n\n{sentence(words)} {each}."
