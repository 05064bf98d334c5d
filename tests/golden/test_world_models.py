"""LeWM, its form with an inverse model and SD-JEPA give the numbers of the authors' code."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from numbered import check, drawn, fill, named, number
from torch import Tensor, nn

from ssl_inv.nn.dynamics import ActionEmbedding, ConditionalBlock
from ssl_inv.objectives.lewm import LeWM
from ssl_inv.objectives.sd_jepa import SDJEPA, cosine_triplet
from ssl_inv.transforms import Real

FACTS = "world_models"
NEAR = {"rel": 1e-9}
SMALL = {"layers": 1, "heads": 1, "head_width": 2, "hidden": 4, "directions": 4, "parameters": ["place"]}


def lewm(width: int, action: int = 1, **settings: Any) -> LeWM:
    sizes = {name: value for name, value in SMALL.items() if name != "directions" or "inverse" not in str(settings)}
    groups = {"place": Real(dimensions=action)}
    return LeWM(4, groups, projector=[width], **{**sizes, **settings}).double()


def directions(case: dict[str, Any]) -> Tensor:
    return F.normalize(named(case, "slicing matrix").detach(), dim=0)


def weighted(terms: Any) -> Tensor:
    return torch.stack([term.weight * term.value for term in terms.values()]).sum()


@pytest.mark.parametrize("target_gradient", [True, False])
@pytest.mark.parametrize("number_of_case", [0, 1])
def test_lewm_loss(facts: dict[str, Any], number_of_case: int, target_gradient: bool) -> None:
    case = facts["lewm_loss"][number_of_case]
    embeddings, predicted = named(case, "emb"), named(case, "pred")
    weight = number(case, r"lambda ([\d.]+\d)")
    objective = lewm(embeddings.shape[-1], sigreg_weight=weight, target_gradient=target_gradient)
    objective.directions.forward = lambda _: directions(case)  # type: ignore[union-attr,method-assign]
    terms = objective.embedding_loss(embeddings, predicted, torch.zeros(0))
    assert terms["prediction"].value.item() == pytest.approx(case["pred_loss"], **NEAR)
    assert terms["sigreg"].value.item() == pytest.approx(case["sigreg"], **NEAR)
    weighted(terms).backward()
    assert weighted(terms).item() == pytest.approx(case["loss"], **NEAR)
    gradients = case if target_gradient else case["lightly_1_6_0"]
    check(embeddings.grad, gradients["grad_emb"])
    check(predicted.grad, gradients["grad_pred"])


@pytest.mark.parametrize("number_of_case", [0, 1])
def test_inverse_model(facts: dict[str, Any], number_of_case: int) -> None:
    case = facts["smwm_loss"][number_of_case]
    embeddings, predicted, actions = (named(case, name) for name in ("emb", "pred", "actions"))
    listed = case["parameters"]
    hidden = [shape[0] for name, shape in listed if name.endswith("weight")][:-1]
    weight = number(case, r"lambda ([\d.]+\d)")
    objective = lewm(
        embeddings.shape[-1],
        actions.shape[-1],
        anti_collapse="inverse",
        inverse_hidden=hidden,
        inverse_weight=weight,
    )
    assert objective.inverse_model is not None
    parameters = list(objective.inverse_model.parameters())
    fill(parameters, listed, 0.2, int(number(case, r"0\.2\*RS\((\d+)\+k\)")))
    terms = objective.embedding_loss(embeddings, predicted, actions[:, :-1])
    assert terms["prediction"].value.item() == pytest.approx(case["forward_loss"], **NEAR)
    assert terms["inverse"].value.item() == pytest.approx(case["inverse_loss"], **NEAR)
    weighted(terms).backward()
    assert weighted(terms).item() == pytest.approx(case["loss"], **NEAR)
    check(embeddings.grad, case["grad_emb"])
    check(predicted.grad, case["grad_pred"])
    check(parameters[0].grad, case["grad_first_weight"])
    check(parameters[-1].grad, case["grad_last_bias"])


def test_predictor_block_and_embedded_actions(facts: dict[str, Any]) -> None:
    (case,) = facts["lewm_blocks"]
    tokens, actions = named(case, "x").detach(), named(case, "actions").detach()
    block, embedding = ConditionalBlock(8, 2, 4, 12, dropout=0.0).double(), ActionEmbedding(3, 8).double()
    embedding.first = nn.Linear(3, 3).double()
    embedding.layers[0] = nn.Linear(3, 32).double()
    fill(list(block.parameters()), case["block_parameters"], 0.2, 7150)
    fill(list(embedding.parameters()), case["embedder_parameters"], 0.2, 7200)
    embedded = embedding(actions)
    check(embedded, case["action_embedding"])
    check(block(tokens, embedded), case["block_output"])


def test_predictions_read_no_later_view() -> None:
    world = lewm(6, observed=3).world.eval()
    for block in world.blocks:
        nn.init.normal_(block.modulation.weight)
    embeddings, actions = drawn(1, 2, 3, 6), drawn(2, 2, 3, 1)
    changed = torch.cat((embeddings[:, :2], embeddings[:, 2:] + drawn(3, 2, 1, 6)), dim=1)
    before, after = world.predict(embeddings, actions), world.predict(changed, actions)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_a_collapsed_encoder_has_an_inverse_loss_of_one() -> None:
    """The best that can be told of an action from constant embeddings is its mean."""
    objective = lewm(6, 3, anti_collapse="inverse")
    assert objective.inverse_model is not None
    for parameter in objective.inverse_model.parameters():
        nn.init.zeros_(parameter)
    embeddings, actions = torch.ones(64, 4, 6).double(), 5 + 3 * drawn(3, 64, 3, 3)
    terms = objective.embedding_loss(embeddings, embeddings[:, 1:], objective.world.standardised(actions))
    assert terms["inverse"].value.item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("number_of_case", [0, 1])
def test_sd_jepa(facts: dict[str, Any], number_of_case: int) -> None:
    case = facts["sd_jepa"][number_of_case]
    embeddings, predicted = named(case, "z"), named(case, "pred")
    samples, views, width = embeddings.shape
    sigreg, triplet = number(case, r"weights ([\d.]+) SIGReg"), number(case, r"([\d.]+) triplet\(")
    objective = SDJEPA(
        4,
        {"place": Real()},
        **SMALL,
        projector=[width],
        observed=views - 1,
        progression=int(number(case, r"first (\d+) coordinates")),
        sigreg_weight=sigreg,
        triplet_weight=triplet,
        margin=number(case, r"margin ([\d.]+)[;,]"),
        straightening=1.0,
    ).double()
    assert objective.anchor == number(case, r"anchor time (\d)")
    objective.directions.forward = lambda _: directions(case)  # type: ignore[method-assign]
    rolled = number(case, r"rolled by (\d+)")
    objective._shift = lambda: (rolled - 0.5) / (samples - 1)  # type: ignore[method-assign]
    positives = torch.full((samples,), int(number(case, r"positive time (\d)")))
    terms = dict(objective.embedding_loss(embeddings, predicted, positives))
    straight = terms.pop("straightening").value
    for name, theirs in (("prediction", "pred_loss"), ("sigreg", "sigreg_content"), ("triplet", "triplet")):
        assert terms[name].value.item() == pytest.approx(case[theirs], **NEAR), name
    assert straight.item() == pytest.approx(case["straightening"], **NEAR)
    assert weighted(terms).item() == pytest.approx(case["loss_A2"], **NEAR)
    for loss, theirs in ((weighted(terms), "A2"), (terms["triplet"].value, "triplet"), (straight, "straightening")):
        (gradient,) = torch.autograd.grad(loss, embeddings, retain_graph=True)
        check(gradient, case[f"grad_z_{theirs}"])


def test_the_triplet_orders_what_it_is_given() -> None:
    anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert cosine_triplet(anchors, anchors, 0.0, margin=0.2) == 0
    assert cosine_triplet(anchors, anchors.roll(1, 0), 0.0, margin=0.2) == pytest.approx(0.2)
    others = torch.eye(5)
    for shift in (0.0, 0.24, 0.26, 0.5, 0.76, 0.999):
        assert cosine_triplet(others, others, shift, margin=2.0) == 1, "no sample is its own negative"
