"""How far the features move under each of 18 changes of an image, against how far two images lie apart."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate
from torchvision.transforms.v2 import functional

from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.chosen_images import parts_of, some_images
from ssl_inv.evaluation.results import Result, object_sums
from ssl_inv.transforms.keyed_random import uniform

Change = Callable[[Tensor, NDArray[np.float64]], Tensor]
"""Maps one image `(3, H, W)` of colours in [0, 1], and numbers from [0, 1), to the changed image."""

_SIDE = 32
"""Side of the images for which Transforms-2D gives lengths in pixels; ours are longer by the ratio of the sides."""

_DRAWS = 4


@dataclass(frozen=True)
class Sensitivity(Protocol):
    """The sensitivity of the features to each of the 18 transforms of Transforms-2D, on the images of the data.

    What it measures: which changes of an image the features notice, transform by transform.

    Definition: sens = E |f(t(x)) - f(t'(x))| / E |f(t(x)) - f(t(x'))|, where t and t' are two draws of one transform, x
    and x' different images, |.| the Euclidean norm: 0 for invariant features, and 1 where two draws differ as much as
    two images. The denominator is the mean over all pairs of images. Geometric: scale, translate, rotate, shear,
    horizontal and vertical flip. Photometric: hue, brightness, grayscale, posterize, invert, sharpen. Corruptions:
    blur, noise, pixelate, elastic, erase, contrast. Ranges are those of the paper, lengths in pixels grow with the
    image. Flips, grayscale, posterize, invert, sharpen, noise, pixelate, elastic and erase happen with probability 1/2.

    Source: Speicher, Nanda and Gummadi, "Understanding the role of invariance in transfer learning" (TMLR 2024). Two
    things differ. There an object is pasted on a background after the transform; here a whole image is changed, and its
    mirror image fills what geometric transforms uncover. There noise above white wraps around to black; here it is
    clipped.

    End points: an encoder that sees one colour everywhere is undefined; an untrained network stands beside.

    What it orders wrongly: half of the draws of a transform with probability 1/2 are equal, so its sensitivity is lower
    by that half than that of a transform that always happens: compare encoders, not transforms. Features of large norm
    in few directions hide the others: scale matters. A sensitivity of 0 may be invariance or blindness.

    Attributes:
        images: validation images that are changed, at most.
        seed: draws images and transforms.
    """

    images: int = 512
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("encode", "images")
    has_targets: ClassVar[bool] = False

    @classmethod
    def quick(cls) -> "Sensitivity":
        """Fewer images."""
        return cls(images=96)

    def run(self, encoded: Encoded) -> Iterator[Result]:
        assert encoded.encode is not None
        if encoded.colours is None:
            yield Result("sensitivity", "all", None, detail="it is not known how colours were normalised")
            return
        pixels, objects, _ = some_images(encoded, "validation", self.images, self.seed)
        if len(pixels) < 2:
            yield Result("sensitivity", "all", None, detail="needs two images")
            return
        mean, deviation = (one.to(pixels).view(1, 3, 1, 1) for one in encoded.colours)
        colours = (pixels * deviation + mean).clamp(0, 1)
        for number, (name, change) in enumerate(CHANGES.items()):
            first, second = (
                parts_of(
                    encoded.encode, (self._changed(colours, change, number, draw) - mean) / deviation, encoded.parts
                )
                for draw in (0, 1)
            )
            for part, one in first.items():
                yield self._result(f"sensitivity/{name}", part, one, second[part], objects)

    def _changed(self, colours: Tensor, change: Change, number: int, draw: int) -> Tensor:
        """All images after one draw of a transform each."""
        numbers = uniform(self.seed, number, draw, np.arange(len(colours)), count=_DRAWS)
        return torch.stack([change(image, row).clamp(0, 1) for image, row in zip(colours, numbers, strict=True)])

    def _result(self, name: str, part: str, one: Tensor, other: Tensor, objects: Tensor) -> Result:
        moved = (one - other).norm(dim=1)
        apart = torch.cdist(one, one).sum(dim=1) / (len(one) - 1)
        sums = object_sums(torch.stack((moved, apart), dim=1), objects)

        def quotient(totals: Tensor) -> Tensor:
            return totals[:, 0] / totals[:, 1]

        if not float(apart.sum()) > 0:
            return Result(name, part, None, detail="the features are the same for all images")
        value = float(quotient(sums.sum(dim=0, keepdim=True))[0])
        return Result(name, part, value, self.bootstrap.standard_error(sums, quotient), f"{len(one)} images")


def sensitivity(one: Tensor, other: Tensor) -> float:
    """The mean distance of features `(M, D)` of M images after two draws of a transform, divided by the mean distance
    of different images after the first.
    """
    return float((one - other).norm(dim=1).mean() / torch.pdist(one).mean())


def _moved(image: Tensor, matrix: list[list[float]]) -> Tensor:
    """The image sampled at `matrix` times each place, both in [-1, 1]; mirrored beyond the border."""
    theta = torch.tensor([matrix], dtype=image.dtype, device=image.device)
    grid = affine_grid(theta, [1, *image.shape], align_corners=False)
    return grid_sample(image[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]


def _scale(image: Tensor, draws: NDArray[np.float64]) -> Tensor:
    factor = 1 / (0.4 + 0.6 * float(draws[0]))
    return _moved(image, [[factor, 0, 0], [0, factor, 0]])


def _translate(image: Tensor, draws: NDArray[np.float64]) -> Tensor:
    # An object of 0.7 of the side moves within the image.
    x, y = (0.6 * float(draw) - 0.3 for draw in draws[:2])
    return _moved(image, [[1, 0, x], [0, 1, y]])


def _rotate(image: Tensor, draws: NDArray[np.float64]) -> Tensor:
    angle = 2 * math.pi * float(draws[0])
    return _moved(image, [[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0]])


def _shear(image: Tensor, draws: NDArray[np.float64]) -> Tensor:
    x, y = (math.tan(math.radians(100 * float(draw) - 50)) for draw in draws[:2])
    return _moved(image, [[1 + x * y, x, 0], [y, 1, 0]])


def _sometimes(change: Change) -> Change:
    """With probability 1/2, by the last number."""
    return lambda image, draws: change(image, draws) if draws[-1] < 0.5 else image


def _blur(image: Tensor, draws: NDArray[np.float64]) -> Tensor:
    ratio = image.shape[-1] / _SIDE
    kernel = 2 * round(3 * ratio) + 1
    blurred: Tensor = functional.gaussian_blur(image, [kernel, kernel], [ratio * (0.1 + 1.4 * float(draws[0]))])
    return blurred


def _field(image: Tensor, draws: NDArray[np.float64], channels: int) -> NDArray[np.float64]:
    """Uniform numbers for every pixel, `(channels, H, W)`, from the first number as a key."""
    size = (channels, *image.shape[-2:])
    return uniform(int(float(draws[0]) * 2**53), count=math.prod(size)).reshape(size)


def _noise(image: Tensor, draws: NDArray[np.float64]) -> Tensor:
    one, two = _field(image, draws, 6).reshape(2, 3, *image.shape[-2:])
    normal = np.sqrt(-2 * np.log1p(-one)) * np.cos(2 * np.pi * two)
    return image + torch.from_numpy(normal.clip(0, 1)).to(image)


def _pixelate(image: Tensor, draws: NDArray[np.float64]) -> Tensor:
    size = [max(1, round(0.3 * side)) for side in image.shape[-2:]]
    return interpolate(interpolate(image[None], size, mode="area"), image.shape[-2:], mode="nearest")[0]


def _elastic(image: Tensor, draws: NDArray[np.float64]) -> Tensor:
    height, width = image.shape[-2:]
    ratio = width / _SIDE
    kernel = 2 * round(4 * 5 * ratio / 2) + 1
    field = torch.from_numpy(2 * _field(image, draws, 2) - 1).to(image)
    # A kernel is no larger than what reflection at the border allows.
    kernel = min(kernel, 2 * min(height, width) - 1)
    smooth = functional.gaussian_blur(field, [kernel, kernel], [5 * ratio])
    # The field of a larger image is smoother, and so smaller, by the ratio of the sides.
    shift = smooth * 150 * ratio * ratio / torch.tensor([width, height]).to(image).view(2, 1, 1)
    bent: Tensor = functional.elastic(image[None], shift.permute(1, 2, 0)[None])[0]
    return bent


def _erase(image: Tensor, draws: NDArray[np.float64]) -> Tensor:
    side = round(14 * image.shape[-1] / _SIDE)
    y, x = (int(float(draw) * max(1, size - side + 1)) for draw, size in zip(draws, image.shape[-2:], strict=False))
    erased = image.clone()
    erased[:, y : y + side, x : x + side] = 0
    return erased


CHANGES: dict[str, Change] = {
    "scale": _scale,
    "translate": _translate,
    "rotate": _rotate,
    "shear": _shear,
    "horizontal_flip": _sometimes(lambda image, draws: image.flip(-1)),
    "vertical_flip": _sometimes(lambda image, draws: image.flip(-2)),
    "hue": lambda image, draws: functional.adjust_hue(image, float(draws[0]) - 0.5),
    "brightness": lambda image, draws: functional.adjust_brightness(image, 2 * float(draws[0])),
    "grayscale": _sometimes(lambda image, draws: functional.rgb_to_grayscale(image, 3)),
    "posterize": _sometimes(lambda image, draws: functional.posterize(image, 1)),
    "invert": _sometimes(lambda image, draws: functional.invert(image)),
    "sharpen": _sometimes(lambda image, draws: functional.adjust_sharpness(image, 7)),
    "blur": _blur,
    "noise": _sometimes(_noise),
    "pixelate": _sometimes(_pixelate),
    "elastic": _sometimes(_elastic),
    "erase": _sometimes(_erase),
    "contrast": lambda image, draws: functional.adjust_contrast(image, 2 * float(draws[0])),
}
"""The 18 transforms of Transforms-2D."""
