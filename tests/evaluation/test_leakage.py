"""Separation is 1 where nothing leaks, 0 where both parts are the same, and undefined where a part knows nothing."""

import math
from functools import cache

import pytest
import torch
from posed import matrices, noise, rotated

from ssl_inv.evaluation.protocols.leakage import Leakage, leaks
from ssl_inv.evaluation.protocols.linear_maps import Span
from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2
from ssl_inv.evaluation.results import Bootstrap

LEAKAGE = Leakage(
    heads=TransformR2(hidden=32, epochs=1, minimum_steps=100, learning_rate=1e-2), bootstrap=Bootstrap(20)
)


@cache
def values(invariant, equivariant):
    def encoder(turns, kinds):
        parts = {
            "class": torch.nn.functional.one_hot(kinds, 3).float(),
            "pose": turns,
            "noise": 0.1 * noise(len(turns), 3),
        }
        halves = {"invariant": invariant, "equivariant": equivariant}
        features = {name: torch.cat([parts[one] for one in half.split()], 1) for name, half in halves.items()}
        return {"all": torch.cat(list(features.values()), 1), **features}

    return {(row.name.removeprefix("leakage/"), row.part): row for row in LEAKAGE.run(rotated(encoder, objects=40))}


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_separate_parts_leak_nothing_and_equal_parts_everything(head):
    apart, mixed = (
        values("class noise", "pose noise"),
        values("class pose", "class pose"),
    )
    assert apart[f"{head}/pose_leak", "split"].value < 0.1
    assert apart[f"{head}/separation", "split"].value > 0.85
    assert apart[f"{head}/pose_r2", "equivariant"].value > 0.8
    assert apart[f"{head}/class_top1", "invariant"].value > 0.95
    assert mixed[f"{head}/separation", "split"].value == pytest.approx(0, abs=0.02)
    assert abs(apart[f"{head}/separation", "random halves"].value or 0) < apart[f"{head}/separation", "split"].value


def test_a_leak_into_one_part_is_seen_there_alone():
    found = values("class pose noise", "pose noise")
    assert found["linear/pose_leak", "split"].value > 0.8
    assert found["linear/class_leak", "split"].value < 0.2


def test_a_leak_is_undefined_where_the_own_part_knows_nothing():
    row = values("class noise", "noise")["linear/separation", "split"]
    assert row.value is None
    assert row.detail.startswith("undefined")


def test_leaks_follow_their_definition():
    given = (torch.tensor([one]) for one in (0.4, 0.8, 0.9, 0.5))
    pose, kind, separation = leaks(*given, chance=0.1)
    assert [float(one) for one in (pose, kind, separation)] == pytest.approx([0.5, 0.5, 0.5])
    worthless = leaks(*(torch.tensor([one]) for one in (0.4, 0.0, 0.9, 0.5)), chance=0.1)
    assert math.isnan(worthless[0])


def test_a_span_has_the_directions_of_the_largest_variance_and_one_scale():
    rows = noise(200, 5) * torch.tensor([5.0, 3.0, 1.0, 0.1, 0.0]) + 2
    span = Span.fit(rows, width=3)
    projected = span(rows)
    torch.testing.assert_close(projected.mean(dim=0), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    assert float(projected.square().mean()) == pytest.approx(1)
    assert (projected.std(dim=0).diff() < 0).all()
    assert Span.fit(rows).width == 4
    assert Span.fit(rows, share=0.9).width == 2
    assert Span.fit(torch.ones(10, 3)).width == 0
    assert matrices(torch.tensor([[0.0, 0, 0, 1]])).tolist() == [[1, 0, 0, 0, 1, 0, 0, 0, 1]]
