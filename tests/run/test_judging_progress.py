"""An evaluation says how many images are encoded, which protocol runs, and how long what is left will take."""

import io
import re

import pytest

from ssl_inv.engine.progress import Progress
from ssl_inv.evaluation.suite import QUICK
from ssl_inv.run.cli import main
from ssl_inv.run.judging_progress import ROUNDS, JudgingProgress


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def lines(file: io.StringIO) -> list[str]:
    return file.getvalue().splitlines()


def test_images_are_counted_and_those_whose_features_are_known_take_no_time(clocked: list[float]) -> None:
    file = io.StringIO()
    progress = JudgingProgress(Progress(file, interval=-1), 1000)
    progress.known(400)
    clocked[0] = 10.0
    progress.encoded(100)
    assert lines(file) == ["evaluating: 500 of 1,000 images encoded, 0m50s left"]


def test_the_time_left_is_told_once_every_protocol_has_run_and_falls_to_that_of_the_last(clocked: list[float]) -> None:
    file = io.StringIO()
    progress = JudgingProgress(Progress(file, interval=-1), 0)
    progress.measures(["linear", "knn"])
    for name in ROUNDS:
        for protocol, seconds in (("linear", 20.0), ("knn", 5.0)):
            progress.begins(name, protocol)
            clocked[0] += seconds
    assert lines(file) == [
        "evaluating: linear, shuffled, 1 of 6",
        "evaluating: knn, shuffled, 2 of 6",
        "evaluating: linear, untrained, 3 of 6, 0m50s left",
        "evaluating: knn, untrained, 4 of 6, 0m30s left",
        "evaluating: linear, trained, 5 of 6, 0m25s left",
        "evaluating: knn, trained, 6 of 6, 0m05s left",
    ]


def test_a_judgement_shows_all_images_and_protocols(tiny_run, monkeypatch, tmp_path) -> None:
    brief = {name: QUICK[name] for name in ("knn", "spectrum")}
    monkeypatch.setattr("ssl_inv.run.judging.QUICK", brief)
    shown: list[str] = []
    monkeypatch.setattr(Progress, "update", lambda self, line: shown.append(line))
    arguments = ["--evaluation.protocol", "quick", "--output", str(tmp_path / "out")]
    assert main(["evaluate", str(tiny_run), *arguments]) == 0
    encoded = [line for line in shown if "encoded" in line]
    assert encoded[-1].startswith("evaluating: 240 of 240 images encoded"), "120 views by two encoders"
    places = [tuple(map(int, found)) for line in shown for found in re.findall(r"(\d+) of (\d+)(?:,|$)", line)]
    assert places[-1][0] == places[-1][1]
    shown.clear()
    for table in (tmp_path / "out").glob("*.json"):
        table.unlink()
    assert main(["evaluate", str(tiny_run), *arguments]) == 0
    assert not [line for line in shown if "encoded" in line], "the features are known"
