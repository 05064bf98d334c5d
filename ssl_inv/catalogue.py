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
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any

from ssl_inv.trust import allowed, is_allowed, is_dotted, is_within


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


@contextmanager
def within(setting: str, besides: Sequence[str] = ()) -> Iterator[None]:
    """Put the name of a setting, or of a section of a recipe, before the names of the settings inside it.

    Args:
        setting: the name.
        besides: sections that what is inside also checks, and names itself: errors of theirs stay as they are.

    Raises:
        SettingError: for every `ValueError` and every missing file inside.
    """
    try:
        yield
    except SettingError as error:
        if error.setting.partition(".")[0] in besides:
            raise
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


def require_at_most(most: int, **settings: int) -> None:
    """Raise a `SettingError` for the first of some settings that is above `most`."""
    for name, value in settings.items():
        require(value <= most, name, f"must be at most {most:,}, got {value:,}")


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


def require_named(setting: str, named: Iterable[str], parameters: Sequence[str]) -> None:
    """Raise a `SettingError` for the first of some names that the setting `parameters` does not have."""
    if (unknown := next((name for name in named if name not in parameters), None)) is not None:
        raise SettingError(setting, f"{unknown!r} is not among parameters; {suggest(unknown, parameters)}")


def require_once(setting: str, names: Sequence[str]) -> None:
    """Raise a `SettingError` for the first name that a list of names has more than once."""
    if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
        raise SettingError(setting, f"names {twice!r} twice, and once is enough: {', '.join(names)}")


