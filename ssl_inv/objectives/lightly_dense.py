"""What the losses of lightly on positions and regions are given: maps, and where in the image each position lies.

A crop and a mirror image are recorded with every view, so the positions of a map in the image are known.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ssl_inv.catalogue import require
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.lightly_table import Call
from ssl_inv.nn.tokens import grid_of_patches
from ssl_inv.objectives.base import Losses
from ssl_inv.objectives.lightly_calls import Called
from ssl_inv.transforms import Group, keyed_random
from ssl_inv.views import View, Views

_REGIONS_OF_A_VIEW = 16
_UNKNOWN = ("angle", "vertical_flip", "projective")
"""Parameters of an augmentation that move positions in a way that `positions` does not follow."""


def require_positions(groups: Mapping[str, Group], loss: str) -> None:
    """Raise a `SettingError` unless the record of views tells where each position of a map lies in the image."""
    problem = f"{loss} needs the crop of every view; this data and augmentation record {', '.join(groups) or 'nothing'}"
    require("crop" in groups, "loss", problem)
    for name in _UNKNOWN:
        require(
            name not in groups, "loss", f"{loss} follows crops and mirror images, and the augmentation has {name!r}"
        )


def positions(view: View, rows: int, columns: int) -> Tensor:
    """Where the centres of a map's positions lie, `(B, rows, columns, 2)`, as x and y in shares of the image."""
    record, pixels = view.transform.values, view.pixels
    box = record["crop"].to(pixels)
    across, down = (
        (torch.arange(count, device=pixels.device, dtype=pixels.dtype) + 0.5) / count - 0.5 for count in (columns, rows)
    )
    mirrored = 1 - 2 * record["flip"].to(pixels) if "flip" in record else torch.ones_like(box[:, 0])
    x = box[:, None, None, 0] + (box[:, 2] * mirrored)[:, None, None] * across[None, None, :]
    y = box[:, None, None, 1] + box[:, 3][:, None, None] * down[None, :, None]
    return torch.stack((x.expand(-1, rows, -1), y.expand(-1, -1, columns)), dim=-1)


def dense(backbone: Backbone, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features `(B, D)` and the map `(B, rows, columns, C)` of a batch."""
    features = backbone.encode(pixels)
    found = features.map
    if found.dim() == 3:
        return features.pooled, found.view(len(found), *grid_of_patches(backbone, pixels), -1)
    return features.pooled, found.permute(0, 2, 3, 1)


def regions(places: Tensor, side: int, units: Tensor) -> tuple[Tensor, Tensor]:
    """Some regions of a grid over the image, drawn with repetition from those that a view shows.

    Args:
        places: of the positions of a map, `(B, N, 2)`.
        side: regions along each side of the image.
        units: random numbers from 0 to below 1, `(B, M)`.

    Returns:
        The numbers of the regions, `(B, M)`, and the weights of the positions in their means, `(B, M, N)`.
    """
    cells = (places * side).long().clamp(0, side - 1)
    member = torch.nn.functional.one_hot(cells[..., 1] * side + cells[..., 0], side**2).to(places.dtype)
    counts = member.sum(dim=1)
    shown = (counts > 0).byte()
    drawn = (units * shown.sum(dim=1, keepdim=True)).long()
    numbers = shown.argsort(dim=1, descending=True, stable=True).gather(1, drawn)
    weights = (member / counts.clamp(min=1)[:, None]).transpose(1, 2)
    return numbers, weights.gather(1, numbers[..., None].expand(-1, -1, places.shape[1]))


def _maps_and_positions(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    features, grids = [], []
    for view in views.views:
        pooled, found = dense(backbone, view.pixels)
        local = objective.dense_head(found.flatten(0, 2)).view(*found.shape[:3], -1)
        (everywhere,), (here,) = objective.together(objective.head(pooled)), objective.together(local)
        features.append((everywhere, here))
        grids += objective.together(positions(view, *found.shape[1:3]))
    whole = objective.kind.views
    local_features, local_grids = (features[whole:], grids[whole:]) if len(views) > whole else (None, None)
    return objective.value(features[:whole], grids[:whole], local_features, local_grids)


def _pooled_regions(
    objective: Called, views: Views, encoder: Backbone, head: torch.nn.Module
) -> tuple[list[Tensor], list[Tensor]]:
    """The projections `(B, M, D)` of some regions of both views, and the numbers of the regions, `(B, M)`."""
    projections, numbers = [], []
    for number, view in enumerate(views.views):
        _, found = dense(encoder, view.pixels)
        key = (objective.seed, objective.steps_done, views.index.cpu().numpy(), number)
        units = torch.from_numpy(keyed_random.uniform(*key, count=_REGIONS_OF_A_VIEW)).to(view.pixels)
        places = positions(view, *found.shape[1:3]).flatten(1, 2)
        chosen, weights = regions(places, objective.regions, units)
        pooled = weights.to(found.dtype) @ found.flatten(1, 2)
        projections.append(head(pooled.flatten(0, 1)).view(*pooled.shape[:2], -1))
        numbers.append(chosen)
    return projections, numbers


def _regions_of_both_views(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    projections, numbers = _pooled_regions(objective, views, backbone, objective.head)
    return objective.value(*objective.together(*projections), *_of_all(objective, numbers))


def _predicted_regions(objective: Called, views: Views, backbone: Backbone) -> Tensor:
    assert objective.teacher is not None
    projections, numbers = _pooled_regions(objective, views, backbone, objective.head)
    predict = objective.predictor_network
    predicted = [predict(one.flatten(0, 1)).view(*one.shape[:2], -1) for one in projections]
    encoder: Any = objective.teacher.network.get_submodule("0")
    with torch.no_grad():
        targets, _ = _pooled_regions(objective, views, encoder, objective.teacher.network.get_submodule("1"))
    rows = objective.together(*predicted, *targets)
    return objective.value(*rows[:2], *(one.detach() for one in rows[2:]), *_of_all(objective, numbers))


def _of_all(objective: Called, numbers: list[Tensor]) -> list[Tensor]:
    """The numbers of regions of all processes."""
    return [one.long() for one in objective.together(*(one.double() for one in numbers))]


DENSE_CALLS: Mapping[Call, Callable[[Called, Views, Backbone], Tensor | Losses]] = {
    "maps and positions": _maps_and_positions,
    "regions": _regions_of_both_views,
    "predicted regions": _predicted_regions,
}
