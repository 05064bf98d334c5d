"""Backbones in shards learn what whole ones learn, and what cannot be sharded is refused."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightly_sizes import EVERY
from misbehaving import NeedsWhole
from small import OBOW_NETWORK, VIT, small
from torch import Tensor, nn

from ssl_inv.catalogue import OBJECTIVES, SettingError
from ssl_inv.engine.optimizers import make_optimizer
from ssl_inv.engine.preflight import require_shardable
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import make_backbone, to_channels_last
from ssl_inv.nn.distributed import from_first, is_distributed, rank, smallest, world_size
from ssl_inv.nn.sharding import Shards, blocks, clip_gradients, in_shards, shared_weight, whole
from ssl_inv.nn.sync_batch_norm import synchronise_batch_norm
from ssl_inv.nn.teacher import Teacher
from ssl_inv.testing import GROUPS, random_transform
from ssl_inv.testing.networks import OBJECTS, SIDE, Noise
from ssl_inv.testing.processes import on_processes
from ssl_inv.views import View, Views

ROUNDING = 1e-9
"""Largest difference that rounding in float64 may explain, as a share of the largest value."""

BATCH = 8
WIDTH = 16
DEEP = ("byol", "dino", "simclr")
"""Their transformers have two blocks, so that the second gathers its weights while the first computes."""

NEED_MAPS = (
    "capsie",
    "equicaps",
    "obow",
    "soft-equivariance",
    "ec-reconstruction",
    "conv-jepa",
    "lightly: VICRegLLoss",
)
SETTINGS: dict[str, dict[str, Any]] = {name: small(name) for name in OBJECTIVES.members if name != "lightly"}
SETTINGS |= {f"lightly: {loss}": settings for loss, settings in EVERY.items()}


def network(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A small transformer, or a ResNet for objectives that need a feature map."""
    if name.startswith(NEED_MAPS):
        return OBOW_NETWORK
    given = settings.get("backbone", {"name": "vit_tiny_patch16_224", "arguments": VIT})
    size = {"embed_dim": WIDTH, "depth": 1 + (name in DEEP)}
    return {**given, "arguments": {**given["arguments"], **size}}


class Trained(nn.Module):
    """A backbone and an objective in double precision, trained as the engine trains them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        settings = dict(SETTINGS[name])
        torch.manual_seed(0)
        self.backbone = make_backbone(**network(name, settings))
        settings.pop("backbone", None)
        settings |= {"map_side": 2} if "map_side" in settings else {}
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
        clip_gradients([one for group in groups for one in group["params"]], 0.05, each=number == 2)
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
        labels = ((index + seed) % 3 - 1)[rows] if self.objective.needs_labels else None
        return Views(tuple(views), index[rows], shown[:, rows], labels)


def trained(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of every objective, the losses of two steps, the weights after them, and the state of the optimiser."""
    found = {}
    for name in names:
        one = Trained(name)
        taught = any(isinstance(module, Teacher) for module in one.modules())
        one.between_epochs()
        losses = {number: one.step(number) for number in (1, 2)}
        sharded = sum(in_shards(parameter) for parameter in one.parameters())
        optimizer = whole(one.optimization.optimizer.state_dict()["state"])
        if one.shards is not None:
            one.shards.restore()
        state = {(number, key): value for number, own in optimizer.items() for key, value in own.items()}
        parts = {"losses": losses, "weights": one.state_dict(), "optimizer": state}
        found[name] = {"taught": taught, "sharded": sharded, "parts": parts}
    return found


KEEP_TEACHERS = ("byol", "conditional-byol", "dino", "i-jepa", "ibot", "interclr", "iwm", "moco-v2", "moco-v3", "msn")
KEEP_TEACHERS += ("obow", "seq-jepa", "transitive", "capi", "conv-jepa", "gram-anchoring")
OTHERS = [name for name in SETTINGS if name not in KEEP_TEACHERS]


@pytest.mark.parametrize(
    "names", [KEEP_TEACHERS, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["teachers", "others"]
)
def test_shards_learn_what_whole_networks_learn(names: Sequence[str]) -> None:
    alone, shared = trained(names), on_processes(2, trained, names)
    for name, expected in alone.items():
        assert expected["taught"] == (name in KEEP_TEACHERS) or name.startswith("lightly"), name
        for found in (one[name] for one in shared):
            assert found["sharded"] >= (24 if expected["taught"] else 12), name
            assert found["parts"].keys() == expected["parts"].keys(), name
            for part, values in expected["parts"].items():
                assert_same(found["parts"][part], values, f"{name}, {part}")


def assert_same(found: Any, expected: Any, name: str) -> None:
    """Equal up to rounding in float64, as a share of the largest value."""
    values = [one for one in expected.values() if isinstance(one, Tensor) and one.is_floating_point() and one.numel()]
    scale = max((float(one.abs().max()) for one in values), default=1.0)
    say = "{}: {}".format
    torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING * scale, msg=lambda said: say(name, said))


