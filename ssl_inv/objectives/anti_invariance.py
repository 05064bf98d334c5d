"""Against invariance: around any objective, views of an object stay apart, and pairs of views tell the action."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.catalogue import (
    SettingError,
    require,
    require_above,
    require_at_least,
    require_between,
    require_named,
    require_widths,
)
from ssl_inv.data.wanted import Growth
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone, Cached
from ssl_inv.nn.distributed import gather
from ssl_inv.nn.heads import action_head
from ssl_inv.objectives.around import Around, base_objective, beside, views_for
from ssl_inv.objectives.base import Losses, Objective, Predictor, Term, action_dimensions
from ssl_inv.transforms import Convention, Group, Pose, Rotation
from ssl_inv.views import Pair, Plan, Views


class AntiInvariance(Around):
    """Terms beside any objective that an invariant solution cannot fulfil, and pairs of views that grow apart: inverse
    dynamics (after Pathak et al., ICML 2017), VICReg's hinge within objects, a curriculum (Bengio et al., ICML 2009).

    An objective that predicts one view from another and the action between them has a solution that ignores the action:
    embeddings that are the same for all views of an object. Its variance and its negatives come from other objects. V
    views of each object are in a batch. With the embedding z_v of the base's predictor for view v,

        L = L_base + within mean_d max(0, spread - s_d / t_d)
          + negatives mean_v CE(v; cos(p(z_1, a_v), z_u) / temperature for u = 1 ... V)
          + sum_t inverse_t l_t(g_t(h_1, h_2), a_t).

    s_d is the standard deviation within objects, the mean of all objects' variances under the root, and t_d that of the
    whole batch, without gradient. p(z_1, a_v) is the prediction of view v = 2 ... V from the first one; the other views
    of the same object are its negatives. g tells the action from the equivariant features h of two views (inverse
    dynamics), with l as in `supervised`. The base has the first views alone.

    When:
        An equivariant run warns that it has become invariant: few objects, small actions, or many steps on a plateau.
        Each term alone makes the equivariant features depend on the view; only `negatives` and `inverse` ask for the
        action too. Around an objective without a predictor, z is its equivariant part, or all features.

    Args:
        base: the objective, a mapping with its `name` and settings.
        views: V, at least as many as the base has. Objects with fewer are left out.
        within: weight of the variance within objects.
        spread: the ratio of s_d and t_d that is asked for; 0.5 is a quarter of the variance.
        negatives: weight of the negatives within objects; the base must have a predictor.
        temperature: divides their cosines.
        inverse: weight of the error of each parameter that the head tells.
        weights: weights of single parameters, by name, in place of `inverse`.
        parameters: of the action that the head tells; null takes those of the base.
        hidden: widths of the head's hidden layers, with batch normalisation.
        symmetric: whether the head tells the action in both directions, and the errors are averaged, as in AugSelf.
        convention: form of the action vector that the head tells.
        growth: batches in which pairs grow from near to any: views are drawn among those that differ least in the
            parameters from the first, a share that grows to all. 0 draws any views from the first step on.
        smallest: the share of the views in the first of these batches.
    """

    base: Objective

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        base: Annotated[dict[str, Any], "objective"],
        views: int = 4,
        within: float = 1.0,
        spread: float = 0.5,
        negatives: float = 0.0,
        temperature: float = 0.2,
        inverse: float = 1.0,
        weights: dict[str, float] = {},
        parameters: list[str] | None = None,
        hidden: list[int] = [512],
        symmetric: bool = False,
        convention: Literal["sie", "seq-jepa", "canonical"] = "canonical",
        growth: int = 0,
        smallest: float = 0.2,
    ) -> None:
        require_at_least(0, within=within, negatives=negatives, inverse=inverse, growth=growth)
        require_at_least(0, **{f"weights.{name}": one for name, one in weights.items()})
        require_above(0, temperature=temperature)
        require_at_least(2, views=views)
        require_between(0, 1, spread=spread, smallest=smallest)
        require_above(0, smallest=smallest)
        if hidden:
            require_widths(hidden=hidden)
        super().__init__(base=base_objective(features, groups, **base))
        self.weights, self.spread, self.temperature = (within, negatives), spread, temperature
        self.directions = ((0, 1), (1, 0)) if symmetric else ((0, 1),)
        self.convention: Convention = convention
        self.names = list(self.base.parameters_told) if parameters is None else parameters
        if parameters:
            # Before what is named by them: a slip in a parameter would else be blamed on its weight.
            action_dimensions(groups, parameters, convention)
        empty = "is empty, and the base is told none" if parameters is None else "is empty"
        problem = f"{empty}; inverse: 0 without weights needs none"
        require(bool(self.names) or not (inverse or weights), "parameters", problem)
        require_named("weights", weights, self.names)
        self.told = [weights.get(name, inverse) for name in self.names]
        predicts = type(self.base).predictor is not Objective.predictor
        require(predicts or not negatives, "negatives", "needs a base with a predictor; 0 is without")
        self.least_batch = max(self.base.least_batch, 2 if within > 0 else 1)
        if any(self.told):
            self.widths = [action_dimensions(groups, [name], convention) for name in self.names]
            self.quaternions = [isinstance(groups[name], Rotation | Pose) for name in self.names]
            self.head = action_head(2 * (features - self.invariant_features), hidden, sum(self.widths))
        plan = self.base.plan
        pairs = isinstance(plan, Pair)
        if not pairs and views > plan.count:
            problem = f"{views}, but the base's own views are {plan.count}, and only those of a pair can be more"
            raise SettingError("views", problem)
        require(pairs or not growth, "growth", "is for pairs of an object's views, and the base has other views")
        own = [name for name in self.names if name in groups]
        require(not growth or bool(own), "growth", "needs parameters by which views are near")
        grown = Growth(tuple(own), growth, smallest) if growth else None
        self._plan: Plan = Pair(max(views, plan.count), grown) if pairs else plan
        self._views = views

    @property
    def parameters_told(self) -> list[str]:
        return list(dict.fromkeys([*self.base.parameters_told, *self.names]))

    @property
    def plan(self) -> Plan:
        return self._plan

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        cached = Cached(backbone)
        first = replace(views_for(self.base, views), views=views.views[: self.base.plan.count])
        terms = self.base.loss(first, cached)
        within, negatives = self.weights
        own: dict[str, Term] = {}
        if within or negatives:
            predictor = self.base.predictor(cached)
            embeddings = [self._embedded(view.pixels, predictor, cached) for view in views.views[: self._views]]
            together = torch.stack([losses.full_precision(one) for one in embeddings], dim=1)
            if within:
                own["within"] = Term(spread_within(together, self.spread), within)
            if negatives:
                if predictor is None:
                    raise SettingError("negatives", "needs a base with a predictor")
                actions = [views[0].transform.relative(view.transform) for view in views.views[1 : self._views]]
                predicted = torch.stack([predictor.predict(embeddings[0], one) for one in actions], dim=1)
                own["negatives"] = Term(views_told_apart(predicted, together, self.temperature), negatives)
        if any(self.told):
            ways = [self._told(views, cached, first, second) for first, second in self.directions]
            for name, weight, *errors in zip(self.names, self.told, *ways, strict=True):
                own[f"inverse_{name}"] = Term(torch.stack(errors).mean(), weight)
        return beside(terms, own)

    def _told(self, views: Views, backbone: Backbone, first: int, second: int) -> list[Tensor]:
        """The head's error in each parameter, from one view to another."""
        parts = [backbone(views[one].pixels)[:, self.invariant_features :] for one in (first, second)]
        vector = views[first].transform.relative(views[second].transform).as_vector(self.names, self.convention)
        told, targets = (torch.split(one, self.widths, 1) for one in (self.head(torch.cat(parts, dim=1)), vector))
        return [losses.action_error(*one) for one in zip(told, targets, self.quaternions, strict=True)]

    def _embedded(self, pixels: Tensor, predictor: Predictor | None, backbone: Backbone) -> Tensor:
        if predictor is not None:
            return predictor.embed(pixels)
        return backbone(pixels)[:, self.invariant_features :]  # type: ignore[no-any-return]


