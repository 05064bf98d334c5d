"""Groups that act on images and on feature maps without resampling, so an element and its inverse cancel exactly."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ssl_inv.catalogue import SettingError, suggest

Sides = tuple[int, int]
"""Height and width of a feature map."""


class Symmetry(ABC):
    """A finite group, cyclic or a product of two cyclic ones.

    Elements are numbers from 0, the identity, to the order minus 1.
    """

    @abstractmethod
    def order(self, sides: Sides) -> int:
        """The number of elements of the group for maps of these sides."""

    @abstractmethod
    def move(self, images: Tensor, element: int, sides: Sides) -> Tensor:
        """Images `(B, 3, H, W)`, moved by an element of the group for maps of these sides."""

    @abstractmethod
    def move_back(self, maps: Tensor, element: int) -> Tensor:
        """Maps `(B, C, h, w)`, moved by the inverse of an element."""


class Turns(Symmetry):
    """Quarter turns counter-clockwise."""

    def order(self, sides: Sides) -> int:
        return 4

    def move(self, images: Tensor, element: int, sides: Sides) -> Tensor:
        return images.rot90(element, (2, 3))

    def move_back(self, maps: Tensor, element: int) -> Tensor:
        return maps.rot90(-element, (2, 3))


class Flips(Symmetry):
    """Left and right swapped."""

    def order(self, sides: Sides) -> int:
        return 2

    def move(self, images: Tensor, element: int, sides: Sides) -> Tensor:
        return images.flip(3) if element else images

    def move_back(self, maps: Tensor, element: int) -> Tensor:
        return maps.flip(3) if element else maps


class Hues(Symmetry):
    """Red, green and blue permuted cyclically: a hue rotation by 120 degrees if all three are normalised alike."""

    def order(self, sides: Sides) -> int:
        return 3

    def move(self, images: Tensor, element: int, sides: Sides) -> Tensor:
        return images.roll(element, 1)

    def move_back(self, maps: Tensor, element: int) -> Tensor:
        return maps


class Shifts(Symmetry):
    """Cyclic shifts of images by whole cells of the map, down and to the right."""

    def order(self, sides: Sides) -> int:
        return sides[0] * sides[1]

    def move(self, images: Tensor, element: int, sides: Sides) -> Tensor:
        if any(pixels % cells for pixels, cells in zip(images.shape[2:], sides, strict=True)):
            raise ValueError(
                f"shifts: images of {images.shape[2]} pixels do not divide into the {sides[0]} cells of the feature map"
            )
        steps = [
            cells * (pixels // side)
            for cells, pixels, side in zip(divmod(element, sides[1]), images.shape[2:], sides, strict=True)
        ]
        return images.roll(steps, (2, 3))

    def move_back(self, maps: Tensor, element: int) -> Tensor:
        down, right = divmod(element, maps.shape[3])
        return maps.roll((-down, -right), (2, 3))


SYMMETRIES: dict[str, Symmetry] = {"turns": Turns(), "flips": Flips(), "hues": Hues(), "shifts": Shifts()}


def permute_back(maps: Tensor, element: int, order: int) -> Tensor:
    """Maps `(B, C, h, w)`, their channels permuted by the inverse of an element of a cyclic group: its regular
    representation.

    Channels form blocks of `order` channels, one for each element. Remaining channels stay.
    """
    blocks, rest = maps.tensor_split([maps.shape[1] // order * order], dim=1)
    elements = blocks.reshape(len(maps), -1, order, *maps.shape[2:])
    return torch.cat((elements.roll(-element, 2).flatten(1, 2), rest), dim=1)


def require_symmetries(names: list[str]) -> None:
    """Raise a `SettingError` unless these are one or more different symmetries."""
    if not names or len(set(names)) < len(names):
        raise SettingError(
            "symmetries", f"must name one or more, each once, got {names}; there are {', '.join(SYMMETRIES)}"
        )
    if (unknown := next((name for name in names if name not in SYMMETRIES), None)) is not None:
        raise SettingError("symmetries", f"none is called {unknown!r}; {suggest(unknown, SYMMETRIES)}")
