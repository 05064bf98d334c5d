"""Claims about files of any kind: what is too large, no file or elsewhere is not read; and names of large folders are
kept while they are right.
"""

import hashlib
import io
import logging
import os
import pickle
import socket
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_data import load_all, png

from ssl_inv.data import archives, folder_index
from ssl_inv.data.archives import Files
from ssl_inv.data.folder_index import IndexFile
from ssl_inv.data.names import unpacked
from ssl_inv.data.sources.folder import ImageFolder, folder
from ssl_inv.data.sources.table import table
from ssl_inv.data.tree import walked

# What is read.


def test_what_is_no_regular_file_is_neither_waited_for_nor_read(tmp_path: Path) -> None:
    for name in ("0.png", "6.png"):
        (tmp_path / name).write_bytes(png(9))
    os.mkfifo(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to("/dev/zero")
    (tmp_path / "3.png").symlink_to("1.png")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "4.png"))
        source = ImageFolder(str(tmp_path), max_broken=1.0)
        assert load_all(source).readable.tolist() == [True, False, False, False, False, True]
    assert source.broken["1.png"] == source.broken["2.png"] == source.broken["3.png"] == "it is no regular file"
    with pytest.raises(ValueError, match="neither a folder nor a regular file"):
        Files(tmp_path / "1.png")


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "holes.png", "wb") as file:
        file.truncate(archives.MOST_BYTES + 1)
    with pytest.raises(ValueError, match=r"has 2,147,483,649 bytes; at most 2,147,483,648 are read"):
        Files(tmp_path).read("holes.png")


def test_a_zip_member_that_would_grow_without_end_is_not_unpacked(tmp_path: Path, monkeypatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", png(1))
        archive.writestr("b.png", bytes(1_000_000))
    files = Files(tmp_path / "bomb.zip")
    assert files.read("b.png") == bytes(1_000_000)
    monkeypatch.setattr(archives, "ALWAYS_BYTES", 900_000)
    with pytest.raises(ValueError, match=r"\d,?\d* bytes in the archive would grow to 1,000,000"):
        files.read("b.png")
    monkeypatch.setattr(archives, "MOST_BYTES", 999_999)
    with pytest.raises(ValueError, match="has 1,000,000 bytes; at most 999,999 are read"):
        files.read("b.png")
    assert files.read("a.png") == png(1)


@pytest.mark.parametrize("told", [0, 10, 999_999, 1_000_001])
def test_a_zip_member_is_unpacked_to_the_size_that_the_archive_gives_and_no_further(
    tmp_path, monkeypatch, told
) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/b.png", bytes(1_000_000))
        archive.writestr("x/c.png", b"c")
    content = bytearray((tmp_path / "data.zip").read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, told)
    (tmp_path / "data.zip").write_bytes(content)
    most = []
    make = archives.zlib.decompressobj

    class Watched:
        def __init__(self, **options: int) -> None:
            self.inner = make(**options)

        def decompress(self, content: bytes, limit: int) -> bytes:
            most.append(limit)
            return self.inner.decompress(content, limit)

        @property
        def eof(self) -> bool:
            return self.inner.eof

    monkeypatch.setattr(archives.zlib, "decompressobj", Watched)
    with pytest.raises(ValueError, match="its size in the zip archive is wrong"):
        Files(tmp_path / "data.zip").read("b.png")
    assert most == [told + 1]


def test_a_member_that_would_end_behind_its_archive_is_refused_without_memory_for_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("x/b.png", b"bbb")
    content = bytearray((tmp_path / "data.zip").read_bytes())
    struct.pack_into("<II", content, content.index(b"PK\x01\x02") + 20, 2_000_000_000, 2_000_000_000)
    (tmp_path / "data.zip").write_bytes(content)
    with pytest.raises(ValueError, match="the archive ends within it"):
        Files(tmp_path / "data.zip").read("b.png")


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_names_in_an_archive_that_lead_out_of_it_reach_no_file(tmp_path: Path, form: str) -> None:
    (tmp_path / "secret.png").write_bytes(png(200))
    names = ["../secret.png", str(tmp_path / "secret.png"), "a/../../secret.png", "a/b.png"]
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            for name in names:
                archive.writestr(name, png(7))
    else:
        with tarfile.open(tmp_path / "data.tar", "w") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(png(7))
                tar.addfile(member, io.BytesIO(png(7)))
    files = Files(tmp_path / f"data.{form}")
    # Those with dots are hidden; an absolute one is a name like any other.
    assert [unpacked(name) for name in files.names] == sorted(names[1::2])
    assert all(files.read(name) == png(7) for name in files.names)
    with pytest.raises(FileNotFoundError):
        files.read("../secret.png")


def test_names_that_lead_out_of_a_folder_are_not_read_unless_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "secret").write_bytes(b"1")
    files, open_files = Files(tmp_path / "data"), Files(tmp_path / "data", outside=True)
    for name in ("../secret", str(tmp_path / "secret"), "a/../../secret"):
        assert name not in files
        with pytest.raises(ValueError, match=r"secret' leads out of "):
            files.read(name)
    assert open_files.read("../secret") == b"1"
    assert list(files.inside("..")) == []


