"""What data can know about images besides how they were made: videos with masks, boxes of objects, surfaces."""

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = 255
"""The region of pixels that count for nothing."""


@dataclass(frozen=True)
class Video:
    """The frames of a video in order, each with its masks.

    Attributes:
        frames: `(T, 3, H, W)`, uint8.
        masks: `(T, H, W)`, uint8: 0 is the ground, `IGNORED` counts for nothing, and other numbers are instances, the
            same in all frames.
    """

    frames: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Boxes:
    """An image and the boxes of its objects.

    Attributes:
        pixels: `(3, H, W)`, uint8.
        boxes: `(n, 4)`, float32: left, top, right, bottom in pixels from the outer corner of the first pixel.
        classes: `(n,)`, int64, from 0.
        difficult: `(n,)`, bool: objects that need not be found.
        names: of the classes in index order; empty if unknown.
    """

    pixels: Tensor
    boxes: Tensor
    classes: Tensor
    difficult: Tensor
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Surface:
    """What every pixel of B views shows, from a renderer.

    Attributes:
        points: `(B, S, S, 3)`, the place on the object in the object's own frame; without meaning on the ground.
        depth: `(B, S, S)`, its distance from the camera along the optical axis; infinite on the ground.
        camera: `(B, 3, 4)`: of a point of the object's own frame with a 1 as fourth number, it gives depth * (x, y, 1),
            in pixels from the outer corner of the first pixel.
    """

    points: Tensor
    depth: Tensor
    camera: Tensor

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Places (x, y), `(B, N, 2)`, and depths `(B, N)` of points `(B, N, 3)`."""
        moved = torch.cat((points, torch.ones_like(points[..., :1])), dim=-1) @ self.camera.transpose(-1, -2)
        return moved[..., :2] / moved[..., 2:], moved[..., 2]

    def turns(self) -> Tensor:
        """The rotation from the object's frame to the camera's, `(B, 3, 3)`."""
        # The inverse of (calibration x rotation) is an orthogonal matrix times a triangular one.
        orthogonal, triangular = torch.linalg.qr(torch.linalg.inv(self.camera[..., :3]))
        signs = torch.diagonal(triangular, dim1=-2, dim2=-1).sign()
        turns: Tensor = (orthogonal * signs[..., None, :]).transpose(-1, -2)
        return turns

    def centre(self, share: float) -> "Surface":
        """The same of the central square, whose side is a share of the whole one's."""
        whole = self.depth.shape[-1]
        side = round(whole * share)
        first = (whole - side) // 2
        inside = slice(first, first + side)
        moved = torch.eye(3, dtype=self.camera.dtype, device=self.camera.device)
        moved[0, 2] = moved[1, 2] = -float(first)
        return Surface(self.points[:, inside, inside], self.depth[:, inside, inside], moved @ self.camera)


class Annotated:
    """What a source may know; by default it knows nothing."""

    def video(self, number: int) -> Video | None:
        """The views of object `number` as whole frames with masks, where they are those of a video; else None."""
        return None

    def boxes(self, number: int) -> Boxes | None:
        """The image of object `number` as a whole with the boxes of what it shows; None where no boxes are known."""
        return None

    def surface(self, objects: Tensor, views: Tensor, side: int) -> Surface | None:
        """The surface that views `(B,)` of objects `(B,)` show, rendered with `side` x `side` pixels whatever the size
        of the images; None where it is not known.
        """
        return None
