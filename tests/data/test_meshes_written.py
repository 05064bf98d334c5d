"""Claims about meshes that are written in the layout of 3DIEBench: the command, what lies beside the images, a killed
write, and two processes.
"""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_data import load_all
from small_meshes import WHOLE, rendered, six_boxes

from ssl_inv.data.sources import threediebench_writing
from ssl_inv.data.sources.rendered import posed
from ssl_inv.data.sources.threediebench import threediebench
from ssl_inv.data.sources.threediebench_writing import Writing, write_threediebench
from ssl_inv.run.cli import main

SMALL = ["--data.size", "16", "--data.views", "3", "--data.up", "z"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    six_boxes(tmp_path / "boxes.npz")
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_read_again_with_depth_and_parts_beside(place, capsys):
    assert main(["render", "out", "--meshes", "boxes.npz", "--beside", "parts,depth,faces", *SMALL]) == 0
    assert "6 objects, 18 images in out" in capsys.readouterr().out
    data, source = threediebench(path="out", size=None), rendered(place / "boxes.npz", size=16, samples=2)
    written = {
        row["object"]: row["name"] for row in csv.DictReader((place / "out" / "objects.csv").read_text().splitlines())
    }
    assert written == {f"{number:06d}": str(number) for number in range(6)}
    assert len(data.train) + len(data.validation) == 6
    expected = load_all(source).pixels.view(6, 3, 3, 16, 16).permute(0, 1, 3, 4, 2).numpy()
    depth, faces, parts = source.surfaces(np.full(3, 4), np.arange(3))
    folder = place / "out" / "object" / "000004"
    for view in range(3):
        Image.fromarray(expected[4, view]).save(place / "expected.jpg", quality=95)
        assert (folder / f"image_{view}.jpg").read_bytes() == (place / "expected.jpg").read_bytes()
        assert np.array_equal(np.load(folder / f"depth_{view}.npy"), depth[view].numpy())
        assert np.array_equal(np.load(folder / f"faces_{view}.npy"), faces[view].numpy())
        assert np.array_equal(np.asarray(Image.open(folder / f"parts_{view}.png")), parts[view].numpy())
        assert np.array_equal(np.load(folder / f"latent_{view}.npy"), source.all_latents()[4, view])


def test_a_killed_write_goes_on_and_another_one_is_refused(place):
    source, split = rendered(place / "boxes.npz", size=16), (np.arange(4), np.arange(4, 6))

    def write(name: str, stop_at: int = 99, **record: Any) -> int:
        def stop(done: int, total: int) -> None:
            if done == stop_at:
                raise KeyboardInterrupt

        writing = Writing({"size": 16, **record}, beside=lambda item, views: source.beside(["depth"], item, views))
        return write_threediebench(place / name, source, source.all_latents(), split, progress=stop, writing=writing)

    assert write("whole") == 6
    with pytest.raises(KeyboardInterrupt):
        write("killed", stop_at=3)
    partial = place / "killed.partial" / "object"
    assert sorted(path.name for path in partial.iterdir()) == ["000000", "000001", "000002"]
    # A write that was killed within an object leaves its folder under another name.
    (partial / "000002").rename(partial / "000002.partial")
    (partial / "000002.partial" / "image_1.jpg").unlink()
    kept = (partial / "000000" / "image_0.jpg").stat().st_mtime_ns
    with pytest.raises(ValueError, match="of something else \\(size: 16 -> 32\\); remove it, or choose another name"):
        write("killed", size=32)
    assert write("killed") == 6
    assert content(place / "killed") == content(place / "whole")
    assert (place / "killed" / "object" / "000000" / "image_0.jpg").stat().st_mtime_ns == kept


def interrupt_writing(patch: pytest.MonkeyPatch, number: int) -> list[Path]:
    """Stop a `render` where it would write its views of this number; what it has met is in the list."""
    whole, met = threediebench_writing._write_views, list[Path]()

    def interrupted(folder: Path, *rest: Any) -> None:
        met.append(folder)
        if len(met) == number:
            raise KeyboardInterrupt
        whole(folder, *rest)

    patch.setattr(threediebench_writing, "_write_views", interrupted)
    return met


def test_a_killed_command_goes_on(place, monkeypatch, capsys):
    command = ["render", "out", "--meshes", "boxes.npz", *SMALL]
    met = interrupt_writing(monkeypatch, 4)
    assert main(command) == 130
    assert not (place / "out").exists()
    assert main([*command, "--data.seed", "1"]) == 2
    assert "output: out.partial is left by an interrupted write of something else (data.seed: 0 -> 1)" in (
        capsys.readouterr().err
    )
    assert main(command) == 0
    assert len(met) == 4 + 3
    assert "6 objects, 18 images in out" in capsys.readouterr().out


IDLE = [["--data.max_broken", "0.5"], ["--data.memory_gb", "0.5"], ["--data.cache", "true"]]


@pytest.mark.parametrize("more", IDLE, ids=lambda more: more[0])
def test_settings_that_change_no_picture_do_not_keep_a_write_from_going_on(place, monkeypatch, capsys, more):
    interrupted(monkeypatch)
    assert main(["render", "out", "--meshes", "boxes.npz", *SMALL, *more]) == 0
    assert "6 objects, 18 images in out" in capsys.readouterr().out


def test_a_write_does_not_go_on_with_meshes_that_have_changed(place, monkeypatch, capsys):
    interrupted(monkeypatch)
    os.utime("boxes.npz", (1, 1))
    capsys.readouterr()
    assert main(["render", "out", "--meshes", "boxes.npz", *SMALL]) == 2
    what = "out.partial is left by an interrupted write, and the meshes in boxes.npz have changed since"
    assert capsys.readouterr().err == f"error: output: {what}; remove it, or choose another name\n"


def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `render` that is stopped after its first object."""
    with monkeypatch.context() as patched:
        interrupt_writing(patched, 2)
        assert main(["render", "out", "--meshes", "boxes.npz", *SMALL]) == 130


def test_objects_without_a_class_have_no_place_and_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("box/1", "box/2", "cup/3", "cup/4", "5", "6"):
        place = tmp_path / "library" / f"{name}.off"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(WHOLE)
    command = ["render", "out", "--meshes", "library", *SMALL]
    assert main(command) == 2
    what = "2 of 6 objects have no class, the first 5.off, and the layout of 3DIEBench has no place for them"
    advice = "take those with a class alone, `[box, cup]`, or give it one"
    assert capsys.readouterr().err == f"error: data.classes: {what}; {advice}\n"
    assert os.listdir() == ["library"]
    assert main([*command, "--data.classes", "[box, cup]"]) == 0


def test_a_large_object_is_written_in_pieces_with_the_same_files(place, monkeypatch):
    command = ["--meshes", "boxes.npz", "--beside", "depth,parts", *SMALL]
    assert main(["render", "whole", *command]) == 0
    monkeypatch.setattr(threediebench_writing, "_BYTES_AT_ONCE", 2 * 3 * 16**2)
    assert main(["render", "pieces", *command]) == 0
    assert content(place / "pieces") == content(place / "whole")


def test_more_latents_than_memory_holds_are_refused(place, monkeypatch, capsys):
    monkeypatch.setattr(posed, "MOST_LATENTS", 17)
    assert main(["render", "out", "--meshes", "boxes.npz", *SMALL]) == 2
    what = "3 of 6 objects are 18, more than the 17 written at once"
    assert capsys.readouterr().err == f"error: data.views: {what}\n"
    assert not list(place.glob("out*"))


def test_two_processes_write_what_one_writes(place):
    source, split = rendered(place / "boxes.npz", size=16), (np.arange(4), np.arange(4, 6))
    latents, writing = source.all_latents(), Writing({"size": 16})
    write_threediebench(place / "one", source, latents, split, writing=writing)
    stages: list[str] = []

    def wait(stage: str) -> None:
        # The second process does its share between the first one's beginning and end.
        stages.append(stage)
        if stage == "written":
            other = rendered(place / "boxes.npz", size=16)
            assert write_threediebench(place / "two", other, latents, split, share=(1, 2), writing=writing) == 0

    assert write_threediebench(place / "two", source, latents, split, share=(0, 2), wait=wait, writing=writing) == 6
    assert stages == ["checked", "begun", "written"]
    assert content(place / "one") == content(place / "two")


def test_broken_meshes_are_left_out_of_what_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        place = tmp_path / "library" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.off").write_text("no mesh" if number == 3 else WHOLE)
    assert main(["render", "out", "--meshes", "library", *SMALL]) == 0
    shown = capsys.readouterr()
    assert "7 objects, 21 images in out, 1 broken left out" in shown.out
    data = threediebench(path="out", size=None)
    assert len(data.train) + len(data.validation) == 7
    assert data.train.labels.names == ("a", "b")


MISTAKES = {
    "no folder": (["--meshes", "librari"], "data.path: no such file or folder: 'librari'; did you mean 'library'?"),
    "no meshes": (["--meshes", "empty"], "data: empty has no meshes; files end with one of .glb"),
    "a packed file inside": (["--meshes", "packed"], "for the meshes of its broken.npz give the path of that file"),
    "no such thing": (["--meshes", "library", "--beside", "dept"], "--beside: 'dept' is none of depth, faces, parts"),
    "beside solids": (["--beside", "depth"], "--beside: is for meshes, but data.name is 'rendered'"),
    "two kinds": (["--meshes", "library", "--data.name", "rendered"], "--meshes: is for meshes, but data.name is"),
    "no setting": (["--meshes", "library", "--data.clases", "[a]"], "data.clases", "did you mean 'classes'?"),
    "no class": (["--meshes", "library", "--data.classes", "[b]"], "data.classes: the meshes have no classes"),
    "other data": (["--data.name", "folder", "--data.path", "library"], "not 'folder'"),
    "quality": (["--meshes", "library", "--quality", "0"], "--quality: must lie between 1 and 95, got 0"),
    "no npz": (["--meshes", "broken.npz"], "data: broken.npz"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(case, tmp_path, monkeypatch, capsys):
    arguments, *messages = MISTAKES[case]
    monkeypatch.chdir(tmp_path)
    for name in ("library", "empty", "packed"):
        (tmp_path / name).mkdir()
    for number in range(3):
        (tmp_path / "library" / f"{number}.off").write_text(WHOLE)
    for place in (".", "packed"):
        (tmp_path / place / "broken.npz").write_bytes(b"no arrays")
    before = content(tmp_path)
    assert main(["render", "out", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert all(message in line for message in messages)
    assert content(tmp_path) == before
