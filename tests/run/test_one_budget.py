"""Tables and charts of encoders on one budget, from numbers whose answer is known."""

import importlib
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FACTS = {"commit": "c" * 40, "threads": 1, "machine": "x86_64", "torch": "2", "date": "2026-11-30T00:00:00+0000"}


@pytest.fixture
def docs(monkeypatch):
    """A module of the documentation by its name."""
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module


def run(linear: float, rotation: float, objective: str = "sie") -> dict[str, object]:
    numbers = {
        "linear/top1 | all": [linear, 0.01, 0.2, 0.1],
        "r2/relative/rotation | all": [rotation, 0.01, 0.05, 0.0],
        "r2/relative/rotation | equivariant": [0.01, 0.01, 0.05, 0.0],
    }
    return {**FACTS, "objective": {"name": objective}, "images": 128, "numbers": numbers}


def near(linear: float, rotation: float, knn: float) -> dict[str, object]:
    found = run(linear, rotation)
    found["numbers"] |= {"knn/top1 | all": [knn, 0.01, 0.2, 0.1]}
    return found


RUNS = {
    "solids-small supervised-classes 0": run(0.9, 0.3),
    "solids-small supervised-rotation 0": run(0.4, 0.8),
    "solids-small simclr 0": run(0.78, 0.2),
    "solids-small simclr 1": run(0.82, 0.4),
    "solids-small sie 0": run(0.4, 0.6),
    "meshes supervised-classes 0": run(0.5, 0.1),
    "meshes supervised-rotation 0": run(0.2, 0.4),
    "meshes sie 0": run(0.25, 0.2),
    "meshes-known sie 0": run(0.25, 0.3),
}


def cells(text: str, name: str) -> list[str]:
    return [cell.strip() for cell in re.search(rf"^\| `?{name}`? .*$", text, re.MULTILINE)[0].split("|")[1:-1]]


def test_shares_are_of_what_is_known_without_labels_and_of_the_rotation_that_was_told(docs):
    runs = {**RUNS, "solids-small simclr 1": near(0.82, 0.4, 0.6), "solids-small sie 0": near(0.4, 0.6, 0.3)}
    text = docs("one_budget").frontier({"runs": runs}, "solids-small")
    assert cells(text, "simclr")[1:4] == ["2", "128", "80.0 ± 2.8"]
    assert cells(text, "simclr")[-3:] == ["100", "100", "38"]
    assert cells(text, "sie")[-3:] == ["50", "50", "75"]
    assert cells(text, "sie")[5] == "0.600", "of all features: as wide as those of encoders without parts"
    assert cells(text, "untrained")[1:4] == ["", "", "20.0 ± 0.0"]
    names = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    assert names[:2] == ["sie", "simclr"], "by the least share"
    assert "Seeds 0, 1; commit ccccccc; x86_64" in text


def test_classes_are_compared_with_those_of_no_more_images(docs):
    more = {"solids-small vicreg-160 0": {**run(0.9, 0.2), "images": 320}}
    more |= {"solids-small frontier-split 0": {**run(0.45, 0.8), "images": 320}}
    text = docs("one_budget").frontier({"runs": {**RUNS, **more}}, "solids-small")
    assert cells(text, "sie")[-2:] == ["50", "75"], "of SimCLR, not of five views"
    assert cells(text, "frontier-split")[-2:] == ["50", "100"]
    assert cells(text, "frontier-split")[2] == "320"


def test_the_candidate_of_its_name_stands_for_an_objective(docs):
    runs = {"x sie-all 0": run(0.5, 0.9), "x sie-all 1": run(0.5, 0.9), "x sie 0": run(0.4, 0.6)}
    runs |= {"x near 0": run(0.7, 0.1, objective="vicreg"), "x other 0": run(0.9, 0.5, objective="vicreg")}
    runs |= {"x other 1": run(0.9, 0.5, objective="vicreg")}
    found = docs("one_budget").of_objectives({"runs": runs}, "x")
    assert found["sie"] == ("40.0", "0.600")
    assert found["vicreg"][0].startswith("90.0"), "of most seeds"


def test_the_benchmark_on_meshes_has_both_questions_two_bounds_and_equal_images(docs):
    more = {"meshes simclr 0": near(0.4, 0.1, 0.4), "meshes simclr-96 0": {**near(0.5, 0.1, 0.3), "images": 192}}
    more |= {"meshes frontier 0": {**near(0.45, 0.3, 0.3), "images": 192}}
    text = docs("one_budget").meshes({"runs": {**RUNS, **more}})
    first, _, second = text.partition("**New views of known objects**")
    assert cells(first, "sie")[1:4] == ["1", "128", "25.0"]
    assert cells(first, "sie")[-4:] == ["50", "62", "", "50"], "of the supervised networks, and of SimCLR with as many"
    assert cells(first, "frontier")[-4:] == ["90", "90", "75", "75"], "of 96 pairs, too"
    assert cells(first, "untrained")[1:4] == ["", "", "20.0"]
    assert cells(second, "sie")[4] == "0.300"
    assert "Seeds 0; commit ccccccc; x86_64; torch 2, 1 thread, 2026-11-30; `python benchmarks/on_one" in first
    assert docs("one_budget").meshes({"runs": {}}) == ""


