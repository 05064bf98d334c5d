"""The pages on objectives are what the generator makes today, and say of every objective what a reader compares."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.run.explain import argument_sentences
from ssl_inv.run.folder import RunFolder

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
NAMES = sorted(OBJECTIVES.members)


@pytest.fixture(scope="module")
def module():
    """A module of the generator by its name."""
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def made(module):
    return module("build").pages()


@pytest.fixture(scope="module")
def methods(module):
    return module("build").read_methods()


@pytest.fixture(scope="module")
def papers(module):
    return module("tables").read_papers()


PAGES = ["README.md", *(f"docs/{name}.md" for name in ("choosing", "exam_results", "kornia", "objectives"))]
PAGES += [f"docs/{name}.md" for name in ("protocols", "results", "speed")]


@pytest.mark.parametrize("place", PAGES)
def test_what_is_kept_is_not_stale(made, place):
    assert (REPOSITORY / place).read_text(encoding="utf-8") == made[place], f"run `make docs` and commit {place}"


def test_the_scores_of_recipes_are_those_of_their_records(made):
    recipes = [place for place in made if place.startswith("recipes/")]
    assert len(recipes) > 30
    stale = [place for place in recipes if (REPOSITORY / place).read_text(encoding="utf-8") != made[place]]
    assert not stale, "run `make docs` and commit these"


@pytest.mark.parametrize("name", NAMES)
def test_an_objective_says_what_it_is_and_where_it_is_from_on_a_page_with_all_parts(module, made, methods, name):
    text, method = made[f"{module('build').SITE}/{name}.md"], methods[name]
    for head in ("When to use it", "Measured here", "Recipes", "Settings"):
        assert f"\n## {head}\n" in text
    assert "\n```\n" in text, "no equation"
    assert method.equations, "the docstring has no equation, a paragraph that is indented"
    assert re.search(r"\b(19|20)\d\d\b", method.source), "the docstring's first paragraph names no paper with its year"
    assert method.when, "the docstring has no section `When:`"
    assert not set(method.schema.settings) - set(argument_sentences(method.schema.doc)), "no meaning under Args"


def test_every_objective_has_a_recipe(module):
    assert not set(NAMES) - set(module("build").recipes_by_objective())


def test_links_lead_somewhere_and_tables_are_rectangular(made):
    for page, text in made.items():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            place = (REPOSITORY / page).parent.joinpath(target).resolve()
            assert place.exists() or str(place.relative_to(REPOSITORY)) in made, f"{page} links to {target}"
        for block in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1, f"{page}: {block[:200]}"


def test_the_overview_knows_which_objectives_read_transforms(methods):
    read = {name for name, method in methods.items() if method.reads_transforms}
    assert read == {
        *("augself", "capsie", "care", "conditional-byol", "context-prediction", "context-ssl", "ec-reconstruction"),
        *("equicaps", "equimod", "iwm", "sen", "seq-jepa", "sie", "vicreg-trajectory"),
        *("anti-invariance", "fino", "lewm", "lightly", "sd-jepa", "supervised"),
    }


def test_methods_of_the_papers_have_names_and_two_definitions_of_r2_never_share_a_measure(papers):
    ways = ("per dimension", "pooled", "averaging not stated")
    assert all(any(way in one for way in ways) for one in papers.measures.values() if one.startswith("R2"))
    assert {row["method"] for row in papers.rows} <= {*NAMES, *papers.names}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{source: sei, data: d, setting: s, top1: 1}", "'sie' names the source 'sei', {}; did you mean 'sie'"),
        ("{source: sie, data: d, setting: s, top: 1}", "'sie' names the measure 'top', {}; did you mean 'top1'"),
        ("{source: sie, data: d, top1: 1}", "a row of 'sie' has no 'setting'"),
        ("{source: sie, data: d, setting: s, top1: high}", "top1 of a row of 'sie' must be a number, got 'high'"),
    ],
)
def test_a_mistake_in_the_papers_is_named(module, tmp_path, row, message):
    file = tmp_path / "papers.yaml"
    head = "sources: {sie: x}\nmeasures: {top1: y}\noverview: []\nnames: {}\nobjectives:\n"
    file.write_text(f"{head}  sie:\n    - {row}\n")
    with pytest.raises(ValueError, match=re.escape(message.format("which is not defined"))):
        module("tables").read_papers(file)


def make_run(folder: Path, seed: int, value: float, facts: dict | None = None, **changes: str) -> Path:
    """The folder of a finished run, as far as its results are concerned."""
    folder.mkdir()
    recipe = {
        "objective": "{name: vicreg}",
        "data": "{name: folder, path: /home/someone/photos}",
        "trainer": f"{{steps: 2, seed: {seed}}}",
    }
    lines = [f"{section}: {text}\n" for section, text in {**recipe, **changes}.items()]
    (folder / "recipe.yaml").write_text("".join(lines))
    record = {
        "state": "complete",
        "command": ["ssl-inv", "pretrain", "vicreg-rendered", "--trainer.seed", str(seed)],
        "began": "2026-01-01T10:00:00+0000",
        "ended": "2026-01-01T10:03:00+0000",
        "host": {"machine": "x86_64", "cores": 2, "gpu": None},
        "versions": {"commit": ("a" if seed < 2 else "b") * 40},
    }
    (folder / "run.json").write_text(json.dumps({**record, **(facts or {})}))
    row = {"name": "linear/top1", "part": "all", "value": value, "spread": 0.01, "detail": ""}
    comparison = {"trained": row, "untrained": None, "shuffled": None, "reference": None}
    (folder / "results.json").write_text(json.dumps([comparison]))
    return folder


@pytest.fixture
def recorded(module, tmp_path):
    """The record of a run of one seed."""

    def record(seed: int = 0, value: float = 0.5, facts: dict | None = None):
        folder = RunFolder.open(make_run(tmp_path / f"run-{seed}", seed, value, facts))
        return module("record").record_of("mine", "vicreg-rendered", folder)

    return record


def test_runs_become_mean_and_deviation(module, recorded, tmp_path):
    records = module("record")
    runs = [recorded(seed, value) for seed, value in enumerate((0.5, 0.6, 0.7))]
    records.write_record(records.joined([runs[2], runs[0]]), tmp_path)
    record = records.joined([runs[1], *records.read_records(tmp_path)])
    records.write_record(record, tmp_path)
    assert records.read_records(tmp_path) == [record]
    assert (record.seeds, record.seconds) == ((0, 1, 2), (180.0, 180.0, 180.0))
    assert module("tables").number("linear/top1", record.rows[0].trained) == "60.0 ± 10.0"
    assert "commits aaaaaaa (seeds 0, 1), bbbbbbb (seed 2); 2 cores" in module("tables").circumstances(record)
    assert "someone" not in (tmp_path / "mine.json").read_text()


def test_a_record_older_than_a_setting_has_its_default_and_one_with_a_setting_that_is_gone_stays_as_it_is(recorded):
    record = recorded()
    weights = record.settings["objective"]
    variance = weights.pop("variance")
    assert record.sections()["objective"]["variance"] == variance
    assert "seed" not in record.sections()["trainer"]
    weights["gone"] = 1
    assert record.sections() == record.settings


def test_a_run_that_was_interrupted_has_no_time(recorded):
    assert recorded(facts={"resumed": [{"step": 1, "versions": {"commit": "a" * 40}}]}).seconds == (None,)


def test_a_run_that_began_in_python_needs_its_command(module, tmp_path):
    folder = RunFolder.open(make_run(tmp_path / "run", 0, 0.5, {"command": ["ssl_inv.pretrain", "vicreg-folder"]}))
    with pytest.raises(ValueError, match="began in Python; say --recipe and --command"):
        module("record")._began_with(folder)
    record = module("record").record_of("mine", "vicreg-rendered", folder, "python benchmarks/x.py")
    assert record.commands == ("python benchmarks/x.py",)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"state": "interrupted"}, "its state is 'interrupted'"),
        ({"versions": {}}, "does not know its commit"),
        ({"versions": {"commit": "a" * 40, "uncommitted": "x.py"}}, "files that its commit does not have: x.py"),
        ({"resumed": [{"step": 1, "versions": {"commit": "b" * 40}}]}, f"continued at step 1 with commit {'b' * 40}"),
    ],
)
def test_only_a_finished_run_of_one_commit_is_recorded(recorded, facts, message):
    with pytest.raises(ValueError, match=message):
        recorded(facts=facts)


@pytest.mark.parametrize(
    ("seed", "changes", "message"),
    [(0, {}, "the same seed"), (1, {"trainer": "{steps: 3, seed: 1}"}, "trainer.steps: 2 -> 3")],
)
def test_only_runs_that_differ_in_their_seed_are_averaged(tmp_path, seed, changes, message):
    runs = [make_run(tmp_path / "a", 0, 0.5), make_run(tmp_path / "b", seed, 0.5, **changes)]
    told = subprocess.run([sys.executable, DOCS / "record.py", *runs], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert message in told.stderr
