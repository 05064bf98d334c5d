"""Recipes, runs, checkpoints and exports of others run no code, lead nowhere, and are refused in one line."""

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

import ssl_inv
from ssl_inv.catalogue import OBJECTIVES, SettingError
from ssl_inv.engine.checkpoints import load_checkpoint
from ssl_inv.plain import parse_json, printable, read_json
from ssl_inv.run.cli import main
from ssl_inv.run.plain_yaml import YAMLError, parse_yaml

ROGUE = """\
from os import abort
from pathlib import Path
from ssl_inv.objectives.simclr import SimCLR

Path("it-ran").touch()


class Rogue(SimCLR):
    '''SimCLR by another name.'''
"""


@pytest.fixture
def place(tmp_path: Path, tiny_run: Path, tiny_recipe: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that tells if it is run, a recipe and a run that name it, and an export."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [one for one in sys.path if one])
    monkeypatch.delitem(sys.modules, "rogue", raising=False)
    (tmp_path / "rogue.py").write_text(ROGUE)
    (tmp_path / "rogue.yaml").write_text(tiny_recipe.replace("name: sie", "name: rogue.Rogue"))
    shutil.copytree(tiny_run, tmp_path / "run")
    recipe = (tmp_path / "run" / "recipe.yaml").read_text()
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.replace("name: sie", "name: rogue.Rogue"))
    shutil.copytree(tiny_run / "export", tmp_path / "export")
    return tmp_path


def _refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    "words",
    [
        ["recipes", "rogue.yaml"],
        ["check", "rogue.yaml"],
        ["pretrain", "rogue.yaml", "--output", "new"],
        ["pretrain", "--resume", "run"],
        ["sweep", "rogue.yaml", "--trainer.seed", "0:2", "--output", "runs"],
        ["evaluate", "run", "--evaluation.protocol", "quick"],
        ["evaluate", "run/checkpoints/last.ckpt", "--evaluation.protocol", "quick"],
        ["embed", "run", "--output", "new"],
        ["export", "run"],
    ],
    ids=" ".join,
)
def test_no_command_runs_a_module_that_a_file_names(words, place, capsys):
    line = _refused(capsys, *words)
    assert "objective.name: 'rogue.Rogue' is code of the module 'rogue', which runs only if you allow it" in line
    assert ": --trust rogue, or in Python trust=['rogue']" in line
    assert not (place / "it-ran").exists()
    assert not (place / "new").exists()


def test_an_allowed_module_runs(place, capsys, monkeypatch):
    assert main(["recipes", "rogue.yaml", "--trust", "rogue"]) == 0
    assert (place / "it-ran").exists()
    assert "rogue" in _refused(capsys, "recipes", "rogue.yaml"), "a command's permission ends with it"
    monkeypatch.setenv("SSL_INV_TRUST", "other, rogue")
    assert main(["recipes", "rogue.yaml"]) == 0


def test_what_is_typed_is_the_users_own_word(place, capsys):
    typed = "[{name: other.Callback}]"
    assert main(["recipes", "rogue.yaml", "--objective.name", "rogue.Rogue", "--trainer.callbacks", typed]) == 0
    capsys.readouterr()
    assert "of the module 'rogue'" in _refused(capsys, "recipes", "rogue.yaml", "--trainer.callbacks", typed)


def test_python_takes_the_same_permission(place, monkeypatch):
    for _ in range(2):
        with pytest.raises(ssl_inv.RecipeError, match=r"objective\.name: 'rogue.Rogue' is code of the module"):
            ssl_inv.recipes("rogue.yaml", settings={"objective.name": "rogue.Rogue"})
    assert ssl_inv.recipes("rogue.yaml", trust=["rogue"]).objective.name == "rogue.Rogue"
    for wrong in (["a b"], 3, ["../rogue"]):
        with pytest.raises(ssl_inv.RecipeError, match="trust: must be a list of names of modules"):
            ssl_inv.check("demo", trust=wrong)


@pytest.mark.parametrize("setting", ["objective", "data", "augmentation"])
@pytest.mark.parametrize(("path", "trust"), [("os.abort", "os"), ("rogue.abort", "rogue")])
def test_only_what_is_made_for_the_purpose_is_called(setting, path, trust, place, capsys, tiny_recipe):
    content = yaml.safe_load(tiny_recipe)
    content[setting] = {"name": path}
    (place / "abort.yaml").write_text(yaml.safe_dump(content))
    line = _refused(capsys, "check", "abort.yaml", "--trust", trust)
    assert f"{setting}.name: '{path}' is defined in the module '{os.abort.__module__}'" in line


