"""Smooth random fields that warp or recolour an image by another amount at every pixel.

Random Field Augmentations (Mansfield, Afkanpour, Morningstar, Singhal; NeurReps 2023, arXiv 2311.03629). A field g is a
homogeneous, isotropic Gaussian random field with power spectrum P(k) ~ |k|^-gamma, divided by its largest absolute
value. A strength alpha multiplies it, so that -alpha <= alpha g <= alpha. Coordinates span [-1, 1] from border to
border with the origin in the image centre, as in `affine_grid` with `align_corners=False`. In this unit, a shift by a
wave as long as the image begins to fold it at alpha = 1/pi, about the strength (1/3) beyond which the paper's results
fall.

Few modes carry such a field: for gamma = 7 the modes above wave number 6 add 0.4 % to it (root mean square), for gamma
= 10 the modes above 3 add 0.2 %. So a field is a short Fourier series, evaluated at every pixel as two matrix products.
A sample's modes depend on its own seed and gamma alone, whatever the image size and the rest of the batch.

A Fourier series is periodic, so opposite borders of an image would move together. By default the period is therefore
twice the image side, and the image is a window of it. Wave numbers count waves per period: the longest wave is two
sides long. At equal strength the deformation is gentler: at gamma = 7 a shift with alpha = 1/3 folds nothing. A window,
unlike a whole period, does not have mean zero: at gamma = 7 its mean holds a third of its power. The mean would move,
turn or tint the image as a whole, which crops and jitter do, on the record. So it is subtracted before the largest
absolute value is brought to 1. With `periodic=True`, the image is one period: the field on the torus.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.catalogue import SettingError
from ssl_inv.transforms import keyed_random
from ssl_inv.transforms.hsv import write_hsv, write_rgb

_CACHED_PIXELS = 2**17
"""Pixels that a core works on at a time: few enough for their dozen planes to stay in its caches from pass to pass."""


def _images_at_once(batch: int, size: int, device: torch.device) -> int:
    """How many images of `size` pixels a side to work on at a time; all of them on other devices than a CPU."""
    return max(1, _CACHED_PIXELS // size**2 if device.type == "cpu" else batch)


# Fields.

TOLERANCE = 0.005
"""Root mean square of the waves that are too short to matter, relative to the field's own."""


