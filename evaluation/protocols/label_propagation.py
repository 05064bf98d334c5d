"""The masks of a video's first frame, carried to the others by the likeness of cells."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.chosen_images import mapped
from ssl_inv.evaluation.protocols.dense import cell_shares
from ssl_inv.evaluation.protocols.mask_measures import contour_accuracy, region_similarity
from ssl_inv.evaluation.results import Result, object_sums
from ssl_inv.transforms.annotations import IGNORED

_CHUNK = 512

_NAMES = {"j": "J", "f": "F", "jf": "the mean of J and F"}


@dataclass(frozen=True)
class LabelPropagation(Protocol):
    """J and F of instance masks that frozen feature maps carry from the first frame of a video to the others.

    What it measures: whether cells that show the same part of an object stay alike while it moves, and differ from
    those of the ground. Nothing is trained.

    Definition: every cell of the first frame has the shares of the instances among its pixels. A cell of a later frame
    gets the weighted mean of the shares of its `neighbours` nearest cells by cosine, with weights exp(cosine /
    temperature), among the cells of the first frame and of the last `context` frames that lie within `radius` cells in
    rows and in columns. Grids of shares are enlarged bilinearly to the frame's own size, those of each instance are
    rescaled to reach from 0 to 1, and each pixel takes the largest. Over all frames but the first and the last,

    - `label_propagation/j`: J, the intersection over union of an instance;
    - `label_propagation/f`: F, the harmonic mean of precision and recall of its contour, where contours agree within
      0.008 diagonals of the frame;
    - `label_propagation/jf`: the mean of both.

    Means are over frames, and then over the instances of all videos.

    Source: Caron et al., "Emerging properties in self-supervised vision transformers" (DINO, ICCV 2021), whose settings
    these are, after Jabri et al. (NeurIPS 2020); J and F as in Perazzi et al. (DAVIS, CVPR 2016) and Pont-Tuset et al.
    (DAVIS 2017). DINO takes frames of 480 rows at their own shape; here they are squashed to the square that the
    encoder takes, so maps are much smaller, and masks enter as shares of a cell and not as its nearest pixel.

    End points, in the remark: the mask of the first frame, copied to all; and the true shares of cells, enlarged, which
    is the best that such a grid can do.

    What it orders wrongly: a larger map draws finer contours, so compare at equal maps, or with the best of the grid.
    Where little moves, the copied first mask is hard to beat, and an encoder of positions alone comes near it. Colours
    alone tell many objects from their ground. What is lost once cannot come back, so one hard moment decides a video.

    Attributes:
        context: frames before the present one, besides the first.
        neighbours: k.
        temperature: of the weights.
        radius: cells to each side.
        videos: at most; the first ones.
    """

    context: int = 7
    neighbours: int = 5
    temperature: float = 0.1
    radius: int = 12
    videos: int = 1000

    needs: ClassVar[tuple[str, ...]] = ("videos", "maps")
    headlines: ClassVar[tuple[str, ...]] = ("label_propagation/jf",)
    has_targets: ClassVar[bool] = False

    @classmethod
    def quick(cls) -> "LabelPropagation":
        """Few videos."""
        return cls(videos=8)

    def __post_init__(self) -> None:
        low = {"context": self.context, "neighbours": self.neighbours, "videos": self.videos}
        for name, value in low.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.temperature <= 0 or self.radius < 0:
            found = f"{self.temperature} and {self.radius}"
            raise ValueError(f"temperature must be above 0 and radius at least 0, got {found}")

    def run(self, encoded: Encoded) -> Iterator[Result]:
        assert encoded.videos is not None
        assert encoded.maps is not None
        rows: dict[str, list[Tensor]] = {"carried": [], "copied": [], "best": []}
        of, frames, without, cells = [], 0, 0, ""
        for number, (name, pixels, masks) in enumerate(encoded.videos()):
            if number == self.videos:
                break
            instances = torch.unique(masks[0])
            instances = instances[(instances > 0) & (instances != IGNORED)]
            if len(masks) < 3 or not len(instances):
                without += 1
                continue
            maps = mapped(encoded.maps, pixels).float()
            ways = self._ways(maps, masks, instances)
            for way, predicted in ways.items():
                rows[way].append(measures(predicted[1:-1], masks[1:-1], instances))
            of.append(torch.full((len(instances),), name))
            frames, cells = frames + len(masks) - 2, f"{maps.shape[-2]} x {maps.shape[-1]}"
        if not of:
            detail = "no video has an instance in its first frame and two frames more"
            yield Result("label_propagation/jf", "all", None, detail=detail)
            return
        values, objects = {way: torch.cat(found) for way, found in rows.items()}, torch.cat(of)
        told = f"{len(of)} videos, {len(objects)} instances, {frames} frames"
        told += f"; {without} without an instance or of fewer than three frames" if without else ""
        for column, (end, words) in enumerate(_NAMES.items()):
            each = {way: (found[:, column] if column < 2 else found.mean(dim=1)) for way, found in values.items()}
            levels = f"the first mask {float(each['copied'].mean()):.3f}"
            levels += f", the best of {cells} cells {float(each['best'].mean()):.3f}"
            error = self._error(each["carried"], objects)
            value = float(each["carried"].mean())
            yield Result(f"label_propagation/{end}", "all", value, error, f"{words}; {told}; {levels}")

    def _error(self, values: Tensor, objects: Tensor) -> float | None:
        ones = torch.ones_like(values)
        sums = object_sums(torch.stack((values, ones), dim=1), objects)
        return self.bootstrap.standard_error(sums, lambda totals: totals[:, 0] / totals[:, 1])

    def _ways(self, maps: Tensor, masks: Tensor, instances: Tensor) -> dict[str, Tensor]:
        """The instance at each pixel, `(T, H, W)`: carried by the maps, copied, and by the true shares of cells."""
        numbers = torch.cat((torch.zeros(1, dtype=torch.int64), instances))
        places = torch.full_like(masks, IGNORED)
        for place, number in enumerate(numbers.tolist()):
            places[masks == number] = place
        size = (masks.shape[-2], masks.shape[-1])
        shares = torch.cat(
            [cell_shares(one, len(numbers), (maps.shape[-2], maps.shape[-1])) for one in torch.split(places, 16)]
        )
        carried = propagated(maps, shares[0], self.context, self.neighbours, self.temperature, self.radius)
        copied = torch.where(masks[:1] == IGNORED, 0, masks[:1]).expand(masks.shape)
        return {
            "carried": numbers[segmented(carried, size)],
            "copied": copied,
            "best": numbers[segmented(shares, size)],
        }


def propagated(maps: Tensor, shares: Tensor, context: int, neighbours: int, temperature: float, radius: int) -> Tensor:
    """The shares of every cell of every frame, `(T, C, h, w)`, from those of the first one; see `LabelPropagation`.

    Args:
        maps: feature maps of the frames in order, `(T, D, h, w)`.
        shares: of the first frame, `(C, h, w)`.
        context: frames before the present one that are looked at, besides the first.
        neighbours: cells whose mean is taken.
        temperature: a cell of cosine s has the weight exp(s / temperature).
        radius: cells to each side that are looked at.
    """
    height, width = maps.shape[-2:]
    cells = normalize(maps.flatten(2).transpose(1, 2), dim=2)
    rows, columns = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    near = ((rows[:, None] - rows).abs() <= radius) & ((columns[:, None] - columns).abs() <= radius)
    found = [shares.flatten(1).T]
    for frame in range(1, len(maps)):
        known = sorted({0, *range(max(frame - context, 0), frame)})
        memory, labels = torch.cat([cells[one] for one in known]), torch.cat([found[one] for one in known])
        pieces = []
        for some, allowed in zip(torch.split(cells[frame], _CHUNK), torch.split(near, _CHUNK), strict=True):
            cosines = (some @ memory.T).masked_fill(~allowed.repeat(1, len(known)), -torch.inf)
            best, at = cosines.topk(min(neighbours, cosines.shape[1]), dim=1)
            weights = (best / temperature).softmax(dim=1)
            pieces.append((weights[..., None] * labels[at].to(weights)).sum(dim=1))
        found.append(torch.cat(pieces))
    return torch.stack(found).transpose(1, 2).reshape(len(maps), -1, height, width)


def segmented(shares: Tensor, size: tuple[int, int]) -> Tensor:
    """The class with the largest rescaled share at each pixel, `(T, H, W)`, from those of cells, `(T, C, h, w)`."""
    found = []
    for some in torch.split(shares.float(), 16):
        large = interpolate(some, size, mode="bilinear")
        low, high = (getattr(large, end)(dim=(2, 3), keepdim=True) for end in ("amin", "amax"))
        # A class that a frame does not show stays at 0 everywhere.
        scaled = torch.where(high > low, (large - low) / (high - low).clamp_min(1e-12), large)
        found.append(scaled.argmax(dim=1))
    return torch.cat(found)


def measures(predicted: Tensor, truth: Tensor, instances: Tensor) -> Tensor:
    """J and F of each instance, means over frames, `(instances, 2)`. Pixels that are `IGNORED` in the truth are left
    out of both masks.
    """
    known, rows = truth != IGNORED, []
    for number in instances.tolist():
        both = (predicted == number) & known, (truth == number) & known
        rows.append(torch.stack([region_similarity(*both).mean(), contour_accuracy(*both).mean()]))
    return torch.stack(rows)
