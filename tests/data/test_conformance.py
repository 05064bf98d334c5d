"""Claims about every data source in the table of names, each on a tiny data set: what it gives fits together, does not
depend on the order of loading, and says when files are broken or have changed.
"""

import csv
import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from small_data import every_view, load_all, plain
from small_voc import write_voc

from ssl_inv.catalogue import DATA, SettingError
from ssl_inv.data.images import BrokenImagesError
from ssl_inv.data.source import Data, Images, Indices, Labels, Source, Subset
from ssl_inv.data.sources import SOURCES
from ssl_inv.data.sources.given import holding
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.data.sources.threediebench_writing import write_threediebench
from ssl_inv.run.cli import main

SOLIDS = {"classes": 2, "objects": 12, "views": 2, "size": 16}
POSES = ["rotation", "floor_hue", "light_theta", "light_phi", "light_hue"]


@dataclass
class Tiny:
    """Settings of a source for a tiny data set, what it must give, and its image files."""

    settings: dict[str, Any]
    views: int = 1
    objects: int = 12
    parameters: list[str] = field(default_factory=list)
    classes: tuple[str, ...] | None = ("cat", "dog")
    files: Sequence[Any] = field(default_factory=list)
    stamped: bool = True

    def data(self, name: str) -> Data:
        made: Data = DATA.find(name).load()(**self.settings)
        return made


def photos(root: Path, count: int = 12) -> list[Path]:
    """Square photographs, no two alike, of cats and dogs in turn."""
    random = np.random.default_rng(0)
    paths = [root / ("cat", "dog")[number % 2] / f"{number:02}.png" for number in range(count)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return paths


def tiny_folder(root: Path) -> Tiny:
    return Tiny({"path": str(root), "validation_share": 0.25}, files=photos(root))


def tiny_torchvision(root: Path) -> Tiny:
    files = photos(root)
    settings = {"dataset": "ImageFolder", "root": str(root), "validation_share": 0.25}
    return Tiny(settings, files=sorted(files), stamped=False)


def tiny_table(root: Path) -> Tiny:
    files = photos(root, 24)
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["path", "object", "class", "azimuth[deg]"])
    for number, path in enumerate(files):
        table.writerow([path.relative_to(root), number % 12, path.parent.name, 10 * number])
    (root / "views.csv").write_text(text.getvalue())
    return Tiny({"path": str(root)}, views=2, parameters=["azimuth"], files=files)


def tiny_arrow(root: Path) -> Tiny:
    files = photos(root, 24)
    columns = {
        "path": [path.relative_to(root).as_posix() for path in files],
        "object": [number % 12 for number in range(24)],
        "class": [path.parent.name for path in files],
        "azimuth[deg]": [10.0 * number for number in range(24)],
    }
    parquet.write_table(pyarrow.table(columns), root / "views.parquet", row_group_size=5)
    return Tiny({"path": str(root)}, views=2, parameters=["azimuth"], files=files)


def tiny_arrays(root: Path) -> Tiny:
    random, root = np.random.default_rng(0), root / "arrays"
    root.mkdir(parents=True)
    np.save(root / "x.npy", random.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8))
    np.save(root / "y.npy", ["cat", "dog"] * 12)
    np.save(root / "object.npy", np.arange(24) % 12)
    np.save(root / "azimuth[deg].npy", 10.0 * np.arange(24))
    return Tiny({"path": str(root)}, views=2, parameters=["azimuth"], files=[root / "x.npy"] * 4)


def tiny_threediebench(root: Path) -> Tiny:
    write_threediebench(root, RenderedSolids(**SOLIDS), None, (np.arange(9), np.arange(9, 12)))
    files = sorted(root.rglob("*.jpg"))
    return Tiny({"path": str(root), "size": None}, 2, 12, POSES, ("solid-00", "solid-01"), files)


