"""Recipes and data as Python calls name them. Nothing here imports torch, so a mistake is answered at once."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from ssl_inv.catalogue import RecipeError, SettingError
from ssl_inv.run.recipe import (
    JudgedRecipe,
    Recipe,
    apply_overrides,
    find_recipe,
    plain_value,
    read_yaml,
    resolve,
)
from ssl_inv.run.requirements import require_files, require_start
from ssl_inv.trust import allow, is_dotted

AnyRecipe = str | os.PathLike[str] | Mapping[str, Any] | Recipe
"""A recipe: the name of a shipped one, the path of a file, a mapping of sections, or a typed one."""

Settings = Mapping[str, Any]
"""Values by dotted keys: `{"trainer.steps": 100}`."""


def named_content(recipe: AnyRecipe) -> tuple[str, dict[str, Any]]:
    """The name of a recipe, and its content: section -> setting -> value.

    Raises:
        RecipeError: if there is no such recipe.
    """
    if isinstance(recipe, str | os.PathLike):
        path = find_recipe(os.fspath(recipe))
        return path.stem, read_yaml(path)
    if isinstance(recipe, JudgedRecipe):
        content = recipe.sections()
    elif isinstance(recipe, Mapping):
        content = {str(section): plain_value(value) for section, value in recipe.items()}
    else:
        _refuse(
            "recipe", "the name of a shipped recipe, the path of a file, a mapping of sections, or a Recipe", recipe
        )
    words = [section.get("name") for name in ("objective", "data") if isinstance(section := content.get(name), dict)]
    return "-".join(str(word).rpartition(".")[2] for word in words if word) or "recipe", content


def _refuse(argument: str, kinds: str, value: object) -> NoReturn:
    raise SettingError(argument, f"must be {kinds}, got {type(value).__name__}")


def require_mapping(argument: str, value: object, kinds: str) -> None:
    """Raise a `SettingError` unless an argument is a mapping or None."""
    if not isinstance(value, Mapping | None):
        _refuse(argument, kinds, value)


def place(argument: str, value: object, kinds: str = "a path") -> Path:
    """An argument as a path; a `SettingError` if it is none."""
    if not isinstance(value, str | os.PathLike):
        _refuse(argument, kinds, value)
    return Path(value)


def changed(
    content: dict[str, Any], settings: Settings | None, trainer: Mapping[str, Any] | None, argument: str = "settings"
) -> dict[str, Any]:
    """The content of a recipe after settings, which are called `argument`, and after settings of its section `trainer`.

    Raises:
        RecipeError: if one of them has another form, or both say the same.
    """
    require_mapping(argument, settings, "a mapping such as {'trainer.steps': 100}")
    require_mapping("trainer", trainer, "a mapping of settings such as {'steps': 100}")
    of_trainer = {f"trainer.{key}": value for key, value in (trainer or {}).items()}
    if both := [key for key in of_trainer if key in (settings or {})]:
        raise SettingError(both[0], "is given twice, in `settings` and in `trainer`")
    try:
        found = apply_overrides(content, {**(settings or {}), **of_trainer})
    except RecipeError as error:
        if isinstance(error, SettingError) or argument == "settings":
            raise
        raise RecipeError(f"{argument}:{str(error).removeprefix('settings:')}") from error
    lengths = [key for key in ("steps", "epochs") if f"trainer.{key}" in {**(settings or {}), **of_trainer}]
    if len(lengths) == 1:
        # A recipe says one of the two, and this one takes its place.
        other = "epochs" if lengths[0] == "steps" else "steps"
        found["trainer"] = {key: value for key, value in found["trainer"].items() if key != other}
    return found


def allow_modules(trust: object) -> None:
    """Allow the modules of an argument `trust`; a `SettingError` if it has another form."""
    names = [trust] if isinstance(trust, str) else trust
    if not isinstance(names, Sequence) or not all(isinstance(one, str) and is_dotted(one) for one in names):
        raise SettingError("trust", f"must be a list of names of modules such as ['my_package'], got {trust!r}")
    allow(names)


@contextmanager
def in_python() -> Iterator[None]:
    """Name an argument in errors as Python does, where the command line has an option."""
    try:
        yield
    except SettingError:
        raise
    except RecipeError as error:
        raise RecipeError(str(error).removeprefix("--")) from error


def in_memory(data: Any) -> bool:
    """Whether data are in memory: not named, neither by a text or path nor by a section of a recipe."""
    section = isinstance(data, Mapping) and "name" in data
    return data is not None and not section and not isinstance(data, str | os.PathLike)


def data_section(data: Any, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The section `data` of a recipe for data that are named.

    Args:
        data: a section; the name of a recipe or of a data set; or the path of a folder, zip, tar, or a CSV, Parquet,
            Arrow or numpy file.
        recipe: the section of the recipe. What it sets holds for a path, as far as it fits.

    Raises:
        RecipeError: if there are no such data.
    """
    if isinstance(data, Mapping):
        return {str(key): plain_value(value) for key, value in data.items()}
    from ssl_inv.run.data_sections import data_at, named_sections

    text = os.fspath(data)
    with in_python():
        named = named_sections(text)
    if named is not None:
        section: dict[str, Any] = named["data"]
        return section
    found = data_at(text, recipe.get("size"), None)
    return {**recipe, **found} if found["name"] == recipe.get("name") else found


def memory_section(data: Any, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The section `data` of a recipe for data in memory, which have the size of the recipe's images unless they are one
    array or tensor.
    """
    if recipe.get("name") == "given":
        return dict(recipe)
    first = next(iter(data.values()), None) if isinstance(data, Mapping) else data
    first = first[0] if isinstance(first, tuple) and first else first
    # Arrays and tensors have a shape, sources a size, and `Data` two sources.
    has_size = any(hasattr(first, name) for name in ("shape", "image_size", "validation"))
    return {"name": "given"} if has_size or recipe.get("size") is None else {"name": "given", "size": recipe["size"]}


def asked(
    recipe: AnyRecipe, data: Any, settings: Settings | None, trainer: Mapping[str, Any] | None
) -> tuple[str, Recipe]:
    """The name of a recipe and the checked recipe, with other data and after settings. Its files exist.

    Raises:
        RecipeError: on the first mistake.
    """
    name, content = named_content(recipe)
    own = content.get("data")
    own = own if isinstance(own, Mapping) else {}
    if in_memory(data):
        content = {**content, "data": memory_section(data, own)}
    elif data is not None:
        content = {**content, "data": data_section(data, own)}
    resolved = resolve(changed(content, settings, trainer), name)
    require_files(resolved)
    require_start(resolved)
    return name, resolved


def held(data: Any) -> Any:
    """A context in which data in memory are found."""
    if not in_memory(data):
        return nullcontext()
    from ssl_inv.data.sources.given import holding

    return holding(data)
