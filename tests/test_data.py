"""Reading images from folders, archives, tables and datasets."""

import csv
import inspect
import io
import logging
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_inv.data.base import Data, Images, Indices, Labels, Source, Subset
from ssl_inv.data.dataset import DatasetSource, torchvision_dataset
from ssl_inv.data.files import Files
from ssl_inv.data.folder import ImageFolder, folder
from ssl_inv.data.images import BrokenImagesError, UnreadableImageError, decode
from ssl_inv.data.latents import latents_from_settings
from ssl_inv.data.table import ViewTable, table
from ssl_inv.data.threediebench import GROUPS, ThreeDIEBench, threediebench, transform_of, write_threediebench
from ssl_inv.quaternions import quaternion_from_euler
from ssl_inv.registry import DATA
from ssl_inv.transforms import Circle, Flag, Group, Real, Rotation, Transform

TEST_DATA = Path(os.environ.get("SSL_INV_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def real(name: str) -> str:
    path = TEST_DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in {TEST_DATA}; set SSL_INV_TEST_DATA to the folder that has it")
    return str(path)


def encoded(value: int, size: tuple[int, int] = (8, 8), image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value // 2, 0)).save(buffer, image_format)
    return buffer.getvalue()


def saved(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def write(root: Path, contents: Mapping[str, bytes], form: str = "folder") -> str:
    """The files as a folder, or as a zip archive with or without compression, perhaps inside one folder of the archive."""
    if form == "folder":
        for name, content in contents.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        return str(root)
    path = root.with_suffix(".zip")
    method = zipfile.ZIP_DEFLATED if form == "deflated" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(f"photos/{name}" if form == "nested" else name, content)
        archive.writestr("__MACOSX/._a.png", b"not an image")
    return str(path)


def load_all(source: Source) -> Images:
    objects = np.repeat(np.arange(len(source)), source.view_counts)
    views = np.concatenate([np.arange(count) for count in source.view_counts])
    return source.load(objects, views)


def files_of(source: Source) -> set[str]:
    return {source.describe(item, view) for item, count in enumerate(source.view_counts) for view in range(count)}


def csv_of(rows: list[list[object]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue().encode()


FORMS = ["folder", "stored", "deflated", "nested"]
LAYOUTS = {
    "flat": (["a.png", "b.png", "c.png"], None),
    "classes": (["cat/a.png", "cat/deep/b.png", "dog/c.png"], ["cat", "cat", "dog"]),
    "one class is none": (["cat/a.png", "cat/b.png"], None),
    "partly labelled": (["cat/a.png", "dog/b.png", "loose.png"], ["cat", "dog", None]),
    "splits": (["train/cat/a.png", "train/dog/b.png", "val/cat/c.png"], ["cat", "dog", "cat"]),
    "splits, test unlabelled": (["test/c.png", "train/cat/a.png", "train/dog/b.png"], [None, "cat", "dog"]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_image_folder_reads_every_form(tmp_path: Path, form: str, layout: str) -> None:
    names, classes = LAYOUTS[layout]
    contents = {name: encoded(10 * (number + 1)) for number, name in enumerate(names)}
    path = write(tmp_path / "data", {**contents, ".hidden/x.png": b"", "notes.txt": b""} if form == "folder" else contents, form)
    source = ImageFolder(path)
    images = load_all(source)
    assert images.pixels[:, :, 4, 4].tolist() == [[10 * (n + 1), 5 * (n + 1), 0] for n in range(len(names))]
    assert images.pixels.shape == (len(names), 3, 8, 8)
    assert images.readable.all()
    if classes is None:
        assert source.labels is None
    else:
        assert source.labels is not None
        found = [source.labels.names[c] if known else None for c, known in zip(source.labels.classes, source.labels.known, strict=True)]
        assert found == classes


def test_files_of_a_zip_are_those_of_the_folder(tmp_path: Path) -> None:
    contents = {"b/1.txt": b"one", "a.txt": b"two", "b/c/2.txt": b"three", "b-c/ü.txt": b"four"}
    both = [Files(write(tmp_path / "data", contents, form)) for form in ("folder", "deflated")]
    assert both[0].names.tolist() == both[1].names.tolist()
    for files in both:
        assert {name: files.read(name) for name in contents} == contents
        assert list(files.inside("b")) == ["1.txt"]
        assert list(files.inside("")) == ["a.txt"]
        assert "b/c/2.txt" in files
        assert "b/c" not in files
        with pytest.raises(FileNotFoundError, match="nothing"):
            files.read("nothing")


@pytest.mark.parametrize("form", ["folder", "stored"])
def test_the_data_s_own_split_wins_over_a_random_one(tmp_path: Path, form: str) -> None:
    names = ["train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png", "test/a/5.png"]
    data = folder(path=write(tmp_path / "data", dict.fromkeys(names, encoded(9)), form), validation_share=0.5)
    assert files_of(data.train) == set(names[:2])
    assert files_of(data.validation) == set(names[2:4])
    assert "test split is not used" in data.notes["split"]


def test_random_split_is_by_seed_and_complete(tmp_path: Path) -> None:
    path = write(tmp_path / "data", {f"{n:02}.png": encoded(n) for n in range(20)})
    data, same, other = (folder(path=path, validation_share=0.25, split_seed=seed) for seed in (0, 0, 1))
    assert len(data.validation) == 5
    assert files_of(data.train) | files_of(data.validation) == {f"{n:02}.png" for n in range(20)}
    assert not files_of(data.train) & files_of(data.validation)
    assert files_of(data.validation) == files_of(same.validation) != files_of(other.validation)


def test_separate_validation_set_has_the_class_numbers_of_the_train_set(tmp_path: Path) -> None:
    train = write(tmp_path / "train", {name: encoded(1) for name in ("ant/1.png", "bee/1.png", "cat/1.png")})
    data = folder(path=train, validation=write(tmp_path / "val", {name: encoded(1) for name in ("bee/1.png", "cat/1.png")}))
    assert data.validation.labels is not None
    assert data.validation.labels.classes.tolist() == [1, 2]
    assert data.validation.labels.names == ("ant", "bee", "cat")
    with pytest.raises(ValueError, match="no class 'wasp'"):
        folder(path=train, validation=write(tmp_path / "bad", {name: encoded(1) for name in ("bee/1.png", "wasp/1.png")}))


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["train/a/1.png", "extra/a/1.png"], {}, "'extra'"),
        (["a.png", "b.png"], {"labels": "folders"}, "no image lies in a class folder"),
        (["a.txt"], {}, "has no images"),
        (["a.png"], {"labels": "classes"}, "must be 'folders', 'none' or null"),
        (["a.png"], {"max_broken": 2.0}, "max_broken"),
        (["val/a.png"], {}, "nothing to train on"),
    ],
)
def test_folder_errors(tmp_path: Path, names: list[str], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        folder(path=write(tmp_path / "data", dict.fromkeys(names, encoded(1))), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_archives(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder or zip file"):
        folder(path=str(tmp_path / "nothing"))
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="neither a folder nor a readable zip"):
        folder(path=str(tmp_path / "bad.zip"))


@pytest.mark.parametrize("cache", [True, False])
def test_one_broken_image_is_zero_logged_once_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture, cache: bool) -> None:
    contents = {f"{n}.jpg": encoded(200, image_format="JPEG") for n in range(4)}
    path = write(tmp_path / "data", {**contents, "1.jpg": contents["1.jpg"][:-40], "2.jpg": b"no image"})
    source = ImageFolder(path, size=8, cache=cache)
    with caplog.at_level(logging.WARNING, logger="ssl_inv.data"):
        for _ in range(2):
            images = load_all(source)
            assert images.readable.tolist() == [True, False, False, True]
            assert (images.pixels[1:3] == 0).all()
            assert images.pixels[[0, 3]].any()
    assert list(source.broken) == ["1.jpg", "2.jpg"]
    assert source.broken["2.jpg"] == "not an image in a known format"
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(("broken", "raises"), [(10, False), (11, True)])
def test_too_many_broken_images_are_an_error(tmp_path: Path, broken: int, raises: bool) -> None:
    contents = {f"{n:03}.png": b"broken" if n >= 100 - broken else encoded(n) for n in range(100)}
    source = ImageFolder(write(tmp_path / "data", contents))
    if raises:
        with pytest.raises(BrokenImagesError, match=r"more than 10 of 100 images cannot be read .* the first is 089.png: not an image"):
            load_all(source)
    else:
        assert int(load_all(source).readable.sum()) == 90


def test_a_damaged_zip_member_is_a_broken_image(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "data", {"a.png": encoded(1), "b.png": encoded(2), "c.png": encoded(3)}, "stored"))
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT", content.index(b"b.png")) + 6] ^= 0xFF
    path.write_bytes(content)
    source = ImageFolder(str(path))
    assert load_all(source).readable.tolist() == [True, False, True]
    assert "checksum" in source.broken["b.png"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "change", [{"a.png": encoded(4)}, {"c.png": encoded(3)}, {"views.csv": csv_of([["object", "path"], ["o", "a.png"], ["o", "b.png"]])}]
)
def test_a_stamp_tells_whether_files_changed(tmp_path: Path, form: str, change: dict[str, bytes]) -> None:
    table = csv_of([["object", "path"], ["o", "a.png"], ["p", "b.png"]])
    path = write(tmp_path / "data", contents := {"a.png": encoded(1), "b.png": encoded(2), "views.csv": table}, form)
    before = [ImageFolder(path).stamp, ViewTable(path).stamp]
    assert [ImageFolder(path).stamp, Subset(ViewTable(path), np.array([1])).stamp] == before
    write(tmp_path / "data", contents | change, form)
    assert all(now != then for now, then in zip([ImageFolder(path).stamp, ViewTable(path).stamp], before, strict=True))


def test_images_without_a_size_must_be_equal_squares(tmp_path: Path) -> None:
    path = write(tmp_path / "data", {"a.png": encoded(1), "b.png": encoded(1, (9, 9)), "c.png": encoded(1)})
    source = ImageFolder(path)
    with pytest.raises(ValueError, match=r"b\.png has 9x9 pixels but the first image 8x8"):
        load_all(source)
    assert load_all(ImageFolder(path, size=6)).pixels.shape == (3, 3, 6, 6)
    with pytest.raises(ValueError, match=r"a\.png has 9x8 pixels"):
        ImageFolder(write(tmp_path / "wide", {"a.png": encoded(1, (9, 8))}))


ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def palette() -> bytes:
    image = Image.fromarray(GREY).convert("P")
    image.putpalette([channel for value in range(256) for channel in (value, 255 - value, 7)])
    return saved(image)


def transparent() -> bytes:
    opacity = np.zeros((16, 16), dtype=np.uint8)
    opacity[:, :8] = 255
    return saved(Image.merge("LA", (Image.fromarray(np.full_like(GREY, 200)), Image.fromarray(opacity))))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (saved(Image.fromarray(GREY)), np.stack([GREY] * 3, -1)),
        (saved(Image.fromarray(ramp)), np.stack([GREY] * 3, -1)),
        (saved(Image.fromarray(ramp), "TIFF"), np.stack([GREY] * 3, -1)),
        (palette(), np.stack([GREY, 255 - GREY, np.full_like(GREY, 7)], -1)),
        (transparent(), np.stack([np.where(np.arange(16) < 8, 200, 0) * np.ones((16, 1))] * 3, -1)),
        (saved(Image.fromarray(GREY >= 128)), np.stack([np.where(GREY >= 128, 255, 0)] * 3, -1)),
    ],
    ids=["grey", "16-bit PNG", "16-bit TIFF", "palette", "alpha over black", "1-bit"],
)
def test_every_mode_becomes_rgb(content: bytes, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(decode(content, None), expected)


def test_32_bit_pixels_are_refused() -> None:
    with pytest.raises(UnreadableImageError, match="no known white"):
        decode(saved(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF"), None)


def test_exif_orientation_turns_the_image_upright() -> None:
    image = Image.new("RGB", (16, 8))
    image.paste((255, 255, 255), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held so that the left of the file is the top of the scene.
    pixels = decode(saved(image, "JPEG", exif=exif, quality=95), None)
    assert pixels.shape == (16, 8, 3)
    assert pixels[:7].min() > 200
    assert pixels[9:].max() < 50


def test_resize_takes_the_centre_square_and_does_not_alias() -> None:
    stripes = np.zeros((64, 128, 3), dtype=np.uint8)
    stripes[:, 32:96:2] = 255  # The centre square alternates by column; the sides are black.
    pixels = decode(saved(Image.fromarray(stripes)), 8)
    assert pixels.shape == (8, 8, 3)
    np.testing.assert_allclose(pixels[:, 1:-1], 127.5, atol=8)
    big = Image.fromarray(GREY).resize((640, 480), Image.Resampling.BICUBIC).convert("RGB")
    full = decode(saved(big), 32).astype(int)
    reduced = decode(saved(big, "JPEG", quality=100, subsampling=0), 32).astype(int)
    assert np.abs(full - reduced).mean() < 1.5


@pytest.mark.parametrize("form", ["folder", "stored"])
def test_a_pickled_source_reads_the_same(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / "data", {f"{n}.png": encoded(n) for n in range(5)}, form)
    for cache in (True, False):
        source = ImageFolder(path, cache=cache)
        expected = load_all(source).pixels
        copied = pickle.loads(pickle.dumps(source))
        assert torch.equal(load_all(copied).pixels, expected)
        assert copied.preferred_workers == (0 if cache else None)


def test_a_cached_image_is_decoded_once(tmp_path: Path) -> None:
    path = write(tmp_path / "data", {f"{n}.png": encoded(n) for n in range(3)})
    source = ImageFolder(path, cache=True)
    first = load_all(source).pixels
    for n in range(3):
        (Path(path) / f"{n}.png").unlink()
    assert torch.equal(load_all(source).pixels, first)


# Tables of views.

HEADER: list[object] = ["path", "object", "class", "split", "azimuth[deg]", "zoom[real scale=2]", "note"]
ROWS: list[list[object]] = [
    ["0.png", "mug", "cup", "train", 0, 1, "x"],
    ["1.png", "car", "toy", "train", 30, 1, "x"],
    ["2.png", "mug", "cup", "train", 90, 2, "x"],
    ["3.png", "cow", "toy", "test", 350, 1.5, "x"],
]


def write_table(root: Path, rows: list[list[object]], form: str = "folder") -> str:
    return write(root, {**{f"{n}.png": encoded(10 * n) for n in range(4)}, "views.csv": csv_of(rows)}, form)


def changed(row: int, column: int, value: object) -> list[list[object]]:
    rows = [list(line) for line in (HEADER, *ROWS)]
    rows[row][column] = value
    return rows


@pytest.mark.parametrize("form", FORMS)
def test_table_of_views(tmp_path: Path, form: str) -> None:
    source = ViewTable(write_table(tmp_path / "data", [HEADER, *ROWS], form))
    assert source.view_counts.tolist() == [2, 1, 1]
    assert source.groups == {"azimuth": Circle(2 * math.pi), "zoom": Real(scale=2.0)}
    images = source.load(np.array([0, 2, 0]), np.array([1, 0, 0]))
    assert images.pixels[:, 0, 0, 0].tolist() == [20, 30, 0]
    torch.testing.assert_close(images.transform["azimuth"], torch.tensor([90.0, 350.0, 0.0]).deg2rad())
    assert images.transform["zoom"].tolist() == [2.0, 1.5, 1.0]
    assert source.labels is not None
    assert [source.labels.names[label] for label in source.labels.classes] == ["cup", "toy", "toy"]
    assert source.describe(0, 1) == "2.png"
    assert source.notes["unused columns"] == "note"
    with pytest.raises(ValueError, match="object 1 has no view 1"):
        source.load(np.array([1]), np.array([1]))


def test_table_split_is_by_object_and_no_view_leaks(tmp_path: Path) -> None:
    path = write_table(tmp_path / "data", [HEADER, *ROWS])
    own, random = table(path=path), table(path=path, split_column="none", validation_share=0.4)
    assert files_of(own.train) == {"0.png", "1.png", "2.png"}
    for data in (own, random):
        assert len(files_of(data.train) | files_of(data.validation)) == 4
        assert not files_of(data.train) & files_of(data.validation)
        assert sum(data.train.view_counts) + sum(data.validation.view_counts) == 4


def test_columns_and_latents_by_setting(tmp_path: Path) -> None:
    rows: list[list[object]] = [["file", "thing", "turn", "deg", "up"]]
    rows += [["0.png", "a", 1, 10, 0], ["1.png", "a", 2, 20, 1], ["2.png", "a", 1, 30, 1]]
    latents = {"deg": "circle deg", "up": "flag"}
    path = write_table(tmp_path / "data", rows)
    data = table(path=path, latents=latents, path_column="file", object_column="thing+turn", validation_share=0.5)
    assert sorted([*data.train.view_counts, *data.validation.view_counts]) == [1, 2]
    assert data.train.groups == {"deg": Circle(2 * math.pi), "up": Flag()}
    assert data.train.labels is None
    assert len(ViewTable(write_table(tmp_path / "rows", [["path"], ["0.png"], ["1.png"], ["2.png"]]))) == 3


@pytest.mark.parametrize("named", [False, True])
def test_rotation_columns(tmp_path: Path, named: bool) -> None:
    angles = torch.tensor([[0.1, -0.5, 1.2], [0.7, 0.3, -2.0]], dtype=torch.float64)
    q = quaternion_from_euler(angles)
    prefix, name = ("camera_", "camera") if named else ("", "rotation")
    quaternions = [["path", *[prefix + part for part in ("qx", "qy", "qz", "qw")]]]
    quaternions += [[f"{n}.png", *row] for n, row in enumerate(q.tolist())]
    euler = [["path", *[f"{prefix}euler_{axis}[deg]" for axis in "xyz"]]]
    euler += [[f"{n}.png", *row] for n, row in enumerate(angles.rad2deg().tolist())]
    for number, (rows, words) in enumerate([(quaternions, "rotation quaternion"), (euler, "rotation euler deg")]):
        for latents in (None, {name: words}):
            source = ViewTable(write_table(tmp_path / str(number), rows), latents=latents)  # type: ignore[arg-type]
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
def test_words_of_a_latent(words: str, group: Group, one: float) -> None:
    (latent,) = latents_from_settings({"a": words})
    assert latent.group == group
    assert latent.values(np.ones((1, 1)), "").item() == pytest.approx(one)


@pytest.mark.parametrize("words", ["circle", "circel deg", "deg rad", "real period=2", "real scale=x", "real scale=-1", "rotation", ""])
def test_words_that_are_not_understood(words: str) -> None:
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
    ],
)
def test_table_errors(tmp_path: Path, rows: list[list[object]], options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        table(path=write_table(tmp_path / "data", rows), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


# 3DIEBench.


class Solid(Source):
    """Grey squares with known latents, in the groups of 3DIEBench."""

    def __init__(self, objects: int, views: int, labelled: bool = True) -> None:
        span = np.array([math.pi] * 3 + [1, math.pi / 4, 2 * math.pi, 1])
        self.latents = np.random.default_rng(0).random((objects, views, 7)) * span - np.array([math.pi / 2] * 3 + [0] * 4)
        self.labelled = labelled

    @property
    def view_counts(self) -> Indices:
        return np.full(len(self.latents), self.latents.shape[1], dtype=np.int64)

    @property
    def groups(self) -> dict[str, Group]:
        return GROUPS

    @property
    def labels(self) -> Labels | None:
        count = len(self.latents)
        return Labels(torch.arange(count) % 2, torch.ones(count, dtype=torch.bool), ("zebra", "ant")) if self.labelled else None

    @property
    def image_size(self) -> int:
        return 16

    def load(self, objects: Indices, views: Indices) -> Images:
        pixels = torch.from_numpy(10 * objects + views).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
        return Images(pixels, transform_of(self.latents[objects, views]), torch.ones(len(objects), dtype=torch.bool))


SPLIT = (np.array([0, 2, 3, 5]), np.array([4, 1]))


@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_threediebench_round_trip(tmp_path: Path, tables: bool, labelled: bool) -> None:
    solid = Solid(6, 3, labelled)
    done: list[tuple[int, int]] = []
    write_threediebench(tmp_path / "data", solid, solid.latents, SPLIT, progress=lambda *step: done.append(step))
    assert done == [(n, 6) for n in range(1, 7)]
    if not tables:
        for name in ("train", "val"):
            (tmp_path / "data" / f"all_latents_{name}.npy").unlink()
    data = threediebench(path=str(tmp_path / "data"), size=None)
    for source, objects in zip((data.train, data.validation), SPLIT, strict=True):
        assert isinstance(source, ThreeDIEBench)
        np.testing.assert_array_equal(source.latents, solid.latents[objects])
        images, expected = load_all(source), solid.load(np.repeat(objects, 3), np.tile(np.arange(3), len(objects)))
        assert (images.pixels.int() - expected.pixels.int()).abs().max() <= 1
        for name in GROUPS:
            assert torch.equal(images.transform[name], expected.transform[name])
        if labelled:
            assert source.labels is not None
            assert source.labels.names == ("ant", "zebra")
            assert [source.labels.names[label] for label in source.labels.classes] == [("zebra", "ant")[item % 2] for item in objects]
        else:
            assert source.labels is None


def test_threediebench_files_are_as_published(tmp_path: Path) -> None:
    solid = Solid(6, 3)
    write_threediebench(tmp_path / "data", solid, solid.latents, SPLIT)
    images, labels = (np.load(tmp_path / "data" / f"val_{name}.npy") for name in ("images", "labels"))
    assert images.tolist() == ["/zebra/000004/", "/ant/000001/"]
    assert images.dtype.kind == "U"
    assert (labels.dtype, labels.tolist()) == (np.int64, [1, 0])
    latent = np.load(tmp_path / "data" / "ant" / "000001" / "latent_2.npy")
    assert latent.dtype == np.float64
    np.testing.assert_array_equal(latent, solid.latents[1, 2])
    with Image.open(tmp_path / "data" / "ant" / "000001" / "image_2.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (16, 16))
    assert np.load(tmp_path / "data" / "all_latents_train.npy").shape == (4 * 3, 7)
    assert np.load(tmp_path / "data" / "all_objects.npy").tolist()[1] == ["ant", "000001"]


def test_latents_from_recorded_transforms_are_the_same_views(tmp_path: Path) -> None:
    solid = Solid(6, 3)
    write_threediebench(tmp_path / "data", solid, None, SPLIT)
    source = ThreeDIEBench(str(tmp_path / "data"))
    np.testing.assert_allclose(source.latents, solid.latents[SPLIT[0]], atol=1e-5)


def test_threediebench_in_a_zip(tmp_path: Path) -> None:
    solid = Solid(6, 3)
    write_threediebench(tmp_path / "data", solid, solid.latents, SPLIT)
    contents = {path.relative_to(tmp_path / "data").as_posix(): path.read_bytes() for path in (tmp_path / "data").rglob("*.*")}
    source = ThreeDIEBench(write(tmp_path / "packed", contents, "stored"), "val", size=8)
    assert load_all(source).pixels.shape == (6, 3, 8, 8)


def test_writing_is_refused_or_recognisably_interrupted(tmp_path: Path) -> None:
    solid, root = Solid(6, 3), tmp_path / "data"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_threediebench(root, solid, None, SPLIT, progress=stop)
    assert not root.exists()
    with pytest.raises(FileNotFoundError, match="written last"):
        ThreeDIEBench(f"{root}.partial")
    with pytest.raises(ValueError, match="left by an interrupted write"):
        write_threediebench(root, solid, None, SPLIT)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ValueError, match="not an empty folder"):
        write_threediebench(tmp_path / "full", solid, None, SPLIT)
    with pytest.raises(ValueError, match="none in both"):
        write_threediebench(tmp_path / "new", solid, None, (np.array([0]), np.array([0])))


def test_latent_table_of_another_order_is_refused(tmp_path: Path) -> None:
    solid = Solid(6, 3)
    write_threediebench(tmp_path / "data", solid, solid.latents, SPLIT)
    path = tmp_path / "data" / "all_latents_train.npy"
    np.save(path, np.load(path)[::-1])
    with pytest.raises(ValueError, match="disagrees with"):
        ThreeDIEBench(str(tmp_path / "data"))


# Torch datasets.


class Items:
    """Ten items of one form, as a dataset."""

    def __init__(self, item: Callable[[int], object]) -> None:
        self.item = item

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> object:
        return self.item(index)


def grey(value: int) -> torch.Tensor:
    return torch.full((1, 4, 4), value, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("item", "labelled"),
    [
        (grey, False),
        (lambda n: (grey(n), n % 3), True),
        (lambda n: (grey(n)[0], torch.tensor(n % 3)), True),
        (lambda n: [grey(n).float() / 255, "a caption"], False),
        (lambda n: (Image.new("L", (4, 4), n), np.int64(n % 3)), True),
        (lambda n: np.full((4, 4, 3), n, dtype=np.uint8), False),
    ],
    ids=["tensor", "pair", "2-d, tensor class", "float", "PIL", "array"],
)
def test_dataset_items(item: Callable[[int], object], labelled: bool) -> None:
    source = DatasetSource(Items(item))
    images = load_all(source)
    assert images.pixels.shape == (10, 3, 4, 4)
    assert images.pixels[:, 2, 1, 1].tolist() == list(range(10))
    assert (source.labels is not None) == labelled
    if source.labels is not None:
        assert source.labels.classes.tolist() == [n % 3 for n in range(10)]


def test_labels_come_from_targets_without_reading_an_image() -> None:
    items = Items(grey)
    items.targets = [-1, *range(9)]  # type: ignore[attr-defined]
    items.classes = list("abcdefghi")  # type: ignore[attr-defined]
    source = DatasetSource(torch.utils.data.Subset(items, [0, 3, 1]))  # type: ignore[arg-type]
    items.item = lambda index: pytest.fail("an image was read")
    assert source.labels is not None
    assert source.labels.known.tolist() == [False, True, True]
    assert source.labels.classes[1:].tolist() == [2, 0]
    assert source.labels.names == tuple("abcdefghi")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (lambda n: grey(n).float() - 2.0, r"item 0: float images must lie in \[0, 1\]"),
        (lambda n: {"image": grey(n)}, "begin with one, got dict"),
        (lambda n: torch.zeros(2, 4, 4, dtype=torch.uint8), "1, 3 or 4 channels"),
        (lambda n: grey(n).long(), "must be uint8"),
    ],
)
def test_dataset_errors(item: Callable[[int], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DatasetSource(Items(item))


def test_torchvision_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'FashionMNIST'"):
        torchvision_dataset(dataset="FashonMNIST", root=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*download: true"):
        torchvision_dataset(dataset="FashionMNIST", root=str(tmp_path))


@pytest.mark.parametrize("name", ["folder", "table", "threediebench", "torchvision"])
def test_recipes_can_say_every_setting_and_read_what_it_means(name: str) -> None:
    entry = DATA.find(name)
    settings = inspect.signature(entry.schema).parameters
    assert settings.keys() == inspect.signature(entry.load()).parameters.keys()
    assert all(f"    {setting}: " in (entry.schema.__doc__ or "") for setting in settings)


# Real data.


def counts(data: Data) -> tuple[int, int]:
    return len(data.train), len(data.validation)


def test_cifar10_zip() -> None:
    data = folder(path=real("cifar10_jpeg.zip"))
    assert counts(data) == (50_000, 10_000)
    assert data.train.labels is not None
    assert data.train.labels.classes.bincount().tolist() == [5_000] * 10
    assert data.train.load(np.arange(0, 50_000, 500), np.zeros(100, dtype=np.int64)).readable.all()


def test_turntable_zip() -> None:
    latents = {"azimuth_deg": "circle deg"}
    data = table(path=real("fruits360_turntable_64px.zip"), latents=latents, object_column="object+axis")
    assert counts(data) == (99, 36)
    assert set(data.train.view_counts) == {36}
    images = data.train.load(np.zeros(36, dtype=np.int64), np.arange(36))
    step = images.transform.select(torch.arange(35)).relative(images.transform.select(torch.arange(1, 36)))
    assert step["azimuth_deg"].rad2deg().sub(10).abs().max() < 2


def test_fashion_mnist(tmp_path: Path) -> None:
    os.symlink(real("FashionMNIST/raw"), tmp_path / "packed")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (tmp_path / "packed").iterdir():
        (raw / packed.name).symlink_to(packed.resolve())
    data = torchvision_dataset(dataset="FashionMNIST", root=str(tmp_path), download=True)
    assert counts(data) == (60_000, 10_000)
    assert data.validation.labels is not None
    assert data.validation.labels.names[0] == "T-shirt/top"
    assert data.validation.load(np.arange(64), np.zeros(64, dtype=np.int64)).pixels.shape == (64, 3, 28, 28)


def test_transform_of_stored_latents_is_the_papers() -> None:
    stored = np.array([[0.1, -0.2, 0.3, 0.4, 0.5, 0.6, 0.7]])
    transform = transform_of(stored)
    assert isinstance(transform, Transform)
    torch.testing.assert_close(transform["rotation"], quaternion_from_euler(torch.tensor([[0.1, -0.2, 0.3]])))
    assert [round(transform[name].item(), 4) for name in ("floor_hue", "light_theta", "light_phi", "light_hue")] == [0.4, 0.5, 0.6, 0.7]
