"""Learning rate and weight decay follow the schedules of the recipe, for the parameters that it names."""

import copy

import pytest
import torch
from torch import nn

from ssl_inv.engine.optimizers import Optimization, make_optimizer


def networks() -> nn.ModuleDict:
    """A backbone with batch norm, and two heads, where the name of one is the start of the other's name."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return nn.ModuleDict({"backbone": backbone, "head": nn.Linear(4, 4), "head2": nn.Linear(4, 2)})


def rates(optimization: Optimization, parts: nn.ModuleDict, step: int, total: int) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter in a step."""
    optimization.set_rate(step, total)
    names = {parameter: name for name, parameter in parts.named_parameters()}
    groups = optimization.optimizer.param_groups
    return {names[parameter]: (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}


def test_named_parts_keep_the_learning_rate_that_the_warm_up_leads_to() -> None:
    parts = networks()
    optimization = make_optimizer([parts], lr=0.1, warmup=0.2, constant_lr=["head"])
    for step in (0, 1):
        assert len({rate for rate, _ in rates(optimization, parts, step, 10).values()}) == 1
    last = rates(optimization, parts, 9, 10)
    assert {name for name, (rate, _) in last.items() if rate == 0.1} == {"head.weight", "head.bias"}
    assert last["head2.weight"][0] < 0.005
    assert optimization.optimizer.param_groups[0]["lr"] == last["backbone.0.weight"][0] == optimization.rate(9, 10)


def test_weight_decay_follows_half_a_cosine_and_spares_what_never_decays() -> None:
    parts = networks()
    optimization = make_optimizer([parts], weight_decay=0.04, final_weight_decay=0.4)
    decaying = ("backbone.0.weight", "head.weight", "head2.weight")
    for step, decay in ((0, 0.04), (50, 0.22), (100, 0.4)):
        found = {name: one for name, (_, one) in rates(optimization, parts, step, 100).items() if one}
        assert found == pytest.approx(dict.fromkeys(decaying, decay))


def test_warm_up_starts_where_it_is_told_and_biases_have_their_share_of_every_rate() -> None:
    parts = networks()
    given = {"name": "lars", "lr": 4.8, "warmup": 0.5, "warmup_lr": 0.3, "final_lr": 0.0048, "norm_and_bias_lr": 0.48}
    optimization = make_optimizer([parts], **given)
    found = [rates(optimization, parts, step, 20) for step in range(20)]
    rising = [0.3 + 0.45 * (step + 1) for step in range(10)]
    assert [one["head.weight"][0] for one in found[:10]] == pytest.approx(rising)
    assert all(one["head.bias"][0] == pytest.approx(one["head.weight"][0] / 10) for one in found)
    assert found[-1]["head.weight"][0] > 0.0048


def test_the_steps_of_the_warm_up_are_its_share_of_all() -> None:
    for share, steps in ((0.07, 7), (0.1, 10), (0.055, 6), (0.29, 29)):
        optimization = make_optimizer([networks()], lr=1.0, warmup=share)
        assert optimization.rate(steps - 1, 100) == 1.0
        assert optimization.rate(steps - 2, 100) < 1.0


NOTHING_NAMED = "^constant_lr: no trained parameter's name begins with '{}'; (did you mean 'head|there are)"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        *(({"constant_lr": [name]}, NOTHING_NAMED.format(name)) for name in ("predictor", "hed", "head.weights")),
        ({"schedule": "constant", "constant_lr": ["head"]}, "constant_lr: "),
        ({"warmup": 0.0, "warmup_lr": 1e-4}, "warmup_lr: 0.0001, but warmup is 0"),
        ({"warmup_lr": 1.0}, "warmup_lr: must lie between 0 and lr"),
        ({"final_weight_decay": -1.0}, "must be at least 0"),
        ({"norm_and_bias_lr": 0.0}, "norm_and_bias_lr: must be above 0"),
        ({"final_lr": -1e-3}, "final_lr: must lie between 0 and lr, 0.001, got -0.001"),
        ({"final_lr": 1.0}, "final_lr: must lie between 0 and lr, 0.001, got 1.0"),
        ({"momentum": 0.8}, "momentum: 0.8, but adamw has betas instead"),
        ({"name": "lars", "betas": [0.9, 0.95]}, "betas: .*, but lars has momentum instead"),
        ({"name": "sgd", "momentum": 1.5}, "momentum: must be at least 0 and below 1, got 1.5"),
    ],
)
def test_what_contradicts_itself_or_names_nothing_is_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_optimizer([networks()], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_scales_by_the_norm_what_may_decay_and_nothing_else(weight_decay: float) -> None:
    parts = networks()
    settings = {"lr": 0.5, "weight_decay": weight_decay, "warmup": 0.0, "schedule": "constant"}
    optimization = make_optimizer([parts], name="lars", **settings)
    before = {name: one.detach().clone() for name, one in parts.named_parameters()}
    for one in parts.parameters():
        one.grad = torch.randn_like(one)
    optimization.set_rate(0, 10)
    optimization.optimizer.step()
    for name, one in parts.named_parameters():
        old, update = before[name], one.grad
        if one.dim() > 1:
            scale = 0.001 * old.norm() / (one.grad.norm() + weight_decay * old.norm())
            update = scale * (one.grad + weight_decay * old)
        torch.testing.assert_close(one.detach(), old - 0.5 * update, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lars"])
def test_a_restored_optimiser_goes_on_to_the_same_weights(name: str) -> None:
    def step(parts: nn.ModuleDict, optimization: Optimization, number: int) -> None:
        for place, one in enumerate(parts.parameters()):
            one.grad = torch.full_like(one, 0.1 * (place + 1))
        optimization.set_rate(number, 4)
        optimization.optimizer.step()

    settings = {"name": name, "constant_lr": ["head2"], "weight_decay": 0.1, "final_weight_decay": 0.3}
    whole = networks()
    optimization = make_optimizer([whole], **settings)
    for number in range(2):
        step(whole, optimization, number)
    resumed = copy.deepcopy(whole)
    restored = make_optimizer([resumed], **settings)
    restored.optimizer.load_state_dict(copy.deepcopy(optimization.optimizer.state_dict()))
    for number in (2, 3):
        step(whole, optimization, number)
        step(resumed, restored, number)
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))
