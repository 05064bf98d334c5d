"""Views that are pieces of one larger view, or that view turned."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment.maps import moving
from ssl_inv.augment.operation import Following
from ssl_inv.augment.policy import Policy
from ssl_inv.catalogue import SettingError
from ssl_inv.transforms import Transform
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.views.pieces import Patches, QuarterTurns, Saccades, StoredMaps
from ssl_inv.views.saccades import cut_squares, draw_fixations, official_patches, spectral_residual


class Cutter(ABC):
    """Makes several views of one."""

    @abstractmethod
    def draw(self, view: Tensor, key: Key, transform: Transform) -> list[Transform]:
        """What to take of `view`, which `transform` describes: a record for each piece, on the host."""

    @abstractmethod
    def cut(self, view: Tensor, record: Transform) -> Tensor:
        """The piece that `record` describes, in memory of its own."""


@dataclass(frozen=True)
class PatchCutter(Cutter):
    """Some cells of a loose grid."""

    plan: Patches

    def draw(self, view: Tensor, key: Key, transform: Transform) -> list[Transform]:
        cells = self.plan.grid**2
        shifts = np.floor(key.for_purpose("patches/shift").uniform(2 * cells) * (self.plan.jitter + 1)).astype(np.int64)
        ranks = key.for_purpose("patches/order").uniform(cells)
        if self.plan.middle_first:
            ranks[:, cells // 2] = -1
        order = np.argsort(ranks, axis=1, kind="stable")
        corners = patch_corners(self.plan, shifts.reshape(-1, cells, 2), order)
        boxes = (_boxes(corners[:, number], self.plan.patch, self.plan.view) for number in range(self.plan.keep))
        return [Transform({"patch": box}, self.plan.groups) for box in boxes]

    def cut(self, view: Tensor, record: Transform) -> Tensor:
        return _cut_box(view, record, self.plan.patch)


def patch_corners(plan: Patches, shifts: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The upper left corners of the cells that are kept, (y, x) in pixels, `(B, keep, 2)`.

    Args:
        plan: the grid.
        shifts: of all cells row by row, (y, x) in pixels, `(B, grid^2, 2)`.
        order: a permutation of the cells, of which the first are kept, `(B, grid^2)`.
    """
    cells = np.stack(np.divmod(np.arange(plan.grid**2), plan.grid), axis=-1)
    corners: NDArray[np.int64] = np.take_along_axis(plan.step * cells + shifts, order[:, : plan.keep, None], axis=1)
    return corners


def _boxes(corners: NDArray[np.int64], side: int, size: int) -> Tensor:
    """Squares with the upper left corners (y, x), as boxes in fractions of views of `size` pixels."""
    centres = (corners[:, ::-1] + side / 2) / size
    boxes = np.concatenate((centres, np.full_like(centres, side / size)), axis=1)
    return torch.from_numpy(boxes.astype(np.float32))


def _cut_box(view: Tensor, record: Transform, side: int) -> Tensor:
    centres = record["patch"][:, :2].numpy().T.astype(np.float64) * view.shape[-1]
    left, top = np.rint(centres - side / 2).astype(np.int64)
    return cut_squares(view, top, left, side)


@dataclass(frozen=True)
class SaccadeCutter(Cutter):
    """Patches about fixations.

    Attributes:
        plan: how fixations are drawn.
        policy: made the whole view, and moves stored maps in the same way.
    """

    plan: Saccades
    policy: Policy

    def draw(self, view: Tensor, key: Key, transform: Transform) -> list[Transform]:
        maps = self._maps(view, key, transform)
        random = key.for_purpose("saccades").uniform(self.plan.count)
        fixations = draw_fixations(maps, random, self.plan.inhibition, self.plan.radius)
        return [self.record(fixations[:, number], view.shape[-1]) for number in range(self.plan.count)]

    def cut(self, view: Tensor, record: Transform) -> Tensor:
        if self.plan.cutting == "official":
            return official_patches(view, record["fixation"], self.plan.patch)
        return _cut_box(view, record, self.plan.patch)

    def record(self, fixations: NDArray[np.int64], size: int) -> Transform:
        """The record of patches about fixations (row, column) on views of `size` pixels, `(B, 2)`."""
        # The authors' code reads a row as a column. The record says where the patch really lies.
        seen = fixations[:, ::-1] if self.plan.cutting == "official" else fixations
        places = torch.from_numpy((fixations / size).astype(np.float32))
        boxes = _boxes(seen - self.plan.patch // 2, self.plan.patch, size)
        return Transform({"fixation": places, "patch": boxes}, self.plan.groups)

    def _maps(self, view: Tensor, key: Key, transform: Transform) -> NDArray[np.float64]:
        """The saliency of every pixel of the view, `(B, H, W)`."""
        saliency = self.plan.saliency
        if isinstance(saliency, str):
            maps = torch.ones(len(view), 1, 1) if saliency == "uniform" else spectral_residual(view)
        else:
            maps = saliency(view) if callable(saliency) else self._stored(saliency, key, transform, view.shape[-1])
        if maps.dim() != 3 or len(maps) != len(view):
            wanted = f"maps of {len(view)} views have the shape ({len(view)}, h, w)"
            raise SettingError("saliency", f"{wanted}, not {tuple(maps.shape)}")
        large = maps.cpu().double().unsqueeze(1)
        found = F.interpolate(large, view.shape[-2:], mode="bilinear", antialias=True).squeeze(1)
        if not bool(((found >= 0) & found.isfinite()).all()):
            raise SettingError("saliency", "a map has values that are negative or not finite")
        return found.numpy()

    def _stored(self, saliency: StoredMaps, key: Key, transform: Transform, size: int) -> Tensor:
        maps = torch.stack([torch.as_tensor(saliency[int(index)]).float() for index in key.index])
        maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        # A map goes where pixels go, and no change of colour touches it.
        kept = [one for one in self.policy.operations if not isinstance(one, Following) or one.moves]
        policy = replace(self.policy, size=size, operations=tuple(kept))
        return policy.render(maps.unsqueeze(1).repeat(1, 3, 1, 1), moving(transform, policy.operations))[:, 0]


@dataclass(frozen=True)
class TurnCutter(Cutter):
    """The four quarter turns."""

    plan: QuarterTurns

    def draw(self, view: Tensor, key: Key, transform: Transform) -> list[Transform]:
        return [Transform({"turn": torch.full((len(view),), float(turn))}, self.plan.groups) for turn in range(4)]

    def cut(self, view: Tensor, record: Transform) -> Tensor:
        turned = torch.empty_like(view)
        turns = record["turn"].numpy().astype(int)
        for turn in np.unique(turns).tolist():
            rows = torch.from_numpy(np.flatnonzero(turns == turn)).to(view.device, non_blocking=True)
            turned.index_copy_(0, rows, torch.rot90(view.index_select(0, rows), turn, (2, 3)))
        return turned
