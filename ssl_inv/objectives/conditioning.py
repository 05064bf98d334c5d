"""How predictors read actions and begin; shared by all objectives that have one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require_at_least
from ssl_inv.nn.predictors import BilinearPredictor, action_predictor
from ssl_inv.nn.representations import RepresentedAction
from ssl_inv.objectives.base import action_dimensions, rotation_position
from ssl_inv.transforms import Action, Convention, Group

Initialisation = Literal["uniform", "quaternion", "group"]
"""How a bilinear predictor begins."""


@dataclass(frozen=True)
class ActionForm:
    """The numbers of an action that a predictor reads.

    Attributes:
        names: the parameters of the action.
        convention: how its vector is written.
        represented: the numbers of the groups' representations, in place of the vector.
    """

    names: list[str]
    convention: Convention
    represented: RepresentedAction | None = None

    def __call__(self, action: Action) -> Tensor:
        """The numbers of every action, `(B, K)`."""
        if self.represented is not None:
            return self.represented(action)
        return action.as_vector(self.names, self.convention)


def conditioned_predictor(
    groups: Mapping[str, Group],
    names: list[str],
    convention: Convention,
    kind: str,
    embedding: int,
    hidden: Sequence[int] = (),
    initialisation: Initialisation = "uniform",
) -> tuple[ActionForm, nn.Module]:
    """A predictor, and the form of actions that it reads.

    Args:
        groups: the recorded parameters of views.
        names: the parameters of the action.
        convention: of the action vector.
        kind: `bilinear`, `hypernetwork` or `concatenation`.
        embedding: D, dimensions of an embedding.
        hidden: widths of the hidden layers, for all but `bilinear`.
        initialisation: of a bilinear predictor. `uniform` is random matrices; `quaternion` multiplies every four
            dimensions by the quaternion of the first rotation; `group` is the representation of every parameter's
            group, each on its share of the dimensions, and actions are given as its numbers.

    Raises:
        SettingError: if a parameter is unknown, or the predictor cannot begin so.
    """
    length = action_dimensions(groups, names, convention)
    if initialisation != "group":
        first = rotation_position(groups, names, convention) if initialisation == "quaternion" else None
        return ActionForm(names, convention), action_predictor(kind, embedding, length, hidden, first)
    if kind != "bilinear" or hidden:
        problem = f"'group', but predictor is {kind!r}; only a bilinear one is a representation"
        raise SettingError("predictor_initialisation", problem)
    represented = RepresentedAction(names, groups, convention)
    predictor = BilinearPredictor(embedding, represented.length, initial=represented.weights(embedding))
    return ActionForm(names, convention, represented), predictor


def held_predictor(predictor: nn.Module, held: int, step: int) -> Iterable[nn.Parameter]:
    """The parameters of a predictor that stays as it begins for the first `held` steps."""
    return predictor.parameters() if step <= held else ()


def require_held(predictor_held: int, initialisation: Initialisation) -> None:
    """Raise a `SettingError` if a predictor with random weights is to be held, or a number is below 0."""
    require_at_least(0, predictor_held=predictor_held)
    if predictor_held and initialisation == "uniform":
        problem = f"is {predictor_held}, but the predictor begins with random matrices; begin it with `group`"
        raise SettingError("predictor_held", problem)


def require_random(initialisation: Initialisation, predictor: str) -> None:
    """Raise a `SettingError` if a predictor that is not bilinear is to begin as a representation."""
    if initialisation != "uniform":
        problem = f"{initialisation!r}, but predictor is {predictor!r}; only a bilinear one is a multiplication"
        raise SettingError("predictor_initialisation", problem)
