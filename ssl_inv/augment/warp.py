"""From where in the source every pixel of a view comes, and the one resampling that fetches it.

The parameters of a view make one map from its coordinates to those of the source: crop, then flips, then rotation,
translation, scale and shear, then perspective, then random fields, read backwards. Coordinates run from -1 to 1, x to
the right and y down, between the outer edges of the outer pixels (grid_sample's `align_corners=False`).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment.filters import smooth

Rows = NDArray[np.int64]


Padding = Literal["reflection", "border", "zeros"]


def maps(record: Mapping[str, NDArray[Any]], rows: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The map from view to source of every row, without random fields.

    Args:
        record: the parameters of the views by name; those that are not geometric are passed over.
        rows: how many views there are.

    Returns:
        Homographies `(B, 3, 3)` on (x, y, 1), and which rows are mere crops and flips, `(B,)`.
    """
    found = _crop_maps(record, rows)
    upright: NDArray[Any] = np.full(rows, True)
    if any(name in record for name in ("angle", "translation", "zoom", "shear")):
        forward, changed = _affine_maps(record, rows)
        found[changed] = found[changed] @ np.linalg.inv(forward[changed])
        upright = upright & ~changed
    if "perspective" in record:
        tilted = record["perspective"].any(axis=1)
        found[tilted] = found[tilted] @ _perspective_maps(record["perspective"][tilted])
        upright = upright & ~tilted
    return found, upright


def _crop_maps(values: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.float64]:
    boxes = values.get("crop", np.tile([0.5, 0.5, 1.0, 1.0], (rows, 1)))
    found = np.zeros((rows, 3, 3))
    found[:, 0, 0] = boxes[:, 2] * (1 - 2 * values.get("flip", 0.0))
    found[:, 1, 1] = boxes[:, 3] * (1 - 2 * values.get("vertical_flip", 0.0))
    found[:, :2, 2] = 2 * boxes[:, :2] - 1
    found[:, 2, 2] = 1
    return found


