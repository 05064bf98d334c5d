"""From the folders of runs to a record of their results."""

from datetime import datetime
from pathlib import Path
from typing import Any

from method_pages.recorded import Record, comparable, gather_rows
from ssl_inv.cli import parse
from ssl_inv.plain_yaml import parse_yaml
from ssl_inv.recipe import difference
from ssl_inv.run_folder import RunFolder


def recipe_name(folder: RunFolder) -> str:
    """The name of the recipe that a run was begun with."""
    return Path(parse(folder.record()["command"][1:]).recipe).stem


def settings_of(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """The settings that made the result, as a recipe of today has them; of paths, their last part."""
    return comparable(folder.recipe())


def record_of(name: str, recipe: str, folders: list[RunFolder]) -> Record:
    """The results of runs that differ in their seed alone.

    Raises:
        ValueError: if a run is not finished or does not know its commit, or two have one seed, other settings or another machine.
    """
    folders = sorted(folders, key=_seed)
    for folder in folders:
        _require_finished(folder)
        _require_alike(folders[0], folder)
    if len(set(seeds := tuple(map(_seed, folders)))) < len(seeds):
        raise ValueError(f"two runs of {recipe} have the same seed: {seeds}")
    results = [parse_yaml((folder.path / "results.json").read_text(encoding="utf-8")) for folder in folders]
    first = folders[0]
    commits = tuple(str(folder.record()["versions"]["commit"]) for folder in folders)
    return Record(name, recipe, seeds, commits, _machine(first), tuple(map(_seconds, folders)), settings_of(first), gather_rows(results))


def _require_finished(folder: RunFolder) -> None:
    facts = folder.record()
    if facts.get("state") != "complete" or not (folder.path / "results.json").is_file():
        raise ValueError(f"{folder.path}: the run is not complete with results, its state is {facts.get('state')!r}")
    if "commit" not in facts["versions"]:
        raise ValueError(f"{folder.path}: the run does not know its commit; only runs of a checkout can be recorded")


def _require_alike(first: RunFolder, other: RunFolder) -> None:
    if changed := difference(settings_of(first), settings_of(other)):
        raise ValueError(f"{other.path}: has other settings than {first.path}: {'; '.join(changed)}")
    if (one := _machine(first)) != (another := _machine(other)):
        raise ValueError(f"{other.path}: another machine than {first.path}: {another} and {one}; record them apart with --name")


def _seed(folder: RunFolder) -> int:
    return int(parse_yaml(folder.recipe_file.read_text(encoding="utf-8"))["trainer"]["seed"])


def _machine(folder: RunFolder) -> str:
    host = folder.record()["host"]
    return str(host["gpu"] or f"{host['cores']} cores, {host['machine']}")


def _seconds(folder: RunFolder) -> float | None:
    """From the beginning to the end of a run, the time in which it lay interrupted among it."""
    facts = folder.record()
    if "began" not in facts or "ended" not in facts:
        return None
    began, ended = (datetime.strptime(facts[key], "%Y-%m-%dT%H:%M:%S%z") for key in ("began", "ended"))
    return (ended - began).total_seconds()
