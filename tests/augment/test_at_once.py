"""On a GPU, views are made with few calls, of which the batch size changes nothing, and they are those of the CPU."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssl_inv.augment import portions
from ssl_inv.augment.colour import Grey
from ssl_inv.augment.operation import Normalisation
from ssl_inv.augment.policies import custom, simclr
from ssl_inv.augment.policy import Augmentation, Policy
from ssl_inv.catalogue import OPERATIONS
from ssl_inv.transforms.keyed_random import Key

PARTS = ("rotation", "translation", "scale", "shear", "shared")
EVERYTHING: list[dict[str, Any]] = [{"name": name} for name in OPERATIONS.members if name not in PARTS]
ALONE = [one for one in EVERYTHING if one["name"] != "random_field"]
AUGMENTATIONS = {
    "simclr": simclr(size=32),
    "linear hue": simclr(size=32, hue="linear"),
    "everything": custom(operations=EVERYTHING, size=32),
    **{one["name"]: custom(operations=[{**one, "probability": 0.6}], size=32) for one in ALONE},
}
NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def images(batch: int = 6, size: int = 48) -> Tensor:
    coarse = torch.rand(batch, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    pixels = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return pixels.clamp(0, 1).mul(255).round().to(torch.uint8)


def key(count: int) -> Key:
    return Key(3, 0, np.arange(count), 0)


class Calls(TorchDispatchMode):
    """Counts operations on the meta device, of which those that consist of others are counted as these."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            parts = function.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        result = function(*args, **kwargs)
        leaves = tree_leaves((args, kwargs, result))
        self.count += any(isinstance(one, Tensor) and one.device.type == "meta" for one in leaves)
        return result


def calls(augmentation: Augmentation, batch: int) -> int:
    pixels = torch.empty(batch, 3, 256, 256, dtype=torch.uint8, device="meta")
    transform = augmentation.draw(key(batch), 256, 256)
    with Calls() as counted:
        augmentation.policy(0).render(pixels, transform, normalisation=NORMALISATION)
    return counted.count


def test_a_normalised_view_of_a_batch_of_any_size_takes_at_most_250_calls():
    counts = [calls(simclr(size=224), batch) for batch in (64, 256, 1024)]
    assert counts[0] == counts[1] == counts[2] <= 250


def test_calls_are_counted():
    with Calls() as counted:
        torch.ones(2, device="meta").add_(1).view(2, 1)
    assert counted.count == 3


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU makes views as a GPU does."""
    monkeypatch.setattr(portions, "few_calls", lambda device: True)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_both_ways_of_making_views_agree(name, monkeypatch):
    augmentation, pixels = AUGMENTATIONS[name], images(48) / 255
    transform = augmentation.draw(key(48), 48, 48)
    expected = augmentation.policy(0).render(pixels, transform, normalisation=NORMALISATION)
    monkeypatch.setattr(portions, "few_calls", lambda device: True)
    found = augmentation.policy(0).render(pixels, transform, normalisation=NORMALISATION)
    assert found.is_contiguous(memory_format=torch.channels_last)
    # Next to a threshold, of solarising or of a level, a rounding error decides.
    apart = (found - expected).abs() > 3e-5
    assert apart.float().mean() < (2e-3 if name in ("everything", "solarise", "posterise") else 1e-9)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.usefixtures("at_once")
def test_a_view_does_not_depend_on_its_batch(name):
    augmentation, pixels = AUGMENTATIONS[name], images(48)
    views, transform = augmentation(pixels, key(48))
    for rows in np.array_split(np.random.default_rng(0).permutation(48), 5):
        some = augmentation.render(pixels[rows], transform.select(torch.from_numpy(rows)))
        assert torch.equal(some, views[rows])


class Darker(Grey):
    """An operation of another package that knows nothing of batches made at once."""

    @staticmethod
    def apply(views, rows, record, style):
        views[rows] /= 2


@pytest.mark.usefixtures("at_once")
def test_a_class_with_an_apply_of_its_own_is_applied_by_it():
    views, _ = Augmentation((Policy((Darker(probability=1),)),))(images(), key(6))
    torch.testing.assert_close(views, images() / 255 / 2)
