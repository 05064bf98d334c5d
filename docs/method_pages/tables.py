"""The tables of the pages: what was measured here, and what papers report."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature

from method_pages.costs import measured_costs
from method_pages.markup import escaped, folded, sentence, table
from method_pages.published import Papers
from method_pages.published import Row as PublishedRow
from method_pages.recorded import Record, Row, Values, comparable, deviation, mean
from ssl_inv.run.plain_yaml import dump_value
from ssl_inv.run.recipe import load_recipe, section_schema, shipped_recipes

LEAST_METHODS = 3
"""How many methods of one source and data set make a table of the overview."""

_EQUAL_TERMS = ("data", "backbone", "normalization", "trainer", "evaluation")
_MAIN = ("linear/top1", "knn/top1", "retrieval/val-val/mrr", "retrieval/val-val/hit@1")
_ROTATION = "r2/relative/rotation"
_HUES = ("r2/relative/floor_hue", "r2/relative/light_hue")
_PARTS = ("all", "invariant", "equivariant")
_SAY_MUCH = ("size", "angle_range")
_APART = ("aggregate", "paths")
"""Further questions, which change nothing of what the others find."""
_COSTS = ("step of 16, ms", "step of 16, MB")


def measured(record: Record) -> str:
    """What a record says of how it was made, its main rows, and all rows folded away."""
    head = ["measured", "part of the features", "trained", "untrained", "shuffled targets"]
    told = record.settings["objective"].get("parameters", [""])
    names = (*_MAIN, *(f"r2/relative/{parameter}" for parameter in told))
    main = table(head, (_cells(row)[:-1] for row in record.rows if row.name.startswith(names)), range(2, 5))
    everything = table([*head, ""], map(_cells, record.rows), range(2, 5))
    return "\n\n".join((circumstances(record), main, folded(f"All {len(record.rows)} measurements", everything)))


def circumstances(record: Record) -> str:
    """Seeds, commit, machine, time, and what the runs had otherwise than the recipe has it today."""
    seeds = f"seed{'s' * (len(record.seeds) > 1)} {', '.join(map(str, record.seeds))}"
    if len(record.seeds) > 1:
        seeds += ", mean ± standard deviation over them"
    seconds = mean(tuple(one for one in record.seconds if one is not None))
    facts = [seeds, _commits(record), record.machine, *([] if seconds is None else [f"{seconds / 60:.0f} min a run"])]
    changed = departures(record)
    return (
        sentence("; ".join(facts))
        + (f". Otherwise than the recipe today: {', '.join(changed)}" if changed else "")
        + "."
    )


def _commits(record: Record) -> str:
    """The version of the code, or those of each seed."""
    seeds: dict[str, list[str]] = {}
    for commit, seed in zip(record.commits, record.seeds, strict=True):
        seeds.setdefault(commit[:7], []).append(str(seed))
    if len(seeds) == 1:
        return f"commit {next(iter(seeds))}"
    return "commits " + ", ".join(
        f"{commit} (seed{'s' * (len(which) > 1)} {', '.join(which)})" for commit, which in seeds.items()
    )


def departures(record: Record) -> list[str]:
    """The settings of a record's runs that the recipe has otherwise today, or that there is no such recipe any more."""
    if record.recipe not in shipped_recipes():
        return [f"there is no recipe `{record.recipe}`"]
    today = comparable(load_recipe(record.recipe))
    return [
        f"`{section}.{key}: {dump_value(value)}`"
        for section, values in record.complete_settings.items()
        for key, value in values.items()
        if today.get(section, {}).get(key) != value
    ]


def _cells(row: Row) -> list[str]:
    values = [number(row.name, row.trained), number(row.name, row.untrained), number(row.name, row.shuffled)]
    return [f"`{row.name}`{', %' if _is_share(row.name) else ''}", row.part, *values, escaped(row.detail)]


def _is_share(name: str) -> bool:
    return name.endswith(("/top1", "/top5"))


def number(name: str, values: Values) -> str:
    """The mean over runs, with its standard deviation where there are several; accuracies in per cent."""
    centre, spread = mean(values), deviation(values)
    if centre is None:
        return ""
    factor, digits = (100, 1) if _is_share(name) else (1, 1 if abs(centre) >= 100 else 3)
    return f"{factor * centre:.{digits}f}" + ("" if spread is None else f" ± {factor * spread:.{digits}f}")


