"""Portions of a batch: what is done to each view, and how a CPU and a GPU do it.

A CPU takes as many views at a time as its caches hold. A GPU takes the whole batch, in few calls, after all that it
needs to know has been sent to it in one copy.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment.local import RandomField
from ssl_inv.augment.operation import Normalisation, Photometric, Style
from ssl_inv.augment.warp import Record, Rows, crop_bands, cut, put, resized, sample, send, take
from ssl_inv.transforms.regions import Regions

CACHED_BYTES = 3_200_000
"""Views that one core works on at a time: with fewer, calls cost more than arithmetic; with more, memory does."""


def few_calls(device: torch.device) -> bool:
    """Whether calls cost more than what they compute, as on GPUs; on a CPU, what does not fit its caches costs more."""
    return device.type != "cpu"


def views_at_once(count: int, size: int, device: torch.device, channels: int = 3) -> int:
    """How many of `count` views with sides of `size` pixels to make at a time."""
    if few_calls(device):
        return max(1, count)
    return max(1, CACHED_BYTES * torch.get_num_threads() // (4 * channels * size * size))


class Portion(NamedTuple):
    """Some views of a batch, and what is done to each, as the host has decided.

    Attributes:
        rows: of the batch.
        record: their parameters.
        matrices: from view to source, `(n, 3, 3)`: to the piece of a photograph for views that are only cropped, to the
            photograph for others.
        cropped: which of them are only cropped and flipped.
        mapped: which are made by another homography.
        warped: which are made by a random field.
        changes: operations on colours, and which views each changes.
        normalisation: what is done last.
        regions: where the sources of all views of the batch lie in photographs; None for whole images.
    """

    rows: Rows
    record: Record
    matrices: NDArray[np.float64]
    cropped: Rows
    mapped: Rows
    warped: Rows
    changes: list[tuple[type[Photometric], Rows]]
    normalisation: Normalisation | None
    regions: Regions | None = None


def make(views: Tensor, pixels: Tensor, portion: Portion, style: Style) -> None:
    """Make some views.

    Args:
        views: where to write, `(B, C, S, S)`, with channels last in memory.
        pixels: sources `(B, C, H, W)`, uint8, or float in [0, 1].
        portion: which views, and how.
        style: settings of all views.
    """
    (_make_at_once if few_calls(views.device) else _make_in_cache)(views, pixels, portion, style)


def _make_in_cache(views: Tensor, pixels: Tensor, portion: Portion, style: Style) -> None:
    """Make some views on a CPU, whose caches hold them from call to call."""
    rows, record, matrices, cropped, *_ = portion
    made = torch.empty(len(rows), *views.shape[1:], device=views.device)
    if len(cropped):
        cut(made, cropped, pixels, rows[cropped], matrices[cropped])
    _resample(made, pixels, portion, style)
    for operation, some in portion.changes:
        operation.apply(made, some, record, style)
    if portion.normalisation:
        mean, deviation = torch.from_numpy(portion.normalisation.numbers())
        made.sub_(mean).div_(deviation)
    put(views, rows, made)


def _make_at_once(views: Tensor, pixels: Tensor, portion: Portion, style: Style) -> None:
    """Make some views with few calls, after all that the device needs to know has been sent to it in one copy."""
    rows, record, matrices, cropped, *_ = portion
    size = views.shape[-1]
    arrays: dict[str, NDArray[Any]] = {"rows": rows, "bands": crop_bands(pixels, matrices[cropped], size)}
    if len(cropped) < len(rows):
        arrays |= {"cropped": cropped, "sources": rows[cropped]}
    if portion.normalisation:
        arrays["normalisation"] = portion.normalisation.numbers()
    for number, (operation, some) in enumerate(portion.changes):
        needed = {"rows": some, **operation.numbers(some, record, size, style)}
        arrays |= {f"{number} {name}": values for name, values in needed.items()}
    there = send(arrays, views.device)
    if len(cropped) == len(rows):
        made = resized(take(pixels, there["rows"]), there["bands"], size)
    else:
        made = torch.empty(len(rows), *views.shape[1:], device=views.device)
        made.index_copy_(0, there["cropped"], resized(take(pixels, there["sources"]), there["bands"], size))
        _resample(made, pixels, portion, style)
    for number, (operation, some) in enumerate(portion.changes):
        prefix = f"{number} "
        numbers = {name.removeprefix(prefix): one for name, one in there.items() if name.startswith(prefix)}
        operation.apply_at_once(made, some, record, style, numbers)
    if portion.normalisation:
        mean, deviation = there["normalisation"]
        made.sub_(mean).div_(deviation)
    views.index_copy_(0, there["rows"], made)


def _resample(made: Tensor, pixels: Tensor, portion: Portion, style: Style) -> None:
    """Make the views that are more than cropped and flipped."""
    for some, warped in ((portion.mapped, False), (portion.warped, True)):
        if len(some):
            points = None
            if warped:
                record = {name: value[some] for name, value in portion.record.items()}
                points = RandomField.points(record, made.shape[-1], made.device)
            rows, matrices = portion.rows[some], portion.matrices[some]
            sample(made, some, pixels, rows, matrices, style.padding, points, portion.regions)
