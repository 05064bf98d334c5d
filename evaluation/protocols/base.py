"""What a protocol is, and what it is given: the features of an encoder, and more that a protocol may need."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssl_inv.evaluation.aggregation import Aggregate, aggregated
from ssl_inv.evaluation.features import Encoder, EvaluationBatch, FeatureTable
from ssl_inv.evaluation.results import DEFAULT_BOOTSTRAP, Bootstrap, Result
from ssl_inv.transforms import Action
from ssl_inv.transforms.annotations import Boxes, Surface
from ssl_inv.transforms.keyed_random import permutation

NEEDS = {
    "predictor": "the encoder has no predictor of views",
    "aggregate": "the encoder has no network for several views",
    "encode": "there are features only, and no encoder for other images",
    "images": "there are features only, and no images",
    "maps": "the encoder gives no feature maps",
    "masks": "the data have no masks",
    "videos": "the data are no videos with masks, as those of `masked_videos` are",
    "boxes": "the data have no boxes, as those of `voc` have",
    "surface": "the data do not know depth, as rendered ones do",
    "network": "there is no network that could be trained on",
    "second": "there is no second encoder to compare with",
}
"""What a protocol can need besides features: a field of `Encoded`, and the reason for a skip if the field is None."""


@dataclass(frozen=True)
class ViewPredictor:
    """A predictor of views.

    Attributes:
        part: the part of the features that it reads and predicts; for SIE the projected equivariant half.
        predict: maps source embeddings `(B, D)` and the actions to apply, B rows, to predicted embeddings `(B, D)`, all
            on the CPU. It picks from the action the parameters and the convention that it was trained with.
    """

    part: str
    predict: Callable[[Tensor, Action], Tensor]


@dataclass(frozen=True)
class Encoded:
    """One encoder and its features of the data.

    Attributes:
        train: features that probes are fitted to.
        validation: features of other objects, that probes are scored on.
        predictor: the encoder's own predictor of views.
        aggregate: the encoder's own network for several views.
        told: parameters of the actions that the encoder was conditioned on in training. Paths are measured on these;
            empty means all.
        probed: parts of the features that are probed; None means all.
        encode: the encoder itself, for images that are changed first; already on its device, in evaluation mode and
            without gradient.
        images: the normalised views of the split "train" or "validation", in the order in which their features were
            extracted.
        maps: maps normalised pixels `(B, 3, H, W)` to feature maps `(B, C, h, w)`.
        layer_maps: the same as `maps` of each layer, by the part of the features that is its mean; empty where layers
            are not measured.
        second: another encoder's features of the same views.
        colours: mean and deviation of each channel, `(3,)` each, with which colours in [0, 1] were normalised.
        masks: maps a split, objects `(B,)` and views `(B,)` to the region of each pixel of their images, `(B, H, W)`,
            int64: 0 is the ground, and 255 counts for nothing.
        videos: gives of every validation video its object, its frames as the encoder takes them, `(T, 3, H, W)`, and
            its masks at their own size; see `Video`.
        boxes: maps a split and objects `(B,)` to their images as the encoder takes them, with boxes on these.
        surface: maps a split, objects `(B,)`, views `(B,)` and a number of pixels along a side to what the pixels of
            these images show.
        mapper: makes a copy of the network behind `maps`, to be trained: from normalised pixels to feature maps.
        network: makes a copy of the network behind the encoder, to be trained: from normalised pixels to pooled vectors
            `(B, D)`.

    Raises:
        ValueError: if the two tables have different parts or record different parameters.
    """

    train: FeatureTable
    validation: FeatureTable
    predictor: ViewPredictor | None = None
    aggregate: Aggregate | None = None
    told: tuple[str, ...] = ()
    probed: tuple[str, ...] | None = None
    encode: Encoder | None = None
    images: Callable[[str], Iterator[EvaluationBatch]] | None = None
    maps: Callable[[Tensor], Tensor] | None = None
    layer_maps: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    second: "Encoded | None" = None
    colours: tuple[Tensor, Tensor] | None = None
    masks: Callable[[str, Tensor, Tensor], Tensor] | None = None
    videos: Callable[[], Iterator[tuple[int, Tensor, Tensor]]] | None = None
    boxes: Callable[[str, Tensor], Iterator[Boxes]] | None = None
    surface: Callable[[str, Tensor, Tensor, int], Surface] | None = None
    mapper: Callable[[], nn.Module] | None = None
    network: Callable[[], nn.Module] | None = None
    _several: dict[int, list[FeatureTable | None]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        train, validation = self.train, self.validation
        if train.transform.names != validation.transform.names:
            raise ValueError(f"train records {train.transform.names}, but validation {validation.transform.names}")
        if list(train.features) != list(validation.features):
            raise ValueError(f"train has the parts {list(train.features)}, but validation {list(validation.features)}")
        for part in self.parts:
            train.part(part)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the features that are probed."""
        return tuple(self.train.features) if self.probed is None else self.probed

    def several(self, views: int) -> list[FeatureTable | None]:
        """Train and validation with so many views of an object in each row, cached; see `aggregated`."""
        if views not in self._several:
            self._several[views] = [aggregated(one, views, self.aggregate) for one in (self.train, self.validation)]
        return self._several[views]