def on_equal_terms(records: Iterable[Record]) -> list[list[Record]]:
    """The records in groups that had the same data, network, budget and evaluation, those of most objectives first."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        shared = {
            section: dict(settings) for section, settings in record.complete_settings.items() if section in _EQUAL_TERMS
        }
        # These only add measurements, on several views at once, to those that all have.
        for setting in _APART:
            shared["evaluation"].pop(setting, None)
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(record)
    return sorted(groups.values(), key=lambda group: (-len({record.objective for record in group}), group[0].name))


def terms(group: Sequence[Record]) -> str:
    """Data, network and budget of a group in words."""
    settings = group[0].complete_settings
    data, trainer = settings["data"], settings["trainer"]
    length = f"{trainer['steps']:,} steps" if trainer.get("steps") else f"{trainer['epochs']:,} epochs"
    where = f"{data['name']} ({data['path']})" if data.get("path") else str(data["name"])
    return f"{where}, {settings['backbone']['name']}, {length} of {trainer['batch_size']:,}, {settings['evaluation']['protocol']} protocol"


@dataclass(frozen=True)
class _Column:
    """A column of a comparison: a measurement on a part of the features, or the mean of several."""

    heading: str
    names: tuple[str, ...]
    part: str

    def number(self, record: Record, kind: str = "trained") -> str:
        """What a record has for it, or nothing where it lacks one."""
        found = [row for name in self.names if (row := record.find(name, self.part)) is not None]
        if len(found) < len(self.names):
            return ""
        return number(
            self.names[0], tuple(mean(values) for values in zip(*(getattr(row, kind) for row in found), strict=True))
        )


def chosen(group: Sequence[Record]) -> str:
    """How hard the data of a group are, which network learnt and on what it was judged: settings that are no defaults,
    and some more.
    """
    found = []
    for section in ("data", "backbone", "evaluation"):
        settings = group[0].complete_settings[section]
        known = signature(section_schema(section, settings["name"] if section == "data" else None)).parameters
        said = {
            name: value
            for name, value in settings.items()
            if name in known and name not in _APART and (name in _SAY_MUCH or value != known[name].default)
        }
        found += [f"`{section}.{name}: {dump_value(value)}`" for name, value in said.items() if name != "name"]
    return ", ".join(found)


def side_by_side(group: Sequence[Record], link: Callable[[str], str]) -> str:
    """One row a record and one of the untrained network, with the measurements that say most; the best at the question
    asked come first.
    """
    ordered = sorted(group, key=_rank)
    names = list(dict.fromkeys(row.name for record in group for row in record.rows))
    relative = [name for name in names if name.startswith("r2/relative/")]
    asked = [_ROTATION] if _ROTATION in relative else relative
    columns = [
        _Column("linear top-1, %", ("linear/top1",), "all"),
        _Column("kNN top-1, %", ("knn/top1",), "all"),
        *(
            _Column(f"R2 {name.removeprefix('r2/relative/')}, {part}", (name,), part)
            for name in asked
            for part in _PARTS
        ),
        *([_Column("R2 hues, all", _HUES, "all")] if set(_HUES) <= set(relative) else []),
        _Column("MRR", ("retrieval/val-val/mrr",), "prediction space"),
        _Column("H@1", ("retrieval/val-val/hit@1",), "prediction space"),
    ]
    known = {cost["recipe"]: (f"{cost['step_ms']:.0f}", f"{cost['step_mb']:.0f}") for cost in measured_costs()}
    costs = {
        record.name: known[record.recipe] for record in group if record.recipe in known and _trains_as_today(record)
    }
    main = _comparison(ordered, columns, link, costs)
    parts = dict.fromkeys(row.part for record in ordered for row in record.rows if row.part.endswith(" views"))
    several = [_Column("one view", ("linear/top1",), "all"), *(_Column(part, ("linear/top1",), part) for part in parts)]
    looking = [record for record in ordered if any(row.part in parts for row in record.rows)]
    more = (
        [f"Linear top-1, %, of several views of an object at once:\n\n{_comparison(looking, several, link)}"]
        if looking
        else []
    )
    return "\n\n".join((main, *more))


def _comparison(
    records: Sequence[Record],
    columns: Sequence[_Column],
    link: Callable[[str], str],
    costs: Mapping[str, tuple[str, str]] | None = None,
) -> str:
    """A row a record, with the columns that any of them has a number for, and what a step costs by the name of the
    record.
    """
    shown = [column for column in columns if any(map(column.number, records))]
    rows = [
        [
            link(record.objective),
            _recipe(record, records),
            str(len(record.seeds)),
            *(column.number(record) for column in shown),
            *(costs.get(record.name, ("", "")) if costs else ()),
        ]
        for record in records
    ]
    untrained = [
        next(filter(None, (column.number(record, "untrained") for record in best_known(records))), "")
        for column in shown
    ]
    head = ["objective", "recipe", "seeds", *(column.heading for column in shown), *(_COSTS if costs else ())]
    rows.append(["untrained", "", "", *untrained, *([""] * len(_COSTS) if costs else ())])
    return table(head, rows, range(2, len(head)))


def best_known(records: Iterable[Record]) -> list[Record]:
    """Records of most seeds first."""
    return sorted(records, key=lambda one: (-len(one.seeds), one.name))


def is_plain(record: Record) -> bool:
    """Whether a record is of the recipe that has the name of its objective and its data, and not of a variant."""
    return record.name == f"{record.objective}-{record.settings['data']['name']}"


def _recipe(record: Record, records: Sequence[Record]) -> str:
    """A link to the recipe, and where several records began with it what this one's objective has otherwise."""
    several = sum(one.recipe == record.recipe for one in records) > 1
    otherwise = [one for one in departures(record) if one.startswith("`objective.")] if several else []
    return ", ".join([f"[`{record.recipe}`](../../recipes/{record.recipe}.yaml)", *otherwise])


