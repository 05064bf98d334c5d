"""Broken meshes: one verdict before anything is written, whatever processes render, and each is named once."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_meshes import WHOLE

from ssl_inv.run.cli import main

RECIPE: dict[str, Any] = {
    "objective": {"name": "sie", "projector": [16, 16]},
    "backbone": {"name": "test_resnet"},
    "data": {"name": "meshes", "path": "m", "views": 3, "size": 16, "samples": 1},
    "trainer": {"steps": 4, "batch_size": 8, "log_every": 1, "accelerator": "cpu"},
    "monitor": {"every": 0},
    "evaluation": {"protocol": "none"},
}
FEW = {"workers": 2}, {"cache": False}
SMALL = ["--data.size", "16", "--data.views", "2", "--data.samples", "1"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def filled(count: int, broken: int) -> None:
    """A folder of meshes whose last ones are broken."""
    Path("m").mkdir()
    for number in range(count):
        content = "no mesh" if number >= count - broken else WHOLE
        Path("m", f"{number:02}.off").write_text(content)


def recipe(trainer: dict[str, Any], data: dict[str, Any]) -> str:
    content = {**RECIPE, "trainer": {**RECIPE["trainer"], **trainer}, "data": {**RECIPE["data"], **data}}
    Path("run.yaml").write_text(yaml.safe_dump(content))
    return "run.yaml"


COMMANDS = {
    "cached": lambda: ["pretrain", recipe({}, {}), "--output", "out"],
    "workers": lambda: ["pretrain", recipe(*FEW), "--output", "out"],
    "check": lambda: ["check", recipe(*FEW)],
    "render": lambda: ["render", "out", "--meshes", "m", *SMALL],
    "data": lambda: ["data", "meshes", "--data.path", "m", *SMALL],
    "shard": lambda: ["shard", "meshes", "out", "--data.path", "m", *SMALL],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_too_many_broken_meshes_are_one_line_before_anything_is_written(place, capsys, command):
    filled(19, 10)
    arguments = COMMANDS[command]()
    before = sorted(os.listdir())
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    names = ", ".join(f"{number:02}.off" for number in range(9, 19))
    assert line.startswith(f"error: data.max_broken: 10 of 19 meshes of m cannot be rendered, more than 9: {names}; ")
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("settings", [({"workers": 0}, {}), FEW], ids=["cached", "workers"])
def test_broken_meshes_that_are_tolerated_are_named_once_and_all_are_recorded(place, capfd, caplog, settings):
    filled(19, 4)
    assert main(["pretrain", recipe(*settings), "--output", "out"]) == 0
    shown = capfd.readouterr().err + "".join(f"{one.getMessage()}\n" for one in caplog.records)
    names = [f"{number}.off" for number in range(15, 19)]
    assert [shown.count(name) for name in names] == [1] * 4, shown
    assert sorted(json.loads(Path("out", "run.json").read_text())["broken_images"]) == names


def test_every_broken_mesh_is_listed_on_request(place, capsys, caplog):
    filled(19, 15)
    command = ["data", "meshes", "--data.path", "m", "--all", *SMALL]
    assert main(command) == 0
    *facts, first, _ = (shown := capsys.readouterr().out.splitlines())[:-14]
    assert first == "15 of 19 meshes cannot be rendered"
    assert shown[-15:] == [f"{number:02}.off: it is no OFF file" for number in range(4, 19)]
    assert not any("cannot" in line for line in facts)
    assert not caplog.records, "the list says it all"
    assert main([*command, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["broken"]) == 15


def test_facts_count_the_meshes_that_cannot_be_rendered(place, capsys, caplog):
    filled(19, 2)
    assert main(["data", "meshes", "--data.path", "m", *SMALL]) == 0
    assert "cannot be rendered  2 of 19 meshes, the first 17.off: it is no OFF file" in capsys.readouterr().out
    assert [one.getMessage() for one in caplog.records] == [
        f"m: {number}.off is left out: it is no OFF file" for number in (17, 18)
    ]


def test_the_advice_of_a_refused_render_can_be_followed(place, capsys):
    filled(24, 11)
    command = ["render", "out", "--meshes", "m", *SMALL]
    assert main(command) == 2
    assert capsys.readouterr().err.endswith("raise it to go on without them\n")
    assert main([*command, "--data.max_broken", "0.9"]) == 0
    assert "13 objects, 26 images in out, 11 broken left out" in capsys.readouterr().out


def test_a_limit_of_faces_is_blamed_by_its_own_key(place, capsys):
    filled(8, 0)
    assert main(["render", "out", "--meshes", "m", *SMALL, "--data.max_faces", "1"]) == 2
    assert "error: data.max_faces: 8 of 8 meshes of m have more faces than 1: 00.off," in capsys.readouterr().err
    assert os.listdir() == ["m"]


def test_a_split_without_a_mesh_that_can_be_rendered_is_refused_first(place, capsys):
    for split, content in (("train", WHOLE), ("val", "no mesh")):
        for number in range(3):
            path = Path("m", split, f"{number}.off")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    assert main(["render", "out", "--meshes", "m", *SMALL]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: data.path: no mesh of the validation split can be rendered (val/0.off, val/1.off, ")
    assert line.endswith("; mend or remove them")
    assert os.listdir() == ["m"]
    views = {"held_out": "views", "views": 4, "max_broken": 0.5}
    assert main(["check", recipe({"batch_size": 2}, views)]) == 0, "these are not judged by"
