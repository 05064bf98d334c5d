"""Damaged and odd files are refused in one line: a small part of what `tests/fuzz/run.py` tries."""

from collections import Counter

import pytest
from fuzz import run as fuzz


def _told(counts: Counter[str], failures: dict[str, str]) -> None:
    assert not failures, "\n".join(f"{name}\n{problem}" for name, problem in failures.items())
    # Inputs that are all refused, or never, would test little.
    assert min(counts["recipes read"], counts["recipes refused"]) > 0


def test_damaged_files_are_refused_in_one_line(tmp_path):
    _told(*fuzz.run(300, seed=1, place=tmp_path))


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_refused_in_one_line(tmp_path):
    _told(*fuzz.run(10_000, seed=0, place=tmp_path))


def test_what_is_no_line_is_found(tmp_path, monkeypatch):
    def broken(random: object, place: object) -> None:
        raise KeyError("recipe")

    monkeypatch.setitem(fuzz.TARGETS, "recipes", (broken, 1.0))
    state, problem = fuzz.failure("recipes", 0, 0, tmp_path)
    assert state == "failed"
    assert "KeyError: 'recipe'" in problem


def test_what_does_not_end_is_found():
    def endless() -> None:
        with fuzz.bounded(0.05):
            while True:
                pass

    with pytest.raises(fuzz.SlowError):
        endless()
