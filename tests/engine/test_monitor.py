"""The monitor keeps to its share of the time, leaves the network alone and knows collapse."""

import pytest
import torch
from torch import nn

from ssl_inv.data.source import Data, Subset, split_objects
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.engine.monitor import OnlineMonitor, collapse
from ssl_inv.engine.settings import MonitorSettings


@pytest.fixture(scope="module")
def data() -> Data:
    source = RenderedSolids(classes=4, objects=40, views=3, size=16)
    train, validation = split_objects(40, 0.4, 0)
    return Data(Subset(source, train), Subset(source, validation))


def make(data: Data, network: nn.Module, **settings: float) -> OnlineMonitor:
    chosen = MonitorSettings(**{"every": 10, "objects": 16, "share": 0.1, **settings})  # type: ignore[arg-type]
    encode, device = lambda pixels: {"all": network(pixels)}, torch.device("cpu")
    return OnlineMonitor(data, encode, network, lambda pixels: pixels, chosen, device)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    first = (nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(2), nn.Flatten())


def test_scores_leave_weights_statistics_mode_and_random_state_alone(data: Data) -> None:
    encoder = network().train()
    encoder[3].eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    modes, random = [one.training for one in encoder.modules()], torch.get_rng_state()
    monitor = make(data, encoder)
    first = monitor.scores()
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert [one.training for one in encoder.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert monitor.scores() == first, "the same network has the same scores"
    assert {"knn", "linear", "rankme", "deviation", "r2 rotation", "r2 light_hue"} <= first.keys()


def test_a_single_object_to_validate_on_is_no_collapse(data: Data) -> None:
    few = Data(data.train, Subset(data.validation, torch.arange(1).numpy()))
    assert collapse(make(few, network()).scores()) is None


def test_scores_are_due_at_their_steps_within_their_share_of_the_time(data: Data) -> None:
    monitor = make(data, network())
    assert [step for step in range(1, 31) if monitor.due(step, 0.0)] == [10, 20, 30]
    monitor.seconds = monitor._last = 1.0
    assert not monitor.due(10, 19.9)
    assert monitor.due(10, 20.1)
    unlimited = make(data, network(), share=1.0)
    unlimited.seconds = unlimited._last = 1.0
    assert unlimited.due(10, 0.0), "a share of 1 skips no score, however fast the steps are"
    assert not make(data, network(), every=0).due(10, 100.0)


def fixed(spread: float, directions: int) -> nn.Module:
    """Features that are `spread` about a constant, along `directions` many dimensions."""

    class Fixed(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            generator = torch.Generator().manual_seed(0)
            mixed = pixels.flatten(1) @ torch.randn(pixels[0].numel(), directions, generator=generator)
            centred = (mixed - mixed.mean(0)) @ torch.eye(directions, 32)
            return centred if spread == 1 else 1 + spread * centred

    return Fixed()


@pytest.mark.parametrize(
    ("spread", "directions", "sentence"),
    [(1e-6, 8, "nearly one vector"), (1.0, 1, "nearly on one line"), (1.0, 8, None)],
)
def test_collapse_is_told_from_health(data: Data, spread: float, directions: int, sentence: str | None) -> None:
    found = collapse(make(data, fixed(spread, directions)).scores())
    assert (found is None) if sentence is None else (sentence in found)