def _trains_as_today(record: Record) -> bool:
    """Whether objective and network are those of the recipe, by which the cost of a step was measured."""
    return not any(one.startswith(("`objective.", "`backbone.")) for one in departures(record))


def _rank(record: Record) -> tuple[float, str]:
    """Best first: by the R2 of the rotation where it was measured, else by classes."""
    row = _rotation(record) or record.find("linear/top1", "all")
    return (-(mean(row.trained) or 0.0) if row else 1.0, record.name)


def _rotation(record: Record) -> Row | None:
    return record.find(_ROTATION, "equivariant") or record.find(_ROTATION, "all")


def headline(record: Record) -> tuple[str, str] | None:
    """The numbers of the overview: linear top-1, and R2 of the relative rotation on the part that is meant to know it."""
    classes, rotation = record.find("linear/top1", "all"), _rotation(record)
    if classes is None or rotation is None:
        return None
    return number(classes.name, classes.trained), number(rotation.name, rotation.trained)


def published(papers: Papers, rows: Sequence[PublishedRow], link: Callable[[str], str] | None = None) -> str:
    """Rows of one source; measures that are defined differently are never in one column.

    Args:
        papers: what the rows are from.
        rows: of one method, or of one data set.
        link: what to call a method, by its key. Without it the rows are of one method, and the first column is the data
            set.
    """
    measures = [key for key in papers.measures if any(key in row.values for row in rows)]
    head = ["method" if link else "data", "setting", *(papers.measures[key] for key in measures)]
    opening = [link(row.method) if link else row.data for row in rows]
    values = [[row.values.get(key, "") for key in measures] for row in rows]
    cells = ([first, escaped(row.setting), *numbers] for first, row, numbers in zip(opening, rows, values, strict=True))
    return table(head, cells, range(2, len(head)))


def by_source(rows: Iterable[PublishedRow]) -> dict[str, list[PublishedRow]]:
    """Rows by the key of their source, in the order in which sources first appear."""
    groups: dict[str, list[PublishedRow]] = {}
    for row in rows:
        groups.setdefault(row.source, []).append(row)
    return groups


def comparisons(papers: Papers) -> dict[str, list[list[PublishedRow]]]:
    """The rows of each data set, those of one source together, of sources that have at least `LEAST_METHODS` methods on
    it.
    """
    found: dict[str, list[list[PublishedRow]]] = {}
    for data in dict.fromkeys(row.data for row in papers.rows):
        for rows in by_source(row for row in papers.rows if row.data == data).values():
            if len({row.method for row in rows}) >= LEAST_METHODS:
                found.setdefault(data, []).append(rows)
    return found
