"""Recipes: load, check, resolve, compare. Nothing here imports torch, so a mistake is answered at once."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from ssl_inv.registry import AUGMENTATIONS, DATA, OBJECTIVES, Registry, schema_of, suggest

SHIPPED = Path(__file__).parent / "recipes"
"""The folder of the recipes that come with the package."""


class RecipeError(ValueError):
    """A recipe, or a command line over it, that cannot be run; the message is one line with the full path of the key."""


@dataclass(frozen=True, kw_only=True)
class NormalizationSettings:
    """What is subtracted from pixels in [0, 1] and what divides them, channel by channel.

    Args:
        mean: of the red, green and blue channel.
        std: of the three channels.
    """

    mean: list[float] = dataclasses.field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = dataclasses.field(default_factory=lambda: [0.229, 0.224, 0.225])


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How long and on what to train.

    Args:
        steps: optimiser steps; give this or `epochs`.
        epochs: passes over the objects of the training data.
        batch_size: samples of a batch over all devices together.
        accumulate: batches whose gradients are averaged into one step.
        clip: largest norm of the gradient; none does not clip.
        precision: `bf16` runs the networks in bfloat16 where that is safe; losses stay in float32.
        accelerator: what to run on; `auto` takes a GPU if there is one.
        devices: GPUs, or processes on the CPU.
        workers: loader processes per device; none chooses by the data and the machine's cores.
        seed: decides initial weights, data order, views and augmentation.
        checkpoint_every: steps between checkpoints.
        log_every: steps between lines in metrics.jsonl.
    """

    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 256
    accumulate: int = 1
    clip: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    workers: int | None = None
    seed: int = 0
    checkpoint_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("steps or epochs must be given, and not both")
        for name in ("batch_size", "accumulate", "devices", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("steps", "epochs", "workers"):
            if (value := getattr(self, name)) is not None and value < (0 if name == "workers" else 1):
                raise ValueError(f"{name} must be at least {0 if name == 'workers' else 1}, got {value}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be above 0, got {self.clip}")


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """Scores while training, on a few objects, with the encoder in evaluation mode.

    Args:
        every: steps between scores; 0 switches the monitor off.
        objects: objects to fit on, and as many at most to score on.
        share: largest share of the training time that the monitor may take; a score that would exceed it is skipped.
    """

    every: int = 50
    objects: int = 512
    share: float = 0.05

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"every must be at least 0, got {self.every}")
        if self.objects < 8:
            raise ValueError(f"objects must be at least 8, got {self.objects}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie between 0 and 1, got {self.share}")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """The judgement at the end of pretraining.

    Args:
        protocol: `full` trains the probes as the papers do, `quick` trains smaller ones for less long, `none` judges nothing.
        views: views of each object to extract; objects with fewer give what they have.
        objects: training objects to fit the probes on; none takes all.
        neighbours: k of the k-nearest-neighbour vote.
    """

    protocol: Literal["quick", "full", "none"] = "quick"
    views: int = 8
    objects: int | None = None
    neighbours: int = 20

    def __post_init__(self) -> None:
        for name in ("views", "neighbours"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.objects is not None and self.objects < 2:
            raise ValueError(f"objects must be at least 2, got {self.objects}")


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

SECTIONS = ("objective", "backbone", "data", "augmentation", "normalization", "optimizer", "trainer", "monitor", "evaluation")


class Recipe(dict[str, dict[str, Any]]):
    """A checked recipe with every setting filled in: section -> setting -> value."""

    def settings(self, section: str) -> dict[str, Any]:
        """The settings of a section without its `name`, for sections whose name chooses a class."""
        return {key: value for key, value in self[section].items() if not (section in _CHOICES and key == "name")}

    def dump(self) -> str:
        """The recipe as YAML, in the order of the sections."""
        return yaml.safe_dump({section: dict(self[section]) for section in SECTIONS if section in self}, sort_keys=False, allow_unicode=True, default_flow_style=None)


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


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as a string and keeps the last of two equal keys; this loader reads a number and refuses."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*(?:[eE][-+]?\d+)|\d[\d_]*\.[\d_]*|\.[\d_]+(?:[eE][-+]?\d+)?|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+0123456789."),
)


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


def parse_yaml(text: str) -> Any:
    """A YAML value, with `1e-3` as a number."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def apply_overrides(content: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The content with the settings of `["--section.key", "value", "--section.key=value", ...]` put over it.

    Raises:
        RecipeError: if an argument is not of that form.
    """
    content = {section: dict(value) if isinstance(value, dict) else value for section, value in content.items()}
    arguments = list(overrides)
    while arguments:
        key = arguments.pop(0)
        if not key.startswith("--"):
            raise RecipeError(f"unexpected argument {key!r}; settings are given as --section.key value")
        key, equals, value = key[2:].partition("=")
        if not equals:
            if not arguments:
                raise RecipeError(f"--{key}: a value is missing")
            value = arguments.pop(0)
        section, dot, setting = key.partition(".")
        if not dot:
            raise RecipeError(f"--{key}: no such option; {suggest(key, [f'--{one}.' for one in SECTIONS] + ['--output', '--resume'])}")
        if not isinstance(content.setdefault(section, {}), dict):
            raise RecipeError(f"{section}: expected a mapping of settings, got {content[section]!r}")
        try:
            content[section][setting] = parse_yaml(value)
        except yaml.YAMLError:
            raise RecipeError(f"{key}: {value!r} is not a valid value") from None
    return content


