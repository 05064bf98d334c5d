"""The README is true: its commands parse, its recipes exist, its Python runs."""

import re
import shlex
from pathlib import Path

import pytest

from ssl_inv.run.cli import parse
from ssl_inv.run.recipe import shipped_recipes

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
LINES = [line for kind, text in BLOCKS if not kind for line in text.splitlines() if line.startswith("ssl-inv ")]
COMMANDS = [line.split("  ")[0].split(" #")[0].strip() for line in LINES]
SNIPPETS = [text for kind, text in BLOCKS if kind == "python"]


def test_there_is_something_to_check():
    assert len(COMMANDS) > 8
    assert len(SNIPPETS) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_well_formed(command):
    command = command.replace("[NAME]", "").replace("timm|torchvision|onnx", "timm")
    words = shlex.split(command)
    assert words[0] == "ssl-inv"
    parsed = parse(words[1:])
    if parsed.command == "pretrain" and parsed.recipe not in (None, "RECIPE"):
        assert parsed.recipe in shipped_recipes()


@pytest.mark.parametrize("makefile_target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_make_targets_exist(makefile_target):
    assert re.search(rf"^{makefile_target}:", (Path(__file__).parents[2] / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippets_run(number):
    if "local-dir:" in SNIPPETS[number]:
        pytest.skip("needs a finished run; tests/test_cli.py loads an export in the same way")
    exec(compile(SNIPPETS[number], "README.md", "exec"), {})
