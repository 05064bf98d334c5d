"""A sweep makes every combination once, checks all before the first begins, and goes on after a kill."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ssl_inv.catalogue import RecipeError
from ssl_inv.run.cli import main, parse
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.side_by_side.sweep import Sweep, sweep
from ssl_inv.run.side_by_side.sweep_grid import combinations, parsed_settings, split_values, typed

SEVERAL = {
    "0.1,0.2": ["0.1", "0.2"],
    "[1,2]": ["[1,2]"],
    "[1,2],[3, 4]": ["[1,2]", "[3, 4]"],
    "{a: [1,2], b: 3},null": ["{a: [1,2], b: 3}", "null"],
    "'a,b',c": ["'a,b'", "c"],
    "it's,b": ["it's", "b"],
}


@pytest.mark.parametrize(("text", "pieces"), SEVERAL.items())
def test_commas_outside_of_brackets_and_quotes_separate_values(text: str, pieces: list[str]) -> None:
    assert split_values(text) == pieces


def values(text: str) -> Sequence[Any]:
    return parsed_settings(["--trainer.seed", text])["trainer.seed"]


def test_ranges_are_whole_numbers_without_their_end() -> None:
    assert values("0:3") == ["0", "1", "2"]
    assert values("7,0:10:4") == ["7", "0", "4", "8"]
    assert values("3:0:-1") == ["3", "2", "1"]
    assert values("'0:3'") == ["'0:3'"]


def test_every_combination_is_a_run_whose_name_says_what_sets_it_apart() -> None:
    overrides = ["--trainer.seed", "0:2", "--objective.temperature=0.1,0.2", "--trainer.steps", "4"]
    runs = combinations(["simclr-rendered"], parsed_settings(overrides))
    assert [one.name for one in runs] == [
        *("seed-0_temperature-0.1", "seed-0_temperature-0.2", "seed-1_temperature-0.1", "seed-1_temperature-0.2")
    ]
    trained = [
        (one.resolved.trainer.seed, one.resolved.objective.settings["temperature"], one.resolved.trainer.steps)
        for one in runs
    ]
    assert trained == [(0, 0.1, 4), (0, 0.2, 4), (1, 0.1, 4), (1, 0.2, 4)]


def test_recipes_and_names_vary_too_and_lists_are_one_value() -> None:
    runs = combinations(["simclr-rendered", "vicreg-rendered"], parsed_settings(["--trainer.seed", "0,1"]))
    assert [one.name for one in runs][::2] == ["simclr-rendered_seed-0", "vicreg-rendered_seed-0"]
    runs = combinations(["sie-rendered"], parsed_settings(["--objective.projector", "[8,8],[16,16]"]))
    assert [one.resolved.objective.settings["projector"] for one in runs] == [[8, 8], [16, 16]]
    assert len({one.name for one in runs}) == 2
    (one,) = combinations(["sie-rendered"], {})
    assert one.name == "sie-rendered"


def test_settings_of_python_mean_what_they_are() -> None:
    texts = typed({"trainer.seed": range(2), "objective.projector": [[8, 8]], "data.path": ["0.1", "a,b"]})
    assert texts == {"trainer.seed": ["0", "1"], "objective.projector": ["[8, 8]"], "data.path": ["'0.1'", "a,b"]}


MISTAKES = {
    "a wrong setting": ("sweep sie-rendered --trainer.sed 0:2", "trainer.sed: no such setting; did you mean 'seed'?"),
    "a wrong value": (
        "sweep sie-rendered --trainer.seed 0,1 --trainer.steps 5,0",
        "trainer.steps: must be at least 1, got 0 (in run seed-0_steps-0)",
    ),
    "a wrong recipe": ("sweep sie-renderd", "no recipe is called 'sie-renderd'; did you mean 'sie-rendered'?"),
    "the same value": ("sweep sie-rendered --trainer.seed 0,0", "--trainer.seed: the value 0 stands twice"),
    "the same setting": ("sweep sie-rendered --trainer.seed 0 --trainer.seed 1", "--trainer.seed: given twice"),
    "no value": ("sweep sie-rendered --trainer.seed", "--trainer.seed: a value is missing"),
    "an empty value": ("sweep sie-rendered --trainer.seed 0,,1", "has an empty value between its commas"),
    "an empty range": ("sweep sie-rendered --trainer.seed 5:5", "5:5 holds no number; 0:5 are the numbers 0 to 4"),
    "too many": ("sweep sie-rendered --trainer.seed 0:200 --trainer.steps 1:200", "39,800 combinations, more than"),
    "no such run": ("sweep sie-rendered --trainer.seed 0:2 --only 2", "--only 2: the runs are counted from 0 to 1"),
    "devices": ("sweep sie-rendered --devices 0,0", "--devices: expected different numbers of GPUs as 0,1, got '0,0'"),
    "devices of devices": ("sweep sie-rendered --trainer.devices 2 --devices 0", "--devices gives each run one GPU"),
    "no jobs": ("sweep sie-rendered --jobs 0", "--jobs: must be at least 1, got 0"),
    "twice a recipe": ("sweep sie-rendered sie-rendered", "two recipes of a sweep have the same name"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command, message = MISTAKES[mistake]
    assert main([*command.split(), "--output", "out"]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert message in told.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_sweep_is_refused(tiny_run: Path, tmp_path: Path, tiny_recipe: str) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(tiny_recipe)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "seed-0").symlink_to(tiny_run)
    assert Sweep(tmp_path / "out", combinations([str(recipe)], {"trainer.seed": ["0", "1"]})).check() is None
    with pytest.raises(RecipeError, match=r"is of another sweep: trainer.steps: 2 -> 3; choose another --output"):
        sweep(str(recipe), {"trainer.seed": [0, 1], "trainer.steps": 3}, tmp_path / "out")
    with pytest.raises(RecipeError, match="is a run, not the folder of a sweep"):
        sweep(str(recipe), {"trainer.seed": [0, 1]}, tiny_run)
    (tmp_path / "out" / "seed-1").mkdir()
    (tmp_path / "out" / "seed-1" / "letter.txt").write_text("dear")
    with pytest.raises(RecipeError, match="is in the place of a run, and is none"):
        sweep(str(recipe), {"trainer.seed": [0, 1]}, tmp_path / "out")


def test_runs_at_a_time_share_the_cores_and_each_sees_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    runs = combinations(["sie-rendered"], {})
    environment = Sweep(tmp_path, runs, jobs=2, devices=["0", "3"])._environment("3")
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["OMP_NUM_THREADS"]) == ("3", "3")
    assert "OMP_NUM_THREADS" not in Sweep(tmp_path, runs)._environment(None)


def test_the_script_for_slurm_has_a_task_for_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "sie-rendered", "--trainer.seed", "0:3", "--objective.projector", "[8,8],[9, 9]"]
    assert main([*words, "--output", "a sweep", "--slurm"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-5\n" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    command = next(line for line in script.splitlines() if line.startswith("exec "))
    task = parse(shlex.split(command.replace("$SLURM_ARRAY_TASK_ID", "4"))[5:])
    assert (task.only, task.output, task.overrides) == (4, Path("a sweep"), words[2:])
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_lists_the_runs_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "sie-rendered", "--trainer.seed", "0:3", "--output", "out", "--dry-run"]) == 0
    assert [line.split()[:4] for line in capsys.readouterr().out.splitlines()[1:]] == [
        [str(one), f"seed-{one}", str(one), "new"] for one in range(3)
    ]
    assert list(tmp_path.iterdir()) == []


STEPS = 40


def _rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def _losses(folder: Path) -> list[Any]:
    return [(entry["step"], entry["loss"]) for entry in RunFolder(folder).metrics() if "loss" in entry]


@pytest.mark.slow
def test_a_sweep_of_four_that_is_killed_goes_on_and_gives_what_it_would_have_given(
    tmp_path: Path, tiny_recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in this process. With other threads, the last bits differ.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = tmp_path / "tiny.yaml"
    steps = f"{{steps: {STEPS}, batch_size: 8, accelerator: cpu, checkpoint_every: 1, log_every: 1, workers: 0}}"
    recipe.write_text(tiny_recipe.replace("{steps: 2, batch_size: 8, accelerator: cpu}", steps))
    rates = "0.001,0.01"
    words = ["sweep", str(recipe), "--trainer.seed", "0:2", "--optimizer.lr", rates]
    program = [sys.executable, "-m", "ssl_inv.run.cli", *words, "--output", str(tmp_path / "killed")]
    killed = subprocess.Popen(program, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    first, second = (tmp_path / "killed" / name for name in ("seed-0_lr-0.001", "seed-0_lr-0.01"))
    end = time.monotonic() + 240
    while len(RunFolder(second).metrics()) < 3:
        assert killed.poll() is None, "the sweep was over before it could be killed"
        assert time.monotonic() < end, "the second run did not train"
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    # Its run is told by the system, and ends too.
    while RunFolder(second).is_held():
        assert time.monotonic() < end, "the run of a killed sweep goes on"
        time.sleep(0.05)
    states = [json.loads((one / "run.json").read_text())["state"] for one in (first, second)]
    assert states[0] == "complete"
    assert states[1] != "complete"
    finished = (first / "run.json").stat().st_mtime_ns

    assert main([*words, "--output", str(tmp_path / "killed"), "--jobs", "2"]) == 0
    rows = _rows(tmp_path / "killed")
    assert [row["state"] for row in rows.values()] == ["complete"] * 4
    assert (first / "run.json").stat().st_mtime_ns == finished, "a finished run was made again"
    assert json.loads((second / "run.json").read_text())["resumed"][0]["step"] >= 1
    content = json.loads((tmp_path / "killed" / "sweep.json").read_text())
    assert content["varied"] == {"trainer.seed": ["0", "1"], "optimizer.lr": ["0.001", "0.01"]}
    # A run that was never killed.
    plain = ["pretrain", str(recipe), "--optimizer.lr", "0.01", "--quiet", "--output", str(tmp_path / "plain")]
    assert main(plain) == 0
    assert len(_losses(second)) == STEPS
    for ours, theirs in zip(_losses(second), _losses(tmp_path / "plain"), strict=True):
        assert ours == theirs


@pytest.mark.slow
def test_a_failed_run_is_named_after_the_others_are_made_and_tried_again(
    tmp_path: Path, tiny_recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(tiny_recipe)
    words = ["sweep", str(recipe), "--optimizer.lr", "1e30,0.01", "--optimizer.warmup", "0"]
    words += ["--trainer.steps", "4", "--trainer.log_every", "1", "--output", str(tmp_path / "out")]
    assert main(words) == 1
    told = capsys.readouterr().err
    assert "1 of 2 runs are not complete: lr-1e30 failed (" in told
    rows = _rows(tmp_path / "out")
    assert [(row["run"], row["state"]) for row in rows.values()] == [("lr-1e30", "failed"), ("lr-0.01", "complete")]
    assert "became nan" in rows["lr-1e30"]["reason"]
    # A run killed while it made its folder begins anew.
    (tmp_path / "out" / "lr-0.01").rename(tmp_path / "moved")
    (tmp_path / "out" / "lr-0.01" / "checkpoints").mkdir(parents=True)
    assert main([*words, "--only", "1"]) == 0
    assert "lr-0.01: begins" in capsys.readouterr().err
