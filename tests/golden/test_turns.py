"""RotNet and E-SSL turn images and compare views as the authors' code does."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from small_data import plain
from torch import Tensor, nn

from ssl_inv.augment.policies import byol, none, simclr
from ssl_inv.objectives.essl import ESSL
from ssl_inv.objectives.rotnet import RotNet
from ssl_inv.transforms import Transform
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.views import QuarterTurns, View, Views
from ssl_inv.views.makers import maker_of

FACTS = "turns"


def made(plan: Any, augmentation: Any, images: Tensor) -> list[Any]:
    index = np.arange(len(images))
    return maker_of(plan, augmentation).make([plain(images)], Key(0, np.zeros_like(index), index, 0))


@pytest.mark.parametrize("method", ["RotNet", "ESSL"])
def test_classes_are_quarter_turns_counter_clockwise(facts: dict[str, Any], method: str) -> None:
    image = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).expand(1, 3, 2, 2) / 4
    for turn, (view, (number, recorded)) in enumerate(
        zip(made(QuarterTurns(), none(), image), facts[method]["rotations"], strict=True)
    ):
        assert number == turn
        torch.testing.assert_close(view.pixels[0, 0] * 4, torch.tensor(recorded, dtype=torch.float32))


@pytest.fixture
def outputs() -> tuple[Tensor, Tensor]:
    def normalised(rows: Any) -> Any:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    rng = RandomState(25)
    rng.randn(2, 12, 5)
    first = normalised(rng.randn(12, 5))
    return torch.tensor(first), torch.tensor(normalised(0.8 * first + 0.4 * rng.randn(12, 5)))


@pytest.mark.parametrize(
    ("base", "term", "fact"), [("simclr", "info_nce", "simclr_loss"), ("simsiam", "cosine", "simsiam_sym_negcos")]
)
def test_invariant_part(facts: dict[str, Any], outputs: tuple[Tensor, Tensor], base: Any, term: str, fact: str) -> None:
    objective = ESSL(5, {}, base=base, projector=[5])
    if base == "simsiam":
        objective.predictor_head = nn.Identity()
    assert objective.embedding_loss(*outputs)[term].value.item() == pytest.approx(facts["ESSL"][fact], rel=1e-10)


def test_simsiam_stops_the_gradient_of_targets(outputs: tuple[Tensor, Tensor]) -> None:
    x, y = (one.clone().requires_grad_() for one in outputs)
    objective = ESSL(5, {}, base="simsiam", projector=[5]).double()
    objective.predictor_head = nn.Linear(5, 5).double()
    objective.predictor_head.weight.data.zero_()
    objective.embedding_loss(x, y)["cosine"].value.backward()
    assert x.grad is not None
    assert not x.grad.any(), "where the prediction ignores its input, all gradient would be that of a target"


class Corner(nn.Module):
    """Features: the four corners of the first channel, enough to recognise a turn."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]


def test_loss_of_a_classifier_that_knows_is_zero() -> None:
    upright = torch.zeros(6, 3, 4, 4)
    upright[:, :, 0, 0] = 1
    views = tuple(View(torch.rot90(upright, turn, (2, 3)), Transform.empty()) for turn in range(4))
    objective = RotNet(4, {})
    # Counter-clockwise turns move the upper left corner to the lower left, lower right, upper right.
    objective.classifier[0].weight.data = 50 * torch.eye(4)[:, [0, 2, 3, 1]].T
    objective.classifier[0].bias.data.zero_()
    loss = objective.loss(Views(views, torch.arange(6)), Corner())["rotation"].value
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_the_turned_crop_has_its_own_size_and_share_and_the_pair_its_own_policies() -> None:
    plan = ESSL(4, {}, turned_size=8, turned_scale=[0.05, 0.14]).plan
    assert plan.sizes == (8,)
    views = made(plan, byol(), torch.rand(16, 3, 32, 32))
    assert [view.pixels.shape[-1] for view in views] == [32, 32, 8, 8, 8, 8]
    width, height = views[2].transform["crop"][:, 2:].unbind(1)
    assert (width * height).min() > 0.04
    assert (width * height).max() < 0.16
    assert (views[0].transform["blur"] > 0).all()
    assert not (views[1].transform["blur"] > 0).all()
    assert torch.equal(torch.rot90(views[2].pixels, 1, (2, 3)), views[3].pixels)


@pytest.mark.parametrize("scale", [[0.5], [0.5, 0.1]])
def test_bad_shares_are_refused(scale: list[float]) -> None:
    with pytest.raises(ValueError, match="scale"):
        ESSL(4, {}, turned_scale=scale)
    with pytest.raises(ValueError, match="does not crop"):
        made(QuarterTurns(scale=(0.1, 0.2)), none(), torch.rand(2, 3, 8, 8))


def test_turns_without_size_are_as_the_augmentation_makes_them() -> None:
    assert made(QuarterTurns(), simclr(size=12), torch.rand(2, 3, 16, 16))[0].pixels.shape[-1] == 12
