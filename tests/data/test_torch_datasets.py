"""Claims about datasets of torch and torchvision: items of every form are images, labels come without reading one."""

import inspect
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from small_data import load_all

from ssl_inv.catalogue import SettingError
from ssl_inv.data.sources.torchvision import DatasetSource, torchvision_dataset
from ssl_inv.data.sources.torchvision_parts import REFUSED, parts_of
from ssl_inv.trust import VARIABLE


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
        (lambda n: grey(n).long(), "must be uint8"),
    ],
)
def test_dataset_errors(item, message):
    with pytest.raises(ValueError, match=message):
        DatasetSource(Items(item))


PLANS = {
    **dict.fromkeys(
        ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "Kitti", "MNIST", "USPS"), ("train", True, [False])
    ),
    "EMNIST": ("train", True, [False]),
    "INaturalist": ("version", "2021_train", ["2021_valid"]),
    "LSUN": ("classes", "train", ["val", "valid", "test"]),
    "OxfordIIITPet": ("split", "trainval", ["test"]),
    "Places365": ("split", "train-standard", ["val"]),
    "QMNIST": ("what", "train", ["test"]),
    **dict.fromkeys(("SBDataset", "VOCDetection", "VOCSegmentation"), ("image_set", "train", ["val", "valid", "test"])),
    **dict.fromkeys(
        ("Caltech101", "Caltech256", "CocoCaptions", "CocoDetection", "EuroSAT", "FakeData"), (None, None, [])
    ),
    **dict.fromkeys(
        ("Flickr30k", "Flickr8k", "ImageFolder", "LSUNClass", "Omniglot", "SBU", "SEMEION"), (None, None, [])
    ),
    "SUN397": (None, None, []),
}
"""The parameter that chooses the part, the part to train on and those to judge by; of all others `split`."""

PLANNED = [name for name in torchvision.datasets.__all__ if name not in REFUSED]

NEEDED = {
    "CocoCaptions": {"annFile": "a.json"},
    "CocoDetection": {"annFile": "a.json"},
    "EMNIST": {"split": "letters"},
    "Flickr30k": {"ann_file": "a.txt"},
    "Flickr8k": {"ann_file": "a.txt"},
}


@pytest.mark.parametrize("name", torchvision.datasets.__all__)
def test_every_class_of_torchvision_is_called_by_its_signature_or_refused_in_one_line(name, monkeypatch):
    if name in REFUSED:
        with pytest.raises(SettingError, match=f"^dataset: torchvision's {name} (gives|is no data set)") as caught:
            parts_of(name, "/data")
        assert "\n" not in str(caught.value)
        return
    chooser, trained, judged = PLANS.get(name, ("split", "train", ["val", "valid", "test"]))
    needed = NEEDED.get(name, {})
    monkeypatch.setenv(VARIABLE, "torchvision.datasets")  # for LSUN
    train, others = parts_of(name, "/data", arguments=needed)
    for part in (train, *others):
        inspect.signature(part.make).bind(**part.arguments)
        assert part.arguments.get("root", "/data") == "/data"
        assert needed.items() <= part.arguments.items()
    assert [one.arguments.get(chooser) for one in (train, *others)] == [trained, *judged]
    if needed:
        with pytest.raises(SettingError, match=f"^arguments: torchvision's {name} needs '{next(iter(needed))}'"):
            parts_of(name, "/data")


def test_no_class_of_torchvision_unpickles_what_was_not_checked_unless_it_is_allowed(monkeypatch):
    unsafe = re.compile(r"pickle\.load\(|torch\.load\((?!.*weights_only=True)|allow_pickle=True")
    code = {one: inspect.getsource(inspect.getmodule(getattr(torchvision.datasets, one))) for one in PLANNED}
    found = {name for name in PLANNED if unsafe.search(code[name])}
    assert found == {"CIFAR10", "CIFAR100", "LSUN", "LSUNClass"}
    # Checksums are compared before files are opened.
    steps = re.findall(r"self\._check_integrity\(\)|\bcheck_integrity\(path|pickle\.load\(", code["CIFAR10"])
    assert steps[:4] == ["self._check_integrity()", "pickle.load(", "check_integrity(path", "pickle.load("]
    for name in ("LSUN", "LSUNClass"):
        monkeypatch.delenv(VARIABLE, raising=False)
        with pytest.raises(SettingError, match=f"^dataset: torchvision's {name} .*: --trust torchvision.datasets"):
            parts_of(name, "/data")
        monkeypatch.setenv(VARIABLE, "torchvision")
        assert parts_of(name, "/data")


