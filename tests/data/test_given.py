"""Claims about data in memory: every usual form is read as the same images, and every usual mistake is one line."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import Numbered, load_all, solids
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ssl_inv.catalogue import DATA, SettingError
from ssl_inv.data.source import Data, Images, Indices, Source
from ssl_inv.data.sources.given import data_of, fingerprint_of, given, holding, source_of
from ssl_inv.transforms import Transform

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
CLASSES = [number % 3 for number in range(12)]
FIRST = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)


class Pairs:
    """A map-style dataset of images of Pillow and their classes."""

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(PIXELS[index]), CLASSES[index]


class Noise(Pairs):
    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(np.random.randint(0, 256, (8, 8, 3), dtype=np.uint8)), 0


class Stream(IterableDataset[Any]):
    def __iter__(self):
        return iter(Pairs())


FORMS = {
    "array": PIXELS,
    "array, channels first": FIRST.numpy(),
    "array, reversed bytes of floats": (PIXELS / 255).astype(">f8"),
    "tensor": FIRST,
    "tensor, channels last": torch.from_numpy(PIXELS),
    "tensor of floats": FIRST / 255,
    "tensor of half floats with a gradient": (FIRST / 255).requires_grad_(),
    "read-only array": np.frombuffer(PIXELS.tobytes(), np.uint8).reshape(PIXELS.shape),
    "list of pictures": [Image.fromarray(one) for one in PIXELS],
    "list of arrays": list(PIXELS),
    "dataset": TensorDataset(FIRST),
}
LABELLED = {
    "array and classes": (PIXELS, CLASSES),
    "tensor and tensor": (FIRST, torch.tensor(CLASSES)),
    "array and names": (PIXELS, ["abc"[one] for one in CLASSES]),
    "dataset of pairs": Pairs(),
    "list of pairs": [Pairs()[number] for number in range(12)],
    "torch dataset of pairs": TensorDataset(FIRST, torch.tensor(CLASSES)),
}


@pytest.mark.parametrize("form", [*FORMS, *LABELLED])
def test_every_form_gives_the_same_images_in_their_order_and_its_classes(form):
    source = source_of({**FORMS, **LABELLED}[form])
    assert torch.equal(load_all(source).pixels, FIRST)
    assert (None if source.labels is None else source.labels.classes.tolist()) == (
        CLASSES if form in LABELLED else None
    )
    assert torch.equal(load_all(pickle.loads(pickle.dumps(source))).pixels, FIRST)


def test_grey_images_have_their_value_in_every_channel():
    grey = PIXELS[..., 0]
    for form in (grey, grey[..., None], torch.from_numpy(grey)[:, None]):
        pixels = load_all(source_of(form)).pixels
        assert torch.equal(pixels, torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1))


def test_classes_may_be_unknown_and_those_of_both_splits_have_the_same_numbers():
    known = source_of((PIXELS, ["b", None, *"a" * 10])).labels
    assert known is not None
    assert (known.names, known.known.tolist()) == (("a", "b"), [True, False, *[True] * 10])
    data = data_of({"train": (PIXELS, [*"aabbcc" * 2]), "val": (PIXELS, ["c"] * 12)})
    assert data.validation.labels is not None
    assert data.validation.labels.names[int(data.validation.labels.classes[0])] == "c"


def test_images_that_are_no_squares_are_resized_and_cut():
    source = source_of((np.repeat(PIXELS, 2, axis=2), CLASSES), size=4)
    assert source.image_size == 4
    assert source.labels is not None
    assert source.photographs
    assert load_all(source).pixels.shape == (12, 3, 4, 4)


def test_a_split_is_taken_as_it_is_given_and_else_drawn_as_for_every_other_source():
    data = data_of({"train": PIXELS[:9], "test": PIXELS[9:]})
    assert torch.equal(load_all(data.validation).pixels, FIRST[9:])
    drawn = data_of(PIXELS, validation_share=0.25, split_seed=3)
    assert (len(drawn.train), len(drawn.validation)) == (9, 3)
    assert not torch.equal(load_all(drawn.validation).pixels, load_all(data_of(PIXELS).validation).pixels)


def test_a_source_and_data_keep_all_that_they_record():
    source = solids()
    assert data_of(source, validation_share=0.25).train.groups == source.groups
    data = Data(Numbered(), Numbered())
    assert data_of(data) is data


def test_a_fingerprint_tells_other_data_and_nothing_else():
    first = fingerprint_of(data_of(PIXELS))
    assert first == fingerprint_of(data_of(FIRST / 255)) == fingerprint_of(data_of(Pairs()))
    others = [PIXELS[:11], PIXELS[::-1], 255 - PIXELS, solids(), {"train": PIXELS, "val": PIXELS}]
    assert len({first, *(fingerprint_of(data_of(one)) for one in others)}) == 1 + len(others)


def test_data_are_held_while_a_call_runs_and_not_longer():
    with holding(PIXELS):
        printed = fingerprint_of(given())
        assert len(given(fingerprint=printed).train) == 11
    with holding(255 - PIXELS), pytest.raises(SettingError, match=f"fingerprint {printed}; these are 11 and 1"):
        given(training_objects=11, validation_objects=1, fingerprint=printed)
    with pytest.raises(
        SettingError, match=r"in the memory of a Python program \(11 objects to train on, 1 to judge by"
    ):
        given(training_objects=11, validation_objects=1)


class Own(Source):
    """A user's source whose `load` gives whatever it is told to."""

    view_counts, groups, labels, image_size = np.ones(4, dtype=np.int64), {}, None, 8

    def __init__(self, found: Any) -> None:
        self.found = found

    def load(self, objects: Indices, views: Indices) -> Any:
        return self.found


