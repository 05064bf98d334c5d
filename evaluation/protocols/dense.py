"""Segmentation from frozen feature maps: by nearest neighbours and by a linear classifier of cells."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize, one_hot

from ssl_inv.evaluation.features import Standardiser
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.chosen_images import mapped, some_images
from ssl_inv.evaluation.protocols.logistic import LogisticRegression
from ssl_inv.evaluation.protocols.sampling import at_most
from ssl_inv.evaluation.results import Result, object_sums

IGNORED = 255
"""The region of pixels that count for nothing."""

_CHUNK = 8


@dataclass(frozen=True)
class Scenes:
    """Images with their feature maps and the classes of their pixels.

    Attributes:
        maps: `(M, D, h, w)`.
        pixels: `(M, H, W)`, int64, classes from 0, or `IGNORED`.
        objects: `(M,)`.
    """

    maps: Tensor
    pixels: Tensor
    objects: Tensor

    def cells(self, classes: int) -> tuple[Tensor, Tensor, Tensor]:
        """Features `(N, D)` of the cells that show a pixel that counts, the share of each class among those pixels
        `(N, classes)`, and the objects `(N,)`.
        """
        shares = cell_shares(self.pixels, classes, (self.maps.shape[-2], self.maps.shape[-1])).movedim(1, -1)
        known = shares.sum(dim=-1) > 0
        objects = self.objects.view(-1, 1, 1).expand(known.shape)
        return self.maps.movedim(1, -1)[known], shares[known], objects[known]


@dataclass(frozen=True)
class Dense(Protocol):
    """The mean intersection over union of a segmentation that is read from frozen feature maps.

    What it measures: whether a cell of the map says what stands at its place, and not only somewhere in the image.

    Definition: every cell of a training image has the shares of the classes among its pixels.

    - `dense/knn`: a cell of a validation image gets the mean of the shares of its k nearest cells in memory by cosine,
      with weights softmax(cosine / temperature).
    - `dense/linear`: multinomial logistic regression on the most frequent class of each cell, of standardised features,
      with C chosen on held-out training objects.

    The grid of shares, or of probabilities, is enlarged bilinearly to the size of the image, and each pixel takes the
    largest. Over all pixels of the data set,

    - `dense/HEAD/regions/miou`: of the regions that the data have, such as object and ground;
    - `dense/HEAD/classes/miou`: of the classes of objects, with the ground as a class of its own, where one image shows
      one object whose class is known;
    - `.../accuracy`: the share of pixels.

    The mean is over the classes in the validation masks. It is not the mean of images, which is higher.

    Source: nearest neighbours as in Balazevic et al., "Towards in-context scene understanding" (NeurIPS 2023), with k =
    30 and temperature 0.02; cells enter the memory at random here, and not by how rare their classes are. The linear
    head is that of Darcet et al., "Cluster and predict latent patches" (CAPI, 2025), but for the enlargement. It is not
    the head of DINOv2 and DINOv3, which is trained by SGD on larger images with augmentation.

    End points, in the remark: one class everywhere; and the best that a grid of such cells can do, the true shares
    enlarged.

    What it orders wrongly: small cells draw finer borders, so a network with a larger map wins at equal knowledge:
    compare with the best of the grid. Large regions count as much as their pixels in accuracy. Where the ground looks
    alike in all images, colour alone tells the object from it.

    Attributes:
        images: of each split at most.
        cells: training cells at most.
        neighbours: k.
        temperature: of the weights.
        linear: the logistic regression; it is given standardised features.
        seed: draws images and cells.
    """

    images: int = 1000
    cells: int = 102_400
    neighbours: int = 30
    temperature: float = 0.02
    linear: LogisticRegression = field(default_factory=LogisticRegression)
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("images", "maps", "masks")
    headlines: ClassVar[tuple[str, ...]] = ("dense/knn/regions/miou", "dense/linear/regions/miou")
    has_targets: ClassVar[bool] = False

    @classmethod
    def quick(cls) -> "Dense":
        """Fewer images and cells, and a coarse grid of C."""
        return cls(images=128, cells=4000, linear=LogisticRegression.quick())

    def run(self, encoded: Encoded) -> Iterator[Result]:
        given = {split: self._given(encoded, split) for split in ("train", "validation")}
        regions = {split: scenes for split, (scenes, _) in given.items()}
        yield from self._measured("regions", regions["train"], regions["validation"])
        if any(labels is None for _, labels in given.values()):
            yield Result("dense/knn/classes/miou", "all", None, detail="the data have no labels")
            return
        train, validation = (
            replace(scenes, pixels=classes_of(scenes.pixels, labels))
            for scenes, labels in given.values()
            if labels is not None
        )
        yield from self._measured("classes", train, validation)

    def _given(self, encoded: Encoded, split: str) -> tuple[Scenes, Tensor | None]:
        """Images with their regions, and the class of each, -1 where it is not known."""
        assert encoded.maps is not None
        assert encoded.masks is not None
        table = (encoded.train if split == "train" else encoded.validation).ordered()
        pixels, objects, rows = some_images(encoded, split, self.images, self.seed)
        masks = encoded.masks(split, objects, table.views[rows]).cpu()
        if masks.shape != (len(pixels), *pixels.shape[-2:]):
            raise ValueError(f"masks have the shape {tuple(masks.shape)} for images {tuple(pixels.shape)}")
        labels = None
        if table.labels is not None:
            known = torch.ones(len(rows), dtype=torch.bool) if table.labelled is None else table.labelled[rows]
            labels = torch.where(known, table.labels[rows], -1)
        return Scenes(mapped(encoded.maps, pixels).float(), masks, objects), labels

    def _measured(self, name: str, train: Scenes, validation: Scenes) -> Iterator[Result]:
        both = [torch.unique(one.pixels[one.pixels != IGNORED]) for one in (train, validation)]
        if min(len(one) for one in both) < 2:
            yield Result(f"dense/knn/{name}/miou", "all", None, detail="the masks have fewer than two classes")
            return
        classes = int(torch.cat(both).max()) + 1
        features, shares, objects = train.cells(classes)
        some = at_most(torch.arange(len(features)), self.cells, self.seed)
        features, shares, objects = features[some], shares[some], objects[some]
        best = torch.cat(
            [cell_shares(one, classes, _size(validation.maps)) for one in torch.split(validation.pixels, _CHUNK)]
        )
        ceiling = float(mean_iou(self._counts(best, validation, classes).sum(dim=0).view(3, classes)))
        constant = _constant(validation.pixels, classes)
        grid = f"{best.shape[-2]} x {best.shape[-1]}"
        levels = f"one class everywhere {constant:.3f}, the best of {grid} cells {ceiling:.3f}"
        queries = validation.maps.movedim(1, -1).flatten(0, 2)

        def gridded(rows: Tensor) -> Tensor:
            return rows.view(len(best), *best.shape[-2:], classes).movedim(-1, 1)

        nearest = neighbour_shares(features, shares, queries, self.neighbours, self.temperature)
        remark = f"k = {min(self.neighbours, len(features))}, {len(features)} cells in memory; {levels}"
        yield from self._results(f"dense/knn/{name}", gridded(nearest), validation, classes, remark)
        majority = shares.argmax(dim=1)
        if min(len(torch.unique(one)) for one in (majority, objects)) < 2:
            yield Result(f"dense/linear/{name}/miou", "all", None, detail="most of each cell is of one class")
            return
        scale, regression = Standardiser.fit(features), replace(self.linear, device=self.device)
        rows = scale(features)
        strength = regression.choose_strength(rows, majority, objects)
        scores = regression.fit(rows, majority, strength).scores(scale(queries), classes)
        remark = f"C = {strength:.3g}, {len(features)} training cells; {levels}"
        yield from self._results(f"dense/linear/{name}", gridded(scores.softmax(dim=1)), validation, classes, remark)

    def _results(self, name: str, grids: Tensor, validation: Scenes, classes: int, remark: str) -> Iterator[Result]:
        counts = self._counts(grids, validation, classes)
        sums = object_sums(counts, validation.objects)

        def miou(totals: Tensor) -> Tensor:
            return mean_iou(totals.view(-1, 3, classes))

        def accuracy(totals: Tensor) -> Tensor:
            hits, _, truth = totals.view(-1, 3, classes).unbind(1)
            share: Tensor = hits.sum(dim=1) / truth.sum(dim=1)
            return share

        for end, statistic in (("miou", miou), ("accuracy", accuracy)):
            value = float(statistic(sums.sum(dim=0, keepdim=True))[0])
            yield Result(f"{name}/{end}", "all", value, self.bootstrap.standard_error(sums, statistic), remark)

    def _counts(self, grids: Tensor, validation: Scenes, classes: int) -> Tensor:
        """Of every image `pixel_counts` of its enlarged grid, `(M, 3 classes)`."""
        return torch.cat(
            [
                pixel_counts(enlarged(some, (truth.shape[-2], truth.shape[-1])), truth, classes).flatten(1)
                for some, truth in zip(torch.split(grids, _CHUNK), torch.split(validation.pixels, _CHUNK), strict=True)
            ]
        )


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]


def classes_of(regions: Tensor, labels: Tensor) -> Tensor:
    """The class of every pixel where one image shows one object: 0 for the ground, and 1 and up for the classes.

    Args:
        regions: `(M, H, W)`; 0 is the ground.
        labels: of the objects, `(M,)`; all that is not ground is `IGNORED` where it is below 0.
    """
    own = torch.where(labels < 0, IGNORED, labels + 1).view(-1, 1, 1)
    if len(labels) and int(labels.max()) + 1 >= IGNORED:
        raise ValueError(f"segmentation takes at most {IGNORED - 1} classes, got the class {int(labels.max())}")
    return torch.where((regions == 0) | (regions == IGNORED), regions, own)


def cell_shares(pixels: Tensor, classes: int, cells: tuple[int, int]) -> Tensor:
    """The share of each class among the pixels of a cell that count, `(M, classes, h, w)`; 0 where none counts.

    Args:
        pixels: `(M, H, W)`, classes or `IGNORED`.
        classes: how many there are.
        cells: h and w. Where they do not divide the image, cells share the pixels at their borders.
    """
    known = one_hot(torch.where(pixels == IGNORED, classes, pixels), classes + 1)[..., :classes].movedim(-1, 1).float()
    counts = torch.nn.functional.adaptive_avg_pool2d(known, cells)
    return counts / counts.sum(dim=1, keepdim=True).clamp_min(1e-12)


def neighbour_shares(memory: Tensor, shares: Tensor, queries: Tensor, k: int, temperature: float) -> Tensor:
    """The weighted mean of the shares of the k nearest cells in memory, `(M, classes)`.

    Args:
        memory: `(N, D)`; k is cut to N.
        shares: of its cells, `(N, classes)`.
        queries: `(M, D)`.
        k: neighbours.
        temperature: a neighbour of cosine s has the weight exp(s / temperature), before division by their sum.
    """
    memory, found = normalize(memory, dim=1), []
    for some in torch.split(normalize(queries, dim=1), 512):
        cosines, rows = (some @ memory.T).topk(min(k, len(memory)), dim=1)
        weights = (cosines / temperature).softmax(dim=1)
        found.append((weights[..., None] * shares[rows].to(weights)).sum(dim=1))
    return torch.cat(found)


def enlarged(grids: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of each pixel, `(M, H, W)`, from scores of cells `(M, classes, h, w)`."""
    return interpolate(grids, size, mode="bilinear").argmax(dim=1)


