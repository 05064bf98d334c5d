"""Rows of names and values, as text, CSV, Markdown, LaTeX, HTML, JSON, pyarrow and pandas."""

import csv
import html
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

Row = dict[str, Any]


class Table(Sequence[Row]):
    """Rows with the same columns. `pandas.DataFrame(table)` works, too.

    Args:
        rows: a value by column; a column that a row lacks is None there.
        columns: their order; by default the order in which the rows name them.
        title: a sentence above the table in HTML.
    """

    def __init__(
        self, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None, title: str = ""
    ) -> None:
        given = [dict(row) for row in rows]
        self.columns: tuple[str, ...] = tuple(
            dict.fromkeys(name for row in given for name in row) if columns is None else columns
        )
        self.rows: list[Row] = [{name: row.get(name) for name in self.columns} for row in given]
        self.title = title

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> "Table": ...

    def __getitem__(self, index: int | slice) -> "Row | Table":
        if isinstance(index, slice):
            return Table(self.rows[index], self.columns, self.title)
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and (self.columns, self.rows) == (other.columns, other.rows)

    __hash__ = None  # type: ignore[assignment]

    def column(self, name: str) -> list[Any]:
        """The values of a column.

        Raises:
            KeyError: if there is none of this name.
        """
        if name not in self.columns:
            raise KeyError(f"there is no column {name!r}; there are {', '.join(self.columns)}")
        return [row[name] for row in self.rows]

    def where(self, **values: Any) -> "Table":
        """The rows with these values."""
        kept = [row for row in self.rows if all(row.get(name) == value for name, value in values.items())]
        return Table(kept, self.columns, self.title)

    def __str__(self) -> str:
        """Aligned text."""
        lines = self._cells(shown)
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        aligned = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join(line.rstrip() for line in aligned)

    def __repr__(self) -> str:
        return str(self)

    def _cells(self, write: Callable[[Any], str]) -> list[list[str]]:
        return [list(self.columns), *([write(row[name]) for name in self.columns] for row in self.rows)]

    def to_csv(self) -> str:
        """Comma-separated values with a head line; numbers have all digits, what is missing is empty."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self._cells(lambda one: "" if one is None else str(one)))
        return text.getvalue()

    def to_markdown(self) -> str:
        """A table in Markdown."""
        head, *lines = [[_one_line(cell).replace("|", "\\|") for cell in line] for line in self._cells(shown)]
        return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *lines))

    def to_latex(self) -> str:
        """A `tabular` with the rules of booktabs."""
        head, *lines = [[_latex(_one_line(cell)) for cell in line] for line in self._cells(shown)]
        first, *rest = [" & ".join(line) + r" \\" for line in (head, *lines)]
        begin = rf"\begin{{tabular}}{{{'l' * len(head)}}}"
        return "\n".join([begin, r"\toprule", first, r"\midrule", *rest, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def to_html(self) -> str:
        """A table in HTML."""
        head, *lines = [[html.escape(cell) for cell in line] for line in self._cells(shown)]
        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        top = "".join(f"<th>{cell}</th>" for cell in head)
        body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>\n" for line in lines)
        return f"<table>{caption}<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody></table>\n"

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_json(self) -> str:
        """A JSON list of objects. Numbers that are not finite become null."""
        clean = [
            {name: None if isinstance(one, float) and not math.isfinite(one) else one for name, one in row.items()}
            for row in self.rows
        ]
        return json.dumps(clean, indent=1, allow_nan=False)

    def to_arrow(self) -> Any:
        """A `pyarrow.Table`."""
        import pyarrow

        return pyarrow.table({name: self.column(name) for name in self.columns})

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`.

        Raises:
            ImportError: without pandas, which is not installed with this package.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError(
                "pandas is not installed: pip install pandas; to_arrow() and to_csv() do without"
            ) from None
        return pandas.DataFrame(self.rows, columns=list(self.columns))


def shown(value: Any) -> str:
    """A value as a reader wants it: three decimals, one from a hundred on, and nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        if value and abs(value) < 5e-4:
            return f"{value:.2g}"
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"
    return str(value)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _latex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        **{one: f"\\{one}" for one in "&%$#_{}"},
    }
    return "".join(special.get(one, one) for one in text)
