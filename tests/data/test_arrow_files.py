"""Claims about files with columns: their names say what is a split, rows are read where they lie, in blocks or mapped
into memory, and what is damaged breaks its own images alone.
"""

import pickle

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet
from small_columns import FORMS, PNGS, columns, mapped_feather, one_parquet, stream, structs
from small_data import every_view, load_all

from ssl_inv.catalogue import SettingError
from ssl_inv.data.sources.arrow import blocks, source
from ssl_inv.data.sources.arrow.layout import find_columns
from ssl_inv.data.sources.arrow.source import ImageColumn, arrow


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
        images = ImageColumn(str(path), max_broken=1.0)
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
