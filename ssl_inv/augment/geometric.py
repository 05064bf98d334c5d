"""Operations that move pixels. All those of a view become one resampling.

A crop comes first; the others act on what it shows and count in its frame: x to the right and y down from -1 to 1, (0,
0) in the centre.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ssl_inv.augment.operation import (
    Draws,
    Happening,
    Operation,
    between,
    check_probability,
    check_range,
    where_applied,
)
from ssl_inv.catalogue import SettingError, require_between
from ssl_inv.transforms import Box, Circle, Group, Real
from ssl_inv.transforms.keyed_random import Key

_ATTEMPTS = 10


_AFFINE: Mapping[str, Group] = {
    "angle": Circle(2 * math.pi),
    "translation": Real(scale=0.5, dimensions=2),
    "zoom": Real(scale=0.5, neutral_value=1.0),
    "shear": Real(scale=0.5, dimensions=2),
}


class Crop(Operation):
    """A crop of random area and shape, brought to the size of the view (random resized crop; Szegedy et al., CVPR
    2015).

    Like torchvision's RandomResizedCrop, it begins and ends at pixels of the source and is resized linearly,
    antialiased; the codes of BYOL, Barlow Twins, VICReg and DINO resize cubically. Up to ten draws are made until one
    fits; after that the largest centred crop with an allowed ratio is taken. Records `crop`, a box in fractions of the
    source.

    Args:
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width over height, in pixels.
        probability: of being applied; the whole image is taken otherwise.
    """

    def __init__(
        self, *, scale: list[float] = [0.08, 1.0], ratio: list[float] = [3 / 4, 4 / 3], probability: float = 1.0
    ) -> None:
        check_probability("probability", probability)
        self.scale, self.ratio = check_range("scale", scale, 0, 1), check_range("ratio", ratio, 1e-3, 1e3)
        self.probability = probability

    @property
    def groups(self) -> Mapping[str, Group]:
        return {"crop": Box()}

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        key = key.for_purpose("crop")
        boxes = draw_crops(key.uniform(4 * _ATTEMPTS), self.scale, self.ratio, height, width)
        applied = key.happens(self.probability)
        return {"crop": np.where(applied[:, None], boxes, np.array([0.5, 0.5, 1.0, 1.0]))}

    def with_scale(self, scale: tuple[float, float]) -> "Crop":
        """The same with crops of another share of the area."""
        return Crop(scale=list(scale), ratio=list(self.ratio), probability=self.probability)


def crop_of_at_least(min_scale: float) -> Crop:
    """The crop of policies that set its smallest share of the image's area alone.

    Raises:
        ValueError: if that is no share.
    """
    require_between(0, 1, min_scale=min_scale)
    return Crop(scale=[min_scale, 1.0])


def draw_crops(
    random: NDArray[np.float64], scale: tuple[float, float], ratio: tuple[float, float], height: int, width: int
) -> NDArray[np.float64]:
    """Crop boxes with an area share uniform in `scale` and the logarithm of their aspect ratio uniform in `ratio`.

    Args:
        random: numbers from [0, 1), shape `(B, 40)`: ten attempts of area, ratio and two positions.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width over height, in pixels.
        height: of the source images, in pixels.
        width: of the source images, in pixels.

    Returns:
        Boxes (centre x, centre y, width, height) in fractions of the source, with sides at whole pixels, shape `(B,
        4)`.
    """
    draws = random.reshape(-1, _ATTEMPTS, 4)
    area = between(*scale, draws[..., 0]) * height * width
    aspect = np.exp(between(math.log(ratio[0]), math.log(ratio[1]), draws[..., 1]))
    widths, heights = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    rows, first = np.arange(len(draws)), fits.argmax(axis=1)
    shape = min(max(width / height, ratio[0]), ratio[1])
    fallback = round(min(width, height * shape)), round(min(height, width / shape))
    found = fits.any(axis=1)
    w = np.where(found, widths[rows, first], max(fallback[0], 1))
    h = np.where(found, heights[rows, first], max(fallback[1], 1))
    left = np.where(found, np.floor(draws[rows, first, 2] * (width - w + 1)), np.floor((width - w) / 2))
    top = np.where(found, np.floor(draws[rows, first, 3] * (height - h + 1)), np.floor((height - h) / 2))
    return np.stack(((left + w / 2) / width, (top + h / 2) / height, w / width, h / height), axis=1)


def flip(*, probability: float = 0.5) -> Operation:
    """A mirror image, left to right. Records `flip`.

    Args:
        probability: of being applied.
    """
    return Happening("flip", probability)


def vertical_flip(*, probability: float = 0.5) -> Operation:
    """A mirror image, upside down. Records `vertical_flip`.

    Args:
        probability: of being applied.
    """
    return Happening("vertical_flip", probability)


class Affine(Operation):
    """Some or all of the parameters of an affine map about the centre, drawn together.

    Args:
        purpose: names the random numbers; operations of different purposes are independent.
        degrees: see `affine`, as are the others.
        translation: none does not record it; so with all but the probability.
        zoom: smallest and largest factor.
        shear: of x and y, in degrees.
        probability: of being applied.
    """

    def __init__(
        self,
        purpose: str,
        *,
        degrees: float | None = None,
        translation: list[float] | None = None,
        zoom: list[float] | None = None,
        shear: list[float] | None = None,
        probability: float = 1.0,
    ) -> None:
        check_probability("probability", probability)
        self.purpose, self.probability = purpose, probability
        self.reach: dict[str, NDArray[np.float64]] = {}
        if degrees is not None:
            if not 0 <= degrees <= 180:
                raise SettingError("degrees", f"must lie between 0 and 180, got {degrees}")
            self.reach["angle"] = np.array([math.radians(degrees)])
        if translation is not None:
            self.reach["translation"] = _two("translation", translation)
        if zoom is not None:
            self.reach["zoom"] = np.array(check_range("scale", zoom, 1e-3, 1e3))
        if shear is not None:
            self.reach["shear"] = np.radians(_two("shear", shear, 89.0))

    @property
    def groups(self) -> Mapping[str, Group]:
        return {name: _AFFINE[name] for name in self.reach}

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        key = key.for_purpose(self.purpose)
        applied = key.happens(self.probability)
        return {name: self._draw(name, reach, applied, key.for_purpose(name)) for name, reach in self.reach.items()}

    def _draw(self, name: str, reach: NDArray[np.float64], applied: NDArray[np.bool_], key: Key) -> NDArray[np.float64]:
        if name == "zoom":
            return where_applied(applied, between(reach[0], reach[1], key.uniform(1)[:, 0]), 1.0)
        drawn = reach * (2 * key.uniform(len(reach)) - 1)
        return where_applied(applied, np.remainder(drawn[:, 0], 2 * math.pi) if name == "angle" else drawn)


def _two(name: str, value: list[float], most: float = float("inf")) -> NDArray[np.float64]:
    if len(value) != 2 or min(value) < 0 or max(value) > most:
        limit = f" and at most {most:g}" if most < math.inf else ""
        raise SettingError(name, f"must be two numbers, for x and y, of at least 0{limit}, got {value}")
    return np.array(value, dtype=np.float64)


def affine(
    *,
    degrees: float = 30.0,
    translation: list[float] = [0.1, 0.1],
    scale: list[float] = [0.8, 1.2],
    shear: list[float] = [10.0, 10.0],
    probability: float = 1.0,
) -> Operation:
    """Rotation, translation, scale and shear about the centre, drawn together and composed as in torchvision's
    RandomAffine.

    Records `angle` in radians (positive is counter-clockwise), `translation` (x, y) in fractions of the view's side,
    `zoom` as a factor and `shear` (x, y) in radians.

    Args:
        degrees: the angle is drawn between minus and plus this.
        translation: largest shift in x and in y, in fractions of the view's side; positive is to the right and down.
        scale: smallest and largest factor by which the content grows.
        shear: largest shear angle in x and in y, in degrees.
        probability: of being applied.
    """
    return Affine("affine", degrees=degrees, translation=translation, zoom=scale, shear=shear, probability=probability)


def rotation(*, degrees: float = 30.0, probability: float = 1.0) -> Operation:
    """A rotation in the image plane about the centre. Records `angle` in radians; positive is counter-clockwise.

    Args:
        degrees: the angle is drawn between minus and plus this.
        probability: of being applied.
    """
    return Affine("rotation", degrees=degrees, probability=probability)


def translation(*, largest: list[float] = [0.1, 0.1], probability: float = 1.0) -> Operation:
    """A shift. Records `translation` (x, y) in fractions of the view's side; positive is to the right and down.

    Args:
        largest: largest shift in x and in y, in fractions of the view's side.
        probability: of being applied.
    """
    return Affine("translation", translation=largest, probability=probability)


def scale(*, factor: list[float] = [0.8, 1.2], probability: float = 1.0) -> Operation:
    """Growth or shrinkage about the centre. Records `zoom`, a factor.

    Args:
        factor: smallest and largest factor by which the content grows.
        probability: of being applied.
    """
    return Affine("scale", zoom=factor, probability=probability)


def shear(*, degrees: list[float] = [10.0, 10.0], probability: float = 1.0) -> Operation:
    """A shear about the centre. Records `shear` (x, y) in radians.

    Args:
        degrees: largest angle in x and in y.
        probability: of being applied.
    """
    return Affine("shear", shear=degrees, probability=probability)


class Perspective(Operation):
    """A perspective view: each corner moves inwards by a random share, as in torchvision's RandomPerspective.

    Records `perspective`: the shifts (x, y) of the top left, top right, bottom right and bottom left corner, in
    fractions of the side.

    Args:
        distortion: the largest shift of a corner, as a share of half the side.
        probability: of being applied.
    """

    def __init__(self, *, distortion: float = 0.5, probability: float = 0.5) -> None:
        check_probability("probability", probability)
        require_between(0, 1, distortion=distortion)
        self.distortion, self.probability = distortion, probability

    @property
    def groups(self) -> Mapping[str, Group]:
        return {"perspective": Real(scale=0.25, dimensions=8)}

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        key = key.for_purpose("perspective")
        inwards = np.array([1, 1, -1, 1, -1, -1, 1, -1]) * self.distortion / 2
        return {"perspective": where_applied(key.happens(self.probability), inwards * key.uniform(8))}