def test_a_table_elsewhere_may_be_named_but_its_rows_stay_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(3):
        (tmp_path / "data" / f"{number}.png").write_bytes(png(number))
    (tmp_path / "views.csv").write_text("path\n0.png\n1.png\n2.png\n")
    data = table(path=str(tmp_path / "data"), csv_file="../views.csv", validation_share=0.4)
    assert len(data.train) + len(data.validation) == 3
    (tmp_path / "views.csv").write_text("path\n0.png\n../views.csv\n2.png\n")
    with pytest.raises(ValueError, match=r"row 2: '\.\./views\.csv' leads out of the folder"):
        table(path=str(tmp_path / "data"), csv_file="../views.csv", validation_share=0.4)


# The index of a large folder.


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is large enough for an index, which is kept at once."""
    monkeypatch.setenv("SSL_INV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_index, "LEAST_KEPT", 6)
    monkeypatch.setattr(folder_index, "SETTLED_NS", 0)
    for name in ("b/1.png", "b/2.png", "b-c/3.png", "b/d/4.png", "a.png", "notes.txt"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(png(len(name)))
    return tmp_path / "data"


SORTED = ["a.png", "b-c/3.png", "b/1.png", "b/2.png", "b/d/4.png", "notes.txt"]


def found(top: Path, *exclude: str) -> list[str]:
    return [unpacked(name) for name in Files(top, exclude).names]


def searches(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are searched from now on."""
    seen: list[Path] = []
    monkeypatch.setattr(folder_index, "walked", lambda top: (seen.append(top), walked(top))[1])
    return seen


def test_a_large_folder_is_searched_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = searches(monkeypatch)
    assert [found(large) for _ in range(3)] == [SORTED] * 3
    assert searched == [large]
    # What is left out has an index of its own.
    files = [Files(large, ["d", "nothing"]) for _ in range(2)]
    assert [list(one.names) for one in files] == [[name.encode() for name in SORTED if "/d/" not in name]] * 2
    assert files[0].left_out == files[1].left_out == ["1 excluded", "nothing more is left out by 'nothing'"]
    assert searched == [large] * 2
    assert len(list((large.parent / "cache").iterdir())) == 2


def add(top: Path) -> None:
    (top / "b" / "d" / "new.png").write_bytes(b"")


def remove(top: Path) -> None:
    (top / "b-c" / "3.png").unlink()


def rename_within(top: Path) -> None:
    (top / "b" / "1.png").rename(top / "b" / "9.png")


def exchange_folders(top: Path) -> None:
    (top / "b").rename(top / "aside")
    (top / "b-c").rename(top / "b")
    (top / "aside").rename(top / "b-c")


def set_back(top: Path) -> None:
    """A file is added and the time of its folder set back, as programs that copy folders do."""
    before = os.stat(top / "b")
    (top / "b" / "new.png").write_bytes(b"")
    os.utime(top / "b", ns=(before.st_atime_ns, before.st_mtime_ns))


