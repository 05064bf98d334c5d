"""CAPI gives the numbers of the authors' code."""

import re
from typing import Any

import pytest
import torch
from numbered import check, drawn, number
from numpy.random import RandomState
from torch import Tensor

from ssl_inv.nn import losses
from ssl_inv.objectives.capi import CAPI

FACTS = "capi"
NEAR = {"rel": 1e-9, "abs": 1e-14}


def inputs(case: dict[str, Any]) -> tuple[CAPI, Tensor, Tensor, Tensor]:
    """The objective with the recorded heads, the teacher's tokens, the decoder's outputs and the predicted patches."""
    text = case["inputs"]
    batch, positions, width = (int(one) for one in re.findall(r"\d+", text[text.index("(batch") :])[:3])
    clusters = int(re.findall(r"weight RS\(\d+\)\((\d+),", text)[0])
    x, weight, bias, direction, outputs, permuted = (int(one) for one in re.findall(r"RS\((\d+)", text))
    objective = CAPI(
        width,
        {},
        clusters=clusters,
        sinkhorn_iterations=int(number(case, r"(\d+) Sinkhorn")),
        target_temperature=number(case, r"target temperature ([\d.]+),"),
        cluster_temperature=number(case, r"prediction temperature ([\d.]+);"),
        student_temperature=number(case, r"student temperature ([\d.]+);"),
    ).double()
    with torch.no_grad():
        objective.cluster_head.linear.weight.copy_(drawn(weight, clusters, width))
        objective.cluster_head.linear.bias.copy_(0.1 * drawn(bias, clusters))
        objective.head.directions.copy_(drawn(direction, clusters, width))
    count = int(number(case, r"first (\d+) of RS"))
    patches = [RandomState(permuted + image).permutation(positions)[:count] for image in range(batch)]
    tokens, predicted = drawn(x, batch, positions, width), drawn(outputs, batch * count, width)
    chosen = torch.stack([torch.from_numpy(one) for one in patches])
    return objective, tokens, predicted.view(batch, count, width).requires_grad_(), chosen


@pytest.mark.parametrize("number_of_case", [0, 1])
def test_capi(facts: dict[str, Any], number_of_case: int) -> None:
    case = facts["capi"][number_of_case]
    objective, tokens, predicted, patches = inputs(case)
    terms = objective.token_loss(tokens, predicted, patches)
    logits = objective.cluster_head(tokens)
    temperature, iterations = objective.target_temperature, objective.sinkhorn_iterations
    assigned = losses.positionwise_sinkhorn(logits, temperature, iterations)
    assert assigned[0, 0].tolist() == pytest.approx(case["assignments_image0_position0"], **NEAR)
    check(assigned, case["assignments"])
    assert assigned[:, 0].sum(dim=0).tolist() == pytest.approx(case["assignment_column_mass_position0"], **NEAR)
    assert terms["clustering"].value.item() == pytest.approx(case["clustering_loss"], **NEAR)
    # Something of the student's was in single precision when these were recorded.
    assert terms["prediction"].value.item() == pytest.approx(case["student_loss"], rel=1e-7)
    (terms["clustering"].value + terms["prediction"].value).backward()
    check(objective.cluster_head.linear.weight.grad, case["grad_cluster_weight"])
    check(objective.cluster_head.linear.bias.grad, case["grad_cluster_bias"])
    check(predicted.grad, case["grad_y"], 1e-6)
    check(objective.head.directions.grad, case["grad_head_direction"], 1e-6)
    check(objective.head.lengths.grad, case["grad_head_gain"], 1e-6)
    everywhere = losses.positionwise_sinkhorn(logits.reshape(-1, 1, logits.shape[-1]), temperature, iterations)
    check(everywhere.view(logits.shape), case["not_positionwise"]["assignments"])
