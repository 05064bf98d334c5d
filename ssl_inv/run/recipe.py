"""Recipes: read, override, check and compare. Nothing here imports torch, so a mistake is answered at once."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ssl_inv.catalogue import (
    AUGMENTATIONS,
    DATA,
    OBJECTIVES,
    Catalogue,
    Member,
    RecipeError,
    SettingError,
    suggest,
    within,
)
from ssl_inv.engine.optimizer_names import check_names
from ssl_inv.engine.settings import (
    EvaluationSettings,
    HeldOutSettings,
    MonitorSettings,
    NormalizationSettings,
    TrainerSettings,
)
from ssl_inv.plain import require_file
from ssl_inv.run.plain_yaml import MOST_CHARACTERS, YAMLError, advice_on_quotes, dump_yaml, parse_yaml, where_and_what
from ssl_inv.run.schema import Schema, filled, filled_member, schema_of, schema_of_dataclass, with_arguments

SHIPPED = Path(__file__).parent.parent / "recipes"
"""The folder of the recipes that come with the package."""


_CHOICES: Mapping[str, tuple[Catalogue, str | None]] = {
    "objective": (OBJECTIVES, None),
    "data": (DATA, None),
    "augmentation": (AUGMENTATIONS, "none"),
}
"""Sections whose `name` chooses a member of a catalogue, and its default."""

_FUNCTIONS: Mapping[str, Member] = {
    "backbone": Member("backbone", "ssl_inv.nn.backbones", "make_backbone"),
    "optimizer": Member("optimizer", "ssl_inv.engine.optimizers", "make_optimizer"),
}
"""Sections that are the settings of one function."""

_SETTINGS: Mapping[str, type[Any]] = {
    "normalization": NormalizationSettings,
    "trainer": TrainerSettings,
    "monitor": MonitorSettings,
    "evaluation": EvaluationSettings,
}
"""Sections that are a dataclass of settings."""

SECTIONS = (
    "objective",
    "backbone",
    "data",
    "augmentation",
    "normalization",
    "optimizer",
    "trainer",
    "monitor",
    "evaluation",
)

JUDGED = ("data", "normalization", "evaluation")
"""The sections that an evaluation of any encoder needs."""


@dataclass(frozen=True)
class Choice:
    """A member of a catalogue and all its settings.

    Attributes:
        name: its name.
        settings: its own.
        held_out: of data, on what a run is judged.
    """

    name: str
    settings: dict[str, Any]
    held_out: HeldOutSettings = dataclasses.field(default_factory=HeldOutSettings)


@dataclass(frozen=True, kw_only=True)
class JudgedRecipe:
    """The sections `JUDGED`, checked and complete."""

    data: Choice
    normalization: NormalizationSettings
    evaluation: EvaluationSettings

    def sections(self) -> dict[str, dict[str, Any]]:
        """Section -> setting -> value, in the order of `SECTIONS`."""
        return {name: _plain(getattr(self, name)) for name in SECTIONS if hasattr(self, name)}

    def dump(self) -> str:
        """The recipe as YAML."""
        return dump_yaml(self.sections())


@dataclass(frozen=True, kw_only=True)
class Recipe(JudgedRecipe):
    """A checked and complete recipe."""

    objective: Choice
    backbone: dict[str, Any]
    augmentation: Choice
    optimizer: dict[str, Any]
    trainer: TrainerSettings
    monitor: MonitorSettings


def _plain(section: Any) -> dict[str, Any]:
    if isinstance(section, Choice):
        # A split by object is what runs did before there was a choice, and their recipes stay as they are.
        further = {} if section.held_out.held_out == "objects" else dataclasses.asdict(section.held_out)
        return {"name": section.name, **section.settings, **further}
    return dict(section) if isinstance(section, dict) else dataclasses.asdict(section)


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """A shipped recipe by name, or any recipe by path, with `--section.key value` overrides.

    Raises:
        RecipeError: on the first mistake.
    """
    path = find_recipe(name_or_path)
    return resolve(apply_overrides(read_yaml(path), overrides or []), path.name)


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe.

    Raises:
        RecipeError: if no shipped recipe and no file has that name.
    """
    if name_or_path in (names := shipped_recipes()):
        return names[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.exists():
        raise RecipeError(f"recipe file {name_or_path!r} is no regular file")
    if path.suffix in (".yaml", ".yml") or path.parent != Path("."):
        raise RecipeError(f"recipe file {name_or_path!r} does not exist")
    raise RecipeError(f"no recipe is called {name_or_path!r}; {suggest(name_or_path, names)}")


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a recipe file.

    Raises:
        RecipeError: if it cannot be read or is no mapping.
    """
    try:
        require_file(path, MOST_CHARACTERS * 4)
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        line, problem = where_and_what(error)
        raise RecipeError(f"{path.name}{f' line {line}' if line else ''}: {problem}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error.__class__.__name__})") from None
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path.name}: a recipe is a mapping of sections; {suggest('', SECTIONS)}")
    return content


def apply_overrides(
    content: Mapping[str, Any], overrides: list[str] | Mapping[str, Any], sections: Sequence[str] = SECTIONS
) -> dict[str, Any]:
    """The content after overrides.

    If an override names another objective, data set or augmentation, that one starts from its own defaults: it takes no
    setting of the old one, not even of the same name. The same holds for a setting with settings of its own, such as
    `--objective.base.temperature 0.2`.

    Args:
        content: section -> setting -> value.
        overrides: words of a command line, `["--section.key", "value", "--section.key=value", ...]`, or values by their
            dotted keys, `{"section.key": value}`.
        sections: that may be overridden.

    Raises:
        RecipeError: if an argument has another form, or its section is not in `sections`.
    """
    content = {section: dict(value) if isinstance(value, dict) else value for section, value in content.items()}
    if isinstance(overrides, Mapping):
        found = _parse_settings(overrides, sections)
    else:
        found = _parse_overrides(overrides, sections)
    for section, settings in found.items():
        default = _CHOICES[section][1] if section in _CHOICES else None
        content[section] = _overridden(section, content.get(section), settings, section in _CHOICES, default)
    return content


class _OneByOne(dict[str, Any]):
    """Overrides given one by one. They are merged into settings, which a plain mapping would replace."""


def _overridden(
    where: str, old: Any, settings: _OneByOne, named_member: bool, default: str | None = None
) -> dict[str, Any]:
    """The settings `old` after overrides; the overrides alone if they name another member."""
    old = {} if old is None else old
    if not isinstance(old, dict):
        raise RecipeError(f"{where}: expected a mapping of settings, got {old!r}")
    if named_member and settings.get("name", old.get("name")) != old.get("name", default):
        old = {}
    inner = {
        key: _overridden(f"{where}.{key}", old.get(key), value, named_member=True)
        if isinstance(value, _OneByOne)
        else value
        for key, value in settings.items()
    }
    return {**old, **inner}


def _parse_overrides(overrides: list[str], sections: Sequence[str]) -> dict[str, _OneByOne]:
    found: dict[str, _OneByOne] = {}
    arguments = overrides.copy()
    while arguments:
        key, equals, value = arguments.pop(0).removeprefix("--").partition("=")
        if not equals:
            if not arguments or arguments[0].startswith("--"):
                raise RecipeError(f"--{key}: a value is missing")
            value = arguments.pop(0)
        section, _, setting = key.partition(".")
        if section not in sections:
            raise RecipeError(f"--{key}: no section {section!r} can be set here; {suggest(section, sections)}")
        try:
            _put(found.setdefault(section, _OneByOne()), setting.split("."), _typed(value))
        except YAMLError:
            raise RecipeError(f"--{key}: {value!r} is not a valid YAML value{advice_on_quotes(value)}") from None
    return found


def _parse_settings(given: Mapping[str, Any], sections: Sequence[str]) -> dict[str, _OneByOne]:
    found: dict[str, _OneByOne] = {}
    for key, value in given.items():
        section, _, setting = str(key).partition(".")
        if section not in sections:
            raise RecipeError(f"settings: no section {section!r} can be set here; {suggest(section, sections)}")
        if not setting:
            raise RecipeError(f"settings: {key!r} is a section; settings are given one by one, '{key}.KEY': value")
        _put(found.setdefault(section, _OneByOne()), setting.split("."), plain_value(value))
    return found


def plain_value(value: Any) -> Any:
    """A value as YAML has it: paths become texts, tuples lists, and numbers of other libraries plain numbers."""
    if isinstance(value, Mapping):
        return {key: plain_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(one) for one in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # Of numpy and torch, which are not imported here.
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _typed(word: str) -> Any:
    """The YAML value of a word of the command line. A word such as a path with ` #` or `: ` in it stays as typed."""
    parsed = parse_yaml(word)
    opening = word.lstrip()[:1]
    cut = isinstance(parsed, str) and opening not in ("'", '"')
    bare = (isinstance(parsed, dict) and opening != "{") or (isinstance(parsed, list) and opening != "[")
    return word if cut or bare else parsed


def _put(settings: dict[str, Any], way: Sequence[str], value: Any) -> None:
    """Set a value by a path of keys, which may lead into a mapping that was given as a whole."""
    *outer, last = way
    for key in outer:
        if not isinstance(settings.get(key), dict):
            settings[key] = _OneByOne()
        settings = settings[key]
    settings[last] = value


def check_overrides(overrides: list[str]) -> None:
    """Check the overrides of `JUDGED` as far as possible before the data is known.

    Raises:
        RecipeError: on the first mistake.
    """
    for section, given in apply_overrides({}, overrides, JUDGED).items():
        if section not in _CHOICES:
            resolve_section(section, given, "the command line")


AnyRecipe = TypeVar("AnyRecipe", bound=JudgedRecipe)


def resolve(content: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """Check every section against its schema and fill in the defaults.

    Args:
        content: section -> setting -> value, as read.
        origin: the name of the recipe in messages.

    Raises:
        RecipeError: on the first mistake, with the full path of the key and the closest valid choice.
    """
    return _resolved(Recipe, SECTIONS, content, origin)


def resolve_judged(content: Mapping[str, Any], overrides: list[str] | Mapping[str, Any]) -> JudgedRecipe:
    """`resolve` for the sections `JUDGED` alone, after overrides."""
    return _resolved(JudgedRecipe, JUDGED, apply_overrides(content, overrides, JUDGED), "the command line")


def _resolved(kind: type[AnyRecipe], sections: Sequence[str], content: Mapping[str, Any], origin: str) -> AnyRecipe:
    if (unknown := next((section for section in content if section not in sections), None)) is not None:
        raise RecipeError(f"{origin}: no section is called {unknown!r}; {suggest(str(unknown), sections)}")
    return kind(**{section: resolve_section(section, content.get(section, {}), origin) for section in sections})


def resolve_section(section: str, given: Any, origin: str) -> Any:
    """One section: a `Choice`, a dataclass of settings, or a mapping; see `resolve`."""
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise SettingError(section, f"expected a mapping of settings, got {given!r}")
    with within(section):
        if section in _CHOICES:
            catalogue, default = _CHOICES[section]
            common = schema_of_dataclass(HeldOutSettings) if section == "data" else Schema({}, "")
            further = {key: value for key, value in given.items() if key in common.settings}
            own = {key: value for key, value in given.items() if key not in further}
            name, settings = filled_member(catalogue, {"name": default, **own}, origin, common.settings)
            if section == "data":
                _require_paths(settings)
            return Choice(name, settings, HeldOutSettings(**filled(common, further, origin)))
        settings = filled(section_schema(section), given, origin)
        if section == "optimizer":
            check_names(settings["name"], settings["schedule"])
        return settings if section in _FUNCTIONS else _SETTINGS[section](**settings)


def _require_paths(settings: Mapping[str, Any]) -> None:
    """Refuse an empty path: it would be the current folder."""
    for key in ("path", "validation", "split_folder"):
        given = settings.get(key)
        if any(isinstance(one, str) and not one.strip() for one in (given if isinstance(given, list) else [given])):
            raise SettingError(key, "is empty; the current folder is `.`")


def section_schema(section: str, name: str | None = None) -> Schema:
    """The schema of a section.

    Args:
        section: one of `SECTIONS`.
        name: the chosen member, for sections whose `name` chooses one.

    Raises:
        SettingError: if there is no such member.
    """
    if section in _SETTINGS:
        return schema_of_dataclass(_SETTINGS[section])
    if section in _FUNCTIONS:
        return schema_of(_FUNCTIONS[section])
    with within(section):
        own = schema_of(_CHOICES[section][0].find(str(name)))
    if section != "data":
        return own
    common = schema_of_dataclass(HeldOutSettings)
    arguments = common.doc.partition("\nArgs:\n")[2]
    return Schema({**own.settings, **common.settings}, with_arguments(own.doc, arguments))


_BEFORE = {"photographs": "squares", "split": "top"}
"""What runs did before there was a setting of the data, where its default does more."""


def as_saved(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a saved recipe, with what runs did before a setting was there, where its default does more."""
    data = content.get("data")
    if not isinstance(data, dict) or data.get("name") not in DATA.members:
        return dict(content)
    known = section_schema("data", data["name"]).settings
    before = {name: value for name, value in _BEFORE.items() if name in known and name not in data}
    return {**content, "data": {**data, **before}} if before else dict(content)


def changes(old: JudgedRecipe, new: JudgedRecipe) -> dict[str, tuple[Any, Any]]:
    """The settings that differ between two resolved recipes by their full key: the old value and the new one."""
    before, after = old.sections(), new.sections()
    pairs = [(section, key) for section in SECTIONS for key in {**before.get(section, {}), **after.get(section, {})}]
    values = {
        f"{section}.{key}": (before.get(section, {}).get(key), after.get(section, {}).get(key))
        for section, key in pairs
    }
    return {key: (was, will_be) for key, (was, will_be) in values.items() if was != will_be}


def difference(old: JudgedRecipe, new: JudgedRecipe) -> list[str]:
    """The settings that differ between two resolved recipes, as `optimizer.lr: 0.001 -> 0.01`."""
    return [f"{key}: {was!r} -> {will_be!r}" for key, (was, will_be) in changes(old, new).items()]
