"""Two objectives, each with channels of its own."""

from typing import Any

import pytest
import torch
from small import OBOW_NETWORK, views_of
from torch import nn

from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.objectives.obow import OBoW
from ssl_inv.objectives.split import Split
from ssl_inv.run.build import build, build_networks
from ssl_inv.run.recipe import RecipeError, resolve
from ssl_inv.testing import GROUPS, random_transform
from ssl_inv.views import Pair, Several, Views

SIE = {"name": "sie", "equivariant_share": 1.0, "projector": [16, 8]}
VICREG = {"name": "vicreg", "projector": [16, 8]}
OBOW = {"name": "obow", "levels": 1, "vocabulary": 20, "border": 0, "window": 2}


class Network(nn.Module):
    """One convolution, so that every channel has weights of its own."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.passes = 0

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.convolution(pixels)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean((2, 3))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(pixels))


def networks(**settings: Any) -> tuple[Backbone, Network, Split]:
    torch.manual_seed(0)
    model = Network()
    backbone = Backbone(model, "one convolution")
    objective = Split(8, GROUPS, **{"invariant": VICREG, "equivariant": SIE, **settings})
    objective.adopt(backbone)
    return backbone, model, objective


def pair(batch: int = 4) -> Views:
    torch.manual_seed(1)
    return views_of(torch.randn(2, batch, 3, 6, 6), [random_transform(GROUPS, batch) for _ in range(2)])


@pytest.mark.parametrize(("part", "channels"), [("invariant", slice(0, 6)), ("equivariant", slice(6, 8))])
def test_each_objective_trains_its_own_channels(part: str, channels: slice) -> None:
    backbone, model, objective = networks(equivariant_share=0.25)
    terms = objective.loss(pair(), backbone)
    torch.stack([term.value for name, term in terms.items() if name.startswith(part)]).sum().backward()
    reached = model.convolution.weight.grad.flatten(1).abs().sum(1) > 0  # type: ignore[union-attr]
    assert reached[channels].all()
    assert int(reached.sum()) == channels.stop - channels.start


def test_shared_views_pass_the_backbone_once() -> None:
    backbone, model, objective = networks()
    assert objective.plan == Pair()
    objective.loss(pair(), backbone)
    assert model.passes == 2


def test_it_is_the_sum_of_what_both_are_alone() -> None:
    backbone, _, objective = networks(weight=0.5)
    views, alone = pair(), {}
    for base, weight in (("invariant", 1.0), ("equivariant", 0.5)):
        terms = getattr(objective, base).loss(views, objective.given(base, backbone))
        alone |= {f"{base}_{name}": weight * term.weight * term.value for name, term in terms.items()}
    together = {name: term.weight * term.value for name, term in objective.loss(views, backbone).items()}
    assert together.keys() == alone.keys()
    for name, value in together.items():
        torch.testing.assert_close(value, alone[name])


@pytest.mark.parametrize("levels", [1, 2])
def test_targets_are_made_of_the_own_channels_too(levels: int) -> None:
    backbone = make_backbone(**OBOW_NETWORK)
    objective = Split(8, GROUPS, invariant={**OBOW, "levels": levels}, equivariant=SIE)
    objective.adopt(backbone)
    obow = objective.invariant
    assert isinstance(obow, OBoW)
    assert [words.words.shape[1] for words in obow.words] == [6, 4][-levels:]  # type: ignore[operator]
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(obow.teacher(pixels)[-1], backbone.feature_map(pixels)[:, :4])


def test_other_views_stand_behind_those_of_the_invariant_objective() -> None:
    _, _, objective = networks(invariant=OBOW)
    assert isinstance(objective.plan, Several)
    assert objective.plan.plans[-1] == Pair()
    assert objective.plan.count == objective.invariant.plan.count + 2


def test_a_recipe_has_the_settings_of_both() -> None:
    objective = {"name": "split", "invariant": VICREG, "equivariant": SIE}
    recipe = resolve({"objective": objective, "data": {"name": "rendered"}, "trainer": {"steps": 1}})
    assert recipe.objective.settings["invariant"]["variance"] == 25
    assert build_networks(recipe, GROUPS)[1].parameters_used == ["rotation"]


@pytest.mark.parametrize(("views", "warned"), [("augmented", True), ("plain", False)])
def test_what_the_data_record_is_told_of_views_that_nothing_is_done_to(views, warned):
    content: dict[str, Any] = {
        "objective": {"name": "split", "invariant": VICREG, "equivariant": SIE, "equivariant_views": views},
        "backbone": {"name": "test_resnet"},
        "data": {"name": "rendered", "classes": 2, "objects": 16, "views": 2, "size": 16},
        "augmentation": {"name": "custom", "operations": [{"name": "flip", "probability": 1.0}]},
        "trainer": {"steps": 1, "batch_size": 4, "accelerator": "cpu"},
    }
    run = build(resolve(content))
    advice = "'flip' mirrors or turns views, but the objective is conditioned on 'rotation'"
    assert any(advice in said for said in run.start.passing) == warned
    batch = run.module.batches[0]
    mirrored, told = run.objective._views_of_both(run.module.view_maker(batch))  # type: ignore[operator]
    for number in range(2):
        own = run.module.view_maker.normalise(batch.images[number].pixels / 255)
        torch.testing.assert_close(mirrored[number].pixels, own.flip(-1))
        torch.testing.assert_close(told[number].pixels, own.flip(-1) if warned else own)


def test_views_that_nothing_is_done_to_must_be_there() -> None:
    objective = {"name": "split", "invariant": VICREG, "equivariant": SIE, "equivariant_views": "plain"}
    data = {"name": "rendered", "classes": 2, "objects": 16, "views": 1, "size": 16}
    content = {"objective": objective, "backbone": {"name": "test_resnet"}, "data": data}
    with pytest.raises(RecipeError, match=r"objects of this data have 1 view\(s\) and 2 are needed; choose other data"):
        build(resolve({**content, "augmentation": {"name": "simclr"}, "trainer": {"steps": 1, "batch_size": 4}}))


def test_a_layer_is_left_out_if_neither_part_learns_it() -> None:
    capsules = {"name": "equicaps", "capsules": 2, "map_side": 2}
    for other, left_out in ((capsules, True), (SIE, False)):
        backbone = make_backbone(name="test_convnext", arguments={})
        objective = Split(backbone.features, GROUPS, invariant=capsules, equivariant=other)
        objective.adopt(backbone)
        head = [one for name, one in backbone.model.named_parameters() if name.startswith("head.")]
        assert all(one.requires_grad != left_out for one in head)


def test_both_parts_say_what_their_memories_hold() -> None:
    memory = {"name": "odc", "clusters": 4, "smallest_cluster": 1, "projector": [8, 4]}
    _, _, objective = networks(invariant=memory, equivariant=memory)
    objective.allocate(16, 16)
    said = objective.diagnostics(None)
    assert {name.partition("_")[0] for name in said} == {"invariant", "equivariant"}
    assert len(said) == 2 * len(objective.invariant.diagnostics(None))
