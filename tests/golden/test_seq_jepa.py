"""seq-JEPA gives the numbers of the authors' code."""

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from numpy.testing import assert_allclose
from small import PLACE, single, views_of
from torch import nn

from ssl_inv.augment.policies import simclr
from ssl_inv.data.sources.threediebench import GROUPS as RENDERED
from ssl_inv.engine.optimizers import make_optimizer
from ssl_inv.evaluation.protocols.transforms_r2 import r2_mean
from ssl_inv.nn import losses
from ssl_inv.nn.aggregator import ActionEncoder
from ssl_inv.nn.teacher import Teacher, cosine_momentum
from ssl_inv.objectives.seq_jepa import SeqJEPA, action_vectors
from ssl_inv.transforms import Transform
from ssl_inv.transforms.quaternions import quaternion_from_euler

FACTS = "seq_jepa_model"


OURS = {
    "agg_token": "aggregator.token",
    "encoder": "backbone",
    "target_encoder": "teacher.network",
    "action_proj.0": "action_encoder.linear",
    "predictor": "prediction_head",
    "transformer_encoder.transformer_encoder": "aggregator",
    "transformer_encoder": "aggregator",
}


def our_name(name: str) -> str:
    prefix = max((one for one in OURS if name.startswith(one)), key=len)
    return OURS[prefix] + name[len(prefix) :]


def fill(objective: SeqJEPA, backbone: nn.Module, order: list) -> dict[str, nn.Parameter]:
    """Load the recorded weights into all parameters; returns the parameters by the authors' names."""
    ours = dict(objective.named_parameters()) | {f"backbone.{name}": one for name, one in backbone.named_parameters()}
    rng = RandomState(30)
    for name, shape in order:
        draw = torch.from_numpy(0.3 * rng.standard_normal(shape)).float()
        draw = 1 + draw if len(shape) == 1 and name.endswith("weight") else draw
        ours[our_name(name)].data = torch.zeros(shape) if name == "agg_token" else draw
    assert {our_name(name) for name, _ in order} == ours.keys()
    return {name: ours[our_name(name)] for name, _ in order}


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("aug_style_eval", {"action_statistics": "padded"}),
        ("aug_style_train", {"action_statistics": "padded"}),
        ("relative_latents_given_train", {"action_statistics": "repeated"}),
        ("M1_eval", {"observed": 1}),
        ("saccade_model_train", {"action_statistics": "padded"}),
        ("no_action_conditioning_eval", {"conditioning": "none"}),
    ],
)
def test_forward_pass_and_gradients_are_those_of_the_authors_code(facts, case, settings, seq_jepa):
    recorded = facts["full_forward_tiny"]["cases"][case]
    objective, backbone = seq_jepa(**settings)
    order = "parameter_order_no_action" if "no_action" in case else "parameter_order"
    named = fill(objective, backbone, facts["full_forward_tiny"][order])
    objective.train(case.endswith("train"))
    given = settings.get("observed", 3)
    pixels = torch.cat((single(20, 4, 3, 2, 2, 2)[:, :given], single(21, 4, 1, 2, 2, 2)), dim=1)
    places = torch.cat((single(22, 4, 3, 3)[:, :given], single(23, 4, 1, 3)), dim=1)
    views = views_of(pixels.unbind(1), [Transform({"place": one}, PLACE) for one in places.unbind(1)])
    seen = {}
    objective.aggregator.register_forward_hook(
        lambda module, inputs, output: seen.update(tokens=module.tokens(*inputs), z_agg=output)
    )
    if "relative_latents" in case:
        features = backbone(pixels[:, :3].flatten(0, 1)).view(4, 3, 8)
        terms = objective.sequence_loss(features, single(24, 4, 3, 3), objective.teacher(pixels[:, 3]))
    else:
        terms = objective.loss(views, backbone)
    loss = terms["prediction"].value
    loss.backward()
    assert loss.item() == pytest.approx(recorded["loss"], rel=1e-4)
    assert_allclose(seen["z_agg"].detach(), recorded["z_agg"], rtol=1e-4, atol=1e-5)
    assert_allclose(seen["tokens"][0].detach(), recorded["tokens_sample0"], rtol=1e-4, atol=1e-5)
    for name, norm in recorded["grad_norms"].items():
        assert named[name].grad.norm().item() == pytest.approx(norm, rel=1e-4), name
    with_gradient = [name for name, one in named.items() if name.startswith("target") and one.grad is not None]
    assert with_gradient == recorded["target_params_with_grad"]


def test_cosine_distance(facts):
    recorded, prediction = facts["loss_cosine"], single(0, 5, 16).requires_grad_()
    loss = losses.cosine_distance(prediction, single(1, 5, 16))
    loss.backward()
    assert loss.item() == pytest.approx(recorded["loss"], rel=1e-6)
    assert_allclose(prediction.grad[0], recorded["grad_wrt_P_row0"], rtol=1e-4, atol=1e-7)
    assert prediction.grad.norm().item() == pytest.approx(recorded["grad_wrt_P_fro_norm"], rel=1e-5)


