"""The code of docs/python.md runs as it stands, block after block; its notebook runs, and is committed as it ran."""

import re
from pathlib import Path
from typing import Any

import pytest

import ssl_inv

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "python.md").read_text(encoding="utf-8")
NOTEBOOK = DOCS / "notebooks" / "first_steps.ipynb"
FILE = re.compile(r"# (\S+\.py)\n")


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    namespace: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        if file := FILE.match(block):
            (tmp_path / file[1]).write_text(block, encoding="utf-8")
        else:
            exec(compile(block, "docs/python.md", "exec"), namespace)
    assert namespace["features"].shape[0] == 8
    assert "| colours | knn/top1 | all |" in namespace["table"].to_markdown()
    assert (tmp_path / "views.html").is_file()


def test_the_page_names_every_function_that_is_public():
    functions = {name for name in ssl_inv.__all__ if name[0].islower()}
    assert set(re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE)) == functions
    classes = set(ssl_inv.__all__) - functions
    assert not [name for name in classes if f"`{name}`" not in PAGE]


def test_the_notebook_is_short_and_has_its_outputs():
    nbformat = pytest.importorskip("nbformat", reason="needs the extra `notebook`")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [one for one in notebook.cells if one.cell_type == "code"]
    # The first cell makes the pictures.
    lines = [line for one in cells[1:] for line in one.source.splitlines() if line]
    assert len(lines) <= 20
    assert all(one.execution_count for one in cells)
    assert not [one for one in cells for output in one.outputs if output.output_type == "error"]
    shown = [output for one in cells for output in one.outputs if "data" in output]
    assert {"image/png", "text/html"} <= {kind for output in shown for kind in output.data}
    assert "/home/" not in NOTEBOOK.read_text(encoding="utf-8")
    assert "/tmp/" not in NOTEBOOK.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    # As in every test: on a shared machine, threads that wait for each other are slower than one thread.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    nbformat = pytest.importorskip("nbformat", reason="needs the extra `notebook`")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra `notebook`")
    pytest.importorskip("ipykernel", reason="needs the extra `notebook`")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert (tmp_path / "runs" / "first" / "report.html").is_file()
