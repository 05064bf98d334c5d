"""A run as a Python object: its folder, results, metrics and encoder."""

import html
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_inv.run.folder import RunFolder
from ssl_inv.run.python.result_tables import metric_table, result_table
from ssl_inv.run.recipe import Recipe
from ssl_inv.run.results_file import RESULTS, checked_rows
from ssl_inv.run.tables import Table

if TYPE_CHECKING:
    from ssl_inv.run.python.loaded import LoadedEncoder


class RunResult:
    """A run on disk. Wherever a path of a run is wanted, this can stand.

    Args:
        path: its folder.

    Raises:
        RecipeError: if it is no run.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._folder = RunFolder.open(Path(path))

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def recipe(self) -> Recipe:
        """Every setting."""
        return self._folder.recipe()

    @property
    def record(self) -> dict[str, Any]:
        """When and where the run was made, with which versions, and what went wrong: run.json."""
        return self._folder.record()

    @property
    def state(self) -> str:
        """`complete`, or what became of it."""
        return str(self.record.get("state", "unknown"))

    @property
    def table(self) -> Table:
        """The results of its evaluation with their baselines; empty if nothing was evaluated."""
        return result_table({"": checked_rows(self.path / RESULTS)}, f"{self.path.name}: results")

    @property
    def metrics(self) -> Table:
        """Losses, scores, learning rate and speed by step."""
        return metric_table(self._folder.metrics(), f"{self.path.name}: metrics")

    @property
    def export(self) -> Path:
        """The exported backbone, a folder that timm loads."""
        return self._folder.export_folder

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self._folder.report_file

    @cached_property
    def encoder(self) -> "LoadedEncoder":
        """The trained encoder; see `ssl_inv.load`."""
        from ssl_inv.run.encoders import model_named
        from ssl_inv.run.python.loaded import LoadedEncoder

        return LoadedEncoder(model_named(str(self.path), pretrained=False))

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunResult({str(self.path)!r}, {self.state})"

    def _repr_html_(self) -> str:
        head = f"<p><b>{html.escape(str(self.path))}</b>, {html.escape(self.state)}</p>\n"
        return head + (self.table.to_html() if len(self.table) else "")
