"""Split: two objectives, each with its own part of the features."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from torch import Tensor

from ssl_inv.catalogue import SettingError, require_at_least, within
from ssl_inv.data.source import Labels
from ssl_inv.nn.backbones import Backbone, Cached
from ssl_inv.nn.parts import Part
from ssl_inv.objectives.around import Around, aggregation_of_part, base_objective, two_parts, views_for
from ssl_inv.objectives.base import Aggregation, Encoder, Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Plan, PolicyChoice, Several, Views


class Split(Around):
    """SIE's split for any two objectives (after Garrido, Najman, LeCun, ICML 2023, sec. 3): one learns features that do
    not change with the view, the other features that do.

    The channels of the backbone's last map are split, m = [m_inv, m_equi]. Each objective is given a backbone that has
    its own channels only:

        L = L_invariant(m_inv) + weight L_equivariant(m_equi).

    SIE itself is VICReg beside a SIE with an equivariant part only, except for its covariances between the parts. If
    both objectives need the same views, they share them, and a view that both pass through the backbone on its own
    passes once. Otherwise each has its own views, and the step costs what both cost.

    When:
        Other images (OBoW, InterCLR) or an objective that you know teach best what an image shows, and the features
        must also tell how the image was seen. Transitive invariance, whose views are different images, goes with an
        objective that augments single images, such as RotNet. Not where one objective already asks for both, such as
        SIE or EquiMod.

    Args:
        invariant: the objective of the first channels, a mapping with its `name` and settings.
        equivariant: the objective of the last channels, likewise. Retrieval and aggregation use it.
        equivariant_views: `augmented`: the views that the equivariant objective alone would have. `plain`: the data's
            own, for recorded parameters that an augmentation makes untrue, such as the rotation of an object whose view
            is mirrored.
        equivariant_share: share of the channels that is equivariant, between 0 and 1.
        weight: of all terms of the equivariant objective.
    """

    invariant: Objective
    equivariant: Objective

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
        own = round(features * equivariant_share)
        if not 0 < own < features:
            problem = f"with {equivariant_share} of {features}, one of the two parts would have no features"
            raise SettingError("equivariant_share", problem)
        require_at_least(0, weight=weight)
        super().__init__(
            invariant=base_objective(features - own, groups, setting="invariant", **invariant),
            equivariant=base_objective(own, groups, setting="equivariant", **equivariant),
        )
        self.equivariant_features, self.invariant_features, self.weight = own, features - own, weight
        plain = equivariant_views == "plain"
        self.told_of_plain_views = plain or self.equivariant.told_of_plain_views
        self.shares_views = self.invariant.plan == self.equivariant.plan and not plain
        self._plan = (
            self.invariant.plan if self.shares_views else _beside(self.invariant.plan, self.equivariant.plan, plain)
        )

    @property
    def plan(self) -> Plan:
        return self._plan

    def given(self, name: str, backbone: Backbone) -> Backbone:
        if name == "invariant":
            return Part(backbone, self.invariant_features)
        return Part(backbone, self.equivariant_features, start=self.invariant_features)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        # A view that both need passes once.
        cached = Cached(backbone)
        terms = {
            name: base.loss(some, self.given(name, cached))
            for (name, base), some in zip(self.bases.items(), self._views_of_both(views), strict=True)
        }
        weights = {"invariant": 1.0, "equivariant": self.weight}
        return {
            f"{name}_{term_name}": Term(term.value, weights[name] * term.weight)
            for name, own in terms.items()
            for term_name, term in own.items()
        }

    def _views_of_both(self, views: Views) -> tuple[Views, Views]:
        """The views of the invariant and of the equivariant objective."""
        count = self.invariant.plan.count
        further = views if self.shares_views else replace(views, views=views.views[count:])
        first = replace(views, views=views.views[:count])
        return views_for(self.invariant, first), views_for(self.equivariant, further)

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        first, last = (
            base.visible_patches(some, self.given(name, backbone))
            for (name, base), some in zip(self.bases.items(), self._views_of_both(views), strict=True)
        )
        shift = 0 if self.shares_views else self.invariant.plan.count
        return {**first, **{number + shift: patches for number, patches in last.items()}}

    def adopt(self, backbone: Backbone) -> None:
        learning = [one for one in backbone.parameters() if one.requires_grad]
        frozen_by_all = learning
        for name, base in self.bases.items():
            with within(name, besides=["backbone"]):
                base.adopt(self.given(name, backbone))
            frozen_by_all = [one for one in frozen_by_all if not one.requires_grad]
            # A parameter that one objective freezes may be trained by the other.
            for one in learning:
                one.requires_grad_(True)
        for one in frozen_by_all:
            one.requires_grad_(False)

    def diagnostics(self, labels: Labels | None) -> dict[str, float]:
        return {
            f"{name}_{what}": value
            for name, base in self.bases.items()
            for what, value in base.diagnostics(labels).items()
        }

    def representations(self, backbone: Backbone) -> Encoder:
        return two_parts(backbone, self.invariant_features)

    def aggregation(self, backbone: Backbone) -> Aggregation | None:
        return aggregation_of_part(super().aggregation(backbone), slice(self.invariant_features, None))


def _beside(first: Plan, second: Plan, plain: bool) -> Several:
    """The views of both, each by the policies that it would have alone; with `plain`, the second's are unaugmented.

    Raises:
        SettingError: if the second needs other images beside its own, which only the invariant objective may.
    """
    if second.linked:
        raise SettingError("equivariant", "compares different images; only `invariant` may do that")
    plans: list[Plan] = []
    policies: list[PolicyChoice] = []
    for plan, untouched in ((first, False), (second, plain)):
        alone = plan.plans if isinstance(plan, Several) else (plan,)
        plans += alone
        own: Sequence[PolicyChoice] = plan.choices if isinstance(plan, Several) else (None,)
        policies += ["plain"] * len(alone) if untouched else own
    return Several(tuple(plans), tuple(policies))