class InTar:
    """A file in a tar, as far as these tests use files."""

    def __init__(self, tar: Path, name: str) -> None:
        self.tar, self.name = tar, name

    def relative_to(self, top: Path) -> PurePosixPath:
        return PurePosixPath(self.tar.relative_to(top).as_posix(), self.name)

    def read_bytes(self) -> bytes:
        with tarfile.open(self.tar) as archive:
            file = archive.extractfile(self.name)
            assert file is not None
            return file.read()

    def write_bytes(self, content: bytes) -> None:
        with tarfile.open(self.tar) as archive:
            files = {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]
        as_tar(self.tar, {**files, self.name: content})


def as_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def tiny_shards(root: Path) -> Tiny:
    images = [path.read_bytes() for path in photos(root / "photos", 24)]
    shutil.rmtree(root / "photos")
    files = []
    for part in range(4):
        shard: dict[str, bytes] = {}
        for number in range(6 * part, 6 * part + 6):
            said = {"object": number // 2, "class": ("cat", "dog")[number // 2 % 2], "azimuth[deg]": 10 * number}
            shard |= {f"{number:02}.json": json.dumps(said).encode(), f"{number:02}.png": images[number]}
            files.append(InTar(root / f"{part}.tar", f"{number:02}.png"))
        as_tar(root / f"{part}.tar", shard)
    return Tiny({"path": str(root)}, views=2, parameters=["azimuth"], files=files)


def tiny_masked_videos(root: Path) -> Tiny:
    files = photos(root / "photos", 24)
    placed = []
    for number, path in enumerate(files):
        placed.append(root / f"{number // 2:02}" / f"{number % 2}.png")
        placed[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), number % 3, dtype=np.uint8)).save(
            placed[-1].with_name(f"{number % 2}_mask.png")
        )
        path.rename(placed[-1])
    return Tiny({"path": str(root), "size": 8}, views=2, classes=None, files=placed)


def tiny_voc(root: Path) -> Tiny:
    return Tiny({"path": str(root), "size": 16}, classes=None, files=write_voc(root))


def tiny_rendered(root: Path) -> Tiny:
    return Tiny({**SOLIDS}, 2, 12, POSES, ("solid-00", "solid-01"), stamped=False)


def tiny_meshes(root: Path) -> Tiny:
    pytest.importorskip("trimesh")
    pytest.importorskip("embreex")
    paths = [root / ("cat", "dog")[number % 2] / f"{number:02}.off" for number in range(12)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"OFF\n4 4 0\n0 0 0\n1 0 0\n0 {number + 1} 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n")
    settings = {"path": str(root), "views": 1, "size": 16, "samples": 1, "validation_share": 0.25}
    return Tiny(settings, parameters=POSES, files=paths)


class Held(Tiny):
    """A data set that the caller holds."""

    def data(self, name: str) -> Data:
        with holding(mine()):
            return super().data(name)