def test_embedded_actions_are_normalised_as_the_authors_code_does(facts, golden):
    recorded, actions = facts["action_projection"], golden("seq_jepa_views")["relative_action_augmentation"]
    last = torch.tensor(actions["action_for_predictor"])
    given = torch.cat((torch.tensor(actions["relative_actions_observed"])[:, :2], last[:, None]), dim=1)
    encoder = ActionEncoder(9, 4, "padded")
    encoder.linear.weight.data = 0.5 * single(10, 4, 9)
    fresh = encoder.eval().embed(last[:, None])[:, 0]
    assert_allclose(fresh.detach(), recorded["eval_mode_fresh_stats_target_embedding"], rtol=1e-4, atol=1e-5)
    embedded = encoder.train()(given).detach()
    # Normalisation turns a batch of two into +-1, but eps changes the fifth digit of such small differences.
    assert_allclose(embedded[:, 2], recorded["train_mode_target_embedding"], atol=1e-5)
    observed = np.array(recorded["train_mode_observed_embedding_after_zeroing"])
    assert_allclose(embedded[:, :2], observed[:, :2], rtol=1e-4, atol=1e-5)
    assert_allclose(encoder.norm.running_mean, recorded["running_mean_after_second"], atol=1e-6)
    assert_allclose(encoder.norm.running_var, recorded["running_var_after_second"], atol=1e-6)
    after = encoder.eval().embed(last[:, None])[:, 0]
    assert_allclose(after.detach(), recorded["eval_mode_after_the_two_updates_target_embedding"], rtol=1e-4, atol=1e-5)


NAMES = ["crop", "brightness", "contrast", "saturation", "hue", "blur"]
AUGMENTATIONS = {"parameters": NAMES, "convention": "seq-jepa"}
CONFIGURATIONS = {
    "3diebench_rot": {},
    "rotcolor": {"parameters": ["rotation", "floor_hue", "light_hue"], "convention": "seq-jepa"},
    "cifar_aug": AUGMENTATIONS,
    "no_action": {"conditioning": "none"},
    "raw_action_rot": {"action_dimensions": 0},
    "raw_action_aug9": {**AUGMENTATIONS, "action_dimensions": 0},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_networks_are_as_large_as_the_authors(facts, name):
    recorded = facts["token_layout"]["configurations"][name]
    with torch.device("meta"):
        objective = SeqJEPA(512, {**RENDERED, **simclr().groups}, **CONFIGURATIONS[name])
    parts = {"aggregator": objective.aggregator, "predictor": objective.prediction_head}
    parts["action_proj"] = objective.action_encoder
    sizes = {f"params_{part}": sum(one.numel() for one in network.parameters()) for part, network in parts.items()}
    sizes["params_aggregator"] -= recorded["emb_dim"]  # the token, which stands apart there
    assert sizes.items() <= recorded.items()
    assert objective.aggregator.token.shape[-1] == recorded["emb_dim"]


@pytest.mark.parametrize(
    ("kind", "columns"), [("rot", ["rotation"]), ("rotcolor", ["rotation", "floor_hue", "light_hue"])]
)
def test_actions_on_3diebench(golden, kind, columns):
    case = golden("seq_jepa_actions")["relative_action_3diebench"]
    transforms = []
    for latent in case["latents"]:
        hues = {"floor_hue": torch.tensor([latent[3]]), "light_hue": torch.tensor([latent[6]])}
        values = {"rotation": quaternion_from_euler(torch.tensor([latent[:3]])), **hues}
        transforms.append(Transform(values, {name: RENDERED[name] for name in values}))
    found = action_vectors(transforms, columns, "seq-jepa")[0]
    assert_allclose(found, case["values"][kind]["relative"], atol=1e-6)


def test_raw_actions_reach_the_predictor_and_stay_as_they_were(facts, seq_jepa):
    """In the authors' code the caller's last action becomes zero, and so does the predictor's action."""
    assert facts["raw_action_inplace_bug"]["predictor_action_abs_sum"] == 0
    objective, _ = seq_jepa(action_dimensions=0)
    told = []
    objective.prediction_head.register_forward_hook(lambda module, inputs, output: told.append(inputs[0]))
    actions = single(0, 4, 3, 3)
    objective.sequence_loss(single(1, 4, 3, 8), actions, single(2, 4, 8))
    assert torch.equal(actions, single(0, 4, 3, 3))
    assert torch.equal(told[0][:, -4:-1], actions[:, -1])
    assert not told[0][:, -1].any()


def test_teacher_and_schedules(facts):
    for share, momentum in facts["ema"]["values"].items():
        assert cosine_momentum(0.996, *map(int, share.split("/"))) == pytest.approx(momentum, abs=1e-9)
    network, teacher = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)
    network.weight.data, teacher.weight.data = torch.tensor([[0.0, 1, 2]]), torch.tensor([[1, -2, 0.5]])
    follower = Teacher(teacher)
    follower.follow(network, 0.996)
    assert_allclose(follower.network.weight[0], facts["ema"]["update_example"]["result"], rtol=1e-6)
    schedule = make_optimizer([network], lr=4e-4, warmup=0.02, final_lr=1e-5)
    for epoch, rate in facts["lr_schedule"]["as_described_in_paper_linear_warmup_then_cosine_to_1e_minus_5"].items():
        if int(epoch) >= 20:
            assert schedule.rate(int(epoch), 1000) == pytest.approx(rate, rel=1e-6)


def test_r2_is_the_mean_over_dimensions(facts):
    targets = RandomState(40).standard_normal((12, 4)) * [1, 0.1, 3, 0.5] + [0, 1, 2, 3]
    predictions = targets + RandomState(41).standard_normal((12, 4)) * [0.3, 0.1, 0.3, 0.3]
    found = r2_mean(torch.from_numpy(targets), torch.from_numpy(predictions))
    assert found == pytest.approx(facts["r2_metric"]["r2"], rel=1e-6)
