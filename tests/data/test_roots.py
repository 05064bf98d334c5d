"""Claims about what `path` can name: several folders and archives as one, text files of paths, links, and splits that
stand deeper.
"""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_data import every_view, files_of, load_all, png

from ssl_inv.catalogue import DATA, SettingError
from ssl_inv.data.archives import MOST_BYTES
from ssl_inv.data.source import Data
from ssl_inv.data.sources.folder import ImageFolder, folder
from ssl_inv.data.sources.table import table
from ssl_inv.run.data_sections import data_at
from ssl_inv.run.recipe import resolve_judged
from ssl_inv.run.requirements import require_files

Write = Callable[..., str]

PARTS = {"a": {"cat/1.png": png(10), "dog/2.png": png(20)}, "b": {"dog/3.png": png(30), "ant/4.png": png(40)}}


def everything(data: Data) -> set[str]:
    return files_of(data.train) | files_of(data.validation)


def classes(source: ImageFolder) -> dict[str, str | None]:
    """The class of every image by its name."""
    labels = source.labels
    assert labels is not None
    told = zip(labels.classes.tolist(), labels.known.tolist(), strict=True)
    return {source.describe(row, 0): labels.names[one] if known else None for row, (one, known) in enumerate(told)}


@pytest.mark.parametrize("forms", [("folder", "folder"), ("stored", "folder"), ("tar", "deflated")])
def test_several_roots_are_one_folder(tmp_path, write: Write, forms):
    paths = [write(tmp_path / name, PARTS[name], form) for name, form in zip("ab", forms, strict=True)]
    roots = [Path(one).name for one in paths]
    source = ImageFolder(paths)
    for one in (source, pickle.loads(pickle.dumps(source))):
        assert load_all(one).pixels[:, 0, 4, 4].tolist() == [10, 20, 40, 30]
        assert classes(one) == {
            f"{roots[0]}/cat/1.png": "cat",
            f"{roots[0]}/dog/2.png": "dog",
            f"{roots[1]}/ant/4.png": "ant",
            f"{roots[1]}/dog/3.png": "dog",
        }
    assert source.notes["images"] == f"4 from {paths[0]}, {paths[1]}, 4 with a class"
    require_files(resolve_judged({"data": {"name": "folder", "path": paths}}, []))
    with pytest.raises(SettingError, match=r"^data.path: no such file or folder: .*/c'"):
        require_files(resolve_judged({"data": {"name": "folder", "path": [paths[0], f"{tmp_path}/c"]}}, []))


def test_several_roots_share_a_split_and_a_root_that_moves_keeps_its_stamp(tmp_path, write: Write):
    for name in "ab":
        write(tmp_path / name, {f"train/x/{name}1.png": png(1), f"train/y/{name}2.png": png(2), "val/x/3.png": png(3)})
    data = folder(path=[f"{tmp_path}/a", f"{tmp_path}/b"])
    assert files_of(data.validation) == {"a/val/x/3.png", "b/val/x/3.png"}
    assert data.train.labels is not None
    assert data.train.labels.names == ("x", "y")
    before, pixels = data.train.stamp, load_all(data.train).pixels
    for name in "ab":
        os.renames(tmp_path / name, tmp_path / "moved" / (name * 3))
    moved = folder(path=[f"{tmp_path}/moved/aaa", f"{tmp_path}/moved/bbb"])
    assert moved.train.stamp == before != folder(path=f"{tmp_path}/moved/aaa").train.stamp
    assert torch.equal(load_all(moved.train).pixels, pixels)
    (tmp_path / "moved" / "bbb" / "train" / "x" / "b1.png").write_bytes(png(9))
    assert folder(path=[f"{tmp_path}/moved/aaa", f"{tmp_path}/moved/bbb"]).train.stamp != before


def test_a_file_that_two_roots_reach_is_read_once(tmp_path, write: Write):
    one, other = (write(tmp_path / name, PARTS[name]) for name in "ab")
    Path(other, "again").symlink_to(Path(one, "cat"))
    Path(other, "dog", "link.png").symlink_to(Path(one, "dog", "2.png"))
    data = folder(path=[one, other], validation_share=0.5)
    assert everything(data) == {"a/cat/1.png", "a/dog/2.png", "b/dog/3.png", "b/ant/4.png"}
    assert data.notes["not used"] == "2 file(s) that another path has already"


