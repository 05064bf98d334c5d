"""A card says how to load a network, what its parts are and what was measured, and nothing about its owner's disk."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ssl_inv.evaluation.results import Comparison, Result, to_json
from ssl_inv.nn.backbones import make_backbone
from ssl_inv.run.cli import main
from ssl_inv.run.exports.model_card import Trained, addressed, escaped, front_matter, model_card, read_results
from ssl_inv.run.exports.parts import parts_of
from ssl_inv.run.exports.reading import load_backbone_file
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.recipe import Choice
from ssl_inv.run.saved_run import SavedRun
from ssl_inv.run.tables import shown

RESULTS = [
    Comparison(
        Result("linear/top1", "all", 0.9, 0.01), Result("linear/top1", "all", 0.4), Result("linear/top1", "all", 0.1)
    ),
    Comparison(
        Result("r2/relative/floor_hue", "equivariant", 0.504), Result("r2/relative/floor_hue", "equivariant", 0.872)
    ),
    Comparison(Result("aggregation", "all", None, detail="not measured")),
]


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> RunFolder:
    shutil.copytree(tiny_run, tmp_path / "a run")
    return RunFolder.open(tmp_path / "a run")


def trained(folder: RunFolder) -> Trained:
    run = SavedRun.open(folder)
    backbone, objective = run.backbone(), run.objective()
    assert objective is not None
    parts = parts_of(objective, backbone, 32)
    return Trained(
        run.recipe, backbone, run.preprocessing, parts, tuple(objective.parameters_told), run.state["step"], (32, 96)
    )


def test_a_run_leaves_a_card_that_hubs_read(tiny_run: Path) -> None:
    head = front_matter((tiny_run / "export" / "README.md").read_text())
    assert (head["library_name"], head["pipeline_tag"]) == ("timm", "image-feature-extraction")
    assert head["license"] == "unknown"
    assert {"timm", "transformers", "ssl-inv", "sie", "invariant", "equivariant"} <= set(head["tags"])
    from huggingface_hub import ModelCard

    assert ModelCard.load(tiny_run / "export" / "README.md").data.to_dict() == head


def test_the_code_of_a_card_runs_and_cuts_the_parts(tiny_run: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((80, 60), 90).convert("RGB").save("photo.jpg")
    export = tiny_run / "export"
    blocks = re.findall(r"```python\n(.*?)```", (export / "README.md").read_text(), re.DOTALL)
    opening, timms, transformers, cuts = (block.replace("FOLDER", str(export)) for block in blocks)
    found = []
    for block in (timms, transformers):
        names: dict[str, torch.Tensor] = {}
        exec(opening + block + cuts, names)
        found.append(names)
    torch.testing.assert_close(found[0]["features"], found[1]["features"], atol=1e-4, rtol=1e-4)
    parts = load_backbone_file(export).parts
    assert torch.equal(found[0]["equivariant"], found[0]["features"][:, parts["equivariant"]])
    assert found[0]["invariant"].shape[1] == 48


def test_a_card_has_every_number_with_its_baselines_once_the_run_is_complete(run: RunFolder) -> None:
    (run.path / "results.json").write_text(to_json(RESULTS))
    card = model_card(trained(run), run)
    assert "| `linear/top1` | all | 0.900 ± 0.010 | 0.400 | 0.100 |" in card
    assert "| `r2/relative/floor_hue` | equivariant | 0.504 | 0.872 |" in card, "what was forgotten is told, too"
    assert "aggregation" not in card
    run.update(state="training")
    assert "0.504" not in model_card(trained(run), run)
    assert "This network was not evaluated." in model_card(trained(run), run)


@pytest.mark.slow
def test_the_numbers_of_a_run_reach_its_card(tiny_recipe: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny_recipe.replace("protocol: none", "protocol: quick, objects: 16"))
    run = tmp_path / "run"
    assert main(["pretrain", str(tmp_path / "tiny.yaml"), "--output", str(run), "--quiet"]) == 0
    card = (run / "export" / "README.md").read_text()
    measured = [row for row in read_results(RunFolder(run)) if row.trained.value is not None]
    assert len(measured) > 20
    for row in measured:
        assert f"| `{row.trained.name}` | {row.trained.part} | {shown(row.trained.value)}" in card


def test_a_card_says_how_the_network_was_trained(run: RunFolder) -> None:
    run.update(versions={"torch": "9.9", "commit": "abc"}, warnings=["data: '/home/ann/photos/x.png' is broken"])
    card = model_card(trained(run), run)
    for row in ("| steps | 2 of 8 samples |", "| seed | 0 |", "| torch | `9.9` |", "| commit | `abc` |"):
        assert row in card
    assert "| training data | 32 objects, 96 images |" in card
    assert "| validation data | 8 objects, 24 images |" in card
    assert "projector: [8, 8]" in card, "the recipe is part of it"
    assert "/home" not in card
    assert escaped("x.png") in card


def test_a_card_says_what_a_run_began_with_and_where_it_turned(run: RunFolder) -> None:
    run.update(
        start={"source": "/home/ann/vit.safetensors", "sha256": "ab" * 32},
        continued=[{"step": 2, "at": "", "changes": {"trainer.steps": [2, 4]}}],
        stopped={"step": 3, "why": "plateau: knn"},
    )
    card = model_card(trained(run), run)
    assert f"| start | weights of {escaped('vit.safetensors')}, SHA-256 `abababababababab` |" in card
    assert f"| continued | {escaped('from step 2 with trainer.steps: 2 -> 4')} |" in card
    assert f"| end | {escaped('ended early at step 3: plateau: knn')} |" in card
    assert "/home" not in card


def test_names_have_no_meaning_in_markdown_and_paths_stay_at_home(run: RunFolder) -> None:
    path = "/home/ann/secret/<b>my_photos*|`x`"
    data = Choice("folder", {"path": path, "size": 32, "csv": "/mnt/private/a.csv"})
    about = trained(run)
    about = replace(about, recipe=replace(about.recipe, data=data))
    named = run.path.rename(run.path.with_name("# [run](javascript:x)\n---"))
    card = model_card(about, RunFolder(named))
    text, fences = re.sub(r"(`{3,})yaml\n.*?\1", "", card, flags=re.DOTALL), re.findall(r"`{3,}(?=yaml)", card)
    assert "ann" not in card.replace("an ", "")
    assert "private" not in card
    assert r"\<b\>my\_photos\*\|\`x\`" in text
    assert r"# \# \[run\]\(javascript\:x\) \-\-\-" in text
    assert fences == ["```"]
    assert front_matter(card)["library_name"] == "timm"


def test_a_card_registers_a_stem_that_timm_lacks(run: RunFolder) -> None:
    about, line = trained(run), "import ssl_inv.backbones"
    assert line not in model_card(about, run)
    small = make_backbone(name="resnet18", stem="3x3-stride2", arguments={"channels": [8, 8, 8, 8]})
    assert model_card(replace(about, backbone=small), run).count(line) == 2, "for timm and for transformers"


def test_a_fence_is_longer_than_any_in_the_recipe(run: RunFolder) -> None:
    about = trained(run)
    data = Choice("folder", {"path": "x````y", "size": 32})
    card = model_card(replace(about, recipe=replace(about.recipe, data=data)), run)
    assert re.search(r"^`````yaml\n.*x````y.*?^`````$", card, re.DOTALL | re.MULTILINE)


def test_a_card_on_a_hub_loads_from_there_and_names_its_licence(run: RunFolder) -> None:
    card = model_card(trained(run), run)
    there = addressed(card, "ann/solids", "cc-by-4.0")
    assert 'timm.create_model("hf-hub:ann/solids", pretrained=True)' in there
    assert there.count('from_pretrained("ann/solids")') == 2
    assert front_matter(there)["license"] == "cc-by-4.0"
    assert "The weights are under the licence `cc-by-4.0`." in there
    assert "has not named a licence" not in there
    assert front_matter(addressed(card, "ann/solids", None))["license"] == "unknown"


def test_export_writes_the_card_again_with_a_licence(run: RunFolder, capsys) -> None:
    assert main(["export", str(run.path), "--license", "mit"]) == 0
    assert front_matter((run.export_folder / "README.md").read_text())["license"] == "mit"
    assert json.loads((run.export_folder / "config.json").read_text())["ssl_inv"]["parts"]["invariant"] == [0, 48]
    for wrong in ("--license MIT!", "--format onnx --license mit", "--any-size"):
        assert main(["export", str(run.path), *wrong.split()]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --")
        assert error.count("\n") == 1
