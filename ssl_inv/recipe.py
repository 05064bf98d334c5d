"""Recipes: load, check, resolve, compare. Nothing here imports torch, so a mistake is answered at once."""

import copy
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from ssl_inv.plain_yaml import dump_yaml, parse_yaml
from ssl_inv.registry import AUGMENTATIONS, DATA, OBJECTIVES, OPERATIONS, Registry, schema_of, suggest
from ssl_inv.setting_types import conform
from ssl_inv.settings import EvaluationSettings, MonitorSettings, NormalizationSettings, TrainerSettings

SHIPPED = Path(__file__).parent / "recipes"
"""The folder of the recipes that come with the package."""


class RecipeError(ValueError):
    """A recipe, or a command line over it, that cannot be run; the message is one line with the full path of the key."""


_CHOICES: Mapping[str, tuple[Registry, str | None]] = {
    "objective": (OBJECTIVES, None),
    "data": (DATA, None),
    "augmentation": (AUGMENTATIONS, "none"),
}
"""Sections whose `name` chooses among registered members, and the name they have when the recipe is silent."""

_FIXED: Mapping[str, Callable[[], Callable[..., Any]]] = {
    "backbone": lambda: schema_of("ssl_inv.backbones", "make_backbone"),
    "normalization": lambda: NormalizationSettings,
    "optimizer": lambda: schema_of("ssl_inv.optimization", "make_optimizer"),
    "trainer": lambda: TrainerSettings,
    "monitor": lambda: MonitorSettings,
    "evaluation": lambda: EvaluationSettings,
}
"""Sections with one schema: the signature of a function or dataclass."""

_LISTED = list[dict[str, Any]]
"""The type of a setting that lists operations, each a mapping with its name and its settings."""

_OF_KIND: Mapping[str, Registry] = {one.kind: one for one in (OBJECTIVES, DATA, AUGMENTATIONS, OPERATIONS)}
"""The registries by the word that annotates a setting whose value is one of their members."""

SECTIONS = ("objective", "backbone", "data", "augmentation", "normalization", "optimizer", "trainer", "monitor", "evaluation")

JUDGED = ("data", "normalization", "evaluation")
"""The sections that say how a model is judged, whatever it was trained on."""


