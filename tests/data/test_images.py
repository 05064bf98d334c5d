"""Claims about stored images: every mode becomes upright 8-bit RGB with the pixels that Pillow gives, on one thread or
several, and broken images are counted.
"""

import io
import logging
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from small_data import load_all, png

from ssl_inv.data import image_files
from ssl_inv.data.batches import StepBatches
from ssl_inv.data.decoding import Pixels, UnreadableImageError, decode, to_square
from ssl_inv.data.images import BrokenImagesError
from ssl_inv.data.photographs import Photograph
from ssl_inv.data.sources.folder import ImageFolder
from ssl_inv.transforms.regions import Regions


def scene(width: int = 60, height: int = 44) -> Image.Image:
    """Something with smooth and sharp parts that looks different from every side."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    image.paste((250, 20, 10), (4, 4, width // 2, height // 4))
    return image


def saved(image: Image.Image, image_format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
WIDE = GREY.astype(np.uint16) * 257
COLOURS = np.stack((GREY, GREY.T, 255 - GREY), axis=-1)


def by_pillow(content: bytes) -> Pixels:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def exif(orientation: int) -> Image.Exif:
    content = Image.Exif()
    content[0x0112] = orientation
    return content


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
JPEGS = {
    "420": saved(scene()),
    "444, progressive": saved(scene(), subsampling=0, progressive=True, quality=95),
    "restart markers": saved(scene(), restart_marker_rows=1),
    "grey": saved(scene().convert("L")),
    "RGB": saved(scene(), keep_rgb=True),
    "CMYK": saved(scene().convert("CMYK")),
    "one pixel": saved(scene().resize((1, 1))),
    **{f"EXIF {turned}": saved(scene(), exif=exif(turned)) for turned in range(1, 9)},
    "XMP": saved(scene(), xmp=XMP),
    "comment": saved(scene(), comment=b"a photograph"),
}


def on_both_threads(content: bytes, size: int | None) -> list[Pixels]:
    """The pixels as the main thread decodes them, then as another thread does."""
    found = [decode(content, size)]
    thread = threading.Thread(target=lambda: found.append(decode(content, size)))
    thread.start()
    thread.join()
    return found


@pytest.mark.parametrize("content", JPEGS.values(), ids=JPEGS)
def test_a_jpeg_has_the_pixels_that_pillow_gives_on_every_thread(content):
    for pixels in on_both_threads(content, None):
        np.testing.assert_array_equal(pixels, by_pillow(content))


@pytest.mark.parametrize(("side", "size"), [(94, 32), (95, 32), (96, 32), (97, 32), (50, 17), (47, 16), (766, 256)])
def test_a_jpeg_has_the_same_pixels_on_every_thread_whatever_it_is_resized_to(side, size):
    np.testing.assert_array_equal(*on_both_threads(saved(scene(side + 20, side)), size))


def test_metadata_that_cannot_be_read_leave_the_word_to_pillow_on_every_thread():
    content = saved(scene(), exif=exif(1)).replace(b"Exif\0\0MM", b"Exif\0\0??").replace(b"Exif\0\0II", b"Exif\0\0??")
    np.testing.assert_array_equal(decode(content, None), by_pillow(saved(scene())))


@pytest.mark.parametrize("name", ["420", "444, progressive", "restart markers", "grey"])
def test_a_truncated_jpeg_is_unreadable_wherever_it_ends(name):
    content = JPEGS[name]
    for end in (*range(0, len(content) - 2, 41), len(content) - 3):
        with pytest.raises(UnreadableImageError):
            decode(content[:end], None)


def test_a_damaged_jpeg_is_read_as_pillow_reads_it_or_not_at_all():
    random = np.random.default_rng(1)
    outcomes = set()
    for _ in range(300):
        content = bytearray(JPEGS["420"])
        content[random.integers(2, len(content))] = random.integers(256)
        try:
            expected = by_pillow(bytes(content))
        except Exception:
            with pytest.raises(UnreadableImageError):
                decode(bytes(content), None)
            outcomes.add("unreadable")
        else:
            np.testing.assert_array_equal(decode(bytes(content), None), expected)
            outcomes.add("read")
    assert outcomes == {"unreadable", "read"}


SIZES = [(60, 44, 16), (45, 61, 32), (44, 44, 64), (200, 90, 7), (40, 40, 40)]


@pytest.mark.parametrize(("width", "height", "size"), SIZES)
def test_resizing_is_pillow_s_to_a_level(width, height, size):
    pixels, side = np.asarray(scene(width, height)), min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(pixels).crop((left, top, left + side, top + side))
    expected = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
    found = to_square(pixels, size)
    assert found.shape == (size, size, 3)
    assert np.abs(found - expected).max() <= 1


def png16(levels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, `(H, W, 3)`, which Pillow reads but does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_threads_decode_what_one_decodes(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "THREADED_BYTES", 0)
    for number in range(40):
        content = saved(scene().rotate(9 * number))
        (tmp_path / f"{number:02}.jpg").write_bytes(content[:-90] if number == 17 else content)
    rows, found = np.arange(40), []
    for threads in (1, 4):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        source = ImageFolder(str(tmp_path), size=32, cache=True)
        found.append(source.load(rows, np.zeros_like(rows)))
        assert list(source.broken) == ["17.jpg"]
    assert torch.equal(found[0].pixels, found[1].pixels)
    assert found[0].readable.tolist() == found[1].readable.tolist() == [number != 17 for number in range(40)]


def tiff(tag: int, value: int) -> bytes:
    """The wide grey as a TIFF that says `value` for a tag of one short number."""
    content = saved(Image.fromarray(WIDE), "TIFF")
    entry = content.index(struct.pack("<HHI", tag, 3, 1))
    return content[: entry + 8] + struct.pack("<H", value) + content[entry + 10 :]


def palette() -> bytes:
    image = Image.fromarray(GREY).convert("P")
    image.putpalette([channel for value in range(256) for channel in (value, 255 - value, 7)])
    return saved(image, "PNG")


def transparent() -> bytes:
    opacity = np.zeros((16, 16), dtype=np.uint8)
    opacity[:, :8] = 255
    return saved(Image.merge("LA", (Image.fromarray(np.full_like(GREY, 200)), Image.fromarray(opacity))), "PNG")


RGB = np.stack([GREY] * 3, axis=-1)
MODES = {
    "grey.png": (saved(Image.fromarray(GREY), "PNG"), RGB),
    "grey.tiff": (saved(Image.fromarray(GREY), "TIFF"), RGB),
    "grey 16 bit.png": (saved(Image.fromarray(WIDE), "PNG"), RGB),
    "grey 16 bit.tiff": (saved(Image.fromarray(WIDE), "TIFF"), RGB),
    "white is zero.tiff": (tiff(262, 0), 255 - RGB),
    "RGB 16 bit.png": (png16(COLOURS.astype(np.uint16) * 257), COLOURS),
    "palette.png": (palette(), np.stack([GREY, 255 - GREY, np.full_like(GREY, 7)], -1)),
    "alpha over black.png": (transparent(), np.stack([np.where(np.arange(16) < 8, 200, 0) * np.ones((16, 1))] * 3, -1)),
    "1 bit.png": (saved(Image.fromarray(GREY >= 128), "PNG"), np.where(RGB >= 128, 255, 0)),
}


def test_every_mode_becomes_rgb_and_arrives_in_a_batch_with_channels_last(tmp_path):
    for name, (content, expected) in MODES.items():
        np.testing.assert_array_equal(decode(content, None), expected, err_msg=name)
        (tmp_path / name).write_bytes(content)
    source = ImageFolder(str(tmp_path), cache=False)
    batch = StepBatches(source, len(MODES), 1, seed=0)[0]
    pixels = batch.images[0].pixels
    assert not batch.broken
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    for row, index in enumerate(batch.index.tolist()):
        name = source.describe(index, 0)
        np.testing.assert_array_equal(pixels[row].permute(1, 2, 0), MODES[name][1], err_msg=name)


def test_32_bit_pixels_are_refused():
    with pytest.raises(UnreadableImageError, match="no known white"):
        decode(saved(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF"), None)


def test_exif_orientation_turns_the_image_upright():
    image = Image.new("RGB", (16, 8))
    image.paste((255, 255, 255), (0, 0, 8, 8))
    # The camera was held so that the left of the file is the top of the scene.
    pixels = decode(saved(image, exif=exif(6), quality=95), None)
    assert pixels.shape == (16, 8, 3)
    assert pixels[:7].min() > 200
    assert pixels[9:].max() < 50


def test_resize_takes_the_centre_square_and_does_not_alias():
    stripes = np.zeros((64, 128, 3), dtype=np.uint8)
    stripes[:, 32:96:2] = 255  # The centre square alternates by column; the sides are black.
    pixels = decode(saved(Image.fromarray(stripes), "PNG"), 8)
    assert pixels.shape == (8, 8, 3)
    np.testing.assert_allclose(pixels[:, 1:-1], 127.5, atol=8)
    big = Image.fromarray(GREY).resize((640, 480), Image.Resampling.BICUBIC).convert("RGB")
    full = decode(saved(big, "PNG"), 32).astype(int)
    reduced = decode(saved(big, quality=100, subsampling=0), 32).astype(int)
    assert np.abs(full - reduced).mean() < 1.5


@pytest.mark.parametrize("cache", [True, False])
def test_one_broken_image_is_zero_logged_once_and_counted(tmp_path, write, caplog, cache):
    contents = {f"{n}.jpg": saved(Image.new("RGB", (8, 8), (200, 100, 0))) for n in range(4)}
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


def test_more_broken_images_than_a_tenth_are_an_error(tmp_path, write):
    at_most, more = (
        ImageFolder(write(tmp_path / str(good), {f"{n:03}.png": png(n) if n < good else b"broken" for n in range(100)}))
        for good in (90, 89)
    )
    assert int(load_all(at_most).readable.sum()) == 90
    message = r"more than 10 of 100 images cannot be read .* the first is 089.png: not an image"
    with pytest.raises(BrokenImagesError, match=message):
        load_all(more)


def test_a_damaged_zip_member_is_a_broken_image(tmp_path, write):
    path = Path(write(tmp_path / "data", {"a.png": png(1), "b.png": png(2), "c.png": png(3)}, "stored"))
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT", content.index(b"b.png")) + 6] ^= 0xFF
    path.write_bytes(content)
    source = ImageFolder(str(path))
    assert load_all(source).readable.tolist() == [True, False, True]
    assert "checksum" in source.broken["b.png"]


def test_images_without_a_size_must_be_equal_squares(tmp_path, write):
    path = write(tmp_path / "data", {"a.png": png(1), "b.png": png(1, (9, 9)), "c.png": png(1)})
    source = ImageFolder(path)
    with pytest.raises(ValueError, match=r"b\.png has 9x9 pixels but the first image 8x8"):
        load_all(source)
    assert load_all(ImageFolder(path, size=6)).pixels.shape == (3, 3, 6, 6)
    with pytest.raises(ValueError, match=r"a\.png has 9x8 pixels"):
        ImageFolder(write(tmp_path / "wide", {"a.png": png(1, (9, 8))}))


def _pieces(source: ImageFolder, rows: list[int], boxes: list[list[float]]) -> torch.Tensor:
    """A piece of 16 pixels of some images, at a box each."""
    corners = np.array(boxes, dtype=np.float64)
    objects = np.array(rows)
    _, pixels = source.load_pieces(
        objects, np.zeros_like(objects), lambda sides: [(np.arange(len(rows)), Regions(corners, sides, 16))]
    )
    return pixels[0]


def test_a_piece_depends_neither_on_other_samples_nor_on_the_memory_that_is_left_nor_on_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(saved(scene(400 + number, 300), quality=95))
    large, small = [0.0, 0.0, 300.0, 300.0], [8.0, 8.0, 32.0, 32.0]
    reduced = ImageFolder(str(tmp_path), 16, cache=False)
    alone = _pieces(reduced, [0], [large])
    assert torch.equal(_pieces(reduced, [0, 0], [large, small])[:1], alone)
    threaded: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: threaded.append(_pieces(reduced, [1], [[0.0, 0.0, 70.0, 70.0]])))
    thread.start()
    thread.join()
    assert torch.equal(threaded[0], _pieces(reduced, [1], [[0.0, 0.0, 70.0, 70.0]]))
    kept = [ImageFolder(str(tmp_path), 16) for _ in range(2)]
    monkeypatch.setattr(kept[1], "_whole_bytes_left", 1)
    _pieces(kept[1], [2], [large])  # no memory is left for others
    assert torch.equal(*(_pieces(one, [0, 1], [large, large]) for one in kept))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_sides_of_a_turned_photograph_are_those_of_its_pixels(image_format: str) -> None:
    content = saved(scene(60, 20), image_format, exif=exif(6))
    photograph = Photograph(content)
    assert photograph.sides == photograph.pixels()[0].shape[:2] == (60, 20)


def test_a_broken_file_does_not_change_how_others_are_read() -> None:
    content = saved(scene(200, 100), quality=95)
    before = Photograph(content).pixels(2)
    for end in (4, 30, len(content) // 2):
        with pytest.raises(UnreadableImageError):
            Photograph(content[:end]).pixels()
    after = Photograph(content).pixels(2)
    assert after[1] == before[1] == 1
    np.testing.assert_array_equal(after[0], before[0])
