"""How well features move with the image, measured without labels: the Lie derivative, and equivariance in decibels."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.chosen_images import mapped, parts_of, some_images
from ssl_inv.evaluation.protocols.map_decibels import NAMES, masked_errors, moved_errors
from ssl_inv.evaluation.protocols.map_derivatives import TOO_SMALL, map_errors
from ssl_inv.evaluation.protocols.motions import (
    COLOUR,
    MOTIONS,
    UNITS,
    Motion,
    Scheme,
    colour_generator,
    generator,
    overlap,
    shifted,
    stride_of,
)
from ssl_inv.evaluation.results import Result, object_sums

_NO_MAPS = "the encoder gives no feature maps"
_ONE_CELL = "the feature map has one cell along an axis, so it cannot move with the image"
_PEAK = 2.0


@dataclass(frozen=True)
class LieDerivative(Protocol):
    """How well the features move with the image under small motions, for any encoder, without labels.

    What it measures: for a one-parameter group g(t) of motions of the image (translation along x and y, rotation and
    scale about the centre, hue, saturation), how fast the features leave the place where an equivariant encoder would
    have them.

    Definition: the Lie derivative is L f(x) = d/dt at t = 0 of g(-t) f(g(t) x), and the local equivariance error is
    E |L f(x)|^2 / dim. For vectors, and for colours, g does nothing to the output, and L f measures invariance.

    - `lee/vector/MOTION`: the error of pooled vectors per squared unit (pixel, radian, e-fold, factor), in units of the
      variance of the features over images.
    - `lee/map/MOTION`: the error of the feature map, divided by E |d/dt f(g(t) x)|^2 + E |d/dt g(t) f(x)|^2, which is
      how much both sides move: 0 for an exactly equivariant map, 1 where the two movements have nothing to do with each
      other, or where the map does not move at all. Maps need 4 x 4 cells: on 2 x 2 cells even maps of images without
      fine detail score 1.00, for two samples have no slope; on 4 x 4 the best are at 0.24, on 8 x 8 at 0.01, so compare
      maps of one size. Where layers are measured, there is a number for the map of each.
    - `eq_t`, `eq_t_whole`, `eq_r`, `eq_r90`: decibels, 10 log10(2^2 / MSE), of the map of the moved image against the
      moved map, in units of the deviation of the map, over what both show: shifts of up to 1/8 of the width; shifts by
      whole cells up to that, or by one; rotations by any angle; quarter turns, which need no interpolation. Where
      layers are measured, there is a number for the map of each.
    - `aliasing/map`, `aliasing/vector`: the share of the error under translation that is due to sampling. A network of
      stride s treats shifts by s, 2 s, ... pixels alike, but for its borders and positional embeddings. So with D(d)
      the mean squared error after a shift by d, the share is 1 - D(s) / E, where sqrt(E) is the mean of sqrt(D(s / 2))
      and sqrt(D(3 s / 2)): without aliasing, the error of whatever knows the position grows about evenly with d. It is
      0 where shifts by parts of a cell do no more harm than whole ones, and 1 where all harm comes from them.

    Derivatives are central differences along the velocity of the image, which is that of a trigonometric polynomial;
    nothing has to be differentiated by autograd.

    Source: Gruver, Finzi, Goldblum and Wilson, "The Lie derivative for measuring learned equivariance" (ICLR 2023).
    EQ-T and EQ-R: Karras et al., "Alias-free generative adversarial networks" (NeurIPS 2021), with 2 as the peak. That
    shifts by whole strides are spared by aliasing: Azulay and Weiss (JMLR 2019); Zhang, "Making convolutional networks
    shift-invariant again" (ICML 2019). The two normalisations and the share are defined here.

    End points: a constant encoder has raw error 0, as an equivariant one has; the remark of each number has what the
    output varies. Unrelated maps have 3.0 dB; the remark has what the unmoved map scores.

    What it orders wrongly: an encoder that is blind to detail is more equivariant than one that sees it. Only motions
    near 0 count: an encoder may be smooth and yet lose track after 10 degrees. Pooled vectors that know the pose, as an
    equivariant objective asks, are punished as not invariant: read `lee/map` and R2 beside. Sharp edges ring when
    they move by a part of a pixel, and a derivative counts this in full: maps of large strides come near 1 in `lee/map`
    although they follow shifts of some pixels, which `eq_t` and `eq_t_whole` show. Numbers per pixel depend on the size
    of the image.

    Attributes:
        images: validation images that are moved, at most.
        step: of the central difference, in deviations of the image's pixels.
        draws: shifts, and rotations, of every image.
        seed: draws images and motions.
    """

    images: int = 256
    step: float = 0.01
    draws: int = 4
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("encode", "images")
    revision: ClassVar[int] = 1
    headlines: ClassVar[tuple[str, ...]] = ("lee/vector/translation_x", "lee/map/translation_x", "eq_t", "eq_r")
    has_targets: ClassVar[bool] = False

    @classmethod
    def quick(cls) -> "LieDerivative":
        """Fewer images and draws."""
        return cls(images=64, draws=2)

    def run(self, encoded: Encoded) -> Iterator[Result]:
        assert encoded.encode is not None
        pixels, objects, _ = some_images(encoded, "validation", self.images, self.seed)
        encode, maps = encoded.encode, encoded.maps
        vectors = parts_of(encode, pixels, encoded.parts)
        for motion in MOTIONS:
            yield from self._derivatives(encoded, pixels, objects, vectors, motion)
        if maps is None:
            for name in ("eq_t", "eq_r", "aliasing"):
                yield Result(name, "all", None, detail=_NO_MAPS)
            return
        for part, one in (encoded.layer_maps or {"all": maps}).items():
            yield from self._decibels(part, one, pixels, objects)
        yield from self._aliasing(encoded, pixels, objects, vectors)

    def _derivatives(
        self, encoded: Encoded, pixels: Tensor, objects: Tensor, vectors: Mapping[str, Tensor], motion: Motion
    ) -> Iterator[Result]:
        assert encoded.encode is not None
        unit = UNITS[motion]
        if motion not in COLOUR:
            velocity = generator(pixels, motion)
        elif encoded.colours is not None:
            velocity = colour_generator(pixels, motion, *encoded.colours)
        else:
            yield Result(f"lee/vector/{motion}", "all", None, detail="it is not known how colours were normalised")
            return
        if not float(velocity.abs().max()) > 0:
            yield Result(f"lee/vector/{motion}", "all", None, detail="no image is changed by it")
            return
        reach = difference_step(pixels, velocity, self.step)
        ends = [pixels + sign * reach.view(-1, 1, 1, 1) * velocity for sign in (1, -1)]
        double = 2 * reach.cpu().double()
        after, before = (parts_of(encoded.encode, one, encoded.parts) for one in ends)
        for part, value in vectors.items():
            change = ((after[part] - before[part]) / double[:, None]).square().mean(dim=1)
            variance = (value - value.mean(dim=0)).square().mean(dim=1)
            raw = f"{float(change.mean()):.3g} per {unit} squared before division"
            yield self._ratio(f"lee/vector/{motion}", part, change, variance, objects, raw)
        maps = encoded.layer_maps or ({} if encoded.maps is None else {"all": encoded.maps})
        if not maps and motion == MOTIONS[0]:
            yield Result("lee/map", "all", None, detail=_NO_MAPS)
        for part, one in maps.items():
            found = map_errors(one, pixels, velocity, reach, motion)
            if found is None:
                yield Result(f"lee/map/{motion}", part, None, detail=TOO_SMALL)
                continue
            raw = "of the variance of the map"
            if motion not in COLOUR:
                error, varies = float(found.error.mean()), float(found.varies.mean())
                quotient = f"{error / varies:.3g} of" if varies else "while nothing is"
                raw = f"{error:.3g} per {unit} squared before division, {quotient} the variation of the output"
            yield self._ratio(f"lee/map/{motion}", part, found.error, found.scale, objects, raw)

    def _ratio(self, name: str, part: str, above: Tensor, below: Tensor, objects: Tensor, detail: str) -> Result:
        """The quotient of two means over images, `(M,)`."""
        sums = object_sums(torch.stack((above, below), dim=1), objects)

        def quotient(totals: Tensor) -> Tensor:
            return totals[:, 0] / totals[:, 1]

        value = float(quotient(sums.sum(dim=0, keepdim=True))[0])
        if not math.isfinite(value):
            return Result(name, part, None, detail="the features are the same for all images")
        return Result(name, part, value, self.bootstrap.standard_error(sums, quotient), detail)

    def _decibels(
        self, part: str, maps: Callable[[Tensor], Tensor], pixels: Tensor, objects: Tensor
    ) -> Iterator[Result]:
        found = moved_errors(maps, pixels, self.draws, self.seed)
        if not found.variance > 0:
            yield Result("eq_t", part, None, detail="the features are the same for all images")
            return
        for name in NAMES:
            errors = found.errors.get(name)
            if errors is None:
                lacking = _ONE_CELL if min(found.size) < 2 else "images or maps are not square"
                yield Result(name, part, None, detail=lacking)
                continue
            sums = object_sums(errors, objects.repeat(len(errors) // len(objects)))
            if not float(sums[:, 2].sum()) > 0:
                yield Result(name, part, None, detail="no cell of the feature map is seen before and after")
                continue

            def level(totals: Tensor, column: int = 0) -> Tensor:
                error = (totals[:, column] / totals[:, 2] / found.variance).clamp_min(1e-12)
                return 10 * torch.log10(_PEAK**2 / error)

            whole = sums.sum(dim=0, keepdim=True)
            detail = f"dB; the unmoved map scores {float(level(whole, 1)[0]):.1f}, an unrelated one 3.0"
            yield Result(name, part, float(level(whole)[0]), self.bootstrap.standard_error(sums, level), detail)

    def _aliasing(
        self, encoded: Encoded, pixels: Tensor, objects: Tensor, vectors: Mapping[str, Tensor]
    ) -> Iterator[Result]:
        assert encoded.encode is not None
        assert encoded.maps is not None
        still = mapped(encoded.maps, pixels)
        height, width = still.shape[-2:]
        strides = stride_of(pixels.shape[-1], width), stride_of(pixels.shape[-2], height)
        if min(strides) <= 1 or min(height, width) < 3:
            yield Result("aliasing", "all", None, detail="needs maps of at least 3 x 3 cells of more than one pixel")
            return
        # Vectors of earlier layers have other strides than the map.
        parts = tuple(part for part in encoded.parts if part == "all") if encoded.layer_maps else encoded.parts
        errors: dict[str, list[Tensor]] = {}
        for cells in (1.0, 0.5, 1.5):
            total: dict[str, Tensor] = {}
            for along in ((1, 0), (0, 1), (-1, 0), (0, -1)):
                x, y = (cells * one for one in along)
                moved = shifted(pixels, x * strides[0], y * strides[1])
                mask = overlap(
                    (height, width), *(torch.full((len(pixels),), one, dtype=torch.float64) for one in (x, y))
                )
                maps = mapped(encoded.maps, moved)
                one = {"map": masked_errors(maps, shifted(still, x, y), mask) / mask.sum(dim=(1, 2, 3))}
                one |= {
                    part: (value - vectors[part]).square().mean(dim=1)
                    for part, value in parts_of(encoded.encode, moved, parts).items()
                }
                total = {key: value + total.get(key, 0) for key, value in one.items()}
            for key, value in total.items():
                errors.setdefault(key, []).append(value)
        for key, found in errors.items():
            sums = object_sums(torch.stack(found, dim=1), objects)
            name, part = ("aliasing/map", "all") if key == "map" else ("aliasing/vector", key)
            share = float(aliasing_share(sums.sum(dim=0, keepdim=True))[0])
            if not math.isfinite(share):
                yield Result(name, part, None, detail="no shift changes the features")
                continue
            whole, half, more = (float(error.mean()) / 4 for error in found)
            detail = (
                f"error {whole:.3g} after a shift by one cell, {half:.3g} after half, {more:.3g} after one and a half"
            )
            yield Result(name, part, share, self.bootstrap.standard_error(sums, aliasing_share), detail)


def difference_step(images: Tensor, velocity: Tensor, step: float) -> Tensor:
    """The time `(B,)` in which `velocity` changes the pixels by `step` of the deviation of the images' pixels, as a
    root mean square. An image that does not move gets 1.
    """
    size = velocity.flatten(1).square().mean(dim=1).sqrt()
    deviation = images.flatten(1).std(dim=1).clamp_min(1e-3)
    return torch.where(size > 1e-9, step * deviation / size.clamp_min(1e-9), torch.ones_like(size))


def lie_derivative(
    function: Callable[[Tensor], Tensor], images: Tensor, motion: Motion, scheme: Scheme = "mirrored"
) -> Tensor:
    """L f(x) of a function that autograd can follow, per unit of `UNITS`, by one pass of forward differentiation.

    Args:
        function: maps `(B, C, H, W)` to maps `(B, C', h, w)`, which move too, or to anything else, which stays.
        images: x; float64 keeps the rounding error small.
        motion: a motion of space.
        scheme: how the images and maps are differentiated.
    """
    with warnings.catch_warnings():
        # torch compiles decompositions the first time, in a way that it calls outdated itself.
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        output, change, *_ = torch.func.jvp(function, (images,), (generator(images, motion, scheme=scheme),))
    error: Tensor = change
    if output.dim() == 4:
        error = change - generator(output, motion, stride_of(images.shape[-1], output.shape[-1]), scheme)
    return error


def decibels(error: float, peak: float = _PEAK) -> float:
    """10 log10(peak^2 / error) of a mean squared error."""
    return 10 * math.log10(peak**2 / error)


def aliasing_share(errors: Tensor) -> Tensor:
    """The share of aliasing from errors `(N, 3)` after a shift by a whole cell, by half a cell and by one and a half;
    NaN where there is no error.
    """
    parts = errors[:, 1:].sqrt().mean(dim=1).square()
    share = (1 - errors[:, 0] / parts).clamp_min(0)
    return torch.where(parts > 0, share, torch.nan)
