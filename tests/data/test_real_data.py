"""Real data sets are read whole: CIFAR-10, fruits on a turntable and FashionMNIST; and some of them in every form."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import files_of, load_all

from ssl_inv.data.decoding import decode
from ssl_inv.data.source import Data
from ssl_inv.data.sources.folder import folder
from ssl_inv.data.sources.table import table
from ssl_inv.data.sources.torchvision import torchvision_dataset


def counts(data: Data) -> tuple[int, int]:
    return len(data.train), len(data.validation)


def test_cifar10_zip(real_data):
    data = folder(path=str(real_data / "cifar10_jpeg.zip"))
    assert counts(data) == (50_000, 10_000)
    assert data.train.labels.classes.bincount().tolist() == [5_000] * 10
    assert data.train.load(np.arange(0, 50_000, 500), np.zeros(100, dtype=np.int64)).readable.all()


def test_turntable_zip(real_data):
    latents = {"azimuth_deg": "circle deg"}
    data = table(path=str(real_data / "fruits360_turntable_64px.zip"), latents=latents, object_column="object+axis")
    assert counts(data) == (99, 36)
    assert set(data.train.view_counts) == {36}
    images = data.train.load(np.zeros(36, dtype=np.int64), np.arange(36))
    step = images.transform.select(torch.arange(35)).relative(images.transform.select(torch.arange(1, 36)))
    assert step["azimuth_deg"].rad2deg().sub(10).abs().max() < 2


def test_fashion_mnist(real_data, tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (real_data / "FashionMNIST" / "raw").iterdir():
        (raw / packed.name).symlink_to(packed.resolve())
    data = torchvision_dataset(dataset="FashionMNIST", root=str(tmp_path), download=True)
    assert counts(data) == (60_000, 10_000)
    assert data.validation.labels.names[0] == "T-shirt/top"
    assert data.validation.load(np.arange(64), np.zeros(64, dtype=np.int64)).pixels.shape == (64, 3, 28, 28)


FORMS = ["folder", "zip", "tar", "list", "roots"]


def in_form(form: str, top: Path, place: Path) -> str | list[str]:
    """The files of a folder in another form, written to `place`."""
    if form == "list":
        names = sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())
        (top / "files.txt").write_text("\n".join(names))
        return f"{top}/files.txt"
    if form == "roots":
        return [f"{top}/train", f"{top}/test"]
    return str(top) if form == "folder" else shutil.make_archive(str(place / "packed"), form, top)


@pytest.mark.parametrize("form", FORMS)
def test_cifar10_is_the_same_in_every_form(real_data, tmp_path, form):
    top = tmp_path / "some"
    with zipfile.ZipFile(real_data / "cifar10_jpeg.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[::200]
        archive.extractall(top, names)
        pixels = {name: decode(archive.read(name), None) for name in names}
    path = in_form(form, next(top.rglob("train")).parent, tmp_path)
    data = folder(path=path, split="none" if form == "roots" else None, validation_share=1 / 6)
    found = {}
    for part, source in (("train", data.train), ("test", data.validation)):
        for item in range(len(source)):
            name = source.describe(item, 0)
            assert form == "roots" or name.startswith(f"{part}/")
            assert source.labels.names[source.labels.classes[item]] == name.split("/")[-2]
            found[name] = source.load(np.array([item]), np.zeros(1, dtype=np.int64)).pixels[0].permute(1, 2, 0).numpy()
    wanted = {"/".join(name.split("/")[-3:]): one for name, one in pixels.items()}
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], one) for name, one in wanted.items())
    assert len(data.train) > 4 * len(data.validation) > 0


@pytest.mark.parametrize("form", ["zip", "tar"])
@pytest.mark.parametrize("name", ["grocery_96px.zip", "fruits360_turntable_64px.zip"])
def test_a_table_is_the_same_in_every_form(real_data, tmp_path, name, form):
    top = tmp_path / "some"
    with zipfile.ZipFile(real_data / name) as archive:
        sheet = next(one for one in archive.namelist() if one.endswith("meta.csv"))
        header, *rows = archive.read(sheet).decode().splitlines()
        rows = [row for number, row in enumerate(rows) if number % 1080 < 72]
        column = header.split(",").index("path")
        archive.extractall(top, [sheet.replace("meta.csv", row.split(",")[column]) for row in rows])
        (top / sheet).write_text("\n".join([header, *rows]))
    top = (top / sheet).parent
    fruits = {"latents": {"azimuth_deg": "circle deg"}, "object_column": "object+axis", "validation_share": 0.3}
    shop = {"class_column": "coarse_name"}
    settings = fruits if "fruits" in name else shop
    one, other = (table(path=path, **settings) for path in (str(top), in_form(form, top, tmp_path)))
    for first, second in ((one.train, other.train), (one.validation, other.validation)):
        assert files_of(first) == files_of(second)
        assert [first.describe(item, 0) for item in range(len(first))] == [
            second.describe(item, 0) for item in range(len(second))
        ]
        images, same = load_all(first), load_all(second)
        assert torch.equal(images.pixels, same.pixels)
        assert images.readable.all()
        assert images.transform.names == same.transform.names
        assert all(torch.equal(images.transform[key], same.transform[key]) for key in images.transform.names)
        labels, others = first.labels, second.labels
        assert (labels is None) == (others is None)
        if labels is not None:
            assert labels.names == others.names
            assert torch.equal(labels.classes, others.classes)