class Recipe(dict[str, dict[str, Any]]):
    """A checked recipe with every setting filled in: section -> setting -> value."""

    def settings(self, section: str) -> dict[str, Any]:
        """The settings of a section without its `name`, for sections whose name chooses a class."""
        return {key: value for key, value in self[section].items() if not (section in _CHOICES and key == "name")}

    def dump(self) -> str:
        """The recipe as YAML, in the order of the sections."""
        return dump_yaml({section: dict(self[section]) for section in SECTIONS if section in self})


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """Read a shipped recipe by name or any recipe by path, apply `--section.key value` overrides, check it and fill in the defaults.

    Raises:
        RecipeError: on the first thing that is wrong.
    """
    path = find_recipe(name_or_path)
    return resolve(apply_overrides(read_yaml(path), overrides or []), path.name)


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe.

    Raises:
        RecipeError: if there is neither a shipped recipe nor a file of that name.
    """
    if name_or_path in (names := shipped_recipes()):
        return names[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
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
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{path.name}{where}: {getattr(error, 'problem', None) or 'not valid YAML'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error.__class__.__name__})") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path.name}: a recipe is a mapping of sections; {suggest('', SECTIONS)}")
    return content


def apply_overrides(content: dict[str, Any], overrides: list[str], sections: Sequence[str] = SECTIONS) -> dict[str, Any]:
    """The content with the settings of `["--section.key", "value", "--section.key=value", ...]` put over it.

    An objective, data set or augmentation that is chosen by another `name` begins with its own defaults: what the recipe sets for the one
    that it names is not carried over, even where the two have a setting of the same name. A setting that has settings of its own, such as
    another objective, is treated alike: `--objective.base.temperature 0.2`.

    Raises:
        RecipeError: if an argument is not of that form, or its section is none of `sections`.
    """
    content = {section: dict(value) if isinstance(value, dict) else value for section, value in content.items()}
    for section, settings in _parse_overrides(overrides, sections).items():
        default = _CHOICES[section][1] if section in _CHOICES else None
        content[section] = _overridden(section, content.get(section), settings, section in _CHOICES, default)
    return content


class _OneByOne(dict[str, Any]):
    """Some settings that were given one by one, to be put over others; a plain mapping replaces them."""


def _overridden(where: str, old: Any, settings: _OneByOne, named_member: bool, default: str | None = None) -> dict[str, Any]:
    """The settings `old` with others over them, unless these name another member: then these alone."""
    old = {} if old is None else old
    if not isinstance(old, dict):
        raise RecipeError(f"{where}: expected a mapping of settings, got {old!r}")
    if named_member and settings.get("name", old.get("name")) != old.get("name", default):
        old = {}
    inner = {
        key: _overridden(f"{where}.{key}", old.get(key), value, named_member=True) if isinstance(value, _OneByOne) else value
        for key, value in settings.items()
    }
    return {**old, **inner}


def _parse_overrides(overrides: list[str], sections: Sequence[str]) -> dict[str, _OneByOne]:
    found: dict[str, _OneByOne] = {}
    arguments = overrides.copy()
    while arguments:
        key, equals, value = arguments.pop(0).removeprefix("--").partition("=")
        if not equals:
            if not arguments or re.match(r"--\w", arguments[0]):
                raise RecipeError(f"--{key}: a value is missing")
            value = arguments.pop(0)
        section, _, setting = key.partition(".")
        if section not in sections:
            raise RecipeError(f"--{key}: no section {section!r} can be set here; {suggest(section, sections)}")
        try:
            _put(found.setdefault(section, _OneByOne()), setting.split("."), _typed(value))
        except yaml.YAMLError:
            raise RecipeError(f"--{key}: {value!r} is not a valid YAML value") from None
    return found


def _typed(word: str) -> Any:
    """The YAML value that a word of the command line is, or the word as it was typed: a path may have ` #` or `: ` in it."""
    parsed = parse_yaml(word)
    opening = word.lstrip()[:1]
    cut = isinstance(parsed, str) and opening not in ("'", '"')
    bare = (isinstance(parsed, dict) and opening != "{") or (isinstance(parsed, list) and opening != "[")
    return word if cut or bare else parsed


def _put(settings: dict[str, Any], way: Sequence[str], value: Any) -> None:
    """Set what stands at the end of a way of keys, which may begin in a mapping that was given as a whole."""
    *outer, last = way
    for key in outer:
        if not isinstance(settings.get(key), dict):
            settings[key] = _OneByOne()
        settings = settings[key]
    settings[last] = value


def check_overrides(overrides: list[str]) -> None:
    """Check what can be checked of overrides over `JUDGED` before the data and its other settings are known.

    Raises:
        RecipeError: on the first thing that is wrong.
    """
    content = apply_overrides({}, overrides, JUDGED)
    fixed = [section for section in content if section in _FIXED]
    resolve({section: content[section] for section in fixed}, "the command line", fixed)


def require_files(recipe: Recipe) -> None:
    """Raise a `RecipeError` if a folder or file that the data section or the objective names is not there."""
    for section, setting in (("data", "path"), ("data", "validation"), ("data", "split_folder"), ("objective", "teacher_path")):
        if section not in recipe or recipe[section]["name"] not in _CHOICES[section][0].entries:
            continue
        value = recipe[section].get(setting)
        if value is not None and not (path := Path(value).expanduser()).exists():
            beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
            close = get_close_matches(path.name, beside, n=1)
            tail = f"; did you mean {str(path.with_name(close[0]))!r}?" if close else ""
            raise RecipeError(f"{section}.{setting}: no such file or folder: {value!r}{tail}")


def resolve(content: dict[str, Any], origin: str = "recipe", sections: Sequence[str] = SECTIONS) -> Recipe:
    """Check every section against its schema and fill in the defaults.

    Args:
        content: section -> setting -> value, as read.
        origin: what to call the recipe in a message.
        sections: the sections that are wanted.

    Raises:
        RecipeError: naming the full key path of the first thing that is wrong, and the closest valid choice.
    """
    if (unknown := next((section for section in content if section not in sections), None)) is not None:
        raise RecipeError(f"{origin}: no section is called {unknown!r}; {suggest(str(unknown), sections)}")
    return Recipe({section: _resolve_section(section, content.get(section, {}), origin) for section in sections})


def _resolve_section(section: str, given: Any, origin: str) -> dict[str, Any]:
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise RecipeError(f"{section}: expected a mapping of settings, got {given!r}")
    if section not in _CHOICES:
        return _check_settings(section, _FIXED[section](), given, origin)
    registry, default = _CHOICES[section]
    name = given.get("name", default)
    if not isinstance(name, str):
        raise RecipeError(f"{section}.name: required, and {origin} does not give it; {suggest('', registry.entries)}")
    settings = {key: value for key, value in given.items() if key != "name"}
    return {"name": name, **_check_settings(section, section_schema(section, name), settings, origin)}


def section_schema(section: str, name: str | None = None) -> Callable[..., Any]:
    """The function or dataclass whose keyword-only parameters are the settings of a section, with the docstring that explains them.

    Args:
        section: one of `SECTIONS`.
        name: which member is chosen, for sections whose `name` chooses one.

    Raises:
        RecipeError: if there is no such member.
    """
    if name is None or section not in _CHOICES:
        return _FIXED[section]()
    with named(section):
        return _CHOICES[section][0].find(name).schema


def _check_settings(section: str, schema: Callable[..., Any], given: dict[str, Any], origin: str) -> dict[str, Any]:
    parameters = _settings_of(schema)
    for key in given:
        if key not in parameters:
            raise RecipeError(f"{section}.{key}: no such setting; {suggest(str(key), parameters)}")
    resolved = {}
    for name, parameter in parameters.items():
        if name in given:
            try:
                resolved[name] = conform(given[name], _annotation(schema, name))
            except ValueError as error:
                raise RecipeError(f"{section}.{name}: {error}") from None
            if _annotation(schema, name) == _LISTED:
                resolved[name] = [
                    _check_member(OPERATIONS, f"{section}.{name}[{number}]", one) for number, one in enumerate(resolved[name])
                ]
            elif (registry := _registry_of(schema, name)) is not None:
                resolved[name] = _check_member(registry, f"{section}.{name}", resolved[name])
        elif parameter.default is inspect.Parameter.empty:
            raise RecipeError(f"{section}.{name}: required, and {origin} does not give it")
        else:
            resolved[name] = _plain_default(schema, parameter)
            if not _is_plain(resolved[name]):
                held = "recipes hold numbers, texts, true, false, null, and lists and mappings of these"
                raise RecipeError(f"{section}.{name}: its default is {resolved[name]!r}; {held}")
    if dataclasses.is_dataclass(schema):
        with named(section):
            schema(**resolved)
    return resolved


def _check_member(registry: Registry, where: str, given: dict[str, Any]) -> dict[str, Any]:
    """A mapping that names a member of a registry, with all the member's settings filled in."""
    if not isinstance(name := given.get("name"), str):
        raise RecipeError(f"{where}.name: required; {suggest('', registry.entries, 20)}")
    try:
        schema = registry.find(name).schema
    except ValueError as error:
        raise RecipeError(f"{where}.{error}") from None
    return {"name": name, **_check_settings(where, schema, {key: value for key, value in given.items() if key != "name"}, "the recipe")}