def test_an_objective_that_needs_whole_blocks_is_refused() -> None:
    backbone = make_backbone(**network("simclr", {}))
    problem = "NeedsWhole reads the weights of its blocks, so trainer.strategy fsdp cannot shard it; trainer.strat"
    with pytest.raises(SettingError, match=problem) as refused:
        require_shardable(backbone, NeedsWhole(backbone.features, GROUPS))
    assert refused.value.setting == "objective.name"


def spread() -> dict[str, Any]:
    """What the second process gets of the first one's state."""
    images = torch.arange(48.0).view(2, 3, 2, 4).to(memory_format=torch.channels_last)
    state = {
        "tensors": [images, torch.tensor(3), torch.zeros(0, 2), torch.ones(1).expand(3), torch.tensor([True, False])],
        "half": (torch.ones(2, dtype=torch.bfloat16), None),
        "plain": {1: 7, "rate": 0.1},
    }
    found: dict[str, Any] = from_first(state if rank() == 0 else {})
    torch.testing.assert_close(found, state, rtol=0, atol=0)
    assert found["tensors"][0].stride() == images.stride()
    return {"least": smallest(torch.tensor([True, rank() == 0])), "numbers": smallest(torch.tensor([1.5 - rank()]))}


def test_the_state_of_the_first_process_reaches_the_others_as_it_is() -> None:
    for found in on_processes(2, spread):
        assert found["least"].tolist() == [True, False]
        assert found["numbers"].tolist() == [0.5]


ARCHITECTURES: dict[str, tuple[int, dict[str, Any]]] = {
    "test_resnet": (4, {}),
    "test_convnext": (9, {}),
    "test_efficientnet": (5, {}),
    "swin_tiny_patch4_window7_224": (
        2,
        {
            **{"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": [1, 1]},
            **{"num_heads": [1, 2], "drop_path_rate": 0.0},
        },
    ),
    "eva02_tiny_patch14_224": (2, {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}),
    "beit_base_patch16_224": (2, {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_blocks_are_found(name: str) -> None:
    count, arguments = ARCHITECTURES[name]
    model = make_backbone(name=name, arguments=arguments).model
    found = blocks(model)
    assert len(found) == count
    assert shared_weight(model) is None
    parent, number = found[-1]
    parent.add_module("again", getattr(parent, number))
    assert shared_weight(model) is not None


def gradients(names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """The gradients, strides and statistics of networks with channels last."""
    return {name: gradients_of(name) for name in names}


def gradients_of(name: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    whole_network = to_channels_last(make_backbone(name=name, arguments=ARCHITECTURES[name][1]).double())
    before = {key: one.clone() for key, one in whole_network.named_parameters()}
    share = slice(rank() * 4 // world_size(), (rank() + 1) * 4 // world_size())
    pixels = torch.randn(4, 3, 32, 32, dtype=torch.double)[share]
    shards = None
    if is_distributed():
        synchronise_batch_norm(whole_network, torch.device("cpu"))
        shards = Shards([whole_network], torch.device("cpu"))
    with torch.no_grad():
        whole_network(pixels)  # outside of `during`, as between epochs
    compute = lambda: whole_network(pixels).square().mean()  # noqa: E731
    (compute() if shards is None else shards.during(compute)).backward()
    named = whole_network.named_parameters()
    found = {key: whole(one.grad) if in_shards(one) else average(one.grad) for key, one in named}
    if shards is not None:
        shards.restore()
    assert all(torch.equal(one, before[key]) for key, one in whole_network.named_parameters()), name
    strides = {f"stride of {key}": torch.tensor(one.stride()) for key, one in whole_network.named_parameters()}
    return {**found, **strides, **dict(whole_network.named_buffers())}


def average(gradient: Tensor) -> Tensor:
    if is_distributed():
        dist.all_reduce(gradient)
    return gradient / world_size()


@pytest.mark.slow
def test_shards_of_every_kind_of_network_have_the_gradients_of_whole_ones() -> None:
    alone = gradients(list(ARCHITECTURES))
    for found in on_processes(2, gradients, list(ARCHITECTURES)):
        for name, expected in alone.items():
            assert_same(found[name], expected, name)
