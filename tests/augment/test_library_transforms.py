"""Any transform of torchvision or lightly depends on the key alone, is recorded, and is made again from its record."""

import inspect
import io
import json
import math
import pickle
import random
import re
from pathlib import Path
from typing import Any

import lightly.transforms
import numpy as np
import pytest
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from PIL import Image
from small import transformer
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from ssl_inv.augment import Seeded, foreign_transforms, from_library, torchvision_names
from ssl_inv.augment.foreign_transforms import WholeAugmentation
from ssl_inv.catalogue import AUGMENTATIONS, OPERATIONS, RecipeError
from ssl_inv.data.batches import Batch, StepBatches
from ssl_inv.data.source import Source
from ssl_inv.data.sources.folder import ImageFolder
from ssl_inv.engine.optimizers import make_optimizer
from ssl_inv.run.plain_yaml import parse_yaml
from ssl_inv.run.recipe import resolve
from ssl_inv.run.schema import filled_member
from ssl_inv.testing.processes import on_processes
from ssl_inv.transforms import Circle, Flag, Group, Key, Transform
from ssl_inv.views import Crops, MultiCrop, Pair, Plan, ViewSequence
from ssl_inv.views.maker import ViewMaker
from ssl_inv.views.makers import maker_of

SIDE, BATCHES = 40, ([0], [5], [3, 1], [6, 2, 4], [0, 1, 2, 3])
INNER = [{"name": "RandomHorizontalFlip"}, {"name": "ColorJitter", "brightness": 0.4}]
SETTINGS: dict[str, dict[str, Any]] = {
    "CenterCrop": {"size": 24},
    "ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "ElasticTransform": {"alpha": 20.0},
    "GaussianBlur": {"kernel_size": 5},
    "Grayscale": {"num_output_channels": 3},
    "JPEG": {"quality": [5, 50]},
    "Pad": {"padding": 2},
    "RandomAdjustSharpness": {"sharpness_factor": 2.0},
    "RandomAffine": {"degrees": 30.0, "translate": [0.1, 0.1], "scale": [0.8, 1.2], "shear": 10.0},
    "RandomCrop": {"size": 24},
    "RandomPosterize": {"bits": 2},
    "RandomResizedCrop": {"size": 24, "interpolation": "bicubic"},
    "RandomRotation": {"degrees": 30.0},
    "RandomSolarize": {"threshold": 0.5},
    "Resize": {"size": 24},
    **{name: {"transforms": INNER} for name in ("Compose", "RandomApply", "RandomChoice", "RandomOrder")},
}
"""Settings of classes that need some, or that change nothing without them."""

OF_ANY_SIZE = {
    "RandomResize": {"min_size": 30, "max_size": 50},
    "RandomShortestSize": {"min_size": [30, 40]},
    "RandomZoomOut": {},
    "ScaleJitter": {"target_size": [50, 50], "scale_range": [0.8, 1.5]},
}
"""Classes whose images differ in size, so a crop must follow."""

NAMES = [name for name in torchvision_names.names() if name not in OF_ANY_SIZE]

WITH_SIZES = ("input_size", "crop_size", "global_crop_size", "random_size")
LIGHTLY: dict[str, dict[str, Any]] = {
    **{
        f"{name}Transform": {f"view_{one}_transform": {"transform": f"{name}View{one}Transform"} for one in (1, 2)}
        for name in ("BYOL", "FDA", "TiCo")
    },
    "RandomRotateDegrees": {"prob": 1.0, "degrees": 30.0},
    "SMoGTransform": {"crop_sizes": [24, 16]},
    "SwaVTransform": {"crop_sizes": [24, 16]},
}
WHOLE = sorted(
    name
    for name, one in vars(lightly.transforms).items()
    if isinstance(one, type) and name not in foreign_transforms.REFUSED
)