@dataclass(frozen=True, kw_only=True)
class Protocol(ABC):
    """One way to measure an encoder. Its fields are its settings; their defaults are the published ones.

    Attributes:
        bootstrap: how standard errors are estimated.
        device: where networks are trained that the protocol fits.
    """

    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
    device: str = "cpu"

    needs: ClassVar[tuple[str, ...]] = ()
    """Keys of `NEEDS`, for everything that `run` needs besides features."""

    recipe: ClassVar[Mapping[str, str]] = {}
    """Keys of a recipe's section `evaluation` that set a field of this protocol -> the field."""

    headlines: ClassVar[tuple[str, ...]] = ()
    """Names of the results that a summary shows."""

    otherwise: ClassVar[str] = ""
    """How names begin that a summary shows, at its end, where the first of `headlines` was not measured."""

    opening: ClassVar[str] = ""
    """How names begin that the report opens with, among those of the summary."""

    opening_part: ClassVar[str] = "all"
    """The part of the features that the opening shows, where the encoder has it; else "all"."""

    revision: ClassVar[int] = 0
    """Raised where the same settings give other numbers than before: what was kept of those is measured again."""

    has_targets: ClassVar[bool] = True
    """Whether there are targets to shuffle."""

    @classmethod
    def quick(cls) -> "Protocol":
        """A short form: seconds on a CPU for some thousand objects. Not comparable with published numbers."""
        return cls()

    def lacks(self, encoded: Encoded) -> str | None:
        """Why the protocol cannot run; None if it can."""
        return next((NEEDS[need] for need in self.needs if getattr(encoded, need) is None), None)

    @abstractmethod
    def run(self, encoded: Encoded) -> Iterator[Result]:
        """Yield every measurement. A result without a value says why the data do not allow it."""

    def shuffled(self, encoded: Encoded, seed: int) -> Iterator[Result]:
        """The same measurements with the training targets shuffled, which gives the chance level."""
        if self.has_targets:
            yield from self.run(replace(encoded, train=shuffle_targets(encoded.train, seed)))


def shuffle_targets(table: FeatureTable, seed: int = 0) -> FeatureTable:
    """The same features with the targets of others.

    Labels are exchanged between objects, so that all views of one object keep a common label. Transforms are exchanged
    between all rows: where all objects are seen from the same angles in the same order, an exchange between objects
    would change nothing.

    Raises:
        ValueError: if the views of one object have different labels.
    """
    table = table.ordered()
    order = torch.from_numpy(permutation(seed, length=len(table)))
    return replace(table, labels=_shuffled_labels(table, seed), transform=table.transform.select(order))


def _shuffled_labels(table: FeatureTable, seed: int) -> Tensor | None:
    if table.labels is None:
        return None
    rows = table.labelled_rows()
    ids, position = torch.unique(table.objects[rows], return_inverse=True)
    of_object = torch.zeros(len(ids), dtype=torch.int64)
    of_object[position] = table.labels[rows]
    if not torch.equal(of_object[position], table.labels[rows]):
        raise ValueError("labels cannot be shuffled between objects: the views of one object have different labels")
    shuffled = table.labels.clone()
    shuffled[rows] = of_object[torch.from_numpy(permutation(seed, length=len(ids)))][position]
    return shuffled
