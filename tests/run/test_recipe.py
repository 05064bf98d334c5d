"""Recipes read as they are written, resolve completely, and explain themselves."""

import inspect
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from ssl_inv.catalogue import AUGMENTATIONS, DATA, OBJECTIVES, OPERATIONS, Catalogue, suggest
from ssl_inv.run.explain import argument_sentences, explained, recipe_head
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.plain_yaml import YAMLError, dump_value, dump_yaml, parse_yaml
from ssl_inv.run.recipe import (
    SECTIONS,
    Choice,
    RecipeError,
    apply_overrides,
    as_saved,
    changes,
    difference,
    load_recipe,
    resolve,
    section_schema,
    shipped_recipes,
)
from ssl_inv.run.schema import conform, schema_of

CATALOGUES = {"objective": OBJECTIVES, "data": DATA, "augmentation": AUGMENTATIONS}
CONTENT: dict[str, Any] = {
    "objective": {"name": "sie", "projector": [64, 64]},
    "data": {"name": "rendered", "objects": 100, "views": 4},
    "trainer": {"steps": 3},
}


def test_a_run_that_began_without_whole_photographs_goes_on_with_squares(tmp_path: Path) -> None:
    settings = {"name": "folder", "path": str(tmp_path), "size": 32}
    recipe = resolve({**CONTENT, "data": settings})
    assert recipe.data.settings["photographs"] == "whole"
    folder = RunFolder.create(tmp_path / "run", recipe, [])
    assert folder.recipe() == recipe
    saved = parse_yaml(folder.recipe_file.read_text())
    del saved["data"]["photographs"]
    folder.recipe_file.write_text(dump_yaml(saved))
    assert folder.recipe().data.settings == {**recipe.data.settings, "photographs": "squares"}
    assert folder.as_begun(recipe, []) == folder.recipe()
    assert folder.as_begun(recipe, ["--data.photographs", "whole"]) == recipe
    larger = folder.as_begun(resolve({**CONTENT, "data": {**settings, "size": 64}}), [])
    assert changes(folder.recipe(), larger) == {"data.size": (32, 64)}
    assert "photographs" not in as_saved(CONTENT)["data"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-3", 0.001), ("5.", 5.0), (".5", 0.5), ("-3", -3), ("010", 10), ("true", True), ("", None), ("~", None)],
        *[(text, text) for text in ("no", "on", "1:30", "2024-01-01")],
        *[("[8, 1e2, x]", [8, 100.0, "x"]), ("{a: circle deg}", {"a": "circle deg"})],
    ],
)
def test_plain_values_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)
    assert parse_yaml(dump_value(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "2024_11_29",
        "0b11",
        "0o14",
        "<<",
        "=",
        "1e3",
        "true",
        "null",
        "~",
        "12",
        "0x1f",
        "a: b",
        "# c",
        "é",
        " padded ",
        "yes",
        "",
    ],
)
def test_a_text_is_written_so_that_it_is_read_as_a_text(text: str) -> None:
    assert parse_yaml(dump_yaml({"key": {"path": text}})) == {"key": {"path": text}}


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        *[(1, float, 1.0), (1e3, int, 1000), (None, int | None, None), (2, int | None, 2), (True, bool, True)],
        *[("a", Literal["a", "b"] | None, "a"), ([1, 2.5], list[float], [1.0, 2.5])],
        *[({"a": "b"}, dict[str, str] | None, {"a": "b"}), ({"a": [1]}, dict[str, Any], {"a": [1]})],
    ],
)
def test_a_fitting_value_is_taken_as_its_type(value: object, annotation: Any, expected: object) -> None:
    assert conform(value, annotation) == expected
    assert type(conform(value, annotation)) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        *[(True, int), ("1", int), (1.5, int), (1, str), (1, bool), (1, Literal[True]), (True, Literal[1, 2])],
        *[(True, float), (float("nan"), float), (float("inf"), float), (None, float), ("c", Literal["a", "b"])],
        *[([None], list[int]), ([1, "x"], list[int]), ([True], list[int]), (1, list[int])],
        *[({"a": "1"}, dict[str, int]), ({"a": 1}, dict[str, str])],
    ],
)
def test_a_value_of_another_type_is_refused(value: object, annotation: Any) -> None:
    with pytest.raises(ValueError, match=r"^(a: )?expected "):
        conform(value, annotation)


def test_a_resolved_recipe_is_complete_and_reads_back_as_itself_and_differences_name_both_values() -> None:
    recipe = resolve(CONTENT)
    assert tuple(recipe.sections()) == SECTIONS
    again = resolve(parse_yaml(recipe.dump()))
    assert again == recipe == resolve(recipe.sections())
    assert difference(recipe, again) == []
    changed = resolve({**CONTENT, "optimizer": {"lr": 0.01}})
    assert difference(recipe, changed) == ["optimizer.lr: 0.001 -> 0.01"]


def test_a_resolved_recipe_shares_no_default_with_another() -> None:
    resolve(CONTENT).objective.settings["parameters"].append("floor_hue")
    assert resolve(CONTENT).objective.settings["parameters"] == ["rotation"]


