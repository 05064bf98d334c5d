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


def test_the_time_left_of_a_protocol_is_told_from_its_second_round_on(clocked: list[float]) -> None:
    file = io.StringIO()
    progress = JudgingProgress(Progress(file, interval=-1), 0)
    progress.measures(["linear", "knn"])
    for protocol, seconds in (("linear", 20.0), ("knn", 5.0)):
        for name in ROUNDS:
            progress.begins(name, protocol)
            clocked[0] += seconds
    assert lines(file) == [
        "evaluating: protocol 1 of 2, linear, shuffled",
        "evaluating: protocol 1 of 2, linear, untrained, 0m40s left of it",
        "evaluating: protocol 1 of 2, linear, trained, 0m20s left of it",
        "evaluating: protocol 2 of 2, knn, shuffled",
        "evaluating: protocol 2 of 2, knn, untrained, 0m10s left of it",
        "evaluating: protocol 2 of 2, knn, trained, 0m05s left of it",
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
    places = [found for line in shown for found in re.findall(r"protocol (\d) of (\d)", line)]
    assert list(dict.fromkeys(places)) == [("1", "2"), ("2", "2")]
    shown.clear()
    for table in (tmp_path / "out").glob("*.json"):
        table.unlink()
    assert main(["evaluate", str(tiny_run), *arguments]) == 0
    assert not shown, "the features and the measurements are known"