def test_classes_of_several_views_at_once_have_rows_of_their_own(docs):
    several = run(0.5, 0.2)
    several["numbers"] |= {"linear/top1 | aggregate of 4 views": [0.7, 0.01, 0.3, 0.1]}
    runs = {"meshes-known seq-jepa 0": several, "meshes-known seq-jepa 1": {**several, "commit": "d" * 40}}
    text = docs("one_budget").meshes({"runs": {**RUNS, **runs}}).partition("**New views of known objects**")[2]
    assert cells(text, "seq-jepa")[1:4] == ["2", "128", "50.0 ± 0.0"]
    assert cells(text, "seq-jepa, aggregate of 4")[1:5] == ["2", "128", "70.0 ± 0.0", ""]
    assert "Seeds 0, 1; commits ccccccc, ddddddd; x86_64" in text
    assert text.count("aggregate of 4") == 1


def test_experiments_stand_beside_what_they_change(docs):
    content = {
        "runs": {"solids-near sie-quaternion 0": run(0.4, 0.5), "meshes-known sie-quaternion-held 0": run(0.6, 0.2)}
    }
    runs = {"meshes-known sie-quaternion 0": run(0.9, 0.1), "solids-small sie-quaternion 0": run(0.5, 0.7)}
    text = docs("mesh_tables").reasons(content, {"runs": {**RUNS, **runs}})
    found = [[cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines() if line.startswith("|")][2:]
    assert [row[1:3] for row in found] == [["90.0", "0.100"], ["60.0", "0.200"], ["50.0", "0.700"], ["40.0", "0.500"]]
    assert "commit ccccccc" in text


def test_objects_that_are_moved_too_have_a_table_of_their_own(docs):
    moved = run(0.5, 0.2)
    moved["numbers"] |= {"r2/relative/translation | all": [0.4, 0.01, 0.3, 0.1]}
    text = docs("mesh_tables").shifted(
        {"runs": {"meshes-shifted sie 0": moved, "meshes-shifted vicreg 0": run(0.6, 0.3)}}
    )
    names = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:]
    assert names == ["vicreg", "sie", "untrained"]
    assert cells(text, "sie") == ["sie", "1", "50.0", "0.200", "0.400"]
    assert cells(text, "untrained")[-1] == "0.300"


def test_unseen_angles_are_of_all_seeds_best_carried_over_first(docs):
    def of(carried: float) -> dict[str, object]:
        places = {"inside": [0.9, 0.3], "carried over": [carried, 0.2], "fitted there": [0.8, 0.3]}
        return {**FACTS, "numbers": {"linear/top1": places, "r2/relative/rotation": places}}

    text = docs("mesh_tables").unseen_angles({"runs": {"sie 0": of(0.3), "vicreg 0": of(0.5), "vicreg 1": of(0.6)}})
    names = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:]
    assert names == ["vicreg", "sie", "untrained"]
    assert cells(text, "vicreg")[1:5] == ["2", "90.0 ± 0.0", "55.0 ± 7.1", "80.0 ± 0.0"]
    assert cells(text, "untrained")[3] == "20.0 ± 0.0"


def test_objectives_at_equal_time_follow_their_bases(docs):
    def of(linear: float, **further: object) -> dict[str, object]:
        return {**run(linear, 0.0), "seconds": 60.0, "steps": 1200, "watched": {}, **further}

    runs = {
        "grocery interclr 0": of(0.4, watched={"purity": 0.3}),
        "grocery moco-v2 0": of(0.35),
        "grocery simclr 0": of(0.3),
    }
    runs["grocery transitive 0"] = of(0.5, steps_of_teacher=600, watched={"precision_inter": 0.25})
    text = docs("equal_time_tables").equal_time({"runs": runs})
    names = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:]
    assert names == ["SimCLR", "transitive invariance, on SimCLR", "MoCo v2", "InterCLR, on MoCo v2", "untrained"]
    assert cells(text, "transitive invariance, on SimCLR")[1:] == ["1", "600 + 1,200", "50.0", "25.0"]
    assert cells(text, "untrained")[3] == "20.0"


def test_the_short_table_on_meshes_has_what_was_asked_of_both_questions(docs):
    both = {f"meshes-known {name} 0": run(0.5, 0.3) for name in ("supervised-classes", "simclr", "frontier")}
    both |= {f"meshes {name} 0": run(0.4, 0.1) for name in ("supervised-classes", "simclr", "vicreg")}
    text = docs("one_budget").meshes_in_short({"runs": both})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert [row[0] for row in rows[2:]] == ["supervised, told the classes", "SimCLR", "untrained"]
    assert rows[3][1:] == ["40.0", "0.100", "50.0", "0.300"], "a column without numbers is left out"
    assert rows[0][0] == "one seed"
    assert docs("one_budget").meshes_in_short({"runs": {}}) == ""


def test_the_chart_has_a_point_for_every_candidate_and_the_corner(docs):
    chart = docs("one_budget").chart({"runs": RUNS}, "solids-small")
    root = ElementTree.fromstring(chart)
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}circle")) == 5
    assert {"simclr", "sie", "untrained"} <= {one.text for one in root.findall(f"{space}text")}
    corner = root.findall(f"{space}rect")[1]
    points = [(float(one.get("cx")), float(one.get("cy"))) for one in root.findall(f"{space}circle")]
    left, low = float(corner.get("x")), float(corner.get("y")) + float(corner.get("height"))
    assert [x >= left and y <= low for x, y in points].count(True) == 0, "nothing here reaches both"
