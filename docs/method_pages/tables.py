"""The tables of the pages: what was measured here, and what papers report."""

import json
from collections.abc import Callable, Iterable, Sequence

from method_pages.markup import escaped, folded, sentence, table
from method_pages.published import Papers
from method_pages.published import Row as PublishedRow
from method_pages.recorded import Record, Row, Values, comparable, deviation, mean
from ssl_inv.plain_yaml import dump_value
from ssl_inv.recipe import load_recipe, shipped_recipes

LEAST_METHODS = 3
"""How many methods of one source and data set make a table of the overview."""

_EQUAL_TERMS = ("data", "backbone", "normalization", "trainer", "evaluation")
_MAIN = ("linear/top1", "knn/top1", "retrieval/val-val/mrr", "retrieval/val-val/hit@1")
_MAIN_COLUMNS = (("linear/top1", "all"), ("knn/top1", "all"))
_PREDICTION_COLUMNS = (("retrieval/val-val/mrr", "prediction space"),)


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
    seconds = mean(record.seconds)
    facts = [seeds, f"commit {record.commit[:7]}", record.machine, *([] if seconds is None else [f"{seconds / 60:.0f} min a run"])]
    changed = departures(record)
    return sentence("; ".join(facts)) + (f". Otherwise than the recipe today: {', '.join(changed)}" if changed else "") + "."


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
        shared = {section: dict(settings) for section, settings in record.complete_settings.items() if section in _EQUAL_TERMS}
        # These only add measurements, on several views at once, to those that all have.
        for setting in ("aggregate", "paths"):
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


def side_by_side(group: Sequence[Record], link: Callable[[str], str]) -> str:
    """One row a record and one of the untrained network, with the measurements that say most."""
    names = dict.fromkeys(row.name for record in group for row in record.rows)
    relative = [name for name in names if name.startswith("r2/relative/")]
    told = [name for name in relative if name == "r2/relative/rotation"] or relative
    several = dict.fromkeys(row.part for record in group for row in record.rows if row.part.endswith(" views"))
    columns = [
        *_MAIN_COLUMNS,
        *(("linear/top1", part) for part in several),
        *((name, part) for name in told for part in ("all", "invariant", "equivariant")),
        *_PREDICTION_COLUMNS,
    ]
    head = ["objective", "recipe", "seeds", *(_heading(*column) for column in columns)]
    rows = []
    for record in group:
        found = [record.find(*column) for column in columns]
        values = ["" if row is None else number(row.name, row.trained) for row in found]
        rows.append([link(record.objective), f"[`{record.recipe}`](../../recipes/{record.recipe}.yaml)", str(len(record.seeds)), *values])
    untrained = [next((row for record in group if (row := record.find(*column))), None) for column in columns]
    rows.append(["untrained", "", "", *("" if row is None else number(row.name, row.untrained) for row in untrained)])
    return table(head, rows, range(2, len(head)))


def _heading(name: str, part: str) -> str:
    if name.startswith("r2/"):
        return f"R2 {name.removeprefix('r2/relative/')}, {part}"
    words = {"linear/top1": "linear top-1, %", "knn/top1": "kNN top-1, %", "retrieval/val-val/mrr": "MRR"}[name]
    return f"{words}, {part}" if part.endswith(" views") else words


def headline(record: Record) -> tuple[str, str] | None:
    """The numbers of the overview: linear top-1, and R2 of the relative rotation on the part that is meant to know it."""
    classes = record.find("linear/top1", "all")
    rotation = record.find("r2/relative/rotation", "equivariant") or record.find("r2/relative/rotation", "all")
    if classes is None or rotation is None:
        return None
    return number(classes.name, classes.trained), number(rotation.name, rotation.trained)


def published(papers: Papers, rows: Sequence[PublishedRow], link: Callable[[str], str] | None = None) -> str:
    """Rows of one source; measures that are defined differently are never in one column.

    Args:
        papers: what the rows are from.
        rows: of one method, or of one data set.
        link: what to call a method, by its key. Without it the rows are of one method, and the first column is the data set.
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
    """The rows of each data set, those of one source together, of sources that have at least `LEAST_METHODS` methods on it."""
    found: dict[str, list[list[PublishedRow]]] = {}
    for data in dict.fromkeys(row.data for row in papers.rows):
        for rows in by_source(row for row in papers.rows if row.data == data).values():
            if len({row.method for row in rows}) >= LEAST_METHODS:
                found.setdefault(data, []).append(rows)
    return found
