"""Claims about data that a path names: the files that are there say of which kind they are."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from small_data import png

from ssl_inv.data.reading import PLAIN, Reading
from ssl_inv.run.cli import main
from ssl_inv.run.data_sections import data_at, sections_with_data
from ssl_inv.run.recipe import JUDGED, apply_overrides


def columns() -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"image": [png(number) for number in range(4)]}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("files", "below", "kind"),
    [
        (["cat/1.png"], "", "folder"),
        (["1.npy"], "", "folder"),
        (["1.png", "views.csv"], "", "table"),
        (["views.csv"], "views.csv", "table"),
        (["x.parquet"], "x.parquet", "arrow"),
        (["x.feather"], "x.feather", "arrow"),
        (["data/train-00000-of-00001.parquet", "README.md"], "", "arrow"),
        (["state.json", "dataset_info.json", "data-00000-of-00001.arrow"], "", "arrow"),
        (["dataset_dict.json", "train/state.json"], "", "arrow"),
        (["1.png", "embeddings.parquet"], "", "folder"),
        (["1.png", "metadata.parquet"], "", "arrow"),
        (["a.npz"], "a.npz", "arrays"),
        (["a.npy"], "a.npy", "arrays"),
        (["x_train.npy", "y_train.npy"], "", "arrays"),
        (["x_train.npy", "1.png"], "", "folder"),
        (["train_images.npy", "latents/1.npy"], "", "threediebench"),
    ],
)
def test_the_kind_of_data_is_seen_from_the_files(tmp_path, write, files, below, kind):
    path = Path(write(tmp_path / "data", dict.fromkeys(files, b"")))
    assert data_at(path / below, None, None)["name"] == kind
    assert data_at(path, None, "folder")["name"] == "folder"


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ({"1.png": b"", "1.cls": b"3"}, "shards"),
        ({"a/1.png": b"", "a/1.cls": b"3", "a/2.png": b"", "README": b""}, "shards"),
        ({"1.png": b"", "1.json": b'{"class": "cat"}', "2.jpg": b"", "2.json": b"{}"}, "shards"),
        ({"1.png": b"", "1.json": b'{"azimuth[deg]": 30}'}, "shards"),
        ({"1.png": b"", "1.json": b'{"shapes": []}'}, "folder"),
        ({"1.png": b"", "2.json": b'{"class": "cat"}'}, "folder"),
        ({"1.png": b"", "2.cls": b"3"}, "folder"),
        ({"cat/1.png": b"", "dog/2.png": b""}, "folder"),
    ],
)
def test_a_tar_of_samples_is_one_shard(tmp_path, write, members, kind):
    path = Path(write(tmp_path / "data", members, "tar"))
    assert data_at(path, None, None)["name"] == kind


def test_a_tar_of_samples_that_is_read_as_a_folder_says_so(tmp_path, write, capsys):
    members = {f"{number}{end}": content for number in range(4) for end, content in ((".png", png(9)), (".cls", b"1"))}
    path = write(tmp_path / "data", members, "tar")
    assert main(["data", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == "shards"
    assert main(["data", path, "--json", "--data.name", "folder"]) == 0
    assert "`data.name: shards` reads classes" in json.loads(capsys.readouterr().out)["not used"]


@pytest.mark.parametrize("form", ["parquet", "folder", "npz"])
def test_data_describes_columns_and_arrays(tmp_path, write, form, capsys):
    path = write(tmp_path / "data", {"data/train-00000-of-00001.parquet": columns()})
    path = f"{path}/data/train-00000-of-00001.parquet" if form == "parquet" else path
    if form == "npz":
        path = str(tmp_path / "a.npz")
        np.savez(path, x_train=np.zeros((4, 8, 8), dtype=np.uint8), y_train=[0, 1, 0, 1])
    assert main(["data", path, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["data"] == ("arrays" if form == "npz" else "arrow")
    assert main(["data", path, "--output", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize(
    ("below", "problem"),
    [
        ("x.parquet", "data.name: x.parquet is no folder or archive; 'arrow' reads it"),
        ("a.npz", "data.name: a.npz is no folder or archive; 'arrays' reads it"),
        ("", "data.name: {path} has no images, but 1 file(s) with columns; 'arrow' reads them"),
        ("x.csv", "data.name: x.csv is no folder or archive; 'table' reads it: `path: {path}`, `csv_file: x.csv`"),
        ("shards", "data.name: {path}/shards has no images, but 1 tar file(s); 'shards' reads them"),
    ],
)
def test_columns_are_no_folder_of_images(tmp_path, write, below, problem, capsys):
    path = write(tmp_path / "data", {"x.parquet": columns(), "a.npz": b"", "x.csv": b"", "shards/0.tar": b""})
    assert main(["data", f"{path}/{below}".rstrip("/"), "--data.name", "folder"]) == 2
    assert capsys.readouterr().err.strip().endswith(problem.format(path=path))


@pytest.mark.parametrize("ending", ["csv", "npy", "npz", "parquet", "tar", "txt", "zip"])
def test_a_pipe_is_no_data_and_is_not_waited_for(tmp_path, capsys, ending):
    os.mkfifo(tmp_path / f"x.{ending}")
    assert main(["data", f"{tmp_path}/x.{ending}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "validation", "problem"),
    [
        ("a", "b/x.parquet", "data.validation: x.parquet is no folder or archive; 'arrow' reads it"),
        ("a", "b/shards", "data.validation: {path}/b/shards has no images, but 1 tar file(s); 'shards' reads them"),
        (
            "a",
            "b/columns",
            "data.validation: {path}/b/columns has no images, but 1 file(s) with columns; 'arrow' reads",
        ),
        (
            "t",
            "t/x.csv",
            "data: {path}/t/x.csv is a table; its folder is the path: `path: {path}/t`, `csv",
        ),
        ("run", None, "{path}/run is the folder of a run; its recipe names its data: {path}/run/recipe.yaml"),
        ("[a, b]", None, "[a, b]: several paths are given as `folder` and --data.path '[a, b]'"),
    ],
)
def test_data_of_another_form_are_named(tmp_path, write, data, validation, problem, capsys):
    images = {f"{number}.png": png(number) for number in range(3)}
    write(tmp_path / "a", images)
    write(tmp_path / "b", {"x.parquet": columns(), "shards/0.tar": b"", "columns/x.parquet": columns()})
    write(tmp_path / "t", {**images, "x.csv": b"path\n0.png\n1.png\n2.png\n"})
    write(tmp_path / "run", {"run.json": b"", "recipe.yaml": b"", "metrics.jsonl": b""})
    place = data if data.startswith("[") else f"{tmp_path}/{data}"
    more = [] if validation is None else ["--data.validation", f"{tmp_path}/{validation}"]
    assert main(["data", place, "--data.size", "8", *more]) == 2
    assert problem.format(path=tmp_path) in capsys.readouterr().err


WIDE = Reading(channels=5, ends=((0.0, 1000.0),))


@pytest.mark.parametrize(
    ("data", "overrides", "reading", "read", "told"),
    [
        ({"name": "arrays"}, [], WIDE, {"channels": 5, "range": [[0.0, 1000.0]]}, None),
        (
            {"name": "folder"},
            [],
            Reading(bands=(4, 2), background="white"),
            {"bands": [4, 2], "background": "white"},
            None,
        ),
        ({"name": "folder"}, [], PLAIN, {}, None),
        ({"name": "rendered"}, [], WIDE, {}, None),
        ({"name": "folder", "range": [0, 1000]}, [], WIDE, {"channels": 5, "range": [0, 1000]}, None),
        (
            {"name": "folder"},
            ["--data.bands=[2, 1, 3, 4, 5]"],
            WIDE,
            {"range": [[0.0, 1000.0]]},
            "bands [2, 1, 3, 4, 5]",
        ),
        ({"name": "folder"}, ["--data.white=9.0"], WIDE, {"channels": 5}, "white 9.0, and the encoder was trained on"),
        ({"name": "folder"}, ["--data.range=[0, 9]"], WIDE, {"channels": 5}, "range [[0, 9]], and the encoder was"),
        ({"name": "folder", "channels": 4}, [], WIDE, {"channels": 4, "range": [[0.0, 1000.0]]}, "channels 4, and"),
    ],
)
def test_files_are_read_as_those_that_the_encoder_was_trained_on(data, overrides, reading, read, told, caplog):
    made = sections_with_data({}, data, 16, overrides, reading)
    section = apply_overrides(made, overrides, JUDGED)["data"]
    chosen = {name: value for name, value in section.items() if name in ("bands", "channels", "range", "background")}
    added = {one.partition("=")[0].removeprefix("--data.") for one in overrides}
    assert {name: value for name, value in chosen.items() if name not in added} == read
    assert len(caplog.messages) == bool(told)
    assert told is None or told in caplog.messages[0]
