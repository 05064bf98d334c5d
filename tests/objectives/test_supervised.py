"""The supervised objective learns classes and actions by consent, and no other objective sees a class."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small import build
from small_data import solids
from torch.nn.functional import cross_entropy

from ssl_inv.catalogue import RecipeError, SettingError
from ssl_inv.data.batches import StepBatches
from ssl_inv.data.source import Data, Labels, Subset
from ssl_inv.nn import losses
from ssl_inv.objectives.around import views_for
from ssl_inv.run.channels import for_classes
from ssl_inv.run.recipe import resolve
from ssl_inv.testing import GROUPS, random_transform
from ssl_inv.views import View, Views


def _recipe(**objective: Any) -> Any:
    sections = {"data": {"name": "rendered"}, "trainer": {"steps": 2}}
    return resolve({**sections, "objective": {"name": "supervised", **objective}})


def test_the_class_of_every_object_of_a_batch_is_told_and_unknown_ones_count_for_nothing() -> None:
    _, objective = build("supervised", classes=3, parameters=[])
    torch.nn.init.eye_(objective.classifier.weight)
    torch.nn.init.zeros_(objective.classifier.bias)
    features = torch.zeros(2, objective.classifier.in_features)
    features[0, 1] = features[1, 0] = 20.0

    def loss(*classes: int) -> float:
        views = Views((View(features, None),) * 2, torch.arange(2), labels=torch.tensor(classes))
        return float(objective.loss(views, lambda pixels: pixels)["classification"].value.detach())

    assert loss(1, 0) < 1e-3
    assert loss(0, 1) == pytest.approx(20, abs=1e-3)
    assert loss(1, -1) < 1e-3
    assert loss(0, -1) == pytest.approx(20, abs=1e-3)
    assert loss(-1, -1) == 0


def test_known_classes_have_the_cross_entropy_of_all() -> None:
    logits, classes = torch.randn(8, 5), torch.arange(8) % 5
    assert torch.equal(losses.known_classification(logits, classes), losses.classification(logits, classes))
    some = torch.where(torch.arange(8) < 3, -1, classes)
    assert torch.allclose(losses.known_classification(logits, some), cross_entropy(logits[3:], classes[3:]))


def test_a_quaternion_and_its_negative_are_one_rotation() -> None:
    action = random_transform(GROUPS, 6).relative(random_transform(GROUPS, 6)).as_vector(["rotation"])
    assert losses.action_error(-action, action, quaternion=True) == 0
    assert losses.action_error(-action, action) > 0.1
    shifted = torch.cat((action, torch.ones(6, 1)), dim=1)
    assert float(losses.action_error(torch.cat((-action, torch.zeros(6, 1)), 1), shifted, True)) == pytest.approx(0.2)


def test_batches_carry_classes_only_where_they_are_asked_for() -> None:
    source = Subset(solids(), np.array([5, 3, 6, 9]))
    assert StepBatches(source, 4, 2, seed=0)[0].labels is None
    batch = StepBatches(source, 4, 2, seed=0, labelled=True)[0]
    assert torch.equal(batch.labels, source.labels.classes[batch.index])
    halves = [StepBatches(source, 4, 2, seed=0, rank=rank, processes=2, labelled=True)[0].labels for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), batch.labels)


def test_only_the_part_of_a_split_that_needs_classes_is_given_them() -> None:
    told = {"name": "supervised", "labels": True, "classes": 3}
    _, split = build("split", invariant=told)
    assert split.needs_labels
    views = Views((), torch.arange(2), labels=torch.zeros(2))
    assert views_for(split.invariant, views).labels is not None
    assert views_for(split.equivariant, views).labels is None
    assert not build("split")[1].needs_labels
    assert not build("supervised", labels=False, classification=0.0)[1].needs_labels


def test_without_consent_labels_or_anything_to_learn_it_is_refused() -> None:
    with pytest.raises(SettingError, match="say `labels: true`, or `classification: 0`"):
        build("supervised", labels=False)
    with pytest.raises(SettingError, match="nothing is left to learn"):
        build("supervised", classification=0.0, parameters=[])


def test_the_recipe_takes_the_number_of_classes_of_the_data() -> None:
    source = solids()
    assert for_classes(_recipe(labels=True), source).objective.settings["classes"] == 4
    inside = {"name": "supervised", "labels": True}
    split = _recipe(name="split", invariant={"name": "simclr"}, equivariant=inside)
    assert for_classes(split, source).objective.settings["equivariant"]["classes"] == 4
    for untouched in (_recipe(), _recipe(labels=True, classification=0.0), _recipe(name="simclr")):
        assert for_classes(untouched, source) is untouched
    with pytest.raises(RecipeError, match=r"objective.classes: is 3, and the training data have 4 classes"):
        for_classes(_recipe(labels=True, classes=3), source)
    unknown = Labels(torch.zeros(12, dtype=torch.int64), torch.zeros(12, dtype=torch.bool), ("a",))
    for labels in (None, unknown):
        unlabelled: Any = SimpleNamespace(labels=labels)
        with pytest.raises(RecipeError, match=r"objective.labels: true, but the training data have no classes"):
            for_classes(_recipe(labels=True), unlabelled)


def test_classes_of_a_data_set_are_those_of_both_of_its_parts() -> None:
    source = solids()
    data = Data(Subset(source, np.array([0, 4])), Subset(source, np.array([1])))
    assert for_classes(_recipe(labels=True), data.train).objective.settings["classes"] == 4
