"""Backbones in shards learn what whole ones learn, and what cannot be sharded is refused."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightly_sizes import EVERY
from small import MEAN_OF_PATCHES, OBOW_NETWORK, VIT, small
from torch import Tensor, nn

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.engine.optimizers import make_optimizer
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import make_backbone
from ssl_inv.nn.distributed import is_distributed, rank, world_size
from ssl_inv.nn.sharding import Shards, clip_gradients, in_shards, whole
from ssl_inv.nn.sync_batch_norm import synchronise_batch_norm
from ssl_inv.nn.teacher import Teacher
from ssl_inv.testing import GROUPS, random_transform
from ssl_inv.testing.networks import OBJECTS, SIDE, Noise
from ssl_inv.testing.processes import on_processes
from ssl_inv.views import View, Views

ROUNDING = 1e-9
"""Largest difference that rounding in float64 may explain, as a share of the largest value."""

BATCH = 8
BLOCKS = {"embed_dim": 16, "depth": 2}
NEED_MAPS = ("capsie", "equicaps", "obow", "soft-equivariance", "ec-reconstruction", "lightly: VICRegLLoss")
SETTINGS: dict[str, dict[str, Any]] = {name: small(name) for name in OBJECTIVES.members if name != "lightly"}
SETTINGS |= {f"lightly: {loss}": settings for loss, settings in EVERY.items()}


def network(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A small transformer, or a ResNet for objectives that need a feature map."""
    if name.startswith(NEED_MAPS):
        return OBOW_NETWORK
    given = settings.get("backbone", {"name": "vit_tiny_patch16_224", "arguments": VIT})
    return {**given, "arguments": {**given["arguments"], **BLOCKS}}


class Trained(nn.Module):
    """A backbone and an objective in double precision, trained as the engine trains them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        settings = dict(SETTINGS[name])
        torch.manual_seed(0)
        self.backbone = make_backbone(**network(name, settings))
        settings.pop("backbone", None)
        constructor = OBJECTIVES.find(name.partition(":")[0]).load()
        self.objective = constructor(self.backbone.features, GROUPS, **settings)
        self.objective.adopt(self.backbone)
        self.objective.allocate(OBJECTS, OBJECTS)
        self.double().train()
        networks = self.backbone, self.objective
        self.optimization = make_optimizer(networks, name="sgd", lr=0.05, weight_decay=0.01, warmup=0.0)
        self.shards = None
        if is_distributed():
            for one in networks:
                synchronise_batch_norm(one, torch.device("cpu"))
            self.shards = Shards(networks, torch.device("cpu"))
            self.optimization.shard(self.shards)

    def between_epochs(self) -> None:
        if self.objective.looks_between_epochs:
            gallery = Gallery(Noise(), lambda pixels: 2 * pixels.double() - 1, "cpu", batch_size=OBJECTS // 4)
            torch.manual_seed(0)
            with torch.no_grad():
                self.objective.between_epochs(self.backbone, 0, gallery)

    def step(self, number: int) -> Tensor:
        views = self.views(number)
        torch.manual_seed(number)
        compute = lambda: self.objective.loss(views, self.backbone)  # noqa: E731
        terms = compute() if self.shards is None else self.shards.during(compute)
        loss = torch.stack([term.weight * term.value for term in terms.values()]).sum()
        loss.backward()
        for one in self.parameters():
            if is_distributed() and one.grad is not None and not in_shards(one):
                dist.all_reduce(one.grad)
                one.grad.div_(world_size())
        self.optimization.set_rate(number, 10)
        for one in self.objective.held(number, 10):
            one.grad = None
        self.optimization.take_gradients()
        groups = self.optimization.optimizer.param_groups
        clip_gradients([one for group in groups for one in group["params"]], 0.5, each=False)
        self.optimization.optimizer.step()
        self.optimization.forget_gradients()
        torch.manual_seed(number)
        self.objective.after_step(self.backbone, number, 10)
        return loss.detach()

    def views(self, seed: int) -> Views:
        """This process's share of a batch of noise."""
        plan, share = self.objective.plan, BATCH // world_size()
        torch.manual_seed(seed)
        pixels = [torch.randn(BATCH, 3, SIDE, SIDE, dtype=torch.double) for _ in range(plan.count)]
        transforms = [random_transform({**GROUPS, **plan.groups}, BATCH, torch.double) for _ in range(plan.count)]
        index = torch.arange(BATCH)
        shown = torch.stack((index, torch.zeros_like(index)), dim=1).expand(plan.sources, -1, -1)
        rows = torch.arange(rank() * share, (rank() + 1) * share)
        views = (View(one[rows], made.select(rows)) for one, made in zip(pixels, transforms, strict=True))
        return Views(tuple(views), index[rows], shown[:, rows])


def trained(names: list[str]) -> dict[str, Any]:
    """Of every objective, the losses of three steps, the weights and the state of the optimiser; or why it fails."""
    found: dict[str, Any] = {}
    for name in names:
        try:
            one = Trained(name)
            one.between_epochs()
            losses = [float(one.step(number)) for number in (1, 2)]
            optimizer = whole(one.optimization.optimizer.state_dict())
            sharded = sum(in_shards(parameter) for parameter in one.parameters())
            if one.shards is not None:
                one.shards.restore()
            found[name] = {
                "losses": losses,
                "state": one.state_dict(),
                "optimizer": optimizer,
                "sharded": sharded,
                "teachers": any(isinstance(module, Teacher) for module in one.modules()),
            }
        except Exception as error:
            import traceback
            found[name] = "".join(traceback.format_exception(error)[-6:])
            if is_distributed() and not isinstance(error, (TypeError,)): pass
    return found
