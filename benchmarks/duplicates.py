r"""Precision and recall of near duplicates, on photographs with copies that are known.

    python benchmarks/duplicates.py make grocery_96px.zip copies/
    ssl-inv pretrain simclr-folder --data.path copies/ --data.labels none --trainer.batch_size 128 --output run \
        --backbone.arguments "{channels: [32, 64, 128, 256]}"
    ssl-inv embed run --data copies/ --output index --index exact
    python benchmarks/duplicates.py judge index

A picture and its copy have the same four digits in their names.
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_inv.data.archives import Files
from ssl_inv.data.images import IMAGE_SUFFIXES
from ssl_inv.data.names import unpacked
from ssl_inv.run.search import Index

KINDS = ("copy", "jpeg", "resize", "crop")
PHOTOGRAPHS, COPIED, CUT = 1500, 600, 4
THRESHOLDS = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999)


def make(archive: str, folder: str) -> None:
    """Write photographs of an archive's training split, and copies of some of them."""
    files = Files(archive)
    names = [name for name in map(unpacked, files.with_suffix(IMAGE_SUFFIXES)) if name.startswith("train/")]
    Path(folder).mkdir(parents=True)
    for number, chosen in enumerate(np.random.default_rng(0).permutation(len(names))[:PHOTOGRAPHS]):
        content = files.read(names[chosen])
        (Path(folder) / f"{number:04d}.jpg").write_bytes(content)
        if number >= COPIED:
            continue
        kind = KINDS[number % len(KINDS)]
        (Path(folder) / f"{number:04d}_{kind}.jpg").write_bytes(changed(content, kind))


def changed(content: bytes, kind: str) -> bytes:
    """A copy of a file."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    width, height = image.size
    if kind == "copy":
        return content
    if kind == "resize":
        image = image.resize((2 * width // 3, 2 * height // 3), Image.Resampling.BICUBIC)
    if kind == "crop":
        image = image.crop((CUT, CUT, width - CUT, height - CUT))
    target = io.BytesIO()
    image.save(target, "JPEG", quality=50 if kind == "jpeg" else 90)
    return target.getvalue()


def judge(folder: str) -> None:
    """Print precision and recall of pairs for some thresholds."""
    index = Index.open(folder)
    names = index.columns["id"]
    vectors = index.vectors(np.arange(len(index)), "all")
    first, second = np.triu_indices(len(index), 1)
    cosines = (vectors @ vectors.T)[first, second]
    stems = np.array([Path(name).name[:4] for name in names])
    kinds = np.array([next((kind for kind in KINDS if kind in name), "") for name in names])
    true = stems[first] == stems[second]
    kind_of = np.where(kinds[first] != "", kinds[first], kinds[second])[true]
    print(f"one random pair in a thousand: {np.percentile(cosines[~true], 99.9):.3f}")
    for threshold in THRESHOLDS:
        found = cosines >= threshold - 1e-5
        precision, recall = (found & true).sum() / max(found.sum(), 1), found[true].mean()
        each = "  ".join(f"{kind} {found[true][kind_of == kind].mean():.2f}" for kind in KINDS)
        print(f"{threshold:5}  precision {precision:.3f}  recall {recall:.3f}  {each}")


if __name__ == "__main__":
    {"make": make, "judge": judge}[sys.argv[1]](*sys.argv[2:])
