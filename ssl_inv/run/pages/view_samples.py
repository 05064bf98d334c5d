"""The first views of a run, with the images that they are made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssl_inv.augment.keyed import Keyed
from ssl_inv.augment.local import RandomField
from ssl_inv.augment.maps import PROJECTIVE, framed, maps
from ssl_inv.augment.warp import changed, pixel_centres
from ssl_inv.catalogue import within
from ssl_inv.data.batches import Batch, StepBatches
from ssl_inv.data.pixels import as_colours
from ssl_inv.data.source import Indices, Source
from ssl_inv.run.build import build_augmentation, build_data, build_networks, build_view_maker
from ssl_inv.run.channels import for_channels
from ssl_inv.run.recipe import Recipe
from ssl_inv.transforms import Transform
from ssl_inv.transforms.kornia_words import title
from ssl_inv.transforms.phrases import joined
from ssl_inv.transforms.regions import Regions
from ssl_inv.transforms.words import describe_view
from ssl_inv.views import Plan, Several, View, Views
from ssl_inv.views.maker import ViewMaker

Pixels = NDArray[np.uint8]

CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
"""The corners of a view in its own coordinates: upper left, upper right, lower right, lower left."""

_POINTS_A_SIDE, _ARROWS_A_SIDE = 32, 12

_PHOTOGRAPH_SIDE = 512
"""The longer side of a photograph on the page, in pixels."""

_PALENESS = 6
"""A hidden patch is this many times nearer to white."""


@dataclass(frozen=True)
class ShownView:
    """One view.

    Attributes:
        number: its place in the plan, from 0.
        pixels: `(S, S, 3)`.
        outline: the border of the view in its source, `(P, 2)`: evenly spaced points (x, y), clockwise from the view's
            upper left corner. -1 and 1 are the borders of the source.
        arrows: from where points of the view would be without random fields to where they are, `(n, 2, 2)`.
        words: how it was made, and the number of its visible patches if some are hidden.
        paled: whether hidden patches are pale.
        record: how it was made, by parameter.
    """

    number: int
    pixels: Pixels
    outline: NDArray[np.float64]
    arrows: NDArray[np.float64]
    words: str
    paled: bool = False
    record: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownSource:
    """An image of the data, and the views made from it.

    Attributes:
        pixels: `(H, W, 3)`; None if the only view is the image itself.
        views: in the order of the plan.
    """

    pixels: Pixels | None
    views: Sequence[ShownView]


@dataclass(frozen=True)
class Sample:
    """The images and views of one object in one step.

    Attributes:
        name: of its file, or of the object.
        sources: one image, or one for each view.
        channels: of the images, of which pictures show three.
    """

    name: str
    sources: Sequence[ShownSource]
    channels: int = 3


def first_samples(recipe: Recipe, count: int) -> list[Sample]:
    """The first `count` samples of a run of this recipe, or all if there are fewer.

    Raises:
        SettingError: if a value cannot be used.
    """
    source, augmentation = build_data(recipe).train, build_augmentation(recipe)
    recipe = for_channels(recipe, source)
    backbone, objective = build_networks(recipe, {**source.groups, **augmentation.groups})
    maker, source = build_view_maker(recipe, source, augmentation, objective.plan)
    with within("data"), torch.no_grad():
        # The order of the samples does not depend on the batch size.
        size, plan = min(count, len(source)), maker.plan
        seed, views = recipe.trainer.seed, maker.loaded_views
        batches = StepBatches(source, size, views, seed, way=plan.way, linked=plan.linked, framing=maker.frames)
        batch = batches[0].to(torch.device("cpu"))
        return samples(source, batch, maker, lambda views: objective.visible_patches(views, backbone))


def samples(
    source: Source, batch: Batch, maker: ViewMaker, visible: Callable[[Views], Mapping[int, Tensor]] | None = None
) -> list[Sample]:
    """The samples of a batch.

    Args:
        source: of the images.
        batch: images.
        maker: makes the views.
        visible: see `Objective.visible_patches`; None if no patch is hidden.
    """
    made = maker(batch)
    views, patches = made.views, {} if visible is None else visible(made)
    image_of = images_of(maker.plan, len(batch.images))
    # Parameters of the data describe the source. Only the others were changed by the augmentation.
    changes = [
        view.transform.only([name for name in view.transform.names if name not in source.groups]).to("cpu")
        for view in views
    ]
    originals = _originals(source, batch) if any(one.names for one in changes) else [None] * len(batch.images)
    for number, image in enumerate(image_of):
        if (sides := batch.images[image].sides) is not None:
            changes[number] = framed(changes[number], sides)
    sizes = {view.pixels.shape[-1] for view in views}
    shown = [
        _shown(number, view, changes[number], maker, len(sizes) > 1, patches.get(number))
        for number, view in enumerate(views)
    ]
    found = []
    for row, index in enumerate(batch.index.tolist()):
        parts = [
            ShownSource(
                None if original is None else original[row],
                [view[row] for view in shown if image_of[view[row].number] == image],
            )
            for image, original in enumerate(originals)
        ]
        name = source.describe(index, 0) if source.view_counts[index] == 1 else f"object {index}"
        found.append(Sample(name, parts, source.channels))
    return found


def _originals(source: Source, batch: Batch) -> list[Sequence[Pixels] | None]:
    """The images of a batch, whole, `(H, W, 3)` each."""
    found: list[Sequence[Pixels] | None] = []
    for number, image in enumerate(batch.images):
        if image.sides is None or batch.shown is None:
            found.append(list(_bytes(image.pixels.float() / 255)))
            continue

        def whole(sides: Indices) -> list[tuple[Indices, Regions]]:
            corners = np.concatenate((np.zeros_like(sides), sides[:, ::-1]), axis=1)
            return [(np.arange(len(sides)), Regions(corners.astype(np.float64), sides, _PHOTOGRAPH_SIDE))]

        objects, views = batch.shown[number].numpy().T
        _, (squeezed,) = source.load_pieces(objects, views, whole)
        pixels = as_colours(squeezed).permute(0, 2, 3, 1).contiguous().numpy()
        found.append([_in_shape(one, *sides) for one, sides in zip(pixels, image.sides.tolist(), strict=True)])
    return found


def _in_shape(pixels: Pixels, height: int, width: int) -> Pixels:
    """A square picture in the shape of an image with these sides."""
    scale = _PHOTOGRAPH_SIDE / max(height, width)
    shape = max(1, round(scale * width)), max(1, round(scale * height))
    return np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.LANCZOS))


def images_of(plan: Plan, loaded: int) -> list[int]:
    """The image of every view of a plan, among the `loaded` images of a sample."""
    parts = plan.plans if isinstance(plan, Several) else (plan,)
    return [number % min(part.sources, loaded) for part in parts for number in range(part.count)]


def _shown(
    number: int, view: View, change: Transform, maker: ViewMaker, with_size: bool, visible: Tensor | None
) -> list[ShownView]:
    """One view of the plan, for every sample."""
    pixels, transform = _bytes(view.pixels * maker.std + maker.mean), view.transform.to("cpu")
    outlines, arrows = outline(change, *pixels.shape[:2]), displacements(change, *pixels.shape[:2])
    size = f"{pixels.shape[1]} px, " if with_size else ""
    always = _without_record(maker)
    told = [describe_view(transform, row) for row in range(len(pixels))]
    words = [size + joined(*([] if always and one == "unchanged" else [one]), *always) for one in told]
    if visible is not None:
        pixels = _paled(pixels, visible)
        words = [
            f"{said}, {int(some.sum())} of {some.numel()} patches" for said, some in zip(words, visible, strict=True)
        ]
    paled, values = visible is not None, _arrays(transform)
    records = [{name: value[row] for name, value in values.items()} for row in range(len(pixels))]
    return [
        ShownView(number, pixels[row], outlines[row], arrows[row], words[row], paled, records[row])
        for row in range(len(pixels))
    ]


def _without_record(maker: ViewMaker) -> list[str]:
    """The names of augmentations that change every view in the same way, so that they record nothing."""
    policies = [
        [title(one.label) for one in policy.following if isinstance(one, Keyed) and not one.groups]
        for policy in maker.augmentation.policies
    ]
    return [name for name in policies[0] if all(name in others for others in policies)]


def _paled(pixels: Pixels, visible: Tensor) -> Pixels:
    """Images `(B, H, W, 3)` whose hidden patches are almost white; `visible` is `(B, rows, columns)`."""
    shown = F.interpolate(visible.unsqueeze(1).float(), pixels.shape[1:3], mode="nearest-exact").bool()
    return np.where(shown.permute(0, 2, 3, 1).numpy(), pixels, 255 - (255 - pixels) // _PALENESS)


# Where the points of a view come from. Coordinates are -1 and 1 at the borders, with x to the right and y down.


def outline(change: Transform, count: int, size: int) -> NDArray[np.float64]:
    """The border of every view in its source; see `ShownView.outline`.

    Args:
        change: the transforms of the views, on the host.
        count: how many views there are.
        size: side of the views in pixels.

    Returns:
        Points `(count, P, 2)`.
    """
    record = _arrays(change)
    share = np.arange(_POINTS_A_SIDE)[:, None] / _POINTS_A_SIDE
    sides = [here + share * (there - here) for here, there in zip(CORNERS, np.roll(CORNERS, -1, axis=0), strict=True)]
    points = _in_whole_view(np.tile(np.concatenate(sides), (count, 1, 1)), record)
    matrices, following = _maps(record, count)
    points = in_source(following, points)
    return in_source(matrices, points + _field_shift(points, record, size))


def _maps(record: Mapping[str, NDArray[Any]], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The maps of the operations before random fields, and of those after them, `(count, 3, 3)` each.

    The second one is what is left of the whole map of a view.
    """
    matrices, _ = maps(record, count)
    if PROJECTIVE not in record:
        return matrices, np.tile(np.eye(3), (count, 1, 1))
    whole = record[PROJECTIVE].astype(np.float64).reshape(-1, 3, 3)
    return matrices, np.asarray(np.linalg.solve(matrices, whole), np.float64)


