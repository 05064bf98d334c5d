"""Claims about the evaluation suite: fair, independent of row order, and never silently wrong."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol, ViewPredictor, shuffle_targets
from ssl_inv.evaluation.protocols.classification import Classifier
from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.evaluation.protocols.linear import LinearProbe
from ssl_inv.evaluation.protocols.retrieval import Retrieval, RetrievalSet, retrieval_errors, view_ranks
from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2, r2_mean, r2_pooled
from ssl_inv.evaluation.results import Bootstrap, Comparison, Result, format_table, to_json
from ssl_inv.evaluation.suite import QUICK, evaluate, evaluate_with_baselines
from ssl_inv.transforms import Box, Circle, Code, Flag, Group, Real, Rotation, Transform
from ssl_inv.transforms.quaternions import quaternion_from_euler

LINEAR = LinearProbe(steps=60, batch=64)
HEADS = TransformR2(hidden=32, epochs=30, pairs_per_object=2, minimum_steps=100, joint=True, learning_rate=1e-2)
FAST: dict[str, Protocol] = {
    name: replace(one, bootstrap=Bootstrap(50))
    for name, one in {**QUICK, "linear": LINEAR, "transforms_r2": HEADS}.items()
}
BRIEF = {**FAST, "transforms_r2": replace(HEADS, epochs=1, minimum_steps=100)}


def random_rotations(count: int, seed: int) -> Tensor:
    angles = torch.from_numpy(np.random.default_rng(seed).uniform(-np.pi / 2, np.pi / 2, (count, 3)))
    return quaternion_from_euler(angles)


def make_table(objects: int = 60, views: int = 4, seed: int = 0, classes: int = 3, noise: float = 0.05) -> FeatureTable:
    """Features that hold the class, the object and the transform, mixed linearly."""
    shared, random = np.random.default_rng(0), np.random.default_rng(seed)
    ids = np.repeat(np.arange(objects), views)
    labels = random.integers(0, classes, objects)[ids]
    rotation = random_rotations(len(ids), seed).numpy()
    real = random.uniform(-1, 1, len(ids))
    known = np.concatenate((np.eye(4)[labels], rotation, real[:, None], random.normal(size=(objects, 4))[ids]), axis=1)
    features = known @ shared.normal(size=(13, 16)) + noise * random.normal(size=(len(ids), 16))
    values = {"rotation": torch.from_numpy(rotation).float(), "light": torch.from_numpy(real).float()}
    return FeatureTable(
        {"all": torch.from_numpy(features).float()},
        torch.from_numpy(ids),
        torch.arange(views).repeat(objects),
        torch.from_numpy(labels),
        transform=Transform(values, {"rotation": Rotation(), "light": Real()}),
    )


def hold(embeddings: Tensor, action: object) -> Tensor:
    """A predictor that predicts no change."""
    return embeddings


def value(results: list[Result], name: str) -> float:
    return next(result.value for result in results if result.name == name)


# Honest scores.


def test_a_code_has_no_difference_and_says_so() -> None:
    """The order of a jitter is a name: nothing can be regressed from it."""
    generator = torch.Generator().manual_seed(0)
    made = Transform({"order": torch.randint(24, (40,), generator=generator)}, {"order": Code()})
    rows = torch.arange(40)
    table = FeatureTable({"all": torch.randn(40, 4, generator=generator)}, rows // 2, rows % 2, transform=made)
    found = {(one.name.split("/")[1], one.detail) for one in HEADS.run(Encoded(table, table))}
    assert ("relative", "a code has no difference between two views") in found
    assert found <= {
        ("relative", "a code has no difference between two views"),
        ("absolute", "a code has no numbers to predict"),
    }


def test_a_constant_predictor_scores_zero_but_a_quarter_when_pooled() -> None:
    a, b = random_rotations(20_000, 1), random_rotations(20_000, 2)
    before, after = (Transform({"rotation": one}, {"rotation": Rotation()}) for one in (a, b))
    targets = before.relative(after).as_vector(convention="sie")
    constant = targets.mean(dim=0).expand_as(targets)
    assert r2_mean(targets, constant) == pytest.approx(0, abs=1e-9)
    assert r2_pooled(targets, constant) == pytest.approx(0.229, abs=0.01)


def test_dimensions_that_never_vary_judge_nobody() -> None:
    targets = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    assert r2_mean(targets, targets + torch.tensor([0.5, 0.0])) == 1


def test_one_point_for_all_views_and_predictions_that_are_no_numbers_are_not_rewarded_by_retrieval() -> None:
    collapsed, candidates = torch.ones(2, 10, 4), torch.randn(2, 10, 4, generator=torch.Generator().manual_seed(0))
    assert (view_ranks(collapsed, collapsed) == 10).all()
    assert (view_ranks(torch.full((2, 10, 4), torch.nan), candidates) == 10).all()


def test_an_object_that_lacks_a_view_is_left_out_of_retrieval() -> None:
    table = make_table(5, 4)
    views = RetrievalSet.of(table.select(torch.tensor([row for row in range(20) if row != 6])), "all")
    torch.testing.assert_close(views.embeddings, table.part("all").view(5, 4, -1)[[0, 2, 3, 4]])


def test_data_of_two_rotations_have_no_retrieval_error_and_all_the_rest() -> None:
    table = make_table(6, 4)
    values = {**table.transform.values, "camera": random_rotations(24, 9)}
    table = replace(table, transform=Transform(values, {**table.transform.groups, "camera": Rotation()}))
    encoded = Encoded(table, table, ViewPredictor("all", hold))
    found = {row.name: row for row in Retrieval().run(encoded)}
    assert found["retrieval/val-val/mrr"].value is not None
    assert found["retrieval/val-val/pre"].value is None


def test_retrieval_error_by_chance_is_that_of_unrelated_rotations() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, candidates = (torch.randn(2000, 8, generator=generator) for _ in range(2))
    errors = retrieval_errors(predicted, random_rotations(2000, 3), candidates, random_rotations(2000, 4))
    assert float(errors.mean()) == pytest.approx(0.627, abs=0.02)


def test_baselines_tell_knowledge_from_chance() -> None:
    train, validation = make_table(150, seed=1), make_table(50, seed=2)

    def blind(table: FeatureTable, seed: int) -> FeatureTable:
        noise = torch.randn(len(table), 16, generator=torch.Generator().manual_seed(seed))
        return replace(table, features={"all": noise})

    trained = Encoded(train, validation, ViewPredictor("all", hold))
    untrained = Encoded(blind(train, 1), blind(validation, 2))
    protocols = {**FAST, "transforms_r2": replace(HEADS, minimum_steps=200, bootstrap=Bootstrap(50))}
    rows = evaluate_with_baselines(trained, untrained, protocols, references={("r2/relative/rotation", "all"): 0.78})
    by_name = {row.trained.name: row for row in rows}
    chance = {"linear/top1": 1 / 3 + 0.15, "knn/top1": 1 / 3 + 0.15}
    for name, most in {**chance, "r2/relative/rotation": 0.05, "r2/absolute/light": 0.05}.items():
        row = by_name[name]
        assert row.trained.value > 0.7
        assert row.untrained.value < most
        assert row.shuffled.value < most
        assert row.trained.spread < 0.1
    assert by_name["r2/relative/rotation"].reference == 0.78
    assert by_name["retrieval/val-val/mrr"].shuffled is not None
    assert by_name["spectrum/rankme"].shuffled is None


def test_shuffled_targets_change_even_where_all_objects_are_seen_from_the_same_angles() -> None:
    table = make_table(20)
    same = table.transform.select(torch.arange(4).repeat(20))
    shuffled = shuffle_targets(replace(table, transform=same))
    assert (shuffled.transform["light"] != same["light"]).float().mean() > 0.5
    assert (shuffled.labels.view(20, 4) == shuffled.labels.view(20, 4)[:, :1]).all()
    assert torch.equal(shuffled.labels.bincount(), table.labels.bincount())


def test_spread_is_the_standard_error_over_objects() -> None:
    random = np.random.default_rng(0)
    per_object = torch.from_numpy(random.normal(size=400))
    values, objects = per_object.repeat_interleave(5), torch.arange(400).repeat_interleave(5)
    error = Bootstrap(1000).mean_error(values, objects)
    assert error == pytest.approx(float(per_object.std()) / 20, rel=0.1)
    assert Bootstrap().mean_error(values[:5], objects[:5]) is None


# Probes.


def test_the_learning_rate_is_chosen_without_a_look_at_validation() -> None:
    train, validation = make_table(seed=1), make_table(seed=2)
    other = replace(validation, labels=validation.labels.flip(0))
    right, wrong = (LINEAR.measure(train, table, "all")[0] for table in (validation, other))
    assert right.detail == wrong.detail
    assert right.value > 0.95
    assert wrong.value < 0.7


def test_views_of_one_object_are_held_out_together() -> None:
    objects = torch.arange(30).repeat_interleave(7)[torch.randperm(210, generator=torch.Generator().manual_seed(0))]
    apart = LinearProbe().held_out_rows(objects)
    assert not set(objects[apart].tolist()) & set(objects[~apart].tolist())
    assert len(set(objects[apart].tolist())) == 6


def test_heads_trained_together_equal_heads_trained_alone() -> None:
    table = make_table()
    labels = table.known_labels()
    together = LINEAR.fit(table.part("all"), labels, 3, (0.01, 0.1))
    for head, rate in zip(together, (0.01, 0.1), strict=True):
        torch.testing.assert_close(LINEAR.fit(table.part("all"), labels, 3, (rate,))[0], head)


@pytest.mark.parametrize("probe", [LINEAR, NearestNeighbours()])
def test_probes_skip_unlabelled_rows_and_name_missing_classes(probe: Classifier) -> None:
    train, validation = make_table(seed=1, classes=3), make_table(seed=2, classes=4)
    train = replace(train, class_names=("a", "b", "c", "d"))
    # A meaningless label, even one out of range, must not reach the classifier.
    unlabelled = train.objects < 20
    marked = replace(train, labels=train.labels.masked_fill(unlabelled, -1), labelled=~unlabelled)
    labelled = train.select((~unlabelled).nonzero()[:, 0])
    first, expected = (probe.measure(table, validation, "all")[0] for table in (marked, labelled))
    assert first == expected
    assert "classes without training rows: 3" in first.detail


def test_a_class_that_no_neighbour_has_is_not_among_the_first_five() -> None:
    train, validation = make_table(30, 2, 1), make_table(30, 2, 2)
    train = replace(train, labels=torch.full_like(train.labels, 9))
    validation = replace(validation, labels=torch.arange(60) % 10)
    found = NearestNeighbours(k=20).measure(train, validation, "all")
    assert {row.name: row.value for row in found} == pytest.approx({"knn/top1": 0.1, "knn/top5": 0.1})


def test_more_neighbours_than_rows_are_cut_and_said() -> None:
    result = NearestNeighbours(k=200).measure(make_table(3, 2, 1), make_table(5, 2, 2), "all")[0]
    assert result.detail.startswith("k = 6, cut from 200")


def test_one_class_only_is_refused_by_the_probe_and_said_by_the_suite() -> None:
    train, validation = make_table(classes=1), make_table(classes=1)
    with pytest.raises(ValueError, match="labels have one class only"):
        LINEAR.measure(train, validation, "all")
    results = evaluate(Encoded(train, validation), {name: BRIEF[name] for name in ("linear", "knn")})
    assert [row.name for row in results] == ["linear/top1", "knn/top1"]
    assert {(row.value, row.detail) for row in results} == {(None, "labels have one class only")}


def test_no_labels_no_latents_and_single_views_are_said() -> None:
    train, validation = (replace(make_table(30, 1, seed), labels=None, transform=Transform.empty()) for seed in (1, 2))
    results = evaluate(Encoded(train, validation, ViewPredictor("all", hold)), BRIEF)
    missing = {result.name: result.detail for result in results if result.value is None}
    assert missing["linear/top1"] == "the data have no labels"
    assert missing["r2"] == "the data record no transform"
    assert "transform" in missing["retrieval"]
    assert "100 dimensions" in missing["spectrum/alpha"]
    single = HEADS.measure(make_table(30, 1, 1), make_table(30, 1, 2), "all")
    assert next(result for result in single if result.name == "r2/relative").detail == "no object has two views"
    assert value(single, "r2/absolute/light") > 0.5


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("hidden", [0, 32])
def test_a_linear_head_reads_a_linear_code(joint: bool, hidden: int) -> None:
    heads = replace(HEADS, hidden=hidden, joint=joint, parameters=("light",))
    results = heads.measure(make_table(80, seed=1), make_table(30, seed=2), "all")
    measures = {f"{form}/{kind}/light" for form in ("r2", "r2_pooled") for kind in ("relative", "absolute")}
    assert {result.name for result in results} == measures
    assert value(results, "r2/relative/light") > 0.9


def test_r2_pooled_is_measured_on_the_action_as_the_papers_write_it() -> None:
    hue = torch.rand(240, generator=torch.Generator().manual_seed(0))
    features, transform = {"all": hue[:, None].clone()}, Transform({"hue": hue}, {"hue": Circle()})
    table = replace(make_table(), features=features, transform=transform)
    results = replace(HEADS, hidden=0).measure(table, table, "all")
    assert value(results, "r2_pooled/relative/hue") > 0.95
    assert value(results, "r2/relative/hue") < 0.5


# Tables.


def test_a_view_that_stands_twice_is_refused() -> None:
    table = make_table(5)
    with pytest.raises(ValueError, match="view 2 of object 1 stands in the features twice"):
        table.select(torch.tensor([*range(20), 6])).ordered()


def test_tables_keep_everything_on_disk(tmp_path: Path) -> None:
    table = make_table(5)
    values = {"hue": torch.rand(20), "crop": torch.rand(20, 4), "flip": torch.ones(20), "gamma": torch.rand(20, 2)}
    groups: dict[str, Group] = {"hue": Circle(2.5), "crop": Box(), "flip": Flag(), "gamma": Real(3.0, 1.0, 2)}
    table = replace(table, transform=table.transform.merge(Transform(values, groups)), class_names=("ä", "b", "c"))
    table.save(tmp_path / "new" / "table.safetensors")
    loaded = FeatureTable.load(tmp_path / "new" / "table.safetensors")
    assert loaded.transform.groups == table.transform.groups
    assert loaded.class_names == table.class_names
    assert loaded.labelled is None
    assert torch.equal(loaded.transform.as_vector(), table.transform.as_vector())
    assert torch.equal(loaded.part("all"), table.part("all"))
    with pytest.raises(FileNotFoundError, match="no feature table at"):
        FeatureTable.load(tmp_path / "other")


def test_tables_are_readable_by_people_and_programs() -> None:
    compared = Comparison(Result("r2/relative/hue", "all", 0.5, 0.01), Result("r2/relative/hue", "all", 0.25))
    rows = [compared, Result("r2", "a", None, detail="why")]
    lines = format_table(rows).splitlines()
    assert lines[0].split() == ["measure", "part", "trained", "untrained"]
    assert "0.500 ± 0.010" in lines[1]
    assert lines[1].index("0.250") == lines[0].index("untrained")
    assert lines[2].endswith("why")
    assert json.loads(to_json(rows))[0]["trained"]["spread"] == 0.01
    assert json.loads(to_json([Result("x", "all", float("nan"))]))[0]["value"] is None


def test_features_are_compared_by_direction() -> None:
    train, validation = make_table(seed=1), make_table(seed=2)
    scaled = replace(train, features={"all": normalize(train.part("all"), dim=1)})
    vote = NearestNeighbours()
    assert vote.measure(train, validation, "all") == vote.measure(scaled, validation, "all")


def test_a_rough_sweep_chooses_as_a_fine_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in bfloat16 move the accuracy of no head by more than its noise."""
    precision = "ssl_inv.evaluation.protocols.linear.rough_precisions"
    monkeypatch.setattr(precision, lambda device: (torch.bfloat16,))
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1200) % 6
    features = torch.randn(1200, 32, generator=generator) + 1.2 * torch.eye(6, 32)[labels]
    probe = LinearProbe(steps=200, batch=128)
    fine, rough = (probe.fit(features[:900], labels[:900], 6, (0.01, 0.1, 1.0), one) for one in (False, True))
    assert not torch.equal(fine, rough)
    queries = torch.cat((features[900:], torch.ones(300, 1)), dim=1)
    scores = [((queries @ heads).argmax(dim=2) == labels[900:]).float().mean(dim=1) for heads in (fine, rough)]
    torch.testing.assert_close(*scores, atol=0.01, rtol=0)