@pytest.mark.parametrize(
    ("name", "settings", "problem"),
    [
        ("FashonMNIST", {}, "dataset: torchvision has no dataset 'FashonMNIST'; did you mean 'FashionMNIST'?"),
        ("EMNIST", {}, "arguments: .* needs 'split': `arguments: {split: ...}`; there are byclass, bymerge, balanced"),
        (
            "DTD",
            {"arguments": {"partion": 2}},
            "arguments: torchvision's DTD has no 'partion'; did you mean 'partition'",
        ),
        (
            "CIFAR10",
            {"arguments": {"partition": 2}},
            "arguments: torchvision's CIFAR10 has no 'partition'; CIFAR10 takes",
        ),
        ("DTD", {"arguments": {"split": "val"}}, "arguments: 'split' is given by `train_split` and `validation_split`"),
        ("EMNIST", {"arguments": {"train": True}}, "arguments: 'train' is given by `train_split`"),
        ("DTD", {"arguments": {"root": "x"}}, "arguments: 'root' is the setting `root`"),
        ("DTD", {"arguments": {"download": True}}, "arguments: 'download' is the setting `download`"),
        ("DTD", {"arguments": {"transform": None}}, "arguments: 'transform' is not taken: views are made here"),
        ("DTD", {"arguments": {"loader": "x"}}, "arguments: 'loader' is a function"),
        ("ImageNet", {"download": True}, "download: torchvision cannot download ImageNet"),
        ("SUN397", {"validation_split": "test"}, "validation_split: torchvision's SUN397 has one part only"),
        ("CIFAR10", {"train_split": "tran"}, "train_split: there is no part 'tran'; did you mean 'train'?"),
        ("DTD", {"train_split": "test", "validation_split": "test"}, "validation_split: 'test' has images of 'test'"),
        ("STL10", {"train_split": "train+unlabeled", "validation_split": "train"}, "validation_split: 'train' has"),
        ("FGVCAircraft", {"train_split": "trainval", "validation_split": "val"}, "validation_split: 'val' has images"),
    ],
)
def test_what_a_class_does_not_take_is_refused(name, settings, problem):
    with pytest.raises(SettingError, match=f"^{problem}"):
        parts_of(name, "/data", **settings)


@pytest.mark.parametrize(
    ("settings", "trained", "judged"),
    [
        ({}, 100, 80),
        ({"train_split": "unlabeled"}, 120, 80),
        ({"train_split": "train+unlabeled"}, 220, 80),
        ({"train_split": "unlabeled", "validation_split": "train"}, 120, 100),
        ({"train_split": "test", "validation_split": "none"}, 72, 8),
        ({"arguments": {"folds": 0}}, 50, 80),
    ],
)
def test_the_parts_of_stl10(tmp_path, monkeypatch, settings, trained, judged):
    path = tmp_path / "stl10_binary"
    path.mkdir()
    for part, count in {"train": 100, "test": 80, "unlabeled": 120}.items():
        np.full((count, 3 * 96 * 96), 7, dtype=np.uint8).tofile(path / f"{part}_X.bin")
        (np.arange(count, dtype=np.uint8) % 10 + 1).tofile(path / f"{part}_y.bin")
    (path / "class_names.txt").write_text("\n".join("abcdefghij"))
    (path / "fold_indices.txt").write_text("\n".join([" ".join(map(str, range(50)))] * 10))
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
    data = torchvision_dataset(dataset="STL10", root=str(tmp_path), **settings)
    assert (len(data.train), len(data.validation)) == (trained, judged)
    labels = data.validation.labels
    assert labels.names == tuple("abcdefghij")
    assert labels.known.all()
    unlabelled = {"unlabeled": 120, "train+unlabeled": 120}.get(settings.get("train_split"), 0)
    known = data.train.labels.known if data.train.labels is not None else torch.zeros(trained, dtype=torch.bool)
    assert int((~known).sum()) == unlabelled


