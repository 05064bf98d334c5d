"""Every number of quality on the pages and at the heads of recipes is one of docs/results; its tables say what they
compare and with what."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from ssl_inv.run.recipe import read_yaml, shipped_recipes

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
CHECKED = [
    "README.md",
    *(f"docs/{name}.md" for name in ("results", "choosing", "kornia", "memories", "libraries", "splits")),
]
RECIPES = {f"recipes/{name}.yaml": path for name, path in shipped_recipes().items()}
PLACES = {**{place: REPOSITORY / place for place in CHECKED}, **RECIPES}


@pytest.fixture(scope="module")
def module():
    """A module of the generator by its name."""
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def records(module):
    return module("record").read_records()


@pytest.fixture(scope="module")
def quotes(module):
    return module("numbers_in_prose").quotes(module("record").read_tables())


@pytest.fixture(scope="module")
def papers(module):
    return module("tables").read_papers()


@pytest.mark.parametrize("place", PLACES)
def test_a_number_in_prose_is_one_of_the_results(module, records, quotes, papers, place):
    prose, path = module("numbers_in_prose"), PLACES[place]
    told = prose.published(papers, read_yaml(path)["objective"]["name"]) if place in RECIPES else ()
    assert not prose.without_source(path, place, records, quotes, told)


def test_what_is_quoted_still_stands_there(module, quotes):
    quoted = [quote for quote in quotes if quote.what not in module("record").read_tables()]
    assert quoted
    assert not module("numbers_in_prose").stale(PLACES, quoted)


@pytest.mark.parametrize(
    ("prose", "numbers"),
    [
        ("It ends at linear 0.374 and kNN 0.52, with lr 0.003.", ["0.374", "0.52"]),
        ("MRR 0.942 ± 0.005 with --objective.weight 0.1; a share of 0.25 is held out.", ["0.942 ± 0.005"]),
        ("`linear: 0.374` and R2 of 12.5 % are no such numbers, nor is version 0.10.1.", []),
    ],
)
def test_what_counts_as_a_number_of_quality(module, prose, numbers):
    assert sorted(module("numbers_in_prose").quoted(prose)) == sorted(numbers)


def test_a_wrong_number_or_one_of_another_record_is_found(module, records, tmp_path):
    prose, page = module("numbers_in_prose"), tmp_path / "page.md"
    record = next(one for one in records if one.name == "sie-rendered")
    right = module("tables").mean(record.find("linear/top1", "all").trained)
    page.write_text(f"# One\n\n`sie-rendered`: linear {right:.3f}.\n\n# Two\n\nlinear {right:.3f}, R2 0.999 ± 0.001.\n")
    assert prose.without_source(page, "page.md", records, []) == ["0.999 ± 0.001", f"{right:.3f}"]


def test_the_score_of_a_recipe_is_made_from_its_record_and_the_rest_of_the_head_stays(module, records):
    heads, record = module("recipe_heads"), next(one for one in records if one.name == "sie-rendered")
    text = RECIPES["recipes/sie-rendered.yaml"].read_text(encoding="utf-8")
    assert heads.with_score(text, record) == text
    changed = text.replace("± 0.", "± 9.")
    assert changed != text
    assert heads.with_score(changed, record) == text
    with pytest.raises(ValueError, match="needs a line that begins with `# score:`"):
        heads.with_score(text.replace("# score:", "# points:"), record)


def test_a_block_without_end_or_of_an_unknown_source_is_refused(module, monkeypatch, tmp_path):
    build = module("build")
    monkeypatch.setattr(build, "REPOSITORY", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- made by `make docs` from x -->\nold\n<!-- end -->\nb\n")
    assert build.with_blocks("page.md", {"x": lambda: "new"}) == page.read_text().replace("old", "new")
    with pytest.raises(ValueError, match=r"page.md: no block is made from 'x'; did you mean 'xy'|there is xy"):
        build.with_blocks("page.md", {"xy": lambda: ""})
    page.write_text("<!-- made by `make docs` from x -->\nold\n")
    with pytest.raises(ValueError, match="1 blocks begin and 0 end"):
        build.with_blocks("page.md", {"x": lambda: "new"})


# Benchmarks.


def test_rivals_stand_beside_each_other_with_the_facts(module):
    at = {"step": 10, "passed_s": 2.0, "knn": 0.3, "linear": 0.4}
    cell = {"method": "simclr", "images_per_s": 640.4, "peak_mb": 900.0, "imported_mb": 700.0, "at_steps": at}
    content = {
        "command": "python benchmarks/rivals.py --images x",
        "commit": "d" * 40,
        "machine": "2 cores",
        "note": "busy",
        "versions": {"ours": {"torch": "2.0"}, "lightly": {"torch": "2.0", "lightly": "1.6.0"}},
        "settings": {"seconds": 20.0, "steps": 5, "clock": "processor"},
        "untrained": [{"seed": 0, "knn": 0.2, "linear": 0.25}],
        "cells": [
            {**cell, "library": name, "seed": seed, "at_seconds": {**at, "knn": knn}}
            for name, seed, knn in (("lightly", 0, 0.2), ("ours", 0, 0.3), ("ours", 1, 0.4))
        ],
    }
    text = module("benchmark_tables").rivals(content)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[2][:6] == ["simclr", "ours", "640", "10", "35.0 ± 7.1", "40.0 ± 0.0"]
    assert rows[3][:5] == ["simclr", "lightly", "640", "10", "20.0"]
    assert rows[4][:6] == ["untrained", "", "", "", "20.0", "25.0"]
    for fact in (
        "Seeds 0, 1; commit ddddddd; 2 cores; processor time",
        "lightly 1.6.0",
        "busy",
        "rivals.py --images x",
    ):
        assert fact in text


def test_a_record_keeps_the_command_without_paths_and_an_older_one_says_unknown(module, records):
    command = module("record").portable_command(
        ["ssl-inv", "pretrain", "x", "--data.path", "/home/someone/photos", "--output=/tmp/out", "--trainer.seed", "1"]
    )
    assert command == "ssl-inv pretrain x --data.path photos --trainer.seed 1"
    older = next(one for one in records if one.name == "sie-rendered")
    assert "commands" not in json.loads((DOCS / "results/sie-rendered.json").read_text())
    assert older.commands == ("unknown",) * 3
    assert "command unknown" in module("tables").circumstances(older)
