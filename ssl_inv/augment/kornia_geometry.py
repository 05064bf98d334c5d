"""kornia's geometric augmentations as maps of pixels, composed to one resampling.

Coordinates are kornia's: (0, 0) is the centre of the top left pixel. Since 0.9, each of its warps shows at a pixel p of
its output what stands at M^-1 p of its input, whatever `align_corners` is, and zero beyond the border. A crop in mode
`slice`, or a resize, repeats the outer pixels of its box instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import kornia.augmentation as K
import numpy as np
import torch
import torch.nn.functional as F
from kornia.constants import Resample, SamplePadding
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment.warp import Rows, put, take

Params = Mapping[str, Tensor]
Size = tuple[int, int]

_EVERYWHERE = np.array([-np.inf, -np.inf, np.inf, np.inf])
_NEAR = 1e-4
"""Pixels that a view may lie beyond a border without its being noticed."""


class UnfitError(Exception):
    """kornia has to make this call itself."""


@dataclass(frozen=True)
class Step:
    """One augmentation of a batch of images.

    Attributes:
        matrices: from the pixels of its output to those of its input, `(B, 3, 3)`.
        size: height and width of its output.
        limits: what it reads of its input, `(B, 4)`: left, top, right and bottom pixel.
        repeats: whether it shows the outer pixels of that again beyond; otherwise it shows zero.
    """

    matrices: NDArray[np.float64]
    size: Size
    limits: NDArray[np.float64]
    repeats: bool


def _whole(count: int, size: Size) -> NDArray[np.float64]:
    return np.tile([0.0, 0.0, size[1] - 1.0, size[0] - 1.0], (count, 1))


def _warp(module: Any, params: Params, count: int, size: Size) -> Step:
    """Any augmentation that keeps the canvas, by kornia's own matrices."""
    canvas = torch.empty((), dtype=torch.float64).expand(count, 3, *size)
    forward = module.compute_transformation(canvas, dict(params), module.flags)
    back = np.linalg.inv(forward.cpu().numpy())
    return Step(back / back[:, 2:, 2:], size, _whole(count, size), False)


def _flip(axis: int) -> Callable[[Any, Params, int, Size], Step]:
    def flip(module: Any, params: Params, count: int, size: Size) -> Step:
        matrices = np.tile(np.eye(3), (count, 1, 1))
        matrices[:, axis, axis], matrices[:, axis, 2] = -1, size[1 - axis] - 1
        return Step(matrices, size, np.tile(_EVERYWHERE, (count, 1)), False)

    return flip


def _shifted(shift: NDArray[np.float64], size: Size, canvas: Size) -> Step:
    """A crop whose pixels are those of its input, moved by whole numbers (x, y), `(B, 2)`."""
    matrices = np.tile(np.eye(3), (len(shift), 1, 1))
    matrices[:, :2, 2] = shift
    return Step(matrices, size, _whole(len(shift), canvas), False)


