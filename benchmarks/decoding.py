"""Images per second of every way to decode a photograph and cut it to a square, on one thread.

    python benchmarks/decoding.py --data DIR

DIR has `cifar10_jpeg.zip`, `grocery_96px.zip`, `davis2016val_192px.zip` and `cf_tracking_sample_seq.zip`; the default
is the folder in the environment variable SSL_INV_TEST_DATA. The larger photographs are mosaics of video frames at their
own resolution, so they have as many bits per pixel as a photograph. The ways alternate over several rounds, and the
fastest round counts, because other work on a machine only adds time. The table also has the mean distance, in levels of
255, from the whole image decoded and resized by Pillow. Then a line of JSON follows. Ways whose library is missing are
left out.
"""

import argparse
import importlib.util
import io
import json
import os
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ssl_inv.data.decoding import Pixels, decode, to_square

Decode = Callable[[bytes, int], Pixels]


def centre(width: int, height: int) -> tuple[int, int, int, int]:
    """The centre square as left, top, right, bottom."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def pillow(content: bytes, size: int) -> Pixels:
    """Decode and resize by Pillow."""
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(upright.resize((size, size), Image.Resampling.BICUBIC, box=centre(*upright.size)))


def pillow_reduced(content: bytes, size: int) -> Pixels:
    """Decode by Pillow at 1/2, 1/4 or 1/8, if at least 1.5 times the size is left, and resize by Pillow."""
    with Image.open(io.BytesIO(content)) as image:
        enough = 1.5 * size / min(image.size)
        image.draft("RGB", (int(image.width * enough), int(image.height * enough)))
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(upright.resize((size, size), Image.Resampling.BICUBIC, box=centre(*upright.size)))


def torchvision_pillow(content: bytes, size: int) -> Pixels:
    """Decode by torchvision and resize by Pillow."""
    pixels = Image.fromarray(_by_torchvision(content))
    return np.asarray(pixels.resize((size, size), Image.Resampling.BICUBIC, box=centre(*pixels.size)))


def torchvision_torch(content: bytes, size: int) -> Pixels:
    """Decode by torchvision and resize by torch."""
    return to_square(_by_torchvision(content), size)


def _by_torchvision(content: bytes) -> Pixels:
    from torchvision.io import ImageReadMode, decode_image

    pixels = decode_image(
        torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB, apply_exif_orientation=True
    )
    array: Pixels = pixels.permute(1, 2, 0).numpy()
    return array


def pillow_torch(content: bytes, size: int) -> Pixels:
    """Decode by Pillow and resize by torch."""
    with Image.open(io.BytesIO(content)) as image:
        return to_square(np.asarray(ImageOps.exif_transpose(image).convert("RGB")), size)


def opencv_reduced(content: bytes, size: int) -> Pixels:
    """Decode by OpenCV at 1/2, 1/4 or 1/8, if at least 1.5 times the size is left, and average down."""
    import cv2

    with Image.open(io.BytesIO(content)) as image:
        room = min(image.size) / (1.5 * size)
    flags = {
        8: cv2.IMREAD_REDUCED_COLOR_8,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        1: cv2.IMREAD_COLOR,
    }
    flag = flags[next(factor for factor in flags if factor <= room or factor == 1)]
    pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), flag), cv2.COLOR_BGR2RGB)
    left, top, right, bottom = centre(pixels.shape[1], pixels.shape[0])
    return np.asarray(
        cv2.resize(pixels[top:bottom, left:right], (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8
    )


def kornia_torch(content: bytes, size: int) -> Pixels:
    """Decode by kornia's libjpeg-turbo and resize by torch; JPEG only."""
    from kornia_rs.io import decode_image_jpegturbo

    return to_square(decode_image_jpegturbo(content, "rgb"), size)


WAYS: dict[str, tuple[Decode, str, frozenset[str]]] = {
    "Pillow": (pillow, "PIL", frozenset({"JPEG", "PNG", "WEBP"})),
    "Pillow reduced": (pillow_reduced, "PIL", frozenset({"JPEG"})),
    "torchvision, Pillow": (torchvision_pillow, "torchvision", frozenset({"JPEG", "PNG", "WEBP"})),
    "torchvision, torch": (torchvision_torch, "torchvision", frozenset({"JPEG", "PNG", "WEBP"})),
    "OpenCV reduced": (opencv_reduced, "cv2", frozenset({"JPEG"})),
    "Pillow, torch": (pillow_torch, "PIL", frozenset({"JPEG", "PNG", "WEBP"})),
    "kornia, torch": (kornia_torch, "kornia_rs", frozenset({"JPEG"})),
    "ssl-inv": (decode, "ssl_inv", frozenset({"JPEG", "PNG", "WEBP"})),
}
"""What each way is, the library it needs and the formats it is measured on."""


