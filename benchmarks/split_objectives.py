"""Splits of which one part is trained, or whose parts leave the network at different depths, for split_study.py."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError
from ssl_inv.nn.backbones import AroundBackbone, Backbone, Change, Features
from ssl_inv.objectives.base import Encoder, Losses
from ssl_inv.objectives.split import Split
from ssl_inv.transforms import Group
from ssl_inv.views import Views


class OnePart(Split):
    """A split of which both parts or one are trained.

    With `trunk: held`, nothing moves that the other part's features are made of: of the backbone, only the rows of the
    last convolution and its normalisation that make the trained part's channels. The other part then stays as it is,
    and the trained part is one layer on what the network has learnt before. With `held-to-stage-3`, all of stage 4 is
    trained, and the other part is lost: this asks what the stages before it are good for.

    Args:
        invariant: as in `Split`.
        equivariant: as in `Split`.
        equivariant_share: as in `Split`.
        trained: the part whose objective has a loss.
        trunk: `free`: all of the backbone is trained, and the other part changes with it. `held`, `held-to-stage-3`:
            see above; only for ResNets of basic blocks.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        invariant: Annotated[dict[str, Any], "objective"],
        equivariant: Annotated[dict[str, Any], "objective"],
        equivariant_share: float = 0.5,
        trained: Literal["both", "invariant", "equivariant"] = "both",
        trunk: Literal["free", "held", "held-to-stage-3"] = "free",
    ) -> None:
        both = {"invariant": invariant, "equivariant": equivariant}
        super().__init__(features, groups, **both, equivariant_share=equivariant_share)
        if trunk != "free" and trained == "both":
            raise SettingError("trunk", f"{trunk!r}, but both parts are trained; did you mean trained: equivariant?")
        self.trained, self.trunk = trained, trunk
        self._rest: list[nn.Parameter] = []
        self._rows: list[nn.Parameter] = []
        self._before: list[Tensor] = []

    def adopt(self, backbone: Backbone) -> None:
        super().adopt(backbone)
        if self.trunk == "free":
            return
        stage: Any = backbone.model.layer4
        moving = list(stage.parameters())
        if self.trunk == "held":
            moving = self._rows = [stage[-1].conv2.weight, stage[-1].bn2.weight, stage[-1].bn2.bias]
        self._rest = [one for one in backbone.parameters() if all(one is not other for other in moving)]

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        if self.trained == "both":
            return super().loss(views, backbone)
        own = dict(zip(self.bases, self._views_of_both(views), strict=True))[self.trained]
        terms = self.bases[self.trained].loss(own, self.given(self.trained, backbone))
        return {f"{self.trained}_{name}": term for name, term in terms.items()}

    def held(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        if not self._before:
            self._before = [row.detach().clone() for row in self._rows]
        return [*super().held(step, steps), *self._rest]

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        super().after_step(backbone, step, steps)
        # The rows of the other part have no gradient, but they decay.
        other = (
            slice(self.invariant_features) if self.trained == "equivariant" else slice(self.invariant_features, None)
        )
        with torch.no_grad():
            for row, before in zip(self._rows, self._before, strict=bool(self._before)):
                row[other] = before[other]


class AtStage(AroundBackbone):
    """The mean over positions of the map after a stage, as a backbone of its own.

    Args:
        whole: the backbone.
        stage: its number from the end, 1 for the last.
        channels: of the map.
        passes: the maps of every batch that has passed, by the batch's identity.
    """

    def __init__(self, whole: Backbone, stage: int, channels: int, passes: dict[int, Any]) -> None:
        super().__init__(whole)
        self.stage, self.channels, self.features, self.passes = stage, channels, channels, passes

    def encode(self, pixels: Tensor, change: Change | None = None) -> Features:
        known = self.passes.get(id(pixels))
        if known is None or known[0] is not pixels:
            known = self.passes[id(pixels)] = (pixels, self.whole.stage_maps(pixels, 4))
        found: Tensor = known[1][-self.stage]
        return Features(lambda: found.mean(dim=(2, 3)), lambda: found)


class AtDepths(Split):
    """Two objectives on one network, each on all channels of a stage of its own. Both must need the same views.

    Args:
        invariant: as in `Split`.
        equivariant: as in `Split`.
        early: the part that leaves the network early; the other has the last stage.
        stage: from the end: 2 is the stage before the last.
        channels: of that stage's map.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        invariant: Annotated[dict[str, Any], "objective"],
        equivariant: Annotated[dict[str, Any], "objective"],
        early: Literal["invariant", "equivariant"] = "equivariant",
        stage: int = 2,
        channels: int = 64,
    ) -> None:
        # To Split, the features of both stages stand side by side.
        both = {"invariant": invariant, "equivariant": equivariant}
        share = (channels if early == "equivariant" else features) / (features + channels)
        super().__init__(features + channels, groups, **both, equivariant_share=share)
        self.early, self.stage = early, stage
        self._passes: dict[int, Any] = {}

    def given(self, name: str, backbone: Backbone) -> Backbone:
        width = self.invariant_features if name == "invariant" else self.equivariant_features
        return AtStage(backbone, self.stage if name == self.early else 1, width, self._passes)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        self._passes = {}
        terms = super().loss(views, backbone)
        self._passes = {}
        return terms

    def representations(self, backbone: Backbone) -> Encoder:
        def encode(pixels: Tensor) -> dict[str, Tensor]:
            self._passes = {}
            parts = {name: self.given(name, backbone)(pixels) for name in self.bases}
            self._passes = {}
            return {"all": torch.cat(list(parts.values()), dim=1), **parts}

        return encode