def made(name: str, **settings: Any) -> Seeded:
    """The operation of a recipe, with all its defaults written out."""
    given = {"name": f"torchvision.{name}", **SETTINGS.get(name, {}), **settings}
    full, filled = filled_member(OPERATIONS, given, "test")
    operation: Seeded = OPERATIONS.find(full).load()(**filled)
    return operation


def whole(name: str, **settings: Any) -> WholeAugmentation:
    """lightly's transform with small views."""
    known = inspect.signature(getattr(lightly.transforms, name)).parameters
    own = {one: 24 for one in WITH_SIZES if one in known} | LIGHTLY.get(name, {})
    own |= {one: 16 for one in ("local_crop_size", "focal_size") if one in known}
    for inner in (one for one in own.values() if isinstance(one, dict)):
        inner["settings"] = {"input_size": 24}
    augmentation: WholeAugmentation = foreign_transforms.lightly(transform=name, settings={**own, **settings})
    return augmentation


def key(index: list[int], view: int = 0) -> Key:
    return Key(3, np.zeros(len(index), np.int64), np.array(index), view)


def images(count: int = 7, side: int = SIDE) -> Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def through_file(record: Transform) -> Transform:
    file = io.BytesIO()
    np.savez(file, **{name: value.numpy() for name, value in record.values.items()})
    groups = json.loads(json.dumps({name: group.record() for name, group in record.groups.items()}))
    values = {name: torch.from_numpy(value) for name, value in np.load(io.BytesIO(file.getvalue())).items()}
    return Transform(values, {name: Group.from_record(one) for name, one in groups.items()})


def generators() -> list[Any]:
    return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()]


def same(record: Transform, other: Transform, rows: list[int]) -> bool:
    return record.groups == other.groups and all(torch.equal(record[one], other[one][rows]) for one in other.names)


def test_every_transform_of_torchvision_is_offered_or_refused_with_a_reason() -> None:
    kinds = {name for name, one in vars(v2).items() if isinstance(one, type) and issubclass(one, v2.Transform)}
    assert {*torchvision_names.names(), *torchvision_names.REFUSED} == kinds - {"Transform"}
    for name, reason in torchvision_names.REFUSED.items():
        with pytest.raises(AttributeError, match=f"^torchvision.{name} cannot be used: {reason[:15]}"):
            getattr(torchvision_names, name)


def test_every_refused_transform_of_lightly_has_its_reason() -> None:
    for name, reason in foreign_transforms.REFUSED.items():
        assert hasattr(lightly.transforms, name)
        with pytest.raises(RecipeError, match=f"^transform: {name} cannot be used: {reason[:15]}"):
            foreign_transforms.lightly(transform=name)


@pytest.mark.parametrize("name", NAMES)
def test_views_and_records_of_torchvision_depend_on_the_key_alone_and_are_made_again(name: str) -> None:
    operation, pixels, before = made(name), images(), generators()
    views, record = operation(pixels, key([*range(7)]))
    for rows in BATCHES:
        some, of_some = operation(pixels[rows], key(rows))
        assert same(of_some, record, rows)
        assert torch.equal(some, views[rows])
    assert torch.equal(operation.replay(pixels, through_file(record)), views)
    assert torch.equal(pickle.loads(pickle.dumps(operation)).replay(pixels, record), views)
    assert generators() == before
    other, _ = operation(pixels, key([*range(7)], view=1))
    fixed = {"CenterCrop", "Grayscale", "Identity", "Pad", "RGB", "Resize"}
    assert torch.equal(other, views) == (name in fixed)


@pytest.mark.parametrize("name", WHOLE)
def test_views_and_records_of_lightly_depend_on_the_key_alone_and_are_made_again(name: str) -> None:
    augmentation, pixels, before = whole(name), (images() * 255).byte(), generators()
    for number, policy in enumerate(augmentation.policies[:3]):
        record = augmentation.draw(key([*range(7)], number), SIDE, SIDE)
        views = policy.render(pixels, record)
        side = policy.size or SIDE
        assert views.shape == (7, 3, side, side)
        assert 0 <= views.min() < views.max() <= 1
        for rows in BATCHES:
            some = augmentation.draw(key(rows, number), SIDE, SIDE)
            assert same(some, record, rows)
            assert torch.equal(policy.render(pixels[rows], some), views[rows])
        assert torch.equal(policy.render(pixels, through_file(record)), views)
    assert generators() == before


