"""Fine-tuning learns what frozen features lack, moves early layers least, and leaves the encoder as it was."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from imaged import encoded_by
from torch import Tensor, nn

from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.protocols.fine_tuning import FineTuning, cropped, layer_groups
from ssl_inv.evaluation.results import Bootstrap

PROTOCOL = FineTuning(learning_rates=(0.2,), layer_decay=1.0, steps=60, batch=32, bootstrap=Bootstrap(10))


class Squares(nn.Module):
    """Means of the squares of two channels that begin blind to the third colour, which alone tells the class."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([[1.0, 0.0, 0.01], [0.0, 1.0, 0.01]]))

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.einsum("kc,bchw->bkhw", self.weights, pixels).square().mean(dim=(2, 3))


def given(network: nn.Module, count: int = 96) -> Encoded:
    """Classes differ by the contrast of the third colour."""
    pixels = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    pixels[:, 2] *= torch.tensor([0.2, 1.0, 3.0])[torch.arange(count) // 2 % 3].view(-1, 1, 1)
    with torch.no_grad():
        encoded = encoded_by(lambda one: {"all": network(one)}, None, pixels, network=lambda: copied(network))
    halves = [encoded.train.select(rows) for rows in torch.arange(count).split(2 * count // 3)]
    return replace(encoded, train=halves[0], validation=halves[1])


def copied(network: nn.Module) -> nn.Module:
    again = Squares()
    again.load_state_dict(network.state_dict())
    return again


def accuracy(protocol: FineTuning, encoded: Encoded) -> tuple[float, str]:
    (row,) = protocol.run(encoded)
    return row.value, row.detail


def test_the_encoder_learns_what_its_features_lack_and_the_one_that_is_measured_stays():
    network = Squares()
    before, state = network.weights.detach().clone(), torch.random.get_rng_state()
    encoded = given(network)
    tuned, detail = accuracy(PROTOCOL, encoded)
    frozen, _ = accuracy(replace(PROTOCOL, layer_decay=0.0), encoded)
    assert tuned > 0.85 > 0.7 > frozen
    assert torch.equal(network.weights, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "a constant prediction has 0.375" in detail
    assert "names no layers" in detail


def test_the_learning_rate_is_chosen_on_training_objects():
    _, detail = accuracy(replace(PROTOCOL, learning_rates=(1e-6, 0.2)), given(Squares()))
    assert "learning rate 0.2, an end of the grid" in detail


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_every_parameter_is_in_one_group_and_earlier_layers_are_slower(name):
    body = nn.Sequential(timm.create_model(name, num_classes=0))
    head = nn.Linear(body[0].num_features, 10)
    groups = layer_groups(body, head, 2.0, 0.5, 0.1)
    rates = {id(one): group["lr"] for group in groups for one in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates) == len([*body.parameters(), *head.parameters()])
    names = {key: rates[id(one)] for key, one in body.named_parameters()}
    first, last = next(iter(names)), next(reversed(names))
    assert rates[id(head.weight)] == 2.0 > names[last] >= 0.5 > 0.05 > names[first]
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}


def test_crops_are_parts_of_the_image_and_mirror_images():
    ramp = torch.linspace(0, 1, 32).expand(3, 3, 32, 32).clone()
    found = cropped(ramp, np.array([[1.0, 0.5, 0.5, 0.9], [1.0, 0.5, 0.5, 0.1], [0.0, 0.0, 0.0, 0.9]]))
    torch.testing.assert_close(found[0], ramp[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], ramp[0].flip(-1), atol=1e-5, rtol=0)
    assert 0 <= float(found[2].min()) < 0.02
    assert float(found[2].max()) == pytest.approx(0.35**0.5, abs=0.05)
