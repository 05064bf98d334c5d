"""Texts as they can be shown."""

import pytest

from ssl_inv.plain import printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\rb", r"a\rb"),
        ("\u202eabc\u200f", r"\u202eabc\u200f"),
        ("\udcff.png", r"\udcff.png"),
        ("Früchte 果物\tone\ntwo $x$ <b>", "Früchte 果物\tone\ntwo $x$ <b>"),
    ],
)
def test_what_would_act_on_a_terminal_is_escaped_and_all_else_stays(name: str, shown: str) -> None:
    assert printable(name) == shown