def mine() -> tuple[np.ndarray[Any, Any], list[str]]:
    """Twelve arrays of a cat or a dog, as a user's own function gives them."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8), ["cat", "dog"] * 6


def tiny_given(root: Path) -> Tiny:
    return Held({"validation_share": 0.25}, stamped=False)


def tiny_dataset(root: Path) -> Tiny:
    files = photos(root)
    arguments = {"dataset": "torchvision.datasets:ImageFolder", "arguments": {"root": str(root)}}
    return Tiny({**arguments, "validation_share": 0.25}, files=sorted(files), stamped=False)


TINY = {
    "arrays": tiny_arrays,
    "arrow": tiny_arrow,
    "dataset": tiny_dataset,
    "folder": tiny_folder,
    "given": tiny_given,
    "meshes": tiny_meshes,
    "masked_videos": tiny_masked_videos,
    "rendered": tiny_rendered,
    "shards": tiny_shards,
    "table": tiny_table,
    "threediebench": tiny_threediebench,
    "torchvision": tiny_torchvision,
    "voc": tiny_voc,
}
WITH_FILES = [name for name in TINY if name not in ("arrays", "rendered", "given")]
BROKEN = [(name, cache) for name in WITH_FILES for cache in (False, True)]


def both(data: Data) -> tuple[Source, Source]:
    return data.train, data.validation


def test_every_source_has_a_tiny_data_set():
    assert TINY.keys() == SOURCES.keys()


@pytest.mark.parametrize("name", TINY)
def test_counts_groups_labels_and_images_fit_together_and_no_view_is_both_to_train_on_and_to_judge_by(name, tmp_path):
    tiny = TINY[name](tmp_path / "data")
    data = tiny.data(name)
    assert len(data.train) + len(data.validation) == tiny.objects
    train, validation = ({one.numpy().tobytes() for one in load_all(source).pixels} for source in both(data))
    assert len(train) == data.train.view_counts.sum()
    assert train.isdisjoint(validation)
    for source in both(data):
        assert source.view_counts.tolist() == [tiny.views] * len(source)
        assert list(source.groups) == tiny.parameters
        labels, images = source.labels, load_all(source)
        assert (None if labels is None else labels.names) == tiny.classes
        if labels is not None:
            assert labels.classes.shape == labels.known.shape == (len(source),)
            assert labels.known.all()
        assert images.pixels.shape == (source.view_counts.sum(), 3, source.image_size, source.image_size)
        assert images.pixels.dtype == torch.uint8
        assert images.readable.all()
        assert images.transform.groups == source.groups
        assert all(len(value) == len(images.pixels) for value in images.transform.values.values())
        assert source.preferred_workers in (0, None)
        assert source.renders == (name in ("meshes", "rendered"))
        whole = source.source if isinstance(source, Subset) else source
        for item, view in ((len(whole), 0), (-1, 0), (0, tiny.views), (0, -1)):
            what = f"view {view}; (the|its) last one is {tiny.views - 1}"
            if item:
                what = f"object {item}; the last one is {len(whole) - 1}"
            with pytest.raises(ValueError, match=f"no {what}"):
                whole.load(np.array([item]), np.array([view]))


@pytest.mark.parametrize("name", TINY)
def test_a_view_is_the_same_in_any_order_in_a_copy_and_when_it_is_rendered_again(name, tmp_path):
    tiny = TINY[name](tmp_path / "data")
    source = tiny.data(name).train
    objects, views = every_view(source)
    expected = load_all(source)
    order = np.random.default_rng(0).integers(0, len(objects), 3 * len(objects))
    settings = {**tiny.settings, "cache": False}
    for other in (source, pickle.loads(pickle.dumps(source)), replace(tiny, settings=settings).data(name).train):
        for rows in np.array_split(order, 5):
            found, chosen = other.load(objects[rows], views[rows]), torch.from_numpy(rows)
            assert torch.equal(found.pixels, expected.pixels[chosen])
            for parameter in tiny.parameters:
                assert torch.equal(found.transform[parameter], expected.transform[parameter][chosen])
    if source.renders:
        again = source.render(objects, expected.transform).pixels
        assert ((again.int() - expected.pixels.int()).abs() > 1).float().mean() < 1e-3


@pytest.mark.parametrize("name", TINY)
def test_a_stamp_changes_with_a_file_and_with_nothing_else(name, tmp_path):
    tiny = TINY[name](tmp_path / "data")
    before = tiny.data(name).train.stamp
    assert tiny.data(name).train.stamp == before
    assert bool(before) == tiny.stamped
    if tiny.stamped:
        tiny.files[3].write_bytes(tiny.files[3].read_bytes() + b" ")
        assert tiny.data(name).train.stamp != before


@pytest.mark.parametrize(("name", "cache"), BROKEN)
def test_a_broken_image_is_zero_and_named(name, cache, tmp_path):
    tiny = TINY[name](tmp_path / "data")
    tiny.files[5].write_bytes(b"no image")
    found = []
    tiny.settings["cache"] = cache
    for source in both(tiny.data(name)):
        for _ in range(2):
            images = load_all(source)
        objects, views = (rows[~images.readable.numpy()] for rows in every_view(source))
        found += [source.describe(*pair) for pair in zip(objects.tolist(), views.tolist(), strict=True)]
        assert not images.pixels[~images.readable].any()
        assert (images.pixels[images.readable].flatten(1).amax(1) > 0).all()
        assert source.tolerated_images is not None
    expected = (
        "item 5" if name in ("dataset", "torchvision") else tiny.files[5].relative_to(tmp_path / "data").as_posix()
    )
    assert found == [expected]


@pytest.mark.parametrize("name", WITH_FILES)
def test_too_many_broken_images_are_an_error_of_one_line(name, tmp_path):
    tiny = TINY[name](tmp_path / "data")
    # Meshes are in memory once they are made, but not in that of another process.
    source = pickle.loads(pickle.dumps(tiny.data(name).train))
    for path in tiny.files:
        path.write_bytes(b"no image")
    many = r"more than \d+ of \d+ images cannot be read|\d+ of \d+ meshes of .* cannot be rendered, more than \d+"
    with pytest.raises((BrokenImagesError, SettingError), match=many) as caught:
        load_all(source)
    assert "\n" not in str(caught.value)
    with pytest.raises(
        (BrokenImagesError, SettingError), match=r"no image is readable|no mesh of .* can be|cannot be read"
    ):
        tiny.data(name)


# A user's own source.


class Own(Source):
    """Four grey images with whatever counts and labels a user may have thought of."""

    view_counts, groups, labels, image_size = np.ones(4, dtype=np.int64), {}, None, 8

    def __init__(self, counts: Any = None, labels: Any = None) -> None:
        self.view_counts = self.view_counts if counts is None else counts
        self.labels = labels() if callable(labels) else labels

    def load(self, objects: Indices, views: Indices) -> Images:
        return plain(torch.full((len(objects), 3, 8, 8), 128, dtype=torch.uint8))


def named(classes: Any, known: Any = (True,) * 4, names: Any = ("a", "b")) -> Callable[[], Labels]:
    return lambda: Labels(classes, torch.tensor(known) if isinstance(known, tuple) else known, names)


ZEROS = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("counts", "labels", "message"),
    [
        ([1, 1, 1, 1], None, "Own.view_counts must be a numpy array of integers, one for each object, got list"),
        (np.ones(4), None, r"Own.view_counts .* got ndarray \(4,\) of float64"),
        (np.ones((4, 1), dtype=int), None, r"Own.view_counts .* got ndarray \(4, 1\)"),
        (None, [0, 1, 0, 1], "Own.labels must be Labels or None, got list"),
        (None, named(ZEROS[:3], known=(True,) * 3), "Own.labels has 3 classes for 4 objects"),
        (None, named(ZEROS.numpy()), r"Labels.classes must be a tensor \(N,\) of torch.int64, got ndarray"),
        (None, named(ZEROS.float()), r"Labels.classes .* got Tensor \(4,\) of torch.float32"),
        (None, named(ZEROS, known=(True,) * 3), r"Labels.known .* got Tensor \(3,\) of torch.bool"),
        (None, named(ZEROS, known=[True] * 4), "Labels.known .* got list"),
        (None, named(ZEROS, names=["a", "b"]), "Labels.names must be a tuple of class names, got list"),
        (None, named(ZEROS + 2), r"Labels.classes has 2 to 2, but Labels.names has 2 name\(s\)"),
    ],
)
def test_counts_and_labels_of_a_wrong_type_are_one_clear_line(counts, labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        Data(Own(), Own(counts, labels))
    assert "\n" not in str(caught.value)


def test_a_source_of_a_wrong_type_ends_a_run_before_it_begins(tmp_path, tiny_recipe, monkeypatch, capsys):
    mine = "\n\ndef mine():\n    return Data(Own(labels=[0, 1, 0, 1]), Own())\n"
    (tmp_path / "mine.py").write_text(Path(__file__).read_text() + mine)
    monkeypatch.syspath_prepend(tmp_path)
    rendered = "{name: rendered, classes: 4, objects: 40, views: 3, size: 32}"
    (tmp_path / "tiny.yaml").write_text(tiny_recipe.replace(rendered, "{name: mine.mine}"))
    assert main(["pretrain", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("data: Own.labels must be Labels or None, got list")
    assert not (tmp_path / "run").exists()
