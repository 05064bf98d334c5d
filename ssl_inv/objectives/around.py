"""Objectives around another one."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ssl_inv.catalogue import OBJECTIVES, SettingError, within
from ssl_inv.data.source import Labels
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import Backbone
from ssl_inv.objectives.base import Aggregation, Encoder, Losses, Objective, Predictor
from ssl_inv.transforms import Group
from ssl_inv.views import Links, Plan, Views


def base_objective(
    features: int, groups: Mapping[str, Group], *, name: str, setting: str = "base", **settings: Any
) -> Objective:
    """The objective that a setting describes.

    Args:
        features: dimensions of the pooled vector that it sees.
        groups: the parameters of all views' transforms, by name.
        name: registered, or a dotted path.
        setting: what the setting is called.
        settings: the objective's own.

    Raises:
        SettingError: if there is no such objective, or it refuses its settings.
    """
    with within(setting):
        constructor = OBJECTIVES.find(name).load()
        if not issubclass(constructor, Objective):
            raise ValueError(f"{name!r} does not derive from ssl_inv.objectives.base.Objective")
        objective: Objective = constructor(features, groups, **settings)
    return objective


def beside(base: Losses, own: Losses) -> Losses:
    """The terms of a base objective and those that stand beside them.

    Raises:
        ValueError: if both have a term of one name, one of which would be lost.
    """
    if both := sorted(base.keys() & own.keys()):
        raise SettingError("base", f"its loss has a term {both[0]!r} too, as an objective around itself has")
    return {**base, **own}


class AroundBase:
    """What an objective around another one passes on to it; to stand before `Objective` among the bases of its class.

    Attributes:
        base: the other one.
    """

    base: Objective

    def surround(self, base: Objective) -> None:
        """Take an objective for the base, in the constructor."""
        self.base = base
        self.parameters_used = base.parameters_used
        self.told_of_plain_views = base.told_of_plain_views

    @property
    def parameters_told(self) -> list[str]:
        return self.base.parameters_told

    def seen_by_base(self, backbone: Backbone) -> Backbone:
        """What the base takes for the backbone."""
        return backbone

    @property
    def plan(self) -> Plan:
        return self.base.plan

    def adopt(self, backbone: Backbone) -> None:
        with within("base"):
            self.base.adopt(self.seen_by_base(backbone))

    def allocate(self, objects: int, images: int) -> None:
        with within("base"):
            self.base.allocate(objects, images)

    def held(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        return self.base.held(step, steps)

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.base.after_step(self.seen_by_base(backbone), step, steps)

    @property
    def looks_between_epochs(self) -> bool:
        return self.base.looks_between_epochs

    def between_epochs(self, backbone: Backbone, epoch: int, gallery: Gallery) -> None:
        self.base.between_epochs(self.seen_by_base(backbone), epoch, gallery)

    def links(self, seed: int) -> Links | None:
        return self.base.links(seed)

    def diagnostics(self, labels: Labels | None) -> dict[str, float]:
        return self.base.diagnostics(labels)

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        return self.base.visible_patches(views, self.seen_by_base(backbone))

    def representations(self, backbone: Backbone) -> Encoder:
        return self.base.representations(self.seen_by_base(backbone))

    def predictor(self, backbone: Backbone) -> Predictor | None:
        return self.base.predictor(self.seen_by_base(backbone))

    def aggregation(self, backbone: Backbone) -> Aggregation | None:
        return self.base.aggregation(self.seen_by_base(backbone))


def two_parts(backbone: Backbone, invariant: int) -> Encoder:
    """The features of a backbone, of which the first `invariant` are "invariant" and all others "equivariant"."""

    def encode(pixels: Tensor) -> dict[str, Tensor]:
        features = backbone(pixels)
        return {"all": features, "invariant": features[:, :invariant], "equivariant": features[:, invariant:]}

    return encode
