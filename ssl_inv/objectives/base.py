"""The base class of all objectives, and what their losses and predictions are made of."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require_recorded
from ssl_inv.data.source import Labels
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.teacher import Teacher
from ssl_inv.transforms import Action, Convention, Group, Pose, Rotation, Transform
from ssl_inv.views import Links, Plan, Views


@dataclass(frozen=True)
class Term:
    """One named term of a loss: a scalar of the global batch, and its weight in the sum."""

    value: Tensor
    weight: float = 1.0


Losses = Mapping[str, Term]
"""Terms by name. The loss is the sum of value times weight. The engine sums, logs and checks them."""

Encoder = Callable[[Tensor], dict[str, Tensor]]
"""The features `(B, D)` of each part that evaluation may probe, from normalised pixels `(B, 3, H, W)`. One part is
always "all".
"""

Aggregation = Callable[[Tensor, Sequence[Action]], Tensor]
"""One vector `(B, D')` from the features "all" of M views of an object, `(B, M, D)`, and the M - 1 actions from each
view to the next.
"""


class Predictor(Protocol):
    """The prediction of an equivariant objective, which MRR, H@k and PRE measure."""

    def embed(self, pixels: Tensor) -> Tensor:
        """Embeddings `(B, D)` of normalised pixels, in the space of the predictions."""
        ...

    def predict(self, embedding: Tensor, action: Action) -> Tensor:
        """Predicted embeddings `(B, D)` after each action, from embeddings `(B, D)`."""
        ...


class Objective(nn.Module, ABC):
    """A self-supervised objective: the views it needs, its loss, and the features that evaluation may probe.

    Constructors take two positional arguments from the engine, then keyword-only settings. The settings are the
    recipe's schema.

        features: dimensions of the backbone's pooled vector.
        groups: the recorded parameters of every view's transform, by name; without `self.plan.groups`, which the
            objective's own plan adds.

    All state that affects training is a parameter or a persistent buffer, so that a checkpoint holds it.
    """

    parameters_used: list[str] = []  # noqa: RUF012 - never changed, objectives set their own
    """The recorded parameters that `predictor` and `aggregation` read from actions. Neither is judged on data that lack
    one of them.
    """

    told_of_plain_views: bool = False
    """Whether the loss reads parameters of unaugmented views only."""

    least_batch: int = 1
    """The fewest samples of a batch, over all processes, with which every term of the loss is finite and compares
    something. Batch normalisation in the objective's heads is known to need two and is not counted here.
    """

    needs_whole_backbone: str = ""
    """Why `trainer.strategy: fsdp` cannot keep the backbone's blocks in shards, as "reads the weights of its blocks";
    empty if it can. It can if blocks are only called, and EMAs of them are `Teacher`s.
    """

    needs_labels: bool = False
    """Whether the loss reads the classes of the training objects. Only then have its views `labels`. Set it only where
    the recipe says so, by a setting of the objective.
    """

    invariant_features: int = 0
    """How many of the first features are an invariant part, which does not change with the view; the others are then
    the equivariant part. 0 if there are no parts.
    """

    counts_classes: bool = False
    """Whether the setting `classes`, where it is null, takes the number of classes of the training data."""

    looks_between_epochs: bool = False
    """Whether `between_epochs` does anything. If not, no epoch waits for the one before it."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "between_epochs" in vars(cls) and not ("looks_between_epochs" in vars(cls) or cls.looks_between_epochs):
            raise TypeError(f"{cls.__name__} has between_epochs, so it must set looks_between_epochs = True")

    @property
    def parameters_told(self) -> list[str]:
        """The recorded parameters that the loss reads. A run warns if an augmentation makes one of them untrue."""
        return self.parameters_used

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """The views of each sample that the loss needs."""

    @abstractmethod
    def loss(self, views: Views, backbone: Backbone) -> Losses:
        """The terms of the loss on a batch: equal on all processes, and equal to one process with the global batch."""

    def adopt(self, backbone: Backbone) -> None:
        """Copy what is needed of the backbone, such as a teacher. Called once, before a checkpoint is loaded."""

    def require_size(self, backbone: Backbone, size: int) -> None:
        """Raise a `SettingError` if any step would fail on views of `size` pixels. Called once, before the first step.

        What a step draws at random, such as one of two kinds of masks, is checked for every draw. A setting of the
        backbone is named with its section: `backbone.stem`.

        Args:
            backbone: as in `adopt`.
            size: side of the views whose plan names no size of its own.
        """

    def require_values(self, recorded: Transform) -> None:
        """Raise a `SettingError` if recorded values do not suit a setting. Called once, before a run begins.

        Args:
            recorded: the data's own parameters of many training views, without those of an augmentation.
        """

    def allocate(self, objects: int, images: int) -> None:
        """Make the buffers that are as large as the training data. Called once, between `adopt` and a checkpoint.

        Args:
            objects: in the training data; `Views.index` counts them.
            images: of all objects together.
        """

    def held(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        """The parameters that stay frozen in optimiser step `step` of `steps`; the first step is 1.

        They neither move nor decay, and the optimiser accumulates no moments of their gradients.
        """
        return ()

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        """Update EMAs and queues. Called after optimiser step `step` of `steps`; the first step is 1."""

    def between_epochs(self, backbone: Backbone, epoch: int, gallery: Gallery) -> None:
        """Cluster or mine a graph before an epoch. Set `looks_between_epochs` if you implement it.

        Every process calls it with the same random numbers. A run that is resumed within an epoch doesn't call it
        again.

        Args:
            backbone: in training mode.
            epoch: the number of the epoch; the first is 0.
            gallery: all training images; gives the features of any encoder.
        """

    def links(self, seed: int) -> Links | None:
        """The current partner images for the views of a `Linked` plan. Called after `between_epochs`.

        Args:
            seed: decides every random choice.
        """
        return None

    def diagnostics(self, labels: Labels | None) -> dict[str, float]:
        """Numbers about the objective's memory, by name, for the run's record before each epoch.

        Args:
            labels: the classes of the training objects, where known: for the record, never for the loss.
        """
        return {}

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        """The patches of each view that take part in the next step, for pictures: `(B, rows, columns)`, bool, by the
        number of the view.

        For a view of the student, these are its input; for a view of the teacher alone, the patches to predict. Views
        that are not named take part as a whole.
        """
        return {}

    def representations(self, backbone: Backbone) -> Encoder:
        """The features to probe: "all", and for some objectives "invariant", "equivariant", ...; never a head's."""
        return lambda pixels: {"all": backbone(pixels)}

    def predictor(self, backbone: Backbone) -> Predictor | None:
        """The prediction that retrieval measures, or None."""
        return None

    def aggregation(self, backbone: Backbone) -> Aggregation | None:
        """The network that makes one vector of several views, judged beside their mean, or None."""
        return None


@dataclass(frozen=True)
class Embedded:
    """What the networks compute from a view of each sample.

    Attributes:
        features: of the backbone, `(B, D)`.
        embeddings: of the projector, `(B, E)`.
    """

    features: Tensor
    embeddings: Tensor

    def by_view(self, count: int) -> "list[Embedded]":
        """The parts of `count` views that passed the networks in one batch, one view after the other."""
        both = zip(self.features.chunk(count), self.embeddings.chunk(count), strict=True)
        return [Embedded(*one) for one in both]


@dataclass(frozen=True)
class PairLoss:
    """The loss of a `PairObjective`, and what it compares.

    Attributes:
        terms: of the loss.
        queries: the first view.
        keys: the last view of the same image, from the teacher if there is one.
        predictions: the predictor's output for the queries, `(B, E)`, if there is a predictor.
    """

    terms: Losses
    queries: Embedded
    keys: Embedded
    predictions: Tensor | None = None


class PairObjective(Objective):
    """An objective that compares embeddings of an image's own views, and hands them over: a base for InterCLR.

    It has a `projector` and implements `pair` in place of `loss`::

        class MyObjective(PairObjective):
            def pair(self, views, backbone):
                x, y = (self.embed(view.pixels, backbone) for view in views.views)
                return PairLoss({"mine": Term(my_loss(x.embeddings, y.embeddings))}, queries=x, keys=y)

    Attributes:
        projector: from pooled features `(B, D)` to embeddings `(B, E)`; E is the width of its last linear map.
        teacher: an EMA of the backbone and the projector in a `Sequential`, if `has_teacher`.
    """

    projector: nn.Module
    teacher: Teacher

    has_teacher: bool = False
    """Whether keys come from `teacher`."""

    @abstractmethod
    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        """The loss of a batch, its queries and its keys."""

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        return self.pair(views, backbone).terms

    def embed(self, pixels: Tensor, backbone: Backbone) -> Embedded:
        """Features and embeddings of the trained networks."""
        features = backbone(pixels)
        return Embedded(features, self.projector(features))

    def embed_by_teacher(self, pixels: Tensor) -> Embedded:
        """Features and embeddings of the teacher, without gradient."""
        return Embedded(*self.teacher.outputs(pixels))


def action_dimensions(groups: Mapping[str, Group], names: list[str], convention: Convention) -> int:
    """Length of the action vector of the named parameters.

    Raises:
        SettingError: if there are none, one is named twice or not recorded by the data, or one has no numbers.
    """
    if not names:
        raise SettingError("parameters", f"is empty; this data records {', '.join(groups) or 'none'}")
    require_recorded("parameters", names, groups)
    neutral = Transform({name: group.neutral(1) for name, group in groups.items()}, groups)
    widths = {name: neutral.relative(neutral).as_vector([name], convention).shape[1] for name in names}
    if (nothing := next((name for name, width in widths.items() if not width), None)) is not None:
        raise SettingError("parameters", f"{nothing!r} has no numeric value")
    return sum(widths[name] for name in names)


def rotation_position(groups: Mapping[str, Group], names: list[str], convention: Convention) -> int:
    """Where the quaternion of the first rotation begins in the action vector of the named parameters.

    Raises:
        SettingError: if none of them is a rotation.
    """
    for number, name in enumerate(names):
        if isinstance(groups.get(name), (Rotation, Pose)):
            return action_dimensions(groups, names[:number], convention) if number else 0
    raise SettingError(
        "predictor_initialisation",
        f"'quaternion', but no parameter is a rotation: {', '.join(names) or 'there are none'}",
    )


@dataclass(frozen=True)
class ActionPrediction:
    """An objective's prediction, for `Objective.predictor`.

    Attributes:
        encode: from normalised pixels to embeddings `(B, D)` in the space of the predictions.
        move: from embeddings `(B, D)` and action vectors `(B, K)` to predicted embeddings `(B, D)`.
        parameters: the parameters in the action vector.
        convention: how the action vector is written.
        form: what `move` reads of an action `(B, K)`, if it is not the vector.
    """

    encode: Callable[[Tensor], Tensor]
    move: Callable[[Tensor, Tensor], Tensor]
    parameters: list[str]
    convention: Convention
    form: Callable[[Action], Tensor] | None = None

    def embed(self, pixels: Tensor) -> Tensor:
        return self.encode(pixels)

    def predict(self, embedding: Tensor, action: Action) -> Tensor:
        vector = action.as_vector(self.parameters, self.convention) if self.form is None else self.form(action)
        return self.move(embedding, vector)
