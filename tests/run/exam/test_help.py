"""The help of `evaluate` names every protocol once, in lines that fit the terminal."""

import re

import pytest

from ssl_inv.evaluation.protocols import PROTOCOLS
from ssl_inv.run.cli import main
from ssl_inv.run.command_line.protocol_list import FAMILIES


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_help_lists_every_protocol_in_lines_that_fit(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    # argparse itself does not break an option and its metavar.
    assert max(map(len, text.splitlines())) <= width
    names = re.findall(r"^ {4}([a-z]\w*)(?: |$)", text.partition("\nprotocols:")[2], re.MULTILINE)
    assert sorted(names) == sorted(PROTOCOLS)
    assert not {name for family in FAMILIES.values() for name in family} - set(PROTOCOLS)