def _centre_crop(module: Any, params: Params, count: int, size: Size) -> Step:
    height, width = module.size
    if height > size[0] or width > size[1]:
        raise UnfitError
    shift = [(size[1] - width) // 2, (size[0] - height) // 2]
    return _shifted(np.tile(np.array(shift, np.float64), (count, 1)), (height, width), size)


def _random_crop(module: Any, params: Params, count: int, size: Size) -> Step:
    padding = params["padding_size"].cpu().numpy().astype(np.float64)
    height, width = (int(side) for side in module.flags["size"])
    if (height > size[0] + padding[:, 2:].sum(axis=1)).any() or (width > size[1] + padding[:, :2].sum(axis=1)).any():
        raise UnfitError
    start = params["src"].cpu().numpy().astype(np.float64)[:, 0]
    return _shifted(start - padding[:, [0, 2]], (height, width), size)


def _resized_crop(module: Any, params: Params, count: int, size: Size) -> Step:
    corners = params["src"].cpu().numpy().astype(np.float64)
    wanted = tuple(int(side) for side in params["output_size"][0].tolist())
    return _resized(module, np.trunc(corners[:, 0]), np.trunc(corners[:, 2]), (wanted[0], wanted[1]))


def _resize(module: Any, params: Params, count: int, size: Size) -> Step:
    last = np.array([size[1] - 1.0, size[0] - 1.0])
    wanted = tuple(int(side) for side in params["output_size"][0].tolist())
    return _resized(module, np.zeros((count, 2)), np.tile(last, (count, 1)), (wanted[0], wanted[1]))


def _resized(module: Any, first: NDArray[np.float64], last: NDArray[np.float64], size: Size) -> Step:
    """A box from the pixels `first` to `last`, (x, y) `(B, 2)`, brought to a size."""
    sides = np.array([size[1], size[0]])
    matrices = np.zeros((len(first), 3, 3))
    repeats = module.flags.get("cropping_mode", "slice") == "slice"
    if module.flags["align_corners"] or not repeats:
        scale, shift = (last - first) / np.maximum(sides - 1, 1) * (sides > 1), first
    else:
        scale = (last - first + 1) / sides
        shift = first + scale / 2 - 0.5
    matrices[:, [0, 1], [0, 1]], matrices[:, :2, 2], matrices[:, 2, 2] = scale, shift, 1
    if not repeats and (last == first).any():
        raise UnfitError
    return Step(matrices, size, np.concatenate((first, last), axis=1), repeats)


STEPS: dict[type, Callable[[Any, Params, int, Size], Step]] = {
    K.RandomResizedCrop: _resized_crop,
    K.Resize: _resize,
    K.RandomCrop: _random_crop,
    K.CenterCrop: _centre_crop,
    K.RandomHorizontalFlip: _flip(0),
    K.RandomVerticalFlip: _flip(1),
    K.RandomRotation: _warp,
    K.RandomRotation90: _warp,
    K.RandomAffine: _warp,
    K.RandomTranslate: _warp,
    K.RandomShear: _warp,
    K.RandomPerspective: _warp,
}
"""Augmentations of kornia that become part of one resampling -> how to read what they drew."""


def obstacle(module: Any) -> str:
    """Why an augmentation of `STEPS` cannot become part of one resampling; empty if it can."""
    flags = module.flags
    wrong = {
        "resample": flags.get("resample", Resample.BILINEAR) != Resample.BILINEAR,
        "antialias": bool(flags.get("antialias", False)),
        "fill_value": flags.get("fill_value") is not None,
    }
    if isinstance(module, K.RandomCrop):
        padded = flags["padding"] is not None or bool(flags["pad_if_needed"])
        wrong["padding_mode"] = padded and flags["padding_mode"] != "constant"
        wrong["fill"] = padded and bool(np.any(np.asarray(flags["fill"]) != 0))
        wrong["resample"] = False  # pixels are only moved
    elif isinstance(module, (K.RandomAffine, K.RandomTranslate, K.RandomShear)):
        wrong["padding_mode"] = flags["padding_mode"] != SamplePadding.ZEROS
    elif isinstance(module, K.CenterCrop):
        wrong["resample"] = False
    return next((name for name, found in wrong.items() if found), "")


def applied(module: Any, params: Params, count: int) -> NDArray[np.bool_]:
    """Which images an augmentation changes, `(B,)`. kornia ignores the gate of those that always happen."""
    if module.p == 1 and module.p_batch == 1:
        return np.full(count, True)
    gate: NDArray[np.bool_] = np.broadcast_to(params["batch_prob"].cpu().numpy() > 0.5, (count,))
    return gate


def step_of(module: Any, params: Params, count: int, size: Size) -> Step | None:
    """What an augmentation of `STEPS` does to a batch of images; None if nothing.

    Args:
        module: the augmentation.
        params: what it drew.
        count: how many images there are.
        size: their height and width.

    Raises:
        UnfitError: if it is a crop larger than the images, or changes the size of some images only.
    """
    active = applied(module, params, count)
    if not active.any():
        return None
    step = STEPS[type(module)](module, params, count, size)
    if active.all():
        return step
    if step.size != size:
        raise UnfitError
    matrices = np.where(active[:, None, None], step.matrices, np.eye(3))
    return Step(matrices, size, np.where(active[:, None], step.limits, _EVERYWHERE), step.repeats)


@dataclass(frozen=True)
class Piece:
    """Part of the way from a view to its source: a map, and what to do with points that it leads beyond some limits."""

    matrices: NDArray[np.float64]
    limits: NDArray[np.float64]
    repeats: bool


class Route:
    """The way from the pixels of views to those of their sources, over the canvas of every step.

    Most canvases need no thought, because a view does not leave them. Which ones it leaves is decided for each view by
    itself, so that a view does not depend on its batch.

    Attributes:
        size: height and width of the views.
    """

    def __init__(self, steps: list[Step], count: int, source: Size) -> None:
        """
        Args:
            steps: in the order in which they happen.
            count: how many views there are.
            source: height and width of the sources.
        """
        self.size = steps[-1].size if steps else source
        self.steps, self.source = steps, source
        self._together = np.tile(np.eye(3), (count, 1, 1))
        self._leaves = np.zeros((count, len(steps)), dtype=bool)
        corners = _corners(_whole(count, self.size))
        for number in reversed(range(len(steps))):
            step = steps[number]
            self._together = step.matrices @ self._together
            corners, safe = _moved(step.matrices, corners)
            low, high = step.limits[:, None, :2], step.limits[:, None, 2:]
            beyond = ~safe | ((corners < low - _NEAR) | (corners > high + _NEAR)).any(axis=(1, 2))
            # Beyond the source itself, the resampling shows zero.
            self._leaves[:, number] = beyond & (step.repeats | (number > 0))
            held = step.limits if step.repeats else step.limits + np.array([-1, -1, 1, 1])
            cut = beyond & np.isfinite(held).all(axis=1)
            corners[cut] = _corners(held[cut])
        self._boxes, self._interpolated = self._upright_boxes()

    def sample(self, pixels: Tensor, rows: Rows) -> Tensor:
        """Some views, `(n, C, H, W)`, of sources `(B, C, H, W)`, float32."""
        if not self.steps:
            return take(pixels, rows).contiguous()
        made = torch.empty(len(rows), pixels.shape[1], *self.size, device=pixels.device)
        fast = self._interpolated[rows] & (pixels.device.type == "cpu")
        for place in np.flatnonzero(fast).tolist():
            self._interpolate(made[place], pixels, int(rows[place]))
        slow, leaves = ~fast, self._leaves[rows]
        for pattern in np.unique(leaves[slow], axis=0):
            some = np.flatnonzero(slow & (leaves == pattern).all(axis=1))
            part = self._resampled(pixels, rows[some], pattern)
            put(made, some, part) if len(some) < len(rows) else made.copy_(part)
        return made

    def _upright_boxes(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The first and the last pixel in x and in y, `(B, 4)`, of views that are upright boxes of whole pixels, and
        which views these are. The first comes after the last where a view is mirrored.
        """
        m, last = self._together, [self.size[1] - 1, self.size[0] - 1]
        first, step = m[:, :2, 2], m[:, [0, 1], [0, 1]]
        ends = np.stack((first, first + step * last), axis=2)
        whole = np.rint(ends)
        inside = (whole >= 0) & (whole < np.array([self.source[1], self.source[0]])[:, None])
        fits = (inside & (np.abs(ends - whole) < _NEAR)).all(axis=(1, 2))
        upright = (m[:, [0, 1, 2, 2], [1, 0, 0, 1]] == 0).all(axis=1)
        return whole.reshape(-1, 4).astype(np.int64), fits & upright & ~self._leaves.any(axis=1)

    def _interpolate(self, view: Tensor, pixels: Tensor, row: int) -> None:
        """One view that is an upright box of whole pixels. On the CPU, that is the fastest of all resamplings."""
        left, right, top, bottom = self._boxes[row].tolist()
        box = pixels[row : row + 1, :, min(top, bottom) : max(top, bottom) + 1, min(left, right) : max(left, right) + 1]
        if box.shape[-2:] != self.size:
            box = F.interpolate(box, self.size, mode="bilinear", align_corners=True)
        mirrored = [axis for axis, backwards in ((-1, left > right), (-2, top > bottom)) if backwards]
        view.copy_((box.flip(mirrored) if mirrored else box)[0])

    def _resampled(self, pixels: Tensor, rows: Rows, leaves: NDArray[np.bool_]) -> Tensor:
        (height, width), device = self.size, pixels.device
        x = torch.arange(width, device=device, dtype=torch.float32).view(1, 1, width)
        y = torch.arange(height, device=device, dtype=torch.float32).view(1, height, 1)
        shown = None
        for piece in self._pieces(rows, leaves):
            x, y = _mapped(piece.matrices, x, y)
            limits = torch.from_numpy(piece.limits.astype(np.float32)).to(device).view(-1, 4, 1, 1)
            low_x, low_y, high_x, high_y = limits.unbind(1)
            if piece.repeats:
                x, y = torch.maximum(torch.minimum(x, high_x), low_x), torch.maximum(torch.minimum(y, high_y), low_y)
            elif np.isfinite(piece.limits).any():
                inside = _ramp(x, low_x, high_x) * _ramp(y, low_y, high_y)
                shown = inside if shown is None else shown * inside
        below, beside = self.source
        places = (2 * x + 1) / beside - 1, (2 * y + 1) / below - 1
        grid = torch.stack([one.expand(len(rows), height, width) for one in places], dim=-1)
        made = F.grid_sample(take(pixels, rows), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return made if shown is None else made.mul_(shown.unsqueeze(1))

    def _pieces(self, rows: Rows, leaves: NDArray[np.bool_]) -> list[Piece]:
        found, matrices = [], np.eye(3)[None]
        for step, left in zip(reversed(self.steps), reversed(leaves), strict=True):
            matrices = step.matrices[rows] @ matrices
            if left:
                found.append(Piece(matrices, step.limits[rows], step.repeats))
                matrices = np.eye(3)[None]
        if not (matrices == np.eye(3)).all():
            found.append(Piece(matrices, np.tile(_EVERYWHERE, (len(rows), 1)), False))
        return found


def _ramp(place: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How much of a bilinear sample lies within limits: 1 inside, and less up to one pixel beyond."""
    return torch.minimum(place - low, high - place).add_(1).clamp_(0, 1)


def _corners(limits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The four corners of boxes, `(B, 4, 2)`."""
    return np.stack((limits[:, [0, 1]], limits[:, [2, 1]], limits[:, [2, 3]], limits[:, [0, 3]]), axis=1)


def _moved(matrices: NDArray[np.float64], points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Points `(B, n, 2)` under homographies, and whether none of the points between them is at infinity, `(B,)`."""
    found = np.concatenate((points, np.ones((*points.shape[:2], 1))), axis=2) @ matrices.transpose(0, 2, 1)
    safe: NDArray[np.bool_] = np.asarray((found[..., 2] > 1e-9).all(axis=1))
    return found[..., :2] / np.where(safe[:, None], found[..., 2], 1.0)[..., None], safe


def _mapped(matrices: NDArray[np.float64], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Points under homographies `(n, 3, 3)`."""
    m = torch.from_numpy(matrices.astype(np.float32)).to(x.device).view(-1, 9, 1, 1).unbind(1)
    upright = not matrices[:, [0, 1], [1, 0]].any()
    first, second = (
        (m[0] * x + m[2], m[4] * y + m[5]) if upright else (m[0] * x + (m[1] * y + m[2]), m[3] * x + (m[4] * y + m[5]))
    )
    if not matrices[:, 2, :2].any():
        return first, second
    third = m[6] * x + (m[7] * y + m[8])
    return first / third, second / third
