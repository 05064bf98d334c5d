"""The one resampling that makes a view, and how rows of a batch are picked and written.

Operations give a homography from each view to its source; random fields move points of the view on top of it.
Coordinates run from -1 to 1 between the outer edges of the outer pixels, x to the right and y down (`align_corners=
False` in torch's `grid_sample`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.transforms.regions import Regions

Rows = NDArray[np.int64]
Record = Mapping[str, NDArray[Any]]
"""The parameters of some views as arrays on the host, by name. A parameter that is missing is neutral."""

Neutral = float | tuple[float, ...]
"""The value of a parameter that leaves a view as it is."""

Padding = Literal["reflection", "border", "zeros"]
Planes = tuple[Tensor, Tensor]
"""x and y coordinates of points of a view, of shapes that broadcast to `(n, size, size)`."""

_CACHED_BYTES = 1_600_000
"""Sources that one core works on at a time."""

_NOTHING = 0.05
"""A filter with this variance, in pixels^2, over three neighbours leaves a pixel 95 % of its weight; s is 1.14 then."""


# Rows of a batch.


def changed(record: Record, count: int, neutral: Mapping[str, Neutral]) -> NDArray[np.bool_]:
    """In which of `count` rows some parameter differs from its neutral value, `(count,)`."""
    found = np.zeros(count, dtype=bool)
    for name, value in neutral.items():
        if name in record:
            found |= (record[name] != np.asarray(value, np.float32)).reshape(count, -1).any(axis=1)
    return found


def take(pixels: Tensor, rows: Rows | Tensor) -> Tensor:
    """Some images. Images with channels last are copied as the contiguous memory that they are."""
    index = rows if isinstance(rows, Tensor) else torch.from_numpy(rows).to(pixels.device, non_blocking=True)
    if pixels.dim() == 4 and pixels.is_contiguous(memory_format=torch.channels_last):
        return pixels.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    return pixels.index_select(0, index)


def put(views: Tensor, rows: Rows, made: Tensor) -> None:
    """Write `made`, `(n, ...)`, to some rows of `views`."""
    if views.device.type != "cpu":
        views.index_copy_(0, torch.from_numpy(rows).to(views.device, non_blocking=True), made)
        return
    # An index would be slower: it does not use that each row is contiguous.
    for row, view in zip(rows.tolist(), made, strict=True):
        views[row].copy_(view)


@contextmanager
def chosen(views: Tensor, rows: Rows, there: Tensor | None = None) -> Iterator[Tensor]:
    """Some rows, in ascending order, to be changed in place: a slice if they are neighbours, else a copy that is
    written back. `there` are the rows on the device of the views, if they have been sent.
    """
    if rows[-1] - rows[0] == len(rows) - 1:
        yield views[int(rows[0]) : int(rows[-1]) + 1]
    elif there is not None:
        some = views.index_select(0, there)
        yield some
        views.index_copy_(0, there, some)
    else:
        some = views.index_select(0, torch.from_numpy(rows).to(views.device, non_blocking=True))
        yield some
        put(views, rows, some)


def column(values: NDArray[Any], device: torch.device) -> Tensor:
    """One number a view as `(n, 1, 1, 1)`, on the device."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(device, non_blocking=True).view(-1, 1, 1, 1)


