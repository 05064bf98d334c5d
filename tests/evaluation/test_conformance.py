"""Every protocol in the table gives finite numbers or reasons, has baselines, and does not see the order of rows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from ssl_inv.evaluation.features import EvaluationBatch, FeatureTable
from ssl_inv.evaluation.protocols.base import NEEDS, Encoded, Protocol, ViewPredictor
from ssl_inv.evaluation.protocols.linear import LinearProbe
from ssl_inv.evaluation.protocols.logistic import LogisticRegression
from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2
from ssl_inv.evaluation.results import Bootstrap, Result
from ssl_inv.evaluation.suite import FULL, KINDS, QUICK, evaluate, evaluate_with_baselines, skipped
from ssl_inv.transforms import Rotation, Transform
from ssl_inv.transforms.annotations import Boxes, Surface
from ssl_inv.transforms.quaternions import quaternion_to_matrix

HEADS = {"hidden": 8, "epochs": 1}
SMALL = {
    "linear": {"steps": 20, "aggregate": (2,)},
    "knn": {"aggregate": (2,)},
    "transforms_r2": HEADS,
    "geodesic": {"heads": TransformR2(**HEADS)},
    "leakage": {"heads": TransformR2(**HEADS)},
    "frames": {"heads": TransformR2(**HEADS)},
    "paths": {"observed": (2,), "heads": TransformR2(**HEADS, joint=True)},
    "logistic": {"strengths": (0.1, 1.0), "aggregate": (2,)},
    "few_labels": {"linear": LinearProbe(steps=20), "logistic": LogisticRegression(strengths=(0.1, 1.0)), "draws": 2},
    "few_shot": {"episodes": 20},
    "worst_view": {"logistic": LogisticRegression(strengths=(0.1, 1.0))},
    "clid": {"iterations": 5},
    "intrinsic_dimension": {"least_views": 4},
    "stitching": {"draws": 2},
    "compatibility": {"steps": 5},
    "token_heads": {"steps": 3, "width": 28, "learning_rates": (1e-3, 1e-2), "weight_decays": (1e-3,)},
    "fine_tuning": {"steps": 3, "batch": 8},
    "detection": {"steps": 1, "batch": 4, "width": 4, "hidden": 8},
    "correspondence_3d": {"angles": (0, 90, 180)},
    "dense": {"linear": LogisticRegression(strengths=(0.1, 1.0))},
}
PROTOCOLS = {name: replace(kind(), bootstrap=Bootstrap(5), **SMALL.get(name, {})) for name, kind in KINDS.items()}


def table(seed: int, objects: int = 12, views: int = 4) -> FeatureTable:
    generator = torch.Generator().manual_seed(seed)
    rows = objects * views
    turns = torch.nn.functional.normalize(torch.randn(rows, 4, generator=generator), dim=1)
    features = torch.cat((torch.randn(rows, 6, generator=generator), turns), 1)
    ids = torch.arange(objects).repeat_interleave(views)
    transform = Transform({"rotation": turns}, {"rotation": Rotation()})
    parts = {"all": features, "equivariant": features[:, 6:]}
    return FeatureTable(parts, ids, torch.arange(views).repeat(objects), ids % 3, transform=transform)


def replaced(given: FeatureTable) -> FeatureTable:
    """The same views by another encoder."""
    return replace(given, features={part: value.flip(1).tanh() for part, value in given.features.items()})


def images(tables: dict[str, FeatureTable], split: str) -> Iterator[EvaluationBatch]:
    one = tables[split]
    pixels = torch.rand(len(one), 3, 16, 16, generator=torch.Generator().manual_seed(len(split)))
    for rows in torch.arange(len(one)).split(7):
        yield EvaluationBatch(pixels[rows], one.objects[rows], one.views[rows])


def encode(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    cells = maps(pixels).flatten(1)[:, ::2]
    return {"all": cells[:, :10], "equivariant": cells[:, 6:10]}


def maps(pixels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(pixels.square(), 4)


def masks(split: str, objects: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    """A bar that stands elsewhere in each view."""
    place = torch.arange(16) - 2 * (objects + views)[:, None]
    return (place % 16 < 6).long()[:, None].expand(-1, 16, -1)


def videos() -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    pixels = torch.rand(2, 5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for number, frames in enumerate(pixels):
        yield number, frames, masks("", torch.arange(5), torch.zeros(5, dtype=torch.int64))


def boxes(split: str, objects: torch.Tensor) -> Iterator[Boxes]:
    generator = torch.Generator().manual_seed(2)
    for number in objects.tolist():
        found = torch.tensor([[1.0, 2, 9, 12], [number % 8, 4, 16, 10]])
        pixels = torch.rand(3, 16, 16, generator=generator)
        yield Boxes(pixels, found, torch.tensor([0, number % 2]), torch.tensor([False, True]))


def surface(split: str, objects: torch.Tensor, views: torch.Tensor, side: int) -> Surface:
    """A wall that is seen from the front, and turned in its plane."""
    turns = quaternion_to_matrix(turned(objects, views))
    place = (torch.arange(side).double() + 0.5) * 2 / side - 1
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    seen = torch.stack((columns, rows, torch.ones_like(rows)), dim=-1)
    lens = side / 2 * torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 0, 2 / side]], dtype=torch.float64)
    camera = torch.cat((lens @ turns, torch.zeros(len(turns), 3, 1, dtype=torch.float64)), dim=2)
    return Surface(seen @ turns[:, None], torch.ones(len(turns), side, side, dtype=torch.float64), camera)


def turned(objects: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    half = (objects + views).double() / 4
    return torch.stack((0 * half, 0 * half, half.sin(), half.cos()), dim=1)


def network() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, stride=4), torch.nn.GELU(), torch.nn.Flatten())


def mapper() -> torch.nn.Module:
    return torch.nn.AvgPool2d(4)


def encoded(seed: int = 0, **fields: object) -> Encoded:
    predictor = ViewPredictor("all", lambda embeddings, action: embeddings + action.as_vector()[:, :1])
    given = {"predictor": predictor, "aggregate": lambda features, actions: features[:, -1]}
    given["second"] = Encoded(replaced(table(seed)), replaced(table(seed + 1)))
    tables = {"train": table(seed), "validation": table(seed + 1)}
    given |= {"encode": encode, "images": partial(images, tables), "maps": maps}
    given |= {"colours": (torch.zeros(3), torch.ones(3)), "masks": masks, "network": network}
    given |= {"videos": videos, "boxes": boxes, "surface": surface, "mapper": mapper}
    return Encoded(*tables.values(), **{**given, **fields})


@pytest.mark.parametrize("name", PROTOCOLS)
class TestEveryProtocol:
    def test_yields_finite_numbers_each_once(self, name):
        assert PROTOCOLS[name].lacks(encoded()) is None
        rows = list(PROTOCOLS[name].run(encoded()))
        assert any(row.value is not None for row in rows)
        assert len({(row.name, row.part) for row in rows}) == len(rows)
        for row in rows:
            assert row.detail if row.value is None else math.isfinite(row.value)
            assert row.spread is None or math.isfinite(row.spread)

    def test_says_why_where_the_data_allow_nothing(self, name):
        bare = {"labels": None, "transform": Transform.empty()}
        train, validation = (replace(table(seed), **bare) for seed in (0, 1))
        silent = replace(encoded(), train=train, validation=validation)
        assert all(row.value is not None or row.detail for row in PROTOCOLS[name].run(silent))

    def test_has_both_baselines_where_it_has_targets(self, name):
        protocol = PROTOCOLS[name]
        rows = evaluate_with_baselines(encoded(), encoded(5), {name: protocol})
        assert all(row.untrained is not None for row in rows)
        shuffled = {row.trained.name for row in rows if row.shuffled}
        # What fits nothing, as the test of the encoder's own predictor, has no targets to shuffle.
        fitted = {row.trained.name for row in rows if not row.trained.name.startswith("group/predictor/")}
        assert shuffled == (fitted if protocol.has_targets else set())

    def test_does_not_see_the_order_of_rows(self, name):
        given, generator = encoded(), torch.Generator().manual_seed(3)
        mixed = (one.select(torch.randperm(len(one), generator=generator)) for one in (given.train, given.validation))
        again = replace(given, train=next(mixed), validation=next(mixed))
        assert list(PROTOCOLS[name].run(again)) == list(PROTOCOLS[name].run(given))

    @pytest.mark.parametrize("noise", [0.0, 1e-7])
    def test_a_collapsed_encoder_has_finite_numbers_or_reasons(self, name, noise):
        def collapsed(one: FeatureTable) -> FeatureTable:
            return replace(one, features={part: 1 + noise * value for part, value in one.features.items()})

        given = encoded()
        train, validation = collapsed(given.train), collapsed(given.validation)
        for row in PROTOCOLS[name].run(replace(given, train=train, validation=validation)):
            assert row.detail if row.value is None else math.isfinite(row.value)
            assert row.spread is None or math.isfinite(row.spread)

    def test_declares_what_it_needs_and_a_quick_form(self, name):
        kind = KINDS[name]
        assert set(kind.needs) <= set(NEEDS)
        assert type(kind.quick()) is kind
        assert (name in FULL) == (name in QUICK)
        assert all(hasattr(kind(), field) for field in kind.recipe.values())


@pytest.mark.parametrize("need", NEEDS)
def test_what_is_missing_is_skipped_with_its_reason_and_run_when_it_is_there(need):
    @dataclass(frozen=True)
    class Needy(Protocol):
        needs = (need,)

        def run(self, encoded):
            yield Result("needy", "all", float(getattr(encoded, need) is not None))

    missing, there = Encoded(table(0), table(1)), replace(encoded(), **{need: encoded()})
    assert skipped(missing, {"needy": Needy()}) == {"needy": NEEDS[need]}
    assert evaluate(missing, {"needy": Needy()}) == evaluate_with_baselines(missing, missing, {"needy": Needy()}) == []
    (row,) = evaluate_with_baselines(there, missing, {"needy": Needy()})
    assert row.trained.value == row.shuffled.value == 1
    assert row.untrained is None
