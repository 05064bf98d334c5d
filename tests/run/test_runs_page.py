"""The commands and the code of docs/runs.md work as they stand, in their order."""

import re
import shlex
from pathlib import Path

import pytest

from ssl_inv.run.cli import main, parse

PAGE = (Path(__file__).parents[2] / "docs" / "runs.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [shlex.split(line)[1:] for kind, block in BLOCKS if not kind for line in block.splitlines()]
SMALL = {
    "data.classes": 2,
    "data.objects": 20,
    "data.views": 2,
    "data.size": 32,
    "backbone.name": "test_resnet",
    "backbone.arguments": {},
    "trainer.steps": 2,
    "trainer.batch_size": 4,
    "trainer.workers": 0,
    "monitor.every": 0,
    "evaluation.views": 1,
}


def test_commands_are_well_formed() -> None:
    assert {words[0] for words in COMMANDS} == {"sweep", "runs", "compare"}
    for words in [*COMMANDS, *(shlex.split(one)[1:] for one in re.findall(r"`(ssl-inv sweep [^`]+)`", PAGE))]:
        parse(words)


@pytest.mark.slow
def test_commands_and_code_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = [f"--{key}={value}" for key, value in SMALL.items()]
    for words in COMMANDS:
        assert main([*words, *(small if words[0] == "sweep" else [])]) == 0, words
    assert (tmp_path / "comparison.html").is_file()
    capsys.readouterr()
    (code,) = (block for kind, block in BLOCKS if kind == "python")
    shrunk = code.replace('"objective.temperature": [0.1, 0.5]}', f'"objective.temperature": [0.1, 0.5], **{SMALL}}}')
    assert shrunk != code
    exec(compile(shrunk, "runs.md", "exec"), {})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [["0.1", "2"], ["0.5", "2"]]
