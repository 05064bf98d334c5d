"""Some of the images behind the features, and an encoder's output for images that were changed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ssl_inv.evaluation.features import Encoder, EvaluationBatch
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.transforms.keyed_random import uniform

_CHUNK = 64


def some_images(encoded: Encoded, split: str, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Up to `count` images of a split, in the order of their objects and views: from as many objects as possible, and
    the same whatever order the images come in.

    Args:
        encoded: has the images.
        split: "train" or "validation".
        count: images at most.
        seed: draws them.

    Returns:
        Normalised pixels `(M, 3, H, W)` on their own device; objects `(M,)`; rows of the ordered table, `(M,)`.

    Raises:
        ValueError: if an image of the table does not come.
    """
    assert encoded.images is not None
    table = (encoded.train if split == "train" else encoded.validation).ordered()
    objects, views = table.objects.numpy(), table.views.numpy()
    draws = uniform(seed, objects, views, count=1)[:, 0]
    within = np.lexsort((draws, objects))
    turn = np.empty(len(objects), dtype=np.int64)
    turn[within] = np.arange(len(objects)) - np.searchsorted(objects, objects)[within]
    rows = np.sort(np.lexsort((draws, turn))[:count])
    wanted = {(int(objects[row]), int(views[row])): place for place, row in enumerate(rows)}
    found: dict[int, Tensor] = {}
    for batch in encoded.images(split):
        for position, key in _keys(batch):
            if (place := wanted.get(key)) is not None:
                found[place] = batch.pixels[position].float()
        if len(found) == len(wanted):
            break
    if missing := sorted(set(range(len(rows))) - set(found)):
        row = rows[missing[0]]
        raise ValueError(f"view {int(views[row])} of object {int(objects[row])} has features, but its image is missing")
    pixels = torch.stack([found[place] for place in range(len(rows))])
    return pixels, table.objects[torch.from_numpy(rows)], torch.from_numpy(rows)


def _keys(batch: EvaluationBatch) -> Iterator[tuple[int, tuple[int, int]]]:
    return enumerate(zip(batch.objects.tolist(), batch.views.tolist(), strict=True))


def parts_of(encoder: Encoder, pixels: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The named parts of an encoder's output that it has, `(B, D)` in float64 on the CPU, computed in chunks."""

    def encode(some: Tensor) -> Mapping[str, Tensor]:
        output = encoder(some)
        return {"all": output} if isinstance(output, Tensor) else output

    pieces = [encode(some) for some in torch.split(pixels, _CHUNK)]
    return {name: torch.cat([piece[name].cpu().double() for piece in pieces]) for name in names if name in pieces[0]}


def mapped(maps: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """Feature maps `(B, C, h, w)` in float64 on the CPU, computed in chunks."""
    return torch.cat([maps(some).cpu().double() for some in torch.split(pixels, _CHUNK)])


def labelled_images(encoded: Encoded, split: str, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """`some_images` of those with a label: pixels on their own device, labels `(M,)` and objects `(M,)`."""
    table = encoded.train if split == "train" else encoded.validation
    known = table.select(table.labelled_rows()).ordered()
    assert known.labels is not None
    alone = replace(encoded, train=known) if split == "train" else replace(encoded, validation=known)
    pixels, objects, rows = some_images(alone, split, count, seed)
    return pixels, known.labels[rows], objects