def pixel_counts(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """How many pixels are right, how many are predicted and how many there are, of each class: `(M, 3, classes)`,
    float64. Pixels that are `IGNORED` in the truth count for nothing.
    """
    known = truth != IGNORED
    right = known & (predicted == truth)

    def counted(values: Tensor, where: Tensor) -> Tensor:
        index = torch.where(where, values, classes).flatten(1)
        found = torch.zeros(len(values), classes + 1, dtype=torch.float64)
        return found.scatter_add_(1, index, torch.ones_like(index, dtype=torch.float64))[:, :classes]

    return torch.stack((counted(truth, right), counted(predicted, known), counted(truth, known)), dim=1)


def class_iou(counts: Tensor) -> Tensor:
    """Intersection over union `(..., classes)`, from counts `(..., 3, classes)`; NaN where the truth has no pixel."""
    right, predicted, truth = counts.unbind(-2)
    return torch.where(truth > 0, right / (predicted + truth - right), torch.nan)


def mean_iou(counts: Tensor) -> Tensor:
    """The mean of `class_iou` over the classes in the truth, `(...)`."""
    return class_iou(counts).nanmean(dim=-1)


def _constant(pixels: Tensor, classes: int) -> float:
    """Mean intersection over union where every pixel is of the most frequent class."""
    known = pixels[pixels != IGNORED]
    counts = torch.bincount(known, minlength=classes).double()
    return float(counts.max() / counts.sum()) / int((counts > 0).sum())
