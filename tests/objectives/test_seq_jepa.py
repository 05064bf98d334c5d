"""Claims about seq-JEPA: what is corrected, what its parts know of each other, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from small import PLACE, single, views_of
from torch import Tensor

from ssl_inv.augment.policies import simclr
from ssl_inv.nn import losses
from ssl_inv.nn.aggregator import ActionEncoder, Aggregator, PredictionSpace
from ssl_inv.nn.sigreg import sigreg
from ssl_inv.objectives.seq_jepa import SeqJEPA, action_vectors
from ssl_inv.testing import random_transform
from ssl_inv.transforms import Rotation
from ssl_inv.views import Saccades, View, Views

SMALL = {"action_dimensions": 4, "layers": 2, "heads": 2, "predictor": 10, "dropout": 0.0}


def random_views(count: int, groups=PLACE, batch: int = 6) -> Views:
    torch.manual_seed(1)
    return views_of(torch.randn(count, batch, 2, 2, 2), [random_transform(groups, batch) for _ in range(count)])


# What is corrected.


def test_all_true_actions_and_nothing_else_are_normalised_together():
    encoder, actions = ActionEncoder(3, 4), single(0, 5, 3, 3)
    embedded = encoder(actions).flatten(0, 1)
    assert_allclose(embedded.mean(0).detach(), np.zeros(4), atol=1e-6)
    assert_allclose(embedded.var(0, correction=0).detach(), np.ones(4), atol=1e-3)
    assert_allclose(encoder.norm.running_mean, 0.1 * encoder.linear(actions).mean((0, 1)).detach(), atol=1e-6)


@pytest.mark.parametrize("statistics", ["joint", "padded", "repeated"])
def test_the_ways_to_normalise_actions_differ_in_training_only(statistics):
    encoder, usual, actions = ActionEncoder(3, 4, statistics), ActionEncoder(3, 4), single(0, 5, 3, 3)
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
def test_the_sign_of_a_quaternion_means_nothing(convention, same, seq_jepa):
    groups = {"rotation": Rotation()}
    objective, backbone = seq_jepa(groups, convention=convention)
    views = random_views(4, groups)
    turned = replace(views[1].transform, values={"rotation": -views[1].transform["rotation"]})
    other = replace(views, views=(views[0], View(views[1].pixels, turned), *views.views[2:]))
    values = [objective.loss(one, backbone)["prediction"].value.item() for one in (views, other)]
    assert (abs(values[0] - values[1]) < 1e-6) == same


@pytest.mark.parametrize(("convention", "same"), [("canonical", True), ("seq-jepa", False)])
def test_an_action_depends_on_the_views_that_it_leads_to_and_from(convention, same, seq_jepa):
    _, backbone = seq_jepa()
    transforms = [one.transform for one in random_views(4, simclr().groups).views]
    names = ["crop", "brightness", "hue", "blur"]
    three = action_vectors(transforms[:3], names, convention)
    assert torch.allclose(action_vectors(transforms, names, convention)[:, :2], three) == same
    objective = SeqJEPA(8, simclr().groups, **SMALL, parameters=names, convention=convention)
    assert (objective.aggregation(backbone) is not None) == same


# What it claims.


def test_the_pairs_are_a_set_but_for_the_last_view():
    aggregator = Aggregator(8, 4, 2, 2, 0.0).eval()
    features, actions = single(0, 5, 4, 8), single(1, 5, 3, 4)
    usual, order = aggregator(features, actions), [2, 0, 1]
    assert_allclose(aggregator(features[:, [*order, 3]], actions[:, order]).detach(), usual.detach(), atol=1e-5)
    assert not torch.allclose(aggregator(features[:, [3, 1, 2, 0]], actions), usual, atol=1e-2)
    assert not torch.allclose(aggregator(features[:, [*order, 3]], actions), usual, atol=1e-2)


@pytest.mark.parametrize(
    ("conditioning", "observed_matter", "last_matters"),
    [("both", True, True), ("aggregator", True, False), ("predictor", False, True), ("none", False, False)],
)
def test_only_who_is_conditioned_is_told_the_actions(conditioning, observed_matter, last_matters, seq_jepa):
    objective, backbone = seq_jepa(conditioning=conditioning)
    objective.eval()
    features, target = single(1, 4, 3, 8), single(2, 4, 8)
    width = 0 if conditioning == "none" else 3

    def prediction(actions: Tensor) -> float:
        return objective.sequence_loss(features, actions[..., :width], target)["prediction"].value.item()

    usual = torch.zeros(4, 3, 3)
    for changed, matters in ((slice(0, 2), observed_matter), (slice(2, 3), last_matters)):
        other = usual.clone()
        other[:, changed] = 5 * single(3, 4, 3, 3)[:, changed]
        assert (abs(prediction(other) - prediction(usual)) > 1e-6) == matters
    assert (objective.predictor(backbone) is not None) == last_matters
    assert objective.parameters_used == ([] if conditioning == "none" else ["place"])


def test_the_teacher_follows_and_learns_nothing(seq_jepa):
    objective, backbone = seq_jepa()
    objective.loss(random_views(4), backbone)["prediction"].value.backward()
    before = objective.teacher.network.lin.weight.clone()
    assert objective.teacher.network.lin.weight.grad is None
    assert backbone.lin.weight.grad.any()
    backbone.lin.weight.data += 1
    objective.after_step(backbone, 1, 100)
    assert_allclose(objective.teacher.network.lin.weight, before + 0.004, rtol=1e-4)


def test_behind_a_relu_a_constant_scores_well_unless_the_target_is_standardised():
    features = single(0, 64, 4, 256).relu().mean(dim=1)
    scores = []
    for standardised in (False, True):
        target = PredictionSpace(256, standardised)(features)
        constant = torch.nn.functional.normalize(target, dim=1).mean(dim=0).expand_as(target)
        scores.append(losses.cosine_distance(constant, target).item())
    assert scores[0] < 0.25
    assert scores[1] > 0.85


def test_standardised_features_can_be_turned_back():
    space, features = PredictionSpace(8, True), 3 * single(0, 64, 8) + 5
    space(features)
    space.eval()
    assert_allclose(space.features(space(features)).detach(), features, rtol=1e-4)
    unchanged = PredictionSpace(8, False)
    assert unchanged(features) is features
    assert not unchanged.state_dict()


@pytest.mark.parametrize("target", ["features", "standardised"])
def test_without_a_teacher_the_target_learns_and_every_view_is_held_to_a_normal_distribution(target, seq_jepa):
    objective, backbone = seq_jepa(anti_collapse="sigreg", sigreg_weight=0.3, directions=16, target=target)
    views = random_views(4)
    for view in views.views:
        view.pixels.requires_grad_()
    terms = objective.loss(views, backbone)
    assert objective.teacher is None
    assert terms["sigreg"].weight == 0.3
    terms["prediction"].value.backward(retain_graph=True)
    assert all(view.pixels.grad.any() for view in views.views), "the target too"
    features = objective.space(backbone(torch.cat([view.pixels for view in views.views]))).unflatten(0, (4, -1))
    expected = torch.stack([sigreg(one, objective.directions(one)) for one in features]).mean()
    assert terms["sigreg"].value.item() == pytest.approx(expected.item(), rel=1e-5)
    before = objective.directions(features)
    objective.after_step(backbone, 1, 10)
    assert not torch.allclose(objective.directions(features), before)


@pytest.mark.parametrize("target", ["features", "standardised"])
def test_retrieval_predicts_in_the_space_that_the_loss_compares_in(target, seq_jepa):
    objective, backbone = seq_jepa(observed=1, target=target)
    views = random_views(2)
    objective.loss(views, backbone)
    objective.eval()
    start, end = views.views
    predictor = objective.predictor(backbone)
    assert predictor is not None
    found = predictor.predict(predictor.embed(start.pixels), start.transform.relative(end.transform))
    loss = losses.cosine_distance(found, objective.space(objective.teacher(end.pixels)))
    assert loss.item() == pytest.approx(objective.loss(views, backbone)["prediction"].value.item(), abs=1e-5)


def test_saccades_are_asked_for_by_setting():
    saccades = {"views": "saccades", "parameters": ["fixation"], "observed": 4, "patch": 8}
    objective = SeqJEPA(8, {}, **SMALL, **saccades, inhibition="square")
    assert objective.plan == Saccades(4, 8, "spectral_residual", "square")
