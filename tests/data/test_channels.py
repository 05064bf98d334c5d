"""Images of any number of channels, and numbers of more than 8 bits."""

import io

import numpy as np
import pytest
import torch

from ssl_inv.augment.policies import custom
from ssl_inv.data.decoding import decode
from ssl_inv.data.pixels import channels_first
from ssl_inv.data.reading import Reading, reading_of
from ssl_inv.data.sources.folder import folder
from ssl_inv.run.channels import measured
from ssl_inv.transforms.keyed_random import Key

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 30, 5), dtype=np.uint8)
TWELVE_BITS = RNG.integers(0, 4096, (20, 30, 3), dtype=np.uint16)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff(array, **settings):
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, array, **settings)
    return file.getvalue()


@pytest.mark.parametrize("form", ["last", "first", "pages", "planes"])
def test_bands_are_read_wherever_they_lie(form):
    first = np.ascontiguousarray(BYTES.transpose(2, 0, 1))
    content = {
        "last": lambda: npy(BYTES),
        "first": lambda: npy(first),
        "pages": lambda: tiff(first, photometric="minisblack"),
        "planes": lambda: tiff(first, photometric="minisblack", planarconfig="separate"),
    }[form]()
    assert np.array_equal(decode(content, None, Reading(channels=5)), BYTES)
    assert np.array_equal(decode(content, None, Reading(bands=(5, 1))), BYTES[..., [4, 0]])
    assert np.array_equal(decode(content, None, Reading(bands=(2,))), BYTES[..., [1, 1, 1]])


@pytest.mark.parametrize("kind", ["npy", "tiff"])
def test_colours_of_twelve_bits_keep_their_levels(kind):
    content = npy(TWELVE_BITS) if kind == "npy" else tiff(TWELVE_BITS, photometric="rgb")
    expected = np.rint(255 * TWELVE_BITS.astype(np.float32) / 4095).astype(np.uint8)
    assert np.array_equal(decode(content, None, Reading(white=4095.0)), expected)


def test_a_range_is_linear_cut_off_and_without_nan():
    values = np.array([[-3.0, -1.0, 0.0, 1.0, 3.0, np.nan]], dtype=np.float32)
    found = decode(npy(values), None, reading_of("black", None, [], [-1.0, 1.0], 1, 100))
    assert found[..., 0].tolist() == [[0, 0, 128, 255, 255, 0]]


REFUSED = {
    "both": (lambda: Reading(white=1.0, ends=((0.0, 1.0),)), "range: excludes `white`"),
    "reversed": (lambda: Reading(ends=((2.0, 1.0),)), "range: must be the lowest and the highest"),
    "other count": (lambda: Reading(bands=(1, 2), channels=3), "channels: 3, but 2 band"),
    "many bands": (lambda: decode(npy(BYTES), None), "it has 5 bands; choose some with `bands`, or all with"),
    "missing band": (lambda: decode(npy(BYTES), None, Reading(bands=(1, 9))), "there is no band 9"),
    "no white": (lambda: decode(npy(BYTES / 255.0), None, Reading(channels=5)), "name what they span with `range`"),
    "ambiguous": (lambda: decode(npy(BYTES[:5, :5]), None, Reading(channels=5)), "may have its bands first or last"),
    "perhaps alpha": (lambda: channels_first(torch.zeros(2, 4, 8, 8)), "leave out the alpha channel, or say"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_clear_is_refused(what):
    make, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        make()


def test_a_folder_of_arrays_has_their_channels_and_their_statistics(tmp_path):
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", RNG.integers(0, 256, (8, 8, 5), dtype=np.uint8))
    source = folder(path=str(tmp_path), channels=5).train
    pixels = source.load(np.arange(len(source)), np.zeros(len(source), np.int64)).pixels
    assert (source.channels, pixels.shape[1]) == (5, 5)
    values = pixels.double().transpose(0, 1).flatten(1) / 255
    assert np.allclose(measured(source).mean, values.mean(1), atol=1e-4)
    assert np.allclose(measured(source).std, values.std(1, correction=0), atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_operations_without_colours_take_any_channels(channels):
    names = ("crop", "flip", "affine", "random_field", "blur", "solarise", "posterise", "noise", "erasing")
    operations = [{"name": name, "probability": 1.0} for name in names]
    augmentation = custom(operations=[*operations, {"name": "jitter", "saturation": 0.0, "hue": 0.0}])
    augmentation.policies[0].check(16, channels)
    views, _ = augmentation(torch.rand(4, channels, 16, 16), Key(0, 0, np.arange(4), 0))
    assert views.shape == (4, channels, 16, 16)
    for coloured in ({"name": "grey"}, {"name": "jitter"}, {"name": "colour_dropping"}):
        with pytest.raises(ValueError, match=r"operations\[0\].*needs red, green and blue, and images have"):
            custom(operations=[coloured]).policies[0].check(16, channels)