@pytest.mark.parametrize(
    ("settings", "names", "classes"),
    [
        ({}, ("Abyssinian", "Bombay", "Beagle"), [0, 1, 2]),
        ({"arguments": {"target_types": "binary-category"}}, ("Cat", "Dog"), [0, 0, 1]),
    ],
)
def test_the_parts_and_classes_of_pets(tmp_path, settings, names, classes):
    top = tmp_path / "oxford-iiit-pet"
    for one in ("images", "annotations"):
        (top / one).mkdir(parents=True)
    kinds = [("Abyssinian", 1, 1), ("Bombay", 2, 1), ("beagle", 3, 2)]
    for part, numbers in {"trainval": (1, 2), "test": (3,)}.items():
        lines = [f"{name}_{n} {kind} {binary} 1" for n in numbers for name, kind, binary in kinds]
        (top / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            Image.new("RGB", (8, 8), (9, 9, 9)).save(top / "images" / f"{line.split()[0]}.jpg")
    data = torchvision_dataset(dataset="OxfordIIITPet", root=str(tmp_path), **settings)
    assert (len(data.train), len(data.validation)) == (6, 3)
    assert data.validation.labels.classes.tolist() == classes
    assert data.train.labels.names == names
    with pytest.raises(SettingError, match=r"^train_split: OxfordIIITPet has no 'trainvall'; did you mean 'trainval'"):
        torchvision_dataset(dataset="OxfordIIITPet", root=str(tmp_path), train_split="trainvall")


def test_the_variants_of_emnist(tmp_path):
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in {"train": 6, "test": 4}.items():
        sides = b"".join(one.to_bytes(4, "big") for one in (0x803, count, 28, 28))
        (raw / f"emnist-letters-{part}-images-idx3-ubyte").write_bytes(sides + bytes(count * 784))
        head = b"".join(one.to_bytes(4, "big") for one in (0x801, count))
        (raw / f"emnist-letters-{part}-labels-idx1-ubyte").write_bytes(head + bytes(range(1, count + 1)))
    data = torchvision_dataset(dataset="EMNIST", root=str(tmp_path), arguments={"split": "letters"})
    assert (len(data.train), len(data.validation)) == (6, 4)
    assert data.validation.labels.classes.tolist() == [1, 2, 3, 4]
    assert data.train.labels.names[1] == "a"
    with pytest.raises(SettingError, match=r"^arguments: split: EMNIST has no 'letter'; did you mean 'letters'"):
        torchvision_dataset(dataset="EMNIST", root=str(tmp_path), arguments={"split": "letter"})


def test_the_classes_of_caltech101_are_known_without_reading_an_image(tmp_path, monkeypatch):
    for name in ("ant", "bee", "BACKGROUND_Google"):
        folder = tmp_path / "caltech101" / "101_ObjectCategories" / name
        folder.mkdir(parents=True)
        for number in (1, 2, 3):
            Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / f"image_{number:04}.jpg")
    (tmp_path / "caltech101" / "Annotations").mkdir()
    source = DatasetSource(torchvision.datasets.Caltech101(str(tmp_path)), size=8)
    monkeypatch.setattr(torchvision.datasets.Caltech101, "__getitem__", lambda *_: pytest.fail("an image was read"))
    assert source.labels.names == ("ant", "bee")
    assert source.labels.classes.tolist() == [0, 0, 0, 1, 1, 1]


def test_torchvision_errors(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'FashionMNIST'"):
        torchvision_dataset(dataset="FashonMNIST", root=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*download: true"):
        torchvision_dataset(dataset="FashionMNIST", root=str(tmp_path))
