"""The names that recipes use for objectives, data sources, augmentations and operations.

Each kind has a table of names in the `__init__` of its package. The tables hold strings, so a name is found without
importing torch. Other packages add names by entry points, in the group `ssl_inv.` and the table's name in small
letters: `ssl_inv.objectives`, `ssl_inv.sources`, `ssl_inv.augmentations`, `ssl_inv.operations`, `ssl_inv.protocols`.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any


class RecipeError(ValueError):
    """A recipe or a command line that cannot be run. The message is one line."""


class SettingError(RecipeError):
    """A setting whose value cannot be used. The message is `setting: problem`.

    Args:
        setting: its name, after the names of the settings around it: `base.temperature`.
        problem: what is wrong with the value.
    """

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting}: {problem}")
        self.setting, self.problem = setting, problem

    def __reduce__(self) -> tuple[type["SettingError"], tuple[str, str]]:
        return SettingError, (self.setting, self.problem)


_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks of the direction of writing, and bytes that are no UTF-8."""


@contextmanager
def within(setting: str) -> Iterator[None]:
    """Put the name of a setting, or of a section of a recipe, before the names of the settings inside it.

    Raises:
        SettingError: for every `ValueError` and every missing file inside.
    """
    try:
        yield
    except SettingError as error:
        raise SettingError(f"{setting}.{error.setting}", error.problem) from error
    except RecipeError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise SettingError(setting, " ".join(str(error).split())) from error


def require(condition: bool, setting: str, problem: str) -> None:
    """Raise a `SettingError` unless a condition holds."""
    if not condition:
        raise SettingError(setting, problem)


def require_at_least(least: float, **settings: float) -> None:
    """Raise a `SettingError` for the first of some settings that is below `least`."""
    for name, value in settings.items():
        require(value >= least, name, f"must be at least {least}, got {value}")


def require_above(bound: float, **settings: float) -> None:
    """Raise a `SettingError` for the first of some settings that is not above `bound`."""
    for name, value in settings.items():
        require(value > bound, name, f"must be above {bound}, got {value}")


def require_between(low: float, high: float, **settings: float) -> None:
    """Raise a `SettingError` for the first of some settings that is not from `low` to `high`."""
    for name, value in settings.items():
        require(low <= value <= high, name, f"must lie between {low:g} and {high:g}, got {value}")


def require_widths(**settings: Sequence[int]) -> None:
    """Raise a `SettingError` for the first of some lists of layer widths that is empty or has a width below 1."""
    for name, value in settings.items():
        require(len(value) > 0, name, "must name at least one width")
        require(min(value) >= 1, name, f"must have widths of at least 1, got {list(value)}")


@dataclass(frozen=True)
class Member:
    """A class or function that recipes can name.

    Attributes:
        name: its name in recipes.
        module: the module that defines it.
        attribute: its name there.
    """

    name: str
    module: str
    attribute: str

    def load(self) -> Any:
        """Import it."""
        return getattr(importlib.import_module(self.module), self.attribute)


@dataclass(frozen=True)
class Catalogue:
    """All members of one kind.

    Args:
        kind: what a member is, for messages: "objective".
        package: the package that has the table.
        table: the name of the table there: member name -> "module:attribute", relative to the package.
        moved: dotted paths in old recipes, and the names that replaced them.
        families: first words of dotted names -> the module, relative to the package, whose attributes they name.
    """

    kind: str
    package: str
    table: str
    moved: Mapping[str, str] | None = None
    families: Mapping[str, str] | None = None

    # A frozen dataclass has no place for a cache, but its __dict__ has.
    @cached_property
    def members(self) -> dict[str, Member]:
        """Every member by name, in alphabetical order."""
        table: Mapping[str, str] = getattr(importlib.import_module(self.package), self.table)
        places = {name: place.split(":") for name, place in sorted(table.items())}
        return {
            name: Member(name, f"{self.package}.{module}", attribute) for name, (module, attribute) in places.items()
        }

    @cached_property
    def installed(self) -> dict[str, Member]:
        """The members that other installed packages add, by name. A name of this package's own keeps its meaning."""
        # It takes tens of milliseconds, so only unknown names are looked up here.
        found = sorted(entry_points(group=f"ssl_inv.{self.table.lower()}"), key=lambda one: one.name)
        return {
            one.name: Member(one.name, *one.value.split(":"))
            for one in found
            if one.name not in self.members and one.value.count(":") == 1
        }

    def find(self, name: str) -> Member:
        """The member called `name`, or whatever is at the dotted path `name`.

        Raises:
            SettingError: for the setting `name`, with the closest name, if there is none.
        """
        name = (self.moved or {}).get(name, name)
        if name in self.members:
            return self.members[name]
        if name in self.installed:
            return importable(self.kind, self.installed[name])
        family, _, attribute = name.partition(".")
        if attribute and family in (self.families or {}):
            return self._of_family(name, family, attribute)
        if "." in name:
            return foreign_member(self.kind, name)
        advice = suggest(name, [*self.members, *self.installed])
        for other in self.families or {}:
            # Only these have capital letters, and to look them up takes seconds.
            advice = f"did you mean '{other}.{name}'?" if name[:1].isupper() else advice
        raise SettingError("name", f"no {self.kind} is called {name!r}; {advice}")

    def _of_family(self, name: str, family: str, attribute: str) -> Member:
        member = Member(name, f"{self.package}.{(self.families or {})[family]}", attribute)
        try:
            member.load()
        except AttributeError as error:
            raise SettingError("name", str(error)) from None
        return member


