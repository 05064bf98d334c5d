"""Claims about images in folders and archives: every form is read, and splits and classes are those that the folders
tell.
"""

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from small_data import files_of, load_all, png

from ssl_inv.data.archives import Files
from ssl_inv.data.names import unpacked
from ssl_inv.data.sources.folder import ImageFolder, folder

FORMS = ["folder", "stored", "deflated", "nested", "tar"]
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
def test_image_folder_reads_every_form(tmp_path, write, form, layout):
    names, classes = LAYOUTS[layout]
    contents = {name: png(10 * (number + 1)) for number, name in enumerate(names)}
    hidden = {".hidden/x.png": b"", "notes.txt": b""} if form == "folder" else {}
    source = ImageFolder(write(tmp_path / "data", contents | hidden, form))
    images, labels = load_all(source), source.labels
    assert images.pixels[:, :, 4, 4].tolist() == [[10 * (n + 1), 5 * (n + 1), 0] for n in range(len(names))]
    assert images.pixels.shape == (len(names), 3, 8, 8)
    assert images.readable.all()
    told = labels and zip(labels.classes, labels.known, strict=True)
    assert (told and [labels.names[number] if known else None for number, known in told]) == classes


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_a_zip_and_a_tar_are_read_the_same_way(tmp_path, write, form):
    contents = {"b/1.txt": b"one", "a.txt": b"two" * 100, "b/c/2.txt": b"", "b-c/ü.txt": b"four"}
    made = Files(write(tmp_path / "data", contents, form))
    for files in (made, pickle.loads(pickle.dumps(made))):
        assert [unpacked(name) for name in files.names] == ["a.txt", "b-c/ü.txt", "b/1.txt", "b/c/2.txt"]
        assert {unpacked(name): files.read(name) for name in files.names} == contents
        assert {name: files.read(name) for name in contents} == contents
        assert list(files.inside("b")) == ["1.txt"]
        assert list(files.inside("")) == ["a.txt"]
        assert "b/c/2.txt" in files
        assert "b/c" not in files
        with pytest.raises(FileNotFoundError, match="nothing"):
            files.read("nothing")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", [{"a.txt": b"two"}, {"d/c.txt": b"one"}, {"a.txt": b"three"}])
def test_a_stamp_changes_with_a_file_that_is_written_or_added(tmp_path, write, form, change):
    path = write(tmp_path / "data", contents := {"a.txt": b"one", "b.txt": b"one", "d/e.txt": b"one"}, form)
    before = Files(path).stamp
    assert Files(path).stamp == before
    write(tmp_path / "data", contents | change, form)
    assert Files(path).stamp != before


def test_links_in_a_tar_and_a_name_that_is_twice(tmp_path):
    (tmp_path / "one").write_bytes(b"old")
    os.link(tmp_path / "one", tmp_path / "same")
    (tmp_path / "other").symlink_to("one")
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for name in ("one", "same", "other"):
            tar.add(tmp_path / name, f"x/{name}")
        late = tarfile.TarInfo("x/" + "long" * 40)
        late.size = 3
        for content in (b"abc", b"xyz"):
            tar.addfile(late, io.BytesIO(content))
    files = Files(tmp_path / "data.tar")
    expected = {"long" * 40: b"xyz", "one": b"old", "same": b"old"}
    assert {unpacked(name): files.read(name) for name in files.names} == expected


@pytest.mark.parametrize("form", ["folder", "stored"])
def test_the_data_s_own_split_wins_over_a_random_one(tmp_path, write, form):
    names = ["train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png", "test/a/5.png"]
    data = folder(path=write(tmp_path / "data", dict.fromkeys(names, png(9)), form), validation_share=0.5)
    assert files_of(data.train) == set(names[:2])
    assert files_of(data.validation) == set(names[2:4])
    assert "test split is not used" in data.notes["split"]


