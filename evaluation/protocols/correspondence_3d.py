"""Whether a patch of an object is found again in another view of it, by the angle between the views."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.chosen_images import mapped, some_images
from ssl_inv.evaluation.protocols.correspondence import REACHES, cell_centres
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms.annotations import Surface
from ssl_inv.transforms.keyed_random import uniform

FINE = 256
"""Pixels along a side of the depth that decides what is visible, whatever the size of the images."""

_LEVELS = (("random", "a random match"), ("same", "the same place"), ("best", "the best cell"))


@dataclass(frozen=True)
class Correspondence3D(Protocol):
    """The recall of patches between two views of one object, by the angle between the views.

    What it measures: whether a cell of the feature map describes the part of the object at its place well enough to
    find that part from another side. Nothing is trained.

    Definition: the renderer gives the point of the object at the centre of a cell, and its place in the second view. It
    is visible there if it lies inside the image and one of the four pixels around it has its depth within 1 % of the
    object's size; other points are dropped, and counted in the remark. Each cell whose centre shows the object is
    matched with the cell of the largest cosine among those of the second view whose centres show the object. With a
    cell of P pixels, and by bins of the angle of the rotation from one view to the other, lower ends included,

    - `correspondence_3d/BIN/recall`, `recall_half`, `recall_two`: the share of visible cells whose match lies within P,
      P / 2 and 2 P of the true place in the image;
    - `correspondence_3d/BIN/recall_space`: the share whose match shows a point within `reach` of the object's size of
      the true point, in space.

    Means are over pairs of views. All pairs of views of an object count, each once; every visible cell is matched, and
    none is selected by its ratio to the second best.

    Source: El Banani et al., "Probing the 3D awareness of visual foundation models" (CVPR 2024), who enlarge the maps
    to a grid of pixels, keep the 1,000 matches with the best ratio, and have bins up to 120 degrees. Cells, matches and
    reach are chosen here, as images are small.

    End points, in the remark: a random match; the cell nearest to the same place, which is what an encoder of positions
    alone finds; the best possible.

    What it orders wrongly: maps of few cells have a high recall by chance, and cells of different sizes set different
    tasks: compare at equal maps, or with the remark. Colours alone tell the parts of rendered solids apart. What is
    visible in both views from far apart lies at the rim of the object, where cells show ground too; so large angles are
    harder for more than one reason.

    Attributes:
        objects: validation objects, at most.
        angles: ends of the bins, in degrees.
        reach: of a match in space, as a share of the object's size.
        seed: draws objects.
    """

    objects: int = 256
    angles: tuple[int, ...] = (0, 30, 60, 90, 120, 150, 180)
    reach: float = 0.1
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("images", "maps", "surface")
    headlines: ClassVar[tuple[str, ...]] = (
        "correspondence_3d/30-60/recall",
        "correspondence_3d/90-120/recall",
    )
    has_targets: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if len(self.angles) < 2 or list(self.angles) != sorted(set(self.angles)):
            raise ValueError(f"angles must be two or more ends of bins in ascending order, got {self.angles}")
        if self.objects < 1 or self.reach <= 0:
            raise ValueError(f"objects must be at least 1 and reach above 0, got {self.objects} and {self.reach}")

    @classmethod
    def quick(cls) -> "Correspondence3D":
        """Fewer objects."""
        return cls(objects=48)

    def run(self, encoded: Encoded) -> Iterator[Result]:
        assert encoded.maps is not None
        assert encoded.surface is not None
        pixels, objects, views = self._images(encoded)
        if not len(objects):
            yield Result("correspondence_3d", "all", None, detail="no validation object has two views")
            return
        maps = mapped(encoded.maps, pixels).float()
        if min(maps.shape[-2:]) < 2:
            detail = f"the feature map has {maps.shape[-2]} x {maps.shape[-1]} cells: there is nothing to choose from"
            yield Result("correspondence_3d", "all", None, detail=detail)
            return
        found: dict[int, list[tuple[dict[str, float], int]]] = {}
        for number in torch.unique(objects).tolist():
            rows = (objects == number).nonzero()[:, 0]
            surface = encoded.surface("validation", objects[rows], views[rows], FINE)
            seen = Seen.of(maps[rows], surface, (pixels.shape[-2], pixels.shape[-1]))
            for one in range(len(rows)):
                for other in range(one + 1, len(rows)):
                    angle = seen.angle(one, other)
                    place = int(np.searchsorted(self.angles, angle, side="right")) - 1
                    # The largest angle belongs to the last bin.
                    place -= int(angle == self.angles[-1])
                    if 0 <= place < len(self.angles) - 1 and (pair := seen.pair(one, other, self.reach)) is not None:
                        found.setdefault(place, []).append((pair, number))
        for place, (low, high) in enumerate(zip(self.angles, self.angles[1:], strict=False)):
            yield from self._results(f"correspondence_3d/{low}-{high}", found.get(place, []))

    def _images(self, encoded: Encoded) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels, objects and views of all views of some objects with two views or more."""
        table = encoded.validation.ordered()
        ids, counts = torch.unique(table.objects, return_counts=True)
        ids = ids[counts > 1]
        draws = torch.from_numpy(uniform(self.seed, ids.numpy(), count=1)[:, 0])
        kept = ids[draws.argsort()[: self.objects]]
        chosen = table.select(torch.isin(table.objects, kept).nonzero()[:, 0])
        if not len(chosen):
            return torch.empty(0), chosen.objects, chosen.views
        pixels, objects, rows = some_images(replace(encoded, validation=chosen), "validation", len(chosen), self.seed)
        return pixels, objects, chosen.ordered().views[rows]

    def _results(self, name: str, found: Sequence[tuple[dict[str, float], int]]) -> Iterator[Result]:
        if not found:
            yield Result(f"{name}/recall", "all", None, detail="no two views at such an angle show the same point")
            return
        objects = torch.tensor([number for _, number in found])
        table = {key: torch.tensor([one[key] for one, _ in found], dtype=torch.float64) for key in found[0][0]}
        hidden = 1 - float(table["visible"].sum() / table["cells"].sum())
        for end in (*REACHES, "recall_space"):
            levels = ", ".join(f"{words} {float(table[f'{end}/{key}'].mean()):.3f}" for key, words in _LEVELS)
            counts = f"{len(found)} pairs, {float(table['visible'].mean()):.1f} cells of each"
            remark = f"{counts}, {hidden:.3f} of the cells not visible; {levels}"
            value, error = float(table[end].mean()), self.bootstrap.mean_error(table[end], objects)
            yield Result(f"{name}/{end}", "all", value, error, remark)


