"""Several views of one object are judged as one: which go together, what they tell, and that the encoder stays as it
was.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from numpy.testing import assert_allclose
from torch import Tensor, nn

from ssl_inv.augment.policies import simclr
from ssl_inv.data.source import Data, Subset, split_objects
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.engine.settings import EvaluationSettings
from ssl_inv.evaluation.aggregation import aggregated
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.evaluation.protocols.linear import LinearProbe
from ssl_inv.evaluation.results import Bootstrap
from ssl_inv.evaluation.suite import evaluate_with_baselines, skipped
from ssl_inv.objectives.seq_jepa import SeqJEPA, action_vectors
from ssl_inv.run.judging import encode_data, protocols_of
from ssl_inv.transforms import Action, Real, Transform

SMALL: dict[str, Any] = {"action_dimensions": 4, "layers": 2, "heads": 2, "predictor": 10, "dropout": 0.0}
PLACE = {"place": Real(dimensions=3)}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(RandomState(seed).standard_normal(shape)).float()


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
    assert table.part("mean of 2 views")[:, 0].tolist() == [0.5, 2.5, 6.5]
    assert table.part("aggregate of 2 views")[:, 0].tolist() == [1, 3, 7]
    assert table.objects.tolist() == [0, 0, 2]
    assert table.views.tolist() == [0, 2, 1]
    assert given[1].tolist() == [1.0, 5.0, 13.0], "the action from each view to the next"
    assert aggregated(table_of(features, objects, views), 6) is None


def classifiers(*views: int) -> dict[str, Any]:
    shared = {"aggregate": views, "bootstrap": Bootstrap(20)}
    return {"linear": LinearProbe(steps=60, batch=64, **shared), "knn": NearestNeighbours(**shared)}


@pytest.mark.parametrize(("name", "words", "beyond"), [("aggregate", "to evaluation", 9), ("paths", "to below", 8)])
def test_numbers_of_views_that_cannot_be_are_refused(name, words, beyond):
    for counts in ([0], [beyond], [2, 2]):
        with pytest.raises(ValueError, match=f"{name}: must be different numbers from 1 {words}"):
            EvaluationSettings(views=8, **{name: counts})


def test_several_views_tell_more_than_one_and_shuffled_labels_nothing():
    objects = torch.arange(200).repeat_interleave(4)
    signal = (objects % 2 * 2 - 1.0)[:, None] * torch.eye(6)[0]
    tables = [table_of(signal + 2 * normal(seed, 800, 6), objects, torch.arange(4).repeat(200)) for seed in (0, 1)]
    rows = evaluate_with_baselines(Encoded(*tables), None, classifiers(4, 5))
    found = {(row.trained.name, row.trained.part): row for row in rows}
    several, one = found["linear/top1", "mean of 4 views"], found["linear/top1", "all"]
    assert several.trained.value > one.trained.value + 0.05
    assert abs(several.shuffled.value - 0.5) < 0.15
    assert found["knn/top1", "mean of 5 views"].trained.detail == "no object has 5 views"


def network(*norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), *norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def encoded_by(backbone: nn.Module, objective: Any, data: Data, settings: EvaluationSettings) -> Encoded:
    return encode_data(data, backbone, objective, lambda pixels: pixels, settings, torch.device("cpu"), 0)


@pytest.fixture
def few() -> Data:
    source = RenderedSolids(classes=4, objects=8, views=2, size=16)
    return Data(Subset(source, np.arange(4)), Subset(source, np.arange(4, 8)))


@pytest.mark.parametrize("observed", [1, 3])
def test_an_encoder_is_judged_on_as_many_views_as_are_asked_for_and_stays_as_it_was(observed):
    source = RenderedSolids(classes=4, objects=24, views=5, size=16)
    train, validation = split_objects(24, 0.4, 0)
    torch.manual_seed(0)
    backbone = network(nn.BatchNorm2d(8), nn.ReLU())
    objective = SeqJEPA(8, source.groups, **{**SMALL, "dropout": 0.5}, observed=observed)
    networks = nn.ModuleList([backbone, objective]).train()
    before = {name: value.clone() for name, value in networks.state_dict().items()}
    settings = EvaluationSettings(views=5, aggregate=[1, 2, 5])
    data = Data(Subset(source, train), Subset(source, validation))
    encoded = encoded_by(backbone, objective, data, settings)
    rows = evaluate_with_baselines(encoded, None, classifiers(*protocols_of(settings)["linear"].aggregate))
    parts = {row.trained.part for row in rows if row.trained.name == "linear/top1"}
    assert parts == {"all", *(f"{kind} of {count} views" for count in (1, 2, 5) for kind in ("mean", "aggregate"))}
    assert all(torch.equal(value, before[name]) for name, value in networks.state_dict().items())
    assert all(module.training for module in networks.modules())
    five = aggregated(encoded.validation, 5, encoded.aggregate)
    ordered = encoded.validation.ordered()
    transforms = [ordered.transform.select(torch.arange(n, 50, 5)) for n in range(5)]
    vectors = action_vectors(transforms, ["rotation"], "canonical")
    objective.eval()
    expected = objective.aggregator(ordered.part("all").view(-1, 5, 8), objective.action_encoder.embed(vectors))
    assert_allclose(five.part("aggregate of 5 views"), expected.detach(), atol=1e-5)


def test_what_evaluation_cannot_tell_is_not_judged(few):
    """Images without a record of how they were cropped have no action between them."""
    objective = SeqJEPA(8, simclr().groups, **SMALL, parameters=["crop"])
    encoded = encoded_by(network(), objective, few, EvaluationSettings(views=2))
    assert (encoded.predictor, encoded.aggregate) == (None, None)
    assert skipped(encoded) == {"retrieval": "the encoder has no predictor of views"}


def test_a_protocol_can_have_the_images_and_the_encoder(few):
    backbone = network(nn.BatchNorm2d(8)).train()
    encoded = encoded_by(backbone, None, few, EvaluationSettings(views=2))
    for split in ("train", "validation"):
        again = torch.cat([encoded.encode(batch.pixels)["all"] for batch in encoded.images(split)])
        assert_allclose(again, getattr(encoded, split).part("all"), rtol=1e-6)
    assert not again.requires_grad
    assert backbone[1].training
