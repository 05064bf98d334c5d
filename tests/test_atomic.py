"""Files are whole or not there, and damage to them is found."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ssl_inv.atomic import (
    SEAL,
    CannotWriteError,
    DamagedFileError,
    keep_before,
    require_sound,
    seal,
    write_text,
    writing,
    written_aside,
)

STATE = {"weight": torch.arange(1000.0), "step": torch.tensor(7)}


def archive(path: Path) -> Path:
    torch.save(STATE, path)
    return path


def tensors(path: Path) -> Path:
    save_file(STATE, path.with_suffix(".safetensors"), metadata={"format": "pt", **SEAL})
    seal(path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def flip(path: Path, byte: int, bit: int = 2) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("write", [archive, tensors])
def test_a_flipped_bit_of_the_tensors_is_found_wherever_it_is(write, tmp_path: Path) -> None:
    path = write(tmp_path / "state.pt")
    require_sound(path)
    whole = path.read_bytes()
    start = whole.index(np.arange(1000, dtype=np.float32).tobytes())
    for byte in range(start, start + 4000, 333):
        path.write_bytes(whole)
        flip(path, byte, byte % 8)
        with pytest.raises(DamagedFileError, match=r"state\..* is damaged"):
            require_sound(path)


def test_every_byte_of_a_sealed_file_counts_and_others_still_read_it(tmp_path: Path) -> None:
    path = tensors(tmp_path / "state")
    assert torch.equal(load_file(path)["weight"], STATE["weight"])
    whole, name = path.read_bytes(), b'"crc32"'
    key = whole.index(name)
    for byte in [*range(key), *range(key + 10, len(whole), 50)]:
        path.write_bytes(whole)
        flip(path, byte)
        with pytest.raises(DamagedFileError):
            require_sound(path)


def test_files_without_checksums_are_read_as_before(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "old.safetensors", metadata={"format": "pt"})
    (tmp_path / "text").write_text("nothing")
    require_sound(tmp_path / "old.safetensors")
    require_sound(tmp_path / "text")


def test_a_file_cut_short_is_damaged(tmp_path: Path) -> None:
    for path in (archive(tmp_path / "a.pt"), tensors(tmp_path / "b")):
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(DamagedFileError):
            require_sound(path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos, file write failed"),
        ValueError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "before")

    def fill() -> None:
        with written_aside(path) as aside:
            aside.write_text("half of i")
            raise error

    with pytest.raises(CannotWriteError, match=r"file cannot be written: .* GB are free there\)") as caught:
        fill()
    assert "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "before"


def test_a_real_device_without_space_is_named(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    def log() -> None:
        with writing(tmp_path / "log"), open("/dev/full", "w") as full:
            full.write("x" * 100_000)

    with pytest.raises(CannotWriteError, match="log cannot be written: No space left on device"):
        log()


def test_a_folder_that_is_gone_is_said_to_be_gone(tmp_path: Path) -> None:
    with pytest.raises(CannotWriteError, match="its folder is gone"):
        write_text(tmp_path / "gone" / "file", "text")


def test_an_error_about_another_file_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_aside(tmp_path / "file"):
        Path("/nowhere/at/all").read_text()
    with pytest.raises(ValueError, match="no disk") as caught, written_aside(tmp_path / "file"):
        raise ValueError("no disk has to do with this")
    assert not isinstance(caught.value, OSError)


def test_the_file_before_is_kept_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last, before = tmp_path / "last", tmp_path / "before"
    last.write_text("one")
    number = last.stat().st_ino
    keep_before(last, before)
    assert (before.stat().st_ino, last.stat().st_ino) == (number, number)
    before.unlink()
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    keep_before(last, before)
    assert before.stat().st_ino == number
    assert not last.exists()