def a_file_for_a_folder(top: Path) -> None:
    (top / "b-c" / "3.png").unlink()
    (top / "b-c").rmdir()
    (top / "b-c").write_bytes(b"")


@pytest.mark.parametrize("change", [add, remove, rename_within, exchange_folders, set_back, a_file_for_a_folder])
def test_a_folder_that_changed_is_searched_again(large: Path, change: Callable[[Path], None]) -> None:
    assert found(large) == SORTED
    change(large)
    expected = sorted(path.relative_to(large).as_posix() for path in large.rglob("*") if path.is_file())
    assert found(large) == found(large) == expected != SORTED


def test_a_small_folder_and_one_that_changed_a_moment_ago_leave_no_trace(large: Path, monkeypatch) -> None:
    monkeypatch.setattr(folder_index, "LEAST_KEPT", 7)
    assert found(large) == SORTED
    monkeypatch.setattr(folder_index, "LEAST_KEPT", 6)
    monkeypatch.setattr(folder_index, "SETTLED_NS", 60_000_000_000)
    assert found(large) == SORTED
    assert not (large.parent / "cache").exists()


def test_no_index_is_kept_among_the_files_of_the_folder(large: Path, monkeypatch) -> None:
    for place in (large, large / "cache"):
        monkeypatch.setenv("SSL_INV_CACHE", str(place))
        assert found(large) == SORTED
    monkeypatch.setenv("SSL_INV_CACHE", str(large / ".cache"))
    assert found(large) == found(large) == SORTED
    assert [path.name for path in large.iterdir() if path.name.startswith((".", "cache"))] == [".cache"]


