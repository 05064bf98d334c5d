"""Claims about images in columns: every form of file and of cell holds the same images as a folder, and what does not
fit is one line.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from small_columns import (
    FEATURES,
    FORMS,
    PIXELS,
    PNGS,
    columns,
    hub,
    mapped_feather,
    one_parquet,
    packed_feather,
    save_to_disk,
    stream,
    structs,
    write_stream,
)
from small_data import files_of, load_all

from ssl_inv.catalogue import SettingError
from ssl_inv.data.reading import Reading
from ssl_inv.data.sources.arrow.source import ImageColumn, arrow
from ssl_inv.data.sources.folder import ImageFolder
from ssl_inv.data.sources.table import table
from ssl_inv.transforms import Circle


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images as files with a table of views."""
    root = tmp_path_factory.mktemp("views")
    lines = ["path,object,class,azimuth[deg]"]
    for number, content in enumerate(PNGS):
        (root / f"{number}.png").write_bytes(content)
        lines.append(f"{number}.png,thing {number % 6},{('dog', 'cat')[number % 2]},{30.0 * number}")
    (root / "views.csv").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_columns_hold_what_the_table_of_the_same_images_holds(tmp_path, views, form, cache):
    path = str(form(tmp_path, columns()))
    found, expected = arrow(path=path, cache=cache), table(path=str(views), cache=cache)
    for one, other in ((found.train, expected.train), (found.validation, expected.validation)):
        mine, theirs = load_all(one), load_all(other)
        assert torch.equal(mine.pixels, theirs.pixels)
        assert torch.equal(mine.transform["azimuth"], theirs.transform["azimuth"])
        assert one.groups == other.groups == {"azimuth": Circle(2 * np.pi)}
        assert one.view_counts.tolist() == other.view_counts.tolist()
        names = [[part.labels.names[number] for number in part.labels.classes] for part in (one, other)]
        assert names[0] == names[1]
    # The order that was saved with the names, and a class without images.
    assert found.train.labels.names == ("dog", "cat", "cow")


def lists(kind: Any = np.uint8) -> pyarrow.Array:
    return pyarrow.array(
        PIXELS.astype(kind).tolist(), pyarrow.list_(pyarrow.list_(pyarrow.list_(pyarrow.from_numpy_dtype(kind))))
    )


CELLS: dict[str, Callable[[list[str]], pyarrow.Array]] = {
    "bytes": lambda paths: pyarrow.array(PNGS, pyarrow.binary()),
    "large bytes": lambda paths: pyarrow.array(PNGS, pyarrow.large_binary()),
    "paths": lambda paths: pyarrow.array(paths),
    "paths in a dictionary": lambda paths: pyarrow.array(paths).dictionary_encode(),
    "bytes, else a path": lambda paths: structs([None, *PNGS[1:6], *[None] * 6], paths),
    "paths alone": lambda paths: structs([None] * 12, paths),
    "bytes with a name that is no file": lambda paths: structs(PNGS, ["/gone/x.png"] * 12),
    "lists": lambda paths: lists(),
    "tensors": lambda paths: pyarrow.FixedShapeTensorArray.from_numpy_ndarray(PIXELS),
}