def test_overrides_change_one_setting_and_leave_the_content_alone() -> None:
    over = apply_overrides(CONTENT, ["--objective.projector=[8]", "--data.views", "-1"])
    assert over["objective"] == {"name": "sie", "projector": [8]}
    assert over["data"] == {"name": "rendered", "objects": 100, "views": -1}
    assert CONTENT["objective"]["projector"] == [64, 64]


@pytest.mark.parametrize("order", [1, -1])
def test_another_name_begins_with_its_own_defaults(order: int) -> None:
    overrides = ["--objective.name=vicreg", "--objective.invariance=3"][::order]
    assert apply_overrides(CONTENT, overrides)["objective"] == {"name": "vicreg", "invariance": 3}
    same = apply_overrides(CONTENT, ["--objective.name=sie"])
    assert same["objective"] == CONTENT["objective"]


NESTED = {"objective": {"name": "ec-reconstruction", "base": {"name": "simclr", "temperature": 0.5}, "weight": 2}}


@pytest.mark.parametrize(
    ("overrides", "base"),
    [
        (["--objective.base.temperature=0.2"], {"name": "simclr", "temperature": 0.2}),
        (["--objective.base.projector", "[8]"], {"name": "simclr", "temperature": 0.5, "projector": [8]}),
        (["--objective.base.invariance=3", "--objective.base.name=vicreg"], {"name": "vicreg", "invariance": 3}),
        (["--objective.base={name: sie}", "--objective.base.invariance=3"], {"name": "sie", "invariance": 3}),
        (["--objective.base.invariance=3", "--objective.base={name: sie}"], {"name": "sie"}),
    ],
    ids=str,
)
def test_overrides_reach_the_settings_of_a_setting(overrides: list[str], base: dict[str, object]) -> None:
    assert apply_overrides(NESTED, overrides)["objective"] == {**NESTED["objective"], "base": base}
    assert NESTED["objective"]["base"] == {"name": "simclr", "temperature": 0.5}


def test_a_mistake_in_the_settings_of_a_setting_is_named_with_its_whole_path() -> None:
    with pytest.raises(RecipeError, match=r"^objective\.base\.temprature: no such setting; did you mean 'temperature'"):
        load_recipe("simclr-ecr-folder", ["--objective.base.temprature=1"])
    with pytest.raises(RecipeError, match=r"^trainer\.800: no such setting; there are steps"):
        resolve({**CONTENT, "trainer": {800: 1}})
    with pytest.raises(RecipeError, match=r"^optimizer\.lr: expected a mapping of settings, got 0\.001"):
        load_recipe("simclr-ecr-folder", ["--optimizer.lr.highest=1"])


@pytest.mark.parametrize(
    ("recipe", "word", "line"),
    [
        (
            "frontier-rendered",
            "weights={rotation: abc}",
            r"objective\.weights\.rotation: expected a number, got 'abc'$",
        ),
        (
            "frontier-rendered",
            "weights={rotation: .nan}",
            r"objective\.weights\.rotation: expected a finite number, got",
        ),
        ("frontier-rendered", "weights={1: 2}", r"objective\.weights: expected names with numbers, got 1 as a name$"),
        ("frontier-rendered", "weights=3", r"objective\.weights: expected a mapping, got 3$"),
        (
            "frontier-rendered",
            "base.invariance=.inf",
            r"objective\.base\.invariance: expected a finite number, got inf$",
        ),
        ("fino-rendered", "ranges={year: [0, .inf]}", r"objective\.ranges\.year: expected a finite number, got inf$"),
        ("frontier-rendered", "convention=x", r"objective\.convention: expected one of sie, [^;]*, got 'x'$"),
        ("frontier-rendered", "convention=canonicl", r"objective\.convention: [^;]*; did you mean 'canonical'\?$"),
    ],
)
def test_an_entry_of_a_mapping_is_named_and_a_list_of_choices_is_given_once(recipe, word, line) -> None:
    with pytest.raises(RecipeError, match=rf"^{line}"):
        load_recipe(recipe, [f"--objective.{word}"])


AROUND = ["anti-invariance", "ec-reconstruction", "fino", "gram-anchoring", "interclr", "ser", "soft-equivariance"]


@pytest.mark.parametrize("name", AROUND)
def test_an_objective_cannot_stand_around_itself(name: str) -> None:
    inner = {"name": name, "base": {"name": "vicreg"}}
    refused = rf"\.name: '{name}' cannot stand around itself; choose another objective$"
    # Also without the settings that it would need.
    for base in (inner, {"name": name}):
        with pytest.raises(RecipeError, match=rf"^objective\.base{refused}"):
            resolve({**CONTENT, "objective": {"name": name, "base": base}})
    other = "ser" if name != "ser" else "fino"
    with pytest.raises(RecipeError, match=rf"^objective\.base\.base{refused}"):
        resolve({**CONTENT, "objective": {"name": name, "base": {"name": other, "base": inner}}})
    # The terms of the parts of a split have names of their own.
    parts = {"name": "split", "invariant": inner, "equivariant": {"name": "sie"}}
    assert resolve({**CONTENT, "objective": {"name": "ser", "base": parts}}).objective.name == "ser"


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_resolves_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name)
    head = recipe_head(shipped_recipes()[name])
    assert head.title
    assert parse_yaml(explained(recipe)).keys() == recipe.sections().keys()
    assert resolve(parse_yaml(explained(recipe))) == recipe
    assert len(shipped_recipes()[name].read_text().splitlines()) <= 40
    assert f"ssl-inv pretrain {name}" in head.facts.get("command", "")


