"""Learning rate and weight decay follow the schedules of the recipe, for the parameters that it names."""

import copy
import io
import math
from typing import Any

import pytest
import timm.optim
import timm.scheduler
import torch
from small import transformer
from timm.optim import list_optimizers
from torch import nn

from ssl_inv.catalogue import SettingError
from ssl_inv.engine.optimizer_names import OPTIMIZERS, OWN, REFUSED, SCHEDULES, check_names
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


def test_every_optimiser_of_timm_is_offered_or_refused_with_a_reason() -> None:
    assert sorted({*OPTIMIZERS, *REFUSED}) == sorted({*list_optimizers()})
    assert len({*OPTIMIZERS}) == len(OPTIMIZERS)
    for name, reason in REFUSED.items():
        with pytest.raises(SettingError, match=f"^name: {name} cannot be used: {reason[:20]}"):
            make_optimizer([networks()], name=name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimiser_goes_on_to_the_same_weights(name: str) -> None:
    def step(parts: nn.ModuleDict, optimization: Optimization, number: int) -> None:
        for place, one in enumerate(parts.parameters()):
            one.grad = torch.linspace(-0.1, 0.1 * (place + 1), one.numel()).view_as(one)
        if number == 0:
            parts["head2"].weight.grad = None  # as of a head that is held
        optimization.set_rate(number, 6)
        optimization.optimizer.step()

    settings = {"name": name, "constant_lr": ["head2"], "weight_decay": 0.1, "final_weight_decay": 0.3, "lr": 0.01}
    whole = networks()
    before = copy.deepcopy(whole)
    optimization = make_optimizer([whole], norm_and_bias_lr=0.02, **settings)
    for number in range(3):
        step(whole, optimization, number)
    moved = zip(whole.named_parameters(), before.parameters(), strict=True)
    assert all(not torch.equal(one, other) for (_, one), other in moved)
    resumed, file = copy.deepcopy(whole), io.BytesIO()
    torch.save(optimization.optimizer.state_dict(), file)
    restored = make_optimizer([resumed], norm_and_bias_lr=0.02, **settings)
    restored.optimizer.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for number in (3, 4, 5):
        step(whole, optimization, number)
        step(resumed, restored, number)
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(one, other) and one.isfinite().all() for one, other in pairs)


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {*OWN}))
def test_a_name_of_timm_is_the_optimiser_that_timm_makes(name: str) -> None:
    settings = {"lr": 0.01, "weight_decay": 0.1}
    ours, theirs = networks(), networks()
    optimization = make_optimizer([ours], name=name, warmup=0.0, schedule="constant", **settings)
    other = timm.optim.create_optimizer_v2(theirs, name, **settings)
    for _ in range(2):
        for network in (ours, theirs):
            for place, one in enumerate(network.parameters()):
                one.grad = torch.linspace(-0.1, 0.1 * (place + 1), one.numel()).view_as(one)
        optimization.set_rate(0, 10)
        optimization.optimizer.step()
        other.step()
    for one, same in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, same, rtol=1e-6, atol=1e-8)


def test_arguments_reach_the_optimiser_and_lists_become_tuples() -> None:
    made = make_optimizer([networks()], name="lion", arguments={"betas": [0.8, 0.95], "caution": True})
    assert made.optimizer.defaults["betas"] == (0.8, 0.95)
    assert made.optimizer.defaults["caution"]
    assert make_optimizer([networks()], name="sgd", arguments={"nesterov": True}).optimizer.defaults["nesterov"]


def test_corrected_weight_decay_knows_the_highest_rate_of_each_group() -> None:
    optimization = make_optimizer([networks()], name="adamc", lr=0.1, norm_and_bias_lr=0.01, decay_norm_and_bias=True)
    assert sorted(group["max_lr_snapshot"] for group in optimization.optimizer.param_groups) == [0.01, 0.1]


@pytest.mark.parametrize("name", ["lamb", "larc", "nlars"])
def test_what_never_decays_is_never_scaled_by_its_norm(name: str) -> None:
    optimization = make_optimizer([networks()], name=name, weight_decay=0.0)
    groups = optimization.optimizer.param_groups
    assert {one.dim() > 1: group["always_adapt"] for group in groups for one in group["params"]} == {
        True: True,
        False: False,
    }


