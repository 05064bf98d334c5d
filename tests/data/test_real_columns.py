"""Real data in columns and arrays: equal to the same data in folders and tables."""

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import compute, csv, ipc, parquet
from small_data import load_all

from ssl_inv.data.source import Data, Source
from ssl_inv.data.sources.arrays import arrays
from ssl_inv.data.sources.arrow.source import arrow
from ssl_inv.data.sources.folder import folder
from ssl_inv.data.sources.table import table
from ssl_inv.data.sources.torchvision import torchvision_dataset


def counts(data: Data) -> tuple[int, int]:
    return len(data.train), len(data.validation)


@pytest.fixture(scope="module")
def fashion(real_data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of FashionMNIST for torchvision, which unpacks it there."""
    root = tmp_path_factory.mktemp("fashion")
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (real_data / "FashionMNIST" / "raw").iterdir():
        (raw / packed.name).symlink_to(packed.resolve())
    return root


def in_columns(contents: list[bytes], paths: list[str], beside: pyarrow.Table) -> pyarrow.Table:
    """Images as `datasets` stores them, before other columns."""
    image = pyarrow.StructArray.from_arrays([pyarrow.array(contents), pyarrow.array(paths)], ["bytes", "path"])
    return beside.add_column(0, "image", image)


def unpacked(archive: Path, folder: Path, wanted: list[str]) -> list[bytes]:
    """The contents of some files of a zip, which are also written below a folder."""
    with zipfile.ZipFile(archive) as packed:
        top = "" if wanted[0] in packed.namelist() else packed.namelist()[0].split("/")[0] + "/"
        contents = [packed.read(top + name) for name in wanted]
    for name, content in zip(wanted, contents, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return contents


def same(found: Source, expected: Source) -> None:
    assert found.view_counts.tolist() == expected.view_counts.tolist()
    assert found.groups == expected.groups
    mine, theirs = load_all(found), load_all(expected)
    assert torch.equal(mine.pixels, theirs.pixels)
    for name in found.groups:
        assert torch.equal(mine.transform[name], theirs.transform[name])
    for one in (found, expected):
        assert one.labels is None or one.labels.known.all()
    names = [
        None if one.labels is None else [one.labels.names[n] for n in one.labels.classes] for one in (found, expected)
    ]
    assert names[0] == names[1]


def test_a_turntable_in_parquet_is_the_turntable_in_a_table(real_data, tmp_path):
    archive = real_data / "fruits360_turntable_64px.zip"
    with zipfile.ZipFile(archive) as packed:
        (name,) = (one for one in packed.namelist() if one.endswith("meta.csv"))
        everything = csv.read_csv(pyarrow.BufferReader(packed.read(name)))
    split = everything.column("split")
    rows = pyarrow.concat_tables(
        everything.filter(compute.equal(split, one)).slice(0, 180) for one in ("Training", "Test")
    )
    (tmp_path / "table").mkdir()
    paths = rows.column("path" if "path" in rows.column_names else "file_name").to_pylist()
    contents = unpacked(archive, tmp_path / "table", paths)
    csv.write_csv(rows, tmp_path / "table" / "meta.csv")
    parquet.write_table(in_columns(contents, paths, rows), tmp_path / "turntable.parquet", row_group_size=50)
    settings = {"latents": {"azimuth_deg": "circle deg"}, "object_column": "object+axis", "size": 48}
    found, expected = (
        arrow(path=str(tmp_path / "turntable.parquet"), **settings),
        table(path=str(tmp_path / "table"), **settings),
    )
    for one, other in ((found.train, expected.train), (found.validation, expected.validation)):
        same(one, other)


def test_cifar10_in_parquet_is_the_folder(real_data, tmp_path):
    archive = real_data / "cifar10_jpeg.zip"
    with zipfile.ZipFile(archive) as packed:
        names = [one for one in packed.namelist() if one.endswith(".jpg")][::200]
    names = [name[max(name.find("train/"), name.find("test/")) :] for name in names]
    contents = unpacked(archive, tmp_path / "folder", names)
    classes = sorted({name.split("/")[1] for name in names})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": classes}}
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        rows = sorted((name, content) for name, content in zip(names, contents, strict=True) if name.startswith(split))
        made = in_columns(
            [content for _, content in rows],
            [name for name, _ in rows],
            pyarrow.table({"label": [classes.index(name.split("/")[1]) for name, _ in rows]}),
        ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        parquet.write_table(made, tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet", row_group_size=40)
    found, expected = arrow(path=str(tmp_path / "hub")), folder(path=str(tmp_path / "folder"))
    assert counts(found) == counts(expected)
    assert sum(counts(found)) == len(names) == 300
    same(found.train, expected.train)
    same(found.validation, expected.validation)


def test_fashion_mnist_in_a_stream_and_in_arrays_is_that_of_torchvision(fashion, tmp_path):
    raw = fashion / "FashionMNIST" / "raw"
    expected = torchvision_dataset(dataset="FashionMNIST", root=str(fashion), download=True).validation
    images, labels = (
        np.frombuffer(gzip.decompress((raw / name).read_bytes()), np.uint8, offset=offset)
        for name, offset in (("t10k-images-idx3-ubyte.gz", 16), ("t10k-labels-idx1-ubyte.gz", 8))
    )
    images, rows = images.reshape(-1, 28, 28), np.arange(300)
    np.savez(
        tmp_path / "fashion.npz",
        x_train=images[:300],
        y_train=labels[:300],
        x_test=images[300:310],
        y_test=labels[300:310],
    )
    made = pyarrow.table(
        {
            "image": pyarrow.array(images[:300].tolist(), pyarrow.list_(pyarrow.list_(pyarrow.uint8()))),
            "label": labels[:300],
        }
    )
    with ipc.new_stream(tmp_path / "fashion.arrow", made.schema) as stream:
        stream.write_table(made, max_chunksize=100)
    everything = {"split_column": "none", "class_column": "label", "validation_share": 0.001}
    for found in (
        arrays(path=str(tmp_path / "fashion.npz")).train,
        arrow(path=str(tmp_path / "fashion.arrow"), **everything).train.source,
    ):
        assert torch.equal(load_all(found).pixels, expected.load(rows, np.zeros_like(rows)).pixels)
        assert found.labels.classes.tolist() == expected.labels.classes[:300].tolist()