def photographs(folder: Path, archive: str, count: int) -> list[bytes]:
    """Some JPEG files of an archive, evenly spread."""
    with zipfile.ZipFile(folder / archive) as files:
        names = [name for name in files.namelist() if name.endswith(".jpg")]
        return [files.read(name) for name in names[:: max(1, len(names) // count)][:count]]


def mosaics(tiles: list[bytes], width: int, height: int, count: int) -> list[bytes]:
    """JPEG files of the given size, covered with random photographs."""
    random = np.random.default_rng(0)
    images = [Image.open(io.BytesIO(tile)).convert("RGB") for tile in tiles]
    step = images[0].size
    made = []
    for _ in range(count):
        canvas = Image.new("RGB", (width, height))
        for left in range(0, width, step[0]):
            for top in range(0, height, step[1]):
                canvas.paste(images[random.integers(len(images))], (left, top))
        made.append(encoded(canvas, "JPEG", quality=90))
    return made


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    """The content of a file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def again(contents: list[bytes], image_format: str, **options: object) -> list[bytes]:
    """The same images in another format."""
    return [encoded(Image.open(io.BytesIO(content)).convert("RGB"), image_format, **options) for content in contents]


def collections(folder: Path) -> dict[str, tuple[str, list[bytes], list[int]]]:
    """Format, files and target sizes, by name."""
    grocery, small = photographs(folder, "grocery_96px.zip", 200), photographs(folder, "davis2016val_192px.zip", 200)
    frames = photographs(folder, "cf_tracking_sample_seq.zip", 50)
    medium, large = mosaics(small, 500, 375, 30), mosaics(frames, 1600, 1200, 8)
    return {
        "JPEG 32x32": ("JPEG", photographs(folder, "cifar10_jpeg.zip", 300), [32]),
        "JPEG 96x96": ("JPEG", grocery, [64, 96]),
        "JPEG 192x108": ("JPEG", small, [64, 96]),
        "JPEG 640x360": ("JPEG", frames, [64, 224]),
        "JPEG 500x375": ("JPEG", medium, [64, 224]),
        "JPEG 500x375, progressive": ("JPEG", again(medium, "JPEG", quality=90, progressive=True), [224]),
        "JPEG 1600x1200": ("JPEG", large, [64, 224, 256]),
        "PNG 96x96": ("PNG", again(grocery[:60], "PNG"), [64]),
        "PNG 500x375": ("PNG", again(medium[:10], "PNG"), [224]),
        "WebP 96x96": ("WEBP", again(grocery[:60], "WEBP", quality=85), [64]),
        "WebP 500x375": ("WEBP", again(medium[:10], "WEBP", quality=85), [224]),
    }


def measure(ways: dict[str, Decode], contents: list[bytes], size: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Images per second and the distance of the first images from Pillow's, by way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            for content in contents:
                way(content, size)
            seconds[name].append((time.perf_counter() - begun) / len(contents))
    expected = [pillow(content, size).astype(int) for content in contents[:10]]
    return {
        name: (
            1 / min(seconds[name]),
            float(
                np.mean(
                    [np.abs(way(content, size) - one).mean() for content, one in zip(contents, expected, strict=False)]
                )
            ),
        )
        for name, way in ways.items()
    }


def main() -> None:
    """Measure all ways on all collections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("SSL_INV_TEST_DATA"), help="folder with the archives"
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("name the folder with the archives by --data or SSL_INV_TEST_DATA")
    warnings.simplefilter("ignore")  # torchvision says at every call that its decoders will be removed.
    torch.set_num_threads(1)
    installed = {name: way for name, way in WAYS.items() if importlib.util.find_spec(way[1])}
    results = []
    for name, (image_format, contents, sizes) in collections(arguments.data).items():
        ways = {way: decoder for way, (decoder, _, formats) in installed.items() if image_format in formats}
        for size in sizes:
            found = measure(ways, contents, size, arguments.rounds)
            kilobytes = sum(map(len, contents)) / len(contents) / 1000
            print(f"{name} ({kilobytes:.1f} kB) to {size} pixels, images/s (difference to Pillow)")
            print(
                "\n".join(
                    f"    {way:<20} {speed:8.0f} ({difference:.2f})" for way, (speed, difference) in found.items()
                ),
                flush=True,
            )
            speeds = {way: round(speed, 1) for way, (speed, _) in found.items()}
            results.append(
                {"images": name, "kilobytes": round(kilobytes, 1), "size": size, "images_per_second": speeds}
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
