"""Files of a run that are damaged, mixed up or cannot be written: one line each, and nothing is silently wrong."""

import errno
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ssl_inv.catalogue import RecipeError
from ssl_inv.engine import checkpoints
from ssl_inv.evaluation.features import EvaluationBatch, extract
from ssl_inv.run.cli import main
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.results_file import checked_rows
from ssl_inv.run.saved_run import SavedRun

RECIPE = {
    "objective": {"name": "sie", "projector": [16, 16]},
    "backbone": {"name": "test_resnet"},
    "data": {"name": "rendered", "classes": 4, "objects": 24, "views": 3, "size": 16},
    "trainer": {"steps": 6, "batch_size": 8, "checkpoint_every": 2, "log_every": 1, "accelerator": "cpu", "workers": 0},
    "monitor": {"every": 0},
    "evaluation": {"protocol": "none"},
}


def pretrained(folder: Path, output: str, **sections: dict[str, Any]) -> Path:
    file = folder / f"{output}.yaml"
    file.write_text(yaml.safe_dump({**RECIPE, **sections}))
    assert main(["pretrain", str(file), "--output", str(folder / output), "--quiet"]) == 0
    return folder / output


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(tmp_path_factory.mktemp("runs"), "whole")


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def last(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def flip_weight(path: Path) -> None:
    """Flip a bit in the middle of the file, where weights are."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def changed(path: Path, **parts: Any) -> None:
    state = torch.load(path, weights_only=True)
    torch.save({**state, **parts}, path)


def steps(run: Path) -> list[int]:
    return [entry["step"] for entry in RunFolder(run).metrics()]


def same_weights(one: Path, other: Path) -> bool:
    weights = [torch.load(last(run), weights_only=True)["backbone"] for run in (one, other)]
    return all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


READERS: dict[str, Callable[[Path], list[str]]] = {
    "export": lambda run: ["export", str(run), "--output", str(run / "new")],
    "embed": lambda run: ["embed", str(run), "--output", str(run / "shards")],
    "evaluate": lambda run: ["evaluate", str(run), "--evaluation.protocol", "quick"],
    "weights": lambda run: ["check", str(run.parent / "again.yaml"), "--backbone.weights", str(run)],
    "start": lambda run: ["check", str(run.parent / "again.yaml"), "--trainer.start", str(run)],
}


@pytest.mark.parametrize("reader", READERS)
def test_no_command_reads_a_damaged_checkpoint(reader: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "again.yaml").write_text(yaml.safe_dump(RECIPE))
    flip_weight(last(run))
    assert main(READERS[reader](run)) == 2
    said = capsys.readouterr().err
    assert "last.ckpt is damaged" in said
    assert said.count("\n") == 1
    if reader in ("export", "embed", "evaluate"):
        assert "`--checkpoint previous` takes the one before it, of step 4" in said


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    whole: Path, run: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    flip_weight(last(run))
    assert main(["export", str(run), "--checkpoint", "previous", "--output", str(run / "four")]) == 0
    assert main(["pretrain", "--resume", str(run), "--quiet"]) == 0
    (said,) = [one for one in RunFolder(run).record()["warnings"] if "damaged" in one]
    assert said.endswith("continuing from step 4 of the checkpoint before it")
    assert same_weights(run, whole)
    assert steps(run) == [1, 2, 3, 4, 5, 6]
    assert (run / "checkpoints" / "last.damaged").is_file()


def test_a_run_goes_on_from_the_checkpoint_before_one_that_is_gone(whole: Path, run: Path) -> None:
    last(run).unlink()
    assert main(["pretrain", "--resume", str(run), "--quiet"]) == 0
    assert same_weights(run, whole)


def test_two_damaged_checkpoints_are_said_with_what_to_do(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("last", "previous"):
        flip_weight(run / "checkpoints" / f"{name}.ckpt")
    assert main(["pretrain", "--resume", str(run), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.count("is damaged") == 2
    assert "to begin again at step 0" in said


def test_the_checkpoint_before_costs_no_copy_where_both_are_kept(tmp_path: Path) -> None:
    run = pretrained(tmp_path, "kept", trainer={**RECIPE["trainer"], "keep": 2})
    numbers = {name: (run / "checkpoints" / f"{name}.ckpt").stat().st_ino for name in ("previous", "step-4", "last")}
    assert numbers["previous"] == numbers["step-4"] != numbers["last"]
    assert torch.load(run / "checkpoints" / "previous.ckpt", weights_only=True)["step"] == 4


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"step": -5}, "its step is -5"),
        ({"step": 10**9}, "its step is 1,000,000,000, and its recipe has 0 to 6"),
        ({"step": "six"}, "its step is 'six'"),
        ({"backbone": {}}, "its weights do not fit"),
        ({"optimizer": None}, "its optimizer is None"),
        ({"recipe": None}, "its recipe is None"),
    ],
)
def test_every_reader_checks_the_parts_of_a_checkpoint(parts: dict[str, Any], said: str, run: Path) -> None:
    (run / "checkpoints" / "previous.ckpt").unlink()
    changed(last(run), **parts)
    with pytest.raises(RecipeError, match=r"last\.ckpt") as caught:
        SavedRun.open(RunFolder(run)).backbone()
    assert said in str(caught.value)


@pytest.mark.parametrize("reader", ["export", "embed"])
def test_the_checkpoint_of_another_run_is_refused(reader: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(last(run), recipe={**RunFolder(run).recipe().sections(), "trainer": {**RECIPE["trainer"], "seed": 1}})
    assert main(READERS[reader](run)) == 2
    said = capsys.readouterr().err
    assert "last.ckpt is of another run" in said
    assert "trainer.seed: 1 -> 0" in said


@pytest.mark.parametrize(
    ("name", "content"), [("run.json", ""), ("run.json", "[]"), ("run.json", None), ("recipe.yaml", "{")]
)
def test_a_sound_checkpoint_makes_up_for_a_broken_record_or_recipe(
    name: str, content: str | None, whole: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content)
    assert SavedRun.open(RunFolder.open(run)).state["step"] == 6
    assert main(["pretrain", "--resume", str(run), "--quiet"]) == 0
    assert RunFolder(run).record()["state"] == "complete"
    assert RunFolder(run).recipe() == RunFolder(whole).recipe()
    if name == "run.json" and content is not None:
        assert "was made again" in RunFolder(run).record()["warnings"][0]
    if content is not None:
        assert any(name in said and "cannot be read" in said for said in caplog.messages)
    # Versions that nobody knows are no other ones.
    assert not any("None -> " in said for said in caplog.messages)


def test_a_run_that_has_not_reached_its_last_step_is_not_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RECIPE))
    monkeypatch.setattr("ssl_inv.run.pretrain.fit", lambda *_: None)
    assert main(["pretrain", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run"), "--quiet"]) == 1
    problem = "training has ended at step 0 of 6, so the run is not complete"
    assert capsys.readouterr().err == f"error: {problem}; ssl-inv pretrain --resume {tmp_path / 'run'} continues\n"
    assert RunFolder(tmp_path / "run").record()["state"].startswith(f"failed: {problem}")


def test_an_early_end_whose_checkpoint_is_damaged_is_trained_for_again(run: Path) -> None:
    RunFolder(run).update(stopped={"step": 6, "why": "plateau"}, state="interrupted")
    flip_weight(last(run))
    assert main(["pretrain", "--resume", str(run), "--quiet"]) == 0
    assert steps(run)[-1] == 6
    assert "stopped" not in RunFolder(run).record()


def test_lines_that_are_no_metrics_are_left_out_and_told(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[2], lines[4] = lines[2][:20], '["no", "mapping"]'
    (run / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 7, "lo']))
    assert main(["pretrain", "--resume", str(run), "--quiet"]) == 0
    assert steps(run) == [1, 2, 4, 6]
    assert "metrics.jsonl: 2 line(s) cannot be read and are left out" in RunFolder(run).record()["warnings"]
    assert sum("2 line(s) cannot be read" in one for one in caplog.messages) == 1


def test_a_renamed_run_goes_on(run: Path) -> None:
    other = run.rename(run.with_name("renamed"))
    assert main(READERS["export"](other)) == 0
    assert main(["pretrain", "--resume", str(other), "--quiet"]) == 0


RESULT = {"name": "knn/top1", "part": "all", "value": 0.5, "spread": None, "detail": ""}
ROWS = [{"trained": RESULT, "untrained": None, "shuffled": None, "reference": None}]


def test_results_that_were_changed_are_found(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.keep_results(json.dumps(ROWS), "")
    assert checked_rows(tmp_path / "results.json") == ROWS
    (tmp_path / "results.json").write_text(json.dumps(ROWS).replace("0.5", "0.7"))
    with pytest.raises(RecipeError, match=r"results\.json is damaged: it does not fit its checksum in run\.json"):
        checked_rows(tmp_path / "results.json")


@pytest.mark.parametrize("text", ["", "{}", '[{"trained": {"value": NaN}}]', "[3]"])
def test_results_of_another_form_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(RecipeError, match=r"results\.json"):
        checked_rows(tmp_path / "results.json")


def test_kept_features_that_are_damaged_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = tmp_path / "train.safetensors"
    batch = EvaluationBatch(torch.rand(4, 3, 8, 8), torch.arange(4), torch.zeros(4, dtype=torch.int64))
    tables = []
    for _ in range(3):
        tables.append(extract(lambda pixels: pixels.flatten(1), [batch], cache=cache))
        flip_weight(cache)
    assert caplog.text.count("train.safetensors is damaged") == caplog.text.count("computed again") == 2
    assert all(torch.equal(table.part("all"), tables[0].part("all")) for table in tables)


@pytest.mark.parametrize("file_format", ["parquet", "npy"])
def test_shards_that_are_damaged_are_written_again(file_format: str, run: Path, tmp_path: Path) -> None:
    arguments = ["embed", str(run), "--output", str(tmp_path / "out"), "--format", file_format]
    assert main(arguments) == 0
    (shard,) = (tmp_path / "out").glob(f"part-00000.{file_format}")
    content = shard.read_bytes()
    flip_weight(shard)
    assert main(arguments) == 0
    assert shard.read_bytes() == content


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_export_is_refused(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "again.yaml").write_text(yaml.safe_dump(RECIPE))
    file = run / "export" / name
    if name == "config.json":
        file.write_text(file.read_text().replace("0.456", "0.556"))
    else:
        flip_weight(file)
    for arguments in (
        ["embed", str(run / "export"), "--data", "rendered", "--output", str(run / "shards")],
        ["check", str(run.parent / "again.yaml"), "--backbone.weights", str(run / "export")],
        ["push", str(run), "someone/model", "--dry-run"],
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert f"{name} is damaged" in said
        assert said.count("\n") == 1


# What cannot be written.


def test_a_full_disk_ends_a_run_in_one_line_and_it_goes_on_later(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RECIPE))
    write = checkpoints.write_torch

    def limited(content: dict[str, Any], path: Path) -> None:
        most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000 if content["step"] == 4 else most, hard))
        try:
            write(content, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_torch", limited)
        arguments = ["pretrain", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run"), "--quiet"]
        assert main(arguments) == 1
    said = capsys.readouterr().err
    assert "last.ckpt cannot be written: File too large" in said
    assert "GB are free there" in said
    assert f"--resume {tmp_path / 'run'}` goes on from the last checkpoint" in said
    assert said.count("\n") == 1
    assert RunFolder(tmp_path / "run").record()["state"].startswith("failed: ")
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    assert main(["pretrain", "--resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert same_weights(tmp_path / "run", whole)
    assert steps(tmp_path / "run") == [1, 2, 3, 4, 5, 6]


def test_what_a_killed_run_left_goes_before_anything_is_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "checkpoints" / ".last.ckpt.123").write_bytes(b"half")
    (run / ".results.json.123").write_bytes(b"half")

    def refuse(*_: Any) -> None:
        assert not list(run.rglob(".*.123"))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ssl_inv.run.folder.write_text", refuse)
    assert main(["pretrain", "--resume", str(run), "--quiet"]) == 1


def test_a_folder_that_is_lost_in_mid_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RECIPE))
    log = RunFolder.log

    def lost(folder: RunFolder, **values: Any) -> None:
        if values["step"] == 3:
            shutil.rmtree(folder.path)
        log(folder, **values)

    monkeypatch.setattr(RunFolder, "log", lost)
    assert main(["pretrain", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run"), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert "metrics.jsonl cannot be written: its folder is gone" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if path.name == "run.lock" and mode == "w":
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, mode, *rest, **named)

    opened = Path.open
    monkeypatch.setattr(Path, "open", read_only)
    before = (run / "run.json").read_text()
    assert main(["pretrain", "--resume", str(run), "--quiet"]) == 2
    assert "cannot be written: Read-only file system" in capsys.readouterr().err
    assert (run / "run.json").read_text() == before


# Reports and loggers.


def test_a_report_that_fails_costs_no_run_and_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a figure\nbroke")

    with monkeypatch.context() as patch:
        patch.setattr("ssl_inv.run.pretrain.report_page.write_report", fail)
        run = pretrained(tmp_path, "run")
    record = RunFolder(run).record()
    assert record["state"] == "complete"
    (warning,) = record["warnings"]
    assert warning.startswith("the report was not made (RuntimeError: a figure broke); `ssl-inv report ")
    assert not (run / "report.html").exists()
    assert "report:" not in capsys.readouterr().out
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "invariance" in page
    assert "was not made" not in page
    record = RunFolder(run).record()
    assert "warnings" not in record
    assert record["state"] == "complete"


def test_a_report_needs_a_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "checkpoints")
    assert main(["report", str(run)]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err


def test_a_logger_that_fails_is_told_nothing_more_and_the_run_goes_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytorch_lightning.loggers import CSVLogger

    tell = CSVLogger.log_metrics

    def fail(logger: CSVLogger, numbers: dict[str, float], step: int) -> None:
        if step == 3:
            raise ConnectionError("the service\nis away")
        tell(logger, numbers, step)

    monkeypatch.setattr(CSVLogger, "log_metrics", fail)
    run = pretrained(tmp_path, "run", trainer={**RECIPE["trainer"], "loggers": ["csv"]})
    record = RunFolder(run).record()
    assert record["state"] == "complete"
    assert record["warnings"] == [
        "the logger csv failed at step 3 and is told nothing more: ConnectionError: the service is away"
    ]
    assert same_weights(run, whole)
    assert steps(run) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "name", ["a$b$c", "$\\frac{", "<script>alert(1)</script>", "\x1b[2J", "two\nlines", "\u202eabc"]
)
def test_no_name_of_a_class_or_column_stops_a_report(name: str, tmp_path: Path) -> None:
    from ssl_inv.run.pages.report_page import ReportContent, render_report

    content = ReportContent(
        title=name,
        command=name,
        recipe=name,
        facts={"data": name},
        warnings=[name],
        results=[],
        curves={f"loss/{name}": [(1, 2.0), (2, 1.0)]},
        view_pairs=None,
        neighbours=[],
        spectra={name: {"trained": [1.0, 0.5]}},
        latents=[],
        angles={},
        downloads={},
    )
    page = render_report(content)
    assert "<script>alert(1)" not in page
    json.dumps(page)


def test_a_class_with_the_name_of_a_terminal_command_is_only_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    for name in ("\x1b[2J", "$x$"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            pixels.save(tmp_path / "images" / name / f"{number}.png")
    assert main(["data", str(tmp_path / "images"), "--data.labels", "folders", "--data.size", "8"]) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert r"\x1b[2J" in said.out
