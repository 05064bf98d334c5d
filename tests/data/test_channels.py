"""Images of any number of channels, and numbers of more than 8 bits."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_inv.augment.policies import custom
from ssl_inv.data.decoding import decode
from ssl_inv.data.layout import Choice
from ssl_inv.data.photographs import Photograph
from ssl_inv.data.pixels import channels_first
from ssl_inv.data.reading import Reading, reading_of
from ssl_inv.data.shards.writing import write_shards
from ssl_inv.data.sources.arrays import arrays
from ssl_inv.data.sources.folder import ImageFolder, folder
from ssl_inv.data.sources.shards import shards
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


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("count", [2, 4, 5, 12])
def test_a_tiff_of_any_bands_has_the_numbers_that_were_written(count, kind, planes, compression):
    values = RNG.integers(0, 200, (20, 30, count)).astype(kind)
    stored = np.ascontiguousarray(values.transpose(2, 0, 1)) if planes else values
    layout = {"planarconfig": "separate" if planes else "contig", "compression": compression}
    expected = np.rint(255 * (values / 200).astype(np.float32)).astype(np.uint8)
    ends = ((0.0, 200.0),)
    # Of 4 bands, the first three may be said to be colours, and nothing of the fourth.
    colours = [{"photometric": "rgb", "extrasamples": ["unspecified"]}] if count == 4 else []
    for meaning in ({"photometric": "minisblack"}, *colours):
        content = tiff(stored, **layout, **meaning)
        assert np.array_equal(decode(content, None, Reading(channels=count, ends=ends)), expected)
        backwards = Reading(bands=tuple(range(count, 0, -1)), ends=ends)
        assert np.array_equal(decode(content, None, backwards), expected[..., ::-1])
        assert np.array_equal(decode(content, None, Reading(bands=(2,), channels=1, ends=ends)), expected[..., 1:2])
        if kind == "uint8":
            assert np.array_equal(decode(content, None, Reading(channels=count)), values)


def test_no_library_writes_about_a_tiff_of_many_bands(capfd):
    content = tiff(np.zeros((8, 8, 12), np.uint8), photometric="minisblack", planarconfig="contig")
    decode(content, None, Reading(channels=12))
    assert capfd.readouterr() == ("", "")


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


def test_pages_as_views_are_an_image_each(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pages = np.ascontiguousarray(BYTES[:20, :20].transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    for number in range(2):  # Others, so that there is something to hold out.
        tifffile.imwrite(tmp_path / f"{number}.tif", pages[:1], photometric="minisblack")
    views = ImageFolder(str(tmp_path), 20, Choice(pages="views"), reading=Reading(bands=(1,)))
    assert views.view_counts.tolist() == [1, 1, 5]
    shown = views.load(np.full(5, 2), np.arange(5)).pixels
    assert np.array_equal(shown[:, 0].numpy(), pages)
    assert "not used" not in views.notes
    whole = ImageFolder(str(tmp_path), 20, reading=Reading(channels=5), max_broken=1.0)
    assert np.array_equal(whole.load(np.array([2]), np.array([0])).pixels[0].numpy(), pages)
    assert "not used" not in whole.notes


def encoded(pixels, kind):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["npy", "tiff", "PNG", "JPEG"])
def test_a_range_is_for_bytes_too(kind):
    own = {"npy": npy, "tiff": lambda array: tiff(array, photometric="rgb")}
    colours = BYTES[..., :3]
    content = own[kind](colours) if kind in own else encoded(colours, kind)
    ends = ((0.0, 100.0), (50.0, 255.0), (10.0, 20.0))
    plain = decode(content, None).astype(np.float64)
    low, high = np.array(ends).T
    expected = 255 * ((plain - low) / (high - low)).clip(0, 1)
    reading = Reading(ends=ends)
    assert np.abs(decode(content, None, reading) - expected).max() <= 0.51
    assert np.array_equal(Photograph(content, reading).pixels()[0], decode(content, None, reading))


def test_a_range_has_a_pair_for_each_channel_that_pillow_reads():
    content = encoded(BYTES[..., :4], "PNG")
    ends = tuple((0.0, high) for high in (255.0, 128.0, 64.0, 32.0))
    expected = np.rint(255 * (BYTES[..., :4] / np.array(ends)[:, 1]).clip(0, 1))
    assert np.abs(decode(content, None, Reading(channels=4, ends=ends)) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["npy", "tiff", "pixels"])
def test_shards_give_back_images_of_five_channels(tmp_path, kind):
    def save(number, pixels):
        if kind == "npy":
            np.save(tmp_path / f"data/{number}.npy", pixels)
        else:
            (tmp_path / f"data/{number}.tif").write_bytes(tiff(pixels, photometric="minisblack", planarconfig="contig"))

    (tmp_path / "data").mkdir()
    images = RNG.integers(0, 1000, (4, 8, 8, 5), dtype=np.uint16)
    how = {"range": [0.0, 1000.0], "channels": 5}
    if kind == "pixels":
        np.save(tmp_path / "x.npy", images)
        data, again = arrays(path=str(tmp_path / "x.npy"), **how), {"channels": 5}
    else:
        for number, pixels in enumerate(images):
            save(number, pixels)
        data, again = folder(path=str(tmp_path / "data"), **how), how
    write_shards(data, tmp_path / "shards", {}, 1.0, "kept", lambda done, count: None)
    read = shards(path=str(tmp_path / "shards"), **again)
    for before, after in ((data.train, read.train), (data.validation, read.validation)):
        every = np.arange(len(before)), np.zeros(len(before), dtype=np.int64)
        assert after.channels == 5
        assert torch.equal(before.load(*every).pixels, after.load(*every).pixels)


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
