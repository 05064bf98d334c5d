"""Claims about datasets of torch and torchvision: items of every form are images, labels come without reading one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import load_all

from ssl_inv.data.sources.torchvision import DatasetSource, torchvision_dataset


class Items:
    """Ten items of one form, as a dataset."""

    def __init__(self, item: Callable[[int], object]) -> None:
        self.item = item

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> object:
        return self.item(index)


def grey(value: int) -> torch.Tensor:
    return torch.full((1, 4, 4), value, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("item", "labelled"),
    [
        (grey, False),
        (lambda n: (grey(n), n % 3), True),
        (lambda n: (grey(n)[0], torch.tensor(n % 3)), True),
        (lambda n: [grey(n).float() / 255, "a caption"], False),
        (lambda n: (Image.new("L", (4, 4), n), np.int64(n % 3)), True),
        (lambda n: np.full((4, 4, 3), n, dtype=np.uint8), False),
    ],
    ids=["tensor", "pair", "2-d, tensor class", "float", "PIL", "array"],
)
def test_dataset_items(item, labelled):
    source = DatasetSource(Items(item))
    images = load_all(source)
    assert images.pixels.shape == (10, 3, 4, 4)
    assert images.pixels[:, 2, 1, 1].tolist() == list(range(10))
    assert (source.labels and source.labels.classes.tolist()) == ([n % 3 for n in range(10)] if labelled else None)


def test_labels_come_from_targets_without_reading_an_image():
    items = Items(grey)
    items.targets = [-1, *range(9)]
    items.classes = list("abcdefghi")
    source = DatasetSource(torch.utils.data.Subset(items, [0, 3, 1]))
    items.item = lambda index: pytest.fail("an image was read")
    assert source.labels.known.tolist() == [False, True, True]
    assert source.labels.classes[1:].tolist() == [2, 0]
    assert source.labels.names == tuple("abcdefghi")


def test_classes_are_those_that_a_target_transform_makes():
    items = Items(lambda number: (grey(number), number // 2))
    items.targets = list(range(10))
    items.target_transform = lambda number: number // 2
    labels = DatasetSource(items).labels
    assert labels.classes.tolist() == [number // 2 for number in range(10)]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (lambda n: grey(n).float() - 2.0, r"item 0: float images must lie in \[0, 1\]"),
        (lambda n: {"image": grey(n)}, "begin with one, got dict"),
        (lambda n: torch.zeros(2, 4, 4, dtype=torch.uint8), "1, 3 or 4 channels"),
        (lambda n: grey(n).long(), "must be uint8"),
    ],
)
def test_dataset_errors(item, message):
    with pytest.raises(ValueError, match=message):
        DatasetSource(Items(item))


def test_torchvision_errors(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'FashionMNIST'"):
        torchvision_dataset(dataset="FashonMNIST", root=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*download: true"):
        torchvision_dataset(dataset="FashionMNIST", root=str(tmp_path))
