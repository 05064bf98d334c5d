"""Runs in groups: which settings differ, which runs are one row, and what a reader must know of them."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from ssl_inv.catalogue import RecipeError, suggest
from ssl_inv.run.continuing import FREE, WHERE_DATA_LIES, early_end, went_on
from ssl_inv.run.plain_yaml import dump_value
from ssl_inv.run.side_by_side.over_seeds import mean
from ssl_inv.run.side_by_side.runs import Key, Measured, Saved

SEED = "trainer.seed"

NO_RESULT = tuple(key for key in FREE if key not in WHERE_DATA_LIES)
"""Settings that change no result."""

_JUDGED_SECTIONS = ("data.", "evaluation.")
_JUDGES_THE_SAME = ("data.cache", "evaluation.aggregate", "evaluation.paths")
"""Settings of data and evaluation that leave other measurements as they are."""

_MOST_COLUMNS = 5


@dataclass(frozen=True)
class Group:
    """Runs that are one row.

    Attributes:
        label: what sets them apart from the other groups.
        settings: the same by dotted key.
        runs: the runs.
    """

    label: str
    settings: Mapping[str, Any]
    runs: tuple[Saved, ...]

    @property
    def seeds(self) -> list[int]:
        """The different seeds of the runs, in ascending order."""
        return sorted({run.seed for run in self.runs if run.seed is not None})

    def by_seed(self, key: Key) -> dict[Any, Measured]:
        """A measurement by seed; runs of one seed are averaged, so that none counts twice."""
        found: dict[Any, list[Measured]] = {}
        for run in self.runs:
            one = run.measured(key)
            if one is not None and one.value is not None:
                found.setdefault(str(run.path) if run.seed is None else run.seed, []).append(one)
        return {
            seed: ones[0]
            if len(ones) == 1
            else Measured(
                mean([one.value for one in ones]),
                None,
                mean([one.untrained for one in ones]),
                mean([one.shuffled for one in ones]),
            )
            for seed, ones in found.items()
        }


def comparable(first: Group, second: Group) -> bool:
    """Whether both were measured on the same data in the same way."""
    return _terms(first) == _terms(second)


def _terms(group: Group) -> dict[str, str]:
    settings = group.runs[0].settings
    return {key: _text(value) for key, value in settings.items() if _is_judged(key)}


def _is_judged(key: str) -> bool:
    return key.startswith(_JUDGED_SECTIONS) and key not in _JUDGES_THE_SAME


def _text(value: Any) -> str:
    return repr(value)


def with_recipe(one: Saved) -> Saved:
    """The run with the name of its recipe as a setting `recipe`."""
    return replace(one, settings={"recipe": one.recipe or None, **one.settings})


def portable(runs: Sequence[Saved]) -> list[Saved]:
    """The runs. A path to a teacher that differs by the run's seed alone becomes the same for all."""
    settings = [dict(run.settings) for run in runs]
    for key in dict.fromkeys(name for one in settings for name in one if name.startswith("objective.")):
        values = [one.get(key) for one in settings]
        general = [
            re.sub(rf"(?<!\d){run.seed}(?!\d)", "{seed}", value) if isinstance(value, str) and "/" in value else value
            for run, value in zip(runs, values, strict=True)
        ]
        if len(set(map(_text, general))) < len(set(map(_text, values))):
            for one, value in zip(settings, general, strict=True):
                if key in one:
                    one[key] = value
    return [replace(run, settings=one) for run, one in zip(runs, settings, strict=True)]


def changes_results(key: str) -> bool:
    """Whether a setting, by dotted key, can change what is measured, beside the seed."""
    return key not in (SEED, "recipe") and not any(key == one or key.startswith(f"{one}.") for one in NO_RESULT)


def differing_settings(runs: Iterable[Saved]) -> list[str]:
    """The settings in which runs differ, by dotted key."""
    settings = [run.settings for run in runs]
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len({_text(one.get(key)) for one in settings}) > 1]


