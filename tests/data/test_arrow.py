"""Claims about images in columns: every form of file and of cell holds the same images as a folder, rows are read where
they lie, and what does not fit is one line.
"""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import feather, ipc, parquet
from small_data import every_view, files_of, load_all

from ssl_inv.catalogue import SettingError
from ssl_inv.data.sources.arrow import blocks, source
from ssl_inv.data.sources.arrow.layout import find_columns
from ssl_inv.data.sources.arrow.source import ImageColumn, arrow
from ssl_inv.data.sources.folder import ImageFolder
from ssl_inv.data.sources.table import table
from ssl_inv.transforms import Circle

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["dog", "cat", "cow"]}}


def encoded(pixels: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PNGS = [encoded(one) for one in PIXELS]
BESIDE = {
    "object": [f"thing {number % 6}" for number in range(12)],
    "label": [number % 2 for number in range(12)],
    "azimuth[deg]": [30.0 * number for number in range(12)],
}


def structs(contents: list[bytes | None], paths: list[str | None] | None = None) -> pyarrow.Array:
    paths = [None] * len(contents) if paths is None else paths
    rows = [{"bytes": content, "path": path} for content, path in zip(contents, paths, strict=True)]
    return pyarrow.array(rows, STRUCT)


def columns(image: Any = None, features: dict[str, Any] | None = FEATURES, **others: Any) -> pyarrow.Table:
    made = pyarrow.table({"image": structs(PNGS) if image is None else image, **BESIDE, **others})
    return (
        made
        if features is None
        else made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    )


def write_stream(rows: pyarrow.Table, path: Path, batch: int = 5, compression: str | None = None) -> None:
    with ipc.new_stream(path, rows.schema, options=ipc.IpcWriteOptions(compression=compression)) as stream:
        stream.write_table(rows, max_chunksize=batch)


def save_to_disk(rows: pyarrow.Table, folder: Path) -> None:
    """What `Dataset.save_to_disk` writes, in two files."""
    folder.mkdir(parents=True)
    names = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    write_stream(rows.slice(0, 7), folder / names[0])
    write_stream(rows.slice(7), folder / names[1])
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))


def one_parquet(root: Path, rows: pyarrow.Table) -> Path:
    parquet.write_table(rows, root / "views.parquet", row_group_size=5)
    return root / "views.parquet"


def hub(root: Path, rows: pyarrow.Table) -> Path:
    (root / "hub" / "data").mkdir(parents=True)
    for number, part in enumerate((rows.slice(0, 7), rows.slice(7))):
        parquet.write_table(part, root / "hub" / "data" / f"train-0000{number}-of-00002.parquet", row_group_size=3)
    return root / "hub"


def saved(root: Path, rows: pyarrow.Table) -> Path:
    save_to_disk(rows, root / "saved")
    return root / "saved"


def stream(root: Path, rows: pyarrow.Table) -> Path:
    write_stream(rows, root / "views.arrow")
    return root / "views.arrow"


def mapped_feather(root: Path, rows: pyarrow.Table) -> Path:
    feather.write_feather(rows, root / "views.feather", compression="uncompressed", chunksize=5)
    return root / "views.feather"


def packed_feather(root: Path, rows: pyarrow.Table) -> Path:
    feather.write_feather(rows, root / "packed.feather", compression="zstd", chunksize=5)
    return root / "packed.feather"


