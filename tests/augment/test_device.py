"""On a GPU nothing is left on the host, which is told without one: views of every plan by every policy."""

from dataclasses import replace

import pytest
import torch

from ssl_inv.augment.policy import Augmentation
from ssl_inv.catalogue import AUGMENTATIONS, OPERATIONS
from ssl_inv.data.batches import StepBatches
from ssl_inv.data.source import Images
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.run.schema import schema_of
from ssl_inv.testing.device import DEVICE, PretendedGPU, left_on_host
from ssl_inv.views import Crops, MultiCrop, Pair, Patches, Plan, QuarterTurns, Saccades, TransformPath, View
from ssl_inv.views.maker import ViewMaker

PLANS: list[Plan] = [
    MultiCrop((Crops(1, 24), Crops(1, 16, (0.1, 0.3)))),
    TransformPath(2, ("angle",)),
    Patches(view=36, patch=12, jitter=2, keep=3),
    Saccades(1, patch=12),
    QuarterTurns(),
]
ROTATION = {"name": "rotation", "degrees": 30}


def policy(name: str) -> Augmentation:
    """A policy by name, with a rotation; `custom` with every operation, where those that are parts of `affine` are left
    to it.
    """
    parts = ("rotation", "shear", "scale", "translation", "shared")
    operations = [{"name": one} for one in OPERATIONS.members if one not in parts]
    settings = {"size": 32, "extra": [ROTATION], "operations": operations}
    known = schema_of(AUGMENTATIONS.find(name)).settings
    return AUGMENTATIONS.find(name).load()(**{key: value for key, value in settings.items() if key in known})


def assert_made_there(plan: Plan, augmentation: Augmentation, source: RenderedSolids) -> None:
    maker = ViewMaker(plan, source, augmentation, [0.5] * 3, [0.2] * 3, seed=0)
    gpu = PretendedGPU()
    batch = StepBatches(source, 4, maker.loaded_views, 0, 0, 1, maker.plan.way, maker.plan.linked)[0]
    there = [Images(gpu.tensor(one.pixels), one.transform.map(gpu.tensor), one.readable) for one in batch.images]
    gpu.module(maker)
    views: list[View] = []
    with gpu:
        assert left_on_host(lambda: views.extend(maker(replace(batch, images=tuple(there))).views)) is None
    assert {one.device for view in views for one in (view.pixels, *view.transform.values.values())} == {DEVICE}


class Plain(RenderedSolids):
    """Images of which nothing is known."""

    groups = {}


# The transforms of other libraries run on the host.
OURS = [name for name in AUGMENTATIONS.members if name not in ("lightly", "torchvision")]

MADE = [(Pair(), name) for name in OURS] + [(plan, "simclr") for plan in PLANS]


@pytest.mark.parametrize(("plan", "name"), MADE, ids=lambda one: one if isinstance(one, str) else type(one).__name__)
def test_every_policy_and_every_plan_makes_its_views_on_the_device(plan, name):
    assert_made_there(plan, policy(name), Plain(classes=4, objects=8, views=1, size=48))


@pytest.mark.parametrize("plan", [Pair(), TransformPath(2, ("rotation",))], ids=lambda plan: type(plan).__name__)
def test_views_of_the_data_stay_on_the_device(plan):
    assert_made_there(plan, AUGMENTATIONS.find("none").load()(), RenderedSolids(classes=4, objects=8, views=2, size=48))


def test_what_stays_on_the_host_is_found():
    gpu = PretendedGPU()
    there = gpu.tensor(torch.ones(3))
    with gpu:
        assert left_on_host(lambda: there + torch.zeros(3, device=there.device)) is None
        assert "same device" in str(left_on_host(lambda: there + torch.zeros(3)))
        assert "numpy" in str(left_on_host(there.numpy))
        later = left_on_host(lambda: [there.cpu().numpy(), there + torch.zeros(3)])
        assert later is None, "what comes after a value is not looked at"
        with pytest.raises(RuntimeError, match="broadcast"):
            left_on_host(lambda: there + there.new_zeros(2))
