"""From the folders of runs to a record of their results."""

from datetime import datetime
from pathlib import Path

from method_pages.recorded import Record, comparable, rows_of
from ssl_inv.run.cli import parse
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.plain_yaml import parse_yaml


def recipe_name(folder: RunFolder) -> str:
    """The name of the recipe that a run was begun with."""
    return Path(parse(folder.record()["command"][1:]).recipe).stem


def record_of(name: str, recipe: str, folder: RunFolder) -> Record:
    """The results of one run.

    Raises:
        ValueError: if the run is not finished or does not know its commit.
    """
    _require_finished(folder)
    results = parse_yaml((folder.path / "results.json").read_text(encoding="utf-8"))
    commit = str(folder.record()["versions"]["commit"])
    settings = comparable(folder.recipe())
    return Record(
        name, recipe, (_seed(folder),), (commit,), _machine(folder), (_seconds(folder),), settings, rows_of(results)
    )


def _require_finished(folder: RunFolder) -> None:
    facts = folder.record()
    if facts.get("state") != "complete" or not (folder.path / "results.json").is_file():
        raise ValueError(f"{folder.path}: the run is not complete with results, its state is {facts.get('state')!r}")
    if "uncommitted" in facts["versions"]:
        raise ValueError(
            f"{folder.path}: the run was made with files that its commit does not have: {facts['versions']['uncommitted']}"
        )
    if "commit" not in facts["versions"]:
        raise ValueError(f"{folder.path}: the run does not know its commit; only runs of a checkout can be recorded")
    for pause in facts.get("resumed", []):
        if (commit := pause["versions"].get("commit")) != facts["versions"]["commit"]:
            raise ValueError(
                f"{folder.path}: the run went on at step {pause['step']} with commit {commit}; only runs of one can be recorded"
            )


def _seed(folder: RunFolder) -> int:
    return int(parse_yaml(folder.recipe_file.read_text(encoding="utf-8"))["trainer"]["seed"])


def _machine(folder: RunFolder) -> str:
    host = folder.record()["host"]
    return str(host["gpu"] or f"{host['cores']} cores, {host['machine']}")


def _seconds(folder: RunFolder) -> float | None:
    """From the beginning to the end of a run, or None if it was interrupted in between."""
    facts = folder.record()
    if "began" not in facts or "ended" not in facts or "resumed" in facts:
        return None
    began, ended = (datetime.strptime(facts[key], "%Y-%m-%dT%H:%M:%S%z") for key in ("began", "ended"))
    return (ended - began).total_seconds()
