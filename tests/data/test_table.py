"""Claims about tables of views: what their columns mean, what must agree, and when a stamp changes."""

import csv
import io
import math
import os
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from small_data import files_of, load_all, png

from ssl_inv.data.latents import latents_from_settings
from ssl_inv.data.sources.table import ViewTable, table
from ssl_inv.transforms import Category, Circle, Flag, Real, Rotation
from ssl_inv.transforms.quaternions import quaternion_from_euler

FORMS = ["folder", "stored", "deflated", "nested", "tar"]


HEADER: list[object] = ["path", "object", "class", "split", "azimuth[deg]", "zoom[real scale=2]", "note"]
ROWS: list[list[object]] = [
    ["0.png", "mug", "cup", "train", 0, 1, "x"],
    ["1.png", "car", "toy", "train", 30, 1, "x"],
    ["2.png", "mug", "cup", "train", 90, 2, "x"],
    ["3.png", "cow", "toy", "test", 350, 1.5, "x"],
]


def files(rows: list[list[object]]) -> dict[str, bytes]:
    """Four images and a table of them."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return {**{f"{n}.png": png(10 * n) for n in range(4)}, "views.csv": text.getvalue().encode()}


TWICE = [["path"], *([f"{row % 4}.png"] for row in range(8))]


def changed(row: int, column: int, value: object) -> list[list[object]]:
    rows = [list(line) for line in (HEADER, *ROWS)]
    rows[row][column] = value
    return rows


@pytest.mark.parametrize("form", FORMS)
def test_table_of_views(tmp_path, write, form):
    source = ViewTable(write(tmp_path / "data", files([HEADER, *ROWS]), form))
    assert source.view_counts.tolist() == [2, 1, 1]
    assert source.groups == {"azimuth": Circle(2 * math.pi), "zoom": Real(scale=2.0)}
    images = source.load(np.array([0, 2, 0]), np.array([1, 0, 0]))
    assert images.pixels[:, 0, 0, 0].tolist() == [20, 30, 0]
    torch.testing.assert_close(images.transform["azimuth"], torch.tensor([90.0, 350.0, 0.0]).deg2rad())
    assert images.transform["zoom"].tolist() == [2.0, 1.5, 1.0]
    assert [source.labels.names[label] for label in source.labels.classes] == ["cup", "toy", "toy"]
    assert source.describe(0, 1) == "2.png"
    assert source.notes["unused columns"] == "note"
    with pytest.raises(ValueError, match="object 1 has no view 1"):
        source.load(np.array([1]), np.array([1]))


def test_table_split_is_by_object_and_no_view_leaks(tmp_path, write):
    path = write(tmp_path / "data", files([HEADER, *ROWS]))
    own, random = table(path=path), table(path=path, split_column="none", validation_share=0.4)
    assert files_of(own.train) == {"0.png", "1.png", "2.png"}
    for data in (own, random):
        assert len(files_of(data.train) | files_of(data.validation)) == 4
        assert not files_of(data.train) & files_of(data.validation)
        assert sum(data.train.view_counts) + sum(data.validation.view_counts) == 4


def test_columns_and_latents_by_setting(tmp_path, write):
    rows = [["file", "thing", "turn", "deg", "up"]]
    rows += [["0.png", "a", 1, 10, 0], ["1.png", "a", 2, 20, 1], ["2.png", "a", 1, 30, 1]]
    latents = {"deg": "circle deg", "up": "flag"}
    path = write(tmp_path / "data", files(rows))
    data = table(path=path, latents=latents, path_column="file", object_column="thing+turn", validation_share=0.5)
    assert sorted([*data.train.view_counts, *data.validation.view_counts]) == [1, 2]
    assert data.train.groups == {"deg": Circle(2 * math.pi), "up": Flag()}
    assert data.train.labels is None
    assert len(ViewTable(write(tmp_path / "rows", files([["path"], ["0.png"], ["1.png"], ["2.png"]])))) == 3


@pytest.mark.parametrize("named", [False, True])
def test_rotation_columns(tmp_path, write, named):
    angles = torch.tensor([[0.1, -0.5, 1.2], [0.7, 0.3, -2.0]], dtype=torch.float64)
    q = quaternion_from_euler(angles)
    prefix, name = ("camera_", "camera") if named else ("", "rotation")
    quaternions = [["path", *[prefix + part for part in ("qx", "qy", "qz", "qw")]]]
    euler = [["path", *[f"{prefix}euler_{axis}[deg]" for axis in "xyz"]]]
    for rows, numbers in ((quaternions, q), (euler, angles.rad2deg())):
        rows += [[f"{n}.png", *row] for n, row in enumerate(numbers.tolist())]
    for number, (rows, words) in enumerate([(quaternions, "rotation quaternion"), (euler, "rotation euler deg")]):
        for latents in (None, {name: words}):
            source = ViewTable(write(tmp_path / str(number), files(rows)), latents=latents)
            assert source.groups == {name: Rotation()}
            torch.testing.assert_close(load_all(source).transform[name], q.float())


@pytest.mark.parametrize(
    ("words", "group", "one"),
    [
        ("deg", Circle(2 * math.pi), math.pi / 180),
        ("circle turn", Circle(1.0), 1.0),
        ("circle period=24", Circle(24.0), 1.0),
        ("none", Real(), 1.0),
        ("real deg scale=90", Real(scale=math.pi / 2), math.pi / 180),
    ],
)
def test_words_of_a_latent(words, group, one):
    (latent,) = latents_from_settings({"a": words})
    assert latent.group == group
    assert latent.values(np.ones((1, 1)), "").item() == pytest.approx(one)


@pytest.mark.parametrize(
    "words", ["circle", "circel deg", "deg rad", "real period=2", "real scale=x", "real scale=-1", "rotation", ""]
)
def test_words_that_are_not_understood(words):
    with pytest.raises(ValueError, match=r"latent 'a' is described by .* not understood"):
        latents_from_settings({"a": words})


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (changed(2, 4, "fast"), {}, "row 2: azimuth is 'fast', which is not a number"),
        (changed(2, 5, ""), {}, "row 2: zoom is '', which is not a number"),
        (changed(2, 4, "nan"), {}, "row 2: azimuth is 'nan'"),
        (changed(3, 0, "2.pgn"), {}, r"row 3: no file '2.pgn' \(1 of 4 are missing\); did you mean '2.png'"),
        (changed(3, 2, "toy"), {}, "row 1 .'cup'. and row 3 .'toy'. show one object but differ in their class"),
        (changed(3, 3, "test"), {}, "differ in their split"),
        (changed(3, 1, " "), {}, "row 3: object is empty, so the object is unknown"),
        (changed(4, 3, "held out"), {}, "'held out' is not a split"),
        (changed(0, 0, "file"), {}, "no column 'path'"),
        (changed(0, 2, "object"), {}, "two columns called 'object'"),
        (changed(0, 4, "azimuth[degrees]"), {}, "latent 'azimuth' is described by 'degrees'"),
        (changed(0, 4, "qx"), {}, "rotation 'rotation' needs the columns qx, qy, qz, qw"),
        ([HEADER], {}, "a header but no rows"),
        ([HEADER, *ROWS], {"latents": {"azimut": "circle deg"}}, "no column 'azimut'; did you mean 'azimuth'"),
        ([HEADER, *ROWS], {"latents": {"zoom": "flag"}}, "flag 'zoom' in row 3 is neither 0 nor 1"),
        ([HEADER, *ROWS], {"csv_file": "view.csv"}, "no file 'view.csv'; did you mean 'views.csv'"),
        ([HEADER, *ROWS], {"object_column": "objekt"}, "no column 'objekt'; did you mean 'object'"),
        ([HEADER, ROWS[0][:-1]], {}, "row 1 has 6 cells, but the header has 7"),
        (TWICE, {"validation_share": 0.4}, r"'\d+.png' is listed both to train on and to judge by; name the column"),
    ],
)
def test_table_errors(tmp_path, write, rows, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        table(path=write(tmp_path / "data", files(rows)), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("numbers", "refused"), [([1.7e9, 1.7e9 + 60], True), ([0.3, 0.1 + 0.2], False), ([1e4, 1e4 + 60], False)]
)
def test_numbers_that_single_precision_blurs_are_refused(numbers, refused):
    (time,) = latents_from_settings({"time": "real"})
    with pytest.raises(ValueError, match="differences between the numbers of 'time'") if refused else nullcontext():
        time.values(np.array(numbers)[:, None], "views.csv")


def test_a_table_elsewhere_is_part_of_the_stamp(tmp_path, write):
    path = write(tmp_path / "data", {"1.png": png(1), "2.png": png(2)})
    place = tmp_path / "views.csv"
    place.write_text("path,class\n1.png,a\n2.png,b\n")
    before = ViewTable(path, csv_file=str(place)).stamp
    assert ViewTable(path, csv_file=str(place)).stamp == before
    os.utime(place, (1, 1))
    assert ViewTable(path, csv_file=str(place)).stamp != before


def test_categories_are_numbers_of_names(tmp_path, write):
    cells = [["path", "site"], ["0.png", "Rome"], ["1.png", ""], ["2.png", "Oslo"], ["3.png", "Rome"]]
    source = ViewTable(write(tmp_path / "data", files(cells), "folder"), latents={"site": "category"})
    assert source.groups == {"site": Category(2)}
    images = source.load(np.arange(4), np.zeros(4, dtype=np.int64))
    assert images.transform["site"].tolist() == [1, -1, 0, 1]
    numbered = [["path", "site[category count=3]"], *([f"{row}.png", value] for row, value in enumerate([2, -1, 0, 1]))]
    source = ViewTable(write(tmp_path / "numbered", files(numbered), "folder"))
    assert source.groups == {"site": Category(3)}
    assert source.load(np.arange(2), np.zeros(2, dtype=np.int64)).transform["site"].tolist() == [2, -1]


@pytest.mark.parametrize(
    ("cells", "words", "problem"),
    [
        (["Rome", "Rome", "", ""], "category", "the category 'site' has only 'Rome'; two or more are needed"),
        (["", "", "", ""], "category", "the category 'site' has no names; two or more are needed"),
        ([0, 1, 3, 0], "category count=3", "the category 'site' in row 3 is no whole number from -1, unknown, to 2"),
        ([0, 1, 2, 0], "category count=1", "latent 'site' is described by 'category count=1', which is not understood"),
    ],
)
def test_columns_that_are_no_categories_are_refused(tmp_path, write, cells, words, problem):
    rows = [["path", "site"], *([f"{row}.png", value] for row, value in enumerate(cells))]
    with pytest.raises(ValueError, match=problem):
        ViewTable(write(tmp_path / "data", files(rows), "folder"), latents={"site": words})
