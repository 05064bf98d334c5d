"""Operations that move pixels: what they draw, and their homographies.

Each acts on what the operations before it show: crop, flips, affine map, perspective. Coordinates run from -1 to 1
between the outer edges of the outer pixels, x to the right and y down (`align_corners=False` in torch's `grid_sample`).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_inv.augment.operation import Draws, Geometric, Side, check_range
from ssl_inv.augment.warp import Neutral, Record
from ssl_inv.catalogue import SettingError, require_between
from ssl_inv.transforms import Box, Circle, Flag, Group, Real
from ssl_inv.transforms.keyed_random import Key

_ATTEMPTS = 10


class Crop(Geometric):
    """A crop of random area and shape, brought to the size of the view (random resized crop; Szegedy et al., CVPR
    2015).

    Like torchvision's RandomResizedCrop, it begins and ends at pixels of the source and is resized linearly, with
    antialiasing. The codes of BYOL, Barlow Twins, VICReg and DINO resize cubically. Up to ten draws are made until one
    fits; after that the largest centred crop with an allowed ratio is taken. Records `crop`, a box in fractions of the
    source.

    Args:
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width over height, in pixels.
        probability: of being applied; otherwise the view shows the centre square, of a square image the whole.
    """

    groups: Mapping[str, Group] = {"crop": Box()}
    neutral: Mapping[str, Neutral] = {"crop": (0.5, 0.5, 1.0, 1.0)}
    upright = True

    def __init__(
        self, *, scale: list[float] = [0.08, 1.0], ratio: list[float] = [3 / 4, 4 / 3], probability: float = 1.0
    ) -> None:
        super().__init__(probability)
        self.scale, self.ratio = check_range("scale", scale, 0, 1), check_range("ratio", ratio, 1e-3, 1e3)

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        key = key.for_purpose("crop")
        boxes = draw_crops(key.uniform(4 * _ATTEMPTS), self.scale, self.ratio, height, width)
        return {
            "crop": np.where(key.happens(self.probability)[:, None], boxes, centre_squares(height, width, len(key)))
        }

    def with_scale(self, scale: tuple[float, float]) -> "Crop":
        """The same crop with another share of the area."""
        return Crop(scale=list(scale), ratio=list(self.ratio), probability=self.probability)

    @staticmethod
    def matrices(record: Record) -> NDArray[np.float64]:
        boxes = record["crop"]
        found = np.zeros((len(boxes), 3, 3))
        found[:, [0, 1], [0, 1]], found[:, :2, 2], found[:, 2, 2] = boxes[:, 2:], 2 * boxes[:, :2] - 1, 1
        return found


def centre_squares(height: Side, width: Side, count: int, share: float = 1.0) -> NDArray[np.float64]:
    """Boxes of the largest squares about the centre, or of `share` of their sides, in fractions of the source, with
    sides at whole pixels, `(count, 4)`.
    """
    tall, wide = _each(height, count), _each(width, count)
    side = np.maximum(np.rint(share * np.minimum(tall, wide)), 1)
    left, top = np.floor((wide - side) / 2), np.floor((tall - side) / 2)
    return np.stack(((left + side / 2) / wide, (top + side / 2) / tall, side / wide, side / tall), axis=1)


def _each(side: Side, count: int) -> NDArray[np.float64]:
    return np.broadcast_to(np.asarray(side, dtype=np.float64), count)


def draw_crops(
    random: NDArray[np.float64], scale: tuple[float, float], ratio: tuple[float, float], height: Side, width: Side
) -> NDArray[np.float64]:
    """Crop boxes with an area share uniform in `scale` and the logarithm of their aspect ratio uniform in `ratio`.

    Args:
        random: numbers from [0, 1), shape `(B, 40)`: ten attempts of area, ratio and two positions.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width over height, in pixels.
        height: of the source images, in pixels, or of each, `(B,)`.
        width: of the source images, in pixels, or of each, `(B,)`.

    Returns:
        Boxes (centre x, centre y, width, height) in fractions of the source, with sides at whole pixels, shape `(B,
        4)`.
    """
    draws = random.reshape(-1, _ATTEMPTS, 4)
    tall, wide = _each(height, len(draws)), _each(width, len(draws))
    area = (scale[0] + (scale[1] - scale[0]) * draws[..., 0]) * tall[:, None] * wide[:, None]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * draws[..., 1])
    widths, heights = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (widths >= 1) & (widths <= wide[:, None]) & (heights >= 1) & (heights <= tall[:, None])
    rows, first = np.arange(len(draws)), fits.argmax(axis=1)
    shape = np.clip(wide / tall, ratio[0], ratio[1])
    fallback = np.rint(np.minimum(wide, tall * shape)), np.rint(np.minimum(tall, wide / shape))
    found = fits.any(axis=1)
    w = np.where(found, widths[rows, first], np.maximum(fallback[0], 1))
    h = np.where(found, heights[rows, first], np.maximum(fallback[1], 1))
    left = np.where(found, np.floor(draws[rows, first, 2] * (wide - w + 1)), np.floor((wide - w) / 2))
    top = np.where(found, np.floor(draws[rows, first, 3] * (tall - h + 1)), np.floor((tall - h) / 2))
    return np.stack(((left + w / 2) / wide, (top + h / 2) / tall, w / wide, h / tall), axis=1)


class Flip(Geometric):
    """A mirror image, left to right. Records `flip`.

    Args:
        probability: of being applied.
    """

    groups: Mapping[str, Group] = {"flip": Flag()}
    neutral: Mapping[str, Neutral] = {"flip": 0.0}
    upright = True

    def __init__(self, *, probability: float = 0.5) -> None:
        super().__init__(probability)

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        return {"flip": key.for_purpose("flip").happens(self.probability).astype(np.float64)}

    @staticmethod
    def matrices(record: Record) -> NDArray[np.float64]:
        return np.tile(np.diag([-1.0, 1.0, 1.0]), (len(record["flip"]), 1, 1))


class VerticalFlip(Geometric):
    """A mirror image, upside down. Records `vertical_flip`.

    Args:
        probability: of being applied.
    """

    groups: Mapping[str, Group] = {"vertical_flip": Flag()}
    neutral: Mapping[str, Neutral] = {"vertical_flip": 0.0}
    upright = True

    def __init__(self, *, probability: float = 0.5) -> None:
        super().__init__(probability)

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        return {"vertical_flip": key.for_purpose("vertical_flip").happens(self.probability).astype(np.float64)}

    @staticmethod
    def matrices(record: Record) -> NDArray[np.float64]:
        return np.tile(np.diag([1.0, -1.0, 1.0]), (len(record["vertical_flip"]), 1, 1))


class Affine(Geometric):
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

    groups: Mapping[str, Group] = {
        "angle": Circle(2 * math.pi),
        "translation": Real(scale=0.5, dimensions=2),
        "zoom": Real(scale=0.5, neutral_value=1.0),
        "shear": Real(scale=0.5, dimensions=2),
    }
    neutral: Mapping[str, Neutral] = {"angle": 0.0, "translation": 0.0, "zoom": 1.0, "shear": 0.0}

    def __init__(
        self,
        *,
        degrees: float = 30.0,
        translation: list[float] = [0.1, 0.1],
        scale: list[float] = [0.8, 1.2],
        shear: list[float] = [10.0, 10.0],
        probability: float = 1.0,
    ) -> None:
        super().__init__(probability)
        require_between(0, 180, degrees=degrees)
        self.purpose = "affine"
        self.reach = {
            "angle": np.radians([degrees]),
            "translation": _two("translation", translation),
            "zoom": np.array(check_range("scale", scale, 1e-3, 1e3)),
            "shear": np.radians(_two("shear", shear, 89.0)),
        }

    def only(self, purpose: str, name: str) -> "Affine":
        """The same operation, but it draws and records one parameter alone, with random numbers for `purpose`."""
        self.purpose, self.reach, self.groups = purpose, {name: self.reach[name]}, {name: self.groups[name]}
        return self

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        key = key.for_purpose(self.purpose)
        applied = key.happens(self.probability)[:, None]
        drawn: dict[str, Draws] = {}
        for name, reach in self.reach.items():
            unit = key.for_purpose(name).uniform(1 if name == "zoom" else len(reach))
            if name == "zoom":
                drawn[name] = np.where(applied, reach[0] + (reach[1] - reach[0]) * unit, 1.0)[:, 0]
            elif name == "angle":
                drawn[name] = np.where(applied, np.remainder(reach * (2 * unit - 1), 2 * math.pi), 0.0)[:, 0]
            else:
                drawn[name] = np.where(applied, reach * (2 * unit - 1), 0.0)
        return drawn

    @staticmethod
    def matrices(record: Record) -> NDArray[Any]:
        rows = len(next(iter(record.values())))
        # y points down, so a counter-clockwise turn has the opposite sign.
        angle = -record.get("angle", np.zeros(rows))
        shift, zoom = record.get("translation", np.zeros((rows, 2))), record.get("zoom", np.ones(rows))
        shear_x, shear_y = record.get("shear", np.zeros((rows, 2))).T
        found = np.zeros((rows, 3, 3))
        found[:, 0, 0] = zoom * np.cos(angle - shear_y) / np.cos(shear_y)
        found[:, 0, 1] = zoom * (-np.cos(angle - shear_y) * np.tan(shear_x) / np.cos(shear_y) - np.sin(angle))
        found[:, 1, 0] = zoom * np.sin(angle - shear_y) / np.cos(shear_y)
        found[:, 1, 1] = zoom * (-np.sin(angle - shear_y) * np.tan(shear_x) / np.cos(shear_y) + np.cos(angle))
        found[:, :2, 2] = 2 * shift
        found[:, 2, 2] = 1
        return np.linalg.inv(found)


def _two(name: str, value: list[float], most: float = math.inf) -> NDArray[np.float64]:
    if len(value) != 2 or min(value) < 0 or max(value) > most:
        limit = f" and at most {most:g}" if most < math.inf else ""
        raise SettingError(name, f"must be two numbers, for x and y, of at least 0{limit}, got {value}")
    return np.array(value, dtype=np.float64)


def rotation(*, degrees: float = 30.0, probability: float = 1.0) -> Affine:
    """A rotation in the image plane about the centre. Records `angle` in radians; positive is counter-clockwise.

    Args:
        degrees: the angle is drawn between minus and plus this.
        probability: of being applied.
    """
    return Affine(degrees=degrees, probability=probability).only("rotation", "angle")


def translation(*, largest: list[float] = [0.1, 0.1], probability: float = 1.0) -> Affine:
    """A shift. Records `translation` (x, y) in fractions of the view's side; positive is to the right and down.

    Args:
        largest: largest shift in x and in y, in fractions of the view's side.
        probability: of being applied.
    """
    return Affine(translation=largest, probability=probability).only("translation", "translation")


def scale(*, factor: list[float] = [0.8, 1.2], probability: float = 1.0) -> Affine:
    """Growth or shrinkage about the centre. Records `zoom`, a factor.

    Args:
        factor: smallest and largest factor by which the content grows.
        probability: of being applied.
    """
    return Affine(scale=factor, probability=probability).only("scale", "zoom")


def shear(*, degrees: list[float] = [10.0, 10.0], probability: float = 1.0) -> Affine:
    """A shear about the centre. Records `shear` (x, y) in radians.

    Args:
        degrees: largest angle in x and in y.
        probability: of being applied.
    """
    return Affine(shear=degrees, probability=probability).only("shear", "shear")


class Perspective(Geometric):
    """A perspective view: each corner moves inwards by a random share, as in torchvision's RandomPerspective.

    Records `perspective`: the shifts (x, y) of the top left, top right, bottom right and bottom left corner, in
    fractions of the side.

    Args:
        distortion: the largest shift of a corner, as a share of half the side.
        probability: of being applied.
    """

    groups: Mapping[str, Group] = {"perspective": Real(scale=0.25, dimensions=8)}
    neutral: Mapping[str, Neutral] = {"perspective": 0.0}

    def __init__(self, *, distortion: float = 0.5, probability: float = 0.5) -> None:
        super().__init__(probability)
        require_between(0, 1, distortion=distortion)
        self.distortion = distortion

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        key = key.for_purpose("perspective")
        inwards = np.array([1, 1, -1, 1, -1, -1, 1, -1]) * self.distortion / 2
        return {"perspective": np.where(key.happens(self.probability)[:, None], inwards * key.uniform(8), 0.0)}

    @staticmethod
    def matrices(record: Record) -> NDArray[np.float64]:
        """Homographies that lead the shifted corners back to where they were."""
        corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        x, y = np.moveaxis(corners + 2 * record["perspective"].reshape(-1, 4, 2), -1, 0)
        u, v = np.broadcast_to(corners[:, 0], x.shape), np.broadcast_to(corners[:, 1], x.shape)
        one, zero = np.ones_like(x), np.zeros_like(x)
        first = np.stack((x, y, one, zero, zero, zero, -u * x, -u * y), axis=-1)
        second = np.stack((zero, zero, zero, x, y, one, -v * x, -v * y), axis=-1)
        both, target = np.concatenate((first, second), axis=1), np.concatenate((u, v), axis=1)[..., None]
        solved = np.linalg.solve(both, target)[..., 0]
        return np.concatenate((solved, np.ones((len(solved), 1))), axis=1).reshape(-1, 3, 3)
