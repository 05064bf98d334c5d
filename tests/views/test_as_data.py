"""Objects can be evaluated on views as in training: the same whenever they are loaded, with their record."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ssl_inv.augment.policies import byol, none, simclr
from ssl_inv.augment.policy import Augmentation
from ssl_inv.data.source import Data, Source, Subset
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.engine.features import feature_table
from ssl_inv.engine.settings import EvaluationSettings
from ssl_inv.evaluation import Bootstrap, LinearProbe, PathIntegration, TransformR2, evaluate_with_baselines
from ssl_inv.objectives.seq_jepa import SeqJEPA
from ssl_inv.run.encoders import LoadedModel, Model
from ssl_inv.run.judging import encode_data, judged_data
from ssl_inv.run.recipe import RecipeError
from ssl_inv.views import Pair, Plan, Saccades, ViewSequence
from ssl_inv.views.as_data import TrainingViews

SMALL: dict[str, Any] = {"action_dimensions": 4, "layers": 2, "heads": 2, "predictor": 10, "dropout": 0.0}


def images(count: int = 8, views: int = 1) -> Source:
    return RenderedSolids(classes=4, objects=count, views=views, size=32)


def made(plan: Plan, augmentation: Augmentation, source: Source | None = None, views: int = 4) -> TrainingViews:
    return TrainingViews(source or images(), plan, augmentation, views, seed=0)


def rows(*pairs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.array(pairs).T)


@pytest.mark.parametrize("plan", [ViewSequence(2), Saccades(2, patch=8), Pair()], ids=lambda plan: type(plan).__name__)
def test_a_view_is_the_same_whatever_it_is_asked_for_with(plan):
    source = made(plan, byol(min_scale=0.2))
    whole = source.load(*rows((5, 3), (2, 0), (5, 1)))
    alone = source.load(*rows((5, 1)))
    assert torch.equal(alone.pixels[0], whole.pixels[2])
    assert torch.equal(alone.transform.as_vector()[0], whole.transform.as_vector()[2])
    assert not torch.equal(whole.pixels[0], whole.pixels[2]), "views of one object differ"
    assert whole.pixels.shape[-1] == source.image_size == (8 if isinstance(plan, Saccades) else 32)
    assert set(source.groups) == set(whole.transform.names)
    assert source.view_counts.tolist() == [4] * 8


def test_observed_views_are_those_of_the_first_policy():
    """BYOL's second policy solarises, and seq-JEPA's target alone is made by it."""
    source = made(ViewSequence(2), byol(min_scale=0.2), images(32), 8)
    everything = np.divmod(np.arange(32 * 8), 8)
    record = source.load(*everything).transform
    assert (record["solarise"] > 1).all(), "a threshold that no value reaches"
    assert (record["blur"] > 0).all()


def test_patches_are_cut_about_their_fixations():
    source = made(Saccades(3, patch=8, radius=4), none())
    patches, whole = source.load(np.zeros(4, np.int64), np.arange(4)), images().load(*rows((0, 0))).pixels[0]
    places = (patches.transform["fixation"] * 32).round().long()
    padded = torch.nn.functional.pad(whole, (4, 4, 4, 4))
    for patch, (row, column) in zip(patches.pixels, places.tolist(), strict=True):
        assert torch.equal(patch, padded[:, row : row + 8, column : column + 8])
    steps = (places[1:] - places[:-1]).float().norm(dim=1)
    assert (steps > 4).all(), "a saccade does not stay where it is"


def test_views_of_objects_that_have_some_are_augmented_each():
    source = made(ViewSequence(2), simclr(), images(4, 4), 4)
    record, own = (one.load(*rows((1, 0), (1, 3))).transform for one in (source, images(4, 4)))
    assert torch.equal(record["rotation"], own["rotation"])
    assert not torch.equal(record["crop"][0], record["crop"][1])


def test_there_are_no_more_views_than_an_object_has_of_its_own():
    source = made(Pair(), simclr(), images(4, 3), 8)
    assert source.view_counts.tolist() == [3] * 4
    own, given = (one.load(*rows((1, 0), (1, 1), (1, 2))).transform["rotation"] for one in (source, images(4, 3)))
    assert torch.equal(own, given)


def test_kept_features_are_not_those_of_another_augmentation():
    stamps = [made(Pair(), simclr(strength=strength)).stamp for strength in (1.0, 1.0, 0.1)]
    assert stamps[0] == stamps[1] != stamps[2]


@pytest.mark.parametrize("extra", [[], [{"name": "rotation", "degrees": 180}]], ids=["upright", "turned"])
def test_views_that_are_turned_in_their_plane_are_judged_on_a_disk(extra):
    source = made(Pair(), simclr(extra=extra))
    assert source.turned == Subset(source, np.arange(2)).turned == bool(extra)
    encode, normalise = lambda one: {"all": one.mean(1).flatten(1)}, lambda one: one + 1
    table = feature_table(encode, nn.Identity(), source, np.arange(8), 4, normalise, "cpu")
    border = table.part("all").view(-1, 32, 32)[:, [0, 31, 15, 4], [15, 15, 0, 4]]
    assert (border == 0).all() if extra else (border > 0).all()


def test_where_nothing_makes_views_there_are_none():
    with pytest.raises(ValueError, match="choose an augmentation that makes them"):
        made(ViewSequence(2), none())


def test_aggregates_of_augmented_views_are_judged_and_their_parameters_regressed():
    objective = SeqJEPA(8, {**images().groups, **simclr().groups}, **SMALL, parameters=["crop"], observed=2)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    objective.adopt(backbone)
    whole = images(24)
    given = Data(Subset(whole, np.arange(16)), Subset(whole, np.arange(16, 24)))
    settings = EvaluationSettings(views=3, views_of="training")
    data = judged_data(given, settings, objective.plan, simclr(), 0)
    encoded = encode_data(data, backbone, objective, lambda pixels: pixels, settings, torch.device("cpu"), 0)
    assert encoded.told == ("crop",)
    shared = {"bootstrap": Bootstrap(5)}
    heads = TransformR2(hidden=0, epochs=1, joint=True, parameters=("crop",), kinds=("relative",), **shared)
    asked = {
        "linear": LinearProbe(steps=5, aggregate=(3,), **shared),
        "transforms_r2": heads,
        "paths": PathIntegration((2,), 2, heads, **shared),
    }
    measured = {(row.trained.name, row.trained.part) for row in evaluate_with_baselines(encoded, None, asked)}
    aggregates = {("linear/top1", "aggregate of 3 views"), ("path/crop", "aggregate of 2 views")}
    assert {("r2/relative/crop", "all"), *aggregates} <= measured
    assert judged_data(given, EvaluationSettings(), objective.plan, simclr(), 0) is given


def test_a_model_that_comes_from_no_run_has_no_views_of_training():
    model = Model(nn.Identity(), None, {}, "", nn.Identity)
    loaded = LoadedModel(model, None, Data(images(), images()))
    with pytest.raises(RecipeError, match="views_of: 'training' goes with a run"):
        loaded.judged_data(EvaluationSettings(views_of="training"), None, torch.device("cpu"))
