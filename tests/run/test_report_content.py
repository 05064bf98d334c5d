"""What a run shows first."""

import json
import time

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.engine.features import evaluation_batches
from ssl_inv.evaluation.results import Comparison, Result, format_table
from ssl_inv.nn.backbones import make_backbone
from ssl_inv.objectives.seq_jepa import SeqJEPA
from ssl_inv.objectives.sie import SIE
from ssl_inv.objectives.vicreg import VICReg
from ssl_inv.run.build import build_augmentation
from ssl_inv.run.exports.export import preprocessing_of
from ssl_inv.run.judging import unmeasured
from ssl_inv.run.pages.report import angles, curves, downloads, duration, headlines, latents, result_rows, summary
from ssl_inv.run.recipe import resolve
from ssl_inv.transforms import Circle, Rotation
from ssl_inv.views.maker import central


@pytest.mark.parametrize(("size", "whole"), [(224, 256), (64, 93), (96, 118), (31, 32), (64, 67), (64, 64)])
def test_timm_makes_of_an_image_what_the_run_was_judged_by(size: int, whole: int) -> None:
    sections = {"objective": {"name": "vicreg"}, "data": {"name": "rendered"}, "trainer": {"steps": 1}}
    recipe = resolve({**sections, "augmentation": {"name": "simclr", "size": size}})
    view_size = build_augmentation(recipe).view_size(whole)
    preprocessing = preprocessing_of(recipe.normalization, view_size, whole)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (whole, whole, 3), dtype=np.uint8))
    plain = {"mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": preprocessing.interpolation}
    given = timm.data.create_transform((3, size, size), crop_pct=preprocessing.crop_share, **plain)
    own = central(to_tensor(image)[None], size / whole)[0]
    torch.testing.assert_close(given(image), own)
    assert round(whole * preprocessing.crop_share) == size


def table(*rows: tuple[str, str]) -> list[Comparison]:
    return [Comparison(Result(name, part, 0.5)) for name, part in rows]


NAMES = ("linear/top1", "r2/relative/rotation", "r2/relative/floor_hue")
SPLIT = [(name, part) for part in ("all", "invariant", "equivariant") for name in NAMES]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (SPLIT, [("linear/top1", "all"), ("r2/relative/rotation", "equivariant")]),
        (SPLIT[:3], [("linear/top1", "all"), ("r2/relative/rotation", "all")]),
        ([("knn/top1", "all"), ("r2/relative/azimuth", "all")], [("knn/top1", "all"), ("r2/relative/azimuth", "all")]),
    ],
)
def test_headlines_take_the_part_that_is_meant_to_know(rows, expected):
    assert [(row.trained.name, row.trained.part) for row in headlines(table(*rows))] == expected


def test_every_number_stands_once_in_the_report_and_those_without_value_do_not():
    rows = [*table(*SPLIT), Comparison(Result("knn/top1", "all", None, detail="no labels"))]
    shown = result_rows(rows)
    assert sorted((row.name, row.part) for row in shown) == sorted(SPLIT)
    assert [row.name for row in shown if not row.folded] == [row.trained.name for row in summary(rows)]


def test_latents_are_those_of_both_parts_and_the_downloads_have_every_row():
    hue = Comparison(Result("r2/relative/floor_hue", "equivariant", 0.5), Result("", "", 0.9))
    rows = [*table(*SPLIT), hue]
    found = {one.name: one.parts for one in latents(rows)}
    assert found.keys() == {"rotation", "floor hue"}
    assert found["rotation"].keys() == {"invariant", "equivariant"}
    assert found["floor hue"]["equivariant"].untrained == 0.9
    assert len(downloads(rows)["results.csv"].splitlines()) == 1 + len(rows)
    assert len(json.loads(downloads(rows)["results.json"])) == len(rows)


def test_errors_by_angle_stand_beside_those_of_the_baselines():
    errors, worse = (("0-30", 5.0),), (("0-30", 50.0),)
    rows = [
        Comparison(
            Result("r2/relative/rotation", "all", 0.5, errors=errors),
            untrained=Result("r2/relative/rotation", "all", 0.1, errors=worse),
        ),
        Comparison(Result("r2/relative/floor_hue", "all", 0.5)),
    ]
    assert angles(rows) == {"rotation, all": {"trained": errors, "untrained": worse}}


def test_the_learning_rate_is_a_curve_and_the_duration_is_that_of_the_last_stretch():
    logged = [{"step": 1, "loss": {"a": 2.0}, "lr": 0.1}, {"step": 2, "loss": {"a": 1.0}, "lr": 0.05}]
    assert curves(logged)["optimizer/learning rate"] == [(1, 0.1), (2, 0.05)]
    ago = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() - 100))
    assert duration({"began": ago}) in ("1m40s, with evaluation", "1m41s, with evaluation")
    assert duration({"began": "", "resumed": [{"at": ago, "step": 40}]}).endswith("since it was resumed at step 40")


GROUPS = {"rotation": Rotation(), "sky_hue": Circle()}


SEQ_JEPA = SeqJEPA(16, GROUPS, parameters=["sky_hue"], heads=2, action_dimensions=4, predictor=8)


@pytest.mark.parametrize(
    ("objective", "missing"),
    [
        (SIE(16, GROUPS, parameters=["rotation", "sky_hue"], projector=[8]), ["retrieval"]),
        (SEQ_JEPA, ["retrieval", "aggregation"]),
        (SIE(16, GROUPS, parameters=["rotation"], projector=[8]), []),
        (VICReg(16, GROUPS, projector=[8]), []),
        (None, []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_judged_without_a_parameter_is_said(objective, missing):
    source = RenderedSolids(classes=2, objects=2, views=2, size=8)
    rows = unmeasured(source, make_backbone(name="test_resnet"), objective)
    assert [row.trained.name for row in rows] == missing
    for line in format_table(rows).splitlines()[1:] if rows else []:
        assert "not measured: the objective is told sky_hue, which these data do not record" in line


def test_of_many_views_in_order_those_are_judged_that_are_spread_over_all() -> None:
    source = RenderedSolids(classes=2, objects=4, views=7, size=16)
    batches = evaluation_batches(source, np.arange(4), 3, lambda pixels: pixels, "cpu")
    assert next(batches).views.tolist() == [0, 2, 4] * 4