@dataclass(frozen=True)
class Seen:
    """V views of one object.

    Attributes:
        cells: features of the cells, `(V, N, C)`, of length 1.
        centres: of the cells, `(N, 2)`, in pixels of the surface.
        cell: side of a cell, in pixels of the surface.
        shows: whether the centre of a cell shows the object, `(V, N)`.
        points: what it shows, `(V, N, 3)`.
        surface: of the views.
        turns: from the object's frame to the camera's, `(V, 3, 3)`.
        size: of the object: the diagonal of the box of everything that is seen of it.
    """

    cells: Tensor
    centres: Tensor
    cell: float
    shows: Tensor
    points: Tensor
    surface: Surface
    turns: Tensor
    size: float

    @classmethod
    def of(cls, maps: Tensor, surface: Surface, image: tuple[int, int]) -> "Seen":
        """From feature maps `(V, C, h, w)` of images of a height and a width."""
        surface = Surface(surface.points.cpu().double(), surface.depth.cpu().double(), surface.camera.cpu().double())
        side = surface.depth.shape[-1]
        centres, cell = cell_centres((maps.shape[-2], maps.shape[-1]), image)
        centres = centres * side / torch.tensor([image[1], image[0]])
        columns, rows = centres.floor().long().clamp(0, side - 1).unbind(1)
        inside = surface.depth < torch.inf
        seen = surface.points[inside]
        size = float((seen.amax(0) - seen.amin(0)).norm()) if len(seen) else 0.0
        return cls(
            normalize(maps.flatten(2).transpose(1, 2), dim=2),
            centres,
            cell * side / image[1],
            inside[:, rows, columns],
            surface.points[:, rows, columns],
            surface,
            surface.turns(),
            size,
        )

    def angle(self, one: int, other: int) -> float:
        """Of the rotation between two views, in degrees."""
        turn = self.turns[one] @ self.turns[other].T
        skew = torch.stack((turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1])).norm()
        return float(torch.rad2deg(torch.atan2(skew / 2, (torch.trace(turn) - 1) / 2)))

    def pair(self, one: int, other: int, reach: float) -> dict[str, float] | None:
        """How well the cells of one view are found in another; None if no cell of the first is visible there, or the
        second has none.

        Returns:
            `cells` that show the object, and `visible` ones among them; for each of `REACHES`, and for `recall_space`,
            the recall, and under it the levels `random`, `same` and `best`.
        """
        shown, targets = self.shows[one].nonzero()[:, 0], self.shows[other].nonzero()[:, 0]
        goals, depths = (found[0] for found in self._view(other).project(self.points[one, shown][None]))
        kept = self._visible(other, goals, depths)
        if not bool(kept.any()) or not len(targets):
            return None
        rows, goals = shown[kept], goals[kept]
        matches = (self.cells[one, rows] @ self.cells[other, targets].T).argmax(dim=1)
        same = torch.cdist(self.centres[rows], self.centres[targets]).argmin(dim=1)
        found = {"cells": float(len(shown)), "visible": float(len(rows))}
        flat = torch.cdist(goals, self.centres[targets])
        space = torch.cdist(self.points[one, rows], self.points[other, targets])
        within = {name: (flat, most * self.cell) for name, most in REACHES.items()}
        for name, (distances, most) in {**within, "recall_space": (space, reach * self.size)}.items():
            near = (distances <= most + 1e-9).double()
            each = torch.arange(len(rows))
            found[name] = float(near[each, matches].mean())
            found[f"{name}/random"] = float(near.mean())
            found[f"{name}/same"] = float(near[each, same].mean())
            found[f"{name}/best"] = float(near.amax(dim=1).mean())
        return found

    def _view(self, number: int) -> Surface:
        some = slice(number, number + 1)
        return Surface(self.surface.points[some], self.surface.depth[some], self.surface.camera[some])

    def _visible(self, view: int, places: Tensor, depths: Tensor) -> Tensor:
        """Whether points at places `(M, 2)` of a view, at these depths, are the nearest ones there."""
        side = self.surface.depth.shape[-1]
        inside = ((places >= 0) & (places < side)).all(dim=1)
        first = (places - 0.5).floor().long()
        around = torch.stack([first + torch.tensor(step) for step in ((0, 0), (1, 0), (0, 1), (1, 1))], dim=1)
        columns, rows = around.clamp(0, side - 1).unbind(-1)
        agree = (self.surface.depth[view, rows, columns] - depths[:, None]).abs() <= 0.01 * self.size
        return inside & agree.any(dim=1)