def displacements(change: Transform, count: int, size: int) -> NDArray[np.float64]:
    """How random fields move a view; see `ShownView.arrows`.

    Args:
        change: the transforms of the views, on the host.
        count: how many views there are.
        size: side of the views in pixels.

    Returns:
        Points `(count, n, 2, 2)`; n is 0 without fields.
    """
    record = _arrays(change)
    if not any(name in record for name in RandomField.still):
        return np.empty((count, 0, 2, 2))
    axis = (np.arange(_ARROWS_A_SIDE) + 0.5) * 2 / _ARROWS_A_SIDE - 1
    heads = np.tile(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), (count, 1, 1))
    whole = _in_whole_view(heads, record)
    _, following = _maps(record, count)
    fielded = in_source(following, whole)
    moved = fielded + _field_shift(fielded, record, size)
    shift = in_source(np.asarray(np.linalg.inv(following), np.float64), moved) - whole
    corners = _in_whole_view(np.tile(CORNERS, (count, 1, 1)), record)
    sides = np.stack((corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0]), axis=-1) / 2
    return np.stack((heads + shift @ np.linalg.inv(sides).transpose(0, 2, 1), heads), axis=2)


def _arrays(transform: Transform) -> dict[str, NDArray[Any]]:
    return {name: value.numpy() for name, value in transform.values.items()}


