"""Whether a patch is found again after the image was turned, cropped, mirrored or seen from an angle."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from kornia.geometry.transform import get_perspective_transform
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.chosen_images import mapped, some_images
from ssl_inv.evaluation.protocols.motions import stride_of
from ssl_inv.evaluation.results import Result, object_sums
from ssl_inv.transforms.keyed_random import uniform

REACHES = {"recall_half": 0.5, "recall": 1.0, "recall_two": 2.0}
"""Distances within which a match counts, in cells of the map, by the end of the result's name."""

Maker = Callable[[NDArray[np.float64], tuple[int, int]], Tensor]
"""Maps numbers from [0, 1), `(M, 8)`, and height and width of the images to homographies `(M, 3, 3)` in pixels."""


@dataclass(frozen=True)
class Correspondence(Protocol):
    """The recall of patches between an image and a changed copy of it, by the angle or the size of the change.

    What it measures: whether a cell of the feature map describes the content at its place well enough to find it among
    all cells of another view. Nothing is trained.

    Definition: the second view shows the image after a homography H that is known: a rotation about the centre, by bins
    of the angle; a crop that is enlarged to the whole size, by bins of its side as a share of the image's; a mirror
    image; a homography that moves each corner by up to a quarter of the side. The centre c of each cell whose H c lies
    inside is matched with the cell of the second view that has the largest cosine; the error is the distance of that
    cell's centre to H c, in pixels. With a cell of P pixels,

    - `correspondence/CHANGE/BIN/recall`, `recall_half`, `recall_two`: the share of cells with an error of at most P,
      P / 2 and 2 P, the mean over pairs of views;
    - `correspondence/CHANGE/BIN/mutual`: the recall at P of those cells alone whose match has them as its own match.

    Every cell is matched; none is selected by its ratio to the second best. Where the second view shows what lies
    beyond the border, it is filled by the mirror image.

    Source: planar homographies as in HPatches (Balntas et al., CVPR 2017); bins of the angle as in Probe3D (El Banani
    et al., "Probing the 3D awareness of visual foundation models", CVPR 2024), whose views are of solid objects. Bins
    and sizes of the changes are chosen here.

    End points, all in the remark: a random match; the cell at the same place, which is what an encoder of positions
    alone finds; the best possible, which is below 1 at P / 2, because H c is seldom the centre of a cell.

    What it orders wrongly: maps of few cells have a high recall by chance, and cells of different sizes set different
    tasks: compare at equal maps, or with the remark. An encoder that keeps the position is helped where little moves,
    and hurt by a large rotation. Uniform regions cannot be told apart by anyone. Features that describe colours alone
    do well, for colours do not change here.

    Attributes:
        images: validation images, at most.
        draws: changed copies of each image in each bin.
        angles: ends of the bins of rotation, in degrees.
        shares: ends of the bins of crops.
        seed: draws images and changes.
    """

    images: int = 256
    draws: int = 2
    angles: tuple[int, ...] = (0, 30, 60, 90, 120, 150, 180)
    shares: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9)
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("images", "maps")
    headlines: ClassVar[tuple[str, ...]] = (
        "correspondence/rotation/0-30/recall",
        "correspondence/rotation/90-120/recall",
        "correspondence/homography/recall",
    )
    has_targets: ClassVar[bool] = False

    @classmethod
    def quick(cls) -> "Correspondence":
        """Fewer images and copies."""
        return cls(images=64, draws=1)

    def run(self, encoded: Encoded) -> Iterator[Result]:
        assert encoded.maps is not None
        pixels, objects, _ = some_images(encoded, "validation", self.images, self.seed)
        height, width = pixels.shape[-2:]
        still = mapped(encoded.maps, pixels).float()
        if min(still.shape[-2:]) < 2:
            detail = f"the feature map has {still.shape[-2]} x {still.shape[-1]} cells: there is nothing to choose from"
            yield Result("correspondence", "all", None, detail=detail)
            return
        centres, cell = cell_centres(tuple(still.shape[-2:]), (height, width))
        for number, (name, make) in enumerate(self._changes().items()):
            found, of = [], []
            for draw in range(self.draws):
                numbers = uniform(self.seed, number, draw, np.arange(len(pixels)), count=8)
                matrices = make(numbers, (height, width))
                maps = mapped(encoded.maps, warped(pixels, matrices)).float()
                for place in range(len(pixels)):
                    one, other = (values[place].flatten(1).T for values in (still, maps))
                    measures = pair_measures(one, other, centres, matrices[place], (height, width), cell)
                    if measures is not None:
                        found.append(measures)
                        of.append(objects[place])
            yield from self._results(f"correspondence/{name}", found, of)

    def _changes(self) -> dict[str, Maker]:
        """A maker of homographies for each bin, by name."""
        rotations = {
            f"rotation/{low}-{high}": _rotations(low, high)
            for low, high in zip(self.angles, self.angles[1:], strict=False)
        }
        crops = {
            f"crop/{low:g}-{high:g}": _crops(low, high) for low, high in zip(self.shares, self.shares[1:], strict=False)
        }
        return {**rotations, **crops, "flip": _flips, "homography": _homographies}

    def _results(self, name: str, found: Sequence[Mapping[str, float]], of: list[Tensor]) -> Iterator[Result]:
        if not found:
            yield Result(f"{name}/recall", "all", None, detail="no cell stays inside the image")
            return
        objects = torch.stack(of)
        table = {key: torch.tensor([one[key] for one in found], dtype=torch.float64) for key in found[0]}
        for end in REACHES:
            levels = ", ".join(
                f"{words} {float(table[f'{end}/{key}'].mean()):.3f}"
                for key, words in (("random", "a random match"), ("same", "the same place"), ("best", "the best cell"))
            )
            remark = f"{len(found)} pairs, {float(table['inside'].mean()):.1f} cells of each; {levels}"
            values = table[end]
            yield Result(
                f"{name}/{end}", "all", float(values.mean()), self.bootstrap.mean_error(values, objects), remark
            )
        some = table["mutual_cells"] > 0
        if not bool(some.any()):
            yield Result(f"{name}/mutual", "all", None, detail="no two cells have each other as their match")
            return
        sums = object_sums(torch.stack((table["mutual_right"], table["mutual_cells"]), dim=1), objects)

        def share(totals: Tensor) -> Tensor:
            return totals[:, 0] / totals[:, 1]

        kept = float(table["mutual_cells"].sum() / table["inside"].sum())
        error = self.bootstrap.standard_error(sums, share)
        value = float(share(sums.sum(dim=0, keepdim=True))[0])
        yield Result(f"{name}/mutual", "all", value, error, f"{kept:.3f} of the cells inside")