def test_random_split_is_by_seed_and_complete(tmp_path, write):
    path = write(tmp_path / "data", {f"{n:02}.png": png(n) for n in range(20)})
    data, same, other = (folder(path=path, validation_share=0.25, split_seed=seed) for seed in (0, 0, 1))
    assert len(data.validation) == 5
    assert files_of(data.train) | files_of(data.validation) == {f"{n:02}.png" for n in range(20)}
    assert not files_of(data.train) & files_of(data.validation)
    assert files_of(data.validation) == files_of(same.validation) != files_of(other.validation)


def test_separate_validation_set_has_the_class_numbers_of_the_train_set(tmp_path, write):
    train, val, bad = (
        write(tmp_path / name, {f"{kind}/1.png": png(1) for kind in kinds.split()})
        for name, kinds in (("train", "ant bee cat"), ("val", "bee cat"), ("bad", "bee wasp"))
    )
    labels = folder(path=train, validation=val).validation.labels
    assert labels.classes.tolist() == [1, 2]
    assert labels.names == ("ant", "bee", "cat")
    with pytest.raises(ValueError, match="no class 'wasp'"):
        folder(path=train, validation=bad)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["train/a/1.png", "extra/a/1.png"], {}, "'extra'"),
        (["a.png", "b.png"], {"labels": "folders"}, "no image lies in a class folder"),
        (["a.txt"], {}, "has no images"),
        (["a.png"], {"labels": "classes"}, "must be 'folders', 'list', 'none' or null"),
        (["a.png"], {"max_broken": 2.0}, "max_broken"),
        (["val/a.png"], {}, "nothing to train on"),
    ],
)
def test_folder_errors(tmp_path, write, names, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        folder(path=write(tmp_path / "data", dict.fromkeys(names, png(1))), **options)
    assert "\n" not in str(caught.value)


def test_links_that_lead_nowhere_or_back_do_no_harm(tmp_path, write):
    path = Path(write(tmp_path / "data", {"a/0.png": png(1), "b/1.png": png(2)}))
    (path / "a" / "lost.png").symlink_to(tmp_path / "nowhere")
    (path / "a" / "again").symlink_to(path)
    (path / "c").symlink_to(write(tmp_path / "elsewhere", {"2.png": png(3)}))
    files = Files(path)
    assert [bytes(name) for name in files.names] == [b"a/0.png", b"a/lost.png", b"b/1.png", b"c/2.png"]
    before = files.stamp
    (tmp_path / "nowhere").write_bytes(b"")
    assert files.stamp != before


def test_of_a_name_that_stands_twice_in_a_zip_the_later_file_counts(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("x/0.png", png(10))
        archive.writestr("x/1.png", png(30))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x/0.png", png(20))
    assert load_all(ImageFolder(str(tmp_path / "data.zip"))).pixels[:, 0, 0, 0].tolist() == [20, 30]


def test_missing_and_damaged_archives(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder, zip or tar file"):
        folder(path=str(tmp_path / "nothing"))
    for name, mode in (("packed.tar.gz", "w:gz"), ("whole.tar", "w")):
        with tarfile.open(tmp_path / name, mode) as tar:
            tar.add(__file__, "a.png")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:2000])
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    (tmp_path / "empty.tar").write_bytes(b"")
    for name in ("packed.tar.gz", "cut.tar", "bad.zip", "empty.tar"):
        with pytest.raises(ValueError, match="neither a folder nor a readable zip or uncompressed tar archive"):
            folder(path=str(tmp_path / name))
    files = Files(tmp_path / "whole.tar")
    os.truncate(tmp_path / "whole.tar", 2000)
    with pytest.raises(ValueError, match="ends within"):
        files.read("a.png")


@pytest.mark.parametrize("form", ["folder", "stored"])
def test_a_pickled_source_reads_the_same_and_a_cached_image_is_decoded_once(tmp_path, write, form):
    path = write(tmp_path / "data", {f"{n}.png": png(n) for n in range(5)}, form)
    for cache in (False, True):
        source = ImageFolder(path, cache=cache)
        expected, copied = load_all(source).pixels, pickle.loads(pickle.dumps(source))
        assert torch.equal(load_all(copied).pixels, expected)
        assert copied.preferred_workers == (0 if cache else None)
    os.rename(path, tmp_path / "away")
    assert torch.equal(load_all(source).pixels, expected)
