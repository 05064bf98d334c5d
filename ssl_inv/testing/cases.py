"""An objective under test, and what the engine does with it in a step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ssl_inv.augment.policies import simclr
from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.objectives.base import Losses, Objective
from ssl_inv.testing.networks import OBJECTS, SIDE, Noise, SmallNetwork, random_transform
from ssl_inv.transforms import Circle, Group, Real, Rotation
from ssl_inv.trust import allowing
from ssl_inv.views import Plan, View, Views

GROUPS: Mapping[str, Group] = {
    "rotation": Rotation(),
    "floor_hue": Circle(),
    "light_theta": Real(scale=0.8),
    "light_phi": Circle(2 * torch.pi),
    "light_hue": Circle(),
    **simclr().groups,
}
"""The transforms of rendered solids and SimCLR's augmentation together."""

BATCH, STEPS = 8, 10


@dataclass(frozen=True)
class Case:
    """An objective under test. Every check and every process builds it anew from this description."""

    objective: type[Objective] | str
    settings: dict[str, Any]
    groups: Mapping[str, Group] = field(default_factory=lambda: GROUPS)
    backbone: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.objective if isinstance(self.objective, str) else self.objective.__name__

    def _constructor(self) -> Any:
        if not isinstance(self.objective, str):
            return self.objective
        # Who tests an objective by its path names it oneself.
        with allowing([self.objective.rpartition(".")[0]] if "." in self.objective else []):
            return OBJECTIVES.find(self.objective).load()

    def build(self, seed: int = 0) -> nn.ModuleDict:
        """Backbone and objective with the initial weights of `seed`, in training mode."""
        constructor = self._constructor()
        with seeded(seed):
            backbone = (
                make_backbone(**self.backbone)
                if self.backbone
                else Backbone(SmallNetwork(), "network of the conformance suite")
            )
            objective = constructor(backbone.features, self.groups, **self.settings)
            objective.adopt(backbone)
            objective.allocate(OBJECTS, OBJECTS)
        return nn.ModuleDict({"backbone": backbone, "objective": objective}).train()

    @cached_property
    def plan(self) -> Plan:
        return parts_of(self.build())[1].plan

    @cached_property
    def needs_labels(self) -> bool:
        return parts_of(self.build())[1].needs_labels

    def views(self, seed: int, batch: int = BATCH, dtype: torch.dtype = torch.float32) -> Views:
        """Views with random pixels and transforms."""
        plan = self.plan
        with seeded(seed):
            pixels = [torch.randn(batch, 3, SIDE, SIDE, dtype=dtype) for _ in range(plan.count)]
            transforms = [random_transform({**self.groups, **plan.groups}, batch, dtype) for _ in range(plan.count)]
        index = torch.arange(batch)
        shown = torch.stack((index, torch.zeros_like(index)), dim=1).expand(plan.sources, -1, -1)
        # Objects 0 and 3 have no known class.
        labels = (index + seed) % 3 - 1 if self.needs_labels else None
        return Views(tuple(View(*both) for both in zip(pixels, transforms, strict=True)), index, shown, labels)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch from a seed; those outside the block stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def parts_of(networks: nn.ModuleDict) -> tuple[Backbone, Objective]:
    """The backbone and the objective of a case's networks."""
    backbone, objective = networks["backbone"], networks["objective"]
    assert isinstance(backbone, Backbone)
    assert isinstance(objective, Objective), (
        f"{type(objective).__name__} is no subclass of ssl_inv.objectives.base.Objective"
    )
    return backbone, objective


def losses_of(networks: nn.ModuleDict, views: Views, seed: int = 0) -> Losses:
    """The terms of the loss of some views."""
    backbone, objective = parts_of(networks)
    with seeded(seed):
        return objective.loss(views, backbone)


def total_of(losses: Losses) -> Tensor:
    """The weighted sum of the terms of a loss."""
    return torch.stack([term.weight * term.value for term in losses.values()]).sum()


def require(condition: bool, sentence: str) -> None:
    """Raise an `AssertionError` with a sentence unless a condition holds."""
    if not condition:
        raise AssertionError(sentence)


def step_of(
    networks: nn.ModuleDict, views: Views, step: int, average: Callable[[Tensor], None] | None = None
) -> Tensor:
    """One step of gradient descent; returns the loss before it. `average` averages gradients over processes."""
    loss = total_of(losses_of(networks, views, seed=step))
    networks.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for one in networks.parameters():
            if one.grad is not None:
                if average is not None:
                    average(one.grad)
                one.sub_(one.grad, alpha=0.01)
    with seeded(step):
        backbone, objective = parts_of(networks)
        objective.after_step(backbone, step, STEPS)
    return loss.detach()


def before_epoch(networks: nn.ModuleDict) -> None:
    """What the engine does before the first epoch."""
    backbone, objective = parts_of(networks)
    if objective.looks_between_epochs:
        dtype = next(backbone.parameters()).dtype
        gallery = Gallery(Noise(), lambda pixels: 2 * pixels.to(dtype) - 1, "cpu", batch_size=OBJECTS // 4)
        with torch.no_grad(), seeded(0):
            objective.between_epochs(backbone, 0, gallery)