@pytest.mark.parametrize(
    ("section", "value", "key"),
    [
        ("trainer", {"steps": 2, "loggers": [{"name": "rogue.Rogue"}]}, "trainer.loggers[0].name"),
        ("trainer", {"steps": 2, "callbacks": ["rogue.Rogue"]}, "trainer.callbacks[0].name"),
        ("optimizer", {"name": "rogue.Rogue"}, "optimizer.name"),
        ("backbone", {"name": "rogue.Rogue"}, "backbone.name"),
        ("evaluation", {"also": ["rogue.Rogue"]}, "evaluation.also"),
        ("augmentation", {"name": "simclr", "extra": [{"name": "rogue.Rogue"}]}, "augmentation.extra[0].name"),
        ("data", {"name": "dataset", "dataset": "rogue:Rogue"}, "data.dataset"),
        ("objective", {"name": "interclr", "base": {"name": "rogue.Rogue"}}, "objective.base.name"),
    ],
)
def test_every_setting_that_names_code_asks(section, value, key, place, capsys, tiny_recipe):
    content = {**yaml.safe_load(tiny_recipe), section: value}
    (place / "other.yaml").write_text(yaml.safe_dump(content))
    assert f"error: {key}: 'rogue.Rogue' is code of the module 'rogue'" in _refused(capsys, "check", "other.yaml")
    assert not (place / "it-ran").exists()


def test_metadata_in_the_current_folder_install_nothing(place, monkeypatch):
    folder = place / "rogue-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: rogue\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[ssl_inv.objectives]\nrogue = rogue:Rogue\n")
    monkeypatch.setattr("sys.path", ["", *sys.path])
    monkeypatch.delitem(OBJECTIVES.__dict__, "installed", raising=False)
    with pytest.raises(SettingError, match="no objective is called 'rogue'"):
        OBJECTIVES.find("rogue")
    monkeypatch.delitem(OBJECTIVES.__dict__, "installed", raising=False)


def _set(config: dict[str, object], path: str, value: object) -> None:
    *outer, last = path.split(".")
    for key in outer:
        config = config.setdefault(key, {})  # type: ignore[assignment]
    config[last] = value


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("model_args.pretrained", True, "model_args.pretrained: weights to start from are a setting of their own"),
        ("model_args.checkpoint_path", "/etc/passwd", "model_args.checkpoint_path: weights to start from"),
        ("model_args.features_only", True, "model_args.features_only: a backbone gives one vector"),
        ("model_args.pretrained_model_args", {}, "model_args.pretrained_model_args: weights to start from"),
        ("model_args.block", "https://example.org/a", "is an address and no argument"),
        ("model_args.no_such", 1, "model_args.no_such: no argument of test_resnet"),
        ("model_args.channels", [10**12], "must lie between -65536 and 65536"),
        ("model_args.channels", [60_000] * 4, "belongs to another network"),
        ("model_args.in_chans", float("inf"), "must lie between"),
        ("pretrained_cfg.url", "https://example.org/a.pth", "pretrained_cfg.url leads to other weights"),
        ("pretrained_cfg.hf_hub_id", "a/b", "pretrained_cfg.hf_hub_id leads to other weights"),
        ("pretrained_cfg.file", "/etc/passwd", "pretrained_cfg.file leads to other weights"),
        ("architecture", "hf-hub:timm/resnet18", "timm has no network 'hf-hub:timm/resnet18'"),
        ("architecture", "local-dir:/tmp", "timm has no network"),
        ("pretrained_cfg.std", [float("nan")] * 3, "pretrained_cfg.std must be a list of numbers above 0"),
        ("ssl_inv.parts", {"../../x": [0, 4]}, "ssl_inv.parts has a part '../../x'; names are of"),
        ("ssl_inv.module", "rogue", None),
    ],
)
def test_an_export_leads_to_no_other_network(path, value, problem, place, capsys):
    config = json.loads((place / "export" / "config.json").read_text())
    del config["ssl_inv"]["crc32"]  # who edits a file can make its checksum too
    _set(config, path, value)
    (place / "export" / "config.json").write_text(json.dumps(config))
    words = ["embed", "export", "--data", "rendered", "--data.objects", "8", "--data.views", "1", "--output", "new"]
    if problem is None:
        assert ssl_inv.load("export").parts
        assert not (place / "it-ran").exists()
        return
    assert problem in _refused(capsys, *words)
    assert not (place / "new").exists()


