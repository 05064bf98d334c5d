"""Runs side by side: numbers by hand, only runs that can be compared are, and nothing that is broken stops a list."""

import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scipy import stats

from ssl_inv.catalogue import RecipeError
from ssl_inv.run.cli import main
from ssl_inv.run.continuing import FREE, WHERE_DATA_LIES
from ssl_inv.run.pages.comparison_page import comparison_page
from ssl_inv.run.side_by_side.comparison import compare
from ssl_inv.run.side_by_side.over_seeds import deviation, mean
from ssl_inv.run.side_by_side.runs import gathered, runs_table

TOP1 = ("linear/top1", "all")
LOW, HIGH = {0: 0.50, 1: 0.52, 2: 0.57}, {0: 0.53, 1: 0.58, 2: 0.60}


def make_run(folder: Path, seed: int, value: float | None, facts: dict[str, Any] | None = None, **changes: str) -> Path:
    """The folder of a run, as far as it is compared."""
    folder.mkdir(parents=True)
    recipe = {
        "objective": "{name: simclr}",
        "data": "{name: rendered}",
        "trainer": f"{{steps: 4, seed: {seed}}}",
    }
    sections = {**recipe, **{name: text.format(seed=seed) for name, text in changes.items()}}
    (folder / "recipe.yaml").write_text("".join(f"{name}: {text}\n" for name, text in sections.items()))
    record = {
        "state": "complete",
        "command": ["ssl-inv", "pretrain", "simclr-rendered", "--trainer.seed", str(seed)],
        "began": f"2026-01-01T10:0{seed}:00+0000",
        "ended": "2026-01-01T10:10:00+0000",
        "host": {"machine": "x86_64", "cores": 2, "gpu": None},
        "versions": {"commit": "a" * 40},
        "score": {} if value is None else {"linear/top1 (all)": value},
    }
    (folder / "run.json").write_text(json.dumps({**record, **(facts or {})}))
    lines = [{"step": step, "loss": {"contrast": 5.0 - step}} for step in (1, 2, 4)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if value is not None:
        write_results(folder, value, 0.1 + 0.01 * seed)
    return folder


def write_results(folder: Path, value: float, untrained: float) -> None:
    def one(name: str, part: str, number: float, spread: float | None = 0.03) -> dict[str, Any]:
        return {"name": name, "part": part, "value": number, "spread": spread, "detail": ""}

    rows = [
        {"trained": one(name, part, number), "untrained": one(name, part, untrained), "shuffled": None}
        for name, part, number in ((*TOP1, value), ("knn/top1", "all", value - 0.1))
    ]
    (folder / "results.json").write_text(json.dumps(rows))


HOT, COLD = "{{name: simclr, temperature: 0.5}}", "{{name: simclr, temperature: 0.1}}"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Three seeds at two temperatures. The names of the folders put the seeds of the second in another order."""
    for seed, value in LOW.items():
        make_run(tmp_path / "runs" / f"a-{seed}", seed, value, objective=HOT)
    for seed, value in HIGH.items():
        make_run(tmp_path / "runs" / f"b-{9 - seed}", seed, value, objective=COLD)
    return tmp_path / "runs"


def test_runs_that_differ_in_their_seed_alone_are_one_row_with_mean_and_deviation(two: Path) -> None:
    first, second = compare(two)
    assert (first["objective.temperature"], first["seeds"]) == (0.5, 3)
    assert first["mean"] == pytest.approx(0.53)
    assert first["deviation"] == pytest.approx(0.0360555, abs=1e-7)  # √(0.0009 + 0.0001 + 0.0016) / √2
    assert (second["mean"], second["seeds"]) == (pytest.approx(0.57), 3)
    assert first["untrained"] == second["untrained"] == pytest.approx(0.11)


def test_differences_are_of_pairs_of_one_seed_with_the_interval_of_student(two: Path) -> None:
    row = compare(two)[1]
    # Differences 0.03, 0.06, 0.03: mean 0.04, deviation 0.0173205; t(0.975, 2) = 4.3026527; 4.3026527 x 0.01
    assert row["difference"] == pytest.approx(0.04)
    assert (row["low"], row["high"]) == (pytest.approx(0.04 - 0.043026527), pytest.approx(0.04 + 0.043026527))
    theirs = stats.ttest_rel(list(HIGH.values()), list(LOW.values())).confidence_interval(0.95)
    assert (row["low"], row["high"]) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    assert (row["pairs"], row["interval"]) == (3, "t over 3 seeds")
    other = compare(two, baseline="objective.temperature=0.1")[0]
    assert (other["difference"], other["low"]) == (pytest.approx(-row["difference"]), pytest.approx(-row["high"]))
    assert compare(two, baseline={"objective.temperature": 0.1})[0] == compare(two, baseline="b-9")[0] == other


def test_one_seed_has_the_interval_of_validation_objects_and_says_so(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", 0, 0.5, objective=HOT), make_run(tmp_path / "b", 0, 0.6, objective=COLD)]
    first, second = compare(runs)
    assert (first["error"], first["deviation"], first["difference"]) == (0.03, None, None)
    assert second["high"] - second["difference"] == pytest.approx(1.959964 * 0.03 * 2**0.5)
    assert "not over seeds" in second["interval"]
    assert "0.500 (se 0.030)" in str(compare(runs))


def test_groups_without_a_common_seed_have_no_difference(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", 0, 0.5, objective=HOT), make_run(tmp_path / "b", 1, 0.6, objective=COLD)]
    assert compare(runs)[1]["difference"] is None


def test_untrained_networks_are_one_row_only_if_they_are_the_same(tmp_path: Path) -> None:
    def names(*seeds: int) -> list[str]:
        folder = tmp_path / "-".join(map(str, seeds))
        for name, seed, objective in zip("ab", seeds, (HOT, COLD), strict=True):
            make_run(folder / name, seed, 0.5, objective=objective)
        return [row["objective.temperature"] for row in compare(folder, measures="linear").wide()]

    assert names(1, 1) == ["0.5", "0.1", "untrained"]
    assert names(0, 1) == ["0.5", "0.1", "untrained: temperature 0.5", "untrained: temperature 0.1"]


def test_several_runs_of_one_seed_count_once_and_are_named(tmp_path: Path) -> None:
    values = {"a": (0, 0.4), "b": (0, 0.6), "c": (1, 0.9)}
    for name, (seed, value) in values.items():
        make_run(tmp_path / "runs" / name, seed, value)
    compared = compare(tmp_path / "runs")
    assert (compared[0]["seeds"], compared[0]["mean"]) == (2, pytest.approx((0.5 + 0.9) / 2))
    assert any("several runs of seed 0" in note for note in compared.notes)


def test_what_is_judged_otherwise_is_shown_beside_without_a_difference_and_never_averaged(tmp_path: Path) -> None:
    quick, full = "{{protocol: quick}}", "{{protocol: full}}"
    runs = [
        make_run(tmp_path / "a", 0, 0.5, evaluation=quick),
        make_run(tmp_path / "b", 0, 0.6, evaluation=full),
    ]
    compared = compare(runs)
    assert compared.notes[0].startswith("not comparable: evaluation.protocol quick / full")
    assert [row["difference"] for row in compared] == [None, None]
    with pytest.raises(RecipeError, match=r"would mix results .*: evaluation\.protocol quick / full; add"):
        compare(runs, group="objective.name")


def test_settings_that_change_no_result_and_teachers_of_the_same_seed_make_no_groups(tmp_path: Path) -> None:
    teacher = "{{name: transitive, teacher_path: teachers/simclr-{seed}/export}}"
    for seed in range(2):
        trainer = f"{{{{steps: 4, seed: {seed}, workers: {seed}}}}}"
        make_run(tmp_path / "runs" / str(seed), seed, 0.5, objective=teacher, trainer=trainer)
    compared = compare(tmp_path / "runs")
    assert len(compared) == 1
    assert compared.notes == ()


OTHERWISE = {
    **{"trainer.workers": "1", "trainer.checkpoint_every": "7", "trainer.log_every": "3", "trainer.keep": "2"},
    **{"trainer.best": "{name: knn, mode: max}", "trainer.loggers": "[csv]", "trainer.callbacks": "[ModelSummary]"},
    **{"trainer.devices": "2", "trainer.nodes": "2", "trainer.strategy": "ddp", "trainer.requeue": "true"},
    **{"monitor.every": "7", "monitor.objects": "64", "monitor.share": "0.5"},
}


@pytest.mark.parametrize("key", [key for key in FREE if key not in WHERE_DATA_LIES])
def test_what_a_resumed_run_may_change_without_a_word_makes_no_groups(key: str, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", 0, 0.5)
    other = make_run(tmp_path / "runs" / "b", 1, 0.6)
    section, _, name = key.partition(".")
    before = "steps: 4, seed: 1, " if section == "trainer" else ""
    lines = [line for line in (other / "recipe.yaml").read_text().splitlines() if not line.startswith(section)]
    lines.append(f"{section}: {{{before}{name}: {OTHERWISE[key]}}}")
    (other / "recipe.yaml").write_text("\n".join(lines))
    assert [row["seeds"] for row in compare(tmp_path / "runs")] == [2]


def test_an_early_end_and_changes_on_the_way_are_notes(tmp_path: Path) -> None:
    changed = {"trainer.steps": [2, 4], "optimizer.lr": [0.1, 0.2]}
    judged = {"evaluation.neighbours": [20, 3]}
    continued = [{"step": 2, "at": "", "changes": changed}, {"step": 4, "at": "", "changes": judged}]
    make_run(tmp_path / "runs" / "on", 0, 0.5, {"continued": continued})
    make_run(tmp_path / "runs" / "end", 1, 0.5, {"stopped": {"step": 3, "why": "plateau"}})
    end, on = sorted(compare(tmp_path / "runs").notes)
    assert end.endswith("runs/end ended early at step 3: plateau")
    assert on.endswith("runs/on went on from step 2 with trainer.steps: 2 -> 4, optimizer.lr: 0.1 -> 0.2")
    assert runs_table([tmp_path / "runs"]).column("reason") == [None, "ended early at step 3: plateau"]


def test_groups_by_hand_name_what_they_mix(two: Path) -> None:
    compared = compare(two, group="objective.name")
    assert (len(compared), compared[0]["seeds"]) == (1, 3)
    assert any("differ in more than the seed: objective.temperature" in note for note in compared.notes)
    assert compare(two, group=["recipe"])[0]["recipe"] == "simclr-rendered"


def test_settings_that_follow_from_another_name_are_no_columns_for_people(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", 0, 0.5), make_run(tmp_path / "b", 0, 0.6, objective="{{name: vicreg}}")]
    compared = compare(runs)
    assert compared.wide().columns[:2] == ("objective.name", "seeds")
    assert "objective.temperature" in compared.columns


def test_runs_are_folders_patterns_objects_and_evaluations(two: Path, tmp_path: Path) -> None:
    assert len(gathered(two)) == len(gathered([str(two / "*")])) == 6
    one = two / "a-0"
    assert gathered([one, str(one), SimpleNamespace(path=one), SimpleNamespace(folder=str(one))]) == [one]
    assert gathered(SimpleNamespace(path=one)) == gathered(runs_table([two], where={"trainer.seed": 0}))[:1] == [one]
    judged = tmp_path / "judged"
    judged.mkdir()
    write_results(judged, 0.8, 0.2)
    (judged / "evaluation.json").write_text(
        json.dumps({"model": "timm:resnet18", "recipe": {"data": {"name": "demo"}}})
    )
    compared = compare([judged])
    assert (compared[0]["mean"], compared[0]["untrained"], compared[0]["error"]) == (0.8, 0.2, 0.03)
    for seed in range(2):
        trained = {"objective": {"name": "sie"}, "trainer": {"seed": seed, "steps": 4}}
        again = {"model": f"run-{seed}: sie", "recipe": {"data": {"name": "rendered"}}, "trained_with": trained}
        (tmp_path / "again" / str(seed)).mkdir(parents=True)
        write_results(tmp_path / "again" / str(seed), 0.6 + 0.2 * seed, 0.2)
        (tmp_path / "again" / str(seed) / "evaluation.json").write_text(json.dumps(again))
    (row,) = compare(tmp_path / "again", measures="linear")
    assert (row["seeds"], row["mean"]) == (2, pytest.approx(0.7))
    for nothing in (tmp_path / "missing", str(two / "z*")):
        with pytest.raises(RecipeError, match="there is no run at"):
            gathered(nothing)


def test_what_is_not_finished_or_broken_is_named_and_left_out(two: Path) -> None:
    make_run(two / "c", 3, None, facts={"state": "failed: no memory"}, objective=HOT)
    make_run(two / "d", 3, None, objective=HOT)
    (make_run(two / "e", 3, None) / "run.json").write_text("{")
    compared = compare(two)
    assert [row["seeds"] for row in compared] == [3, 3]
    told = "\n".join(compared.notes)
    assert all(name in told for name in ("c is failed (no memory)", "d has none of these measurements", "e is broken"))


def test_measures_are_names_beginnings_patterns_and_the_end_of_training(two: Path) -> None:
    def names(*measures: str) -> list[str]:
        return list(dict.fromkeys(compare(two, measures=measures).column("measure")))

    assert names("linear") == names("linear/top1:all") == ["linear/top1"]
    assert names("*/top1") == ["linear/top1", "knn/top1"]
    assert compare(two, measures="loss/contrast")[0]["mean"] == 1.0
    with pytest.raises(RecipeError, match=r"--measure: no run has 'knn/top2'; did you mean 'knn/top1'\?"):
        compare(two, measures=["knn/top2"])


def test_mean_and_deviation_are_missing_if_a_run_lacks_the_number() -> None:
    assert (mean([1.0, 2.0, 6.0]), deviation([1.0, 2.0, 6.0])) == (3.0, pytest.approx(7**0.5))
    assert mean([1.0, None]) is mean([]) is deviation([1.0]) is deviation([1.0, None, 2.0]) is None


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [name for name, _ in attrs if name in ("src", "href", "srcset", "action")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass


def test_the_page_holds_every_number_and_needs_nothing_but_itself(two: Path) -> None:
    page = comparison_page(compare(two))
    parsed = _Page(page)
    assert (parsed.open, parsed.addresses) == ([], [])
    for number in ("0.530 ± 0.036", "0.570 ± 0.036", "+0.040", "-0.003 to +0.083", "0.110 ± 0.010"):
        assert number in page
    assert page.count("<polyline") == 6
    assert "loss/contrast" in page


def test_the_page_escapes_names(tmp_path: Path) -> None:
    evil = "<em>&\"'"
    judged = tmp_path / "judged"
    judged.mkdir()
    write_results(judged, 0.8, 0.2)
    (judged / "evaluation.json").write_text(json.dumps({"model": evil, "recipe": {"data": {"name": evil}}}))
    assert "<em>" not in comparison_page(compare(judged, group="model"))


@pytest.mark.parametrize("kind", ["text", "csv", "markdown", "latex", "json", "html"])
def test_every_format_has_the_means(kind: str, two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(two), "--format", kind]) == 0
    text = capsys.readouterr().out
    if kind == "csv":
        assert [float(row["mean"]) for row in csv.DictReader(io.StringIO(text))] == pytest.approx([0.53, 0.57])
    elif kind == "json":
        assert [row["mean"] for row in json.loads(text)] == pytest.approx([0.53, 0.57])
    else:
        assert {"latex": r"0.530 $\pm$ 0.036"}.get(kind, "0.530 ± 0.036") in text


def test_the_ending_of_the_file_is_the_format(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(two), "--output", str(tmp_path / "table.tex")]) == 0
    assert (tmp_path / "table.tex").read_text().startswith(r"\begin{tabular}")
    assert main(["compare", str(two), "--output", str(tmp_path / "table.doc")]) == 2
    assert "has no known ending; there are .txt" in capsys.readouterr().err


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs in several states, in the folder where they are looked for."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs"
    make_run(folder / "done", 0, 0.5)
    make_run(folder / "deep" / "better", 1, 0.7, objective="{{name: vicreg}}")
    make_run(folder / "killed", 2, None, facts={"state": "training"})
    make_run(folder / "failed", 3, None, facts={"state": "failed: no memory"})
    (make_run(folder / "cut", 4, None) / "run.json").write_text('{"state": ')
    (make_run(folder / "odd", 5, None) / "recipe.yaml").write_text("a: b: c\n")
    return folder


def test_all_runs_are_listed_with_their_state_and_broken_ones_are_named(many: Path) -> None:
    table = runs_table([many])
    states = dict(zip(table.column("run"), table.column("state"), strict=True))
    assert states == {
        **{"done": "complete", "deep/better": "complete", "killed": "stopped", "failed": "failed"},
        **{"cut": "broken", "odd": "broken"},
    }
    row = next(one for one in table if one["run"] == "done")
    assert (row["recipe"], row["step"], row["steps"], row["seconds"]) == ("simclr-rendered", 4, 4, 600.0)
    assert row["linear/top1 (all)"] == 0.5
    assert next(one["reason"] for one in table if one["run"] == "failed") == "no memory"


def test_a_run_that_another_process_writes_is_training(many: Path) -> None:
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True)"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{hold}; time.sleep(60)", many / "killed" / "run.lock"], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert [row["run"] for row in runs_table([many], states=["training"])] == ["killed"]
    finally:
        holder.kill()
        holder.communicate()


def test_runs_are_chosen_and_sorted(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def names(*arguments: str) -> list[str]:
        assert main(["runs", "--csv", *arguments]) == 0
        return [row["run"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]

    assert names("--state", "complete") == ["done", "deep/better"]
    assert names("--state", "complete", "--sort", "linear/top1 (all)", "--reverse") == ["deep/better", "done"]
    assert names("--where", "objective.name=vicreg") == ["deep/better"]
    assert names("--where", "trainer.seed=3") == ["failed"]
    assert main(["runs"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^deep/better +simclr-rendered +vicreg +rendered +complete +4 +1 +0\.700 ", shown, re.MULTILINE)
    assert "\nfailed: no memory\n" in shown


MISTAKES = {
    "no folder": ("runs nowhere", "there is no folder 'nowhere'"),
    "no state": ("runs --state finished", "--state: there is no 'finished'; there are complete"),
    "no column": ("runs --sort stat", "--sort: there is no column 'stat'; did you mean 'state'?"),
    "no setting": ("runs --where objective.nam=sie", "did you mean 'objective.name'?"),
    "no condition": ("runs --where sie", "expected a setting and its value, as objective.name=sie"),
    "a setting": ("runs --objective.name sie", "--objective.name: no such option; runs are chosen by --where"),
    "nothing to compare": ("compare nowhere", "there is no run at 'nowhere'"),
    "no finished run": ("compare runs/failed", "there is no finished run to compare; left out: runs/failed is failed"),
    "no group": ("compare runs --group objective.nme", "did you mean 'objective.name'?"),
    "no baseline": (
        "compare runs --baseline trainer.seed=9",
        "is no group; there are objective vicreg; objective simclr",
    ),
    "no format": ("compare runs --format word", "--format: there is no 'word'; there are text, csv"),
    "a folder as output": ("compare runs --format csv --output runs", "'runs' is a folder; name a file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, message = MISTAKES[mistake]
    assert main(command.split()) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert message in told.err