def _views_of(names: list[str]) -> list[Tensor]:
    rows = [[0, 3, 4], [6, 1]][distributed.get_rank()]
    return [made(name)(images()[rows], key(rows))[0] for name in names]


@pytest.mark.slow
def test_two_processes_make_the_views_of_one() -> None:
    names = ["ColorJitter", "RandomAffine", "GaussianNoise", "RandAugment"]
    parts = on_processes(2, _views_of, names)
    for number, name in enumerate(names):
        views, _ = made(name)(images(), key([*range(7)]))
        assert torch.equal(torch.cat([part[number] for part in parts]), views[[0, 3, 4, 6, 1]])


def test_views_are_those_that_torchvision_makes_from_this_seed() -> None:
    operation, pixels = made("RandomPerspective"), images()
    views, record = operation(pixels, key([*range(7)]))
    for row, seed in enumerate(record["RandomPerspective.seed"].tolist()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected = v2.RandomPerspective()(pixels[row])
        assert torch.equal(views[row], expected)
        assert bool(record["RandomPerspective.applied"][row]) != torch.equal(expected, pixels[row])


@pytest.mark.parametrize("name", ["RandomRotation", "RandomAffine"])
def test_a_record_with_another_angle_makes_the_view_of_that_angle(name: str) -> None:
    settings = {"degrees": 30.0, "interpolation": "bilinear"}
    operation, pixels = (
        Seeded(getattr(v2, name)(**{**settings, "interpolation": v2.InterpolationMode.BILINEAR})),
        images(),
    )
    _, record = operation(pixels, key([*range(7)]))
    assert record.groups[f"{name}.angle"] == Circle(2 * math.pi)
    assert record[f"{name}.angle"].abs().max() <= math.radians(30)
    turned = Transform({**record.values, f"{name}.angle": torch.full((7,), math.radians(20))}, record.groups)
    expected = functional.rotate(pixels, 20.0, interpolation=v2.InterpolationMode.BILINEAR, fill=[0.0])
    torch.testing.assert_close(operation.replay(pixels, turned), expected, rtol=0, atol=1e-4)


def test_parameters_are_recorded_in_the_units_of_records() -> None:
    operation = made("RandomResizedCrop", label="square")
    views, record = operation(images(), key([*range(7)]))
    expected = images()[2]
    top, left, height, width = (
        round(float(record[f"square.{one}"][2]) * SIDE) for one in ("top", "left", "height", "width")
    )
    bicubic = v2.InterpolationMode.BICUBIC
    crop = functional.resized_crop(expected, top, left, height, width, [24, 24], bicubic, antialias=True)
    assert torch.equal(views[2], crop)
    flags = made("RandomSolarize", p=0.3)(images(1).expand(400, -1, -1, -1), key([*range(400)]))[1]
    assert flags.groups["RandomSolarize.applied"] == Flag()
    assert abs(flags["RandomSolarize.applied"].mean() - 0.3) < 0.07


def test_a_list_of_torchvision_is_an_augmentation_whose_sizes_may_differ_on_the_way() -> None:
    jitter = {"name": "ColorJitter", "brightness": 0.4}
    for first, settings in OF_ANY_SIZE.items():
        members = [{"name": first, **settings}, {"name": "RandomCrop", "size": 24}, jitter]
        augmentation = foreign_transforms.torchvision(transform=members)
        record = augmentation.draw(key([0, 1, 2]), SIDE, SIDE)
        views = augmentation.render(images(3), record)
        assert views.shape == (3, 3, 24, 24)
        alone = augmentation.render(images(3)[1:2], augmentation.draw(key([1]), SIDE, SIDE))
        assert torch.equal(alone[0], views[1])
    assert {"RandomCrop.seed", "ColorJitter.seed"} <= set(record.names)
    with pytest.raises(ValueError, match=r"^transform: the list of torchvision's transforms makes views of different"):
        foreign_transforms.torchvision(transform=members[:1])


def test_normalisation_of_the_library_is_taken_out() -> None:
    theirs = lightly.transforms.SimCLRTransform(input_size=24)
    augmentation = from_library(theirs)
    views, _ = augmentation((images() * 255).byte(), key([*range(7)]))
    assert 0 <= views.min() < views.max() <= 1
    assert isinstance(theirs.transforms[0].transform.transforms[-1], v2.Normalize)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    chain = augmentation.policies[0].operations[0]
    record = augmentation.draw(key([*range(7)]), SIDE, SIDE)
    for row, seed in enumerate(record["SimCLRTransform.seed"].tolist()):
        before = torch.get_rng_state(), np.random.get_state()
        torch.manual_seed(seed)
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
        expected = theirs(functional.to_pil_image((images()[row] * 255).byte()))[0]
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        torch.testing.assert_close(functional.normalize(views[row], mean, std), expected, rtol=0, atol=1e-6)
    assert len(chain.parts) == 1


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Photographs of several shapes, in a folder."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(8):
        coarse = np.random.default_rng(number).integers(0, 256, (12, 9 + number, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((70 + 4 * number, 84), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return ImageFolder(str(folder), size=48)


def batch_of(source: Source, maker: ViewMaker, size: int) -> Batch:
    loaded: Batch = StepBatches(source, size, maker.loaded_views, 5, framing=maker.frames)[0]
    return loaded


DINO = MultiCrop((Crops(2, 24, (0.4, 1.0)), Crops(6, 16, (0.05, 0.4))))
TORCHVISION = [
    {"name": "RandomResizedCrop", "size": 24},
    {"name": "RandomHorizontalFlip"},
    {"name": "TrivialAugmentWide"},
]
PLANS: dict[str, tuple[Plan, dict[str, Any]]] = {
    "pair": (Pair(), {"name": "lightly", "transform": "SimCLRTransform", "settings": {"input_size": 24}}),
    "multi-crop": (
        DINO,
        {
            "name": "lightly",
            "transform": "DINOTransform",
            "settings": {"global_crop_size": 24, "local_crop_size": 16},
        },
    ),
    "sequence": (ViewSequence(3), {"name": "torchvision", "transform": TORCHVISION}),
}


@pytest.mark.parametrize("name", PLANS)
def test_photographs_serve_plans_whatever_the_batch_and_views_are_made_again(name: str, photographs: Source) -> None:
    plan, settings = PLANS[name]
    recipe = resolve({**RECIPE, "augmentation": settings}).augmentation
    augmentation = AUGMENTATIONS.find(recipe.name).load()(**recipe.settings)
    maker = ViewMaker(plan, photographs, augmentation, [0.5] * 3, [0.25] * 3, seed=1)
    assert pickle.loads(pickle.dumps(maker.frames))
    large = batch_of(photographs, maker, 6)
    views = maker(large)
    assert [len(view.pixels) for view in views.views] == [6] * plan.count
    sizes = [view.pixels.shape[-1] for view in views.views]
    assert sizes == ([24, 24] + [16] * 6 if name == "multi-crop" else [24] * plan.count)
    small = {int(one): row for row, one in enumerate(large.index)}
    for view, number in zip(views.views, range(plan.count), strict=True):
        assert torch.equal(maker.render(large.images, view.transform, number), view.pixels)
        assert view.pixels.min() < -0.2
    other = batch_of(photographs, maker, 3)
    again = maker(other)
    shared = [(row, small[sample]) for row, sample in enumerate(other.index.tolist()) if sample in small]
    assert shared
    for here, there in shared:
        for one, first in zip(again.views, views.views, strict=True):
            assert torch.equal(one.pixels[here], first.pixels[there])


RECIPE = {"objective": {"name": "simclr"}, "data": {"name": "rendered"}, "trainer": {"steps": 1}}


def test_a_library_may_stand_within_our_policies_and_beside_kornia() -> None:
    extra = [{"name": "torchvision.RandomPosterize", "bits": 3}, {"name": "kornia.RandomGamma", "gamma": [0.5, 2.0]}]
    chosen = resolve({**RECIPE, "augmentation": {"name": "simclr", "size": 24, "extra": extra}}).augmentation
    augmentation = AUGMENTATIONS.find(chosen.name).load()(**chosen.settings)
    augmentation.policies[0].check(SIDE)
    views, record = augmentation(images(), key([*range(7)]))
    assert {"RandomPosterize.seed", "RandomPosterize.applied", "RandomGamma.gamma_factor"} <= set(record.names)
    assert torch.equal(augmentation.render(images(), record), views)


def test_the_shares_of_a_plan_must_be_those_of_the_transform(photographs: Source) -> None:
    small = {"global_crop_size": 24, "local_crop_size": 16}
    wrong: list[tuple[dict[str, Any], Plan, str]] = [
        ({**small, "n_local_views": 4}, DINO, "DINOTransform makes 6 views, and 8 are wanted"),
        (small, Pair(), "DINOTransform makes 8 views, and 2 are wanted"),
        (
            {"global_crop_size": 24},
            DINO,
            "DINOTransform makes views of 96 pixels, and 16 are wanted; give both the same",
        ),
        (
            {**small, "local_crop_scale": [0.05, 0.3]},
            DINO,
            "DINOTransform takes crops of 0.05 to 0.3 of the area, and 0.05 to 0.4 are wanted; give both the same",
        ),
    ]
    for settings, plan, sentence in wrong:
        augmentation = foreign_transforms.lightly(transform="DINOTransform", settings=settings)
        with pytest.raises(ValueError, match=f"^augmentation: {re.escape(sentence)}$"):
            ViewMaker(plan, photographs, augmentation, [0.5] * 3, [0.25] * 3, 0)


class Grey:
    """Somebody's own transform: it gives one channel."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.convert("L")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such transform of lightly": (
        {"name": "lightly", "transform": "SimCLRTransfrm"},
        r"transform: lightly has no transform called 'SimCLRTransfrm'; did you mean 'SimCLRTransform'\?",
    ),
    "no such argument of lightly": (
        {"name": "lightly", "transform": "SimCLRTransform", "settings": {"input_sze": 3}},
        r"settings.input_sze: SimCLRTransform has no such argument; did you mean 'input_size'\?",
    ),
    "normalising twice": (
        {"name": "lightly", "transform": "SimCLRTransform", "settings": {"normalize": None}},
        "settings.normalize: views are normalised as the section `normalization` says",
    ),
    "a value that lightly refuses": (
        {"name": "lightly", "transform": "RandomRotateDegrees", "settings": {}},
        "settings: RandomRotateDegrees refuses its settings: .*prob",
    ),
    "no mapping": ({"name": "torchvision", "transform": ["RandomInvert"]}, r"transform\[0\].name: must be a mapping"),
    "nothing": ({"name": "torchvision", "transform": []}, "transform: must have at least one transform"),
    "no such transform of torchvision": (
        {"name": "torchvision", "transform": [{"name": "RandomInvrt"}]},
        r"transform\[0\].name: torchvision has .*did you mean 'torchvision.RandomInvert'\?",
    ),
    "no such argument of torchvision": (
        {
            "name": "torchvision",
            "transform": [{"name": "RandomApply", "transforms": [{"name": "RandomInvert", "q": 1}]}],
        },
        r"transform\[0\].transforms\[0\].q: torchvision.RandomInvert has no such argument; there are p",
    ),
    "a member of no enumeration": (
        {"name": "torchvision", "transform": [{"name": "Resize", "size": 24, "interpolation": "bicubc"}]},
        r"transform\[0\].interpolation: 'bicubc' is no InterpolationMode; did you mean 'bicubic'\?",
    ),
    "two of one name": (
        {"name": "torchvision", "transform": [{"name": "RandomInvert"}, {"name": "RandomInvert"}]},
        "two operations draw 'RandomInvert.applied'; a view has one value of it, so give one of them a `label`",
    ),
    "a group of a parameter that is not there": (
        {"name": "torchvision", "transform": [{"name": "RandomInvert", "groups": {"angle": {"name": "real"}}}]},
        "groups.angle: RandomInvert records no such parameter",
    ),
    "one channel": (
        {"name": "torchvision", "transform": [{"name": "Grayscale"}]},
        r"transform\[0\].transform: Grayscale cannot change an image: it makes a tensor of shape \(1, 256, 256\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(case: str) -> None:
    settings, sentence = REFUSED[case]
    chosen = resolve({**RECIPE, "augmentation": settings}).augmentation
    with pytest.raises(ValueError, match=sentence) as caught:
        AUGMENTATIONS.find(chosen.name).load()(**chosen.settings)
    assert "\n" not in str(caught.value)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a typo": ({"name": "torchvision.RandomInvrt"}, r"torchvision has no .*did you mean 'torchvision.RandomInvert'\?"),
    "an argument": ({"name": "torchvision.RandomInvert", "q": 1}, r"extra\[0\].q: no such setting"),
    "a missing one": ({"name": "torchvision.RandomPosterize"}, r"extra\[0\].bits: required"),
    "a type": ({"name": "torchvision.RandomInvert", "p": "x"}, r"extra\[0\].p: expected a number, got 'x'"),
    "boxes": ({"name": "torchvision.RandomIoUCrop"}, "cannot be used: it changes boxes"),
    "mixing": ({"name": "torchvision.CutMix"}, "so a view would depend on its batch"),
    "normalisation": ({"name": "torchvision.Normalize"}, "section `normalization`"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_in_a_recipe_are_named_with_their_place(case: str) -> None:
    operation, sentence = WRONG[case]
    with pytest.raises(RecipeError, match=sentence):
        resolve({**RECIPE, "augmentation": {"name": "simclr", "extra": [operation]}})


def test_a_transform_that_gives_no_image_or_changes_the_size_within_a_policy_is_refused() -> None:
    with pytest.raises(ValueError, match=r"transform: Grey cannot change an image: it makes a tensor of shape \(1,"):
        from_library(Grey())
    resizing = {"name": "torchvision.Resize", "size": 10}
    augmentation = AUGMENTATIONS.find("none").load()(extra=[resizing])
    with pytest.raises(ValueError, match="Resize makes 10x10 of views of 40x40 pixels; it must keep their size"):
        augmentation.policies[0].check(SIDE)


PAGE = (Path(__file__).parents[2] / "docs" / "libraries.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_page_on_libraries_runs(block: str) -> None:
    before = generators()
    exec(compile(block, "libraries.md", "exec"), {"__name__": "page"})
    assert generators()[1:] == before[1:]


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_recipes_of_the_page_on_libraries_can_be_made(block: str) -> None:
    recipe = resolve({**RECIPE, **parse_yaml(block)})
    augmentation = AUGMENTATIONS.find(recipe.augmentation.name).load()(**recipe.augmentation.settings)
    if "optimizer:" in block and "mine." not in block:
        assert make_optimizer([transformer()], **recipe.optimizer)
    if recipe.objective.name == "dino":
        plan = MultiCrop((Crops(2), Crops(6, 96, (0.05, 0.4))))
        assert maker_of(plan, augmentation)
