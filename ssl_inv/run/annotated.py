"""What the data know about images - masks, videos, boxes, surfaces - as an encoder sees the images."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ssl_inv.data.source import Source
from ssl_inv.engine.features import masks_of
from ssl_inv.transforms.annotations import Boxes, Surface


def annotated(
    sources: Mapping[str, Source], side: int, colours: tuple[Tensor, Tensor] | None, device: torch.device
) -> dict[str, Any]:
    """The fields of `Encoded` that say what the data know.

    Frames of videos and images with boxes are squashed to the encoder's square, so that it sees all of them.

    Args:
        sources: the data of each split.
        side: of the images that the encoder takes.
        colours: mean and deviation of each channel; None: there are others than three, and no videos and boxes.
        device: where the encoder is.

    Returns:
        `masks`, `videos`, `boxes` and `surface`, None where the data do not know them in both splits.
    """
    first = torch.zeros(1, dtype=torch.int64)
    both = list(sources.values())

    def seen(images: Tensor) -> Tensor:
        assert colours is not None
        mean, deviation = (one.to(device).view(1, -1, 1, 1) for one in colours)
        small = interpolate(images.to(device).float() / 255, (side, side), mode="bilinear", antialias=True)
        return (small - mean) / deviation

    def masks(split: str, objects: Tensor, views: Tensor) -> Tensor:
        found = masks_of(sources[split], objects, views, side)
        assert found is not None
        return found

    def videos() -> Iterator[tuple[int, Tensor, Tensor]]:
        source = sources["validation"]
        for number in range(len(source)):
            if (video := source.video(number)) is not None:
                yield number, seen(video.frames), video.masks.long()

    def boxes(split: str, objects: Tensor) -> Iterator[Boxes]:
        for number in objects.tolist():
            found = sources[split].boxes(number)
            assert found is not None
            height, width = found.pixels.shape[-2:]
            scale = side / torch.tensor([width, height, width, height], dtype=torch.float32)
            yield replace(found, pixels=seen(found.pixels[None])[0], boxes=found.boxes * scale)

    def surface(split: str, objects: Tensor, views: Tensor, fine: int) -> Surface:
        source = sources[split]
        share = min(side / source.image_size, 1.0)
        found = source.surface(objects, views, round(fine / share))
        assert found is not None
        return found if share == 1 else found.centre(share)

    plain = colours is not None
    return {
        "masks": masks if all(masks_of(one, first, first, 1) is not None for one in both) else None,
        "videos": videos if plain and sources["validation"].video(0) is not None else None,
        "boxes": boxes if plain and all(one.boxes(0) is not None for one in both) else None,
        "surface": surface if all(one.surface(first, first, 8) is not None for one in both) else None,
    }