def test_a_checkpoint_that_grows_is_refused(tmp_path):
    whole, grown = tmp_path / "whole.ckpt", tmp_path / "grown.ckpt"
    torch.save({"format": 1, "zeros": torch.zeros(10**6)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(grown, "w", zipfile.ZIP_DEFLATED) as new:
        for one in old.namelist():
            new.writestr(one, old.read(one))
    assert grown.stat().st_size < 10**5
    with pytest.raises(ValueError, match=r"grown.ckpt: not a checkpoint"):
        load_checkpoint(grown)
    with pytest.raises(ValueError, match="its recipe is none"):
        load_checkpoint(whole)


def test_weights_that_do_not_fit_their_recipe_are_one_line(place, tiny_run, capsys):
    shutil.copy(tiny_run / "recipe.yaml", place / "run" / "recipe.yaml")
    file = place / "run" / "checkpoints" / "last.ckpt"
    state = torch.load(file, weights_only=True)
    torch.save({**state, "backbone": {"a": torch.zeros(1)}}, file)
    assert "its weights do not fit the run's recipe" in _refused(capsys, "export", "run")
    torch.save({**state, "groups": {"rotation": ["Rotation", {"no": 1}]}}, file)
    assert "describes no group" in _refused(capsys, "export", "run")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (LAUGHS, "line 5: there are more than 20,000 values"),
        ("a: " + "[" * 100_000, "values are nested more than 40 times"),
        ("a: &a [*a]", "the alias *a stands for what it is in"),
        ("a: !!python/object:os.system x", "the tag 'tag:yaml.org,2002:python/object:os.system' is not read"),
        ("a: 1\na: 2", "line 2: the key 'a' stands twice"),
        ("x" * 600_000, "it has 600,000 characters, and at most 524,288 are read"),
        ("x: 1\n" * 600_000, "it has 3,000,000 bytes, and at most 2,097,152 are read"),
    ],
    ids=["laughs", "deep", "of itself", "tag", "twice", "long", "longer"],
)
def test_a_recipe_is_bounded(text, problem, place, capsys):
    (place / "large.yaml").write_text(text)
    assert problem in _refused(capsys, "check", "large.yaml")


def test_an_ordinary_alias_is_read():
    assert parse_yaml("a: &one [1, 2]\nb: *one\n") == {"a": [1, 2], "b": [1, 2]}
    with pytest.raises(YAMLError):
        parse_yaml("a: 1\nb: [*c]")


@pytest.mark.parametrize("number", ["1e999", ".inf", ".nan", "1" * 30, "1" * 5000])
def test_numbers_that_nothing_can_be_computed_with_are_refused(number, place, capsys, tiny_recipe):
    for setting in ("trainer.steps", "optimizer.lr", "backbone.arguments"):
        value = f"{{drop_rate: {number}}}" if setting == "backbone.arguments" else number
        assert setting in _refused(capsys, "recipes", "demo", f"--{setting}", value)


def test_pipes_and_devices_are_refused_at_once(place, capsys):
    os.mkfifo("pipe.yaml")
    assert "no regular file" in _refused(capsys, "check", "pipe.yaml")
    assert "no regular file" in _refused(capsys, "check", "/dev/zero")
    shutil.rmtree("run/checkpoints")
    os.makedirs("run/checkpoints")
    os.mkfifo("run/checkpoints/last.ckpt")
    assert _refused(capsys, "export", "run", "--trust", "rogue")


def test_json_is_bounded(tmp_path):
    for text in ("[" * 100_000, "[" * 150 + "]" * 150, "{"):
        with pytest.raises(ValueError, match=r"nested more than 100 times|Expecting"):
            parse_json(text)
    assert parse_json("[" * 50 + "]" * 50)
    (tmp_path / "a.json").write_text("[1, 2, 3]")
    with pytest.raises(ValueError, match="at most 4 are read"):
        read_json(tmp_path / "a.json", most=4)
    with pytest.raises(ValueError, match="no regular file"):
        read_json(Path("/dev/zero"))


def test_control_characters_are_shown_and_not_obeyed(place, capsys, tiny_recipe):
    assert printable("a\x1b[2J\u202eb\x9b\r") == r"a\x1b[2J\u202eb\x9b\r"
    assert printable("über\tund\r\nlinks\n") == "über\tund\r\nlinks\n"
    name = '"a\\e]0;title\\ab"'
    (place / "escape.yaml").write_text(tiny_recipe.replace("name: sie", f"name: {name}"))
    assert r"a\x1b]0;title\x07b" in _refused(capsys, "check", "escape.yaml")
    (place / "escape.yaml").write_text(tiny_recipe.replace("every: 0", '"every\\e[2J": 0'))
    assert "\x1b" not in _refused(capsys, "check", "escape.yaml")
    assert len(_refused(capsys, "recipes", "demo", "--data.name", "x" * 10**5)) < 2100
