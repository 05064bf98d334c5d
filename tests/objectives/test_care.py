"""Claims about CARE: one orthogonal map for each chunk of samples with shared augmentations."""

import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_inv.augment.operation import operations_of
from ssl_inv.augment.policies import custom
from ssl_inv.engine.preflight import require_batch
from ssl_inv.nn import losses
from ssl_inv.objectives.care import CARE
from ssl_inv.testing import GROUPS
from ssl_inv.transforms import Code
from ssl_inv.transforms.keyed_random import Key


def on_sphere(*shape: int) -> Tensor:
    return nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_care_asks_for_one_orthogonal_map_a_chunk():
    torch.manual_seed(0)
    x, chunk = on_sphere(12, 5), torch.arange(12) // 4
    maps = torch.linalg.qr(torch.randn(3, 5, 5, dtype=torch.float64))[0]
    moved = torch.einsum("bij,bj->bi", maps[chunk], x)
    assert losses.gram_difference(3 * x, moved, chunk) < 1e-20
    assert losses.gram_difference(x, moved, torch.zeros(12)) > 1e-3
    assert losses.gram_difference(x, on_sphere(12, 5), torch.arange(12)) == 0


NAME = "shared"
SHARED = [{"name": NAME, "samples": 4, "operations": [{"name": "crop"}, {"name": "jitter"}]}]


def test_samples_of_a_chunk_are_augmented_alike():
    augmentation = custom(operations=SHARED)
    index = np.array([7, 3, 9, 1, 4, 0, 2, 8])
    drawn = [augmentation.draw(Key(0, np.zeros_like(index), index, view), 32, 32) for view in (0, 1)]
    for name, value in drawn[0].values.items():
        rows = value.reshape(2, 4, -1)
        assert (rows == rows[:, :1]).all(), name
    assert drawn[0]["chunk"].tolist() == [7] * 4 + [4] * 4
    assert not torch.equal(drawn[0]["crop"][:4], drawn[0]["crop"][4:])
    assert not torch.equal(drawn[0]["crop"], drawn[1]["crop"])
    second_process = augmentation.draw(Key(0, 0, index[4:], 0), 32, 32)
    assert all(torch.equal(value, drawn[0][name][4:]) for name, value in second_process.values.items())


@pytest.mark.parametrize(
    ("samples", "names", "sentence"),
    [
        (1, ["crop"], ".samples: must be at least 2, got 1"),
        (4, [], ".operations: is empty, at least one is needed"),
        (4, ["crop", "crop"], ": two operations draw 'crop'; a view has one value of it"),
        (4, ["crop", "corp"], ".operations[1].name: no operation is called 'corp'; did you mean 'crop'?"),
    ],
    ids=str,
)
def test_shared_operations_refuse(samples, names, sentence):
    with pytest.raises(ValueError, match=re.escape(f"operations[0]{sentence}") + "$"):
        operations_of([{"name": NAME, "samples": samples, "operations": [{"name": one} for one in names]}])


def test_care_needs_augmentations_that_are_shared():
    with pytest.raises(ValueError, match=r"^chunk: no view of this data records 'chunk'; the operation 'shared' does$"):
        CARE(6, GROUPS)
    assert CARE(6, {"chunk": Code()}).plan.own_views == 1


def test_a_chunk_does_not_stand_on_two_processes():
    augmentation = custom(operations=SHARED)
    require_batch(6, nn.Identity(), augmentation, processes=1)
    require_batch(16, nn.Identity(), augmentation, processes=2)
    message = "batch_size: must be a multiple of 4 samples that are augmented alike times 2 processes, 8; got 12"
    with pytest.raises(ValueError, match=message):
        require_batch(12, nn.Identity(), augmentation, processes=2)