def cell_centres(cells: tuple[int, ...], image: tuple[int, int]) -> tuple[Tensor, float]:
    """The centres (x, y) of a map's cells in pixels of the image, `(h w, 2)` row by row, and the longer side of a
    cell.
    """
    strides = [stride_of(side, count) for side, count in zip(image, cells, strict=True)]
    y, x = (
        side / 2 + stride * (torch.arange(count, dtype=torch.float64) - (count - 1) / 2)
        for side, count, stride in zip(image, cells, strides, strict=True)
    )
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((columns, rows), dim=-1).view(-1, 2), max(strides)


def moved_points(matrix: Tensor, points: Tensor) -> Tensor:
    """Points (x, y), `(N, 2)`, after a homography `(3, 3)`."""
    moved = torch.cat((points, torch.ones_like(points[:, :1])), dim=1) @ matrix.T
    return moved[:, :2] / moved[:, 2:]


def warped(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Images `(M, C, H, W)` whose content was moved by homographies `(M, 3, 3)` of pixels, bilinearly.

    A point is (x, y) with (0, 0) at the outer corner of the first pixel.
    """
    height, width = pixels.shape[-2:]
    places, _ = cell_centres((height, width), (height, width))
    side = torch.tensor([width, height], dtype=torch.float64)
    back = torch.linalg.inv(matrices)
    grid = torch.stack([2 * moved_points(one, places) / side - 1 for one in back]).view(-1, height, width, 2)
    return grid_sample(pixels, grid.to(pixels), mode="bilinear", padding_mode="reflection", align_corners=False)


def pair_measures(
    source: Tensor, target: Tensor, centres: Tensor, matrix: Tensor, image: tuple[int, int], cell: float
) -> dict[str, float] | None:
    """How well the cells of one view are found in another.

    Args:
        source: features of the cells, `(N, C)`.
        target: features of the cells of the other view, `(N, C)`.
        centres: of both, `(N, 2)`.
        matrix: moves points of the first view to the second, `(3, 3)`.
        image: height and width.
        cell: side of a cell.

    Returns:
        `inside`, the number of cells that stay inside; for each of `REACHES` the recall, and under it the levels
        `random`, `same` and `best`; `mean_error` in pixels; `mutual_cells` and `mutual_right`. None if no cell stays
        inside.
    """
    goals = moved_points(matrix.double(), centres)
    inside = ((goals >= 0) & (goals < torch.tensor([image[1], image[0]]))).all(dim=1)
    if not bool(inside.any()):
        return None
    cosines = normalize(source, dim=1) @ normalize(target, dim=1).T
    matches, back = cosines.argmax(dim=1), cosines.argmax(dim=0)
    distances = torch.cdist(goals[inside], centres)  # from every goal to every cell
    rows = torch.arange(len(distances))
    own = inside.nonzero()[:, 0]
    errors = distances[rows, matches[inside]]
    levels = {"same": distances[rows, own], "best": distances.amin(dim=1)}
    found = {"inside": float(len(rows)), "mean_error": float(errors.mean())}
    for name, reach in REACHES.items():
        most = reach * cell + 1e-9
        found[name] = float((errors <= most).double().mean())
        found[f"{name}/random"] = float((distances <= most).double().mean())
        found |= {f"{name}/{key}": float((level <= most).double().mean()) for key, level in levels.items()}
    mutual = back[matches[inside]] == own
    found["mutual_cells"] = float(mutual.sum())
    found["mutual_right"] = float((mutual & (errors <= cell + 1e-9)).sum())
    return found


def _affine(rows: list[list[Tensor]]) -> Tensor:
    last = torch.zeros_like(rows[0][0]), torch.zeros_like(rows[0][0]), torch.ones_like(rows[0][0])
    return torch.stack([torch.stack(row, dim=1) for row in (*rows, list(last))], dim=1)


def _rotations(low: float, high: float) -> Maker:
    def make(numbers: NDArray[np.float64], image: tuple[int, int]) -> Tensor:
        height, width = image
        one, other = torch.from_numpy(numbers[:, :2]).unbind(1)
        angles = torch.deg2rad(low + (high - low) * one) * torch.where(other < 0.5, -1.0, 1.0)
        cos, sin = angles.cos(), angles.sin()
        x, y = width / 2, height / 2
        return _affine([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])

    return make


def _crops(low: float, high: float) -> Maker:
    def make(numbers: NDArray[np.float64], image: tuple[int, int]) -> Tensor:
        height, width = image
        one, left, top = torch.from_numpy(numbers[:, :3]).unbind(1)
        share = low + (high - low) * one
        factor, none = 1 / share, torch.zeros_like(share)
        x, y = (where * (1 - share) * side for where, side in ((left, width), (top, height)))
        return _affine([[factor, none, -factor * x], [none, factor, -factor * y]])

    return make


def _flips(numbers: NDArray[np.float64], image: tuple[int, int]) -> Tensor:
    one = torch.ones(len(numbers), dtype=torch.float64)
    return _affine([[-one, 0 * one, image[1] * one], [0 * one, one, 0 * one]])


def _homographies(numbers: NDArray[np.float64], image: tuple[int, int]) -> Tensor:
    side = torch.tensor([image[1], image[0]], dtype=torch.float64)
    corners = (torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64) * side).expand(len(numbers), 4, 2)
    # A corner that moves to any side by less than half a side leaves the quadrangle convex.
    moves = (torch.from_numpy(numbers).view(-1, 4, 2) * 2 - 1) * side / 4
    found: Tensor = get_perspective_transform(corners, corners + moves)
    return found
