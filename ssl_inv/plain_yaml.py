"""YAML as it reads: numbers are numbers, texts are texts, and no key stands twice."""

import re
from collections.abc import Mapping
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """YAML 1.1 keeps the last of two equal keys; this loader refuses."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for twice in (key for key in keys if keys.count(key) > 1):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would read as something else."""


def _use_core_schema(*classes: Any) -> None:
    """Read plain scalars as YAML 1.2 does: YAML 1.1 takes `1e-3` for a text, `no` for false, `010` for 8 and `1:30` for 90."""
    for one in classes:
        one.yaml_implicit_resolvers = {}
        for tag, pattern, first in (
            ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
            ("int", r"[-+]?[0-9]+", "-+0123456789"),
            ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
            ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ):
            one.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))
    # The constructor of whole numbers would still read a leading zero as octal.
    _Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


_use_core_schema(_Loader, _Dumper)


def parse_yaml(text: str) -> Any:
    """A YAML value, with `1e-3` as a number."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def dump_yaml(content: Mapping[str, Any]) -> str:
    """What `parse_yaml` reads as `content`, mappings and lists without nesting on one line each."""
    text: str = yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return text


def dump_value(value: Any) -> str:
    """A value as it stands behind a key, on one line."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=2**20)
    return text.removesuffix("...\n").strip()
