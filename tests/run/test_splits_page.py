"""Tables and sentences of docs/splits.md and of the plateau are made of the numbers of the cells, and of all seeds."""

import importlib
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def module():
    """A module of the generator by its name."""
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module
    sys.path.remove(str(DOCS))


def content(module, **changed):
    """A study in which every cell has the same numbers, but for the measures of some cells."""
    tables = module("split_tables")
    numbers = {f"linear | {part}": 0.5 for part in ("all", "invariant", "equivariant")}
    numbers |= {f"rotation | {part}": 0.4 for part in ("all", "invariant", "equivariant")}
    stages = {f"{measure} | {stage}": 0.3 for measure in ("rotation", "linear") for stage in tables.STAGES}
    cells = []
    for cell in {**tables.SHARES, **tables.ORDERS, **tables.DEPTHS, **tables.LAYERS}:
        own = {**numbers, "pose_leak": 0.9, "class_leak": 0.8, **changed.get(cell.replace(" ", "_"), {})}
        both = {"trained": dict(stages), "untrained": dict(stages)}
        cells.append({"cell": cell, "seed": 0, "steps": [300], "numbers": own, "stages": both, "commit": "c" * 40})
    return {"cells": cells, "command": "python benchmarks/split_study.py x", "machine": "1 thread"}


def rows(text: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell; of the last one of the same name."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


def test_seeds_are_a_mean_with_its_deviation_and_one_seed_has_none(module):
    study, tables = content(module), module("split_tables")
    again = {**study["cells"][0], "seed": 1, "numbers": {**study["cells"][0]["numbers"], "linear | all": 0.7}}
    study["cells"].append(again)
    found = rows(tables.shares(study))
    assert found["SIE, 0.125"][:2] == ["2", "60.0 ± 14.1"]
    assert found["SIE, 0.25"][:3] == ["1", "50.0", "50.0"]
    assert found["SIE, 0.25"][-2:] == ["0.900", "0.800"]
    assert "Seeds 0, 1; commit ccccccc; 1 thread; `python benchmarks/split_study.py x`." in tables.findings(study)


def test_the_parts_of_the_other_order_are_named_by_what_they_learn(module):
    study = content(module, equivariant_first_channels={"rotation | invariant": 0.9})
    row = rows(module("split_tables").depths(study))["both after stage 4, the equivariant part in the first channels"]
    assert row[4:7] == ["0.400", "0.400", "0.900"]
    assert row[7:] == ["", ""]


@pytest.mark.parametrize(
    ("held", "words"), [(0.4, "about as much as"), (0.48, "more than"), (0.32, "less than"), (0.44, "about as much as")]
)
def test_a_sentence_tells_apart_what_seeds_tell_apart(module, held, words):
    name = "invariant 300, held, equivariant 300".replace(" ", "_")
    study = content(module, **{name: {"rotation | equivariant": held}})
    one = next(one for one in study["cells"] if one["cell"] == "share 0.25")
    # Over all three parts a deviation of 0.024: two standard errors of a difference of two runs are 0.069.
    study["cells"].append({**one, "seed": 1, "numbers": {**one["numbers"], "rotation | invariant": 0.46}})
    text = module("split_tables").findings(study)
    assert f"it has {held:.3f}. That is {words} as one layer on a random network, 0.400, {words} the same" in text


def test_a_sentence_compares_the_seeds_that_all_its_cells_have(module):
    study = content(module)
    alone = next(one for one in study["cells"] if one["cell"] == "equivariant alone")
    study["cells"].append({**alone, "seed": 1, "numbers": {**alone["numbers"], "rotation | equivariant": 0.9}})
    text = module("split_tables").findings(study)
    assert "a rotation R2 of 0.400 alone, and 0.400 beside the invariant part" in text
    assert rows(module("split_tables").orders(study))["equivariant alone"][0] == "2"


def test_a_missing_cell_leaves_its_sentences_out(module):
    study, tables = content(module), module("split_tables")
    assert "**Size.**" in tables.findings(study)
    study["cells"] = [one for one in study["cells"] if one["cell"] not in ("share 0.25", "simclr")]
    assert "**Size.**" not in tables.findings(study)
    assert "SIE, 0.25" not in tables.shares(study)
    assert "SimCLR" not in rows(tables.layers(study))


def test_a_network_that_loses_the_rotation_is_told_from_one_that_gains_it(module):
    study, tables = content(module), module("split_tables")
    one = next(one for one in study["cells"] if one["cell"] == "simclr")
    one["stages"]["trained"]["rotation | layer 00"] = 0.6
    one = next(one for one in study["cells"] if one["cell"] == "share 0.5")
    one["stages"]["trained"]["rotation | layer 04"] = 0.7
    text = tables.findings(study)
    assert "Less at the end: SimCLR 0.600 and 0.300" in text.partition(" More: ")[0]
    assert "SIE 0.300 and 0.700." in text.partition(" More: ")[2]


def test_the_plateau_has_a_row_for_every_way_and_says_never(module):
    one = {
        **{"data": "solids", "way": "sie", "objects": 1000, "seed": 0, "steps": 50, "known_left": 25, "new_left": None},
        **{
            "scores": [[0, 0.1, 0.2], [25, 0.1, 0.0], [50, 0.3, 0.01]],
            "command": "python benchmarks/plateau.py --ways sie",
        },
        **{"threads": 1, "machine": "x86_64", "torch": "2.0", "commit": "0123456789"},
    }
    other = {**one, "seed": 1, "known_left": 50, "scores": [[0, 0.3, 0.2], [25, 0.0, 0.0], [50, 0.5, 0.03]]}
    few = {**one, "way": "group", "objects": 10}
    photographs = {**one, "data": "turntable", "command": "python benchmarks/plateau.py --data turntable --path a.zip"}
    solids, turntable = module("plateau_tables").plateau({"cells": [photographs, other, few, one]}).split("**Fruits")
    found = rows(solids)
    assert list(found[""]) == ["10 objects", "1,000 objects"]
    assert found["SIE as published"] == ["", "0.400 ± 0.141 / 0.020 ± 0.014 (25, 50 / never, never)"]
    assert list(found)[2:] == ["SIE as published", "SIE, begun as the group", "untrained"]
    assert found["untrained"] == ["0.100 / 0.200", "0.200 ± 0.141 / 0.200 ± 0.000"]
    assert "commit 0123456; 1 thread, x86_64; torch 2.0, 50 steps; `python benchmarks/plateau.py --objects" in solids
    assert "--objects 10 1000 --ways sie group --seeds 0 1 --steps 50 --every 25 --output new.json`" in solids
    asked = "--data turntable --path a.zip --ways sie --seeds 0 --steps 50 --every 25 --output new.json"
    assert f"`python benchmarks/plateau.py {asked}`" in turntable