@pytest.mark.parametrize(
    ("paths", "settings", "problem"),
    [
        ([], {}, "path: is an empty list"),
        (["a", "./a"], {}, "path: .*/./a' stands in the list twice|path: .*/a' stands in the list twice"),
        (["a", "a/cat"], {}, "path: '.*/a/cat' lies inside '.*/a', which has its images too; leave one of them out"),
        (["train", "val"], {}, "path: '.*train' and '.*val' are parts of a split by their names; name the latter in"),
        (["a"], {"validation": ["b", "a"]}, "validation: '.*/a' is the training data itself"),
        (["a", "b"], {"validation": "b/dog"}, "validation: '.*b/dog' lies inside the training data"),
        (["a/cat", "a/dog"], {"validation": "a"}, "validation: 'cat/1.png' of .* is a file of the training data too"),
        (["a"], {"validation": "a/list.txt"}, "validation: 'cat/1.png' of .*list.txt is a file of the training data"),
    ],
)
def test_roots_that_overlap_are_refused(tmp_path, write: Write, paths, settings, problem):
    for name in "ab":
        write(tmp_path / name, PARTS[name])
    for name in ("train", "val"):
        write(tmp_path / name, {"1.png": png(1)})
    (tmp_path / "a" / "list.txt").write_text("cat/1.png\n")
    given = {
        key: [f"{tmp_path}/{one}" for one in value] if isinstance(value, list) else f"{tmp_path}/{value}"
        for key, value in settings.items()
    }
    with pytest.raises(SettingError, match=f"^({problem})"):
        folder(path=[f"{tmp_path}/{one}" for one in paths], **given)


@pytest.mark.parametrize(
    ("text", "found", "from_list"),
    [
        ("# all\n\na/cat/1.png\n./b/dog/3.png\r\na\\dog\\2.png\n", {"cat": None}, False),
        ("a/cat/1.png 0\na/dog/2.png 10\nb/dog/3.png 10\n", {"1": "0", "2": "10", "3": "10"}, True),
        ("a\\cat\\1.png 0\na/dog/2.png 10\nb\\dog/3.png 10\n", {"1": "0", "2": "10", "3": "10"}, True),
        ("/a/cat/1.png 0\n/a/dog/2.png 1\n/b/dog/3.png 1\n", {"1": "0", "2": "1", "3": "1"}, True),
        ("a/cat/1.png,red cat\na/dog/2.png,dog\nb/dog/3.png,dog\n", {"1": "red cat", "2": "dog", "3": "dog"}, True),
        ("a/cat/1.png\tred cat\na/dog/2.png\tdog\nb/dog/3.png\tdog\n", {"1": "red cat", "2": "dog", "3": "dog"}, True),
    ],
)
def test_a_text_file_lists_images(tmp_path, write: Write, text, found, from_list):
    for name in "ab":
        write(tmp_path / name, PARTS[name])
    (tmp_path / "list.txt").write_bytes(text.encode())
    source = ImageFolder(f"{tmp_path}/list.txt")
    assert load_all(source).pixels[:, 0, 4, 4].tolist() == [10, 20, 30]
    told = classes(source)
    if from_list:
        assert {name[-5]: one for name, one in told.items()} == found
    else:
        assert told == {"a/cat/1.png": "a", "a/dog/2.png": "a", "b/dog/3.png": "b"}
    assert data_at(tmp_path / "list.txt", 8, None) == {"name": "folder", "path": f"{tmp_path}/list.txt", "size": 8}
    before = source.stamp
    (tmp_path / "b" / "ant" / "4.png").write_bytes(b"")
    assert ImageFolder(f"{tmp_path}/list.txt").stamp == before
    (tmp_path / "b" / "dog" / "3.png").write_bytes(png(31))
    assert ImageFolder(f"{tmp_path}/list.txt").stamp != before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"path,label\n1.png,2\n", "line 1: 'path,label' is neither the path of an image nor such a path and a class"),
        (b"1.png,cat,train\n", "line 1: 'cat,train' behind the path is no class; more columns are read from a table"),
        (b"1.png 1 2\n", "line 1: '1 2' behind the path is no class"),
        (b"1.png;cat\n", "line 1: '1.png;cat' is neither"),
        (b"1.png 1\n2.png\n", "line 2 has no class, but line 1 a class after a blank"),
        (b"1.png 1\n2.png,1\n", "line 2 has a class after a comma, but line 1 a class after a blank"),
        (b"1.png 1\n1.png 2\n", "line 2: '1.png' has the class '2', and '1' before"),
        (b"1.png\n3.png\n", r"no file '3.png' \(1 of 2 missing\)"),
        (b"1.png\n../o/4.png\n", "line 2: '../o/4.png' leads out of the folder of the list; `outside: true` allows it"),
        (b"1.png\n/etc/4.png\n", "line 2: '/etc/4.png' leads out"),
        (b"1.png\nC:\\data\\2.png\n", r"line 2: 'C:\\\\data\\\\2.png' is a path of Windows"),
        (b"1.png\no/4.png\n", r"no file 'o/4.png' \(1 of 2 missing\); there is no folder 'o'"),
        (b"# nothing\n", "lists no images"),
        (b"\xff.png\n", r"is not UTF-8 text \(byte 1\)"),
    ],
)
def test_a_text_file_that_cannot_be_read_is_one_line(tmp_path, write: Write, text, problem):
    write(tmp_path / "o", {"4.png": png(4)})
    path = write(tmp_path / "d", {"1.png": png(1), "2.png": png(2), "list.txt": text})
    with pytest.raises((ValueError, FileNotFoundError), match=problem) as caught:
        folder(path=f"{path}/list.txt")
    assert "\n" not in str(caught.value)


