"""Who adds up the actions of a sequence knows where it led; who only saw views, or was told nothing, does not."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from numpy.random import RandomState
from torch import Tensor

from ssl_inv.engine.settings import EvaluationSettings
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.protocols.paths import PathIntegration
from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2
from ssl_inv.evaluation.results import Bootstrap, Result
from ssl_inv.evaluation.suite import QUICK, evaluate_with_baselines
from ssl_inv.run.judging import protocols_of
from ssl_inv.transforms import Action, Real, Rotation, Transform

HEAD = TransformR2(hidden=0, epochs=1, pairs_per_object=4, minimum_steps=80, learning_rate=0.05, joint=True)
OBJECTS, VIEWS = 150, 6


def table(seed: int, objects: int = OBJECTS, views: int = VIEWS) -> FeatureTable:
    """Views at random places; their features are the place and what is random of the object."""
    random = RandomState(seed)
    place = torch.from_numpy(random.standard_normal((objects * views, 2))).float()
    of_object = torch.from_numpy(random.standard_normal((objects, 2))).float().repeat_interleave(views, 0)
    transform = Transform({"place": place}, {"place": Real(dimensions=2)})
    order = torch.from_numpy(random.permutation(objects * views))
    numbers = torch.arange(objects).repeat_interleave(views), torch.arange(views).repeat(objects)
    whole = FeatureTable({"all": torch.cat((place, of_object), 1)}, *numbers, numbers[0] % 2, transform=transform)
    return whole.select(order)


def sum_of_actions(features: Tensor, actions: Sequence[Action]) -> Tensor:
    return sum((action["place"] for action in actions), torch.zeros(len(features), 2))


def last_view(features: Tensor, actions: Sequence[Action]) -> Tensor:
    return features[:, -1]


def rows_of(tables: Sequence[FeatureTable], aggregate=None, shuffled: bool = False, **settings) -> list[Result]:
    protocol = PathIntegration(**{"heads": HEAD, "bootstrap": Bootstrap(20), **settings})
    encoded = Encoded(*tables, aggregate=aggregate)
    return list(protocol.shuffled(encoded, 0) if shuffled else protocol.run(encoded))


def scores(aggregate, observed: int = 3, shuffled: bool = False) -> dict[tuple[str, str], float]:
    rows = rows_of((table(0), table(1)), aggregate, shuffled, observed=(observed,), sequences=6)
    return {(row.name, row.part): row.value for row in rows}


def test_the_way_is_known_to_who_adds_up_the_actions_with_and_without_images():
    found = scores(sum_of_actions)
    assert found["path/place", "aggregate of 3 views"] > 0.99
    assert found["path/place", "aggregate of 3 views, no images"] > 0.99
    assert abs(found["path/place", "aggregate of 3 views, no actions"]) < 0.02
    assert found["leak/place", "aggregate of 3 views"] > 0.2, "two actions added up tell of the last"


def test_of_independent_places_the_last_action_is_a_quarter_of_the_way():
    """x_4 - x_1 on x_4 - x_3, all independent and of variance 1: R2 is 1 / (2 * 2). The mean of x_1 .. x_3 makes it
    0.3.
    """
    blind = [replace(table(seed), features={"all": torch.zeros(OBJECTS * VIEWS, 1)}) for seed in (0, 1)]
    found = {(row.name, row.part): row.value for row in rows_of(blind, observed=(3,))}
    assert found.keys() == {("path/place", "mean of 3 views"), ("leak/place", "mean of 3 views")}
    assert found["path/place", "mean of 3 views"] == pytest.approx(0.25, abs=0.05)
    assert scores(None)["path/place", "mean of 3 views"] == pytest.approx(0.3, abs=0.05)


def test_an_aggregate_is_asked_for_the_last_action_that_it_was_told():
    """Of two views the only action told is the sum, which is leaked whole; a view alone tells half of the way to it."""
    assert scores(sum_of_actions, 2)["leak/place", "aggregate of 2 views"] > 0.99
    found = scores(last_view, 2)
    assert found["leak/place", "aggregate of 2 views"] == pytest.approx(0.5, abs=0.05)
    assert abs(found["leak/place", "mean of 2 views"]) < 0.05, "a mean does not know which view was first"


def test_the_way_of_one_observed_view_stands_among_the_inputs_and_nothing_is_leaked():
    found = scores(None, 1)
    assert found.keys() == {("path/place", "mean of 1 views")}
    assert found["path/place", "mean of 1 views"] > 0.95


def test_ways_of_other_sequences_teach_nothing_though_aggregates_are_told_the_right_actions():
    found = scores(sum_of_actions, shuffled=True)
    kinds = ("mean of 3 views", "aggregate of 3 views")
    assert found.keys() == {(name, kind) for name in ("path/place", "leak/place") for kind in kinds}
    assert all(abs(value) < 0.2 for value in found.values()), found


def test_rotations_are_judged_by_their_step_and_what_cannot_be_measured_says_so():
    random = RandomState(3)
    turns = torch.nn.functional.normalize(torch.from_numpy(random.standard_normal((OBJECTS * VIEWS, 4))).float(), dim=1)
    one = table(0).ordered()
    turned = replace(one, transform=Transform({"rotation": turns}, {"rotation": Rotation()}))
    rows = rows_of((turned, turned), observed=(1, 6), sequences=2, heads=replace(HEAD, pairs_per_object=1))
    assert [(row.name, row.detail) for row in rows[1:]] == [("path", "no object has 7 views")]
    assert rows[0].name == "path/rotation"
    assert rows[0].value > 0.99
    silent = replace(one, transform=Transform.empty())
    assert [row.detail for row in rows_of((silent, silent), observed=(1,))] == ["the data record no transform"]
    assert rows_of((silent, silent)) == []


def test_paths_stand_in_the_table_only_where_they_are_asked_for():
    encoded = Encoded(table(0, 40), table(1, 40), aggregate=sum_of_actions)
    quick = {**QUICK, "linear": replace(QUICK["linear"], steps=5), "transforms_r2": replace(HEAD, minimum_steps=5)}
    quick = {name: replace(one, bootstrap=Bootstrap(5)) for name, one in quick.items()}
    paths = PathIntegration((2,), 2, replace(HEAD, minimum_steps=5), bootstrap=Bootstrap(5))
    silent = evaluate_with_baselines(encoded, encoded, quick)
    asked = evaluate_with_baselines(encoded, encoded, {**quick, "paths": paths})
    added = {row.trained.name: row for row in asked if row.trained.part == "aggregate of 2 views"}
    names, known = ({row.trained.name for row in rows} for rows in (asked, silent))
    assert names - known == {"path/place", "leak/place"} == added.keys()
    assert added["path/place"].untrained is not None
    assert added["path/place"].shuffled is not None
    with pytest.raises(ValueError, match="no transform parameter is called 'hue'"):
        evaluate_with_baselines(replace(encoded, told=("hue",)), None, {"paths": paths})


def test_the_recipe_s_setting_reaches_the_protocol():
    assert protocols_of(EvaluationSettings(paths=[1, 3]))["paths"] == replace(QUICK["paths"], observed=(1, 3))
