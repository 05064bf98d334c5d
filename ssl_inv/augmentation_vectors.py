"""Augmentations as nine numbers, as seq-JEPA describes them, and the actions between views that follow from these."""

from typing import Literal

import torch
from torch import Tensor

from ssl_inv.transforms import Box, Circle, Group, Real, Transform

Scaling = Literal["constant", "official"]

VECTOR_NAMES = ("crop top", "crop left", "crop height", "crop width", "brightness", "contrast", "saturation", "hue", "blur")
"""What the nine numbers are: pixels of the source, factors, turns from -0.5 to 0.5, and the blur's standard deviation in pixels."""

_NEUTRAL: dict[str, Group] = {
    "crop": Box(),
    "brightness": Real(neutral_value=1.0),
    "contrast": Real(neutral_value=1.0),
    "saturation": Real(neutral_value=1.0),
    "hue": Circle(),
    "blur": Real(),
}

_REACH = (0.8, 0.8, 0.8, 0.2, 2.0)
"""How far brightness, contrast, saturation, hue and blur go in SimCLR's policy."""


def seq_jepa_vector(transform: Transform, size_of_source: tuple[int, int]) -> Tensor:
    """Each view's augmentation as seq-JEPA writes it, `(B, 9)`; see `VECTOR_NAMES`.

    Flips, grey, solarising and the order of the jitter are left out, as there. What the augmentation does not record is neutral.

    Args:
        transform: of the views.
        size_of_source: height and width of the images that the views were cropped from, in pixels.

    Raises:
        ValueError: if the augmentation records none of the nine.
    """
    known = transform.only([name for name in _NEUTRAL if name in transform.values])
    if not known.names:
        raise ValueError("views have no augmentation vector: neither crop nor colour jitter nor blur is recorded of them")
    missing = {name: group.neutral(len(known)).to(known[known.names[0]]) for name, group in _NEUTRAL.items() if name not in known.values}
    values = {**known.values, **missing}
    x, y, width, height = values["crop"].unbind(1)
    hue = torch.remainder(values["hue"] + 0.5, 1.0) - 0.5
    rows, columns = size_of_source
    crop = [(y - height / 2) * rows, (x - width / 2) * columns, height * rows, width * columns]
    return torch.stack((*crop, values["brightness"], values["contrast"], values["saturation"], hue, values["blur"]), dim=1)


def seq_jepa_actions(vectors: Tensor, size_of_source: tuple[int, int], scaling: Scaling = "constant") -> Tensor:
    """The steps from each view to the next, `(B, V - 1, 9)`.

    Args:
        vectors: of the views of each sample, in the order of the sequence, `(B, V, 9)`.
        size_of_source: height and width of the images, in pixels.
        scaling: `constant` divides by the image's sides and by how far SimCLR's policy goes, and takes the shorter way from hue to hue.
            `official` is what the authors' code does: every number is divided by its norm over all views of the sample, so an action
            depends on views it does not lead to or from, the target among them.

    Raises:
        ValueError: if no scaling has that name.
    """
    if scaling == "official":
        return torch.nn.functional.normalize(vectors, dim=1).diff(dim=1)
    if scaling != "constant":
        raise ValueError(f"no scaling is called {scaling!r}; there are constant and official")
    steps = vectors.diff(dim=1)
    turns = torch.remainder(steps[..., 7:8] + 0.5, 1.0) - 0.5
    rows, columns = size_of_source
    return torch.cat((steps[..., :7], turns, steps[..., 8:]), dim=-1) / steps.new_tensor((rows, columns, rows, columns, *_REACH))
