"""A tiny folder in the layout of Pascal VOC: bright squares and bars on dark noise."""

from pathlib import Path

import numpy as np
from PIL import Image

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult>"
    "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def annotation(*objects: tuple[str, tuple[float, float, float, float], bool]) -> str:
    return f"<annotation>{''.join(OBJECT.format(name, int(hard), *box) for name, box, hard in objects)}</annotation>"


def write_voc(root: Path, count: int = 12, sides: tuple[int, int] = (48, 64), sets: bool = True) -> list[Path]:
    """Image files, each with a red square and every second one with a blue bar; the last quarter is the set `val`."""
    random, (height, width) = np.random.default_rng(0), sides
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    files, names = [], [f"{number:03}" for number in range(count)]
    for number, name in enumerate(names):
        pixels = random.integers(0, 40, (height, width, 3), dtype=np.uint8)
        left, top = (int(random.integers(0, side - 20)) for side in (width, height))
        pixels[top : top + 16, left : left + 16] = (230, 40, 40)
        found = [("square", (left + 1, top + 1, left + 16, top + 16), False)]
        if number % 2:
            low = int(random.integers(0, height - 8))
            pixels[low : low + 8, 4 : width - 4] = (40, 40, 230)
            found.append(("bar", (5, low + 1, width - 4, low + 8), number % 4 == 3))
        files.append(root / "JPEGImages" / f"{name}.png")
        Image.fromarray(pixels).save(files[-1])
        (root / "Annotations" / f"{name}.xml").write_text(annotation(*found))
    if sets:
        held = count - count // 4
        (root / "ImageSets/Main/train.txt").write_text("\n".join(names[:held]) + "\n")
        (root / "ImageSets/Main/val.txt").write_text("\n".join(names[held:]) + "\n")
    return files
