"""Split: two objectives, each with a part of the features of its own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require_at_least, within
from ssl_inv.data.source import Labels
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.parts import OnePass, SomeChannels
from ssl_inv.objectives.around import base_objective, two_parts
from ssl_inv.objectives.base import Aggregation, Encoder, Losses, Objective, Predictor, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Links, Plan, PolicyChoice, Several, Views


class Split(Objective):
    """SIE's split for any two objectives (after Garrido, Najman, LeCun, ICML 2023, sec. 3): what does not change, and
    what changes.

    The channels of the backbone's last map are parted, m = [m_inv, m_equi], and each objective sees a backbone that has
    its own part alone:

        L = L_invariant(m_inv) + weight L_equivariant(m_equi).

    SIE is the case of VICReg and of SIE with nothing but an equivariant part, but for its covariances between the
    parts. Where both need the same views they are given the same ones, and a view that both pass through the backbone
    by itself passes once. Otherwise each has views of its own, and the step costs what both cost.

    When:
        What an image shows is best learnt from other images (OBoW, InterCLR) or by an objective that you know, and how
        it was seen shall be in the features too. Transitive invariance, whose views are different images, goes with an
        objective that augments single ones, such as RotNet. Not where one objective already asks for both, such as SIE
        or EquiMod.

    Args:
        invariant: the objective of the first channels, a mapping with its `name` and settings.
        equivariant: the objective of the last channels, likewise; retrieval and aggregates are its.
        equivariant_views: `augmented` as the equivariant objective alone would have them; `plain`: the data's own, for
            parameters that the data record and that an augmentation would make untrue, as the rotation of an object
            whose view is mirrored.
        equivariant_share: share of the channels that is equivariant, between 0 and 1.
        weight: of all terms of the equivariant objective.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        invariant: Annotated[dict[str, Any], "objective"],
        equivariant: Annotated[dict[str, Any], "objective"],
        equivariant_views: Literal["augmented", "plain"] = "augmented",
        equivariant_share: float = 0.5,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.equivariant_features = round(features * equivariant_share)
        self.invariant_features = features - self.equivariant_features
        if not 0 < self.equivariant_features < features:
            raise SettingError(
                "equivariant_share", f"{equivariant_share} of {features} features leaves one of the two parts empty"
            )
        require_at_least(0, weight=weight)
        self.weight = weight
        self.invariant = base_objective(self.invariant_features, groups, setting="invariant", **invariant)
        self.equivariant = base_objective(self.equivariant_features, groups, setting="equivariant", **equivariant)
        self.parameters_used = self.equivariant.parameters_used
        plain = equivariant_views == "plain"
        self.told_of_plain_views = plain or self.equivariant.told_of_plain_views
        self.shares_views = self.invariant.plan == self.equivariant.plan and not plain
        self._plan = (
            self.invariant.plan if self.shares_views else _beside(self.invariant.plan, self.equivariant.plan, plain)
        )

    @property
    def plan(self) -> Plan:
        return self._plan

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        first, last = self._parts(Backbone(OnePass(backbone.model), backbone.architecture, backbone.arguments))
        own, further = self._views_of_both(views)
        invariant, equivariant = self.invariant.loss(own, first), self.equivariant.loss(further, last)
        told = {
            f"equivariant_{name}": Term(term.value, self.weight * term.weight) for name, term in equivariant.items()
        }
        return {**{f"invariant_{name}": term for name, term in invariant.items()}, **told}

    def _views_of_both(self, views: Views) -> tuple[Views, Views]:
        """The views of the invariant objective and those of the equivariant one."""
        count = self.invariant.plan.count
        further = views if self.shares_views else Views(views.views[count:], views.index, views.shown)
        return Views(views.views[:count], views.index, views.shown), further

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        both = zip((self.invariant, self.equivariant), self._views_of_both(views), self._parts(backbone), strict=True)
        first, last = (objective.visible_patches(some, part) for objective, some, part in both)
        shift = 0 if self.shares_views else self.invariant.plan.count
        return {**first, **{number + shift: patches for number, patches in last.items()}}

    def _parts(self, backbone: Backbone) -> tuple[Backbone, Backbone]:
        """The backbone with the invariant channels and with the equivariant ones."""
        first = SomeChannels(backbone.model, self.invariant_features)
        last = SomeChannels(backbone.model, self.equivariant_features, start=self.invariant_features)
        return first.as_backbone(backbone), last.as_backbone(backbone)

    def adopt(self, backbone: Backbone) -> None:
        first, last = self._parts(backbone)
        learning = [one for one in backbone.parameters() if one.requires_grad]
        with within("invariant"):
            self.invariant.adopt(first)
        # What one of the two leaves out may be what the other learns.
        left_out = [one for one in learning if not one.requires_grad]
        for one in left_out:
            one.requires_grad_(True)
        with within("equivariant"):
            self.equivariant.adopt(last)
        for one in learning:
            one.requires_grad_(one.requires_grad or all(one is not other for other in left_out))

    def allocate(self, objects: int, images: int) -> None:
        with within("invariant"):
            self.invariant.allocate(objects, images)
        with within("equivariant"):
            self.equivariant.allocate(objects, images)

    def held(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        return [*self.invariant.held(step, steps), *self.equivariant.held(step, steps)]

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        for objective, part in zip((self.invariant, self.equivariant), self._parts(backbone), strict=True):
            objective.after_step(part, step, steps)

    @property
    def looks_between_epochs(self) -> bool:
        return self.invariant.looks_between_epochs or self.equivariant.looks_between_epochs

    def between_epochs(self, backbone: Backbone, epoch: int, gallery: Gallery) -> None:
        for objective, part in zip((self.invariant, self.equivariant), self._parts(backbone), strict=True):
            objective.between_epochs(part, epoch, gallery)

    def links(self, seed: int) -> Links | None:
        return self.invariant.links(seed)

    def diagnostics(self, labels: Labels | None) -> dict[str, float]:
        parts = {"invariant": self.invariant, "equivariant": self.equivariant}
        return {
            f"{name}_{said}": value for name, part in parts.items() for said, value in part.diagnostics(labels).items()
        }

    def representations(self, backbone: Backbone) -> Encoder:
        return two_parts(backbone, self.invariant_features)

    def predictor(self, backbone: Backbone) -> Predictor | None:
        return self.equivariant.predictor(self._parts(backbone)[1])

    def aggregation(self, backbone: Backbone) -> Aggregation | None:
        aggregate = self.equivariant.aggregation(self._parts(backbone)[1])
        return aggregate and (lambda features, actions: aggregate(features[..., self.invariant_features :], actions))


def _beside(first: Plan, second: Plan, plain: bool) -> Several:
    """The views of both, each by the policies that it would have alone, or the second's `plain`.

    Raises:
        ValueError: if the second needs other images beside its own, which only the invariant objective may.
    """
    if second.linked:
        raise SettingError("equivariant", "it relates different images, which the invariant part may do")
    plans: list[Plan] = []
    policies: list[PolicyChoice] = []
    for plan, untouched in ((first, False), (second, plain)):
        alone = plan.plans if isinstance(plan, Several) else (plan,)
        plans += alone
        own: Sequence[PolicyChoice] = plan.choices if isinstance(plan, Several) else (None,)
        policies += ["plain"] * len(alone) if untouched else own
    return Several(tuple(plans), tuple(policies))
