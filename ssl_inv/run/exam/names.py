"""The names and the folders of encoders that are examined together."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ssl_inv.catalogue import RecipeError, SettingError
from ssl_inv.run.encoders import Model
from ssl_inv.run.folder import require_results


def named(encoders: Any) -> dict[str, Any]:
    """Encoders by the name that a table shows.

    Args:
        encoders: a mapping, one encoder, or several. Names that would be equal are numbered.

    Raises:
        RecipeError: if there are none.
    """
    if isinstance(encoders, Mapping):
        found = {str(name): encoder for name, encoder in encoders.items()}
    else:
        several = isinstance(encoders, Sequence) and not isinstance(encoders, str | nn.Module)
        found = {}
        for encoder in encoders if several else [encoders]:
            name, number = _name(encoder), 2
            while name in found:
                name, number = f"{_name(encoder)}-{number}", number + 1
            found[name] = encoder
    if not found:
        raise RecipeError("encoders: there are none")
    return found


def _name(encoder: Any) -> str:
    if hasattr(encoder, "__fspath__") or isinstance(encoder, str):
        text: str = os.fspath(encoder)
        if text.startswith(("timm:", "torchvision:")):
            return text
        path = Path(text).resolve()
        # The folders and files of a run have the same names in every run.
        if path.parent.name == "checkpoints":
            return f"{path.parents[1].name}-{path.stem}"
        return f"{path.parent.name}-export" if path.name == "export" else path.name
    if (source := getattr(encoder, "source", None)) and isinstance(source, Model) and source.run is not None:
        return str(source.run.folder.path.resolve().name)
    return str(getattr(encoder, "__name__", type(encoder).__name__))


def places_of(names: Sequence[str], output: Path | None) -> dict[str, Path | None]:
    """The folder of the results of each encoder: of a single one, `output` itself.

    Raises:
        RecipeError: if one cannot be written or holds something else.
        SettingError: if a name cannot be that of a folder.
    """
    if output is None:
        return dict.fromkeys(names)
    if len(names) == 1:
        places = {names[0]: output}
    else:
        folders = {name: name.replace(":", "-") for name in names}
        if odd := [name for name, folder in folders.items() if Path(folder).name != folder]:
            raise SettingError("encoders", f"{odd[0]!r} cannot be the name of a folder in {str(output)!r}")
        places = {name: output / folder for name, folder in folders.items()}
    for place in places.values():
        require_results(place)
    return {**places}
