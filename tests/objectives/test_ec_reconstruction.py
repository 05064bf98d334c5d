"""Claims about equivariance-coherent reconstruction: who trains which channels, on which images, at what cost, around
which objective.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small import SIZES, VICREG, total, transformer, views_of
from torch import Tensor, nn

from ssl_inv.augment.policies import custom, dino, none
from ssl_inv.data.batches import StepBatches
from ssl_inv.data.source import Subset
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.data.sources.table import ViewTable
from ssl_inv.nn.backbones import Backbone, Cached, make_backbone
from ssl_inv.nn.parts import Part
from ssl_inv.objectives.base import Objective
from ssl_inv.objectives.ec_reconstruction import Decoder, ECReconstruction
from ssl_inv.objectives.vicreg import VICReg
from ssl_inv.run.recipe import RecipeError, load_recipe, resolve
from ssl_inv.testing import GROUPS, check_objective, random_transform
from ssl_inv.transforms import Transform
from ssl_inv.views import Crops, MultiCrop, Plan, Several, TransformPath, Views, ViewSequence
from ssl_inv.views.maker import ViewMaker

SIZE = 32
BASES: dict[str, dict[str, Any]] = {name: {"name": name, "projector": [24, 16]} for name in ("vicreg", "simclr", "sie")}
BASES["dino"] = {"name": "dino", "projector": [24, 16], "prototypes": 10, "local_crops": 3, "local_size": 16}
BASES["essl"] = {"name": "essl", "projector": [24, 16], "rotation_head": [16]}
WITHOUT_SIZE: dict[str, Any] = {"parameters": ["rotation"], "decoder": [8, 8]}


def network() -> Backbone:
    torch.manual_seed(0)
    return make_backbone(name="resnet18", stem="3x3-stride2", arguments={"channels": [8, 8, 16, 16]})


def patches() -> Backbone:
    return transformer(img_size=SIZE, patch_size=8, embed_dim=16, depth=2)


def reconstruction(backbone: Backbone, base: str = "vicreg", **settings: Any) -> ECReconstruction:
    objective = ECReconstruction(backbone.features, GROUPS, base=BASES[base], **{**WITHOUT_SIZE, **settings})
    objective.adopt(backbone)
    return objective


def solids(views: int = 2) -> RenderedSolids:
    return RenderedSolids(classes=4, objects=16, views=views, size=SIZE, primitives=4, seed=1)


def rendered_views(plan: Plan, source=None, augmentation=None, batch: int = 8) -> Views:
    source = source or solids()
    maker = ViewMaker(plan, source, augmentation or none(), (0.5,) * 3, (0.25,) * 3, seed=0)
    return maker(StepBatches(source, batch, maker.loaded_views, 0, way=maker.plan.way)[0])


def noise(plan: Plan, batch: int = 4) -> Views:
    torch.manual_seed(1)
    sizes = [SIZE, SIZE, SIZE, SIZE, 16, 16, 16][: plan.count]
    pixels = [torch.randn(batch, 3, side, side) for side in sizes]
    return views_of(pixels, [random_transform(GROUPS, batch) for _ in sizes])


def passed(backbone: Backbone, objective: Objective, views: Views) -> int:
    """How many images go through the backbone in one loss."""
    counted = []
    first = next(one for one in backbone.modules() if isinstance(one, nn.Conv2d))
    hook = first.register_forward_pre_hook(lambda _, inputs: counted.append(len(inputs[0])))
    objective.loss(views, backbone)
    hook.remove()
    return sum(counted)


@pytest.mark.parametrize("make", [network, patches])
def test_each_term_trains_its_own_channels(make: Any) -> None:
    backbone = make()
    objective = reconstruction(backbone)
    shown: list[Tensor] = []
    whole = backbone.model.forward_features

    def watched(pixels: Tensor) -> Tensor:
        shown.append(whole(pixels))
        shown[-1].retain_grad()
        return shown[-1]

    backbone.model.forward_features = watched
    kept = objective.invariant_features
    for named in (True, False):
        shown.clear()
        terms = objective.loss(noise(objective.plan), backbone)
        total({name: term for name, term in terms.items() if (name == "reconstruction") is named}).backward()
        assert len(shown) == 2
        for features in shown:
            gradient = features.grad if features.dim() == 3 else features.grad.movedim(1, -1)
            invariant, equivariant = (float(part.abs().sum()) for part in gradient.tensor_split([kept], dim=-1))
            assert (invariant == 0, equivariant == 0) == ((True, False) if named else (False, True))


def test_the_base_alone_is_what_it_would_be_on_its_channels() -> None:
    backbone = network().eval()
    objective = reconstruction(backbone, equivariant_share=0.25)
    views = noise(objective.plan)
    terms = objective.loss(views, backbone)
    features = [backbone(view.pixels)[:, :12] for view in views.views[:2]]
    assert isinstance(objective.base, VICReg)
    for name, term in objective.base.embedding_loss(*map(objective.base.projector, features)).items():
        torch.testing.assert_close(terms[name].value, term.value)
    assert terms.keys() - {"reconstruction"} == {"invariance", "variance", "covariance"}


def test_every_decoder_aims_at_its_own_image() -> None:
    backbone = network()
    objective = reconstruction(backbone, intermediates=3, weight=0.5)
    first, second, *between = (view.pixels for view in noise(objective.plan).views)
    maps = torch.randn(4, 16, 2, 2)
    images = [decoder(maps, (SIZE, SIZE)) for decoder in objective.decoders]
    assert not torch.equal(images[0], images[1])
    aims = (second, first, between[0])
    errors = [(made - image).square().mean() for made, image in zip(images, aims, strict=True)]
    torch.testing.assert_close(objective.reconstruction(maps, aims), torch.stack(errors).mean())
    term = objective.loss(noise(objective.plan), backbone)["reconstruction"]
    assert term.weight == 0.5
    weights = [one.linear.weight for one in objective.decoders]
    found = torch.autograd.grad(objective.reconstruction(maps, between), weights)
    assert all(bool(gradient.any()) for gradient in found)


@pytest.mark.parametrize(("side", "size", "layers"), [(2, 32, 4), (14, 224, 4), (3, 12, 2), (8, 64, 1), (4, 4, 3)])
def test_a_decoder_makes_images_of_any_size(side: int, size: int, layers: int) -> None:
    assert Decoder(6, [4] * layers)(torch.randn(1, 6, side, side), (size, size)).shape == (1, 3, size, size)


def test_each_view_passes_the_backbone_once() -> None:
    backbone = network()
    objective = reconstruction(backbone)
    assert passed(backbone, objective, noise(objective.plan)) == 2 * 4


def test_crops_of_a_base_pass_once_in_batches_of_one_size() -> None:
    backbone = network()
    objective = reconstruction(backbone, "dino")
    views = noise(objective.plan)
    assert passed(backbone, objective, views) == 5 * 4
    backbone.eval()
    maps = [backbone.feature_map(view.pixels)[:, objective.invariant_features :] for view in views.views[:2]]
    alone = objective.reconstruction(torch.cat(maps, dim=1), [view.pixels for view in views.views[2:4]])
    torch.testing.assert_close(objective.loss(views, backbone)["reconstruction"].value, alone)
    objective.after_step(backbone, 1, 10)


@pytest.mark.parametrize("base", ["sie", "dino", "essl"])
def test_the_first_two_views_of_a_base_are_those_of_a_path(base: str) -> None:
    objective, path = reconstruction(network(), base), TransformPath(2, ("rotation",))
    plan = objective.base.plan
    if isinstance(plan, Several):
        assert objective.plan == replace(plan, plans=(path, *plan.plans[1:]))
    else:
        crops = Several((path, MultiCrop((Crops(3, 16, (0.05, 0.4)),))), (None, 2))
        assert objective.plan == (path if base == "sie" else crops)


def test_crops_of_a_path_follow_the_policies_of_the_base() -> None:
    turned = dino(blur=[1.0, 0.0, 0.5], solarise=[0.0, 1.0, 0.0], extra=[{"name": "rotation", "degrees": 45}])
    path = TransformPath(2, ("angle",), size=24, scale=(0.9, 1.0))
    views = rendered_views(Several((path, MultiCrop((Crops(2, 16, (0.05, 0.1)),))), (None, 2)), augmentation=turned)
    assert [view.pixels.shape[-1] for view in views.views] == [24, 24, 24, 24, 16, 16]
    neutral = turned.groups["solarise"].neutral(8)
    solarised = [bool((view.transform["solarise"] != neutral).any()) for view in views.views]
    assert solarised == [False] + [True] * 3 + [False] * 2
    areas = [float(view.transform["crop"][:, 2:].prod(1).mean()) for view in views.views]
    assert min(areas[:4]) > 0.85
    assert max(areas[4:]) < 0.15


def test_images_between_are_renders_of_the_poses_between() -> None:
    source = Subset(solids(), np.arange(3, 16))
    names = ["rotation", "floor_hue", "light_theta", "light_phi", "light_hue"]
    x, y, *between = rendered_views(TransformPath(2, tuple(names)), source).views
    index = rendered_views(TransformPath(2, tuple(names)), source).index.numpy()
    for number, view in enumerate(between, start=1):
        expected = x.transform.path(y.transform, number / 3)
        images = source.render(index, expected)
        assert torch.equal((view.pixels * 0.25 + 0.5).mul(255).round().byte(), images.pixels)
        for name in names:
            group = source.groups[name]
            assert float(group.distance(view.transform[name], expected[name]).max()) < 1e-3
            whole = group.distance(x.transform[name], y.transform[name])
            gone = group.distance(x.transform[name], view.transform[name])
            torch.testing.assert_close(gone, whole * number / 3, rtol=1e-3, atol=2e-3)


def test_what_does_not_go_along_is_as_in_the_second_view() -> None:
    turned = custom(operations=[{"name": "crop"}, {"name": "rotation", "degrees": 40}])
    x, y, middle = rendered_views(TransformPath(1, ("rotation", "angle")), augmentation=turned).views
    for name in ("floor_hue", "light_theta", "crop"):
        assert torch.equal(middle.transform[name], y.transform[name])
        assert not torch.equal(middle.transform[name], x.transform[name])
    whole, half = (turned.groups["angle"].distance(x.transform["angle"], one.transform["angle"]) for one in (y, middle))
    torch.testing.assert_close(half, whole / 2)
    assert not bool(x.transform["angle"].any())


def test_views_are_rendered_as_they_are_stored() -> None:
    source = solids()
    stored = source.load(np.arange(16), np.ones(16, dtype=np.int64))
    again = source.render(np.arange(16), stored.transform)
    different = (stored.pixels != again.pixels).any(1).float().mean()
    assert float(different) < 0.01
    assert bool(again.readable.all())
    for name, value in stored.transform.values.items():
        assert torch.equal(again.transform[name], value)


def test_stored_images_lie_on_no_path(tmp_path: Any) -> None:
    from PIL import Image

    rows = ["path,object,azimuth[deg]"]
    for number in range(4):
        Image.new("RGB", (SIZE, SIZE), (number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{number // 2},{number}")
    (tmp_path / "views.csv").write_text("\n".join(rows))
    with pytest.raises(ValueError, match="along 'azimuth' are wanted, but this data is stored images"):
        rendered_views(TransformPath(2, ("azimuth",)), ViewTable(str(tmp_path)), batch=2)
    with pytest.raises(ValueError, match="objects of this data have 1 view; 2 are needed"):
        rendered_views(TransformPath(2, ("rotation",)), solids(views=1))
    with pytest.raises(TypeError, match="ViewTable has stored images"):
        ViewTable(str(tmp_path)).render(np.arange(2), Transform.empty())


@pytest.mark.parametrize("make", [network, patches])
def test_it_learns_one_batch_by_heart(make: Any) -> None:
    backbone = make()
    objective = reconstruction(backbone, decoder=[32, 16, 16, 16])
    views = rendered_views(objective.plan)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *objective.parameters()], lr=5e-3)
    values = []
    for _ in range(60):
        terms = objective.loss(views, backbone)
        values.append(float(terms["reconstruction"].value.detach()))
        optimizer.zero_grad()
        total(terms).backward()
        optimizer.step()
    assert values[-1] < values[0] / 2


SMALL_RUN: dict[str, Any] = {
    "backbone": {"name": "resnet18", "arguments": {"channels": [8, 8, 16, 16]}},
    "data": {"name": "rendered"},
    "trainer": {"steps": 1},
}


def recipe(**objective: Any) -> dict[str, Any]:
    settings = {"base": {"name": "vicreg"}, "parameters": ["rotation"], **objective}
    return {"objective": {"name": "ec-reconstruction", **settings}, **SMALL_RUN}


def test_a_recipe_has_all_settings_of_the_base() -> None:
    resolved = resolve(recipe(base={"name": "simclr", "temperature": 1}))
    assert resolved.objective.settings["base"] == {"name": "simclr", "projector": [2048, 128], "temperature": 1.0}


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"base": "vicreg"}, "base: expected a mapping, got 'vicreg'"),
        ({"base": {}}, "base.name: required; there are "),
        ({"base": {"name": "vicregg"}}, "base.name: no objective is called 'vicregg'; did you mean 'vicreg'?"),
        ({"base": {**VICREG, "projectr": [8]}}, "base.projectr: no such setting; did you mean 'projector'?"),
        ({"base": {"name": "simclr", "temperature": "hot"}}, "base.temperature: expected a number, got 'hot'"),
        ({"intermediates": 1.5}, "intermediates: expected a whole number"),
        ({"base": {"name": "vicreg", "projector": []}}, "base.projector: must name at least one width"),
        ({"parameters": ["rotatin"]}, "parameters: no view of this data records 'rotatin'; did you mean 'rotation'?"),
        ({"equivariant_share": 1.0}, "equivariant_share: must lie between 0 and 1"),
        (
            {"equivariant_share": 0.01},
            "equivariant_share: with 0.01 of 16, one of the two parts would have no features",
        ),
        ({"decoder": []}, "decoder: must name at least one width"),
        ({"decoder": [8, 0]}, "decoder: must name at least one width, all at least 1, got [8, 0]"),
        ({"weight": -1.0}, "weight: must be at least 0, got -1.0"),
        ({"intermediates": 0}, "intermediates: must be at least 1"),
    ],
)
def test_mistakes_in_a_recipe_are_named_by_their_key(objective: dict[str, Any], message: str) -> None:
    from ssl_inv.run.build import build_networks

    with pytest.raises(RecipeError) as error:
        build_networks(resolve(recipe(**objective)), GROUPS)
    assert str(error.value).startswith(f"objective.{message}")


@pytest.mark.parametrize(
    "base",
    [{"name": "seq-jepa", "parameters": ["crop"], **SIZES["seq-jepa"], "layers": 1}, {"name": "obow", **SIZES["obow"]}],
    ids=lambda base: str(base["name"]),
)
def test_a_base_whose_views_are_of_other_kinds_keeps_them_beside_those_of_the_path(base: dict[str, Any]) -> None:
    objective = ECReconstruction(16, GROUPS, base=base, parameters=["blur"], decoder=[8])
    assert isinstance(objective.plan, Several)
    assert objective.plan.plans[-1] == objective.path
    assert objective.plan.count == objective.base.plan.count + objective.path.count
    check_objective("ec-reconstruction", base=base, parameters=["blur"], decoder=[8])


def test_the_network_of_a_base_that_makes_one_vector_of_several_views_gets_its_channels() -> None:
    base = {"name": "seq-jepa", "parameters": ["rotation"], **SIZES["seq-jepa"]}
    objective, whole = ECReconstruction(16, GROUPS, base=base, **WITHOUT_SIZE).eval(), network()
    features, views = torch.randn(4, 3, 16), noise(ViewSequence(2))
    aggregate, of_base = objective.aggregation(whole), objective.base.aggregation(whole)
    assert aggregate is not None
    assert of_base is not None
    assert torch.equal(aggregate(features, views.actions()), of_base(features[..., :8], views.actions()))
    assert reconstruction(whole).aggregation(whole) is None


def test_views_with_dropped_patches_pass_again_as_a_whole() -> None:
    whole = patches()
    base = {"name": "msn", "projector": [24, 16], "prototypes": 10, "focal_views": 0, "patch_drop": 0.3}
    objective = ECReconstruction(16, GROUPS, base=base, **WITHOUT_SIZE)
    objective.adopt(whole)
    views = noise(objective.plan)
    maps = [Cached(whole).whole_map(view.pixels)[:, 8:] for view in views.views[:2]]
    alone = objective.reconstruction(torch.cat(maps, dim=1), [view.pixels for view in views.views[2:]])
    torch.testing.assert_close(objective.loss(views, whole)["reconstruction"].value, alone)


def test_what_a_backbone_hides_is_pooled_with_what_it_shows() -> None:
    whole = patches().eval()
    part = Part(whole, 10)
    pixels = torch.randn(2, 3, SIZE, SIZE)
    features = part.encode(pixels)
    part.encode(torch.randn(2, 3, SIZE, SIZE))
    torch.testing.assert_close(features.pooled, whole(pixels)[:, :10])
    torch.testing.assert_close(part(pixels), whole(pixels)[:, :10])
    torch.testing.assert_close(part.tokens(pixels), whole.tokens(pixels)[..., :10])
    assert part.model is whole.model
    assert Part(part, 4, start=3).model is whole.model
    torch.testing.assert_close(Part(part, 4, start=3)(pixels), whole(pixels)[:, 3:7])
    assert {name.removeprefix("model.") for name in part.state_dict()} == set(whole.state_dict())


@pytest.mark.parametrize("name", ["vicreg-ecr-rendered", "simclr-ecr-folder", "dino-ecr-folder"])
def test_recipes_of_it_build_their_networks(name: str) -> None:
    from ssl_inv.run.build import build_augmentation, build_networks

    resolved = load_recipe(name)
    backbone, objective = build_networks(resolved, {**GROUPS, **build_augmentation(resolved).groups})
    found = objective.representations(backbone.eval())(torch.zeros(1, 3, 32, 32))
    assert {"all", "invariant", "equivariant"} == found.keys()