def spread_within(embeddings: Tensor, spread: float) -> Tensor:
    """Hinge that keeps the deviation within objects above a share of the whole deviation, in every dimension.

        mean_d max(0, spread - sqrt(mean_n Var_v z_nvd) / sqrt(Var_nv z_nvd))

    with unbiased variances over the global batch; the whole deviation has no gradient.

    Args:
        embeddings: of V views of each object, `(B, V, D)`.
        spread: the share.
    """
    with torch.no_grad():
        whole = gather(embeddings.detach()).flatten(0, 1).var(dim=0)
    within = losses.sample_mean(embeddings.var(dim=1))
    return F.relu(spread - ((within + 1e-6) / (whole + 1e-6)).sqrt()).mean()


def views_told_apart(predicted: Tensor, embeddings: Tensor, temperature: float) -> Tensor:
    """Cross entropy of finding each predicted view among all views of its object, by cosines over a temperature.

    Args:
        predicted: of the views after the first, `(B, V - 1, D)`.
        embeddings: of all V views of each object, `(B, V, D)`.
        temperature: divides cosines.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        queries = F.normalize(losses.full_precision(predicted), dim=2).to(embeddings.dtype)
        logits = queries @ F.normalize(embeddings, dim=2).mT / temperature
        target = torch.arange(1, embeddings.shape[1], device=logits.device).repeat(len(logits))
        return losses.sample_mean(F.cross_entropy(logits.flatten(0, 1), target, reduction="none"))
