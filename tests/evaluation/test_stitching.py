"""A classifier of relative features works on a rotated encoder exactly, and one of absolute features does not."""

from dataclasses import replace

import pytest
import torch
from constructed import normal, orthogonal, same_on_both, values, views_of

from ssl_inv.evaluation.protocols.stitching import Stitching

LABELS = torch.arange(120) % 6
FEATURES = normal(0, 6, 24)[LABELS][:, None] + 0.7 * normal(1, 120, 2, 24)


def test_a_rotated_scaled_and_moved_encoder_loses_nothing():
    table = views_of(FEATURES, LABELS)
    moved = views_of(3 * FEATURES @ orthogonal(2, 24) + 5, LABELS)
    found = values(Stitching(draws=2, anchors=50), same_on_both(table, moved))
    assert found["stitching/cross"] == pytest.approx(found["stitching/own"], abs=0.01)
    assert found["stitching/own"] > 0.9
    assert found["stitching/orthogonal"] > 0.9
    assert found["stitching/affine"] > 0.9
    assert found["stitching/absolute"] < 0.5


def test_an_encoder_of_another_width_with_nothing_in_common_is_at_chance():
    table = views_of(FEATURES, LABELS)
    other = views_of(normal(3, 120, 2, 10), LABELS)
    results = {one.name: one for one in Stitching(draws=2, anchors=50).run(same_on_both(table, other))}
    for name in ("cross", "absolute", "orthogonal", "affine"):
        found = results[f"stitching/{name}"]
        assert abs(found.value - 1 / 6) < max(4 * found.spread, 0.15)
    assert "50 anchors" in results["stitching/cross"].detail


def test_parts_of_the_same_name_meet():
    table = views_of(FEATURES, LABELS)
    parts = replace(table, features={"all": table.features["all"], "invariant": table.features["all"][:, :12]})
    rows = list(Stitching(draws=1, anchors=50).run(same_on_both(parts, table)))
    assert {(row.part, row.detail.split("second part ")[1].split(",")[0]) for row in rows} == {
        ("all", "'all'"),
        ("invariant", "'all'"),
    }
