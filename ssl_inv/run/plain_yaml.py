"""YAML 1.2 by ruamel.yaml: `1e-3` is a number, `no` is a text, and a key that stands twice is an error.

A text may come from anybody, so its size, its depth and what its aliases stand for are bounded, and tags, which choose
how a value is made, are refused.
"""

import io
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.resolver import VersionedResolver

__all__ = ["YAMLError", "dump_value", "dump_yaml", "parse_yaml", "where_and_what"]

MOST_CHARACTERS, MOST_VALUES, DEEPEST = 2**19, 20_000, 40
"""Bounds of a text: its length, the values in it where every alias counts as what it stands for, and its depth."""

_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]{1,400}", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
)
"""Texts that are no texts, without the hexadecimal and octal numbers of the core schema. The library's own table has
also dates, binary numbers and `1_000`: in recipes, these are texts.
"""


class _Resolver(VersionedResolver):
    """Reads and quotes scalars by `_SCALARS`."""

    table: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}
    for _kind, _pattern, _first in _SCALARS:
        for _character in _first:
            table.setdefault(_character, []).append((f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$")))

    @property
    def versioned_resolver(self) -> Any:
        return self.table


class _Bounded(Composer):
    """Refuses texts with too many values, too deep ones, and tags."""

    def get_single_node(self) -> Any:
        self._values, self._depth, self._sizes = 0, 0, dict[str, int]()
        return super().get_single_node()

    def compose_node(self, parent: Any, index: int) -> Any:
        event = self.parser.peek_event()

        def refuse(problem: str) -> NoReturn:
            raise ComposerError(None, None, problem, event.start_mark)

        before, anchor = self._values, str(getattr(event, "anchor", None) or "")
        if isinstance(event, AliasEvent):
            if anchor in self.anchors and anchor not in self._sizes:
                refuse(f"the alias *{anchor} stands for what it is in")
            self._values += self._sizes.get(anchor, 0)
        elif getattr(event, "tag", None) not in (None, "!"):
            refuse(f"the tag {event.tag!r} is not read; recipes hold plain values")
        self._values, self._depth = self._values + 1, self._depth + 1
        if self._values > MOST_VALUES:
            refuse(f"there are more than {MOST_VALUES:,} values")
        if self._depth > DEEPEST:
            refuse(f"values are nested more than {DEEPEST} times")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if anchor:
            self._sizes[anchor] = self._values - before
        return node


@lru_cache
def _yaml(flow: bool | None, width: int) -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Composer = _Resolver, _Bounded
    yaml.default_flow_style = flow
    yaml.width, yaml.allow_unicode = width, True
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    return yaml


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        YAMLError: if the text is not valid, or is larger than a recipe can be.
    """
    if len(text) > MOST_CHARACTERS:
        raise YAMLError(f"it has {len(text):,} characters, and at most {MOST_CHARACTERS:,} are read")
    try:
        return _yaml(None, 120).load(text)
    except YAMLError:
        raise
    except Exception as error:  # The library meets some texts with whatever fails first.
        raise YAMLError(f"not valid YAML ({type(error).__name__})") from error


def dump_yaml(content: Mapping[str, Any]) -> str:
    """A mapping as YAML. Mappings and lists without others inside stand on one line."""
    return _dumped(dict(content), None, 120)


def dump_value(value: Any) -> str:
    """A value as YAML on one line."""
    return _dumped(value, True, 2**20).removesuffix("...\n").strip()


def _dumped(value: Any, flow: bool | None, width: int) -> str:
    text = io.StringIO()
    _yaml(flow, width).dump(value, text)
    # The library breaks long lines behind a blank.
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def where_and_what(error: YAMLError) -> tuple[int | None, str]:
    """The line of a mistake, counted from 1, or None; and the mistake."""
    if not isinstance(error, MarkedYAMLError):
        told = str(error).partition("\n")[0]
        return None, told if told.startswith(("it has", "not valid")) else "not valid YAML"
    mark = error.problem_mark or error.context_mark
    problem = str(error.problem)
    if isinstance(error, DuplicateKeyError):
        problem = f"the key {problem.split(chr(34))[1]!r} stands twice"
    return None if mark is None else mark.line + 1, problem


_MARKS = "*&!%@`"
"""Letters that a text in YAML begins with only in quotes."""


def advice_on_quotes(value: str) -> str:
    """How texts are quoted that begin with a letter that means something in YAML, such as `*.jpg`; empty for others."""
    if "'" in value or '"' in value:
        return ""
    inside = value.strip().removeprefix("[").removesuffix("]")
    words = [word.strip() for word in inside.split(",")]
    if (first := next((word for word in words if word[:1] and word[:1] in _MARKS), None)) is None:
        return ""
    listed = f"'[{', '.join(f'{chr(34)}{word}{chr(34)}' for word in words)}]'"
    bare = "" if value.lstrip().startswith("[") else f"""'"{value.strip()}"', or in a list """
    return f"; what begins with {first[0]} stands in quotes: {bare}{listed}"
