"""What is watched follows from the log alone, and the right way is better without being said."""

import pytest

from ssl_inv.catalogue import SettingError
from ssl_inv.engine.settings import StopSettings, TrainerSettings, Watched
from ssl_inv.engine.watch import Stop, Value, scalars

SPREAD = {"rankme": 9.0, "deviation": 0.9}
FLAT = {"rankme": 1.1, "deviation": 0.9}


def knn(*values: float) -> list[dict[str, object]]:
    return [{"step": step, "monitor": {**SPREAD, "knn": value}} for step, value in enumerate(values, 1)]


def reasons(stop: Stop, entries: list[dict[str, object]]) -> list[str | None]:
    return [stop.see(entry) for entry in entries]


@pytest.mark.parametrize("name", ["r2 rotation, equivariant", "monitor/r2_rotation/equivariant"])
def test_a_number_is_found_by_its_name_in_the_log_or_in_loggers(name: str) -> None:
    entry = {"step": 1, "monitor": {"r2 rotation, equivariant": 0.5}}
    assert Value(Watched(name=name), "trainer.best").read(entry) == 0.5
    assert scalars(entry) == {"monitor/r2_rotation/equivariant": 0.5}


@pytest.mark.parametrize(
    ("name", "mode", "sign"), [("knn", None, 1), ("variance", None, -1), ("variance", "max", 1), ("knn", "min", -1)]
)
def test_scores_are_to_be_high_and_losses_low_unless_it_is_said(name: str, mode: object, sign: int) -> None:
    entry = {"step": 1, "loss": {"variance": 0.25}, "monitor": {"knn": 0.25}}
    assert Value(Watched(name=name, mode=mode), "trainer.best").read(entry) == sign * 0.25


def test_a_name_that_nothing_has_is_refused_once_all_that_is_logged_is_known() -> None:
    value = Value(Watched(name="knm"), "trainer.best")
    assert value.read({"step": 1, "loss": {"variance": 1.0}}) is None
    with pytest.raises(
        SettingError, match=r"^trainer\.best: nothing that is logged is called 'knm'; did you mean 'knn'"
    ):
        value.read(knn(0.5)[0])


def test_without_a_monitor_the_losses_alone_refuse_a_name() -> None:
    with pytest.raises(SettingError, match=r"'varience'; did you mean 'variance'"):
        Value(Watched(name="varience"), "trainer.best", monitored=False).read({"step": 1, "loss": {"variance": 1.0}})


def test_a_plateau_is_a_number_of_values_in_a_row_that_are_no_better_by_enough() -> None:
    entries = knn(0.5, 0.6, 0.605, 0.62, 0.62, 0.615)
    found = reasons(Stop(StopSettings(name="knn", patience=2, change=0.01)), entries)
    assert [bool(one) for one in found] == [False, False, False, False, False, True]
    assert found[-1] == "plateau: knn stays no better than 0.62 for 2 values"


def test_a_stop_that_reads_the_log_again_ends_where_the_first_did() -> None:
    entries, settings = knn(0.5, 0.4, 0.4, 0.4), StopSettings(name="knn", patience=3)
    whole, resumed = Stop(settings), Stop(settings)
    reasons(resumed, entries[:2])
    assert reasons(whole, entries)[2:] == reasons(resumed, entries[2:])
    assert whole.see(entries[-1]) is not None


def test_collapse_ends_training_only_in_a_row() -> None:
    entries = [{"step": 1, "monitor": one} for one in (FLAT, SPREAD, FLAT, FLAT)]
    found = reasons(Stop(StopSettings(collapse=2)), entries)
    assert [bool(one) for one in found] == [False, False, False, True]
    assert "nearly on one line" in str(found[-1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loggers": ["wandbb"]}, r"loggers\[0\]\.name: no logger is called 'wandbb'; did you mean 'wandb'"),
        ({"loggers": ["csv", {"name": "csv"}]}, r"loggers: 'csv' stands there twice"),
        ({"loggers": [3]}, r"loggers\[0\]\.name: expected the name of a logger"),
        ({"callbacks": ["Tiimer"]}, r"callbacks\[0\]\.name: no callback is called 'Tiimer'; did you mean 'Timer'"),
        ({"keep": 0}, r"keep: must be at least 1"),
        ({"best": {"mode": "max"}}, r"best\.name: required"),
        ({"best": {"name": "knn", "mode": "high"}}, r"best\.mode: must be 'min' or 'max'"),
        ({"stop": {"patence": 3}}, r"stop\.patence: no such setting; did you mean 'patience'"),
        ({"stop": {"patience": 3}}, r"stop\.name: required"),
        ({"stop": {"name": "knn", "patience": 1.5}}, r"stop\.patience: expected a whole number"),
    ],
)
def test_wrong_settings_are_one_line_with_the_whole_key(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        TrainerSettings(steps=1, **settings)