def test_a_backslash_may_be_part_of_a_name(tmp_path, write: Write):
    path = write(tmp_path / "d", {"a\\1.png": png(10), "b/2.png": png(20), "list.txt": b"a\\1.png\nb\\2.png\n"})
    assert load_all(ImageFolder(f"{path}/list.txt")).pixels[:, 0, 4, 4].tolist() == [10, 20]


@pytest.mark.parametrize("name", ["list.txt", "views.csv", "views.jsonl"])
def test_lists_and_tables_are_bounded(tmp_path, name):
    path = tmp_path / name
    path.touch()
    os.truncate(path, MOST_BYTES + 1)  # A file with a hole takes no disk.
    section = data_at(path, 8, None)
    with pytest.raises(ValueError, match=f"{name}: it has 2,147,483,649 bytes; at most 2,147,483,648 are read"):
        DATA.find(section.pop("name")).load()(**section)


def test_a_text_file_may_list_images_elsewhere(tmp_path, write: Write):
    other = write(
        tmp_path / "o" / "set", {f"{part}/{kind}/1.png": png(1) for part in ("train", "val") for kind in "xy"}
    )
    lines = "".join(f"{other}/{part}/{kind}/1.png\n" for part in ("train", "val") for kind in "xy")
    path = write(tmp_path / "d", {"list.txt": lines.encode()})
    data = folder(path=f"{path}/list.txt", outside=True)
    assert files_of(data.validation) == {"../o/set/val/x/1.png", "../o/set/val/y/1.png"}
    assert data.train.labels is not None
    assert data.train.labels.names == ("x", "y")
    assert load_all(data.train).readable.all()


def test_lists_to_train_on_and_to_judge_by_share_their_classes(tmp_path, write: Write):
    path = write(tmp_path / "d", {f"{n}.png": png(n) for n in range(4)})
    Path(path, "train.txt").write_text("0.png 3\n1.png 5\n")
    Path(path, "val.txt").write_text("2.png 5\n")
    labels = folder(path=f"{path}/train.txt", validation=f"{path}/val.txt").validation.labels
    assert labels is not None
    assert (labels.names, labels.classes.tolist()) == (("3", "5"), [1])
    Path(path, "val.txt").write_text("2.png\n3.png\n")
    with pytest.raises(ValueError, match="labels is 'list', but no text file of paths gives classes"):
        folder(path=f"{path}/train.txt", validation=f"{path}/val.txt")