def foreign_member(kind: str, path: str) -> Member:
    """Whatever is at a dotted path, also of a module in the current folder.

    Args:
        kind: what it should be, for messages: "objective".
        path: such as `package.module.Class`.

    Raises:
        SettingError: for the setting `name`, if it cannot be imported.
    """
    module, _, attribute = path.rpartition(".")
    if "" not in sys.path and os.getcwd() not in sys.path:
        # As for `python -m`, but last, so that the current folder hides no installed package.
        sys.path.append(os.getcwd())
    return importable(kind, Member(path, module, attribute))


def importable(kind: str, member: Member) -> Member:
    """A member that has been imported.

    Raises:
        SettingError: for the setting `name`, if it cannot be.
    """
    try:
        member.load()
    except Exception as error:  # Somebody else's module can raise anything.
        raise SettingError("name", f"the {kind} {member.name!r} cannot be imported: {error}") from error
    return member


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is a slip of: the same letters but for a few, or the same beginning."""
    import difflib

    names, typed = list(known), name.casefold()
    for one in difflib.get_close_matches(name, names, n=3, cutoff=0.6):
        if _slips(typed, one.casefold()) <= max(1, len(name) // 3):
            return one
    # `rotate` for `rotation`, `checkpoints` for `checkpoint_every`, `top` for `top1`.
    least = len(name) if len(name) < 5 else max(4, 2 * len(name) // 3)
    begun = [one for one in names if len(name) > 2 and one.casefold().startswith(typed[:least])]
    return begun[0] if len(begun) == 1 else None


def _slips(typed: str, meant: str) -> int:
    """How many letters must be added, left out, replaced or exchanged with their neighbour to get `meant`."""
    before: list[int] = []
    row = list(range(len(meant) + 1))
    for i, letter in enumerate(typed, 1):
        last, before, row = before, row, [i]
        for j, other in enumerate(meant, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == meant[j - 2] and typed[i - 2] == other:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]


def suggest(name: str, known: Iterable[Any] | None, limit: int = 12) -> str:
    """The end of a message about an unknown name: the known name that it is a slip of, or what there is.

    A name is a slip of another if few of its letters are wrong. Another word that shares letters, as `log_every` does
    with `logger`, would send its reader the wrong way.
    """
    names = [str(one) for one in known or ()]
    if alike := [one for one in names if one.casefold() == name.casefold()]:
        return f"did you mean {alike[0]!r}?"
    if beginning := [one for one in names if len(name) > 1 and re.split(r"[-_.]", one)[0] == name]:
        return f"did you mean {beginning[0]!r}?" if len(beginning) == 1 else f"there are {', '.join(beginning[:limit])}"
    if close := closest(name, names):
        return f"did you mean {close!r}?"
    return f"there are {', '.join(names[:limit])}{', ...' if len(names) > limit else ''}" if names else "there are none"


OBJECTIVES = Catalogue("objective", "ssl_inv.objectives", "OBJECTIVES")
DATA = Catalogue("data set", "ssl_inv.data.sources", "SOURCES")
AUGMENTATIONS = Catalogue("augmentation", "ssl_inv.augment", "AUGMENTATIONS")
OPERATIONS = Catalogue(
    "operation",
    "ssl_inv.augment",
    "OPERATIONS",
    {"ssl_inv.augment.operations.shared.Shared": "shared"},
    {"torchvision": "torchvision_names", "kornia": "kornia_names"},
)
PROTOCOLS = Catalogue("protocol", "ssl_inv.evaluation.protocols", "PROTOCOLS")
LOGGERS = Catalogue("logger", "ssl_inv.engine", "LOGGERS")
CALLBACKS = Catalogue("callback", "ssl_inv.engine", "CALLBACKS")
CATALOGUES = {one.kind: one for one in (OBJECTIVES, DATA, AUGMENTATIONS, OPERATIONS)}


def printable(text: str) -> str:
    """A text as it can be shown: whatever moves a terminal's cursor, turns the direction of writing, or is no Unicode
    is escaped, as a name of a file may have it. Line ends and tabs stay.
    """
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)