def require_recorded(setting: str, names: Sequence[str], groups: Iterable[str]) -> None:
    """Raise a `SettingError` for the first of some names that views do not record, or that is there twice."""
    if (unknown := next((name for name in names if name not in groups), None)) is not None:
        raise SettingError(setting, f"no view of this data records {unknown!r}; {suggest(unknown, groups)}")
    require_once(setting, names)


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
        base: `module:class` that classes of other modules must derive from; None: they only must be callable.
        libraries: modules whose classes that derive from `base` may be named like this package's own.
    """

    kind: str
    package: str
    table: str
    moved: Mapping[str, str] | None = None
    families: Mapping[str, str] | None = None
    base: str | None = None
    libraries: tuple[str, ...] = ()

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
        found = {one.name: one for one in reversed(_entry_points(f"ssl_inv.{self.table.lower()}"))}
        return {
            name: Member(name, *one.value.split(":"))
            for name, one in sorted(found.items())
            if name not in self.members and one.value.count(":") == 1
        }

    def find(self, name: str) -> Member:
        """The member called `name`, or whatever is at the dotted path `name`.

        Raises:
            SettingError: for the setting `name`, with the closest name, if there is none; or if it is code of a module
                that the user does not allow.
        """
        name = (self.moved or {}).get(name, name)
        if name in self.members:
            return self.members[name]
        if name in self.installed:
            member = self.installed[name]
            # Who installs a package with entry points wants it to be used.
            return importable(self.kind, member, self.base, [member.module.partition(".")[0]])
        family, _, attribute = name.partition(".")
        if attribute and family in (self.families or {}):
            return self._of_family(name, family, attribute)
        if "." in name and is_dotted(name):
            return foreign_member(self.kind, name, self.base, self.libraries)
        advice = suggest(name, [*self.members, *self.installed])
        for other in self.families or {}:
            # Only these have capital letters, and to look them up takes seconds.
            advice = f"did you mean '{other}.{name}'?" if name[:1].isupper() else advice
        raise SettingError("name", f"no {self.kind} is called {name!r}; {advice}")

    def require_known(self, name: str) -> None:
        """Raise a `SettingError` for a name that can stand for nothing. Nothing of another package is imported."""
        if "." in name and is_dotted(name) and name.partition(".")[0] not in (self.families or {}):
            require_allowed(name, self.libraries)
        else:
            self.find(name)

    def _of_family(self, name: str, family: str, attribute: str) -> Member:
        member = Member(name, f"{self.package}.{(self.families or {})[family]}", attribute)
        try:
            member.load()
        except AttributeError as error:
            raise SettingError("name", str(error)) from None
        return member


def _entry_points(group: str) -> list[EntryPoint]:
    """The entry points of installed packages. What lies in the current folder alone is not installed."""
    here = Path.cwd()
    places = [one for one in sys.path if one and Path(one).resolve() != here]
    return [one for package in distributions(path=places) for one in package.entry_points if one.group == group]


def require_allowed(path: str, libraries: Sequence[str] = ()) -> None:
    """Raise a `SettingError` for the setting `name` if a dotted path is of a module that the user does not allow.

    Args:
        path: such as `package.module.Class`.
        libraries: modules that need no permission.
    """
    module = path.rpartition(".")[0]
    if not is_allowed(module) and not is_within(module, (*libraries, _OWN)):
        problem = f"{path!r} is code of the module {module!r}, which runs only if you allow it"
        raise SettingError("name", f"{problem}: --trust {module}, or in Python trust=[{module!r}]")


def foreign_member(kind: str, path: str, base: str | None = None, libraries: Sequence[str] = ()) -> Member:
    """Whatever is at a dotted path, also of a module in the current folder.

    Args:
        kind: what it should be, for messages: "objective".
        path: such as `package.module.Class`.
        base: `module:class` that a class must derive from.
        libraries: modules whose classes need no permission; they must derive from `base`.

    Raises:
        SettingError: for the setting `name`, if the user does not allow its module, if it cannot be imported, or if it
            is something else. Nothing is imported before it is allowed.
    """
    require_allowed(path, libraries)
    module, _, attribute = path.rpartition(".")
    if is_allowed(module) and "" not in sys.path and os.getcwd() not in sys.path:
        # As for `python -m`, but last, so that the current folder hides no installed package.
        sys.path.append(os.getcwd())
    return importable(kind, Member(path, module, attribute), base, allowed())


def importable(kind: str, member: Member, base: str | None, trusted: Sequence[str]) -> Member:
    """A member that has been imported. It is a class that derives from `base`, or made for the purpose by its author.

    Args:
        kind: what it should be, for messages: "objective".
        member: it.
        base: `module:class` that a class must derive from.
        trusted: modules whose functions may be called, and whose classes if there is no `base`.

    Raises:
        SettingError: for the setting `name`, if it cannot be imported or is something else.
    """
    try:
        loaded = member.load()
    except Exception as error:  # Somebody else's module can raise anything.
        raise SettingError("name", f"the {kind} {member.name!r} cannot be imported: {error}") from error
    if base is not None and isinstance(loaded, type):
        place, _, name = base.partition(":")
        derives = issubclass(loaded, getattr(importlib.import_module(place), name))
        require(derives, "name", f"{member.name!r} does not derive from {place}.{name}")
    else:
        require(callable(loaded), "name", f"{member.name!r} is neither a class nor a function")
        # A trusted module's `from os import abort` makes no member of it.
        module = str(getattr(loaded, "__module__", None))
        problem = f"{member.name!r} is defined in the module {module!r}, which is not among those that you allow"
        require(is_within(module, trusted), "name", problem)
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


_OWN = "ssl_inv"

OBJECTIVES = Catalogue("objective", "ssl_inv.objectives", "OBJECTIVES", base="ssl_inv.objectives.base:Objective")
DATA = Catalogue("data set", "ssl_inv.data.sources", "SOURCES")
AUGMENTATIONS = Catalogue("augmentation", "ssl_inv.augment", "AUGMENTATIONS")
OPERATIONS = Catalogue(
    "operation",
    "ssl_inv.augment",
    "OPERATIONS",
    {"ssl_inv.augment.operations.shared.Shared": "shared"},
    {"torchvision": "torchvision_names", "kornia": "kornia_names"},
    "ssl_inv.augment.operation:Operation",
)
PROTOCOLS = Catalogue(
    "protocol",
    "ssl_inv.evaluation.protocols",
    "PROTOCOLS",
    base="ssl_inv.evaluation.protocols.base:Protocol",
)
LOGGERS = Catalogue(
    "logger",
    "ssl_inv.engine",
    "LOGGERS",
    base="pytorch_lightning.loggers:Logger",
    libraries=("pytorch_lightning.loggers",),
)
CALLBACKS = Catalogue(
    "callback",
    "ssl_inv.engine",
    "CALLBACKS",
    base="pytorch_lightning:Callback",
    libraries=("pytorch_lightning.callbacks",),
)
CATALOGUES = {one.kind: one for one in (OBJECTIVES, DATA, AUGMENTATIONS, OPERATIONS)}
