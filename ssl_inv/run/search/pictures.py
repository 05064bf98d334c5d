"""The pictures behind the rows of an index, and queries as the encoder takes them."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from ssl_inv.catalogue import RecipeError
from ssl_inv.data.archives import Files, unpacked
from ssl_inv.data.decoding import Pixels, UnreadableImageError, decode, to_rgb, to_square
from ssl_inv.data.images import IMAGE_SUFFIXES
from ssl_inv.data.pixels import as_colours
from ssl_inv.data.source import Data
from ssl_inv.evaluation.features import EvaluationBatch, extract
from ssl_inv.run.build import build_data
from ssl_inv.run.encoders import best_device
from ssl_inv.run.recipe import apply_overrides, resolve_judged, resolve_section
from ssl_inv.run.requirements import require_files
from ssl_inv.views.maker import central

_BATCH = 256


class Pictures:
    """Finds the picture of a row: in the files of the data if it has files, else in the data itself.

    Args:
        manifest: of the embeddings.
        columns: `id`, `split`, `object` and `view` of every row.
        overrides: settings of the data that have changed since, as on a command line.
    """

    def __init__(
        self, manifest: Mapping[str, Any], columns: Mapping[str, Sequence[Any]], overrides: Sequence[str]
    ) -> None:
        self._columns, self._cannot = columns, ""
        sections = apply_overrides({"data": dict(manifest["data"])}, list(overrides), ["data"])
        self._section: dict[str, Any] = sections["data"]
        if overrides:
            resolve_section("data", dict(self._section), "the command line")
        before = Path(manifest.get("encoder", {}).get("folder", "."))
        for key in ("path", "validation"):
            value = self._section.get(key)
            if isinstance(value, str) and not Path(value).expanduser().exists() and (before / value).exists():
                self._section[key] = str(before / value)

    @cached_property
    def _files(self) -> dict[str, Files]:
        found = {}
        for split in ("train", "validation"):
            place = (self._section.get("validation") if split == "validation" else None) or self._section.get("path")
            if isinstance(place, str):
                try:
                    found[split] = Files(place)
                except (OSError, ValueError) as error:
                    self._cannot = str(error)
        return found

    @property
    def cannot(self) -> str:
        """Why there are no pictures; empty if there are."""
        return self._cannot

    def path(self, row: int) -> str | None:
        """The file of a row; None if it is not there, or lies in an archive."""
        files = self._files.get(self._columns["split"][row])
        if files is None or not files.path.is_dir():
            return None
        path = files.path / self._columns["id"][row]
        return str(path) if path.is_file() else None

    def _content(self, row: int) -> bytes | None:
        files = self._files.get(self._columns["split"][row])
        try:
            return None if files is None else files.read(self._columns["id"][row])
        except Exception:  # A damaged archive gives zlib.error, struct.error and more.
            return None

    @cached_property
    def _data(self) -> Data | None:
        if self._section["name"] in ("folder", "table"):
            return None
        try:
            recipe = resolve_judged({"data": self._section}, [])
            require_files(recipe)
            return build_data(recipe)
        except (RecipeError, OSError, ValueError) as error:
            self._cannot = str(error)
            return None

    def _loaded(self, row: int) -> Pixels | None:
        if self._data is None:
            return None
        source = self._data.train if self._columns["split"][row] == "train" else self._data.validation
        one, view = (np.array([self._columns[name][row]], dtype=np.int64) for name in ("object", "view"))
        try:
            if source.describe(int(one[0]), int(view[0])) != self._columns["id"][row]:
                return None
            images = source.load(one, view)
        except (OSError, ValueError, IndexError):
            return None
        shown = as_colours(images.pixels[0].cpu()).permute(1, 2, 0).contiguous().numpy()
        return shown if bool(images.readable[0]) else None

    def square(self, row: int, side: int) -> Pixels | None:
        """The centre square of the picture of a row, about `side` pixels wide; None if it cannot be found or read."""
        if (content := self._content(row)) is not None:
            try:
                return decode(content, side)
            except UnreadableImageError:
                return None
        return self._loaded(row)

    def digest(self, row: int) -> str | None:
        """A hash of the file of a row, or of its pixels if it has no file; None if there is neither."""
        if (content := self._content(row)) is not None:
            return hashlib.sha256(content).hexdigest()
        pixels = self._loaded(row)
        return None if pixels is None else hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def square_of(image: Any, side: int) -> Pixels:
    """The centre square of a PIL image or of pixels `(H, W, 3)`, uint8.

    Raises:
        RecipeError: if it is neither.
    """
    pixels = np.asarray(to_rgb(image)) if isinstance(image, Image.Image) else np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        wanted = "a path, the id or number of a row, a PIL image, or pixels (H, W, 3) of uint8"
        raise RecipeError(f"a query is {wanted}; got {type(image).__name__} of shape {pixels.shape}")
    return to_square(pixels, side)


def squares_at(path: Path, side: int) -> tuple[dict[str, Pixels], dict[str, str]]:
    """The images of a file, folder or archive by name, and the reasons for those that cannot be read.

    Raises:
        RecipeError: if a folder or archive has no images.
    """
    if path.is_file() and path.suffix.lower() not in (".zip", ".tar"):
        contents = {str(path): path.read_bytes}
    else:
        try:
            files = Files(path)
        except (OSError, ValueError) as error:
            raise RecipeError(str(error)) from None
        names = [unpacked(name) for name in files.with_suffix(IMAGE_SUFFIXES)]
        if not names:
            raise RecipeError(f"{str(path)!r} has no images")
        contents = {f"{path}/{name}": lambda name=name: files.read(name) for name in names}  # type: ignore[misc]
    found: dict[str, Pixels] = {}
    broken: dict[str, str] = {}
    for name, read in contents.items():
        try:
            found[name] = decode(read(), side)
        except (OSError, ValueError) as error:
            broken[name] = str(error)
    return found, broken


def encode(backbone: nn.Module, pixels: Pixels, facts: Mapping[str, Any]) -> NDArray[np.float32]:
    """The features `(B, D)` of squares `(B, S, S, 3)`, by the same steps as when the index was made."""
    device = best_device()
    mean, std = (torch.tensor(facts[name], device=device).view(1, -1, 1, 1) for name in ("mean", "std"))
    if (channels := mean.shape[1]) != pixels.shape[-1]:
        problem = f"images of {channels} channel(s), and a query by picture has {pixels.shape[-1]}"
        raise RecipeError(f"the encoder takes {problem}; ask with the id or number of a row")

    def batch(start: int) -> EvaluationBatch:
        some = torch.from_numpy(pixels[start : start + _BATCH]).permute(0, 3, 1, 2).to(device).float() / 255
        rows = torch.arange(start, start + len(some))
        return EvaluationBatch((central(some, facts["crop_share"]) - mean) / std, rows, torch.zeros_like(rows))

    batches = (batch(start) for start in range(0, len(pixels), _BATCH))
    features: NDArray[np.float32] = (
        extract(backbone, batches, device, module=backbone, disk=bool(facts["disk"])).part("all").numpy()
    )
    return features
