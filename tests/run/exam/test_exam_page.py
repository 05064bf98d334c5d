"""docs/exam.md is true: its Python runs, and its commands do what it says. docs/protocols.md names every protocol."""

import json
import re
import shlex
from pathlib import Path

import pytest

from ssl_inv.evaluation.protocols import PROTOCOLS
from ssl_inv.run.cli import main, parse

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "exam.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
DEMO = "--data.objects 32 --data.classes 4 --data.size 32 --data.views 3 --trainer.steps 1 --trainer.batch_size 8"
SMALL = f"--backbone.name test_resnet --backbone.arguments {{}} {DEMO} --trainer.accelerator cpu --trainer.workers 0"
FEW = "--evaluation.views 2"


def test_features_of_ones_own_are_examined_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON[1], "docs/exam.md", "exec"), {})
    right, wrong = [line for line in COMMANDS if "features/mine" in line]
    # The MLPs of `quick` take seconds, and are measured elsewhere.
    assert main(shlex.split(right.replace("quick", "knn spectrum"))[1:]) == 0
    capsys.readouterr()
    assert "warnings" in (record := json.loads((tmp_path / "exams/features/exam.json").read_text()))["encoders"]["mine"]
    assert record["encoders"]["mine"]["warnings"] == []
    there = sorted(tmp_path.rglob("*"))
    assert main(shlex.split(wrong)[1:]) == 2
    assert "--protocols: none is called 'uniformity-of-nothing'" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == there


def test_functions_are_encoders_and_their_order_is_the_expected_one(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(PYTHON[0], "docs/exam.md", "exec"), {})
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "top1" in line]
    value = {(name, measure): float(number) for name, measure, number, _ in rows}
    assert value["colours", "knn/top1"] > value["corner", "knn/top1"]
    assert set(value) == {(name, f"{kind}/top1") for name in ("colours", "corner") for kind in ("knn", "logistic")}


def test_commands_are_well_formed() -> None:
    assert {parse(shlex.split(line)[1:]).command for line in COMMANDS} == {"pretrain", "evaluate"}


@pytest.mark.slow
def test_the_commands_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in COMMANDS:
        if "features/" in line:
            continue
        small = f"{SMALL} --monitor.every 0 --evaluation.protocol none --quiet" if "pretrain" in line else FEW
        # The protocols of `quick` take minutes here, and are measured elsewhere.
        chosen = "" if "pretrain" in line or "--protocols" in line else " --protocols knn"
        assert main(shlex.split(f"{line}{chosen} {small}")[1:]) == 0, line
    written = {path.parent.name for path in tmp_path.glob("exams/*/exam.html")}
    assert written == {"seeds", "libraries", "some", "layers"}
    layers = json.loads((tmp_path / "exams/layers/results.json").read_text())
    assert {row["trained"]["part"] for row in layers} >= {"all", "layer 00", "layer 01"}


def test_every_protocol_has_a_section_with_its_results_and_what_it_orders_wrongly() -> None:
    text = (DOCS / "protocols.md").read_text(encoding="utf-8")
    sections = {one.partition("\n")[0]: one for one in text.split("\n## ")[1:]}
    assert list(sections) == list(PROTOCOLS)
    for name, section in sections.items():
        assert "| setting |" in section, name
        assert "**What it orders wrongly:**" in section, name
