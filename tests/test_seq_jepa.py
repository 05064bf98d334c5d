"""seq-JEPA gives the numbers that the authors' code gave; what is mended is mended; several views are judged as one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from numpy.testing import assert_allclose
from torch import Tensor, nn

from ssl_inv import losses
from ssl_inv.aggregator import ActionEncoder, Aggregator, PredictionSpace
from ssl_inv.augment.policies import simclr
from ssl_inv.data.base import Data, Subset, split_objects
from ssl_inv.data.rendered import RenderedSolids
from ssl_inv.data.threediebench import GROUPS as RENDERED
from ssl_inv.evaluation import (
    QUICK,
    Bootstrap,
    Encoded,
    FeatureTable,
    LinearSettings,
    TransformR2Settings,
    aggregated,
    evaluate_with_baselines,
)
from ssl_inv.evaluation.transforms_r2 import r2_mean
from ssl_inv.finish import encode_data
from ssl_inv.judge import protocol_of
from ssl_inv.objectives.seq_jepa import SeqJEPA, action_vectors
from ssl_inv.optimization import make_optimizer
from ssl_inv.quaternions import quaternion_from_euler
from ssl_inv.settings import EvaluationSettings
from ssl_inv.teacher import Teacher, cosine_momentum
from ssl_inv.testing import check_objective, random_transform
from ssl_inv.transforms import Action, Real, Rotation, Transform
from ssl_inv.views import Saccades, View, Views

SMALL: dict[str, Any] = {"action_dimensions": 4, "layers": 2, "heads": 2, "predictor": 10, "dropout": 0.0}
PLACE = {"place": Real(dimensions=3)}


@pytest.fixture(scope="module")
def facts(golden):
    return golden("seq_jepa_model")


def normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(RandomState(seed).standard_normal(shape)).float()


class Stub(nn.Module):
    """The encoder of the recorded forward passes."""

    features = 8

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 8, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.lin(pixels.flatten(1))


def make(groups=PLACE, **settings: Any) -> tuple[SeqJEPA, Stub]:
    torch.manual_seed(0)
    backbone = Stub()
    chosen = {"parameters": list(groups), **SMALL, **settings}
    objective = SeqJEPA(8, groups, **chosen)
    objective.adopt(backbone)
    return objective, backbone


def views_of(pixels: Tensor, transforms: Sequence[Transform]) -> Views:
    return Views(
        tuple(View(one, transform) for one, transform in zip(pixels.unbind(1), transforms, strict=True)), torch.arange(len(pixels))
    )


def random_views(count: int, groups=PLACE, batch: int = 6) -> Views:
    torch.manual_seed(1)
    return views_of(torch.randn(batch, count, 2, 2, 2), [random_transform(groups, batch) for _ in range(count)])


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


def fill(objective: SeqJEPA, backbone: Stub, order: list) -> dict[str, nn.Parameter]:
    """Give all parameters the recorded weights; returns them by the authors' names."""
    ours = {**dict(objective.named_parameters()), **{f"backbone.{name}": one for name, one in backbone.named_parameters()}}
    rng = RandomState(30)
    for name, shape in order:
        draw = torch.from_numpy(0.3 * rng.standard_normal(shape)).float()
        if len(shape) == 1 and name.endswith("weight"):
            draw = 1 + draw
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
def test_forward_pass_and_gradients_are_those_of_the_authors_code(facts, case, settings):
    recorded = facts["full_forward_tiny"]["cases"][case]
    objective, backbone = make(**settings)
    named = fill(objective, backbone, facts["full_forward_tiny"]["parameter_order" + ("_no_action" if "no_action" in case else "")])
    objective.train(case.endswith("train"))
    given = settings.get("observed", 3)
    pixels = torch.cat((normal(20, 4, 3, 2, 2, 2)[:, :given], normal(21, 4, 1, 2, 2, 2)), dim=1)
    places = torch.cat((normal(22, 4, 3, 3)[:, :given], normal(23, 4, 1, 3)), dim=1)
    views = views_of(pixels, [Transform({"place": one}, PLACE) for one in places.unbind(1)])
    seen = {}
    objective.aggregator.register_forward_hook(lambda module, inputs, output: seen.update(tokens=module.tokens(*inputs), z_agg=output))
    if "relative_latents" in case:
        features = backbone(pixels[:, :3].flatten(0, 1)).view(4, 3, 8)
        terms = objective.sequence_loss(features, normal(24, 4, 3, 3), objective.teacher(pixels[:, 3]))
    else:
        terms = objective.loss(views, backbone)
    loss = terms["prediction"].value
    loss.backward()
    assert loss.item() == pytest.approx(recorded["loss"], rel=1e-4)
    assert_allclose(seen["z_agg"].detach(), recorded["z_agg"], rtol=1e-4, atol=1e-5)
    assert_allclose(seen["tokens"][0].detach(), recorded["tokens_sample0"], rtol=1e-4, atol=1e-5)
    for name, norm in recorded["grad_norms"].items():
        assert named[name].grad.norm().item() == pytest.approx(norm, rel=1e-4), name
    assert [name for name, one in named.items() if name.startswith("target") and one.grad is not None] == recorded[
        "target_params_with_grad"
    ]