FORMS = [one_parquet, hub, saved, stream, mapped_feather, packed_feather]


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
        str(one_parquet(tmp_path, columns(lists(np.float32), features=None))), reading=source.Reading(white=255)
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


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (
            [
                "data/train-00000-of-00002.parquet",
                "data/train-00001-of-00002.parquet",
                "data/test-00000-of-00001.parquet",
            ],
            "train train test",
        ),
        (["en/train/0000.parquet", "en/validation/0000.parquet", "en/test/0000.parquet"], "train validation test"),
        (["cifar10-train.arrow", "cifar10-test.arrow"], "train test"),
        (["train/a/1.parquet", "train/b/1.parquet", "val.pq"], "train train val"),
        (["partial-train/0.parquet", "partial-test/0.parquet"], "train test"),
        (["unlabeled-00000-of-00001.parquet", "train-00000-of-00001.parquet"], "train unlabeled"),
        (["latest.parquet", "contest.parquet"], " "),
        (["shards/a.parquet", "more/b.parquet"], " "),
    ],
)
def test_splits_are_named_by_files_and_folders(write, tmp_path, files, splits):
    layout = find_columns(
        write(tmp_path / "data", {"README.md": b"", ".cache/train.parquet": b"", **dict.fromkeys(files, b"")})
    )
    assert len(layout.files) == len(files)
    assert sorted(one.split for one in layout.files) == sorted(splits.split(" "))


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["en/train-00000-of-00001.parquet", "de/train-00000-of-00001.parquet"], "'de', 'en'"),
        (["en/train/0.parquet", "de/test/0.parquet"], "'de', 'en'"),
        (["data/train.parquet", "train.parquet"], "'.', 'data'"),
    ],
)
def test_several_configurations_are_refused(write, tmp_path, files, names):
    path = write(tmp_path / "data", dict.fromkeys(files, b""))
    with pytest.raises(ValueError, match=f"has several configurations, {names}; give the folder or the file of one"):
        find_columns(path)


def test_splits_of_files_and_what_is_left_out_of_them(tmp_path):
    rows, data = columns(), tmp_path / "data"
    data.mkdir()
    for name, start, count in (("train", 0, 6), ("test", 6, 4), ("unlabeled", 10, 2)):
        parquet.write_table(rows.slice(start, count).drop_columns(["object"]), data / f"{name}-00000-of-00001.parquet")
    found = arrow(path=str(data))
    assert (len(found.train), len(found.validation)) == (6, 4)
    assert found.train.describe(5, 0) == "train-00000-of-00001.parquet, row 6"
    assert found.notes["not used"] == "other splits: unlabeled"
    assert found.notes["split"] == "the data's own train and test splits"
    everything = arrow(path=str(data), split_column="none", validation_share=0.5)
    assert (len(everything.train), len(everything.validation)) == (6, 6)
    apart = arrow(
        path=str(data / "train-00000-of-00001.parquet"), validation=str(data / "unlabeled-00000-of-00001.parquet")
    )
    assert (len(apart.train), len(apart.validation)) == (6, 2)
    with pytest.raises(SettingError, match=r"^validation: train-.*parquet is a file of `path` too"):
        arrow(path=str(data), validation=str(data / "train-00000-of-00001.parquet"))