def _affine_maps(values: Mapping[str, NDArray[Any]], rows: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Where the content goes, `(B, 3, 3)`: scale, shear, rotation, translation, as in torchvision; and which rows it
    moves in, `(B,)`.
    """
    angle = -values.get(
        "angle", np.zeros(rows)
    )  # y points down: the matrix of a counter-clockwise turn has the opposite sign
    shift, zoom = values.get("translation", np.zeros((rows, 2))), values.get("zoom", np.ones(rows))
    shear_x, shear_y = values.get("shear", np.zeros((rows, 2))).T
    found = np.zeros((rows, 3, 3))
    found[:, 0, 0] = zoom * np.cos(angle - shear_y) / np.cos(shear_y)
    found[:, 0, 1] = zoom * (-np.cos(angle - shear_y) * np.tan(shear_x) / np.cos(shear_y) - np.sin(angle))
    found[:, 1, 0] = zoom * np.sin(angle - shear_y) / np.cos(shear_y)
    found[:, 1, 1] = zoom * (-np.sin(angle - shear_y) * np.tan(shear_x) / np.cos(shear_y) + np.cos(angle))
    found[:, :2, 2] = 2 * shift
    found[:, 2, 2] = 1
    return found, (angle != 0) | shift.any(axis=1) | (zoom != 1) | (shear_x != 0) | (shear_y != 0)


def _perspective_maps(shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The homographies that lead the shifted corners back to where they were, `(n, 3, 3)`."""
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    x, y = np.moveaxis(corners + 2 * shifts.reshape(-1, 4, 2), -1, 0)
    u, v = np.broadcast_to(corners[:, 0], x.shape), np.broadcast_to(corners[:, 1], x.shape)
    one, zero = np.ones_like(x), np.zeros_like(x)
    first = np.stack((x, y, one, zero, zero, zero, -u * x, -u * y), axis=-1)
    second = np.stack((zero, zero, zero, x, y, one, -v * x, -v * y), axis=-1)
    solved = np.linalg.solve(np.concatenate((first, second), axis=1), np.concatenate((u, v), axis=1)[..., None])[..., 0]
    return np.concatenate((solved, np.ones((len(solved), 1))), axis=1).reshape(-1, 3, 3)


def cut(views: Tensor, places: Rows, pixels: Tensor, rows: Rows, matrices: NDArray[np.float64]) -> None:
    """Upright crops, each pixel a triangle-weighted mean of what it covers: torchvision's
    `resized_crop(antialias=True)`.

    Args:
        views: where to write, `(B, 3, S, S)`, float in [0, 1].
        places: which of the views to make, `(n,)`.
        pixels: sources `(N, 3, H, W)`, uint8 or float in [0, 1].
        rows: the source of each view, `(n,)`.
        matrices: from view to source, diagonal but for the shift, `(n, 3, 3)`.
    """
    size = views.shape[-1]
    sides = np.array([pixels.shape[-1], pixels.shape[-2]])
    scale, shift = matrices[:, [0, 1], [0, 1]], matrices[:, :2, 2]
    extent, middle = np.abs(scale) * sides, (shift + 1) / 2 * sides
    corners = np.concatenate((middle - extent / 2, middle + extent / 2), axis=1)
    # Records have single precision: what is nearly the edge of a pixel is meant to be it.
    at_edge = np.abs(corners - np.rint(corners)) < 1e-3
    corners = np.where(at_edge, np.rint(corners), corners)
    if pixels.device.type == "cpu" and pixels.dtype == torch.uint8:
        # Row by row, so that a view does not depend on those beside it.
        whole = at_edge.all(axis=1)
        _cut_bytes(views, places[whole], pixels, rows[whole], corners[whole].astype(int), scale[whole] < 0)
        places, rows, corners, scale = (some[~whole] for some in (places, rows, corners, scale))
        if not len(rows):
            return
    source = take(pixels, rows)
    # What describes a crop travels, not its weights, which are a hundred thousand times as much.
    numbers = torch.from_numpy(np.concatenate((corners, scale < 0), axis=1)).to(pixels.device, non_blocking=True)
    left, top, right, bottom, *mirrored = numbers.unbind(1)
    across, down = (
        _band(left, right, mirrored[0], int(sides[0]), size),
        _band(top, bottom, mirrored[1], int(sides[1]), size),
    )
    put(views, places, down.unsqueeze(1) @ as_float(source) @ across.transpose(1, 2).unsqueeze(1))


def _cut_bytes(
    views: Tensor, places: Rows, pixels: Tensor, rows: Rows, corners: NDArray[np.int64], mirrored: NDArray[np.bool_]
) -> None:
    """On the CPU, torch resizes one image of bytes in less time than it takes to read it as floats."""
    size = views.shape[-2:]
    crops = zip(places.tolist(), rows.tolist(), corners.tolist(), mirrored.tolist(), strict=True)
    for place, row, (left, top, right, bottom), (across, down) in crops:
        crop = pixels[row : row + 1, :, top:bottom, left:right]
        if crop.shape[-2:] != size:
            crop = F.interpolate(crop, size, mode="bilinear", antialias=True)
        if across or down:
            crop = crop.flip([axis for axis, turned in ((-1, across), (-2, down)) if turned])
        views[place].copy_(crop[0]).div_(255)


def _band(low: Tensor, high: Tensor, mirrored: Tensor, source: int, size: int) -> Tensor:
    """The weight of each source pixel in each pixel of the view along one axis, `(n, size, source)`, float32; every row
    sums to 1.

    Args:
        low: where the crops begin, in source pixels, `(n,)`, float64; pixels outside of a crop have no weight.
        high: where they end.
        mirrored: not 0 where they are read backwards.
        source: pixels of the source along this axis.
        size: pixels of the view.
    """
    low, high = low[:, None, None], high[:, None, None]
    place = torch.arange(size, dtype=low.dtype, device=low.device)
    place = torch.where(mirrored[:, None] != 0, place.flip(0), place).unsqueeze(2)
    step = (high - low) / size
    pixel = torch.arange(source, dtype=low.dtype, device=low.device) + 0.5
    weight = (1 - (pixel - low - (place + 0.5) * step).abs() / step.clamp_min(1)).clamp_min_(0)
    weight *= (pixel > low.floor()) & (pixel < high.ceil())
    return (weight / weight.sum(dim=-1, keepdim=True)).float()


def as_float(pixels: Tensor) -> Tensor:
    """Values in [0, 1]."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


_CACHED_BYTES = 1_600_000
"""Sources that one core works on at a time."""


_NOTHING = 0.05
"""Weights of three neighbours with this variance, in pixels^2, leave a pixel 95 % of its weight on itself; s is 1.14
then.
"""


Planes = tuple[Tensor, Tensor]
"""x and y coordinates of points of a view, of shapes that broadcast to `(n, size, size)`."""


def sample(
    views: Tensor,
    places: Rows,
    pixels: Tensor,
    rows: Rows,
    matrices: NDArray[np.float64],
    padding: Padding,
    points: Planes | None = None,
) -> None:
    """Views by a map of their coordinates: a prefilter where the view is coarser than its source, then one bilinear
    resampling.

    Args:
        views: where to write, `(B, 3, S, S)`, float in [0, 1].
        places: which of the views to make, `(n,)`.
        pixels: sources `(N, 3, H, W)`, uint8 or float in [0, 1].
        rows: the source of each view, `(n,)`.
        matrices: from view to source, `(n, 3, 3)`.
        padding: what lies outside the source.
        points: where in the view each of its pixels is taken from, `(n, S, S)` each; None is where it stands.
    """
    size = views.shape[-1]
    shrink = np.linalg.norm(matrices[:, :2, :2], axis=2) * [pixels.shape[-1] / size, pixels.shape[-2] / size]
    sides = 2 ** np.floor(np.log2(np.maximum(shrink.min(axis=1, initial=np.inf), 1)))
    # See `_without_detail`: what sources are averaged over, and by how much they are smoothed then.
    variances = ((shrink**2 - sides[:, None] ** 2) / 6 - (sides[:, None] ** 2 - 1) / 12) / sides[:, None] ** 2
    variances[(variances < _NOTHING).all(axis=1)] = 0
    for some in _alike(sides, variances.any(axis=1), pixels):
        source = _without_detail(as_float(take(pixels, rows[some])), int(sides[some[0]]), variances[some])
        grid = _coordinates(
            matrices[some], size, points and (take(points[0], some), take(points[1], some)), pixels.device
        )
        put(
            views, places[some], F.grid_sample(source, grid, mode="bilinear", padding_mode=padding, align_corners=False)
        )


def _alike(sides: NDArray[np.float64], filtered: NDArray[np.bool_], pixels: Tensor) -> Iterator[Rows]:
    """Rows that are prepared in the same way, on the CPU no more at a time than fit into its cache."""
    most = len(sides)
    if pixels.device.type == "cpu":
        most = max(1, _CACHED_BYTES * torch.get_num_threads() // (4 * pixels[0].numel()))
    for side, smooth_too in sorted(set(zip(sides.tolist(), filtered.tolist(), strict=True))):
        alike = np.flatnonzero((sides == side) & (filtered == smooth_too))
        yield from (alike[start : start + most] for start in range(0, len(alike), most))


def put(views: Tensor, rows: Rows, made: Tensor) -> None:
    """Write `made`, `(n, ...)`, to some rows of `views`."""
    if views.device.type != "cpu":
        views.index_copy_(0, torch.from_numpy(rows).to(views.device, non_blocking=True), made)
        return
    for row, view in zip(
        rows.tolist(), made, strict=True
    ):  # an index would be slower here: it knows nothing of memory that is in order
        views[row].copy_(view)


def take(pixels: Tensor, rows: Rows) -> Tensor:
    """Some images; those with channels last are copied as the rows of memory that they are."""
    index = torch.from_numpy(rows).to(pixels.device, non_blocking=True)
    if pixels.dim() == 4 and pixels.is_contiguous(memory_format=torch.channels_last):
        return pixels.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    return pixels.index_select(0, index)


def _coordinates(matrices: NDArray[np.float64], size: int, points: Planes | None, device: torch.device) -> Tensor:
    """Where in the sources the views' pixels come from, `(n, size, size, 2)`."""
    x, y = (one.expand(len(matrices), size, size) for one in points or pixel_centres(size, device))
    m = torch.from_numpy(matrices.astype(np.float32)).to(x.device, non_blocking=True).view(-1, 9, 1, 1).unbind(1)
    grid = torch.empty(len(matrices), size, size, 2, device=x.device)
    torch.addcmul(m[2], m[0], x, out=grid[..., 0])
    torch.addcmul(m[5], m[4], y, out=grid[..., 1])
    # What is left out where no view needs it changes no bit of a view that does not.
    if matrices[:, [0, 1], [1, 0]].any():
        grid[..., 0].addcmul_(m[1], y)
        grid[..., 1].addcmul_(m[3], x)
    if matrices[:, 2, :2].any():
        grid /= (m[6] * x + m[7] * y + m[8]).unsqueeze(-1)
    return grid


def pixel_centres(size: int, device: torch.device) -> Planes:
    """The centres of the pixels of a view."""
    x = (torch.arange(size, device=device, dtype=torch.float32) * 2 + (1 - size)) / size
    return x.view(1, 1, size), x.view(1, size, 1)


def _without_detail(pixels: Tensor, side: int, variances: NDArray[np.float64]) -> Tensor:
    """The sources without what a view cannot show: bilinear interpolation, which reads four pixels, then passes none
    over.

    A triangle as wide as a view's pixel, s source pixels to each side, has the variance s^2 / 6. Means over squares of
    `side` pixels have (side^2 - 1) / 12 of it and bilinear interpolation between them side^2 / 6; weights of three
    neighbours add the rest.

    Args:
        pixels: `(n, 3, H, W)`, float.
        side: the power of two below s.
        variances: of the weights of neighbours, in squares of the side, along x and y, `(n, 2)`.
    """
    if side > 1:
        pixels = F.interpolate(pixels, (pixels.shape[-2] // side, pixels.shape[-1] // side), mode="area")
    return smooth(pixels, variances) if variances.any() else pixels