def test_cosine_distance(facts):
    recorded, prediction = facts["loss_cosine"], normal(0, 5, 16).requires_grad_()
    loss = losses.cosine_distance(prediction, normal(1, 5, 16))
    loss.backward()
    assert loss.item() == pytest.approx(recorded["loss"], rel=1e-6)
    assert_allclose(prediction.grad[0], recorded["grad_wrt_P_row0"], rtol=1e-4, atol=1e-7)
    assert prediction.grad.norm().item() == pytest.approx(recorded["grad_wrt_P_fro_norm"], rel=1e-5)


def test_embedded_actions_are_normalised_as_the_authors_code_does(facts, golden):
    recorded, actions = facts["action_projection"], golden("seq_jepa_views")["relative_action_augmentation"]
    last = torch.tensor(actions["action_for_predictor"])
    given = torch.cat((torch.tensor(actions["relative_actions_observed"])[:, :2], last[:, None]), dim=1)
    encoder = ActionEncoder(9, 4, "padded")
    encoder.linear.weight.data = 0.5 * normal(10, 4, 9)
    fresh = encoder.eval().embed(last[:, None])[:, 0]
    assert_allclose(fresh.detach(), recorded["eval_mode_fresh_stats_target_embedding"], rtol=1e-4, atol=1e-5)
    embedded = encoder.train()(given).detach()
    # A batch of two is +-1 but for eps, which takes the fifth digit of differences as small as these.
    assert_allclose(embedded[:, 2], recorded["train_mode_target_embedding"], atol=1e-5)
    assert_allclose(embedded[:, :2], np.array(recorded["train_mode_observed_embedding_after_zeroing"])[:, :2], rtol=1e-4, atol=1e-5)
    assert_allclose(encoder.norm.running_mean, recorded["running_mean_after_second"], atol=1e-6)
    assert_allclose(encoder.norm.running_var, recorded["running_var_after_second"], atol=1e-6)
    after = encoder.eval().embed(last[:, None])[:, 0]
    assert_allclose(after.detach(), recorded["eval_mode_after_the_two_updates_target_embedding"], rtol=1e-4, atol=1e-5)


