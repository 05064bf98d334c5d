"""Every form of data goes all the way: looked at, trained on, stopped and resumed, judged, embedded, exported."""

import csv
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import yaml
from PIL import Image
from pyarrow import parquet
from small_voc import write_voc

import ssl_inv
from ssl_inv.data.sources import SOURCES
from ssl_inv.data.sources.given import holding
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.data.sources.threediebench_writing import write_threediebench
from ssl_inv.engine.module import Pretraining
from ssl_inv.run.cli import main
from ssl_inv.run.folder import RunFolder

COUNT = 24
RANDOM = np.random.default_rng(0)
BRIGHT = np.where(np.arange(COUNT) % 2, 160, 60)[:, None, None, None]
PIXELS = (BRIGHT + RANDOM.integers(0, 60, (COUNT, 8, 8, 12))).astype(np.uint8)
"""Two classes, dark and bright, of as many bands as any form has."""

CLASSES = [("cat", "dog")[number % 2] for number in range(COUNT)]
RECIPE: dict[str, Any] = {
    "objective": {"name": "simclr", "projector": [8]},
    # Fewer channels than 16 in a layer crash the backward pass of torch's convolutions on some processors.
    "backbone": {
        "name": "resnet18",
        "stem": "3x3-stride1",
        "arguments": {"layers": [1] * 4, "channels": [16] * 4},
    },
    "augmentation": {"name": "custom", "operations": [{"name": "crop"}, {"name": "flip"}]},
    "trainer": {"steps": 4, "batch_size": 6, "accelerator": "cpu", "workers": 0, "checkpoint_every": 2, "log_every": 1},
    "monitor": {"every": 0},
    "evaluation": {"protocol": "none"},
}
SOLIDS = {"classes": 2, "objects": 16, "views": 2, "size": 16}


def png(number: int) -> bytes:
    written = io.BytesIO()
    Image.fromarray(PIXELS[number, ..., :3]).save(written, "PNG")
    return written.getvalue()


def names() -> list[str]:
    return [f"{name}/{number:02}.png" for number, name in enumerate(CLASSES)]


def photos(root: Path) -> dict[str, Any]:
    for number, name in enumerate(names()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(number))
    return {"path": str(root)}


def in_zip(root: Path) -> dict[str, Any]:
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        for number, name in enumerate(names()):
            archive.writestr(name, png(number))
    return {"path": str(root / "photos.zip")}


def as_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def in_tar(root: Path) -> dict[str, Any]:
    as_tar(root / "photos.tar", {name: png(number) for number, name in enumerate(names())})
    return {"path": str(root / "photos.tar")}


def in_list(root: Path) -> dict[str, Any]:
    photos(root)
    lines = [f"{name} {name.partition('/')[0]}" for name in names()]
    (root / "files.txt").write_text("\n".join(lines))
    return {"path": str(root / "files.txt")}


def in_roots(root: Path) -> dict[str, Any]:
    photos(root / "first")
    (root / "second" / "dog").mkdir(parents=True)
    for name in names()[1::4]:
        shutil.move(root / "first" / name, root / "second" / name)
    return {"path": [str(root / "first"), str(root / "second")]}


def in_table(root: Path) -> dict[str, Any]:
    photos(root)
    with (root / "views.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "object", "class", "azimuth[deg]"])
        table.writerows([name, number % 12, name[:3], 10 * number] for number, name in enumerate(names()))
    return {"path": str(root)}


def in_columns(root: Path) -> dict[str, Any]:
    image = pyarrow.array([png(number) for number in range(COUNT)])
    parquet.write_table(pyarrow.table({"image": image, "class": CLASSES}), root / "0.parquet", row_group_size=5)
    return {"path": str(root / "0.parquet")}


def in_arrays(root: Path) -> dict[str, Any]:
    np.savez(root / "all.npz", x=PIXELS[..., :3], y=CLASSES)
    return {"path": str(root / "all.npz")}


def wide_arrays(root: Path) -> dict[str, Any]:
    np.save(root / "x.npy", PIXELS[..., :5].astype(np.float32) * 10)
    return {"path": str(root / "x.npy"), "range": [0, 2550], "channels": 5}


def in_shards(root: Path) -> dict[str, Any]:
    for part in range(2):
        numbers = range(part * 12, part * 12 + 12)
        said = {f"{number:02}.cls": CLASSES[number].encode() for number in numbers}
        as_tar(root / f"{part}.tar", {**said, **{f"{number:02}.png": png(number) for number in numbers}})
    return {"path": str(root)}


def of_torchvision(root: Path) -> dict[str, Any]:
    photos(root)
    return {"dataset": "ImageFolder", "root": str(root)}


def of_the_user(root: Path) -> dict[str, Any]:
    photos(root)
    return {"dataset": "torchvision.datasets:ImageFolder", "arguments": {"root": str(root)}}


def in_memory(root: Path) -> dict[str, Any]:
    return {}


def rendered(root: Path) -> dict[str, Any]:
    return {**SOLIDS}


def meshes(root: Path) -> dict[str, Any]:
    small_meshes = pytest.importorskip("small_meshes")
    boxes = [small_meshes.box((1.0, 0.3 + 0.05 * number, 0.3)) for number in range(12)]
    path = small_meshes.stored(
        root / "boxes.npz", *boxes, label=np.arange(12) % 2, class_names=np.array(["cat", "dog"])
    )
    return {"path": str(path), "size": 16, "views": 4}


def masked_videos(root: Path) -> dict[str, Any]:
    for number in range(len(PIXELS)):
        folder = root / f"{number // 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number % 3}.png").write_bytes(png(number))
        Image.fromarray(np.full(PIXELS.shape[1:3], number % 2, np.uint8)).save(folder / f"{number % 3}_mask.png")
    return {"path": str(root), "size": 16}


