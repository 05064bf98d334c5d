"""FINO's heads and schedule give the numbers of the authors' code."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from numbered import check, drawn, fill
from numpy.random import RandomState
from torch import Tensor

from ssl_inv.memories.centroids import Centroids
from ssl_inv.objectives.fino import FINO, guidance, guide_head, scaled_gradient
from ssl_inv.transforms import Category, Real, Transform

FACTS = "fino"
NEAR = {"rel": 1e-9, "abs": 1e-12}


@pytest.fixture
def case(facts: dict[str, Any]) -> dict[str, Any]:
    (found,) = facts["fino_heads"]
    return found


def test_prototypical_head(case: dict[str, Any]) -> None:
    kinds = torch.from_numpy(RandomState(7601).randint(0, 3, 8))
    head = Centroids(4, 5, 0.9, 0.07).double()
    head.centroids.copy_(F.normalize(drawn(7600, 4, 5), dim=1))
    head.concentration.fill_(0.07)
    for call, sign in (("call1", 1), ("call2_reversed", -1)):
        expected = case[call]
        student, teacher = drawn(7602, 2, 8, 5).requires_grad_(), drawn(7603, 2, 8, 5)
        loss = torch.stack([head(scaled_gradient(one, 0.7 * sign), kinds) for one in student]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.item() == pytest.approx(expected["loss"], **NEAR)
        check(student.grad, expected["grad"])
        head.put(*((one, kinds) for one in teacher))
        head.flush()
        check(head.centroids, expected["centroids"])
        assert head.concentration.tolist() == pytest.approx(expected["concentration"], **NEAR)
        assert head.counts.tolist() == expected["counts"]


def test_regression(case: dict[str, Any]) -> None:
    expected = case["regression"]
    settings = {"attract": ["y"], "ranges": {"y": [0.2, 1.8]}, "hidden": [6, 5], "weight": 1.0}
    groups = {"y": Real(), "site": Category(3)}
    objective = FINO(5, groups, base={"name": "simclr"}, schedule="constant", warmup=0.0, **settings).double()
    (head,) = objective.heads
    fill(list(head.parameters()), expected["parameters"], 0.3, 7620)
    student = drawn(7602, 2, 8, 5).requires_grad_()
    y = torch.from_numpy(RandomState(7604).uniform(0.2, 1.8, 8))
    record = Transform({"y": y}, {"y": Real()})
    terms = objective.guide_losses(list(student), [record, record])
    loss: Tensor = terms["guide_y"].value
    loss.backward()  # type: ignore[no-untyped-call]
    # The recorded targets had passed single precision.
    assert loss.item() == pytest.approx(expected["loss"], rel=2e-7)
    assert student.grad is not None
    ratio = student.grad.abs().sum().item() / expected["grad"]["abs"]
    check(student.grad / ratio, expected["grad"], 1e-4)
    assert ratio == pytest.approx(1 / 0.7, rel=1e-6), "lambda is 0.7 in the recorded gradient"


@pytest.mark.parametrize("schedule", ["sigmoid", "linear", "constant"])
def test_schedule(case: dict[str, Any], schedule: Any) -> None:
    recorded = case["lambda_schedule"]
    ours = [guidance(one / 25000, 1000 / 25000, schedule) for one in recorded["iterations"]]
    assert ours == pytest.approx(recorded[schedule], rel=1e-9, abs=1e-12)


def test_the_mlp_ends_in_a_linear_map() -> None:
    assert [type(one).__name__ for one in guide_head((5, 6, 1), 0.1)] == ["Linear", "GELU", "Dropout", "Linear"]
