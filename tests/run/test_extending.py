"""The code of docs/extending.md works as it stands: its files, recipes, commands and checks run in their order."""

import re
import shlex
from pathlib import Path

import pytest

from ssl_inv.run.cli import main

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(part.split("\n", 1) for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:])
FILE = re.compile(r"# (\S+\.(?:py|yaml))\n")


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_code_runs(heading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = re.findall(r"```(\w+)\n(.*?)```", SECTIONS[heading], re.DOTALL)
    assert {"python"} <= {kind for kind, _ in blocks}
    for kind, block in blocks:
        if file := FILE.match(block):
            (tmp_path / file[1]).write_text(block, encoding="utf-8")
        elif kind == "python":
            exec(compile(block, heading, "exec"), {"__name__": "extending"})
        else:
            for command in block.splitlines():
                assert main(shlex.split(command)[1:]) == 0, command
    for table, file in re.findall(r"table\s+`(\w+)`\s+of\s+`(\S+\.py)`", SECTIONS[heading]):
        assert re.search(rf"^{table}\b.* = [{{(]", (REPOSITORY / file).read_text(encoding="utf-8"), re.MULTILINE)