def images(pixels: Any) -> Images:
    return Images(pixels, Transform.empty(), torch.ones(1, dtype=torch.bool))


RUBBISH = {
    "a number": (3, "data must be an array, a tensor, .* got int"),
    "a set": ({1, 2}, "got set"),
    "floats of 0 to 255": (FIRST.float(), r"must lie in \[0, 1\], got 0 to 255; divide them by 255"),
    "normalised floats": (FIRST / 255 - 0.5, "got -0.5 to 0.5; leave out any normalisation"),
    "not a number": (FIRST / torch.nan, "some are not finite"),
    "whole numbers": (FIRST.long(), "got int64; convert numbers of 0 to 255 to uint8"),
    "words": (np.array([["a"]]), "images must be numbers, got an array of <U1"),
    "objects last": (PIXELS.transpose(1, 2, 3, 0), r"with the channels on that axis, got \(8, 8, 3, 12\)"),
    "alpha": (np.zeros((4, 8, 8, 4), np.uint8), "leave out the alpha channel"),
    "one image": (PIXELS[0], r"got one image: \(8, 8, 3\)"),
    "flat": (PIXELS.reshape(12, -1), r"got shape \(12, 192\)"),
    "no images": (PIXELS[:0], "there are no images"),
    "an empty list": ([], "there are no images in this list"),
    "one of everything": (PIXELS[:1], r"1 object\(s\) cannot be split"),
    "no squares": (PIXELS[:, :4], "8x4 pixels; images that are not square need a `size`"),
    "few classes": ((PIXELS, CLASSES[:11]), r"there are 12 images, but classes of shape \(11,\)"),
    "classes of floats": ((PIXELS, [0.5] * 12), "whole numbers or names, got float64"),
    "a class": ((PIXELS, 3), "one number or name for each image, got int"),
    "two sets": ((PIXELS, PIXELS), "two sets of images are given as .*train"),
    "a dataset and classes": ((Pairs(), CLASSES), "the items of a dataset are pairs"),
    "three": ((PIXELS, CLASSES, CLASSES), "an image must have 2 or 3 axes"),
    "an odd split": ({"trian": PIXELS}, "'trian' is no split; did you mean 'train'"),
    "no train": ({"test": PIXELS}, "nothing to train on"),
    "a loader": (DataLoader(Pairs()), "give its dataset, loader.dataset"),  # type: ignore[arg-type]
    "a stream": (Stream(), "Stream has no numbered items"),
    "random transforms": (Noise(), "Noise gives another image each time for item 0; leave out its random transforms"),
    "a list of paths": (["a.jpg"], "got str"),
    "a tuple from load": (Own((FIRST[:1],)), "Own.load must return Images, got tuple"),
    "floats from load": (Own(images(FIRST[:1].float())), r"uint8 pixels .* got Tensor .* of torch.float32"),
    "channels last from load": (
        Own(images(torch.from_numpy(PIXELS[:1]))),
        r"\(1, 3, 8, 8\) .* got Tensor \(1, 8, 8, 3\)",
    ),
    "another size from load": (Own(images(FIRST[:1, :, :4, :4])), r"image_size 8, got Tensor \(1, 3, 4, 4\)"),
}


@pytest.mark.parametrize("what", RUBBISH)
def test_what_is_no_data_is_one_line(what):
    value, message = RUBBISH[what]
    with pytest.raises(ValueError, match=message) as caught:
        data_of(value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "ImageFolder"}, "dataset: must be a dotted path"),
        ({"dataset": "torchvision.datasets:ImageFolders"}, "dataset: the data set .* cannot be imported"),
        ({"dataset": "torchvision.datasets:ImageFolder"}, "arguments: .* refuses {}: .*root"),
        ({"dataset": "os:getcwd"}, "is code of the module 'os', which runs only if you allow it"),
    ],
)
def test_a_wrong_dotted_path_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        DATA.find("dataset").load()(**changes)