def truncated(index: Path, other: Path) -> None:
    os.truncate(index, index.stat().st_size // 2)


def emptied(index: Path, other: Path) -> None:
    index.write_bytes(b"")


def foreign(index: Path, other: Path) -> None:
    index.write_bytes(other.read_bytes())


def garbage(index: Path, other: Path) -> None:
    index.write_bytes(b"ARROW1\0\0" + bytes(200))


def wrong_bounds(index: Path, other: Path) -> None:
    content = bytearray(index.read_bytes())
    bounds = np.cumsum([0, *map(len, SORTED)]).astype("<i8").tobytes()
    place = content.index(bounds)
    content[place + 8 : place + 16] = np.array([1 << 40], dtype="<i8").tobytes()
    index.write_bytes(content)


def a_folder_in_its_place(index: Path, other: Path) -> None:
    index.unlink()
    (index / "x").mkdir(parents=True)


@pytest.mark.parametrize("harm", [truncated, emptied, foreign, garbage, wrong_bounds, a_folder_in_its_place])
def test_an_index_that_cannot_be_right_is_not_used_and_nothing_is_said(large: Path, caplog, harm) -> None:
    other = large.parent / "other"
    for number in range(6):
        (other / f"{number}").mkdir(parents=True)
        (other / f"{number}" / "x.png").write_bytes(b"")
    cache = large.parent / "cache"
    assert len(found(other)) == 6
    (of_other,) = cache.iterdir()
    assert found(large) == SORTED
    (index,) = set(cache.iterdir()) - {of_other}
    harm(index, of_other)
    with caplog.at_level(logging.INFO):
        assert found(large) == found(large) == SORTED
    assert not caplog.records


def test_a_cache_that_cannot_be_written_does_no_harm(large: Path, monkeypatch) -> None:
    (large.parent / "file").write_bytes(b"")
    monkeypatch.setenv("SSL_INV_CACHE", str(large.parent / "file" / "cache"))
    assert found(large) == found(large) == SORTED


def test_processes_that_begin_at_once_have_the_same_names(large: Path) -> None:
    answers: list[list[str]] = []
    threads = [threading.Thread(target=lambda: answers.append(found(large))) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert answers == [SORTED] * 4


def test_a_pickled_copy_maps_the_names_again_and_survives_a_new_index(large: Path) -> None:
    files = Files(large)
    assert isinstance(files.names.origin, IndexFile)
    source = ImageFolder(str(large))
    images = pickle.dumps(source.files.names[np.arange(len(SORTED)) % 2 == 0])
    assert b"notes.txt" not in images
    assert [unpacked(name) for name in pickle.loads(images)] == SORTED[::2]
    add(large)
    assert "b/d/new.png" in found(large)
    # The index is another one now, so the old names are sent as they are.
    assert [unpacked(name) for name in pickle.loads(pickle.dumps(files.names))] == SORTED
    with pytest.raises(RuntimeError, match="was replaced while a process started"):
        pickle.loads(images)


def test_labels_and_splits_are_the_same_from_an_index(large: Path) -> None:
    for number, name in enumerate(("train/x/1.png", "train/y/2.png", "val/y/3.png", "val/4.png", "val/x/5.png")):
        (large.parent / "split" / name).parent.mkdir(parents=True, exist_ok=True)
        (large.parent / "split" / name).write_bytes(png(number))
    (large.parent / "split" / "val" / "notes.txt").write_bytes(b"")
    for _ in range(2):
        data = folder(path=str(large.parent / "split"))
        assert data.train.labels.names == ("x", "y")
        assert data.validation.labels.classes[data.validation.labels.known].tolist() == [0, 1]
        assert data.validation.labels.known.tolist() == [False, True, True]
        assert "1 file(s) with other endings (1 .txt)" in data.train.source.notes["not used"]


def _zip_with(change: Callable[[bytearray, int], None], path: Path) -> Path:
    """A zip whose directory was changed; `change` gets the content and where the entry of the file begins."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(1))
    content = bytearray(path.read_bytes())
    change(content, content.index(b"PK\x01\x02"))
    path.write_bytes(content)
    return path


def _of_version_12(content: bytearray, entry: int) -> None:
    content[entry + 6] = 127


def _without_a_name(content: bytearray, entry: int) -> None:
    content[entry + 28], content[entry + 30] = 0, 5  # The name becomes an extra field.


def _encrypted(content: bytearray, entry: int) -> None:
    content[entry + 8] |= 1


@pytest.mark.parametrize("change", [_of_version_12, _without_a_name, _encrypted])
def test_a_damaged_directory_of_a_zip_is_one_line(tmp_path: Path, change) -> None:
    with pytest.raises(ValueError, match=r"data\.zip( is neither a folder nor a readable zip|: a.png is encrypted)"):
        Files(_zip_with(change, tmp_path / "data.zip"))


# Stamps.


def expected_stamp(top: Path, names: list[str]) -> str:
    """As runs have it that began before there was an index."""
    digest = hashlib.sha256(np.array([name.encode() for name in names], dtype=np.bytes_).tobytes())
    states = [(top / name).stat() for name in names]
    digest.update(np.array([(one.st_size, one.st_mtime_ns) for one in states], dtype=np.int64).tobytes())
    return digest.hexdigest()


def test_the_stamp_of_a_folder_is_what_it_was(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in (100, 2, 2):
        monkeypatch.setattr(folder_index, "ALWAYS_ASKED", asked)
        assert Files(large).stamp == expected_stamp(large, SORTED)


@pytest.mark.parametrize(("written", "noticed"), [("a.png", True), ("notes.txt", True), ("b/1.png", False)])
def test_the_stamp_of_a_large_folder_looks_at_some_files_and_at_all_folders(
    large, monkeypatch, written, noticed
) -> None:
    monkeypatch.setattr(folder_index, "ALWAYS_ASKED", 2)
    before = Files(large).stamp
    with open(large / written, "ab") as file:
        file.write(b"more")
    assert (Files(large).stamp != before) == noticed
    (large / "b" / "aside").write_bytes(b"moved into its place")
    (large / "b" / "aside").replace(large / "b" / "2.png")
    assert Files(large).stamp == expected_stamp(large, SORTED) != before
