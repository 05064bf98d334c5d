"""`ssl-inv data` says what a data set is and what was not used, and draws it; wrong arguments are one line."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image
from small_data import png

from ssl_inv.run.cli import main

COLOURS = {f"{kind}/{number}.png": png(40 + 60 * number) for kind in ("cat", "dog") for number in range(3)}


def test_facts_are_those_of_the_files(tmp_path, write, capsys):
    path = write(tmp_path / "data", {**COLOURS, "dog/notes.txt": b"", "dog/9.png": b"broken"})
    assert main(["data", path, "--json", "--data.validation_share", "0.3"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["data"] == "folder"
    assert (facts["training objects"], facts["validation objects"]) == (5, 2)
    assert facts["classes"] == 2
    assert facts["files"].startswith("8 wide, 8 high")
    assert facts["not used"] == "1 file(s) with other endings (1 .txt)"
    assert facts["cannot be read"] == "1 of those looked at, the first dog/9.png: not an image in a known format"


def test_nothing_but_json_is_printed_with_json(tmp_path, write, capsys):
    path, sheet = write(tmp_path / "data", COLOURS), tmp_path / "sheet.png"
    assert main(["data", path, "--json", "--output", str(sheet), "--data.size", "32"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["data"] == "folder"
    assert shown.err == f"sheet: {sheet}\n"


def test_latents_have_units(tmp_path, write, capsys):
    rows = "".join(f"{name},{10 * number}\n" for number, name in enumerate(COLOURS))
    path = write(tmp_path / "data", {**COLOURS, "views.csv": f"path,azimuth[deg]\n{rows}".encode()})
    assert main(["data", f"{path}/views.csv"]) == 0
    assert "latent azimuth      circle, radians, 0" in capsys.readouterr().out


def test_the_sheet_shows_both_parts(tmp_path, write):
    path, sheet = write(tmp_path / "data", COLOURS), tmp_path / "sheet.png"
    assert main(["data", path, "--output", str(sheet), "--images", "4", "--data.size", "32"]) == 0
    with Image.open(sheet) as image:
        assert len(image.getcolors(2**24) or ()) > 6


@pytest.mark.parametrize("sheet", ["sheet.png", "sheet.html"])
def test_names_that_are_not_utf8_are_escaped(tmp_path, write, capsys, sheet):
    path = write(tmp_path / "data", {f"{kind}/{number}.png": png(99) for kind in "ab" for number in range(3)})
    os.rename(f"{path}/a", os.fsencode(path) + b"/\xff")
    Path(path, "b", os.fsdecode(b"\xfe.png")).write_bytes(b"")
    assert main(["data", path, "--output", str(tmp_path / sheet), "--data.validation_share", "0.3"]) == 0
    shown = capsys.readouterr()
    assert "\\udcff" in shown.out
    assert "cannot read b/\\udcfe.png" in shown.err or "b/\\udcfe.png" in shown.out


def test_ends_of_lines_in_names_are_shown_and_not_printed(tmp_path, write, capsys):
    path = write(tmp_path / "data", {f"{kind}/{number}.png": png(99) for kind in ("a\nb", "c") for number in range(3)})
    Path(path, "c", "d\ne.png").write_bytes(b"")
    assert main(["data", path, "--all", "--data.validation_share", "0.3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("training objects of a class") and r"a\nb" in line for line in lines)
    assert lines[-1].startswith(r"c/d\ne.png: ")


def test_every_broken_image_is_listed(tmp_path, write, capsys):
    broken = {f"dog/{number}.png": b"broken" for number in range(20, 40)}
    path = write(tmp_path / "data", {**COLOURS, **broken})
    assert main(["data", path, "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-21] == "20 of 26 images cannot be read"
    assert lines[-20:] == [f"{name}: not an image in a known format" for name in broken]
    assert main(["data", path, "--all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["broken"] == dict.fromkeys(broken, "not an image in a known format")
    assert main(["data", path]) == 2
    assert "more than 10 of 26 images cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere"], "nowhere: no such file, folder, recipe or data set"),
        (["{path}", "--output", "sheet.txt"], "--output: 'sheet.txt' is no page; its name must end with .png or .html"),
        (["{path}", "--trainer.steps", "3"], "trainer"),
        (["{path}", "--data.backgroud", "white"], "data.backgroud: no such setting; did you mean 'background'?"),
        (["{path}", "--data.background", "grey"], "data.background: "),
    ],
)
def test_misuse_is_one_line(tmp_path, write, capsys, arguments, problem):
    path = write(tmp_path / "data", COLOURS)
    assert main(["data", *(one.format(path=path) for one in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert problem in error