def _settings_of(schema: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {p.name: p for p in inspect.signature(schema).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _is_plain(value: Any) -> bool:
    """Whether YAML has a form for a value: numbers of other libraries and enumerations have none."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(one) for both in value.items() for one in both)
    return value is None or type(value) in (bool, int, float, str)


def _plain_default(schema: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    if dataclasses.is_dataclass(schema):
        field = next(field for field in dataclasses.fields(schema) if field.name == parameter.name)
        if field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return copy.deepcopy(parameter.default)


def _annotation(schema: Callable[..., Any], name: str) -> Any:
    return get_type_hints(schema.__init__ if inspect.isclass(schema) else schema)[name]


def _registry_of(schema: Callable[..., Any], name: str) -> Registry | None:
    """The registry whose members a setting's value is one of, by the setting's annotation."""
    hints = get_type_hints(schema.__init__ if inspect.isclass(schema) else schema, include_extras=True)
    kinds = [kind for kind in getattr(hints[name], "__metadata__", ()) if kind in _OF_KIND]
    return _OF_KIND[kinds[0]] if kinds else None


@contextmanager
def named(section: str) -> Iterator[None]:
    """Turn a `ValueError` or a missing file into a `RecipeError` that names the section, and the setting if that begins the message."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(_with_its_way(section, " ".join(str(error).split()))) from error


def _with_its_way(section: str, message: str) -> str:
    """A message that begins with the section, and with the setting that it speaks of, which may be one of another objective's.

    A constructor speaks of its settings by name: "lr must be above 0", "name: ...", "batch_size 64 is ...", "base: lr must be above 0".
    """
    way, settings = section, _all_settings(section)

    def begins(text: str) -> str | None:
        first = re.match(r"([a-z_]+)(?=:| must | is | are | should | ['\"\[\d])", text)
        return first[1] if first and first[1] in settings else None

    while (setting := begins(message)) is not None:
        way, message = f"{way}.{setting}", message.removeprefix(setting)
        inner = message.removeprefix(": ")
        if inner == message or begins(inner) is None:
            return way + message
        message = inner
    return f"{way}: {message}"


def _all_settings(section: str) -> set[str]:
    """The names of the settings of a section, whatever its `name` chooses."""
    if section in _CHOICES:
        return {"name"}.union(*(_settings_of(entry.schema) for entry in _CHOICES[section][0].entries.values()))
    return set(_settings_of(_FIXED[section]())) if section in _FIXED else set()


def difference(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What differs between two resolved recipes, a setting each: `optimizer.lr: 0.001 -> 0.01`."""
    changed = []
    for section in SECTIONS:
        before, after = old.get(section, {}), new.get(section, {})
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key):
                changed.append(f"{section}.{key}: {before.get(key)!r} -> {after.get(key)!r}")
    return changed
