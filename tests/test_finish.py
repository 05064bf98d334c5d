"""What a run shows first."""

import pytest

from ssl_inv.data.rendered import RenderedSolids
from ssl_inv.evaluation.results import Comparison, Result, format_table
from ssl_inv.finish import headlines, result_rows, summary, unmeasured
from ssl_inv.objectives.seq_jepa import SeqJEPA
from ssl_inv.objectives.sie import SIE
from ssl_inv.objectives.vicreg import VICReg
from ssl_inv.transforms import Circle, Rotation


def table(*rows: tuple[str, str]) -> list[Comparison]:
    return [Comparison(Result(name, part, 0.5)) for name, part in rows]


SPLIT = [
    (name, part)
    for part in ("all", "invariant", "equivariant")
    for name in ("linear/top1", "r2/relative/rotation", "r2/relative/floor_hue")
]


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


GROUPS = {"rotation": Rotation(), "sky_hue": Circle()}


@pytest.mark.parametrize(
    ("objective", "missing"),
    [
        (SIE(16, GROUPS, parameters=["rotation", "sky_hue"], projector=[8]), ["retrieval"]),
        (SeqJEPA(16, GROUPS, parameters=["sky_hue"], heads=2, action_dimensions=4, predictor=8), ["retrieval", "aggregation"]),
        (SIE(16, GROUPS, parameters=["rotation"], projector=[8]), []),
        (VICReg(16, GROUPS, projector=[8]), []),
        (None, []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_judged_without_a_parameter_is_said(objective, missing):
    rows = unmeasured(RenderedSolids(classes=2, objects=2, views=2, size=8), objective)
    assert [row.trained.name for row in rows] == missing
    for line in format_table(rows).splitlines()[1:] if rows else []:
        assert "not measured: the objective is told sky_hue, which these data do not record" in line
