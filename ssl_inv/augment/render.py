"""From a source and the record of a view to the view: the second half of every augmentation, and the whole of its
replay.

The order is fixed: one resampling for everything geometric, then local colour, jitter, grey, blur, solarise, posterise,
noise, colour dropping, erasing. What is neutral costs nothing. Which rows take part in what is decided on the host,
where the records are drawn, so no device is waited for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment import colour, warp
from ssl_inv.augment.local import LocalChanges, Record
from ssl_inv.augment.photometric import NEVER_SOLARISED, ORDERS
from ssl_inv.augment.warp import Padding, Rows
from ssl_inv.transforms import Transform

_CACHED_BYTES = 3_200_000
"""Views that one core works on at a time: with fewer, calls cost more than arithmetic; with more, memory does."""


HueModel = Literal["hsv", "linear"]


_NEUTRAL_JITTER = (1.0, 1.0, 1.0, 0.0)


@dataclass(frozen=True)
class Style:
    """What of a view's making is the same for all views.

    Attributes:
        padding: what lies outside of the source where a view reaches beyond it.
        hue: `hsv` turns hues exactly as torchvision does; `linear` turns colours about the grey axis, which is faster
            and not the same.
    """

    padding: Padding = "reflection"
    hue: HueModel = "hsv"


def render(
    pixels: Tensor, transform: Transform, size: int, style: Style, finish: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """The views that `transform` tells of.

    Args:
        pixels: sources `(B, 3, H, W)`, uint8, or float in [0, 1]; on any device.
        transform: how each view is made, B rows; parameters that no operation of this package records are passed over.
        size: side of the views in pixels.
        style: what else all views have in common.
        finish: changes views `(n, 3, size, size)` in place before they are handed over, a part of the batch at a time:
            a normalisation.

    Returns:
        Views `(B, 3, size, size)`, float in [0, 1], with channels last in memory, on the device of the sources.
    """
    record = {name: value.numpy() for name, value in transform.to("cpu").values.items()}
    order = _jitter_orders(record, len(pixels))
    local = LocalChanges(record, len(pixels), size, pixels.device)
    views = torch.empty(len(pixels), 3, size, size, device=pixels.device, memory_format=torch.channels_last)
    # Calls cost less without autograd's bookkeeping. What is written to was made outside, so the views can be trained
    # on.
    with torch.inference_mode():
        for rows in _portions(colour.by_order(order), size, pixels.device):
            part = {name: value[rows] for name, value in record.items()}
            made = _geometric(pixels, rows, part, local, size, style)
            if len(tinted := np.flatnonzero(local.tints[rows])):
                warp.put(made, tinted, local.recolour(made[tinted], rows[tinted]))
            made = _photometric(made, part, order[rows], style)
            warp.put(views, rows, made if finish is None else finish(made))
    return views


def _jitter_orders(record: Record, count: int) -> NDArray[np.int64]:
    """Which of the four changes comes first, second, ...

    in every row, `(B, 4)`; -1 throughout where all are neutral.
    """
    code = record.get("jitter_order", np.zeros(count, dtype=np.int64))
    changed = (_jitter_factors(record, count) != _NEUTRAL_JITTER).any(axis=1)
    return np.where(changed[:, None], ORDERS[code], -1)


def _jitter_factors(record: Record, count: int) -> NDArray[np.float32]:
    names = ("brightness", "contrast", "saturation", "hue")
    columns = [record.get(name, np.full(count, neutral)) for name, neutral in zip(names, _NEUTRAL_JITTER, strict=True)]
    return np.stack(columns, axis=1).astype(np.float32)


def _portions(sequence: Rows, size: int, device: torch.device) -> Iterator[Rows]:
    """On a CPU, as many rows at a time as fit into its cache."""
    count = len(sequence)
    if device.type == "cpu":
        count = max(1, _CACHED_BYTES * torch.get_num_threads() // (12 * size * size))
    for start in range(0, len(sequence), count):
        yield sequence[start : start + count]


def _geometric(pixels: Tensor, rows: Rows, record: Record, local: LocalChanges, size: int, style: Style) -> Tensor:
    matrices, upright = warp.maps(record, len(rows))
    moved = local.moves[rows]
    views = torch.empty(len(rows), 3, size, size, device=pixels.device)
    if len(some := np.flatnonzero(upright & ~moved)):
        warp.cut(views, some, pixels, rows[some], matrices[some])
    if len(some := np.flatnonzero(~upright & ~moved)):
        warp.sample(views, some, pixels, rows[some], matrices[some], style.padding)
    if len(some := np.flatnonzero(moved)):
        warp.sample(views, some, pixels, rows[some], matrices[some], style.padding, local.points(rows[some]))
    return views


def _photometric(views: Tensor, record: Record, order: NDArray[np.int64], style: Style) -> Tensor:
    def device(values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(views.device, non_blocking=True)

    def on(rows: Rows, change: Callable[[Tensor], Tensor]) -> None:
        if len(rows):
            _change(views, rows, change)

    rows = np.flatnonzero(order[:, 0] >= 0)
    hue = colour.hue if style.hue == "hsv" else colour.linear_hue
    on(rows, lambda some: colour.jitter(some, device(_jitter_factors(record, len(order))[rows]), order[rows], hue))
    on(_where(record, "grey"), colour.grey)
    if "blur" in record:
        colour.blur(views, record["blur"].astype(np.float64))
    rows = _where(record, "solarise", NEVER_SOLARISED)
    on(rows, lambda some: colour.solarise(some, device(record["solarise"][rows])))
    rows = _where(record, "posterise", 8)
    on(rows, lambda some: colour.posterise(some, device(record["posterise"][rows])))
    rows = _where(record, "noise")
    on(rows, lambda some: colour.noise(some, device(record["noise"][rows]), device(record["noise_seed"][rows])))
    rows = _where(record, "colour_dropping")
    kept, seed = "colour_dropping", "colour_dropping_seed"
    on(rows, lambda some: colour.drop_colours(some, device(record[kept][rows]), device(record[seed][rows])))
    rows = _where(record, "erasing")
    on(rows, lambda some: colour.erase(some, record["erasing"][rows].astype(np.float64)))
    return views


def _where(record: Record, name: str, neutral: float = 0.0) -> Rows:
    """The rows in which a parameter is not neutral."""
    if name not in record:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero((record[name] != np.float32(neutral)).reshape(len(record[name]), -1).any(axis=1))


def _change(views: Tensor, rows: Rows, change: Callable[[Tensor], Tensor]) -> None:
    """Change some rows in place."""
    if rows[-1] - rows[0] == len(rows) - 1:
        change(views[int(rows[0]) : int(rows[-1]) + 1])
    else:
        index = _index(rows, views.device)
        warp.put(views, rows, change(views.index_select(0, index)))


def _index(rows: Rows, device: torch.device) -> Tensor:
    return torch.from_numpy(rows).to(device, non_blocking=True)