class Signum(torch.optim.Optimizer):
    """An optimiser of somebody's own: the sign of the gradient."""

    def __init__(self, params: Any, lr: float = 1e-3, power: float = 1.0) -> None:
        super().__init__(params, {"lr": lr, "power": power})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for one in group["params"]:
                one.sub_(group["lr"] * group["power"] * one.grad.sign())


def test_an_optimiser_of_ones_own_is_named_by_its_path() -> None:
    parts = networks()
    name = f"{__name__}.Signum"
    settings = {"lr": 0.5, "weight_decay": 0.0, "warmup": 0.0}
    made = make_optimizer([parts], name=name, arguments={"power": 0.5}, **settings)
    before = parts["head"].weight.detach().clone()
    for one in parts.parameters():
        one.grad = torch.ones_like(one)
    made.set_rate(0, 10)
    made.optimizer.step()
    torch.testing.assert_close(parts["head"].weight.detach(), before - 0.25)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "adampp"}, "^name: no optimizer is called 'adampp'; did you mean 'adamp'"),
        ({"name": "adamp", "arguments": {"wd_ration": 1}}, "^arguments.wd_ration: adamp has no such argument; did you"),
        ({"name": "adamp", "arguments": {"lr": 1}}, "^arguments.lr: optimizer.lr says it"),
        ({"name": "adamw", "arguments": {"betas": [0.9, 0.9]}}, "^arguments.betas: optimizer.betas says it"),
        ({"name": "adamp", "betas": [0.9, 0.95]}, "^betas: .*, but adamp takes its own in `arguments`"),
        ({"name": "muon", "momentum": 0.95}, "^momentum: 0.95, but muon takes its own in `arguments`"),
        (
            {"name": "muon", "arguments": {"algo": "x"}},
            "^arguments: muon cannot train with its arguments: Invalid algo",
        ),
        ({"name": f"{__name__}.Signum"}, "^weight_decay: .*Signum has none; set it to 0"),
        ({"name": "torch.optim.LBFGS", "weight_decay": 0.0}, "^arguments: torch.optim.LBFGS cannot train"),
        ({"name": "torch.nn.Linear"}, "^name: 'torch.nn.Linear' does not derive from torch.optim.Optimizer"),
        ({"name": "torch.optim.Lamb"}, "^name: the optimizer 'torch.optim.Lamb' cannot be imported"),
        ({"layer_decay": 0.7}, "^layer_decay: 0.7, but the backbone does not tell its layers"),
        ({"layer_decay": 1.5}, "^layer_decay: must be above 0 and up to 1, got 1.5"),
        ({"schedule": "plateau"}, "^schedule: plateau cannot be used: it depends on scores"),
        ({"schedule": "tahn"}, "^schedule: no schedule is called 'tahn'; did you mean 'tanh'"),
        ({"schedule": "constant", "schedule_arguments": {"a": 1}}, "^schedule_arguments: a constant schedule has none"),
        ({"schedule": "step"}, "^schedule_arguments.decay_t: required by step"),
        ({"schedule": "poly", "schedule_arguments": {"powr": 2}}, "^schedule_arguments.powr: poly has no .*'power'"),
        ({"schedule": "poly", "schedule_arguments": {"lr_min": 0}}, "^schedule_arguments.lr_min: cannot be .*final_lr"),
        ({"schedule": "wsd", "schedule_arguments": {"decay_t": 2000}}, "^schedule_arguments: wsd refuses .*decay_t"),
        ({"schedule": "poly", "schedule_arguments": {"power": "x"}}, "^schedule_arguments: poly refuses"),
        ({"schedule": "wsd", "schedule_arguments": {"decay_t": 2.5}}, "^schedule_arguments.decay_t: must be a number"),
        (
            {"schedule": "multistep", "schedule_arguments": {"decay_t": [0.5, -1], "decay_rate": 0.1}},
            "^schedule_arguments.decay_t: must be a number of steps, or a share from 0 to below 1, got -1",
        ),
        (
            {"schedule": "step", "schedule_arguments": {"decay_t": 0.3, "decay_rate": 0.1}, "final_lr": 1e-5},
            "^final_lr: 1e-05, but a step schedule falls by its decay_rate",
        ),
    ],
)
def test_what_timm_or_an_own_optimiser_cannot_do_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        make_optimizer([networks()], **settings)