@pytest.mark.parametrize("form", [one_parquet, stream, packed_feather])
@pytest.mark.parametrize("kind", CELLS)
def test_every_kind_of_cell_gives_the_same_pixels(tmp_path, views, kind, form):
    for file in views.glob("*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    cells = CELLS[kind]([f"{'./' * (number % 2)}{number}.png" for number in range(12)])
    found = ImageColumn(str(form(tmp_path, columns(cells, features=None))), size=6)
    expected = ImageFolder(str(views), size=6)
    order = sorted(range(12), key=str)
    assert torch.equal(found.load(np.array(order) % 6, np.array(order) // 6).pixels, load_all(expected).pixels)
    assert (found.sides_of(3), found.photographs) == ((8, 8), True)


def test_numbers_of_lists_have_a_white_and_a_shape(tmp_path):
    floats = ImageColumn(
        str(one_parquet(tmp_path, columns(lists(np.float32), features=None))), reading=Reading(white=255)
    )
    assert (load_all(floats).pixels.permute(0, 2, 3, 1).numpy()[0] == PIXELS[0]).all()
    with pytest.raises(ValueError, match=r"floats must lie in \[0, 1\], got 0 to 249; name what they span"):
        ImageColumn(str(one_parquet(tmp_path, columns(lists(np.float32), features=None))))
    ragged = pyarrow.array([[[1, 2], [3]]] * 12, pyarrow.list_(pyarrow.list_(pyarrow.uint8())))
    with pytest.raises(
        ValueError, match=r"more than 6 of 12 .* the first is views.parquet, row 1: its lists have different lengths"
    ):
        ImageColumn(str(one_parquet(tmp_path, columns(ragged, features=None))))


NUMBER, TEXT = {"n": list(range(12))}, ["a"] * 12


@pytest.mark.parametrize(
    ("made", "features", "chosen"),
    [
        ({"thumb": structs(PNGS), "photo": structs(PNGS)}, {"thumb": {"_type": "Image"}}, "thumb"),
        ({"thumb": structs(PNGS), "jpg": structs(PNGS)}, {}, "jpg"),
        ({"picture of it": PNGS, "mask": TEXT}, {}, "picture of it"),
        ({"caption": TEXT, "a": PNGS, "b": PNGS}, {}, "several columns that can be images, a, b; name one"),
        ({"image": PNGS, "img": PNGS}, {}, "several columns that can be images, image, img; name one"),
        (
            {"left": structs(PNGS), "right": structs(PNGS)},
            {"left": {"_type": "Image"}, "right": {"_type": "Image"}},
            "several columns that can be images, left, right",
        ),
        (NUMBER, {}, "has no column of images; its columns are n"),
    ],
)
def test_the_column_of_the_images_is_found_or_asked_for(tmp_path, made, features, chosen):
    path = one_parquet(
        tmp_path,
        pyarrow.table(made).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}),
    )
    if chosen not in made:
        with pytest.raises(SettingError, match=f"image_column: .*{chosen}"):
            arrow(path=str(path))
    else:
        assert f"the column {chosen} of" in arrow(path=str(path)).notes["views"]
        with pytest.raises(SettingError, match=f"image_column: .* no column '{chosen}s'; did you mean '{chosen}'"):
            arrow(path=str(path), image_column=f"{chosen}s")


@pytest.mark.parametrize(
    ("others", "features", "setting", "names", "known"),
    [
        ({"class": [10, 9, None, -1] * 3}, {}, None, ("9", "10"), 6),
        ({"label": [0, 1, None, -1] * 3}, FEATURES, None, ("dog", "cat", "cow"), 6),
        ({"label": [0, 1] * 6}, {}, None, None, 0),
        ({"label": [3, 1] * 6}, {}, "label", ("1", "3"), 12),
        ({"label": ["a", " b "] * 6}, {}, "label", ("a", "b"), 12),
        ({"label": [0] * 12}, FEATURES, "none", None, 0),
        ({"kind": [0] * 12}, {"kind": FEATURES["label"]}, None, ("dog", "cat", "cow"), 12),
        ({"fine": [0] * 12, "coarse": [0] * 12}, dict.fromkeys(("fine", "coarse"), FEATURES["label"]), None, None, 0),
    ],
)
def test_classes_are_those_that_the_data_names(tmp_path, others, features, setting, names, known):
    made = pyarrow.table({"image": PNGS, **others}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    data = arrow(path=str(one_parquet(tmp_path, made)), class_column=setting)
    labels = [part.labels for part in (data.train, data.validation)]
    assert [None if one is None else one.names for one in labels] == [names] * 2
    assert sum(0 if one is None else int(one.known.sum()) for one in labels) == known
    if "fine" in others:
        assert (
            data.notes["not used"] == "columns of classes: fine, coarse; name the one to judge by with `class_column`"
        )


def test_class_names_beside_the_files_are_read(tmp_path):
    save_to_disk(columns(features=None), tmp_path / "saved")
    assert arrow(path=str(tmp_path / "saved")).train.labels.names == ("dog", "cat", "cow")


def test_paths_obey_the_rules_of_a_table(tmp_path, views):
    home = tmp_path / "home"
    home.mkdir()
    path = one_parquet(home, columns([f"{views}/{number}.png" for number in range(12)], features=None))
    with pytest.raises(
        ValueError, match=r"views.parquet, row 1: .* leads out of the folder of the data; `outside: true`"
    ):
        arrow(path=str(path))
    data = arrow(path=str(path), outside=True)
    assert {Path(name).name for name in files_of(data.train) | files_of(data.validation)} == {
        f"{n}.png" for n in range(12)
    }
    before = data.train.stamp
    changed = views / "5.png"
    changed.write_bytes(changed.read_bytes() + b" ")
    assert arrow(path=str(path), outside=True).train.stamp != before
    one_parquet(home, columns([f"{number}.png" for number in range(12)], features=None))
    with pytest.raises(FileNotFoundError, match=r"views.parquet, row 1: no file '0.png' \(12 of 12 are missing\)"):
        arrow(path=str(path))


def test_a_stamp_changes_with_a_file_that_is_read(tmp_path):
    path = hub(tmp_path, columns())
    before = arrow(path=str(path)).train.stamp
    (path / "README.md").write_text("new")
    assert arrow(path=str(path)).train.stamp == before
    one = path / "data" / "train-00001-of-00002.parquet"
    parquet.write_table(columns().slice(7), one, row_group_size=4)
    assert arrow(path=str(path)).train.stamp != before


def cut(root: Path, form: Callable[[Path, pyarrow.Table], Path]) -> Path:
    path = form(root, columns())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def other_columns(root: Path) -> Path:
    parquet.write_table(columns(), root / "a.parquet")
    parquet.write_table(columns().rename_columns(["image", "thing", "label", "azimuth[deg]"]), root / "b.parquet")
    return root


def other_types(root: Path) -> Path:
    parquet.write_table(columns(), root / "a.parquet")
    parquet.write_table(columns(label=["x"] * 12, features=None), root / "b.parquet")
    return root


def lost_file(root: Path) -> Path:
    save_to_disk(columns(), root / "saved")
    (root / "saved" / "data-00001-of-00002.arrow").unlink()
    return root / "saved"


def bad_json(root: Path) -> Path:
    save_to_disk(columns(), root / "saved")
    (root / "saved" / "state.json").write_text("{")
    return root / "saved"


def packed_stream(root: Path) -> Path:
    write_stream(columns(structs([one + bytes(4096) for one in PNGS])), root / "packed.arrow", compression="zstd")
    return root / "packed.arrow"


def written(content: bytes) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        (root / "x.parquet").write_bytes(content)
        return root / "x.parquet"

    return write


@pytest.mark.parametrize(
    ("make", "settings", "problem"),
    [
        (lambda root: cut(root, one_parquet), {}, "views.parquet is damaged, or no such file"),
        (lambda root: cut(root, mapped_feather), {}, "views.feather is damaged, or no such file"),
        (lambda root: cut(root, stream), {}, "views.arrow is damaged, or no such file"),
        (written(b""), {}, "x.parquet is neither Parquet nor Arrow, by its first bytes; is it whole"),
        (written(b"version https://git-lfs"), {}, "x.parquet is neither Parquet nor Arrow"),
        (written(b"FEA1 and more"), {}, "x.parquet is Feather of version 1"),
        (packed_stream, {}, "packed.arrow is a compressed stream, which has no single rows; save it as an Arrow file"),
        (other_columns, {}, "b.parquet has other columns than a.parquet: it has image, thing"),
        (other_types, {}, "b.parquet has columns of other types than a.parquet"),
        (lost_file, {}, "state.json names 1 file.s. that are missing: data-00001-of-00002.arrow"),
        (bad_json, {}, "state.json cannot be read as JSON"),
        (lambda root: one_parquet(root, columns().slice(0, 0)), {}, "views.parquet has columns but no rows"),
        (lambda root: root, {}, "has no file that ends with one of .arrow, .feather"),
        (lambda root: root / "gone", {}, "no such file or folder: .*gone"),
        (lambda root: one_parquet(root, columns(object=[None] * 12)), {}, "views.parquet, row 1: object is empty"),
        (
            lambda root: one_parquet(root, columns()),
            {"object_column": "objekt"},
            "no column 'objekt'; did you mean 'object'",
        ),
        (
            lambda root: one_parquet(root, columns()),
            {"object_column": "image"},
            "image holds struct.*; texts or numbers",
        ),
        (
            lambda root: one_parquet(root, columns()),
            {"image_column": "label"},
            "image_column: 'label' in .* has int64, which",
        ),
        (
            lambda root: one_parquet(root, columns()),
            {"latents": {"object": "real"}},
            "row 1: object is 'thing 0', which is not",
        ),
        (lambda root: one_parquet(root, columns()), {"split_column": "label"}, "row 1: 'dog' is not a split"),
        (
            lambda root: one_parquet(root, columns(**{"azimuth[deg]": [None] * 12})),
            {},
            "row 1: azimuth is '', which is not",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, make, settings, problem):
    with pytest.raises((ValueError, FileNotFoundError), match=problem) as refusal:
        arrow(path=str(make(tmp_path)), **settings)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("form", ["saved", "splits", "parquet", "arrays"])
def test_datasets_gives_the_same_images_and_classes(tmp_path, form):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])}
    images: list[Any] = [Image.fromarray(one) for one in PIXELS]
    if form == "arrays":
        features["image"], images = datasets.Array3D((8, 8, 3), "uint8"), list(PIXELS)
    whole = datasets.Dataset.from_dict(
        {"image": images, "label": [number % 2 for number in range(12)]}, features=datasets.Features(features)
    )
    split = {"train": whole.select(range(8)), "test": whole.select([11, 10, 9, 8])}
    if form == "parquet":
        (tmp_path / "data").mkdir()
        for name, one in split.items():
            one.to_parquet(tmp_path / "data" / f"{name}-00000-of-00001.parquet")
    elif form == "splits":
        datasets.DatasetDict(split).save_to_disk(tmp_path / "data", num_shards={"train": 3, "test": 1})
    else:
        for name, one in split.items():
            one.save_to_disk(tmp_path / name)
    if form in ("parquet", "splits"):
        found = arrow(path=str(tmp_path / "data"))
    else:
        found = arrow(path=str(tmp_path / "train"), validation=str(tmp_path / "test"))
    for source_, rows in ((found.train, split["train"]), (found.validation, split["test"])):
        expected = np.stack([np.asarray(row["image"], dtype=np.uint8) for row in rows])
        assert (load_all(source_).pixels.permute(0, 2, 3, 1).numpy() == expected).all()
        assert source_.labels.classes.tolist() == rows["label"][:]
        assert source_.labels.names == ("dog", "cat")


def test_a_pipe_that_a_row_names_is_broken_and_not_waited_for(tmp_path):
    (tmp_path / "1.png").write_bytes(PNGS[0])
    os.mkfifo(tmp_path / "2.png")
    parquet.write_table(pyarrow.table({"image": ["1.png", "2.png"]}), tmp_path / "views.parquet")
    found = ImageColumn(str(tmp_path / "views.parquet"), max_broken=1.0)
    assert load_all(found).readable.tolist() == [True, False]
    assert found.broken == {"2.png": "it is no regular file"}
