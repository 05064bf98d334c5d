"""The code of docs/extending.md works as it stands: its files, recipes, commands and checks run in their order."""

import re
import shlex
from pathlib import Path

import pytest

from ssl_inv.catalogue import Catalogue, SettingError
from ssl_inv.engine.settings import EvaluationSettings
from ssl_inv.run.cli import main
from ssl_inv.run.judging import further_protocols

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


def test_an_installed_package_adds_names_by_entry_points(tmp_path, monkeypatch):
    folder = tmp_path / "others-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[ssl_inv.objectives]\nfar = others:Far\nsimclr = others:Far\n[ssl_inv.protocols]\nlost = nowhere:Lost\n"
    )
    (tmp_path / "others.py").write_text(
        "from ssl_inv.objectives.simclr import SimCLR\nclass Far(SimCLR):\n    '''SimCLR by another name.'''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    find = Catalogue("objective", "ssl_inv.objectives", "OBJECTIVES").find
    assert find("far").load().__mro__[1] is find("simclr").load(), "a name of this package's own keeps its meaning"
    with pytest.raises(SettingError, match=r"no objective is called 'farr'; did you mean 'far'\?"):
        find("farr")
    with pytest.raises(
        SettingError, match=r"^name: the protocol 'lost' cannot be imported: No module named 'nowhere'$"
    ):
        Catalogue("protocol", "ssl_inv.evaluation.protocols", "PROTOCOLS").find("lost")


@pytest.mark.parametrize(
    ("also", "problem"),
    [
        (["linear"], "'linear' is one of the protocols that always run"),
        (["knnn"], "no protocol is called 'knnn'; did you mean 'knn'?"),
        (["pathlib.Path"], "'pathlib.Path' does not derive from ssl_inv.evaluation.protocols.base.Protocol"),
        (["a.B"], "the protocol 'a.B' cannot be imported: No module named 'a'"),
    ],
)
def test_a_wrong_protocol_is_refused_in_one_line(also, problem, monkeypatch):
    monkeypatch.setenv("SSL_INV_TRUST", "pathlib,a")
    with pytest.raises(SettingError) as caught:
        further_protocols(EvaluationSettings(also=also).also, quick=True)
    assert str(caught.value) == f"also: {problem}"
