"""AugSelf: SimCLR, with heads that predict from two features how their views differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import (
    SettingError,
    require,
    require_above,
    require_at_least,
    require_named,
    require_once,
    require_widths,
    suggest,
)
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import action_head
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.objectives.base import PairLoss, PairObjective, Term
from ssl_inv.transforms import Action, Circle, Convention, Flag, Group, Transform
from ssl_inv.views import Pair, Views

_COLOUR = ("brightness", "contrast", "saturation", "hue")
_RANGES = {"brightness": 1.6, "contrast": 1.6, "saturation": 1.6, "hue": 0.4, "blur": 2.0}
"""Widths of the ranges in SimCLR's policy: a difference of two drawn values, divided by them, is from -1 to 1."""


class AugSelf(PairObjective):
    """Augmentation-aware self-supervision (Lee, Lee, Lee, Lee, Shin, NeurIPS 2021) on top of SimCLR.

    One head g_t for each kind of parameter predicts the difference d_t between two views. It reads the features h_x and
    h_y of both views, not their embeddings:

        L = NT-Xent(z_x, z_y; temperature)
            + sum_t w_t (l_t(g_t(h_x, h_y), d_t(x, y)) + l_t(g_t(h_y, h_x), d_t(y, x))) / 2

    l is the mean squared error of tanh g; for flags (flip, grey) it is the cross entropy of whether the views differ,
    for quarter turns that of which of the four turns leads from one view to the other.
    `crop` is the difference of centres and of sides in fractions of the image, with the centre of a flipped view
    mirrored. `colour` is the differences of the four jitter factors, each divided by its whole range in SimCLR's policy
    at strength 1; `brightness`, `contrast`, `saturation`, `hue` and `blur` are the single ones. Any other parameter is
    predicted as its action vector: a rotation as a quaternion, a position on a circle as cosine and sine.

    When:
        An invariant objective loses something that the task needs, such as colour or place, and the augmentation or the
        data record it. The heads make the backbone's features keep what the projector may drop. Two views, no
        prediction of embeddings, little cost. Not where the effect of an action must be predicted, since nothing here
        maps one view to another. Not where features must come in parts.

    Args:
        parameters: predicted differences, one head each: `crop`, `colour`, or a recorded parameter.
        weight: w of each head; the paper has 0.5 for ImageNet-100 and 1 for STL-10.
        weights: w of single heads, by the names of `parameters`, in place of `weight`.
        quarter_turns: those of `parameters` that are angles in quarter turns and are predicted as one of four classes,
            such as `RandomRotation90.angle` of `{name: kornia.RandomRotation90, times: [-2, 2], p: 1}`. Other angles
            are rounded to quarter turns.
        hidden: widths of the heads' hidden layers.
        normalised_heads: whether the heads' hidden layers have batch normalisation.
        bounded: whether the heads end in tanh. Differences must then lie between -1 and 1, as the ones above do.
        symmetric: whether both orders of the two views are predicted. SIE's comparison has one order, no tanh and no
            normalisation.
        projector: widths of the projector's layers.
        temperature: divides the cosine similarities.
        convention: form of the action vector, for all but `crop` and `colour`. `sie` has quaternions with the sign of
            the product, and plain differences of hues.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        parameters: list[str] = ["crop", "colour"],
        weight: float = 1.0,
        weights: dict[str, float] = {},
        quarter_turns: list[str] = [],
        hidden: list[int] = [512, 512],
        normalised_heads: bool = True,
        bounded: bool = True,
        symmetric: bool = True,
        projector: list[int] = [2048, 128],
        temperature: float = 0.2,
        convention: Literal["sie", "seq-jepa", "canonical"] = "canonical",
    ) -> None:
        super().__init__()
        require_at_least(0, weight=weight, **{f"weights.{name}": one for name, one in weights.items()})
        require_widths(projector=projector)
        require_above(0, temperature=temperature)
        if hidden:
            require_widths(hidden=hidden)
        require(bool(parameters), "parameters", "is empty; at least one is needed")
        require_once("parameters", parameters)
        self.targets = [_Target(name, convention, name in quarter_turns) for name in parameters]
        # Before what is named by them: a slip in a parameter would else be blamed on its weight.
        dimensions = [target.dimensions(groups) for target in self.targets]
        require_named("weights", weights, parameters)
        require_named("quarter_turns", quarter_turns, parameters)
        require_once("quarter_turns", quarter_turns)
        self.weights = [weights.get(name, weight) for name in parameters]
        self.bounded, self.symmetric, self.temperature = bounded, symmetric, temperature
        self.projector = make_projector(features, projector)
        self.heads = nn.ModuleList(action_head(2 * features, hidden, one, normalised_heads) for one in dimensions)

    @property
    def parameters_told(self) -> list[str]:
        return [target.name for target in self.targets]

    @property
    def plan(self) -> Pair:
        return Pair()

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        queries, keys = (self.embed(view.pixels, backbone) for view in views.views)
        x, y = queries.features, keys.features
        first, second = (view.transform for view in views.views)
        terms = {"nt_xent": Term(losses.nt_xent(queries.embeddings, keys.embeddings, self.temperature))}
        for target, head, weight in zip(self.targets, self.heads, self.weights, strict=True):
            told = self._error(target, head(torch.cat((x, y), dim=1)), first.relative(second))
            if self.symmetric:
                told = (told + self._error(target, head(torch.cat((y, x), dim=1)), second.relative(first))) / 2
            terms[target.name] = Term(told, weight)
        return PairLoss(terms, queries, keys)

    def _error(self, target: "_Target", told: Tensor, action: Action) -> Tensor:
        if target.quarter_turns:
            return losses.classification(told, target.turns(action))
        if target.is_flag(action.groups):
            return losses.binary_cross_entropy(told, target(action))
        return losses.mean_squared_error(told.tanh() if self.bounded else told, target(action).to(told.dtype))


@dataclass(frozen=True)
class _Target:
    """What one head predicts.

    Attributes:
        name: `crop`, `colour`, or a recorded parameter.
        convention: of the action vector of recorded parameters.
        quarter_turns: whether it is one of four classes.
    """

    name: str
    convention: Convention
    quarter_turns: bool = False

    def __call__(self, action: Action) -> Tensor:
        """The difference between the two views of an action, `(B, n)`."""
        if self.name == "crop":
            return _crop_difference(action)
        if self.name == "colour":
            return torch.stack([action[name] / _RANGES[name] for name in _COLOUR], dim=1)
        if self.name in _RANGES:
            return (action[self.name] / _RANGES[self.name]).unsqueeze(1)
        # Two views differ in a flag or they do not; the plain difference would have a sign.
        return action.as_vector([self.name], "canonical" if self.is_flag(action.groups) else self.convention)

    def turns(self, action: Action) -> Tensor:
        """The number of quarter turns from one view to the other, `(B,)`, 0 to 3."""
        group = action.groups[self.name]
        assert isinstance(group, Circle)
        step = group.relative(action.source[self.name], action.target[self.name])
        return (step * (4 / group.period)).round().long() % 4

    def is_flag(self, groups: Mapping[str, Group]) -> bool:
        return isinstance(groups.get(self.name), Flag)

    def dimensions(self, groups: Mapping[str, Group]) -> int:
        """n, for views that record `groups`.

        Raises:
            ValueError: if the parameter is not recorded, or has no numbers to predict.
        """
        for needed in _COLOUR if self.name == "colour" else (self.name,):
            if needed not in groups:
                raise SettingError("parameters", f"no view of this data records {needed!r}; {suggest(needed, groups)}")
        if self.quarter_turns:
            angles = [name for name, group in groups.items() if isinstance(group, Circle)]
            known = f"{self.name!r} is no angle; {suggest(self.name, angles)}"
            require(isinstance(groups.get(self.name), Circle), "quarter_turns", known)
            return 4
        neutral = Transform({name: group.neutral(1) for name, group in groups.items()}, groups)
        if not (dimensions := self(neutral.relative(neutral)).shape[1]):
            raise SettingError("parameters", f"{self.name!r} has no numeric value")
        return dimensions


def _crop_difference(action: Action) -> Tensor:
    boxes = []
    for values in (action.source, action.target):
        x, y, width, height = values["crop"].unbind(1)
        if "flip" in values:
            x = torch.where(values["flip"] > 0.5, 1 - x, x)
        if "vertical_flip" in values:
            y = torch.where(values["vertical_flip"] > 0.5, 1 - y, y)
        boxes.append(torch.stack((x, y, width, height), dim=1))
    return boxes[1] - boxes[0]