def test_names_are_checked_before_anything_is_imported() -> None:
    for name in (*OPTIMIZERS, "torch.optim.NoSuchOptimizer"):
        for schedule in SCHEDULES:
            check_names(name, schedule)
    with pytest.raises(SettingError, match=r"^name: 'theirs.Optimizer' is code of the module 'theirs'"):
        check_names("theirs.Optimizer", "cosine")


ARGUMENTS: dict[str, dict[str, Any]] = {
    "cosine": {"t_initial": 20, "cycle_limit": 4, "cycle_decay": 0.5, "k_decay": 1.2},
    "tanh": {"lb": -5.0, "ub": 4.0},
    "poly": {"power": 2.0},
    "step": {"decay_t": 30, "decay_rate": 0.3},
    "multistep": {"decay_t": [24, 60], "decay_rate": 0.1},
    "wsd": {"decay_t": 16, "decay_fn": "linear"},
}
SHARES = {
    "cosine": {"t_initial": 0.25},
    "step": {"decay_t": 0.375},
    "multistep": {"decay_t": [0.3, 0.75]},
    "wsd": {"decay_t": 0.2},
}


@pytest.mark.parametrize("schedule", ARGUMENTS)
def test_a_schedule_of_timm_gives_its_rates_after_the_warm_up_from_the_step_alone(schedule: str) -> None:
    kinds = {"multistep": "MultiStepLRScheduler", "wsd": "WSDLRScheduler"}
    kind = getattr(timm.scheduler, kinds.get(schedule, f"{schedule.capitalize()}LRScheduler"))
    final = {"step": 0.0, "multistep": 0.0}.get(schedule, 0.001)
    given = {"lr": 0.1, "schedule": schedule, "warmup": 0.2, "final_lr": final}
    optimization = make_optimizer([networks()], schedule_arguments=ARGUMENTS[schedule], **given)
    found = [optimization.rate(step, 100) for step in range(100)]
    assert found[:20] == pytest.approx([0.005 * (step + 1) for step in range(20)])
    bounds = {} if final == 0 else {"lr_min": final}
    whole = {} if schedule in ("step", "multistep") or "t_initial" in ARGUMENTS[schedule] else {"t_initial": 80}
    theirs = kind(
        torch.optim.SGD([torch.zeros(1)], lr=0.1), t_in_epochs=False, **whole, **bounds, **ARGUMENTS[schedule]
    )
    for step in range(80):
        theirs.step_update(step)
        assert found[20 + step] == theirs.optimizer.param_groups[0]["lr"]
    assert [optimization.rate(step, 100) for step in (73, 5, 41)] == [found[73], found[5], found[41]]
    shares = {**ARGUMENTS[schedule], **SHARES.get(schedule, {})}
    other = make_optimizer([networks()], schedule_arguments=shares, **given)
    assert [other.rate(step, 100) for step in range(100)] == found


def test_a_plain_cosine_of_timm_is_ours() -> None:
    settings = {"lr": 0.1, "warmup": 0.1, "final_lr": 0.01}
    ours = make_optimizer([networks()], **settings)
    theirs = make_optimizer([networks()], schedule_arguments={"cycle_limit": 1}, **settings)
    assert all(math.isclose(ours.rate(step, 50), theirs.rate(step, 50), rel_tol=1e-12) for step in range(50))


def test_every_layer_of_the_backbone_learns_at_its_own_rate_and_the_head_at_the_full_one() -> None:
    backbone, head = transformer(depth=3), nn.Linear(12, 4)
    settings = {"norm_and_bias_lr": 0.05, "weight_decay": 0.1, "warmup": 0.0}
    optimization = make_optimizer([backbone, head], lr=0.1, layer_decay=0.5, **settings)
    optimization.set_rate(0, 10)
    places = {one: group for group in optimization.optimizer.param_groups for one in group["params"]}
    wanted = timm.optim.param_groups_layer_decay(backbone.model, layer_decay=0.5)
    scales = {one: group["lr_scale"] for group in wanted for one in group["params"]}
    assert len({*scales.values()}) >= 4
    for one in [*backbone.parameters(), *head.parameters()]:
        rate = (0.1 if one.dim() > 1 else 0.05) * scales.get(one, 1.0)
        assert places[one]["lr"] == pytest.approx(rate)
        assert places[one]["weight_decay"] == (0.1 if one.dim() > 1 else 0.0)
    assert set(scales) == set(backbone.parameters())
