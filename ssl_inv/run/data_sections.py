"""The section `data` of a recipe for data that are named: by a recipe, a data set, a folder, an archive or a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_inv.catalogue import DATA, RecipeError, suggest, within
from ssl_inv.data.archives import Files
from ssl_inv.data.roots import is_list
from ssl_inv.data.sheets import is_sheet
from ssl_inv.run.recipe import JUDGED, apply_overrides, find_recipe, read_yaml, shipped_recipes

_DESCRIBED_SIZE = 128
"""Side of the images of files that are only described."""


def sections_with_data(
    own: dict[str, Any],
    data: str | Mapping[str, Any] | None,
    size: int | None,
    overrides: list[str] | Mapping[str, Any],
) -> dict[str, Any]:
    """The sections of an encoder, with the data that `--data` names.

    Args:
        own: of the encoder.
        data: recipe, name of a data set, folder, zip, tar or CSV file, or a section; None takes the encoder's own.
        size: side of the images that the encoder takes; None: any.
        overrides: may choose the kind of data.

    Raises:
        RecipeError: if there are no such data.
    """
    chosen = apply_overrides({}, overrides, JUDGED).get("data", {}).get("name")
    if data is None:
        if "data" not in own and chosen is None:
            raise RecipeError("--data is missing: a recipe, data set, folder, zip, tar or CSV file to take images from")
        return own
    if isinstance(data, Mapping):
        return {**own, "data": dict(data)}
    named = named_sections(data)
    return {**own, **({"data": data_at(Path(data), size, chosen)} if named is None else named)}


def named_sections(data: str, option: str = "--data ") -> dict[str, Any] | None:
    """The sections of a recipe for the name of a data set or of a recipe; None if it is the path of data.

    Args:
        data: what names them.
        option: stands before it in messages.

    Raises:
        RecipeError: if it is none of these.
    """
    if data in DATA.members:
        return {"data": {"name": data}}
    if data in shipped_recipes() or data.endswith((".yaml", ".yml")):
        content = read_yaml(find_recipe(data))
        return {name: content[name] for name in ("data", "evaluation") if name in content}
    if not Path(data).expanduser().exists():
        known = [*shipped_recipes(), *DATA.members]
        raise RecipeError(f"{option}{data}: no such file, folder, recipe or data set; {suggest(data, known)}")
    return None


def described_section(data: str, overrides: list[str]) -> dict[str, Any]:
    """The section `data` of a recipe for data that are only described.

    Args:
        data: recipe, name of a data set, folder, zip, tar or table.
        overrides: may choose the kind of data.

    Raises:
        RecipeError: if there is no such data.
    """
    if (named := named_sections(data, "")) is not None:
        section: dict[str, Any] = named.get("data") or {}
        return section
    kind = apply_overrides({}, overrides, ["data"]).get("data", {}).get("name")
    return data_at(Path(data).expanduser(), _DESCRIBED_SIZE, kind)


def data_at(path: Path, size: int | None, kind: str | None) -> dict[str, Any]:
    """The data section for a path. `kind` decides, or else the files: 3DIEBench's layout, a table, a text file of
    paths, or plain images.
    """
    if is_sheet(path.name):
        return {"name": "table", "path": str(path.parent), "csv_file": path.name, "size": size}
    if kind is None and is_list(path) and path.expanduser().is_file():
        kind = "folder"
    if kind is None:
        with within("data"):
            tops = set(Files(path).inside(""))
        kind = "folder"
        if "train_images.npy" in tops:
            kind = "threediebench"
        elif any(map(is_sheet, tops)):
            kind = "table"
    return {"name": kind, "path": str(path), "size": size}