CONFIGURATIONS = {
    "3diebench_rot": {},
    "rotcolor": {"parameters": ["rotation", "floor_hue", "light_hue"], "convention": "seq-jepa"},
    "cifar_aug": {"parameters": ["crop", "brightness", "contrast", "saturation", "hue", "blur"], "convention": "seq-jepa"},
    "no_action": {"conditioning": "none"},
    "raw_action_rot": {"action_dimensions": 0},
    "raw_action_aug9": {
        "parameters": ["crop", "brightness", "contrast", "saturation", "hue", "blur"],
        "convention": "seq-jepa",
        "action_dimensions": 0,
    },
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_networks_are_as_large_as_the_authors(facts, name):
    recorded = facts["token_layout"]["configurations"][name]
    with torch.device("meta"):
        objective = SeqJEPA(512, {**RENDERED, **simclr().groups}, **CONFIGURATIONS[name])
    parts = {"aggregator": objective.aggregator, "predictor": objective.prediction_head, "action_proj": objective.action_encoder}
    sizes = {f"params_{part}": sum(one.numel() for one in network.parameters()) for part, network in parts.items()}
    sizes["params_aggregator"] -= recorded["emb_dim"]  # the token, which stands apart there
    assert sizes.items() <= recorded.items()
    assert objective.aggregator.token.shape[-1] == recorded["emb_dim"]


@pytest.mark.parametrize(("kind", "columns"), [("rot", ["rotation"]), ("rotcolor", ["rotation", "floor_hue", "light_hue"])])
def test_actions_on_3diebench(golden, kind, columns):
    case = golden("seq_jepa_actions")["relative_action_3diebench"]
    transforms = []
    for latent in case["latents"]:
        values = {"rotation": quaternion_from_euler(torch.tensor([latent[:3]])), "floor_hue": torch.tensor([latent[3]])}
        transforms.append(
            Transform({**values, "light_hue": torch.tensor([latent[6]])}, {name: RENDERED[name] for name in (*values, "light_hue")})
        )
    found = action_vectors(transforms, columns, "seq-jepa")[0]
    assert_allclose(found, case["values"][kind]["relative"], atol=1e-6)


def test_raw_actions_reach_the_predictor_and_stay_as_they_were(facts):
    """In the authors' code the caller's last action becomes zero, and with it what the predictor is told."""
    assert facts["raw_action_inplace_bug"]["predictor_action_abs_sum"] == 0
    objective, _ = make(action_dimensions=0)
    told = []
    objective.prediction_head.register_forward_hook(lambda module, inputs, output: told.append(inputs[0]))
    actions = normal(0, 4, 3, 3)
    objective.sequence_loss(normal(1, 4, 3, 8), actions, normal(2, 4, 8))
    assert torch.equal(actions, normal(0, 4, 3, 3))
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
    assert r2_mean(torch.from_numpy(targets), torch.from_numpy(predictions)) == pytest.approx(facts["r2_metric"]["r2"], rel=1e-6)


# What is mended.


def test_all_true_actions_and_nothing_else_are_normalised_together():
    encoder, actions = ActionEncoder(3, 4), normal(0, 5, 3, 3)
    embedded = encoder(actions).flatten(0, 1)
    assert_allclose(embedded.mean(0).detach(), np.zeros(4), atol=1e-6)
    assert_allclose(embedded.var(0, correction=0).detach(), np.ones(4), atol=1e-3)
    assert_allclose(encoder.norm.running_mean, 0.1 * encoder.linear(actions).mean((0, 1)).detach(), atol=1e-6)


@pytest.mark.parametrize("statistics", ["joint", "padded", "repeated"])
def test_the_ways_to_normalise_actions_differ_in_training_only(statistics):
    encoder, usual, actions = ActionEncoder(3, 4, statistics), ActionEncoder(3, 4), normal(0, 5, 3, 3)
    usual.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder.eval()(actions), usual.eval()(actions))
    assert torch.allclose(encoder.train()(actions), usual.train()(actions)) == (statistics == "joint")


def test_layers_begin_on_their_own_or_as_copies():
    for initialisation, same in (("independent", False), ("copies", True)):
        layers = Aggregator(8, 4, 2, 2, 0.0, initialisation).layers
        assert torch.equal(layers[0].linear1.weight, layers[1].linear1.weight) == same
        layers[0].linear1.weight.data.zero_()
        assert layers[1].linear1.weight.any()


@pytest.mark.parametrize(("convention", "same"), [("canonical", True), ("seq-jepa", False)])
def test_the_sign_of_a_quaternion_means_nothing(convention, same):
    groups = {"rotation": Rotation()}
    objective, backbone = make(groups, convention=convention)
    views = random_views(4, groups)
    turned = replace(views[1].transform, values={"rotation": -views[1].transform["rotation"]})
    other = replace(views, views=(views[0], View(views[1].pixels, turned), *views.views[2:]))
    values = [objective.loss(one, backbone)["prediction"].value.item() for one in (views, other)]
    assert (abs(values[0] - values[1]) < 1e-6) == same


