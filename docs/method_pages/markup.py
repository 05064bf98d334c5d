"""Markdown as GitHub shows it: tables, and text that is not taken for markup."""

import re
from collections.abc import Iterable, Sequence


def escaped(text: str) -> str:
    """Prose with code in backticks, safe from being read as HTML, emphasis or the border of a table's cell."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece.replace("|", "\\|") if piece.startswith("`") else re.sub(r"([*<>|~])", r"\\\1", piece) for piece in pieces
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: range = range(0)) -> str:
    """A table, columns that are empty in every row left out.

    Args:
        head: the headings.
        rows: cells, ready as markdown.
        numbers: the columns that are aligned to the right.
    """
    listed = [list(row) for row in rows]
    kept = [column for column in range(len(head)) if any(row[column] for row in listed)]
    rule = ["---:" if column in numbers else "---" for column in kept]
    lines = [[head[column] for column in kept], rule, *([row[column] for column in kept] for row in listed)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def folded(summary: str, content: str) -> str:
    """Content that is seen after a click on `summary`."""
    return f"<details>\n<summary>{summary}</summary>\n\n{content}\n\n</details>"


def code(text: str) -> str:
    """A block of code."""
    return f"```\n{text}\n```"


def sentence(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]
