"""docs/protocols.md: what every protocol measures, needs and orders wrongly, with its settings and its results.

The sources are the classes, and docs/protocol-results.json, which `python docs/protocol_page.py OUTPUT ...` writes
from what `ssl-inv evaluate RUN RUN --protocols all --evaluation.paths "[2]" --output OUTPUT` has kept, where the runs
are of SIE or another objective with a predictor, on rendered solids.
"""

import inspect
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tables import escaped, table

from ssl_inv.evaluation.protocols import PROTOCOLS as ORDER
from ssl_inv.evaluation.protocols import STANDING
from ssl_inv.evaluation.protocols.base import NEEDS, Protocol
from ssl_inv.evaluation.suite import KINDS

RESULTS = Path(__file__).parent / "protocol-results.json"
"""Names of the results of every protocol, as a run had them."""

WRONG = "What it orders wrongly:"
_PARTS = ("What it measures:", "Definition", "Source:", "End points:", WRONG)
_HIDDEN = ("bootstrap", "device")
_PARAMETER = re.compile(
    r"^((?:r2|r2_pooled|path|leak|geodesic|ood)/(?:.*/)?)(rotation|translation|floor_hue|light_hue|light_theta|light_phi)(?=/|$)"
)


def page(made: str) -> str:
    """The page as Markdown.

    Args:
        made: a comment that says where it is from.
    """
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    parts = [made, "# Protocols", _OPENING, _overview()]
    parts += [_section(name, results.get(name, [])) for name in ORDER]
    return "\n\n".join(parts) + "\n"


_OPENING = f"""\
What `ssl-inv evaluate` can measure; [the exam](exam.md) says how to ask for it, and how to read differences. The first
{len(STANDING)} run in every evaluation, the others where `--protocols` or `evaluation.also` names them. *Needs* is what
a protocol asks for besides features: it is skipped, with the reason, where that is missing. *Full* settings are those
of the papers, *quick* ones are for a CPU and not comparable with published numbers. *Results* are names that quick
settings gave on rendered solids; full ones add `absolute` beside `relative`."""


def paragraphs(kind: type[Protocol]) -> list[str]:
    """The docstring of a protocol without its settings."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:")[0]
    return [one for one in text.rstrip().split("\n\n") if one]


def wrongly(kind: type[Protocol]) -> str:
    """What a protocol orders wrongly, by its own words; empty if it does not say."""
    return next((one.removeprefix(WRONG).strip() for one in paragraphs(kind) if one.startswith(WRONG)), "")


def _overview() -> str:
    rows = []
    for name in ORDER:
        needs = ", ".join(f"`{need}`" for need in KINDS[name].needs)
        first = " ".join(paragraphs(KINDS[name])[0].split()).partition(": ")[0].partition(". ")[0]
        rows.append([f"[`{name}`](#{name})", escaped(first.rstrip(".")), needs, "yes" if name in STANDING else ""])
    reasons = "; ".join(f"without `{need}`, {reason}" for need, reason in NEEDS.items())
    return table(["protocol", "what it measures", "needs", "always"], rows) + f"\n\nReasons for a skip: {reasons}."


def _section(name: str, results: Sequence[str]) -> str:
    kind = KINDS[name]
    first, *own = paragraphs(kind)
    _, *more = (inspect.getdoc(sys.modules[kind.__module__]) or "").split("\n\n")
    parts = [f"## {name}", *map(_prose, [first, *more, *own])]
    if kind.needs:
        parts.append(f"Needs: {', '.join(f'`{one}`' for one in kind.needs)}.")
    parts.append(_settings(name, kind))
    if results:
        parts.append(f"Results: {', '.join(_together(results))}.")
    return "\n\n".join(parts)


def _together(names: Sequence[str]) -> list[str]:
    """Names that differ in their last word alone as one: `r2/{relative,absolute}`."""
    found: dict[str, list[str]] = {}
    for name in names:
        start, slash, end = name.rpartition("/")
        found.setdefault(start + slash if slash else name, []).append(end if slash else "")
    return [f"`{start}{ends[0] if len(ends) == 1 else '{' + ', '.join(ends) + '}'}`" for start, ends in found.items()]


def _prose(text: str) -> str:
    """A paragraph; equations, which are indented, and lists keep their lines."""
    if text.startswith("    "):
        return f"```text\n{inspect.cleandoc(text)}\n```"
    if text.startswith("- ") or "\n- " in text:
        return "\n".join(escaped(line) for line in text.splitlines())
    joined = " ".join(text.split())
    head = next((one for one in _PARTS if joined.startswith(one)), "")
    bold = f"**{head}**" if head else ""
    return bold + escaped(joined.removeprefix(head))


def _settings(name: str, kind: type[Protocol]) -> str:
    meanings = meanings_of(kind)
    full, quick = kind(), kind.quick()
    rows = []
    for field in fields(kind):
        if field.name in _HIDDEN:
            continue
        here, there = (_shown(getattr(one, field.name)) for one in (full, quick))
        setting = next((f"`evaluation.{key}`" for key, own in kind.recipe.items() if own == field.name), "")
        rows.append([f"`{field.name}`", here, there if there != here else "", setting, escaped(meanings[field.name])])
    return table(["setting", "full", "quick", "in recipes", "meaning"], rows)


def meanings_of(kind: type[Protocol]) -> dict[str, str]:
    """The meaning of every setting, from the docstrings of a class and those it derives from."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        block = inspect.cleandoc(one.__doc__ or "").partition("\nAttributes:\n")[2]
        setting = ""
        for line in block.splitlines():
            if match := re.fullmatch(r" {4}(\w+): (.*)", line):
                setting, found[match[1]] = match[1], match[2]
            elif setting and line.startswith("        "):
                found[setting] += f" {line.strip()}"
    return found


def _shown(value: Any) -> str:
    if isinstance(value, Protocol):
        name = next(name for name, kind in KINDS.items() if kind is type(value))
        plain = type(value)()
        odd = [one.name for one in fields(value) if getattr(value, one.name) != getattr(plain, one.name)]
        changed = ", ".join(f"{one} {_plain(getattr(value, one))}" for one in odd)
        return f"[{name}](#{name})" + (f" with {changed}" if changed else "")
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > 11 and not isinstance(value[0], str):
        return f"{len(value)} values, {value[0]:g} to {value[-1]:g}"
    if isinstance(value, tuple):
        return ", ".join(map(_plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def names_in(outputs: Sequence[Path]) -> dict[str, list[str]]:
    """The names of results by protocol, from the measurements that exams have kept."""
    found: dict[str, dict[str, None]] = {name: {} for name in ORDER}
    for file in [file for output in outputs for file in sorted(output.glob("*/measurements/*.json"))]:
        for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
            if row["trained"]["value"] is not None and file.stem in found:
                found[file.stem][_PARAMETER.sub(r"\1PARAMETER", row["trained"]["name"])] = None
    return {name: list(names) for name, names in found.items() if names}


def main() -> int:
    """Record the names of results."""
    if len(sys.argv) < 2:
        sys.stderr.write("python docs/protocol_page.py OUTPUT ...\n")
        return 2
    RESULTS.write_text(json.dumps(names_in([Path(one) for one in sys.argv[1:]]), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
