"""Objectives around other ones."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ssl_inv.catalogue import OBJECTIVES, SettingError, within
from ssl_inv.data.source import Labels
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import Backbone
from ssl_inv.objectives.base import Aggregation, Encoder, Losses, Objective, Predictor
from ssl_inv.transforms import Group, Transform
from ssl_inv.views import Links, Plan, Views


def base_objective(
    features: int, groups: Mapping[str, Group], *, name: str, setting: str = "base", **settings: Any
) -> Objective:
    """The objective that a setting describes.

    Args:
        features: dimensions of the pooled vector that it is given.
        groups: the recorded parameters of every view's transform, by name.
        name: its name in recipes, or a dotted path.
        setting: the name of the setting.
        settings: the objective's own settings.

    Raises:
        SettingError: if there is no such objective, or it refuses its settings.
    """
    with within(setting):
        constructor = OBJECTIVES.find(name).load()
        if not (isinstance(constructor, type) and issubclass(constructor, Objective)):
            raise ValueError(f"{name!r} does not derive from ssl_inv.objectives.base.Objective")
        objective: Objective = constructor(features, groups, **settings)
    return objective


def beside(base: Losses, own: Losses) -> Losses:
    """The terms of a base objective, then the terms of the objective around it.

    Raises:
        SettingError: if both have a term of the same name.
    """
    if both := sorted(base.keys() & own.keys()):
        raise SettingError("base", f"its loss has a term {both[0]!r} too; one of the two would be lost")
    return {**base, **own}


def views_for(base: Objective, views: Views) -> Views:
    """The views that a base is given: with classes only if it needs them."""
    return views if base.needs_labels or views.labels is None else replace(views, labels=None)


class Around(Objective):
    """An objective around one or more bases. Whatever it does not override, its bases do.

    Args:
        bases: the other objectives, by the setting that describes each. Each becomes an attribute of that name. The
            last one is judged: predictor, aggregation and parameters are its own.
    """

    looks_between_epochs = False  # the constructor sets it to what the bases have

    def __init__(self, **bases: Objective) -> None:
        super().__init__()
        self._names = tuple(bases)
        for name, base in bases.items():
            self.add_module(name, base)
        self.looks_between_epochs |= any(base.looks_between_epochs for base in self.bases.values())
        self.parameters_used = self.judged.parameters_used
        self.told_of_plain_views = self.judged.told_of_plain_views
        self.invariant_features = self.judged.invariant_features
        self.needs_labels = any(base.needs_labels for base in self.bases.values())
        self.least_batch = max(base.least_batch for base in self.bases.values())
        self.needs_whole_backbone = next(filter(None, (one.needs_whole_backbone for one in self.bases.values())), "")

    @property
    def bases(self) -> dict[str, Objective]:
        """The bases by name."""
        found = {name: self.get_submodule(name) for name in self._names}
        return {name: base for name, base in found.items() if isinstance(base, Objective)}

    @property
    def judged(self) -> Objective:
        """The last base."""
        return self.bases[self._names[-1]]

    def given(self, name: str, backbone: Backbone) -> Backbone:
        """The backbone that a base is given."""
        return backbone

    def _given_to_judged(self, backbone: Backbone) -> Backbone:
        return self.given(self._names[-1], backbone)

    @property
    def parameters_told(self) -> list[str]:
        return self.judged.parameters_told

    @property
    def plan(self) -> Plan:
        return self.judged.plan

    def adopt(self, backbone: Backbone) -> None:
        for name, base in self.bases.items():
            with within(name, besides=["backbone"]):
                base.adopt(self.given(name, backbone))

    def require_size(self, backbone: Backbone, size: int) -> None:
        for name, base in self.bases.items():
            with within(name, besides=["backbone"]):
                base.require_size(self.given(name, backbone), size)

    def require_values(self, recorded: Transform) -> None:
        for name, base in self.bases.items():
            with within(name):
                base.require_values(recorded)

    def allocate(self, objects: int, images: int) -> None:
        for name, base in self.bases.items():
            with within(name):
                base.allocate(objects, images)

    def held(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        return [parameter for base in self.bases.values() for parameter in base.held(step, steps)]

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        for name, base in self.bases.items():
            base.after_step(self.given(name, backbone), step, steps)

    def between_epochs(self, backbone: Backbone, epoch: int, gallery: Gallery) -> None:
        for name, base in self.bases.items():
            base.between_epochs(self.given(name, backbone), epoch, gallery)

    def links(self, seed: int) -> Links | None:
        found = (base.links(seed) for base in self.bases.values())
        return next((links for links in found if links is not None), None)

    def diagnostics(self, labels: Labels | None) -> dict[str, float]:
        return self.judged.diagnostics(labels)

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        return self.judged.visible_patches(views, self._given_to_judged(backbone))

    def representations(self, backbone: Backbone) -> Encoder:
        return self.judged.representations(self._given_to_judged(backbone))

    def predictor(self, backbone: Backbone) -> Predictor | None:
        return self.judged.predictor(self._given_to_judged(backbone))

    def aggregation(self, backbone: Backbone) -> Aggregation | None:
        return self.judged.aggregation(self._given_to_judged(backbone))


def two_parts(backbone: Backbone, invariant: int) -> Encoder:
    """The features of a backbone: the first `invariant` are "invariant", the others "equivariant"."""

    def encode(pixels: Tensor) -> dict[str, Tensor]:
        features = backbone(pixels)
        return {"all": features, "invariant": features[:, :invariant], "equivariant": features[:, invariant:]}

    return encode


def aggregation_of_part(aggregate: Aggregation | None, part: slice) -> Aggregation | None:
    """An aggregation that takes its part of the features "all"."""
    return aggregate and (lambda features, actions: aggregate(features[..., part], actions))
