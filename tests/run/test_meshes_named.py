"""Folders, archives and files of meshes where images are expected, and words that the command line cannot use."""

import shutil
from pathlib import Path

import pytest
from small_meshes import WHOLE, six_boxes

from ssl_inv.run.cli import main

SMALL = ["--data.size", "16", "--data.views", "2", "--data.samples", "1"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        file = Path("m", "ab"[number % 2], f"{number}.off")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(WHOLE)
    shutil.make_archive("packed", "zip", "m")
    six_boxes(Path("boxes.npz"))
    return tmp_path


RENDERS = "'meshes' renders them: --data.name meshes"
NO_IMAGES = {
    "m": f"data.name: m has no images, but 4 mesh(es); {RENDERS}",
    "packed.zip": f"data.name: packed.zip has no images, but 4 mesh(es); {RENDERS}",
    "boxes.npz": f"data.name: boxes.npz holds meshes, not images; {RENDERS}",
    "m/a/0.off": "m/a/0.off is a mesh, not images; give the folder that it lies in, m/a, and --data.name meshes",
}


@pytest.mark.parametrize("path", NO_IMAGES)
@pytest.mark.parametrize("command", ["data", "shard"])
def test_meshes_in_the_place_of_images_are_known_and_the_advice_can_be_followed(place, capsys, path, command):
    arguments = [command, path] + ["out"] * (command == "shard")
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {NO_IMAGES[path]}\n"
    arguments[1] = "m/a" if path.endswith(".off") else path
    assert main([*arguments, "--data.name", "meshes", *SMALL]) == 0


def test_one_mesh_is_no_folder_of_meshes(place, capsys):
    assert main(["data", "meshes", "--data.path", "m/a/0.off"]) == 2
    line = "error: data.path: m/a/0.off is one mesh; give the folder that it lies in, m/a\n"
    assert capsys.readouterr().err == line


EMPTY = {
    "meshes": (["render", "out", "--meshes", ""], "--meshes: is empty"),
    "meshes with =": (["render", "out", "--meshes="], "--meshes: is empty"),
    "output": (["render", "  "], "an argument is empty"),
    "data": (["data", ""], "an argument is empty"),
    "setting": (["data", "meshes", "--data.path", ""], "--data.path: is empty"),
    "setting with =": (["data", "meshes", "--data.path= "], "--data.path: is empty"),
    "table": (["data", "meshes", "--data.path=m", "--data.csv_file", ""], "--data.csv_file: is empty"),
    "behind another": (["data", "meshes", "--data.path=m", ""], "an argument is empty"),
    "quoted": (["data", "meshes", "--data.path", "''"], "data.path: is empty; the current folder is `.`"),
    "in a list": (["data", "folder", "--data.path", "[m, '']"], "data.path: is empty; the current folder is `.`"),
}


@pytest.mark.parametrize("case", EMPTY)
def test_an_empty_word_is_not_the_current_folder(place, capsys, case):
    arguments, message = EMPTY[case]
    before = sorted(place.rglob("*"))
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    assert sorted(place.rglob("*")) == before


QUOTES = {
    "*_lod2.off": """'"*_lod2.off"', or in a list '["*_lod2.off"]'""",
    "[*_lod2.off]": """'["*_lod2.off"]'""",
    "[old, *.off]": """'["old", "*.off"]'""",
    "[{": None,
    "['*.off": None,
}


@pytest.mark.parametrize("typed", QUOTES)
def test_a_pattern_without_quotes_is_shown_with_them(place, capsys, typed):
    assert main(["data", "meshes", "--data.path", "m", "--data.exclude", typed]) == 2
    advice = "" if QUOTES[typed] is None else f"; what begins with * stands in quotes: {QUOTES[typed]}"
    assert capsys.readouterr().err == f"error: --data.exclude: {typed!r} is not a valid YAML value{advice}\n"


def test_the_quotes_of_a_pattern_are_what_is_read(place, capsys):
    assert main(["data", "meshes", "--data.path", "m", *SMALL, "--data.exclude", '["0.*"]']) == 0
    assert "3 meshes of 2 classes" in capsys.readouterr().out
    assert main(["data", "meshes", "--data.path", "m", "--data.exclude", '"0.*"']) == 2
    what = "data.exclude: expected a list of texts, got '0.*'; a list of one is ['0.*']"
    assert capsys.readouterr().err == f"error: {what}\n"