@pytest.mark.parametrize(
    ("section", "name"),
    [
        *((section, None) for section in SECTIONS if section not in CATALOGUES),
        *((section, name) for section, catalogue in CATALOGUES.items() for name in catalogue.members),
    ],
)
def test_every_setting_is_explained(section: str, name: str | None) -> None:
    schema = section_schema(section, name)
    assert schema.settings.keys() <= argument_sentences(schema.doc).keys()


@pytest.mark.parametrize("name", ["folder", "table", "threediebench", "torchvision"])
def test_recipes_can_say_every_setting_and_read_what_it_means(name: str) -> None:
    entry = DATA.find(name)
    settings = schema_of(entry).settings
    assert settings.keys() == inspect.signature(entry.load()).parameters.keys()
    assert all(f"    {setting}: " in schema_of(entry).doc for setting in settings)


@pytest.mark.parametrize("catalogue", [OBJECTIVES, DATA, AUGMENTATIONS, OPERATIONS], ids=lambda one: one.kind)
def test_settings_read_off_the_source_are_those_of_the_imported_member(catalogue: Catalogue) -> None:
    assert catalogue.members
    for name, entry in catalogue.members.items():
        assert entry.name == name
        parameters = inspect.signature(entry.load()).parameters
        real = {key: one.default for key, one in parameters.items() if one.kind is one.KEYWORD_ONLY}
        assert real == {key: one.default for key, one in schema_of(entry).settings.items()}


def test_somebody_elses_class_is_found_by_its_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from ssl_inv.objectives.base import Objective\nclass Theirs(Objective):\n"
    code += '    """Theirs."""\n    def __init__(self, f, g, *, width: int = 4): ...\n'
    (tmp_path / "their_objective.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_INV_TRUST", "their_objective")
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    resolved = resolve({**CONTENT, "objective": {"name": "their_objective.Theirs"}})
    assert resolved.objective == Choice("their_objective.Theirs", {"width": 4})
    with pytest.raises(RecipeError, match=r"objective\.width: expected a whole number"):
        resolve({**CONTENT, "objective": {"name": "their_objective.Theirs", "width": "x"}})


@pytest.mark.parametrize("default", ["Path('x')", "numpy.float32(1)", "[max]"])
def test_a_default_that_no_recipe_can_hold_is_refused(default, tmp_path, monkeypatch) -> None:
    module = f"odd_default_{abs(hash(default))}"
    imports = "from pathlib import Path\nimport numpy\nfrom ssl_inv.objectives.base import Objective\n"
    code = f"{imports}class Mine(Objective):\n    def __init__(self, f, g, *, place={default}):\n        pass\n"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SSL_INV_TRUST", module)
    with pytest.raises(RecipeError, match=r"^objective\.place: its default is .*; recipes hold numbers"):
        resolve({"objective": {"name": f"{module}.Mine"}, "data": {"name": "rendered"}, "trainer": {"steps": 1}})


def test_suggestions_name_the_closest_or_what_there_is() -> None:
    assert suggest("vicrge", ["sie", "vicreg"]) == "did you mean 'vicreg'?"
    assert suggest("zzz", ["sie", "vicreg"]) == "there are sie, vicreg"
    assert suggest("logger", ["devices", "log_every"]) == "there are devices, log_every"
    assert suggest("rotate", ["crop", "rotation"]) == "did you mean 'rotation'?"
    assert suggest("SimCLR", ["simsiam", "simclr"]) == "did you mean 'simclr'?"
    names = ["capsie-rendered", "sie-3diebench", "sie-rendered"]
    assert suggest("sie", names) == "there are sie-3diebench, sie-rendered"


PATHS = ("plain #2", "a: b", "- a", "photos/", "über uns")
VALUES = {"1e-3": 1e-3, "[1, 2]": [1, 2], "{a: b}": {"a": "b"}, "null": None, "'a #b'": "a #b"}


@pytest.mark.parametrize(("word", "value"), {**dict(zip(PATHS, PATHS, strict=True)), **VALUES}.items())
def test_a_path_is_what_was_typed_and_other_values_are_read_as_in_a_recipe(word: str, value: object) -> None:
    assert apply_overrides({}, ["--data.path", word])["data"]["path"] == value


def test_no_key_stands_twice_not_even_one_that_is_nothing() -> None:
    with pytest.raises(YAMLError, match='duplicate key "0"'):
        parse_yaml("0: a\n0: b")