def coefficients(
    seed: Tensor,
    gamma: Tensor,
    count: int,
    size: int,
    *,
    periodic: bool = False,
    tolerance: float = TOLERANCE,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Random amplitudes of the Fourier modes of independent fields, drawn on the host.

    A sample's numbers depend on its seed and gamma alone. They are numbered from the longest waves to the shortest, so
    a lower cut-off (a larger `tolerance` or a smaller `size`) leaves modes out and changes none.

    Args:
        seed: one number per sample, `(B,)`, int64; on the host, because other devices would have to be waited for.
        gamma: smoothness, the exponent of the power spectrum, positive, `(B,)`; on the host too.
        count: fields per sample.
        size: side of the image in pixels, at least 3; no wave shorter than two pixels is drawn.
        periodic: one period of the field to an image side instead of half a period.
        tolerance: root mean square of the modes that are left out, relative to the field's own; 0 leaves none out.
        device: where the result goes.

    Returns:
        Amplitudes `(B, count, M, M)`, float32, of products of the functions 1, cos x, sin x, cos 2x, sin 2x, ... of y
        (rows) and of x (columns), each function with mean square 1. The smallest gamma decides M; samples that need
        fewer modes have zeros.

    Raises:
        ValueError: if a gamma is not positive and finite, or the image has fewer than 3 pixels a side.
    """
    exponents = gamma.cpu().numpy().astype(np.float32)
    if not (valid := np.isfinite(exponents) & (exponents > 0)).all():
        raise SettingError("gamma", f"must be positive and finite, got {exponents[~valid][0]}")
    if size < 3:
        raise ValueError(f"a random field needs an image of at least 3 pixels a side, got {size}")
    waves = cutoffs(exponents, size, periodic=periodic, tolerance=tolerance)
    modes = _modes(2 * int(waves.max(initial=1)) + 1)
    normals = _normals(seed.cpu().numpy(), count, modes.place)
    amplitudes = np.exp(-exponents[:, None, None] / 4 * modes.log_squared) * (modes.largest <= waves[:, None, None])
    return torch.from_numpy(normals * amplitudes[:, None]).to(device, non_blocking=True)


def cutoffs(
    gamma: NDArray[np.float32], size: int, *, periodic: bool = False, tolerance: float = TOLERANCE
) -> NDArray[np.int64]:
    """The largest wave number per axis that each gamma `(B,)` needs, `(B,)`, below the Nyquist frequency; see
    `coefficients`.

    Outside a square of half side a = K + 1/2 the plane holds the power 8 a^(2 - gamma) / (gamma - 2) times the integral
    of cos^(gamma - 2) from 0 to pi/4, which is 1/sqrt(2) at most where gamma >= 3; the whole is more than the 4 of the
    four modes of wave number 1. For gamma <= 2 the power outside has no bound, and every mode counts.
    """
    decay = gamma.astype(np.float64) - 2
    nyquist = ((size if periodic else 2 * size) - 1) // 2
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        half_side = (math.sqrt(2) / (decay * np.float64(tolerance) ** 2)) ** (1 / decay)
    return np.where(decay > 0, np.clip(np.ceil(half_side - 0.5), 1, nyquist), nyquist).astype(np.int64)


class _Modes(NamedTuple):
    """Facts about the products of two of the first M functions 1, cos x, sin x, cos 2x, ..., each `(M, M)`.

    Attributes:
        largest: the larger of the two wave numbers.
        log_squared: logarithm of |k|^2; infinity for the constant, which has no part in a field.
        place: the position of the product's random number among the numbers of a key, by the pairing function of
            Rosenberg and Strong. It fills squares one around the other, so the upper left corner is the same for every
            M.
    """

    largest: NDArray[np.int64]
    log_squared: NDArray[np.float32]
    place: NDArray[np.int64]


@lru_cache(maxsize=16)
def _modes(side: int) -> _Modes:
    row, column = np.indices((side, side))
    outer = np.maximum(row, column)
    squared = (((row + 1) // 2) ** 2 + ((column + 1) // 2) ** 2).astype(np.float32)
    squared[0, 0] = np.inf
    return _Modes((outer + 1) // 2, np.log(squared), outer * outer + outer + row - column)


def _normals(seed: NDArray[np.int64], count: int, place: NDArray[np.int64]) -> NDArray[np.float32]:
    """Standard normal numbers, `(B, count, M, M)`, by the Box-Muller transform of two halves of 64 random bits each."""
    key = np.repeat(seed, count), np.tile(np.arange(count), len(seed))
    halves = keyed_random.bits(*key, count=(place.size + 1) // 2).view(np.uint32).astype(np.float32)
    radius = np.sqrt(-2 * np.log((halves[:, ::2] + np.float32(0.5)) * np.float32(2.0**-32)))
    angle = halves[:, 1::2] * np.float32(2 * np.pi * 2.0**-32)
    np.multiply(radius, np.cos(angle), out=halves[:, ::2])
    np.multiply(radius, np.sin(angle), out=halves[:, 1::2])
    return np.take(halves, place, axis=1).reshape(len(seed), count, *place.shape)


@lru_cache(maxsize=16)
def _basis(side: int, size: int, periodic: bool, device: torch.device) -> Tensor:
    """The functions 1, cos x, sin x, cos 2x and so on at the pixel centres, each scaled to mean square 1 over a period,
    `(M, S)`.
    """
    position = (2 * np.arange(size) + 1) / size - 1
    phase = (np.pi if periodic else np.pi / 2) * np.arange(1, side // 2 + 1)[:, None] * position
    functions = np.ones((side, size), dtype=np.float32)
    functions[1::2], functions[2::2] = math.sqrt(2) * np.cos(phase), math.sqrt(2) * np.sin(phase)
    return torch.from_numpy(functions).to(device)


def synthesise(amplitudes: Tensor, size: int, *, periodic: bool = False) -> Tensor:
    """The fields at every pixel, with mean 0 over the image and largest absolute value 1.

    Args:
        amplitudes: what `coefficients` gave for the same `size` and `periodic`, `(B, count, M, M)`.
        size: side of the image in pixels.
        periodic: one period of the field to an image side instead of half a period.

    Returns:
        Fields `(B, count, S, S)`, float32.

    Raises:
        ValueError: if the image has too few pixels for the shortest waves.
    """
    batch, count, side, _ = amplitudes.shape
    if side > (size if periodic else 2 * size):
        raise ValueError(
            f"{side // 2} waves do not fit into {size if periodic else 2 * size} pixels; "
            "give `coefficients` the same size"
        )
    basis = _basis(side, size, periodic, amplitudes.device)
    means = basis.mean(1)
    planes = amplitudes.reshape(batch * count, side, side).clone()
    fields = amplitudes.new_empty(batch * count, size, size)
    # A sum of waves in half precision would be visibly rough.
    with torch.autocast(planes.device.type, enabled=False):
        # The first function is 1, so the first amplitude is a constant that the whole image gains.
        planes[:, 0, 0] -= ((planes * means).sum(2) * means).sum(1)
        # Plane by plane: one product of all would round each by how many there are.
        rows = torch.bmm(planes, basis.expand(len(planes), side, size))
        torch.bmm(basis.t().expand(len(planes), size, side), rows, out=fields)
    flat = fields.flatten(1)
    # Division, not multiplication by the inverse: rounding then never leads beyond 1.
    flat /= torch.maximum(flat.amax(1), flat.amin(1).neg_())[:, None]
    return fields.view(batch, count, size, size)


# Warps: the paper's 2x3 matrices, applied to the target coordinates (x, y). Fields g are `(B, n, S, S)`, multiplied by
# alpha.


def _rotate(x: Tensor, y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    angle = math.pi * g[:, 0]
    cosine, sine = angle.cos(), angle.sin()
    return (cosine * x).addcmul_(sine, y, value=-1), (sine * x).addcmul_(cosine, y)


def _scale(x: Tensor, y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return torch.addcmul(x, g[:, 0], x), torch.addcmul(y, g[:, 1], y)


def _shear(x: Tensor, y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return torch.addcmul(x, g[:, 0], y), torch.addcmul(y, g[:, 1], x)


def _translate(x: Tensor, y: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return x + g[:, 0], y + g[:, 1]


_WARPS: dict[str, tuple[int, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "rotate": (1, _rotate),
    "scale": (2, _scale),
    "shear": (2, _shear),
    "translate": (2, _translate),
}


def field_count(transforms: Sequence[str]) -> int:
    """Fields per sample that `warp` needs: one for rotate, and two, for x and for y, for scale, shear and translate.

    Raises:
        ValueError: if there is no transform of some name.
    """
    for name in transforms:
        if name not in _WARPS:
            raise ValueError(f"no random-field transform is called {name!r}; there are {', '.join(_WARPS)}")
    return sum(_WARPS[name][0] for name in transforms)


def warp(
    coordinates: Tensor, transforms: Sequence[str], alphas: Tensor, fields: Tensor, order: Tensor | None = None
) -> Tensor:
    """Where each pixel of the warped image reads, as coordinates of the unwarped one.

    Several transforms are one: the product of their matrices at the target pixel, every alpha divided by the square
    root of their number.

    Args:
        coordinates: target coordinates (x, y) in [-1, 1], `(B, S, S, 2)`; may be expanded.
        transforms: which of rotate, scale, shear and translate, the same for all samples.
        alphas: strength of each of the N transforms, `(B, N)`; a sample whose alphas are 0 keeps its coordinates, bit
            for bit.
        fields: what `synthesise` gave for `field_count(transforms)` fields, in the order of `transforms`, `(B, C, S,
            S)`.
        order: position in `transforms` of the first, second, ... matrix of the product, from left to right, `(B, N)`,
            int64; needed for more than one transform. On the host, because other devices would have to be waited for.

    Returns:
        Sampling coordinates `(B, S, S, 2)`, contiguous; they may leave [-1, 1].

    Raises:
        ValueError: if there is no transform of some name, or a tensor does not fit the number of transforms.
    """
    _check_warp(len(coordinates), transforms, alphas, fields, order)
    warped = torch.empty_like(coordinates, memory_format=torch.contiguous_format)
    if list(transforms) == ["translate"]:
        _write_shifted(coordinates, alphas, fields, warped)
        return warped
    parts = torch.split(fields, [_WARPS[name][0] for name in transforms], dim=1)
    for product, rows in _rows_by_order(order, coordinates):
        x, y = coordinates[rows].unbind(-1)
        # In a product of matrices the rightmost meets the point first.
        for which in reversed(product):
            strength = alphas[rows, which].view(-1, 1, 1, 1) / math.sqrt(len(transforms))
            x, y = _WARPS[transforms[which]][1](x, y, parts[which][rows] * strength)
        warped[rows] = _interleaved(x, y)
    return warped


def _write_shifted(coordinates: Tensor, alphas: Tensor, fields: Tensor, out: Tensor) -> None:
    for axis in range(2):
        torch.addcmul(coordinates[..., axis], alphas[:, :, None], fields[:, axis], out=out[..., axis])


def _rows_by_order(order: Tensor | None, coordinates: Tensor) -> Iterator[tuple[list[int], slice | Tensor]]:
    """Every order of transforms that occurs, and the samples that have it, no more at once than the cache holds."""
    step = _images_at_once(len(coordinates), coordinates.shape[1], coordinates.device)
    if order is None or order.shape[1] == 1:
        yield from (([0], slice(start, start + step)) for start in range(0, len(coordinates), step))
        return
    orders, group = torch.unique(order.cpu(), dim=0, return_inverse=True)
    for number, product in enumerate(orders.tolist()):
        rows = (group == number).nonzero().squeeze(1).to(coordinates.device, non_blocking=True)
        yield from ((product, rows[start : start + step]) for start in range(0, len(rows), step))


def _interleaved(x: Tensor, y: Tensor) -> Tensor:
    # `torch.stack` along a last dimension of two copies numbers one by one.
    points = x.new_empty(*x.shape, 2)
    points[..., 0], points[..., 1] = x, y
    return points


def _check_warp(batch: int, transforms: Sequence[str], alphas: Tensor, fields: Tensor, order: Tensor | None) -> None:
    needed = field_count(transforms)
    if not transforms:
        raise ValueError(f"a warp needs at least one transform; there are {', '.join(_WARPS)}")
    if alphas.shape != (batch, len(transforms)):
        raise ValueError(
            f"alphas of {batch} samples and {len(transforms)} transform(s) cannot have shape {tuple(alphas.shape)}"
        )
    if fields.shape[:2] != (batch, needed):
        raise ValueError(
            f"{', '.join(transforms)} need {needed} field(s) for each of {batch} samples, "
            f"got shape {tuple(fields.shape)}"
        )
    if order is None and len(transforms) > 1:
        raise ValueError(f"{len(transforms)} transforms need an order for each sample")
    if order is not None and not torch.equal(
        order.cpu().sort(1).values, torch.arange(len(transforms)).expand(batch, -1)
    ):
        raise ValueError(f"every row of order must be a permutation of 0 to {len(transforms) - 1}")


# Colour.


def local_colour(pixels: Tensor, alphas: Tensor, fields: Tensor) -> Tensor:
    """Add fields to hue, saturation and value.

    Hue is counted in turns and wraps; saturation and value are clipped to [0, 1]. The conversion is the exact hexcone
    of Smith (1978), as in Python's `colorsys`: grey has hue 0, so grey whose saturation rises becomes red before the
    hue is turned.

    Args:
        pixels: images `(B, 3, S, S)` in [0, 1].
        alphas: strength for hue, saturation and value, `(B, 3)`; a sample whose alphas are 0 keeps its pixels, bit for
            bit.
        fields: what `synthesise` gave for three fields, `(B, 3, S, S)`.

    Returns:
        Images `(B, 3, S, S)` in [0, 1].

    Raises:
        ValueError: if the alphas or fields are not three for each sample.
    """
    if alphas.shape != pixels.shape[:2] or fields.shape != pixels.shape:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (pixels, alphas, fields))
        raise ValueError(
            "each image needs an alpha and a field for hue, saturation and value; "
            f"pixels, alphas and fields have shapes {shapes}"
        )
    coloured = torch.empty_like(pixels, memory_format=torch.contiguous_format)
    step = _images_at_once(len(pixels), pixels.shape[-1], pixels.device)
    # Used again for every portion: fresh memory costs more than the arithmetic.
    scratch = pixels.new_empty(8, min(step, len(pixels)), *pixels.shape[2:])
    for start in range(0, len(pixels), step):
        source, strengths, field, out = (tensor[start : start + step] for tensor in (pixels, alphas, fields, coloured))
        _recolour(source, strengths[:, :, None, None], field, scratch[:, : len(source)], out)
    return coloured


def _recolour(pixels: Tensor, strengths: Tensor, fields: Tensor, scratch: Tensor, out: Tensor) -> None:
    hue, saturation, value, *spare = scratch[:5]
    write_hsv(pixels, hue, saturation, value, spare, below=out)
    shift = torch.mul(fields, strengths, out=scratch[5:].transpose(0, 1))
    hue.add_(shift[:, 0], alpha=6)
    saturation.add_(shift[:, 1]).clamp_(0, 1)
    value.add_(shift[:, 2]).clamp_(0, 1)
    write_rgb(hue, saturation, value, spare, out.unbind(1))
    untouched = (strengths == 0).all(1, keepdim=True).to(out.dtype)
    torch.lerp(out, pixels, untouched, out=out)
