"""Claims about soft equivariance: the penalty is that of the paper where both exist, and strengths follow what data and
objective allow.
"""

from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small import MEAN_OF_PATCHES, VICREG, build, total, views_of, vit
from torch import Tensor, nn

from ssl_inv.nn.backbones import Backbone, Cached
from ssl_inv.nn.symmetries import SYMMETRIES, permute_back
from ssl_inv.objectives.soft_equivariance import SoftEquivariance
from ssl_inv.testing import GROUPS, random_transform
from ssl_inv.views import Plan, Views


class Network(nn.Module):
    """One or more cyclic convolutions, which commute with shifts, as much of a timm model as a backbone needs."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.num_features = widths[-1]
        pairs = zip((3, *widths), widths, strict=False)
        settings = {"padding": 1, "padding_mode": "circular", "bias": False}
        self.layers = nn.ModuleList(nn.Conv2d(one, other, 3, **settings) for one, other in pairs)

    def forward_features(self, pixels: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            pixels = layer(pixels if number == 0 else pixels.relu())
        return pixels

    def forward_head(self, maps: Tensor) -> Tensor:
        return maps.relu().mean((2, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(pixels))


def backbone(*widths: int) -> Backbone:
    torch.manual_seed(0)
    return Backbone(Network(*widths), "cyclic convolutions")


def objective(features: int, base: dict[str, Any] = VICREG, **settings: Any) -> SoftEquivariance:
    torch.manual_seed(1)
    return SoftEquivariance(features, GROUPS, base=base, **settings)


def views(plan: Plan, pixels: list[Tensor]) -> Views:
    return views_of(pixels, [random_transform({**GROUPS, **plan.groups}, len(pixels[0])) for _ in pixels])


def penalty(backbone: Backbone, pixels: Tensor, name: str, element: int, monkeypatch, **settings: Any) -> float:
    one = objective(backbone.features, symmetries=[name], **settings)
    monkeypatch.setattr(one, "_element", lambda *_: element)
    with torch.no_grad():
        return float(one.symmetry_penalties(pixels, Cached(backbone)))


@pytest.mark.parametrize("name", SYMMETRIES)
def test_elements_act_as_a_group_and_lose_nothing(name: str) -> None:
    sides, one = (2, 2), SYMMETRIES[name]
    images = torch.randn(2, 3, 4, 4)
    maps = images if name != "hues" else images.roll(1, 1)
    moved = [one.move(images, element, sides) for element in range(one.order(sides))]
    assert torch.equal(moved[0], images)
    for first, second in product(range(len(moved)), repeat=2):
        twice = one.move(moved[first], second, sides)
        assert sum(torch.equal(twice, other) for other in moved) == 1
        assert torch.equal(moved[first], moved[second]) == (first == second)
    if name not in ("hues", "shifts"):
        for element in range(len(moved)):
            assert torch.equal(one.move_back(one.move(maps, element, sides), element), maps)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_regular_representation_is_one(order: int) -> None:
    maps = torch.randn(1, 2 * order + 1, 1, 1)
    for first, second in product(range(order), repeat=2):
        both = permute_back(permute_back(maps, first, order), second, order)
        assert torch.equal(both, permute_back(maps, (first + second) % order, order))
    assert torch.equal(permute_back(maps, 1, order)[:, -1], maps[:, -1])


@pytest.mark.parametrize(("name", "order"), [("turns", 4), ("flips", 2), ("hues", 3)])
def test_for_linear_maps_and_white_images_it_is_the_distance_of_weights_from_their_projection(name, order, monkeypatch):
    network = backbone(5)
    weight = network.model.layers[0].weight.detach()
    dimensions = {"turns": (2, 3), "flips": (3,), "hues": 1}[name]
    act = {"turns": torch.rot90, "flips": lambda w, g, axis: w.flip(axis) if g else w, "hues": torch.roll}[name]
    projected = torch.stack([act(weight, g, dimensions) for g in range(order)]).mean(0)
    torch.manual_seed(2)
    white = torch.randn(128, 3, 16, 16)
    found = sum(penalty(network, white, name, g, monkeypatch) for g in range(1, order)) / order
    expected = float((weight - projected).square().sum() / weight.square().sum())
    assert found == pytest.approx(expected, rel=0.02)


def test_equivariant_networks_pay_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network, pixels = backbone(4, 4), torch.randn(4, 3, 8, 8)
    assert penalty(network, pixels, "shifts", 11, monkeypatch) == pytest.approx(0, abs=1e-10)
    assert penalty(network, pixels, "turns", 1, monkeypatch) > 0.1
    with torch.no_grad():
        for layer in network.model.layers:
            layer.weight.copy_(torch.stack([layer.weight.rot90(g, (2, 3)) for g in range(4)]).mean(0))
    assert penalty(network, pixels, "turns", 1, monkeypatch) == pytest.approx(0, abs=1e-10)


def test_a_group_convolution_is_equivariant_where_channels_are_permuted(monkeypatch: pytest.MonkeyPatch) -> None:
    network, pixels = backbone(8), torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        weight = network.model.layers[0].weight
        # Block of one kernel in its four positions: turning the image turns the map and moves on to the next channel.
        turned = [torch.stack([kernel.rot90(g, (1, 2)) for g in range(4)]) for kernel in weight[::4].clone()]
        weight.copy_(torch.cat(turned))
    for element in (1, 2, 3):
        regular = penalty(network, pixels, "turns", element, monkeypatch, channels="regular")
        assert regular == pytest.approx(0, abs=1e-10)
        assert penalty(network, pixels, "turns", element, monkeypatch) > 0.1


def test_the_scale_of_features_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network, pixels = backbone(4), torch.randn(8, 3, 8, 8)
    before = penalty(network, pixels, "turns", 1, monkeypatch)
    with torch.no_grad():
        network.model.layers[0].weight.mul_(1e-3)
    assert penalty(network, pixels, "turns", 1, monkeypatch) == pytest.approx(before, rel=1e-4)


def test_strengths_follow_the_least_penalties_between_warm_up_and_t() -> None:
    one = objective(5, symmetries=["turns", "flips"], warmup=0.2, adapt_at=0.6, power=2.0, strength=3.0)
    penalties = [(0.1, 0.01), (0.2, 0.1), (0.8, 0.4), (0.9, 0.3), (0.6, 0.5), (0.7, 0.2), (0.01, 0.01), (0.01, 0.02)]
    network = backbone(5)
    for step, values in enumerate(penalties, start=1):
        one.penalties.copy_(torch.tensor(values))
        one.after_step(network, step, 10)
        # Steps 3 to 6 count: 0.6 and 0.2.
        expected = (3.0, 3.0) if step < 6 else (3.0 / 3.0**2, 3.0)
        torch.testing.assert_close(one.strengths, torch.tensor(expected))


def test_the_penalties_of_a_step_are_the_mean_of_its_batches() -> None:
    one, network = objective(4), backbone(4)
    one.adopt(network)
    batches = [views(one.plan, [torch.randn(8, 3, 8, 8) for _ in range(2)]) for _ in range(3)]
    for step in (1, 2):
        each = []
        for seen in batches:
            each.append(one.symmetry_penalties(seen[0].pixels, Cached(network)).detach())
            one.loss(seen, network)
        torch.testing.assert_close(one.penalties, torch.stack(each).mean(0))
        one.after_step(network, step, 10)


def scenes(batch: int, generator: torch.Generator) -> Tensor:
    """Light above, dark below, and blots anywhere: likely as they are when flipped, and not when turned."""
    light = torch.linspace(1, -1, 12).view(1, 1, 12, 1)
    blots = torch.randn(batch, 3, 12, 12, generator=generator)
    return light + 0.5 * F.avg_pool2d(blots, 3, 1, 1, count_include_pad=False)


def test_the_strength_of_a_symmetry_that_data_and_objective_break_falls() -> None:
    network, steps = backbone(8, 8), 40
    one = objective(8, {"name": "rotnet"}, symmetries=["turns", "flips"], warmup=0.3, adapt_at=1.0)
    optimiser = torch.optim.Adam([*network.parameters(), *one.parameters()], lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        upright = scenes(32, generator)
        losses = one.loss(views(one.plan, [upright.rot90(turn, (2, 3)) for turn in range(4)]), network)
        optimiser.zero_grad()
        total(losses).backward()
        optimiser.step()
        one.after_step(network, step, steps)
    turns, flips = one.strengths.tolist()
    assert flips == 1.0
    assert turns < 0.1


def test_where_a_base_drops_patches_whole_images_are_compared() -> None:
    base = {"name": "i-jepa", "predictor_width": 8, "predictor_depth": 1, "least_context": 4}
    network, one = build("soft-equivariance", backbone=vit(**MEAN_OF_PATCHES), base=base)
    seen = views(one.plan, [torch.randn(4, 3, 12, 12)])
    one.loss(seen, network)
    torch.testing.assert_close(one.penalties, one.symmetry_penalties(seen[0].pixels, Cached(network)).detach())


def test_an_objective_around_itself_is_refused_if_a_term_would_be_lost() -> None:
    network = backbone(4)
    for inner, refused in (("turns", True), ("hues", False)):
        base = {"name": "soft-equivariance", "base": VICREG, "symmetries": [inner]}
        one = objective(4, base, symmetries=["turns", "flips"])
        seen = views(one.plan, [torch.randn(4, 3, 8, 8) for _ in range(2)])
        error = pytest.raises(ValueError, match="base: its loss has a term 'equivariance_to_turns' too")
        with error if refused else nullcontext():
            one.loss(seen, network)


def test_one_more_image_of_each_sample_passes_the_backbone() -> None:
    network = backbone(4)
    one, counted = objective(4, symmetries=["turns", "flips", "hues"]), []
    network.model.layers[0].register_forward_pre_hook(lambda _, inputs: counted.append(len(inputs[0])))
    one.loss(views(one.plan, [torch.randn(8, 3, 8, 8) for _ in range(2)]), network)
    assert counted == [8, 8, 8]


def test_images_that_the_symmetries_do_not_fit_are_refused() -> None:
    network = backbone(4)
    one = objective(4, symmetries=["turns", "flips", "hues"])
    with pytest.raises(ValueError, match="batch_size: 2, but each of the 3 symmetries"):
        one.symmetry_penalties(torch.randn(2, 3, 8, 8), Cached(network))
    with pytest.raises(ValueError, match="images of 9 pixels do not divide into the 2 cells"):
        SYMMETRIES["shifts"].move(torch.randn(1, 3, 9, 9), 1, (2, 2))