@pytest.mark.parametrize(
    ("names", "settings", "problem"),
    [
        (["x/train/1", "x/val/2", "x/masks/3"], {}, "some folders in 'x' are splits .* images lie in 'x/masks' too"),
        (["p/train/1", "p/val/2", "q/train/3"], {}, "'p' has the folders 'train' and 'val' of a split, but images lie"),
        (["set/train/1", "set/val/2", "3"], {}, "take such folders alone, `path: .*/set]`, or set `split: none`"),
        (["x/test/1", "x/test/2"], {}, "the data has a split called test but nothing to train on; if this is no split"),
        (["x/train/1", "x/val/2", "x/masks/3"], {"exclude": ["masks"]}, None),
        (["x/y/train/1", "x/y/val/2"], {}, None),
    ],
)
@pytest.mark.parametrize("form", ["folder", "stored"])
def test_a_split_that_stands_deeper_is_taken_or_told(tmp_path, write: Write, names, settings, problem, form):
    path = write(tmp_path / "data", {f"{name}.png": png(1) for name in names}, form)
    if problem is None:
        assert len(folder(path=path, **settings).validation) == 1
        return
    # A folder around all of an archive is no part of its names.
    with pytest.raises(ValueError, match=problem if form == "folder" else "images lie|nothing to train on"):
        folder(path=path, **settings)
    assert folder(path=path, split="none", validation_share=0.4, **settings).notes["split"].endswith("seed 0")


def test_a_folder_that_is_called_like_a_split_and_is_none_is_mentioned(tmp_path, write: Write):
    path = write(tmp_path / "data", {"vehicles/train/1.png": png(1), "animals/cat/2.png": png(2)})
    assert folder(path=path).notes["not used"] == "the name of 'vehicles/train', which is no split here"
    assert folder(path=path, label_level=2, validation_share=0.5).notes["classes"] == "2 classes"


@pytest.mark.parametrize(
    ("link", "target", "settings", "problem"),
    [
        ("a/x.png", "1.png", {}, "'.*data/a/x.png' is a symbolic link; set `links: follow`, or take it away"),
        ("b", "a", {}, "'.*data/b' is a symbolic link"),
        ("a/lost", "nowhere", {}, "'.*data/a/lost' is a symbolic link"),
        ("b", "a", {"exclude": ["b"]}, None),
        (".hidden", "a", {}, None),
    ],
)
def test_links_are_refused_if_that_is_asked_for(tmp_path, write: Write, link, target, settings, problem):
    path = write(tmp_path / "data", {"a/1.png": png(1), "a/2.png": png(2), "views.csv": b"path\na/1.png\na/2.png\n"})
    Path(path, "list.txt").write_text("a/1.png\na/2.png\n")
    Path(path, link).symlink_to(target)
    folder(path=path, **settings)
    assert everything(folder(path=f"{path}/list.txt", links="refuse")) == {"a/1.png", "a/2.png"}
    if problem is None:
        folder(path=path, links="refuse", **settings)
        return
    for refused in (lambda: folder(path=path, links="refuse"), lambda: table(path=path, links="refuse")):
        with pytest.raises(SettingError, match=f"^links: {problem}"):
            refused()


def test_a_text_file_that_names_a_link_is_refused(tmp_path, write: Write):
    path = write(tmp_path / "data", {"a/1.png": png(1), "a/2.png": png(2), "list.txt": b"a/1.png\nb/2.png\n"})
    Path(path, "b").symlink_to("a")
    assert load_all(folder(path=f"{path}/list.txt", validation_share=0.5).train).readable.all()
    with pytest.raises(SettingError, match=r"^links: '.*data/b' is a symbolic link"):
        folder(path=f"{path}/list.txt", links="refuse")


def test_every_image_of_several_roots_is_described_once(tmp_path, write: Write):
    paths = [write(tmp_path / "p" / "same", PARTS["a"]), write(tmp_path / "q" / "same", PARTS["a"])]
    source = ImageFolder(paths)
    names = [source.describe(item, view) for item, view in zip(*every_view(source), strict=True)]
    assert sorted(names) == [f"{top}/same/{name}" for top in "pq" for name in ("cat/1.png", "dog/2.png")]
