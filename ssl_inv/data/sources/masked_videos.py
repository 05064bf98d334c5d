"""Videos as folders of frames, with a mask of instances for every frame, as DAVIS has them."""

import io
import os
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssl_inv.catalogue import SettingError, require
from ssl_inv.data.archives import Files
from ssl_inv.data.images import IMAGE_SUFFIXES
from ssl_inv.data.names import unpacked
from ssl_inv.data.roots import open_files
from ssl_inv.data.source import Data, Indices
from ssl_inv.data.splits import part
from ssl_inv.data.squashed import SquashedFiles
from ssl_inv.data.videos.reading import by_number
from ssl_inv.transforms.annotations import Video

FRAMES, MASKS = "JPEGImages", "Annotations"
"""Folders of DAVIS's own layout."""


def masked_videos(
    *,
    path: str,
    size: int | None = 96,
    masks: str = "_mask",
    validation_share: float = 0.2,
    split_seed: int = 0,
    cache: bool | None = None,
    max_broken: float = 0.01,
) -> Data:
    """Videos with a mask for every frame, in a folder or in a zip or tar archive: DAVIS, or frames with masks beside
    them.

    A video is an object and its frames are the views, in the order of the numbers in their names. Images are squashed
    to squares; the protocol `label_propagation` reads whole frames.

    Args:
        path: has `JPEGImages/.../VIDEO/00000.jpg` and `Annotations/.../VIDEO/00000.png`, or one folder for each video.
        size: side of the square images.
        masks: the end of the name of a mask that stands beside its frame, `00000_mask.png` for `00000.jpg`. Not used
            in DAVIS's own layout. In a mask, 0 is the ground and other values are instances; of grey masks of 0 and 255
            alone, 255 is the only instance; elsewhere 255 counts for nothing.
        validation_share: share of the videos held out for validation.
        split_seed: which videos are held out.
        cache: whether decoded images stay in memory; None: if all of them fit in 2 GB.
        max_broken: share of the images that may be unreadable.
    """
    source = MaskedVideos(path, size, masks, cache, max_broken)
    return part(source, {}, None, validation_share, split_seed, source.notes)


class MaskedVideos(SquashedFiles):
    """Frames with masks, video by video; arguments as of `masked_videos`.

    Attributes:
        notes: facts for the run's record.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        SettingError: if there are no masks, or a frame has none.
    """

    def __init__(
        self,
        path: str,
        size: int | None = 96,
        masks: str = "_mask",
        cache: bool | None = None,
        max_broken: float = 0.01,
    ) -> None:
        require(bool(masks), "masks", "must be the end of a name, such as _mask")
        self.files = files = open_files(path)
        pairs = _pairs(files, masks)
        folders: dict[str, list[str]] = {}
        for name in pairs:
            folders.setdefault(str(PurePosixPath(name).parent), []).append(name)
        frames = [name for folder in sorted(folders) for name in sorted(folders[folder], key=by_number)]
        self._masks = [pairs[name] for name in frames]
        counts = np.array([len(folders[folder]) for folder in sorted(folders)], dtype=np.int64)
        self._starts = np.concatenate(([0], counts.cumsum()))
        super().__init__(files, frames, counts, size, cache, max_broken, "squares")
        self.notes = {"videos": f"{len(counts)} from {files}, {len(frames)} frames with masks"}

    def masks(self, objects: Indices, views: Indices) -> Tensor:
        """The instance at each pixel of the squashed frames."""
        found = [Image.fromarray(self._mask(int(row))) for row in self._starts[objects] + views]
        side = self.image_size, self.image_size
        squares = [np.array(one.resize(side, Image.Resampling.NEAREST)) for one in found]
        return torch.from_numpy(np.stack(squares)).long()

    def video(self, number: int) -> Video:
        rows = range(int(self._starts[number]), int(self._starts[number + 1]))
        try:
            frames = [torch.from_numpy(self._decode(row, None).copy()) for row in rows]
        except ValueError as error:
            raise ValueError(f"{self.files}: a frame of {self._name(rows[0])} cannot be read: {error}") from error
        masks = [torch.from_numpy(self._mask(row).copy()) for row in rows]
        for row, frame, mask in zip(rows, frames, masks, strict=True):
            for what, sides in (("the frame", frame.shape[:2]), ("its mask", mask.shape)):
                if tuple(sides) != tuple(frames[0].shape[:2]):
                    here, there = (f"{wide}x{high}" for high, wide in (sides, frames[0].shape[:2]))
                    name = self._name(row)
                    raise ValueError(f"{self.files}: {what} {name} has {here} pixels, the first frame {there}")
        return Video(torch.stack(frames).movedim(-1, 1).contiguous(), torch.stack(masks))

    def _mask(self, row: int) -> NDArray[np.uint8]:
        name = self._masks[row]
        try:
            return instances(self.files.read(name))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.files}: the mask {name} cannot be read: {error}") from error


def instances(content: bytes) -> NDArray[np.uint8]:
    """The instances in the file of a mask, `(H, W)`: the numbers of a palette, or of grey pixels.

    Raises:
        OSError: if it is no image.
        ValueError: if it has colours.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.mode not in ("P", "L", "1"):
            raise ValueError(f"a mask is grey or has a palette, and this has the mode {image.mode}")
        values = np.array(image).astype(np.uint8)
        binary = image.mode != "P" and set(np.unique(values)) <= {0, 255}
    return (values == 255).astype(np.uint8) if binary else values


def _pairs(files: Files, ending: str) -> dict[str, str]:
    """The mask of every frame."""
    names = [unpacked(name) for name in files.with_suffix(IMAGE_SUFFIXES)]
    own = any(FRAMES in PurePosixPath(name).parts for name in names)
    stems = {os.path.splitext(name)[0]: name for name in names if not own or MASKS in PurePosixPath(name).parts}
    frames = [name for name in names if FRAMES in PurePosixPath(name).parts] if own else _without(names, ending)
    found, lacking = {}, []
    for name in frames:
        stem = os.path.splitext(name)[0]
        wanted = "/".join(MASKS if one == FRAMES else one for one in stem.split("/")) if own else stem + ending
        if wanted in stems:
            found[name] = stems[wanted]
        else:
            lacking.append(name)
    if not found:
        where = f"below {MASKS}" if own else f"called *{ending}.png beside frames"
        raise SettingError("path" if own else "masks", f"{files} has no masks {where}")
    if lacking:
        raise SettingError("path", f"{files}: {len(lacking)} of {len(frames)} frames have no mask: {lacking[0]}")
    return found


def _without(names: Sequence[str], ending: str) -> list[str]:
    return [name for name in names if not os.path.splitext(name)[0].endswith(ending)]