def _in_whole_view(points: NDArray[np.float64], record: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Points `(B, P, 2)` in the coordinates before quarter turns, and before patches were cut out of a larger view."""
    if "turn" in record:
        angle = np.pi / 2 * record["turn"].astype(np.float64)
        cosine, sine = np.cos(angle), np.sin(angle)
        # A counter-clockwise quarter turn moves the upper right corner to the upper left.
        points = points @ np.stack((np.stack((cosine, sine), -1), np.stack((-sine, cosine), -1)), -2)
    if "patch" in record:
        middle, extent = np.split(record["patch"].astype(np.float64)[:, None], 2, axis=-1)
        points = 2 * middle - 1 + extent * points
    return points


def _field_shift(points: NDArray[np.float64], record: Mapping[str, NDArray[Any]], size: int) -> NDArray[np.float64]:
    """The shift `(B, P, 2)` from points `(B, P, 2)` of a whole view to where fields make them read."""
    if "patch" in record:
        size = round(size / float(record["patch"][0, 2]))
    if not changed(record, len(points), RandomField.still).any():
        return np.zeros_like(points)
    host, moving = torch.device("cpu"), {**record, **RandomField.modes(record, len(points), size)}
    here, there = pixel_centres(size, host), RandomField.points(moving, size, host)
    shift = torch.stack([moved - still for still, moved in zip(here, there, strict=True)], dim=1)
    grid = torch.from_numpy(points).float().unsqueeze(1)
    found = F.grid_sample(shift, grid, padding_mode="border", align_corners=False)
    return found[:, :, 0].transpose(1, 2).double().numpy()


def in_source(matrices: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points `(B, P, 2)` of views in the coordinates of their sources, by homographies `(B, 3, 3)`."""
    homogeneous = np.concatenate((points, np.ones((*points.shape[:-1], 1))), axis=-1) @ matrices.transpose(0, 2, 1)
    return np.asarray(homogeneous[..., :2] / homogeneous[..., 2:])


def _bytes(pixels: Tensor) -> Pixels:
    """Images `(B, C, H, W)` in [0, 1] as `(B, H, W, 3)`, to be looked at."""
    pixels = as_colours(pixels)
    return np.ascontiguousarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