def grouped(runs: Sequence[Saved], differing: Sequence[str], by: Sequence[str] | None) -> tuple[list[Group], list[str]]:
    """The groups in the order of their first runs, and the settings that are columns.

    Args:
        runs: the runs.
        differing: the settings in which they differ and which can change a result.
        by: the settings that make the groups; None takes `differing`.

    Raises:
        RecipeError: if no run has one of these settings.
    """
    columns = list(differing)
    if by is not None:
        known = dict.fromkeys(key for run in runs for key in run.settings)
        for key in by:
            if key not in known:
                raise RecipeError(f"--group: no run has the setting {key!r}; {suggest(key, known)}")
        columns = list(by)
    found: dict[tuple[str, ...], list[Saved]] = {}
    for run in runs:
        found.setdefault(tuple(_text(run.settings.get(key)) for key in columns), []).append(run)
    groups = [Group("", {key: same[0].settings.get(key) for key in columns}, tuple(same)) for same in found.values()]
    names = told_apart(groups, columns)

    def label(one: Group) -> str:
        told = (f"{key.removesuffix('.name').rpartition('.')[2]} {words(one.settings[key])}" for key in names)
        return ", ".join(told) or "all runs"

    return [Group(label(one), one.settings, one.runs) for one in groups], columns


def told_apart(groups: Sequence[Group], columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that a reader needs to tell groups apart.

    Another objective or data set has other settings. Those that follow from its name are left out, and of many columns
    those that follow from the ones before.
    """
    kept: list[str] = []
    ordered = sorted(columns, key=lambda key: not key.endswith(".name") and key != "recipe")
    for key in ordered:
        owners = [one for one in kept if one.endswith(".name") and key.startswith(one.removesuffix("name"))]
        many = kept if len(columns) > _MOST_COLUMNS else owners
        if not (many and _follows(groups, key, many)):
            kept.append(key)
    return tuple(key for key in columns if key in kept)


def _follows(groups: Sequence[Group], key: str, others: Sequence[str]) -> bool:
    """Whether groups that agree in `others` agree in `key`."""
    seen: dict[tuple[str, ...], str] = {}
    for one in groups:
        place = tuple(_text(one.settings.get(other)) for other in others)
        if seen.setdefault(place, _text(one.settings.get(key))) != _text(one.settings.get(key)):
            return False
    return True


def notes_on(groups: Sequence[Group], columns: Sequence[str], differing: Sequence[str]) -> list[str]:
    """What a reader must know of some groups: what they mix, what cannot be compared, which versions there are.

    Raises:
        RecipeError: if a group mixes results that cannot be averaged.
    """
    notes, everything = [], [run for one in groups for run in one.runs]
    for one in groups:
        inside = [key for key in differing_settings(one.runs) if key in differing]
        if unlike := [key for key in inside if _is_judged(key)]:
            values = _values(unlike[0], one.runs)
            problem = f"{one.label!r} would mix results that are not comparable: {unlike[0]} {values}"
            raise RecipeError(f"--group: {problem}; add {unlike[0]} to --group")
        if inside:
            notes.append(f"the runs of {one.label!r} differ in more than the seed: {', '.join(inside)}")
        seeds = sorted(run.seed for run in one.runs if run.seed is not None)
        if again := [seed for seed, same in groupby(seeds) if len(list(same)) > 1]:
            which = ", ".join(map(str, again))
            notes.append(f"{one.label!r} has several runs of seed {which}: they are averaged, and count once")
    for key in filter(_is_judged, differing):
        notes.append(f"not comparable: {key} {_values(key, everything)}; such rows get no difference")
    if len(left_out := set(columns) - set(told_apart(groups, columns))):
        notes.append(f"follow from the columns shown: {', '.join(key for key in columns if key in left_out)}")
    notes += [note for run in everything for note in _notes_on_course(run)]
    for name in ("ssl-inv", "torch", "commit"):
        found = dict.fromkeys(str((run.record.get("versions") or {}).get(name, "unknown"))[:12] for run in everything)
        if len(found) > 1:
            notes.append(f"the runs are of several versions: {name} {' / '.join(found)}")
    return notes


def _notes_on_course(run: Saved) -> Iterator[str]:
    """What settings do not tell: that training ended before its last step, or went on in another way on the way."""
    if ended := early_end(run.record):
        yield f"{run.path} {ended}"
    yield from (f"{run.path} went on {how}" for how in went_on(run.record))


def _values(key: str, runs: Iterable[Saved]) -> str:
    return " / ".join(dict.fromkeys(words(run.settings.get(key)) or "none" for run in runs))


def words(value: Any) -> str:
    """A setting in a cell."""
    return "" if value is None else value if isinstance(value, str) else dump_value(value)
