"""Every logger gets what metrics.jsonl has, each step once, however often a run is killed and resumed."""

import csv
import importlib.util
import json
import sqlite3
import struct
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssl_inv.data.batches import StepBatches
from ssl_inv.run.cli import main
from ssl_inv.run.folder import RunFolder

RECIPE = """\
objective: {name: vicreg, projector: [8, 8]}
backbone: {name: test_resnet}
data: {name: rendered, classes: 4, objects: 30, views: 3, size: 16}
trainer: {steps: 6, batch_size: 8, accelerator: cpu, log_every: 1, checkpoint_every: 2, workers: 0}
monitor: {every: 2, objects: 8, share: 1.0}
evaluation: {protocol: quick, views: 2}
"""
Rows = list[tuple[int, dict[str, float]]]


def of_csv(run: Path) -> Rows:
    with (run / "csv" / "metrics.csv").open() as file:
        rows = [(int(row.pop("step")), row) for row in csv.DictReader(file)]
    return [(step, {name: float(value) for name, value in row.items() if value}) for step, row in rows]


def of_tensorboard(run: Path) -> Rows:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {"views", "neighbours/all", "spectrum"} <= set(events.Tags()["images"])
    return [(one.step, {name: one.value}) for name in events.Tags()["scalars"] for one in events.Scalars(name)]


def of_mlflow(run: Path) -> Rows:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run}/mlflow/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("ssl-inv").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["objective/name"] == "vicreg"
    assert {one.path for one in client.list_artifacts(found.info.run_id)} == {"views.png", "neighbours", "spectrum.png"}
    history = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
    return [(one.step, {name: one.value}) for name, every in history.items() for one in every]


def of_trackio(run: Path) -> Rows:
    with sqlite3.connect(run / "trackio" / "ssl-inv.db") as database:
        rows = database.execute("select step, metrics from metrics order by id").fetchall()
        names = database.execute("select distinct run_name from metrics").fetchall()
        ((config,),) = database.execute("select config from configs").fetchall()
    assert len(names) == 1
    assert json.loads(config)["objective"]["name"] == "vicreg"
    content = [(step, json.loads(metrics)) for step, metrics in rows]
    assert {"views", "spectrum"} <= {name for _, one in content for name in one}
    numbers = [
        (step, {name: one for name, one in row.items() if isinstance(one, float | int)}) for step, row in content
    ]
    return [(step, row) for step, row in numbers if row]


def of_wandb(run: Path) -> Rows:
    """The history in the files of offline runs, which `wandb sync` sends as one run, for they have one number."""
    from wandb.proto.wandb_internal_pb2 import Record

    found, identities, images = [], set(), set()
    for file in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        identities.add(file.stem)
        for record in records(file.read_bytes()):
            content = Record()
            content.ParseFromString(record)
            if content.WhichOneof("record_type") != "history":
                continue
            items = {one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in content.history.item}
            images |= {name.partition("/")[0] for name, one in items.items() if not isinstance(one, float | int)}
            step = items.get("trainer/global_step")
            numbers = {
                name: one for name, one in items.items() if name.startswith(("loss/", "monitor/", "result/", "lr"))
            }
            if numbers:
                found.append((int(step), numbers))
    assert len(identities) == 1
    assert {"views", "spectrum"} <= images
    return found


def records(content: bytes) -> list[bytes]:
    """The records of a log in blocks of 32 KiB, each a checksum, a length, a kind, and a whole record or a piece."""
    found, pieces, at = [], b"", 7
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        pieces += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(pieces)
            pieces = b""
    return found


READERS: dict[str, Callable[[Path], Rows]] = {
    "csv": of_csv,
    "tensorboard": of_tensorboard,
    "mlflow": of_mlflow,
    "trackio": of_trackio,
    "wandb": of_wandb,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*READERS])
@pytest.mark.filterwarnings("ignore")  # of other people's libraries
def test_a_killed_run_tells_its_logger_every_step_once_and_pictures_and_recipe(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "csv" and importlib.util.find_spec(name) is None:
        pytest.skip(f"the extra {name} is not installed")
    assert "trackio" not in sys.modules or name != "trackio", "Trackio reads its folder when it is imported"
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "run" / "trackio"))
    recipe, run = tmp_path / "small.yaml", tmp_path / "run"
    recipe.write_text(RECIPE)
    how = [str(recipe), "--output", str(run)]
    really = StepBatches.__getitem__
    for broken in (3, 5):  # after the checkpoints of steps 2 and 4, and one step more
        with monkeypatch.context() as patch:

            def read(self: StepBatches, number: int, broken: int = broken) -> Any:
                if number == broken:
                    raise OSError(5, "the disk is gone")
                return really(self, number)

            patch.setattr(StepBatches, "__getitem__", read)
            assert main(["pretrain", *how, "--quiet", "--trainer.loggers", f"[{name}]"]) == 1
        how = ["--resume", str(run)]
    assert main(["pretrain", *how, "--quiet"]) == 0
    rows = READERS[name](run)
    counts = Counter((step, name) for step, row in rows for name in row)
    assert set(counts.values()) == {1}, [one for one, count in counts.items() if count > 1]
    told = {(step, name): value for step, row in rows for name, value in row.items()}
    for entry in RunFolder(run).metrics():
        for group in ("loss", "monitor"):
            for term, value in entry.get(group, {}).items():
                key = entry["step"], f"{group}/{term.replace(' ', '_')}"
                assert told[key] == pytest.approx(value, rel=1e-6), key
    assert {step for step, name in told if name == "loss/total"} == set(range(1, 7))
    assert any(name.startswith("result/linear/top1") for _, name in told)


def test_a_missing_library_is_one_line_with_its_extra_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    really = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else really(name, *rest)
    )
    (tmp_path / "small.yaml").write_text(RECIPE)
    run = tmp_path / "run"
    settings = ["--output", str(run), "--trainer.loggers", "[csv, wandb]"]
    assert main(["pretrain", str(tmp_path / "small.yaml"), *settings]) == 2
    expected = "error: trainer.loggers[1]: 'wandb' needs a library that is missing: pip install 'ssl-inv[wandb]'\n"
    assert capsys.readouterr().err == expected
    assert not run.exists()


def test_a_logger_by_dotted_path_that_comes_later_is_told_what_it_missed(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE.replace("quick", "none"))
    run = tmp_path / "run"
    assert main(["pretrain", str(tmp_path / "small.yaml"), "--output", str(run), "--quiet"]) == 0
    logger = "[{name: pytorch_lightning.loggers.CSVLogger, name_of_run: x}]"
    assert main(["pretrain", "--resume", str(run), "--quiet", "--trainer.loggers", logger]) == 2
    logger = "[{name: pytorch_lightning.loggers.CSVLogger, version: own}]"
    assert main(["pretrain", "--resume", str(run), "--quiet", "--trainer.loggers", logger]) == 0
    (file,) = run.rglob("own/metrics.csv")
    with file.open() as text:
        steps = [int(row["step"]) for row in csv.DictReader(text) if row["loss/invariance"]]
    assert steps == [1, 2, 3, 4, 5, 6]
