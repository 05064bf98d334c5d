"""Claims about images as they are stored: every mode becomes upright RGB of the size that is asked for, and broken ones
are counted.
"""

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_inv.data.images import BrokenImagesError, UnreadableImageError, decode
from ssl_inv.data.source import Images, Source
from ssl_inv.data.sources.folder import ImageFolder


def encoded(value: int, size: tuple[int, int] = (8, 8), image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value // 2, 0)).save(buffer, image_format)
    return buffer.getvalue()


def saved(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def load_all(source: Source) -> Images:
    objects = np.repeat(np.arange(len(source)), source.view_counts)
    views = np.concatenate([np.arange(count) for count in source.view_counts])
    return source.load(objects, views)


ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def palette() -> bytes:
    image = Image.fromarray(GREY).convert("P")
    image.putpalette([channel for value in range(256) for channel in (value, 255 - value, 7)])
    return saved(image)


def transparent() -> bytes:
    opacity = np.zeros((16, 16), dtype=np.uint8)
    opacity[:, :8] = 255
    return saved(Image.merge("LA", (Image.fromarray(np.full_like(GREY, 200)), Image.fromarray(opacity))))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (saved(Image.fromarray(GREY)), np.stack([GREY] * 3, -1)),
        (saved(Image.fromarray(ramp)), np.stack([GREY] * 3, -1)),
        (saved(Image.fromarray(ramp), "TIFF"), np.stack([GREY] * 3, -1)),
        (palette(), np.stack([GREY, 255 - GREY, np.full_like(GREY, 7)], -1)),
        (transparent(), np.stack([np.where(np.arange(16) < 8, 200, 0) * np.ones((16, 1))] * 3, -1)),
        (saved(Image.fromarray(GREY >= 128)), np.stack([np.where(GREY >= 128, 255, 0)] * 3, -1)),
    ],
    ids=["grey", "16-bit PNG", "16-bit TIFF", "palette", "alpha over black", "1-bit"],
)
def test_every_mode_becomes_rgb(content: bytes, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(decode(content, None), expected)


def test_32_bit_pixels_are_refused() -> None:
    with pytest.raises(UnreadableImageError, match="no known white"):
        decode(saved(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF"), None)


def test_exif_orientation_turns_the_image_upright() -> None:
    image = Image.new("RGB", (16, 8))
    image.paste((255, 255, 255), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held so that the left of the file is the top of the scene.
    pixels = decode(saved(image, "JPEG", exif=exif, quality=95), None)
    assert pixels.shape == (16, 8, 3)
    assert pixels[:7].min() > 200
    assert pixels[9:].max() < 50


def test_resize_takes_the_centre_square_and_does_not_alias() -> None:
    stripes = np.zeros((64, 128, 3), dtype=np.uint8)
    stripes[:, 32:96:2] = 255  # The centre square alternates by column; the sides are black.
    pixels = decode(saved(Image.fromarray(stripes)), 8)
    assert pixels.shape == (8, 8, 3)
    np.testing.assert_allclose(pixels[:, 1:-1], 127.5, atol=8)
    big = Image.fromarray(GREY).resize((640, 480), Image.Resampling.BICUBIC).convert("RGB")
    full = decode(saved(big), 32).astype(int)
    reduced = decode(saved(big, "JPEG", quality=100, subsampling=0), 32).astype(int)
    assert np.abs(full - reduced).mean() < 1.5


@pytest.mark.parametrize("cache", [True, False])
def test_one_broken_image_is_zero_logged_once_and_counted(
    tmp_path: Path, write: Callable[..., str], caplog: pytest.LogCaptureFixture, cache: bool
) -> None:
    contents = {f"{n}.jpg": encoded(200, image_format="JPEG") for n in range(4)}
    path = write(tmp_path / "data", {**contents, "1.jpg": contents["1.jpg"][:-40], "2.jpg": b"no image"})
    source = ImageFolder(path, size=8, cache=cache)
    with caplog.at_level(logging.WARNING, logger="ssl_inv.data"):
        for _ in range(2):
            images = load_all(source)
            assert images.readable.tolist() == [True, False, False, True]
            assert (images.pixels[1:3] == 0).all()
            assert images.pixels[[0, 3]].any()
    assert list(source.broken) == ["1.jpg", "2.jpg"]
    assert source.broken["2.jpg"] == "not an image in a known format"
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(("broken", "raises"), [(10, False), (11, True)])
def test_too_many_broken_images_are_an_error(
    tmp_path: Path, write: Callable[..., str], broken: int, raises: bool
) -> None:
    contents = {f"{n:03}.png": b"broken" if n >= 100 - broken else encoded(n) for n in range(100)}
    source = ImageFolder(write(tmp_path / "data", contents))
    if raises:
        with pytest.raises(
            BrokenImagesError, match=r"more than 10 of 100 images cannot be read .* the first is 089.png: not an image"
        ):
            load_all(source)
    else:
        assert int(load_all(source).readable.sum()) == 90


def test_a_damaged_zip_member_is_a_broken_image(tmp_path: Path, write: Callable[..., str]) -> None:
    path = Path(write(tmp_path / "data", {"a.png": encoded(1), "b.png": encoded(2), "c.png": encoded(3)}, "stored"))
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT", content.index(b"b.png")) + 6] ^= 0xFF
    path.write_bytes(content)
    source = ImageFolder(str(path))
    assert load_all(source).readable.tolist() == [True, False, True]
    assert "checksum" in source.broken["b.png"]


def test_images_without_a_size_must_be_equal_squares(tmp_path: Path, write: Callable[..., str]) -> None:
    path = write(tmp_path / "data", {"a.png": encoded(1), "b.png": encoded(1, (9, 9)), "c.png": encoded(1)})
    source = ImageFolder(path)
    with pytest.raises(ValueError, match=r"b\.png has 9x9 pixels but the first image 8x8"):
        load_all(source)
    assert load_all(ImageFolder(path, size=6)).pixels.shape == (3, 3, 6, 6)
    with pytest.raises(ValueError, match=r"a\.png has 9x8 pixels"):
        ImageFolder(write(tmp_path / "wide", {"a.png": encoded(1, (9, 8))}))
