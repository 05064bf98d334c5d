"""What a run shows first."""

import pytest

from ssl_inv.evaluation.results import Comparison, Result
from ssl_inv.finish import headlines, result_rows, summary


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