def send(arrays: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
    """Arrays of the host on a device, all in one copy, because a small copy takes as long as a large one."""
    filled = [length for one in arrays.values() for length in (one.nbytes, -one.nbytes % 8)]
    host = torch.zeros(sum(filled), dtype=torch.uint8)
    for room, one in zip(torch.split_with_sizes(host, filled)[::2], arrays.values(), strict=True):
        room.numpy()[:] = np.ascontiguousarray(one).reshape(-1).view(np.uint8)
    host = host.pin_memory() if device.type == "cuda" else host  # a copy from pinned memory does not wait
    parts = torch.split_with_sizes(host.to(device, non_blocking=True), filled)[::2]
    types = (torch.from_numpy(np.empty(0, one.dtype)).dtype for one in arrays.values())
    every = zip(arrays.items(), parts, types, strict=True)
    return {name: part.view(kind).view(one.shape) for (name, one), part, kind in every}


def as_float(pixels: Tensor) -> Tensor:
    """Values in [0, 1]."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


# Upright crops.


def cut(views: Tensor, places: Rows, pixels: Tensor, rows: Rows, matrices: NDArray[np.float64]) -> None:
    """Upright crops. Each pixel is a triangle-weighted mean of the pixels that it covers, as in torchvision's
    `resized_crop(antialias=True)`.

    Args:
        views: where to write, `(B, C, S, S)`, float in [0, 1].
        places: which of the views to make, `(n,)`.
        pixels: sources `(N, C, H, W)`, uint8 or float in [0, 1].
        rows: the source of each view, `(n,)`.
        matrices: from view to source, diagonal but for the shift, `(n, 3, 3)`.
    """
    size = views.shape[-1]
    corners, mirrored, at_edge = _corners(pixels, matrices)
    # Each row by itself, so that a view does not depend on the others of its batch.
    in_bytes = at_edge & (pixels.device.type == "cpu" and pixels.dtype == torch.uint8)
    crops = (some[in_bytes].tolist() for some in (places, rows, corners.astype(np.int64), mirrored))
    for place, row, (left, top, right, bottom), (across, down) in zip(*crops, strict=True):
        # On the CPU, torch resizes one image of bytes in less time than it takes to read it as floats.
        crop = pixels[row : row + 1, :, top:bottom, left:right]
        if crop.shape[-2:] != views.shape[-2:]:
            crop = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)
        if across or down:
            crop = crop.flip([axis for axis, mirrored in ((-1, across), (-2, down)) if mirrored])
        views[place].copy_(crop[0]).div_(255)
    if in_bytes.all():
        return
    places, rows, matrices = places[~in_bytes], rows[~in_bytes], matrices[~in_bytes]
    bands = torch.from_numpy(crop_bands(pixels, matrices, size)).to(pixels.device, non_blocking=True)
    put(views, places, resized(take(pixels, rows), bands, size))


def _corners(
    pixels: Tensor, matrices: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Left, top, right and bottom of upright crops in pixels of the source, `(n, 4)`; whether they are mirrored in x
    and y, `(n, 2)`; and whether they begin and end at edges of pixels, `(n,)`.
    """
    sides = np.array([pixels.shape[-1], pixels.shape[-2]])
    scale, shift = matrices[:, [0, 1], [0, 1]], matrices[:, :2, 2]
    extent, middle = np.abs(scale) * sides, (shift + 1) / 2 * sides
    corners = np.concatenate((middle - extent / 2, middle + extent / 2), axis=1)
    # Records have single precision: a corner that is almost at the edge of a pixel is meant to be there.
    at_edge = np.abs(corners - np.rint(corners)) < 1e-3
    return np.where(at_edge, np.rint(corners), corners), scale < 0, at_edge.all(axis=1)


def crop_bands(pixels: Tensor, matrices: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """What `resized` needs to know of upright crops. A device gets these ten numbers of a crop, not its weights, which
    are a hundred thousand times as many.

    Returns:
        In pixels of the source, along x and along y: where the view begins, how far it is to its next pixel, half the
        width of the filter, and the first and last pixel of the crop, `(5, 2, n, 1, 1)`.
    """
    corners, mirrored, _ = _corners(pixels, matrices)
    low, high = corners[:, :2], corners[:, 2:]
    step = (high - low) / size
    start, turned = np.where(mirrored, high, low), np.where(mirrored, -step, step)
    return np.stack((start, turned, np.maximum(step, 1), np.floor(low), np.ceil(high))).transpose(0, 2, 1)[
        ..., None, None
    ]


def resized(pixels: Tensor, bands: Tensor, size: int) -> Tensor:
    """Crops of n images, `(n, C, size, size)`, in [0, 1], from `crop_bands` on the device of the images."""
    height, width = pixels.shape[-2:]
    if height == width:
        x, y = _bands(bands, width, size).unbind()
    else:
        x, y = _bands(bands[:, 0], width, size), _bands(bands[:, 1], height, size)
    return y.unsqueeze(1) @ as_float(pixels) @ x.transpose(1, 2).unsqueeze(1)


def _bands(bands: Tensor, source: int, size: int) -> Tensor:
    """The weight of each source pixel in each pixel of the view along one axis, `(..., size, source)`, float32; every
    row sums to 1.

    Args:
        bands: `(5, ..., 1, 1)`, float64; see `crop_bands`. Pixels outside of a crop have no weight.
        source: pixels of the source along this axis.
        size: pixels of the view.
    """
    start, step, reach, first, last = bands.unbind()
    place = torch.arange(0.5, size, dtype=bands.dtype, device=bands.device).unsqueeze(1)
    pixel = torch.arange(0.5, source, dtype=bands.dtype, device=bands.device)
    weight = (pixel - torch.addcmul(start, place, step)).abs_().div_(reach).neg_().add_(1).clamp_min_(0)
    weight *= (pixel > first) & (pixel < last)
    return weight.div_(weight.sum(dim=-1, keepdim=True)).float()


# Any other map.


def sample(
    views: Tensor,
    places: Rows,
    pixels: Tensor,
    rows: Rows,
    matrices: NDArray[np.float64],
    padding: Padding,
    points: Planes | None = None,
    regions: Regions | None = None,
) -> None:
    """Views by a map of their coordinates: a filter where the view is coarser than its source, then one bilinear
    resampling.

    Args:
        views: where to write, `(B, C, S, S)`, float in [0, 1].
        places: which of the views to make, `(n,)`.
        pixels: sources `(N, C, H, W)`, uint8 or float in [0, 1].
        rows: the source of each view, `(n,)`.
        matrices: from view to source, `(n, 3, 3)`.
        padding: what lies outside the source.
        points: the point of the view that each of its pixels shows, `(n, S, S)` each; None for its own centre.
        regions: of photographs, `(N,)`, if the sources are pieces of them; `matrices` lead to the photographs then, and
            `padding` is what lies outside of those.
    """
    size, place = views.shape[-1], None if regions is None else regions.maps()[rows]
    whole = matrices if place is None else place @ matrices
    shrink = np.linalg.norm(whole[:, :2, :2], axis=2) * [pixels.shape[-1] / size, pixels.shape[-2] / size]
    if regions is not None:
        # Where a region was made smaller, the filter was a triangle of one pixel of the piece to each side.
        shrink = np.sqrt(np.maximum(shrink**2 - regions.reduced()[rows], 0))
    sides = 2 ** np.floor(np.log2(np.maximum(shrink.min(axis=1, initial=np.inf), 1)))
    # See `_without_detail`: the squares to average over, and the variance that is missing then.
    variances = ((shrink**2 - sides[:, None] ** 2) / 6 - (sides[:, None] ** 2 - 1) / 12) / sides[:, None] ** 2
    variances[(variances < _NOTHING).all(axis=1)] = 0
    for some in _alike(sides, variances.any(axis=1), pixels):
        source = _without_detail(as_float(take(pixels, rows[some])), int(sides[some[0]]), variances[some])
        moved = points and (take(points[0], some), take(points[1], some))
        grid = _coordinates(matrices[some], size, moved, pixels.device)
        if place is not None:
            grid = _in_pieces(grid, place[some], padding)
        inside = "border" if place is not None and padding == "reflection" else padding
        made = F.grid_sample(source, grid, mode="bilinear", padding_mode=inside, align_corners=False)
        put(views, places[some], made)


def _alike(sides: NDArray[np.float64], filtered: NDArray[np.bool_], pixels: Tensor) -> Iterator[Rows]:
    """Rows that are filtered in the same way; on the CPU no more at a time than fit into its cache."""
    most = len(sides)
    if pixels.device.type == "cpu":
        most = max(1, _CACHED_BYTES * torch.get_num_threads() // (4 * pixels[0].numel()))
    for side, smoothed in sorted(set(zip(sides.tolist(), filtered.tolist(), strict=True))):
        alike = np.flatnonzero((sides == side) & (filtered == smoothed))
        yield from (alike[start : start + most] for start in range(0, len(alike), most))


def _coordinates(matrices: NDArray[np.float64], size: int, points: Planes | None, device: torch.device) -> Tensor:
    """Where in the sources the views' pixels come from, `(n, size, size, 2)`."""
    x, y = (one.expand(len(matrices), size, size) for one in points or pixel_centres(size, device))
    m = torch.from_numpy(matrices.astype(np.float32)).to(x.device, non_blocking=True).view(-1, 9, 1, 1).unbind(1)
    grid = torch.empty(len(matrices), size, size, 2, device=x.device)
    torch.addcmul(m[2], m[0], x, out=grid[..., 0])
    torch.addcmul(m[5], m[4], y, out=grid[..., 1])
    # Steps that no view needs are left out; a view that does not need one has the same bits with it.
    if matrices[:, [0, 1], [1, 0]].any():
        grid[..., 0].addcmul_(m[1], y)
        grid[..., 1].addcmul_(m[3], x)
    if matrices[:, 2, :2].any():
        grid /= (m[6] * x + m[7] * y + m[8]).unsqueeze(-1)
    return grid


def _in_pieces(grid: Tensor, pieces: NDArray[np.float64], padding: Padding) -> Tensor:
    """Points of photographs, `(n, size, size, 2)`, as points of their pieces. Beyond the border of a photograph they
    are reflected before, because a piece may end elsewhere.
    """
    if padding == "reflection":
        grid = torch.remainder(grid + 1, 4) - 1
        grid = torch.where(grid > 1, 2 - grid, grid)
    numbers = np.stack((pieces[:, [0, 1], [0, 1]], pieces[:, :2, 2]), axis=1).astype(np.float32)
    factor, shift = torch.from_numpy(numbers).to(grid.device, non_blocking=True).view(-1, 2, 1, 1, 2).unbind(1)
    return torch.addcmul(shift, grid, factor)


def pixel_centres(size: int, device: torch.device) -> Planes:
    """The centres of the pixels of a view."""
    x = (torch.arange(size, device=device, dtype=torch.float32) * 2 + (1 - size)) / size
    return x.view(1, 1, size), x.view(1, size, 1)


def _without_detail(pixels: Tensor, side: int, variances: NDArray[np.float64]) -> Tensor:
    """The sources without the detail that a view cannot show, so that bilinear interpolation, which reads four pixels,
    misses none.

    A triangle as wide as a view's pixel, s source pixels to each side, has the variance s^2 / 6. Means over squares of
    `side` pixels have (side^2 - 1) / 12 of it and bilinear interpolation between them side^2 / 6. A filter over three
    neighbours adds the rest.

    Args:
        pixels: `(n, C, H, W)`, float.
        side: the power of two below s.
        variances: of the filter, in squares of the side, along x and y, `(n, 2)`.
    """
    if side > 1:
        pixels = F.interpolate(pixels, (pixels.shape[-2] // side, pixels.shape[-1] // side), mode="area")
    return smooth(pixels, variances) if variances.any() else pixels


def smooth(pixels: Tensor, variances: NDArray[np.float64]) -> Tensor:
    """Every image as means of three neighbours along x and along y. At the border the outer pixel is its own neighbour.

    Args:
        pixels: `(n, C, H, W)`.
        variances: of the weights along x and along y in pixels^2, `(n, 2)`, cut to 0 to 2/3.
    """
    weights = torch.from_numpy((variances.clip(0, 2 / 3) / 2).astype(np.float32)).to(pixels.device, non_blocking=True)
    for axis, weight in ((-1, weights[:, 0].view(-1, 1, 1, 1)), (-2, weights[:, 1].view(-1, 1, 1, 1))):
        last = pixels.shape[axis] - 1
        total = pixels * (1 - 2 * weight)
        total.narrow(axis, 1, last).addcmul_(pixels.narrow(axis, 0, last), weight)
        total.narrow(axis, 0, last).addcmul_(pixels.narrow(axis, 1, last), weight)
        for edge in (0, last):
            total.narrow(axis, edge, 1).addcmul_(pixels.narrow(axis, edge, 1), weight)
        pixels = total
    return pixels
