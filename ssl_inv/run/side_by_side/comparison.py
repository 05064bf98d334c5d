"""Runs side by side: means and deviations over seeds, and paired differences with their interval."""

import fnmatch
import html
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_inv.catalogue import RecipeError, suggest
from ssl_inv.run.side_by_side.grouping import (
    Group,
    changes_results,
    comparable,
    differing_settings,
    grouped,
    notes_on,
    portable,
    told_apart,
    with_recipe,
    words,
)
from ssl_inv.run.side_by_side.over_seeds import deviation, mean, paired_difference
from ssl_inv.run.side_by_side.runs import Key, Measured, Saved, gathered, parsed_conditions, read_saved
from ssl_inv.run.tables import Table, shown

_MOST_MEASURES = 4  # as columns of a table that people read


class RunComparison(Table):
    """A row for each group and measurement, with all digits; as text it is one row a group, then the differences.

    Columns: the settings that differ, `measure`, `part`, `seeds` (how many), `mean`, `deviation` over seeds, `error`
    (of a single run: standard error over validation objects), `untrained`, `shuffled`, `difference` from the baseline,
    `low`, `high`, `pairs`, `interval` (what it is from).

    Args:
        groups: the groups, in their order.
        keys: the measurements.
        differing: the settings that are columns.
        baseline: the number of the group that others are compared with.
        notes: what a reader must know.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        keys: Sequence[Key],
        differing: Sequence[str],
        baseline: int,
        notes: Sequence[str],
    ) -> None:
        self.groups, self.keys, self.differing = tuple(groups), tuple(keys), tuple(differing)
        self.baseline, self.notes = baseline, tuple(notes)
        columns = [*differing, "measure", "part", "seeds", "mean", "deviation", "error", "untrained", "shuffled"]
        columns += ["difference", "low", "high", "pairs", "interval"]
        super().__init__([row for key in keys for row in self._rows_of(key)], columns)

    def _rows_of(self, key: Key) -> list[dict[str, Any]]:
        first = self.groups[self.baseline]
        rows = []
        for number, group in enumerate(self.groups):
            found = list(group.by_seed(key).values())
            row = {**group.settings, "measure": key[0], "part": key[1], "seeds": len(found)}
            row["mean"], row["deviation"] = (one([run.value for run in found]) for one in (mean, deviation))
            row["error"] = found[0].spread if len(found) == 1 else None
            row["untrained"], row["shuffled"] = (
                mean([getattr(run, name) for run in found]) for name in ("untrained", "shuffled")
            )
            if number != self.baseline and comparable(first, group):
                difference = paired_difference(first.by_seed(key), group.by_seed(key))
                if difference is not None:
                    row |= {"difference": difference.value, "low": difference.low, "high": difference.high}
                    row |= {"pairs": difference.pairs, "interval": difference.how}
            rows.append(row)
        return rows

    def wide(self, turned: bool | None = None) -> Table:
        """One row a group: mean ± standard deviation over seeds, then the untrained networks and chance.

        Args:
            turned: whether measurements are rows and groups are columns; None turns a table that would be too wide.
        """
        table = self._one_row_a_group()
        many = len(self.keys) > max(_MOST_MEASURES, len(self.groups))
        return _turned(table, len(self.shown_settings()) or 1) if (many if turned is None else turned) else table

    def _one_row_a_group(self) -> Table:
        rows = [{**self._names(group), "seeds": str(len(group.seeds) or "")} for group in self.groups]
        for key in self.keys:
            for row, group in zip(rows, self.groups, strict=True):
                found = list(group.by_seed(key).values())
                fewer = f" (n {len(found)})" if 0 < len(found) < len(group.seeds) else ""
                row[", ".join(key)] = _cell(found) + fewer
        return Table([*rows, *self._baseline_rows("untrained"), *self._baseline_rows("shuffled")])

    def differences(self) -> Table:
        """What each group has more than the baseline, a row for each measurement."""
        against = self.groups[self.baseline].label
        return Table(
            [
                {
                    **self._names(self.groups[number % len(self.groups)]),
                    "measure": f"{row['measure']}, {row['part']}",
                    f"difference from {against}": signed(row["difference"]),
                    "95 % interval": interval(row["low"], row["high"]),
                    "from": row["interval"],
                }
                for number, row in enumerate(self.rows)
                if row["difference"] is not None
            ]
        )

    def _names(self, group: Group) -> dict[str, str]:
        """The columns that name a group for people."""
        names = self.shown_settings()
        return {key: words(group.settings.get(key)) for key in names} if names else {"runs": group.label}

    def shown_settings(self) -> tuple[str, ...]:
        """The differing settings that tell the groups apart, without those that follow from a name beside them."""
        return told_apart(self.groups, self.differing)

    def _baseline_rows(self, kind: str) -> list[dict[str, str]]:
        """One row of a baseline that all groups share, or else one for each group."""
        found = [
            {key: {seed: getattr(one, kind) for seed, one in group.by_seed(key).items()} for key in self.keys}
            for group in self.groups
        ]
        pooled: dict[Key, dict[Any, float | None]] = {key: {} for key in self.keys}
        agree = True
        for number, one in enumerate(found):
            both = [(pooled[key], by_seed) for key, by_seed in one.items()]
            agree &= number == 0 or any(before.keys() & by_seed.keys() for before, by_seed in both)
            for before, by_seed in both:
                agree &= all(before.get(seed, value) == value for seed, value in by_seed.items())
                before |= by_seed
        rows = []
        for group, one in zip(self.groups, [pooled] if agree else found, strict=False):
            cells = {
                ", ".join(key): _cell([Measured(value) for value in values.values()]) for key, values in one.items()
            }
            if any(cells.values()):
                first = next(iter(self._names(group)))
                rows.append({first: kind if agree else f"{kind}: {group.label}", **cells})
        return rows

    def __str__(self) -> str:
        """The table of groups, the table of differences, and the notes."""
        parts = [str(self.wide())]
        if len(differences := self.differences()):
            parts.append(str(differences))
        return "\n\n".join([*parts, *self._legend(), *(f"note: {one}" for one in self.notes)])

    def to_markdown(self) -> str:
        parts = [self.wide().to_markdown()]
        if len(differences := self.differences()):
            parts.append(differences.to_markdown())
        return "\n".join([*parts, *(f"{one}\n" for one in (*self._legend(), *self.notes))])

    def to_latex(self) -> str:
        parts = [self.wide().to_latex()]
        if len(differences := self.differences()):
            parts.append(differences.to_latex())
        return "\n".join([*parts, *(f"% {one}\n" for one in (*self._legend(), *self.notes))])

    def to_html(self) -> str:
        parts = [self.wide().to_html()]
        if len(differences := self.differences()):
            parts.append(differences.to_html())
        return "\n".join([*parts, *(f"<p>{html.escape(one)}</p>" for one in (*self._legend(), *self.notes))])

    def _legend(self) -> list[str]:
        counts = {len(group.by_seed(key)) for group in self.groups for key in self.keys}
        told = ["±: standard deviation over seeds"] if counts - {0, 1} else []
        told += ["se: standard error over validation objects, of a single run"] if 1 in counts else []
        return ["; ".join(told)] if told else []


def compare(
    runs: Any,
    *,
    group: str | Sequence[str] | None = None,
    measures: str | Sequence[str] | None = None,
    baseline: str | Mapping[str, Any] | None = None,
) -> RunComparison:
    """Runs side by side.

    Args:
        runs: folders of runs or of `ssl-inv evaluate --output`, folders of such folders, patterns such as
            `runs/sie-*`, or objects that have a folder as `path` or `folder`.
        group: dotted settings that make the groups, or `recipe`; by default all settings that differ but the seed.
        measures: names such as `linear/top1`, `r2`, `knn/*` or `linear/top1:all` with the part of the features, and
            `loss/NAME` and `monitor/NAME` for the end of the training; by default those that stand for each run.
        baseline: the group that others are compared with, as its settings (`{"objective.name": "simclr"}`, or as text
            `objective.name=simclr`), or by one of its runs; by default the first.

    Returns:
        The table; see `RunComparison`.

    Raises:
        RecipeError: if there are no finished runs, no such setting, measurement or group, or if one group would mix
            results that cannot be averaged.
    """
    everything = [read_saved(path, resolved=True) for path in gathered(runs)]
    group = [group] if isinstance(group, str) else group
    usable = [one for one in everything if one.state in ("complete", "evaluation")]
    notes = [
        f"left out: {one.path} is {one.state}{f' ({one.reason})' if one.reason else ''}"
        for one in everything
        if one not in usable
    ]
    if not usable:
        raise RecipeError("; ".join(["there is no finished run to compare", *notes]))
    keys = _chosen_keys(usable, [measures] if isinstance(measures, str) else measures)
    with_numbers = [one for one in usable if any(one.measured(key) is not None for key in keys)]
    notes += [f"left out: {one.path} has none of these measurements" for one in usable if one not in with_numbers]
    if group is not None and "recipe" in group:
        with_numbers = [with_recipe(one) for one in with_numbers]
    compared = portable(with_numbers)
    differing = [key for key in differing_settings(compared) if changes_results(key)]
    groups, columns = grouped(compared, differing, group)
    notes += notes_on(groups, columns, differing)
    return RunComparison(groups, keys, columns, _baseline_number(groups, baseline), notes)


def _chosen_keys(runs: Sequence[Saved], patterns: Sequence[str] | None) -> list[Key]:
    results = list(dict.fromkeys(key for run in runs for key, one in run.results.items() if one.value is not None))
    if patterns is None:
        opening = dict.fromkeys(name for run in runs for name in run.scores)
        found = [key for key in results if f"{key[0]} ({key[1]})" in opening] or results
        if not found:
            raise RecipeError("no run has results: evaluation.protocol is none; --measure 'loss/*' compares losses")
        return found
    of_training = any(pattern.startswith(("loss", "monitor", "*")) for pattern in patterns)
    known = [*results, *dict.fromkeys(key for run in runs for key in (run.last_values if of_training else ()))]
    chosen: list[Key] = []
    for pattern in patterns:
        matching = [key for key in known if _matches(key, pattern)]
        if not matching:
            names = list(dict.fromkeys(name for name, _ in known))
            raise RecipeError(f"--measure: no run has {pattern!r}; {suggest(pattern, names)}")
        chosen += matching
    return list(dict.fromkeys(chosen))


def _matches(key: Key, pattern: str) -> bool:
    name, part = key
    wanted, colon, of_part = pattern.partition(":")
    right_name = name == wanted or name.startswith(f"{wanted}/") or fnmatch.fnmatchcase(name, wanted)
    return right_name and (not colon or fnmatch.fnmatchcase(part, of_part))


def _baseline_number(groups: Sequence[Group], wanted: str | Mapping[str, Any] | None) -> int:
    if wanted is None:
        return 0
    if isinstance(wanted, str) and "=" not in wanted:
        found = [
            number
            for number, one in enumerate(groups)
            if any(wanted in (run.name, str(run.path)) for run in one.runs) or wanted == one.label
        ]
    else:
        values = parsed_conditions([wanted]) if isinstance(wanted, str) else wanted
        found = [
            number
            for number, one in enumerate(groups)
            if all(run.settings.get(key) == value for run in one.runs for key, value in values.items())
        ]
    if len(found) != 1:
        there = "; ".join(one.label for one in groups)
        raise RecipeError(
            f"--baseline: {wanted!r} is {'no group' if not found else 'several groups'}; there are {there}"
        )
    return found[0]


def signed(value: float | None) -> str:
    """A number with its sign."""
    return "" if value is None else f"{'+' if value >= 0 else ''}{shown(value)}"


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval."""
    return "" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def _turned(table: Table, names: int) -> Table:
    """A table whose rows have become columns; the first columns are names."""
    heads = [", ".join(row[name] for name in table.columns[:names] if row[name]) for row in table]
    rest = table.columns[names:]
    return Table({"measure": name, **dict(zip(heads, table.column(name), strict=True))} for name in rest)


def _cell(found: Sequence[Measured]) -> str:
    values = [one.value for one in found]
    centre, over_seeds = mean(values), deviation(values)
    if centre is None:
        return ""
    if over_seeds is not None:
        return f"{shown(centre)} ± {shown(over_seeds)}"
    spread = found[0].spread if len(found) == 1 else None
    return shown(centre) + (f" (se {shown(spread)})" if spread is not None else "")
