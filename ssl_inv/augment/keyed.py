"""Any augmentation of kornia as an operation: drawn from a key, recorded, replayed.

    views, record = Keyed(kornia.augmentation.RandomPlasmaShadow(p=0.3))(pixels, key)

kornia draws from torch's global generator, once for a whole batch. Here every sample is drawn from the key alone:
parameters and pixels of a sample are the same bits in every batch, order and process, and torch's generator is neither
read nor moved. kornia changes the pixels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_inv.augment.kornia_sequence import part_of
from ssl_inv.augment.operation import Draws, Following, Side
from ssl_inv.augment.warp import Record, as_float
from ssl_inv.catalogue import SettingError, require, suggest
from ssl_inv.transforms import Code, Group, Transform
from ssl_inv.transforms.keyed_random import Key


class Keyed(Following):
    """An augmentation of kornia, drawn sample by sample from a key.

    Records `LABEL.applied`, where it is not always applied, and its parameters as `LABEL.parameter`: angles in radians,
    counter-clockwise; lengths in fractions of the image; hues in turns; all others as in kornia. Parameters with a
    number for every pixel, such as noise, are recorded as `LABEL.seed`. What kornia draws once a batch, such as the
    order of a colour jitter or the choice of RandAugment, is drawn for every sample.

    Args:
        augmentation: of `kornia.augmentation`, for images; also its `auto` policies, and `ImageSequential`.
        label: its name in records; None is the name of its class. Two augmentations of one policy need two names.
        groups: groups of recorded parameters by their name, in place of those that they would have: `{"angle":
            Real()}`.

    Raises:
        ValueError: if what it draws for a sample cannot be made independent of the batch, or it changes no images.
    """

    def __init__(
        self, augmentation: nn.Module, label: str | None = None, groups: Mapping[str, Group] | None = None
    ) -> None:
        self.label = label or type(augmentation).__name__
        if "." in self.label or not self.label:
            raise SettingError("label", f"must be a name without dots, got {label!r}")
        self.augmentation = augmentation
        self._part = part_of(augmentation, self.label)
        own = {f"{self.label}.seed": Code()} if self._part.seeded else {}
        self.groups = {**self._part.groups, **own}
        for name, group in (groups or {}).items():
            own_values = self.groups[full := self._known(name)].neutral(1)
            fits = isinstance(group, Group) and group.neutral(1).shape == own_values.shape
            shape = "one number" if own_values.dim() == 1 else f"{own_values.shape[1]} numbers"
            require(fits, f"groups.{name}", f"must be a group of {shape} a view, got {group!r}")
            self.groups[full] = group
        super().__init__(1.0)

    def _known(self, name: str) -> str:
        names = [one.removeprefix(f"{self.label}.") for one in self._part.groups]
        if name not in names:
            raise SettingError(f"groups.{name}", f"{self.label} records no such parameter; {suggest(name, names)}")
        return f"{self.label}.{name}"

    @property
    def projective(self) -> bool:  # type: ignore[override]
        """Whether it moves pixels by a homography that `maps` gives."""
        return self._part.projective

    @property
    def moves(self) -> bool:  # type: ignore[override]
        """Whether it moves pixels at all."""
        return self._part.moves

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        if not len(key):
            return {name: group.neutral(0).numpy() for name, group in self.groups.items()}
        seeds = key.for_purpose(self.label).seeds()
        record = self._part.draw(torch.from_numpy(seeds), (int(height), int(width)))
        drawn: dict[str, Draws] = {name: value.numpy() for name, value in record.items()}
        return {**drawn, f"{self.label}.seed": seeds} if self._part.seeded else drawn

    def follow(self, views: Tensor, record: Record) -> Tensor:
        if not len(views) or not all(name in record for name in self.groups):
            return views
        values, seeds = self._of(record, len(views))
        return self._part.apply(views, values, seeds)

    def tried(self, views: Tensor) -> Tensor:
        return self._part.tried(views)

    def maps(self, record: Record, rows: int, height: int, width: int) -> NDArray[np.float64]:
        if not self.projective or not all(name in record for name in self.groups):
            return np.tile(np.eye(3), (rows, 1, 1))
        values, seeds = self._of(record, rows)
        found: NDArray[np.float64] = self._part.maps(values, seeds, (height, width))[0].numpy()
        return found

    def _of(self, record: Record, rows: int) -> tuple[dict[str, Tensor], Tensor]:
        values = {name: torch.from_numpy(np.ascontiguousarray(record[name])) for name in self._part.groups}
        seeds: Any = record[f"{self.label}.seed"] if self._part.seeded else np.zeros(rows, np.int64)
        return values, torch.from_numpy(np.ascontiguousarray(seeds))

    def __call__(self, pixels: Tensor, key: Key) -> tuple[Tensor, Transform]:
        """One view of every image, and how it was made.

        Args:
            pixels: `(B, 3, H, W)`, uint8, or float in [0, 1].
            key: of the B images.

        Returns:
            Views `(B, 3, H', W')` as kornia makes them, and the record on the host.
        """
        require(len(key) == len(pixels), "key", f"has {len(key)} rows for {len(pixels)} images")
        drawn = self.draw(key, *pixels.shape[-2:])
        values = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in drawn.items()}
        record = Transform(values, self.groups)
        return self.replay(pixels, record), record

    def replay(self, pixels: Tensor, record: Transform) -> Tensor:
        """The views of a record again.

        Args:
            pixels: the images that they were made of.
            record: how they were made; parameters of other origin are ignored.

        Raises:
            ValueError: if a parameter is missing.
        """
        values = {name: record[name].cpu().numpy() for name in self.groups}
        return self.follow(as_float(pixels), values)

    def __repr__(self) -> str:
        return f"Keyed({self.augmentation!r})"
