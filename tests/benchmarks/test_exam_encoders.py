"""The exam of encoders trained here: a call adds what the file lacks and nothing else, and the page shows the gaps."""

import importlib
import json
from pathlib import Path
from statistics import fmean

import pytest

from ssl_inv.catalogue import PROTOCOLS, RecipeError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("benchmarks", "docs"):
            patch.syspath_prepend(str(REPOSITORY / folder))
        names = ("exam_encoders", "exam_cells", "exam_tables", "exam_findings")
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def examined(modules, tmp_path_factory):
    """A folder of two encoders, and the words of the call that made it."""
    folder, script = tmp_path_factory.mktemp("exam"), modules["exam_encoders"]
    words = [str(folder / "runs"), "--encoders", "supervised", "simclr", "--protocols", "knn", "stitching"]
    words += ["--output", str(folder / "numbers")]
    toy = script.Budget(steps=2, batch=8, objects=32, examined=16, views=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(script.BUDGETS, "solids", toy)
        assert script.main(words) == 0
        yield folder / "numbers", words


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.json"))}


def test_a_cell_has_numbers_costs_and_how_it_was_made(modules, examined):
    cells = {cell["encoder"]: cell for cell in modules["exam_cells"].read(examined[0])}
    assert sorted(cells) == ["simclr", "supervised", "untrained"]
    value, spread = cells["simclr"]["results"]["knn/top1 | all"]
    assert 0 <= value <= 1
    assert spread is not None
    assert "stitching/own | all" in cells["simclr"]["results"]
    assert cells["simclr"]["costs"]["knn"][0] >= 0
    assert cells["simclr"]["training"]["cpu_seconds"] > 0
    assert cells["supervised"]["skipped"] == {"stitching": "there is no second encoder to compare with"}
    assert str(examined[0].parent) not in (examined[0] / "solids/simclr.json").read_text()


def test_a_second_call_adds_nothing_and_a_further_seed_is_missing(modules, examined, monkeypatch, capsys):
    script, (folder, words) = modules["exam_encoders"], examined
    before = contents(folder)
    monkeypatch.setattr(script, "trained", lambda *_: pytest.fail("a complete cell was trained"))
    assert script.main(words) == 0
    assert "has every cell" in capsys.readouterr().out
    assert contents(folder) == before
    asked = script.parsed([*words, "--seeds", "0", "1"])
    assert list(script.missing(folder, asked, script.BUDGETS["solids"])) == [(1, "supervised"), (1, "simclr")]


def test_what_a_call_before_has_measured_is_read_again(modules, examined, monkeypatch):
    script, (folder, words) = modules["exam_encoders"], examined
    known = modules["exam_cells"].read(folder)
    monkeypatch.setattr("ssl_inv.run.judging.measured", lambda *_: pytest.fail("a protocol was measured again"))
    assert script.main([*words, "--again"]) == 0
    again = modules["exam_cells"].read(folder)
    assert [cell["results"] for cell in again] == [cell["results"] for cell in known]


def test_cells_of_another_budget_are_not_mixed(modules, examined, capsys):
    script, (folder, words) = modules["exam_encoders"], examined
    before = contents(folder)
    assert script.main([*words, "--steps", "3"]) == 2
    assert "cells of another budget" in capsys.readouterr().err
    assert contents(folder) == before


def test_the_page_shows_what_has_not_run_and_what_was_not_measured(modules, examined):
    tables = modules["exam_tables"]
    text = tables.page(modules["exam_cells"].read(examined[0]))
    assert "**Not run yet**: `vicreg`, `sie`" in text
    assert "| `sie` | 0 | not run |" in text
    assert "`simclr` 1 of 3" in text
    assert "`stitching`: there is no second encoder to compare with (`untrained`, `supervised`)" in text
    assert "Not run yet: CIFAR-10." in text
    assert "nan" not in text


def test_numbers_over_seeds_have_their_deviation(modules, examined):
    tables = modules["exam_tables"]
    (cell,) = (one for one in modules["exam_cells"].read(examined[0]) if one["encoder"] == "simclr")
    seeds = [
        {**cell, "seed": seed, "results": {"knn/top1 | all": [value, 0.01]}} for seed, value in enumerate((0.1, 0.3))
    ]
    assert "| `simclr` | 2 | 20.0 ± 14.1 |" in tables.page(seeds)


def test_more_seeds_do_not_lessen_what_the_objects_that_they_share_add_to_an_error(modules):
    over_seeds = modules["exam_findings"].over_seeds
    assert over_seeds([(0.5, 0.1)] * 3) == (pytest.approx(0.5), pytest.approx(0.1))
    assert over_seeds([(0.0, 0.3), (0.8, 0.3)]) == (pytest.approx(0.4), pytest.approx(0.5))
    assert over_seeds([(0.1, None), (0.3, None)]) == (pytest.approx(0.2), None)


def test_targets_are_shuffled_for_trained_encoders_alone(modules, examined):
    cells = {one["encoder"]: one["shuffled"] for one in modules["exam_cells"].read(examined[0])}
    assert cells["supervised"]
    assert not cells["untrained"]


def test_the_columns_belong_to_protocols_and_a_cell_says_which_it_lacks(modules, examined):
    tables = modules["exam_tables"]
    assert not {one.protocol for columns in tables.TABLES.values() for one in columns} - set(PROTOCOLS.members)
    cells = modules["exam_cells"].read(examined[0])
    (number,) = (place for place, one in enumerate(cells) if one["encoder"] == "simclr")
    kept = {key: row for key, row in cells[number]["results"].items() if not key.startswith("knn")}
    cells[number] = {**cells[number], "protocols": ["stitching"], "results": kept}
    text = tables.page(cells)
    assert "**Protocols that not all cells were measured by**: `knn` 2 of 3 cells." in text
    assert "| `simclr` | 1 | not run |" in text


def test_files_of_encoders_keep_all_of_a_cell_and_one_list_of_cells_is_converted(modules, tmp_path):
    cells = modules["exam_cells"]
    facts = {"data": "solids", "encoder": "a", "protocols": ["knn"], "costs": {}, "skipped": {}}
    one = {**facts, "results": {"knn/top1 | all": [0.5, None], "lidar | all": [9.1, 0.2]}, "seed": 0, "date": "2"}
    one |= {"shuffled": {"knn/top1 | all": 0.1, "path | all": 0.3}, "lacking": {"cka | all": "too few"}}
    other = {**one, "seed": 1, "results": {"lidar | all": [8.0, None]}, "shuffled": {}, "lacking": {}, "date": "1"}
    old, place = tmp_path / "numbers.json", tmp_path / "numbers"
    old.write_text(json.dumps({"cells": [one, other]}))
    assert cells.read(place) == [one, other]  # the former kind beside the folder
    assert cells.main([str(old), str(place)]) == 0
    old.unlink()
    assert cells.read(place) == [one, other]
    # What the folder has since then is not replaced by an older file.
    cells.merge(place, [{**other, "date": "3"}])
    old.write_text(json.dumps({"cells": [one, other]}))
    assert cells.main([str(old), str(place)]) == 0
    assert [cell["date"] for cell in cells.read(place)] == ["2", "3"]
    assert cells.main([str(tmp_path / "none.json"), str(place)]) == 2


def test_a_finding_is_a_pair_that_the_usual_numbers_do_not_tell_apart(modules):
    columns = {
        "linear": {"a": (0.90, 0.01), "b": (0.91, 0.01), "c": (0.5, 0.01)},
        "shift": {"a": (0.9, 0.01), "b": (0.5, 0.01), "c": (0.9, 0.01)},
    }
    found = modules["exam_findings"].told_apart(columns, ["linear"])
    assert [(one, other, heading) for one, other, heading, _ in found] == [("a", "b", "shift")]
    columns = {"R2 hue": {"a": (0.5, 0.01), "b": (0.7, 0.01), "c": (0.69, 0.01)}, "map": columns["linear"]}
    assert modules["exam_findings"].below_untrained(columns, {"R2 hue": (0.71, 0.01)}) == {"R2 hue": ["a"]}
    columns["map"] = {"a": (1.0, 0.1), "b": (1.01, 0.1), "c": (0.9, 0.1)}
    assert modules["exam_findings"].tell_none_apart(columns) == ["map"]
    columns = {"map": {**dict.fromkeys("bcde", (0.3639, 0.1)), "a": (fmean([0.3639] * 3), 0.1)}}
    columns["linear"] = {name: (float(place), 0.1) for place, name in enumerate("abcde")}
    assert modules["exam_findings"].rank_correlations(columns, ["linear"]) == [], "rounding is no order"
    assert modules["exam_findings"].is_constant(columns["map"])
    # The table of critical values of a correlation: 0.878 for 5 pairs, 0.632 for 10.
    assert modules["exam_findings"].by_chance(5) == pytest.approx(0.878, abs=1e-3)
    assert modules["exam_findings"].by_chance(10) == pytest.approx(0.632, abs=1e-3)


def test_the_first_images_of_every_class_are_copied(modules, tmp_path):
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            (tmp_path / "all" / split / name).mkdir(parents=True)
            for number in range(3):
                (tmp_path / "all" / split / name / f"{number}.jpg").write_bytes(split.encode())
    modules["exam_encoders"].first_images(tmp_path / "all", tmp_path / "some", {"train": 2, "val": 1})
    files = sorted(path.relative_to(tmp_path / "some").as_posix() for path in (tmp_path / "some").rglob("*.jpg"))
    assert files == ["train/a/0.jpg", "train/a/1.jpg", "train/b/0.jpg", "train/b/1.jpg", "val/a/0.jpg", "val/b/0.jpg"]
    assert (tmp_path / "some/val/a/0.jpg").read_text() == "test"
    with pytest.raises(RecipeError, match="has no images in train/CLASS"):
        modules["exam_encoders"].first_images(tmp_path / "all" / "train", tmp_path / "none", {"train": 2, "val": 1})
