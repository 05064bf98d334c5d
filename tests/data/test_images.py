"""Whatever decodes an image, it gives the pixels that Pillow gives, upright, in 8-bit RGB, with channels last in
memory.
"""

import io
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from ssl_inv.data import images
from ssl_inv.data.batches import StepBatches
from ssl_inv.data.images import Pixels, UnreadableImageError, decode, to_square
from ssl_inv.data.sources.folder import ImageFolder


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


@pytest.mark.parametrize("content", JPEGS.values(), ids=JPEGS)
def test_a_jpeg_has_the_pixels_that_pillow_gives_on_every_thread(content: bytes) -> None:
    expected = by_pillow(content)
    found = [decode(content, None)]
    thread = threading.Thread(target=lambda: found.append(decode(content, None)))
    thread.start()
    thread.join()
    for pixels in found:
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(("side", "size"), [(94, 32), (95, 32), (96, 32), (97, 32), (50, 17), (47, 16), (766, 256)])
def test_a_jpeg_has_the_same_pixels_on_every_thread_whatever_it_is_resized_to(side: int, size: int) -> None:
    content = saved(scene(side + 20, side))
    found = [decode(content, size)]
    thread = threading.Thread(target=lambda: found.append(decode(content, size)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], found[1])


def test_metadata_that_cannot_be_read_leave_the_word_to_pillow_on_every_thread() -> None:
    content = saved(scene(), exif=exif(1)).replace(b"Exif\0\0MM", b"Exif\0\0??").replace(b"Exif\0\0II", b"Exif\0\0??")
    np.testing.assert_array_equal(decode(content, None), by_pillow(saved(scene())))


@pytest.mark.parametrize("name", ["420", "444, progressive", "restart markers", "grey"])
def test_a_truncated_jpeg_is_unreadable_wherever_it_ends(name: str) -> None:
    content = JPEGS[name]
    for end in (*range(0, len(content) - 2, 41), len(content) - 3):
        with pytest.raises(UnreadableImageError):
            decode(content[:end], None)


def test_a_damaged_jpeg_is_read_as_pillow_reads_it_or_not_at_all() -> None:
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


@pytest.mark.parametrize(
    ("width", "height", "size"), [(60, 44, 16), (45, 61, 32), (44, 44, 64), (200, 90, 7), (40, 40, 40)]
)
def test_resizing_is_pillow_s_to_a_level(width: int, height: int, size: int) -> None:
    pixels = np.asarray(scene(width, height))
    side = min(width, height)
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


def test_threads_decode_what_one_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_THREADED_BYTES", 0)
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


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
WIDE = GREY.astype(np.uint16) * 257
COLOURS = np.stack((GREY, GREY.T, 255 - GREY), axis=-1)


def tiff(tag: int, value: int) -> bytes:
    """The wide grey as a TIFF that says `value` for a tag of one short number."""
    content = saved(Image.fromarray(WIDE), "TIFF")
    entry = content.index(struct.pack("<HHI", tag, 3, 1))
    return content[: entry + 8] + struct.pack("<H", value) + content[entry + 10 :]


@pytest.mark.parametrize("cache", [True, False])
def test_16_bit_and_single_channel_images_arrive_in_a_batch(tmp_path: Path, cache: bool) -> None:
    files = {
        "grey 16 bit.png": (saved(Image.fromarray(WIDE), "PNG"), np.stack([GREY] * 3, -1)),
        "RGB 16 bit.png": (png16(COLOURS.astype(np.uint16) * 257), COLOURS),
        "grey 8 bit.tiff": (saved(Image.fromarray(GREY), "TIFF"), np.stack([GREY] * 3, -1)),
        "grey 16 bit.tiff": (saved(Image.fromarray(WIDE), "TIFF"), np.stack([GREY] * 3, -1)),
        "white is zero.tiff": (tiff(262, 0), np.stack([255 - GREY] * 3, -1)),
        "grey 8 bit.png": (saved(Image.fromarray(GREY), "PNG"), np.stack([GREY] * 3, -1)),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    source = ImageFolder(str(tmp_path), cache=cache)
    batch = StepBatches(source, len(files), 1, seed=0)[0]
    pixels = batch.images[0].pixels
    assert not batch.broken
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    for row, index in enumerate(batch.index.tolist()):
        _, expected = files[source.describe(index, 0)]
        np.testing.assert_array_equal(pixels[row].permute(1, 2, 0), expected, err_msg=source.describe(index, 0))
