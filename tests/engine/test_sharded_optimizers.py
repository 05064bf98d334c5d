"""Optimisers train weights in shards as they train whole ones, and go on from a checkpoint with either."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from small import transformer
from torch import Tensor, nn

from ssl_inv.engine.optimizer_names import NEED_WHOLE, OPTIMIZERS
from ssl_inv.engine.optimizers import make_optimizer
from ssl_inv.nn.backbones import make_backbone, to_channels_last
from ssl_inv.nn.distributed import is_distributed, rank, world_size
from ssl_inv.nn.sharding import Shards, in_shards, whole
from ssl_inv.testing.processes import on_processes

HOST = torch.device("cpu")


class Regression(nn.Module):
    """A small transformer that is taught random numbers. Keys without a bias have no gradient of rounding errors."""

    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.backbone = transformer(embed_dim=16, depth=2, qkv_bias=False)
        self.head = nn.Linear(16, 4)
        to_channels_last(self.double())
        settings: dict[str, Any] = {"lr": 0.01, "warmup": 0.0, "weight_decay": 0.01}
        self.optimization = make_optimizer((self.backbone, self.head), name=optimizer, **settings)
        self.together: Any = lambda function: function()

    def shard(self) -> None:
        if is_distributed():
            shards = Shards([self.backbone, self.head], HOST)
            self.optimization.shard(shards)
            self.together = shards.during

    def steps(self, *numbers: int) -> None:
        for number in numbers:
            torch.manual_seed(number)
            share = slice(rank() * 8 // world_size(), (rank() + 1) * 8 // world_size())
            pixels, taught = (torch.randn(8, *shape).double()[share] for shape in ((3, 12, 12), (4,)))
            loss = self.together(lambda: (self.head(self.backbone(pixels)) - taught).square().mean())  # noqa: B023
            loss.backward()
            for one in self.parameters():
                if is_distributed() and one.grad is not None and not in_shards(one):
                    dist.all_reduce(one.grad)
                    one.grad.div_(world_size())
            self.optimization.set_rate(number, 10)
            self.optimization.take_gradients()
            self.optimization.optimizer.step()
            self.optimization.forget_gradients()

    def state(self) -> dict[str, Any]:
        state = {"weights": self.state_dict(), "optimizer": self.optimization.optimizer.state_dict()}
        return whole(state)  # type: ignore[no-any-return]


def trained(names: Sequence[str]) -> dict[str, Any]:
    """Of every optimiser, the state after two steps, and that after a third one from a checkpoint of them."""
    found = {}
    for name in names:
        one, other = Regression(name), Regression(name)
        one.shard()
        one.steps(1, 2)
        after = clone(one.state())
        other.load_state_dict(after["weights"])
        other.optimization.load(clone(after["optimizer"]))
        other.shard()
        for each in (one, other):
            each.steps(3)
        # NAdam has a float32 among its numbers, which torch reads back in the precision of the weights.
        assert_equal(one.state()["weights"], other.state()["weights"], 1e-9 if name == "nadam" else 0.0, name)
        found[name] = {"after": after, "then": one.state()["weights"]}
    return found


def clone(state: Any) -> Any:
    """A copy that no step changes."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, Mapping):
        return {key: clone(one) for key, one in state.items()}
    return [clone(one) for one in state] if isinstance(state, list) else state


def assert_equal(found: Any, expected: Any, rounding: float, name: str) -> None:
    say = "{}: {}".format
    torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding, msg=lambda said: say(name, said))


FEW = ("adamw", "lars")
FURTHER = [name for name in OPTIMIZERS if name not in (*FEW, *NEED_WHOLE)]


@pytest.mark.parametrize("names", [FEW, pytest.param(FURTHER, marks=pytest.mark.slow)], ids=["few", "further"])
def test_optimizers_train_shards_and_go_on_with_them(names: Sequence[str]) -> None:
    alone = trained(names)
    for found in on_processes(2, trained, names):
        for name in names:
            assert_equal(found[name]["after"]["weights"], alone[name]["after"]["weights"], 1e-9, name)
            assert_equal(found[name]["then"], alone[name]["then"], 1e-9, name)
            one, other = Regression(name), Regression(name)
            # The file of one kind of run is that of the other.
            for network, state in ((one, found[name]), (other, alone[name])):
                network.load_state_dict(state["after"]["weights"])
                network.optimization.load(clone(state["after"]["optimizer"]))
                network.steps(3)
            assert_equal(one.state_dict(), other.state_dict(), 1e-9, name)


def test_state_that_was_saved_without_channels_last_has_them_again() -> None:
    network = to_channels_last(make_backbone(name="test_resnet"))
    optimization = make_optimizer([network], weight_decay=0.0)
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    optimization.optimizer.step()
    saved = optimization.optimizer.state_dict()
    plain = {key: {name: one.contiguous() for name, one in own.items()} for key, own in saved["state"].items()}
    optimization.load({**saved, "state": plain})
    for parameter, own in optimization.optimizer.state.items():
        assert own["exp_avg"].stride() == parameter.stride()
    assert_equal(optimization.optimizer.state_dict()["state"], saved["state"], 0.0, "adamw")
