"""Every benchmark fits the package: its imports exist, and it says how to run it."""

import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))
MODULES = {"first_images", "loading", "one_by_one", "split_objectives", "view_contestants"}
"""Imported by benchmarks, and no programs."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_imports_and_names_its_command(script, monkeypatch):
    monkeypatch.syspath_prepend(script.parent)
    names = runpy.run_path(str(script), run_name="benchmark")
    assert script.stem in MODULES or f"python benchmarks/{script.name}" in names["__doc__"]