@pytest.mark.parametrize(("convention", "same"), [("canonical", True), ("seq-jepa", False)])
def test_an_action_depends_on_the_views_that_it_leads_to_and_from(convention, same):
    transforms = [one.transform for one in random_views(4, simclr().groups).views]
    names = ["crop", "brightness", "hue", "blur"]
    three = action_vectors(transforms[:3], names, convention)
    assert torch.allclose(action_vectors(transforms, names, convention)[:, :2], three) == same
    assert (SeqJEPA(8, simclr().groups, **{**SMALL, "parameters": names}, convention=convention).aggregation(Stub()) is not None) == same


# What it claims.


def test_the_pairs_are_a_set_but_for_the_last_view():
    aggregator = Aggregator(8, 4, 2, 2, 0.0).eval()
    features, actions = normal(0, 5, 4, 8), normal(1, 5, 3, 4)
    usual, order = aggregator(features, actions), [2, 0, 1]
    assert_allclose(aggregator(features[:, [*order, 3]], actions[:, order]).detach(), usual.detach(), atol=1e-5)
    assert not torch.allclose(aggregator(features[:, [3, 1, 2, 0]], actions), usual, atol=1e-2)
    assert not torch.allclose(aggregator(features[:, [*order, 3]], actions), usual, atol=1e-2)


@pytest.mark.parametrize(
    ("conditioning", "observed_matter", "last_matters"),
    [("both", True, True), ("aggregator", True, False), ("predictor", False, True), ("none", False, False)],
)
def test_only_who_is_conditioned_is_told_the_actions(conditioning, observed_matter, last_matters):
    objective, backbone = make(conditioning=conditioning)
    objective.eval()
    features, target = normal(1, 4, 3, 8), normal(2, 4, 8)
    width = 0 if conditioning == "none" else 3

    def prediction(actions: Tensor) -> float:
        return objective.sequence_loss(features, actions[..., :width], target)["prediction"].value.item()

    usual = torch.zeros(4, 3, 3)
    for changed, matters in ((slice(0, 2), observed_matter), (slice(2, 3), last_matters)):
        other = usual.clone()
        other[:, changed] = 5 * normal(3, 4, 3, 3)[:, changed]
        assert (abs(prediction(other) - prediction(usual)) > 1e-6) == matters
    assert (objective.predictor(backbone) is not None) == last_matters
    assert objective.parameters_used == ([] if conditioning == "none" else ["place"])


def test_the_teacher_follows_and_learns_nothing():
    objective, backbone = make()
    objective.loss(random_views(4), backbone)["prediction"].value.backward()
    before = objective.teacher.network.lin.weight.clone()
    assert objective.teacher.network.lin.weight.grad is None
    assert backbone.lin.weight.grad.any()
    backbone.lin.weight.data += 1
    objective.after_step(backbone, 1, 100)
    assert_allclose(objective.teacher.network.lin.weight, before + 0.004, rtol=1e-4)


def test_behind_a_relu_a_constant_scores_well_unless_the_target_is_standardised():
    features = normal(0, 64, 4, 256).relu().mean(dim=1)
    scores = []
    for standardised in (False, True):
        target = PredictionSpace(256, standardised)(features)
        constant = torch.nn.functional.normalize(target, dim=1).mean(dim=0).expand_as(target)
        scores.append(losses.cosine_distance(constant, target).item())
    assert scores[0] < 0.25
    assert scores[1] > 0.85


def test_standardised_features_can_be_turned_back():
    space, features = PredictionSpace(8, True), 3 * normal(0, 64, 8) + 5
    space(features)
    space.eval()
    assert_allclose(space.features(space(features)).detach(), features, rtol=1e-4)
    unchanged = PredictionSpace(8, False)
    assert unchanged(features) is features
    assert not unchanged.state_dict()


@pytest.mark.parametrize("target", ["features", "standardised"])
def test_without_a_teacher_the_target_learns_and_every_view_is_held_to_a_normal_distribution(target):
    objective, backbone = make(anti_collapse="sigreg", sigreg_weight=0.3, directions=16, target=target)
    views = random_views(4)
    for view in views.views:
        view.pixels.requires_grad_()
    terms = objective.loss(views, backbone)
    assert objective.teacher is None
    assert terms["sigreg"].weight == 0.3
    terms["prediction"].value.backward(retain_graph=True)
    assert all(view.pixels.grad.any() for view in views.views), "the target too"
    features = objective.space(backbone(torch.cat([view.pixels for view in views.views]))).unflatten(0, (4, -1))
    expected = torch.stack([losses.sigreg(one, objective.directions(one)) for one in features]).mean()
    assert terms["sigreg"].value.item() == pytest.approx(expected.item(), rel=1e-5)
    before = objective.directions(features)
    objective.after_step(backbone, 1, 10)
    assert not torch.allclose(objective.directions(features), before)