def voc(root: Path) -> dict[str, Any]:
    write_voc(root)
    return {"path": str(root), "size": 16}


def as_published(root: Path) -> dict[str, Any]:
    place = root / "bench"
    write_threediebench(place, RenderedSolids(**SOLIDS), None, (np.arange(12), np.arange(12, 16)))
    return {"path": str(place), "size": None}


def tiffs(kind: str, count: int, layout: str, **settings: Any) -> Callable[[Path], dict[str, Any]]:
    def made(root: Path) -> dict[str, Any]:
        tifffile = pytest.importorskip("tifffile")
        for number, name in enumerate(names()):
            values = PIXELS[number, ..., :count].astype(kind) * (1 if kind == "uint8" else 10)
            values = values if layout == "contig" else np.ascontiguousarray(values.transpose(2, 0, 1))
            file = (root / name).with_suffix(".tif")
            file.parent.mkdir(parents=True, exist_ok=True)
            how = {} if layout == "pages" else {"planarconfig": layout}
            tifffile.imwrite(file, values, photometric="minisblack", **how)
        return {"path": str(root), **settings}

    return made


FORMS: dict[str, tuple[str, Callable[[Path], dict[str, Any]], int]] = {
    "folder": ("folder", photos, 3),
    "zip": ("folder", in_zip, 3),
    "tar": ("folder", in_tar, 3),
    "list": ("folder", in_list, 3),
    "several roots": ("folder", in_roots, 3),
    "table": ("table", in_table, 3),
    "Parquet": ("arrow", in_columns, 3),
    "arrays": ("arrays", in_arrays, 3),
    "arrays of five channels": ("arrays", wide_arrays, 5),
    "shards": ("shards", in_shards, 3),
    "torchvision": ("torchvision", of_torchvision, 3),
    "dataset": ("dataset", of_the_user, 3),
    "given": ("given", in_memory, 3),
    "rendered": ("rendered", rendered, 3),
    "3DIEBench": ("threediebench", as_published, 3),
    "meshes": ("meshes", meshes, 3),
    "videos with masks": ("masked_videos", masked_videos, 3),
    "images with boxes": ("voc", voc, 3),
    "TIFF, 5 bands": ("folder", tiffs("uint8", 5, "contig", channels=5), 5),
    "TIFF, 12 planes of floats": ("folder", tiffs("float32", 12, "separate", channels=12, range=[0, 2550]), 12),
    "TIFF, 5 planes of 16 bits": ("folder", tiffs("uint16", 5, "separate", channels=5, range=[0, 2550]), 5),
    "TIFF, 2 bands of 8": ("folder", tiffs("uint8", 4, "contig", bands=[4, 2]), 2),
    "TIFF, a grey band": ("folder", tiffs("uint16", 12, "contig", bands=[7], channels=1, range=[0, 2550]), 1),
    "TIFF, pages as bands": ("folder", tiffs("uint8", 5, "pages", channels=5), 5),
    "TIFF, pages as views": ("folder", tiffs("uint8", 3, "pages", pages="views"), 3),
}
"""The source of a form, what makes a small data set of it and gives the settings, and the channels of its images."""


def test_every_source_is_among_them():
    assert {source for source, _, _ in FORMS.values()} == SOURCES.keys()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path


def losses(run: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def stopped_at_two(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    step = Pretraining.training_step

    def stopping(self: Pretraining, *given: Any) -> Any:
        if self.step == 2:
            raise KeyboardInterrupt
        return step(self, *given)

    monkeypatch.setattr(Pretraining, "training_step", stopping)
    return monkeypatch


def goes_all_the_way(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, make, channels = FORMS[form]
    settings = {"name": source, **make(Path("data").absolute())}
    if "TIFF" in form:
        settings["size"] = 8
    recipe = {**RECIPE, "data": settings}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    held = holding((PIXELS[..., :3], CLASSES)) if form == "given" else nullcontext()
    with held:
        assert main(["check", "recipe.yaml"]) == 0
        assert main(["data", "recipe.yaml"]) == 0
        assert main(["pretrain", "recipe.yaml", "--output", "straight", "--quiet"]) == 0
        with monkeypatch.context() as patched:
            stopped_at_two(patched)
            assert main(["pretrain", "recipe.yaml", "--output", "again", "--quiet"]) != 0
        assert len(losses("again")) < len(losses("straight")) == 4
        assert main(["pretrain", "--resume", "again", "--quiet"]) == 0
        assert losses("again") == losses("straight")
        assert RunFolder.open(Path("straight")).recipe().backbone["arguments"].get("in_chans", 3) == channels
        assert len(RunFolder.open(Path("straight")).recipe().normalization.mean) == channels

        protocols = ["intrinsic_dimension" if source in ("masked_videos", "voc") else "knn"]
        ours = ssl_inv.evaluate("straight", protocols=protocols, quiet=True)
        # An export reads files as its run did; the data need not say that again.
        plain = {name: value for name, value in settings.items() if name not in ("range", "bands", "channels")}
        theirs = ssl_inv.evaluate("straight/export", data=plain, protocols=protocols, quiet=True)
        assert [row["value"] for row in theirs.rows] == [row["value"] for row in ours.rows]
        table = ssl_inv.embed("straight")
        values = np.asarray(table["all"])
        assert values.shape[1] == 16
        assert np.isfinite(values).all()
        assert len(np.unique(values.round(5), axis=0)) > 1


def test_arrays_of_five_channels_go_all_the_way(place, monkeypatch):
    goes_all_the_way("arrays of five channels", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_form_goes_all_the_way(form, place, monkeypatch):
    goes_all_the_way(form, monkeypatch)