def test_an_object_may_lie_in_several_files_but_not_in_several_splits(tmp_path):
    rows = columns()
    parquet.write_table(rows.slice(0, 8), tmp_path / "train.parquet")
    parquet.write_table(rows.slice(8), tmp_path / "test.parquet")
    with pytest.raises(
        ValueError, match=r"test.parquet, row 1 \('test'\) and train.parquet, row 3 \('train'\) show one object"
    ):
        arrow(path=str(tmp_path))
    assert arrow(path=str(tmp_path), split_column="none").train.view_counts.tolist() == [2] * 5


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks that are read from now on."""
    read, keep = [], blocks.Rows._keep
    monkeypatch.setattr(blocks.Rows, "_keep", lambda self, block: (read.append(block), keep(self, block))[1])
    return read


def test_a_batch_reads_each_row_group_once_and_few_stay_in_memory(tmp_path, monkeypatch):
    path = str(one_parquet(tmp_path, columns(features=None).drop_columns(["object"])))
    everything = ImageColumn(path)
    assert everything.blocks is None
    group = everything._rows.block(0).nbytes
    for module in (blocks, source):
        monkeypatch.setattr(module, "KEPT_BYTES", 2 * group)
    images = ImageColumn(path, cache=False)
    assert images.blocks.tolist() == [0] * 5 + [1] * 5 + [2] * 2
    read = counted(monkeypatch)
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(12), 2))
    expected = load_all(everything).pixels
    read.clear()
    for size in (None, 6):
        images = ImageColumn(path, size, cache=False)
        read.clear()
        found = images.load(order, np.zeros_like(order))
        assert sorted(read) == sorted(set(read))
        assert images._rows._kept <= 2 * group
        assert images._rows._kept == sum(one.nbytes for one in images._rows._blocks.values())
        if size is None:
            assert torch.equal(found.pixels, expected[torch.from_numpy(order)])


def test_mapped_files_take_no_memory(tmp_path):
    rows = columns(pyarrow.array([bytes(2**20)] * 11 + [PNGS[0]], pyarrow.binary()), features=None)
    for path in (mapped_feather(tmp_path, rows), stream(tmp_path, rows)):
        before = pyarrow.total_allocated_bytes()
        images = ImageColumn(str(path), object_none := None, max_broken=1.0)  # noqa: F841
        assert images.blocks is None
        assert pyarrow.total_allocated_bytes() - before < 2**20
        assert images._rows._kept == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_is_small_and_opens_the_files_in_another_process(tmp_path, form):
    large = pyarrow.array([one + bytes(2**16) for one in PNGS], pyarrow.binary())
    images = ImageColumn(str(form(tmp_path, columns(large))))
    expected = load_all(images).pixels
    assert len(pickle.dumps(images)) < 2**13
    found = torch.utils.data.DataLoader(Loaded(images), batch_size=None, num_workers=1, multiprocessing_context="fork")
    assert torch.equal(next(iter(found)), expected)


class Loaded(torch.utils.data.Dataset[torch.Tensor]):
    """All images of a source at once."""

    def __init__(self, images: ImageColumn) -> None:
        self.images = images

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> torch.Tensor:
        images = pickle.loads(pickle.dumps(self.images))
        again, fresh = load_all(self.images).pixels, load_all(images).pixels
        assert torch.equal(again, fresh)
        return again


def test_a_forked_process_opens_the_files_itself(tmp_path):
    images = ImageColumn(str(one_parquet(tmp_path, columns())), cache=False)
    load_all(images)
    rows = images._rows
    rows._lock.acquire()  # as another thread of the parent may hold it at the fork
    rows._process -= 1
    assert load_all(images).readable.all()


def test_broken_rows_are_counted_by_file_and_row(tmp_path):
    contents: list[bytes | None] = [*PNGS]
    contents[3], contents[7], contents[9] = b"no image", None, b""
    path = str(one_parquet(tmp_path, columns(structs(contents))))
    images = ImageColumn(path)
    loaded = load_all(images)
    objects, views = every_view(images)
    broken = ~loaded.readable.numpy()
    assert {images.describe(*pair) for pair in zip(objects[broken], views[broken], strict=True)} == set(images.broken)
    assert images.broken == {
        "views.parquet, row 4": "not an image in a known format",
        "views.parquet, row 8": "there is no image in this row",
        "views.parquet, row 10": "there is no image in this row",
    }
    assert not loaded.pixels[torch.from_numpy(broken)].any()


@pytest.mark.parametrize("image", [structs, pyarrow.array], ids=["structures", "paths"])
def test_a_row_without_a_path_is_broken(tmp_path, image):
    (tmp_path / "1.png").write_bytes(PNGS[0])
    cells = image([None, None], [None, "1.png"]) if image is structs else image(["", "1.png"])
    images = ImageColumn(str(one_parquet(tmp_path, pyarrow.table({"image": cells}))))
    assert load_all(images).readable.tolist() == [False, True]
    assert images.broken == {"views.parquet, row 1": "there is no image in this row"}
    assert images.describe(1, 0) == "1.png"


def test_a_damaged_row_group_breaks_its_images_alone(tmp_path, monkeypatch):
    path = one_parquet(tmp_path, columns(features=None).drop_columns(["object"]))
    chunk = parquet.read_metadata(path).row_group(1).column(0)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 40] = bytes(40)
    path.write_bytes(content)
    images = ImageColumn(str(path), max_broken=0.5)
    read = counted(monkeypatch)
    assert load_all(images).readable.tolist() == [True] * 5 + [False] * 5 + [True] * 2
    assert read.count(1) == 1
    assert all("\n" not in reason and "views.parquet is damaged" in reason for reason in images.broken.values())


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
        (bad_json, {}, "state.json is no JSON"),
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