def resolve(content: dict[str, Any], origin: str = "recipe", sections: Sequence[str] = SECTIONS) -> Recipe:
    """Check every section against its schema and fill in the defaults.

    Args:
        content: section -> setting -> value, as read.
        origin: what to call the recipe in a message.
        sections: the sections that are wanted.

    Raises:
        RecipeError: naming the full key path of the first thing that is wrong, and the closest valid choice.
    """
    for section in content:
        if section not in sections:
            raise RecipeError(f"{origin}: no section is called {section!r}; {suggest(str(section), sections)}")
    return Recipe({section: _resolve_section(section, content.get(section, {}), origin) for section in sections})


def _resolve_section(section: str, given: Any, origin: str) -> dict[str, Any]:
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise RecipeError(f"{section}: expected a mapping of settings, got {given!r}")
    settings, resolved = dict(given), {}
    if section in _CHOICES:
        registry, default = _CHOICES[section]
        name = settings.pop("name", default)
        if not isinstance(name, str):
            raise RecipeError(f"{section}.name: required in {origin}; {suggest('', registry.entries)}")
        with named(section):
            try:
                schema: Callable[..., Any] = registry.find(name).schema
            except ValueError as error:
                raise ValueError(f"name: {error}") from None
        resolved["name"] = name
    else:
        schema = _FIXED[section]()
    return {**resolved, **_check_settings(section, schema, settings, origin)}


def _check_settings(section: str, schema: Callable[..., Any], given: dict[str, Any], origin: str) -> dict[str, Any]:
    parameters = {p.name: p for p in inspect.signature(schema).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    for key in given:
        if key not in parameters:
            raise RecipeError(f"{section}.{key}: no such setting; {suggest(str(key), parameters)}")
    checker = _checker(schema)
    resolved = {}
    for name, parameter in parameters.items():
        if name in given:
            resolved[name] = _check_value(checker, f"{section}.{name}", name, given[name], _annotation(schema, name))
        elif parameter.default is inspect.Parameter.empty:
            raise RecipeError(f"{section}.{name}: required, and {origin} does not give it")
        else:
            resolved[name] = _plain_default(schema, parameter)
    if dataclasses.is_dataclass(schema):
        with named(section):
            schema(**resolved)
    return resolved


def _plain_default(schema: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    if dataclasses.is_dataclass(schema):
        field = next(field for field in dataclasses.fields(schema) if field.name == parameter.name)
        if field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return list(parameter.default) if isinstance(parameter.default, list) else parameter.default


def _annotation(schema: Callable[..., Any], name: str) -> Any:
    return get_type_hints(schema.__init__ if inspect.isclass(schema) else schema)[name]


@lru_cache(maxsize=None)
def _checker(schema: Callable[..., Any]) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    for name, parameter in inspect.signature(schema).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            parser.add_argument(f"--{name}", type=_annotation(schema, name))
    return parser


def _check_value(checker: Any, path: str, name: str, value: Any, annotation: Any) -> Any:
    from jsonargparse import ArgumentError

    wanted = describe_type(annotation)
    # Command-line parsers read "64" as 64 and true as 1; in a file the type that is written is meant.
    exact = isinstance(value, bool) and bool not in _members(annotation) or value is None and type(None) not in _members(annotation)
    try:
        if exact or (isinstance(value, str) and str not in _members(annotation) and value not in _members(annotation)):
            raise TypeError
        checked = checker.parse_object({name: value}, defaults=False)[name]
    except (ArgumentError, TypeError, ValueError, KeyError):
        choices = [one for one in _members(annotation) if isinstance(one, str)]
        tail = f"; {suggest(value, choices)}" if choices and isinstance(value, str) else ""
        raise RecipeError(f"{path}: expected {wanted}, got {value!r}{tail}") from None
    return float(checked) if annotation is float and isinstance(checked, int) else checked


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types and literal values that an annotation admits at its top level."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) is None:
        return (annotation,)
    if get_origin(annotation) in (list, dict, tuple):
        return (get_origin(annotation),)
    return tuple(member for part in get_args(annotation) for member in _members(part))


def describe_type(annotation: Any) -> str:
    """An annotation in words: "a whole number or none", "a list of numbers"."""
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null", Any: "a value"}
    if annotation in words:
        return words[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(str(one) for one in arguments)
    if origin is list:
        plural = {int: "whole numbers", float: "numbers", str: "texts"}
        return f"a list of {plural.get(arguments[0], 'values')}"
    if origin is dict:
        return "a mapping"
    return " or ".join(describe_type(one) for one in arguments)


@contextmanager
def named(section: str) -> Iterator[None]:
    """Turn a `ValueError` or a missing file from inside into a `RecipeError` that names the section, and the setting if it begins the message."""
    try:
        yield
    except RecipeError:
        raise
    except (ValueError, FileNotFoundError) as error:
        message = " ".join(str(error).split())
        # A constructor speaks of its settings by name; only the section is missing for a full path.
        joined = "." if re.match(r"[a-z_]+(:| must| is| are)", message) else ": "
        raise RecipeError(f"{section}{joined}{message}") from error


def difference(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What differs between two resolved recipes, a setting each: `optimizer.lr: 0.001 -> 0.01`."""
    changed = []
    for section in SECTIONS:
        before, after = old.get(section, {}), new.get(section, {})
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key):
                changed.append(f"{section}.{key}: {before.get(key)!r} -> {after.get(key)!r}")
    return changed