@pytest.mark.parametrize("target", ["features", "standardised"])
def test_retrieval_predicts_in_the_space_that_the_loss_compares_in(target):
    objective, backbone = make(observed=1, target=target)
    views = random_views(2)
    objective.loss(views, backbone)
    objective.eval()
    start, end = views.views
    predictor = objective.predictor(backbone)
    assert predictor is not None
    found = predictor.predict(predictor.embed(start.pixels), start.transform.relative(end.transform))
    loss = losses.cosine_distance(found, objective.space(objective.teacher(end.pixels)))
    assert loss.item() == pytest.approx(objective.loss(views, backbone)["prediction"].value.item(), abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"target": "standardised"},
        {"anti_collapse": "sigreg", "directions": 16},
        {"anti_collapse": "sigreg", "directions": 16, "target": "standardised", "observed": 1},
        {"conditioning": "none", "initialisation": "copies"},
        {"conditioning": "aggregator", "action_statistics": "padded"},
        {"conditioning": "predictor", "action_statistics": "repeated", "observed": 1},
        {"action_dimensions": 0, "parameters": ["rotation", "crop", "hue", "blur"], "convention": "seq-jepa"},
        {"views": "saccades", "parameters": ["fixation"], "observed": 2},
    ],
    ids=str,
)
def test_variants_conform(settings):
    check_objective("seq-jepa", **{**SMALL, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parameters": ["rotatoin"]}, "records 'rotatoin'; did you mean 'rotation'"),
        ({"parameters": []}, "parameters is empty"),
        ({"heads": 5}, r"heads is 5, which does not divide the 8 \+ 4 dimensions"),
        ({"conditioning": "aggregator", "observed": 1}, "observed is 1: no action"),
        ({"patch": 16}, "patch is 16, but views is 'sequence'; only saccades have it"),
        ({"momentum": 1.5}, "momentum must lie between 0 and 1"),
        ({"momentum": 0.9, "anti_collapse": "sigreg"}, "momentum is 0.9, but anti_collapse is 'sigreg'; only a teacher has it"),
        ({"directions": 64}, "directions is 64, but anti_collapse is 'teacher'; only SIGReg has it"),
        ({"anti_collapse": "sigreg", "sigreg_weight": 0}, "sigreg_weight must be above 0, got 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SeqJEPA(8, RENDERED, **{**SMALL, **settings})


def test_saccades_are_asked_for_by_setting():
    objective = SeqJEPA(8, {}, **SMALL, views="saccades", parameters=["fixation"], observed=4, patch=8, inhibition="square")
    assert objective.plan == Saccades(4, 8, "spectral_residual", "square")


# Several views judged as one.


def table_of(features: Tensor, objects: Tensor, views: Tensor, place: Tensor | None = None) -> FeatureTable:
    transform = Transform.empty() if place is None else Transform({"place": place}, PLACE)
    return FeatureTable({"all": features}, objects, views, objects % 2, transform=transform)


def test_groups_are_consecutive_views_of_one_object_whatever_the_order_of_rows():
    objects, views = torch.tensor([0, 0, 0, 0, 0, 1, 2, 2]), torch.tensor([0, 1, 2, 3, 5, 0, 1, 4])
    features = torch.arange(8.0)[:, None]
    places = features.expand(-1, 3).square()
    order = torch.tensor([3, 7, 0, 5, 1, 6, 2, 4])
    given: list[Tensor] = []

    def aggregate(some: Tensor, actions: Sequence[Action]) -> Tensor:
        given.extend((some, *(action["place"][:, 0] for action in actions)))
        return some[:, -1]

    table = aggregated(table_of(features[order], objects[order], views[order], places[order]), 2, aggregate)
    assert table is not None
    assert table.part("mean of 2 views")[:, 0].tolist() == [0.5, 2.5, 6.5]
    assert table.part("aggregate of 2 views")[:, 0].tolist() == [1, 3, 7]
    assert table.objects.tolist() == [0, 0, 2]
    assert table.views.tolist() == [0, 2, 1]
    assert given[1].tolist() == [1.0, 5.0, 13.0], "the action from each view to the next"
    assert aggregated(table_of(features, objects, views), 6) is None


FAST = replace(
    QUICK,
    linear=LinearSettings(steps=60, batch=64),
    transforms=TransformR2Settings(hidden=0, epochs=1, joint=True, kinds=("relative",)),
    bootstrap=Bootstrap(20),
)


@pytest.mark.parametrize("counts", [[0], [9], [2, 2]])
def test_numbers_of_views_that_cannot_be_are_refused(counts):
    with pytest.raises(ValueError, match="aggregate must be different numbers from 1 to"):
        EvaluationSettings(views=8, aggregate=counts)


def test_several_views_tell_more_than_one_and_shuffled_labels_nothing():
    objects = torch.arange(200).repeat_interleave(4)
    signal = (objects % 2 * 2 - 1.0)[:, None] * torch.eye(6)[0]
    tables = [table_of(signal + 2 * normal(seed, 800, 6), objects, torch.arange(4).repeat(200)) for seed in (0, 1)]
    rows = evaluate_with_baselines(Encoded(*tables), None, replace(FAST, aggregate=(4, 5)))
    found = {(row.trained.name, row.trained.part): row for row in rows}
    several, one = found["linear/top1", "mean of 4 views"], found["linear/top1", "all"]
    assert several.trained.value > one.trained.value + 0.05
    assert abs(several.shuffled.value - 0.5) < 0.15
    assert found["knn/top1", "mean of 5 views"].trained.detail == "no object has 5 views"


@pytest.mark.parametrize("observed", [1, 3])
def test_an_encoder_is_judged_on_as_many_views_as_are_asked_for_and_stays_as_it_was(observed):
    source = RenderedSolids(classes=4, objects=24, views=5, size=16)
    train, validation = split_objects(24, 0.4, 0)
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    objective = SeqJEPA(8, source.groups, **{**SMALL, "dropout": 0.5}, observed=observed)
    networks = nn.ModuleList([backbone, objective]).train()
    before = {name: value.clone() for name, value in networks.state_dict().items()}
    settings = EvaluationSettings(views=5, aggregate=[1, 2, 5])
    data = Data(Subset(source, train), Subset(source, validation))
    encoded = encode_data(data, backbone, objective, lambda pixels: pixels, settings, torch.device("cpu"), 0)
    protocol = replace(FAST, parts=("all",), aggregate=protocol_of(settings, ("all",)).aggregate)
    parts = {row.trained.part for row in evaluate_with_baselines(encoded, None, protocol) if row.trained.name == "linear/top1"}
    assert parts == {"all", *(f"{kind} of {count} views" for count in (1, 2, 5) for kind in ("mean", "aggregate"))}
    assert all(torch.equal(value, before[name]) for name, value in networks.state_dict().items())
    assert all(module.training for module in networks.modules())
    five = aggregated(encoded.validation, 5, encoded.aggregate)
    assert five is not None
    vectors = action_vectors(
        [encoded.validation.ordered().transform.select(torch.arange(n, 50, 5)) for n in range(5)], ["rotation"], "canonical"
    )
    objective.eval()
    expected = objective.aggregator(encoded.validation.ordered().part("all").view(-1, 5, 8), objective.action_encoder.embed(vectors))
    assert_allclose(five.part("aggregate of 5 views"), expected.detach(), atol=1e-5)


def test_what_evaluation_cannot_tell_is_not_judged():
    """Images without a record of how they were cropped have no action between them."""
    source = RenderedSolids(classes=4, objects=8, views=2, size=16)
    data = Data(Subset(source, np.arange(4)), Subset(source, np.arange(4, 8)))
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    objective = SeqJEPA(8, simclr().groups, **SMALL, parameters=["crop"])
    encoded = encode_data(data, backbone, objective, lambda pixels: pixels, EvaluationSettings(views=2), torch.device("cpu"), 0)
    assert encoded.predictor is None
    assert encoded.aggregate is None
