"""What an objective is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, suggest
from ssl_inv.data.source import Labels
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import Backbone
from ssl_inv.transforms import Action, Convention, Group, Pose, Rotation, Transform
from ssl_inv.views import Links, Plan, Views


@dataclass(frozen=True)
class Term:
    """One named part of a loss: its value, a scalar of the global batch, and the weight with which it is summed."""

    value: Tensor
    weight: float = 1.0


Losses = Mapping[str, Term]
"""Terms by name. The loss is the sum of value times weight; the engine sums, logs and checks them."""


Encoder = Callable[[Tensor], dict[str, Tensor]]
"""From normalised pixels `(B, 3, H, W)` to the features of each part that evaluation may probe, `(B, D)` each; "all" is
always there.
"""


Aggregation = Callable[[Tensor, Sequence[Action]], Tensor]
"""From the features "all" of M views of an object, `(B, M, D)`, and the M - 1 actions from each to the next to one
vector, `(B, D')`.
"""


class Predictor(Protocol):
    """How an equivariant objective predicts: the maps that MRR, H@k and PRE are measured with."""

    def embed(self, pixels: Tensor) -> Tensor:
        """Embeddings `(B, D)`, in the space in which predictions are made, of normalised pixels."""
        ...

    def predict(self, embedding: Tensor, action: Action) -> Tensor:
        """Where each action leads: predicted embeddings `(B, D)` from embeddings `(B, D)`."""
        ...


class Objective(nn.Module, ABC):
    """A self-supervised objective: the views it needs, its loss, and what of the features it lets others judge.

    Constructors take two positional arguments from the engine, then keyword-only settings, which are the recipe's
    schema:

        features: dimensions of the backbone's pooled vector.
        groups: the parameters that the transform of every view will have, by name; those that the objective's own plan
            adds, which are `self.plan.groups`, are not among them.

    All state that affects training is a parameter or a persistent buffer, so that a checkpoint holds it.
    """

    parameters_used: list[str] = []  # noqa: RUF012 - never changed, objectives set their own
    """The recorded parameters that `predictor` and `aggregation` read off actions; where evaluation's data lack one,
    neither is judged.
    """

    told_of_plain_views: bool = False
    """Whether the views of which it is told something are the data's own, with nothing done to them."""

    @property
    def parameters_told(self) -> list[str]:
        """The recorded parameters that the loss reads; of what the data record and an augmentation makes untrue, a run
        warns.
        """
        return self.parameters_used

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """The views of each sample that the loss needs."""

    @abstractmethod
    def loss(self, views: Views, backbone: Backbone) -> Losses:
        """The terms of the loss on a batch; equal on every process and equal to those of one process with the global
        batch.
        """

    def adopt(self, backbone: Backbone) -> None:
        """Called once, before training and before any checkpoint is loaded: keep what is needed of the backbone, such
        as a teacher.
        """

    def allocate(self, objects: int, images: int) -> None:
        """Called once, after `adopt` and before any checkpoint is loaded: make the buffers that are as large as the
        training data.

        Args:
            objects: in the training data; `Views.index` counts them.
            images: of all objects together.
        """

    def held(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        """The parameters that optimiser step `step` of `steps`, the first of which is 1, leaves alone.

        They neither move nor decay, and the optimiser gathers no moments of their gradients.
        """
        return ()

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        """Called after optimiser step `step` of `steps`, the first of which is 1: moving averages, queues."""

    def between_epochs(self, backbone: Backbone, epoch: int, gallery: Gallery) -> None:
        """Called before each epoch, the first of which is 0: clustering, graph mining.

        It is called on every process with the same random numbers, and not again when a run is resumed within an epoch.

        Args:
            backbone: in training mode.
            epoch: passes over the data before this one.
            gallery: all training images; gives the features of any encoder.
        """

    @property
    def looks_between_epochs(self) -> bool:
        """Whether `between_epochs` does anything; if not, no epoch waits for the one before it."""
        return type(self).between_epochs is not Objective.between_epochs

    def links(self, seed: int) -> Links | None:
        """What stands beside what in the views of a `Linked` plan, as of now; asked for after `between_epochs`.

        Args:
            seed: decides everything random about it.
        """
        return None

    def diagnostics(self, labels: Labels | None) -> dict[str, float]:
        """What to write into the record of a run about the objective's memory before each epoch, by name.

        Args:
            labels: the classes of the training objects where they are known: for this record, and never for the loss.
        """
        return {}

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        """Which patches of a view take part in the next step, for pictures of it: `(B, rows, columns)`, bool, by the
        number of the view.

        They are what the student is given; of a view that only a teacher is given, what is predicted. Views that are
        not named take part as a whole.
        """
        return {}

    def representations(self, backbone: Backbone) -> Encoder:
        """What evaluation may probe: "all", and where the objective has them "invariant", "equivariant", ...; never a
        hidden head.
        """
        return lambda pixels: {"all": backbone(pixels)}

    def predictor(self, backbone: Backbone) -> Predictor | None:
        """The prediction that retrieval measures, or None if the objective makes none."""
        return None

    def aggregation(self, backbone: Backbone) -> Aggregation | None:
        """What makes one vector of several views, judged beside their mean; None if the objective has no such network."""
        return None


def action_dimensions(groups: Mapping[str, Group], names: list[str], convention: Convention) -> int:
    """Length of the action vector of the named parameters.

    Raises:
        ValueError: if there are none, or the data does not record one of them, or one measures nothing.
    """
    if not names:
        raise SettingError("parameters", f"is empty; this data records {', '.join(groups) or 'none'}")
    if (unknown := next((name for name in names if name not in groups), None)) is not None:
        raise SettingError("parameters", f"no view of this data records {unknown!r}; {suggest(unknown, groups)}")
    neutral = Transform({name: group.neutral(1) for name, group in groups.items()}, groups)
    widths = {name: neutral.relative(neutral).as_vector([name], convention).shape[1] for name in names}
    if (nothing := next((name for name, width in widths.items() if not width), None)) is not None:
        raise SettingError("parameters", f"{nothing!r} names something and measures nothing that could be told")
    return sum(widths[name] for name in names)


def rotation_position(groups: Mapping[str, Group], names: list[str], convention: Convention) -> int:
    """Where in the action vector of the named parameters the quaternion of the first rotation begins.

    Raises:
        ValueError: if none of them is a rotation.
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
        encode: from normalised pixels to embeddings `(B, D)` in the space in which predictions are made.
        move: from embeddings `(B, D)` and action vectors `(B, K)` to predicted embeddings `(B, D)`.
        parameters: what of an action its vector tells.
        convention: how.
    """

    encode: Callable[[Tensor], Tensor]
    move: Callable[[Tensor, Tensor], Tensor]
    parameters: list[str]
    convention: Convention

    def embed(self, pixels: Tensor) -> Tensor:
        return self.encode(pixels)

    def predict(self, embedding: Tensor, action: Action) -> Tensor:
        return self.move(embedding, action.as_vector(self.parameters, self.convention))
