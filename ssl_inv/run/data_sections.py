"""The section `data` of a recipe for data that are named: by a recipe, a data set, a folder, an archive or a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_inv.catalogue import DATA, RecipeError, suggest, within
from ssl_inv.data.archives import Files
from ssl_inv.data.array_files import is_array_of_images
from ssl_inv.data.images import IMAGE_SUFFIXES
from ssl_inv.data.reading import PLAIN, Reading
from ssl_inv.data.roots import is_list
from ssl_inv.data.shards.addresses import is_address, is_pattern
from ssl_inv.data.shards.samples import are_samples
from ssl_inv.data.sheets import is_sheet
from ssl_inv.data.sources.arrow.layout import COLUMN_SUFFIXES, is_column_file, is_saved_dataset
from ssl_inv.data.sources.meshes.reading import MESH_SUFFIXES
from ssl_inv.engine.launch import say
from ssl_inv.run.recipe import JUDGED, apply_overrides, find_recipe, read_yaml, shipped_recipes
from ssl_inv.run.schema import schema_of

_DESCRIBED_SIZE = 128
"""Side of the images of files that are only described."""


def sections_with_data(
    own: dict[str, Any],
    data: str | Mapping[str, Any] | None,
    size: int | None,
    overrides: list[str] | Mapping[str, Any],
    reading: Reading = PLAIN,
) -> dict[str, Any]:
    """The sections of an encoder, with the data that `--data` names.

    Their files are read as those that the encoder was trained on, unless they have settings of their own for that; it
    is said where these differ.

    Args:
        own: of the encoder.
        data: recipe, name of a data set, path of data, or a section; None takes the encoder's own.
        size: side of the images that the encoder takes; None: any.
        overrides: may choose the kind of data.
        reading: how the encoder's own files were read.

    Raises:
        RecipeError: if there are no such data.
    """
    chosen = apply_overrides({}, overrides, JUDGED).get("data", {}).get("name")
    if data is None:
        if "data" not in own and chosen is None:
            kinds = "a recipe, data set, folder, zip, tar, or CSV, Parquet, Arrow or numpy file to take images from"
            raise RecipeError(f"--data is missing: {kinds}")
        return own
    if isinstance(data, Mapping):
        found: dict[str, Any] = {"data": dict(data)}
    elif (named := named_sections(data)) is None:
        found = {"data": data_at(data, size, chosen)}
    else:
        found = named
    return {**own, **_read_alike(found, overrides, reading)}


_TOGETHER = (("bands", "channels"), ("range", "white"), ("background",))
"""Settings of values that say one thing: who gives one of them gives all."""


def _read_alike(sections: dict[str, Any], overrides: list[str] | Mapping[str, Any], reading: Reading) -> dict[str, Any]:
    """The sections with files read as a reading says, where the data have such settings and no own ones."""
    wanted, section = reading.settings(), sections.get("data")
    if not wanted or not isinstance(section, dict):
        return sections
    given = {**section, **apply_overrides({}, overrides, JUDGED).get("data", {})}
    with within("data"):
        known = schema_of(DATA.find(str(given.get("name", "")))).settings
    added: dict[str, Any] = {}
    for names in _TOGETHER:
        own = {name: wanted[name] for name in names if name in wanted}
        here = {name: _as_pairs(name, given[name]) for name in names if name in given}
        if not here:
            added |= {name: value for name, value in own.items() if name in known}
        elif own and here != own:
            say(f"data: {_in_words(here)}, and the encoder was trained on files read with {_in_words(own)}")
    return {**sections, "data": {**section, **added}}


def _in_words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _as_pairs(name: str, value: Any) -> Any:
    """The value of a setting in the form that `Reading.settings` has: `range` as a list of pairs."""
    if name == "range" and isinstance(value, list | tuple) and value and not isinstance(value[0], list | tuple):
        return [list(value)]
    return value


def named_sections(data: str, option: str = "--data ") -> dict[str, Any] | None:
    """The sections of a recipe for the name of a data set or of a recipe; None if it is the path of data.

    Args:
        data: what names them.
        option: stands before it in messages.

    Raises:
        RecipeError: if it is none of these.
    """
    if not data.strip():
        raise RecipeError(f"{option.strip() or 'DATA'}: is empty")
    if data in DATA.members:
        return {"data": {"name": data}}
    if data in shipped_recipes() or data.endswith((".yaml", ".yml")):
        content = read_yaml(find_recipe(data))
        return {name: content[name] for name in ("data", "evaluation") if name in content}
    if not Path(data).expanduser().exists() and not names_shards(data):
        if data.startswith("["):
            raise RecipeError(f"{option}{data}: several paths are given as `folder` and --data.path '{data}'")
        known = [*shipped_recipes(), *DATA.members]
        raise RecipeError(f"{option}{data}: no such file, folder, recipe or data set; {suggest(data, known)}")
    return None


def described_section(data: str, overrides: list[str]) -> dict[str, Any]:
    """The section `data` of a recipe for data that are only described.

    Args:
        data: recipe, name of a data set, or path of data.
        overrides: may choose the kind of data.

    Raises:
        RecipeError: if there is no such data.
    """
    if (named := named_sections(data, "")) is not None:
        section: dict[str, Any] = named.get("data") or {}
        return section
    kind = apply_overrides({}, overrides, ["data"]).get("data", {}).get("name")
    return data_at(data, _DESCRIBED_SIZE, kind)


def names_shards(data: str) -> bool:
    """Whether a text that names no file stands for tar shards: an address, or a pattern."""
    return is_address(data) or is_pattern(data)


def data_at(data: str, size: int | None, kind: str | None) -> dict[str, Any]:
    """The data section for a path. `kind` decides, or else the files."""
    path = Path(data).expanduser()
    if not path.exists() and names_shards(data):
        return {"name": "shards", "path": data, "size": size}
    if is_sheet(path.name) and kind in (None, "table"):
        return {"name": "table", "path": str(path.parent), "csv_file": path.name, "size": size}
    return {"name": _kind_at(path) if kind is None else kind, "path": str(path), "size": size}


def _kind_at(path: Path) -> str:
    """The kind of data of a path, by the files that are there: columns, arrays, a text file of paths, 3DIEBench's
    layout, a table, tar shards, or plain images.
    """
    if path.is_file() and is_column_file(path):
        return "arrow"
    if path.is_file() and is_list(path):
        return "folder"
    if path.suffix.lower() in (".npy", ".npz"):
        return "arrays"
    if path.suffix.lower() in MESH_SUFFIXES and path.is_file():
        folder = f"give the folder that it lies in, {path.parent}, and --data.name meshes"
        raise RecipeError(f"{path} is a mesh, not images; {folder}")
    if is_saved_dataset(path):
        return "arrow"
    with within("data"):
        files = Files(path)
        tops = set(files.inside(""))
    if {"recipe.yaml", "run.json"} <= tops:
        raise RecipeError(f"{path} is the folder of a run; its recipe names its data: {path / 'recipe.yaml'}")
    if "train_images.npy" in tops:
        return "threediebench"
    if any(map(is_sheet, tops)):
        return "table"
    if are_samples(files) or (path.is_dir() and any(name.endswith(".tar") for name in tops)):
        return "shards"
    if not path.is_dir() or len(files.with_suffix(IMAGE_SUFFIXES)):
        return "arrow" if "metadata.parquet" in tops else "folder"
    if len(files.with_suffix(COLUMN_SUFFIXES)):
        return "arrow"
    return "arrays" if any(map(is_array_of_images, tops)) else "folder"
