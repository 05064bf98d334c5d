"""The commands do what they promise, in a folder that has an `evaluation` and a `recipes` of its own."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import timm
import torch
import yaml
from PIL import Image

from ssl_inv.data.images import BrokenImagesError
from ssl_inv.data.source import Source
from ssl_inv.data.sources.threediebench import threediebench
from ssl_inv.engine.module import NonFiniteLossError
from ssl_inv.evaluation.features import EvaluationBatch
from ssl_inv.evaluation.suite import QUICK
from ssl_inv.run.cli import main
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.recipe import shipped_recipes


@pytest.fixture(autouse=True)
def foreign_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: str) -> Path:
    """The current folder of every test."""
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "__init__.py").write_text("raise RuntimeError('this is not the package that was meant')")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.yaml").write_text("not: a recipe")
    (tmp_path / "tiny.yaml").write_text(tiny_recipe)
    monkeypatch.chdir(tmp_path)
    # Networks this small lose by threads.
    torch.set_num_threads(1)
    heads = replace(QUICK["transforms_r2"], epochs=1, minimum_steps=5)
    brief = {**QUICK, "linear": replace(QUICK["linear"], steps=5), "transforms_r2": heads}
    monkeypatch.setattr("ssl_inv.run.judging.QUICK", brief)
    return tmp_path


def rows(folder: Path) -> list[dict[str, object]]:
    return [
        row for path in sorted(folder.glob("part-*.parquet")) for row in pyarrow.parquet.read_table(path).to_pylist()
    ]


def test_a_run_leaves_what_it_promises(tiny_run: Path) -> None:
    folder = RunFolder.open(tiny_run)
    assert {"recipe.yaml", "run.json", "metrics.jsonl", "report.html"} <= {path.name for path in tiny_run.iterdir()}
    record = folder.record()
    assert record["state"] == "complete"
    assert record["command"][0] == "ssl-inv"
    state = folder.load_checkpoint()
    assert state is not None
    assert state["step"] == 2


def test_plain_timm_loads_the_exported_folder(tiny_run: Path) -> None:
    model = timm.create_model(f"local-dir:{tiny_run / 'export'}", pretrained=True)
    state = RunFolder(tiny_run).load_checkpoint()
    assert state is not None
    for name, value in model.state_dict().items():
        assert torch.equal(value, state["backbone"][f"model.{name}"])


def test_pretrain_judges_with_the_quick_protocol_and_prints_where_things_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["pretrain", "tiny.yaml", "--evaluation.protocol=quick", "--output", "run"]) == 0
    shown = capsys.readouterr()
    assert "sie on rendered: 32 training and 8 validation objects, test_resnet" in shown.err
    assert "linear/top1" in shown.out
    assert "export: run/export\nreport: run/report.html\n" in shown.out
    assert json.loads(Path("run/results.json").read_text())


def test_a_complete_run_resumes_to_the_same_weights(tiny_run: Path) -> None:
    shutil.copytree(tiny_run, "run")
    assert main(["pretrain", "tiny.yaml", "--resume", "run", "--quiet"]) == 0
    before, after = (RunFolder(folder).load_checkpoint() for folder in (tiny_run, Path("run")))
    assert before is not None
    assert after is not None
    assert all(torch.equal(after["backbone"][name], value) for name, value in before["backbone"].items())


def test_interrupting_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ssl_inv.run.pretrain.train", interrupted)
    assert main(["pretrain", "tiny.yaml", "--output", "run", "--quiet"]) == 130
    assert capsys.readouterr().err == "error: interrupted; ssl-inv pretrain --resume run continues\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NonFiniteLossError("loss term 'x' became nan at step 3"), "loss term 'x' became nan at step 3"),
        (
            BrokenImagesError(
                "Caught in a loader process.\nOriginal Traceback (most recent call last):\n  ...\na.b.C: too many\n"
            ),
            "too many",
        ),
        (OSError(28, "No space left on device", "run/last.ckpt"), "run/last.ckpt: No space left on device"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to ..."),
            "CUDA out of memory; try a smaller trainer.batch_size",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_run_that_fails_says_why_in_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr("ssl_inv.run.pretrain.train", failing)
    assert main(["pretrain", "tiny.yaml", "--output", "run", "--quiet"]) == 1
    assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize(
    ("model", "parts"),
    [("run", {"all", "invariant", "equivariant"}), ("run/export", {"all"}), ("timm:test_resnet", {"all"})],
)
def test_evaluate_judges_runs_exported_folders_and_models_of_timm(
    model: str, parts: set[str], tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run, "run")
    arguments = ["--data=tiny.yaml", "--data.views=2", "--evaluation.protocol=quick", "--output=judged"]
    assert main(["evaluate", model, *arguments]) == 0
    assert capsys.readouterr().out.startswith(model)
    results = json.loads(Path("judged/results.json").read_text())
    probed = [one for one in results if one["trained"]["name"] == "linear/top1"]
    assert {one["trained"]["part"] for one in probed} == parts
    assert all(one["untrained"]["value"] is not None for one in probed)
    assert sorted(path.name for path in Path("judged").iterdir()) == ["evaluation.json", "features", "results.json"]
    told = json.loads(Path("judged/evaluation.json").read_text())
    assert told["model"].startswith(model)
    assert told["recipe"]["data"]["views"] == 2


RESNET = ["--backbone.name=resnet18", "--backbone.stem=3x3-stride2", "--backbone.arguments={channels: [8, 8, 8, 8]}"]
SMALLER_VIEWS = [
    "--backbone.name=vit_tiny_patch16_224",
    "--backbone.arguments={img_size: 24, patch_size: 8, depth: 1, embed_dim: 24}",
    "--augmentation.name=simclr",
    "--augmentation.size=24",
    "--monitor.every=1",
]


@pytest.mark.parametrize(
    ("seed", "network"),
    [(0, RESNET), (1, SMALLER_VIEWS)],
    ids=["resnet", "a transformer for views smaller than images"],
)
def test_a_run_is_judged_as_it_judged_itself(seed: int, network: list[str]) -> None:
    own = [f"--trainer.seed={seed}", "--evaluation.objects=4", "--evaluation.protocol=quick", *network]
    assert main(["pretrain", "tiny.yaml", "--data.size=32", *own, "--output=run", "--quiet"]) == 0
    assert main(["evaluate", "run", "--output=judged"]) == 0
    assert Path("judged/results.json").read_text() == Path("run/results.json").read_text()
    assert main(["embed", "run", "--output=embedded"]) == 0


def test_evaluating_again_reads_the_features_that_were_kept(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = ["evaluate", str(tiny_run), "--data.views=2", "--evaluation.protocol=quick", "--output=judged"]
    assert main(evaluate) == 0
    first = capsys.readouterr().out, Path("judged/results.json").read_text()
    # Two splits, each seen by the trained and the untrained encoder.
    assert len(list(Path("judged/features").iterdir())) == 4
    extracted = []

    def counted(source: Source, *_: object) -> Iterator[EvaluationBatch]:
        extracted.append(source)
        yield from ()

    monkeypatch.setattr("ssl_inv.engine.features.evaluation_batches", counted)
    assert main(evaluate) == 0
    assert (capsys.readouterr().out, Path("judged/results.json").read_text()) == first
    assert not extracted
    for other in (["--evaluation.views=1"], ["--data.seed=1"], ["--normalization.mean=[0, 0, 0]"]):
        extracted.clear()
        assert main([*evaluate, *other]) == 2
        assert extracted, other


def test_a_run_is_judged_elsewhere_without_its_own_data(tiny_run: Path) -> None:
    shutil.copytree(tiny_run, "run")
    recipe = yaml.safe_load(Path("run/recipe.yaml").read_text())
    recipe["data"] = {"name": "threediebench", "path": "gone", "size": 32}
    Path("run/recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert (
        main(
            ["evaluate", "run", "--data=tiny.yaml", "--data.views=2", "--evaluation.protocol=quick", "--output=judged"]
        )
        == 0
    )
    assert {row["trained"]["part"] for row in json.loads(Path("judged/results.json").read_text())} >= {
        "invariant",
        "equivariant",
    }


def test_a_judgement_that_fails_leaves_the_export_and_says_so_in_the_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        raise ValueError("there is nothing to judge")

    monkeypatch.setattr("ssl_inv.run.pretrain.judge", failing)
    assert main(["pretrain", "tiny.yaml", "--evaluation.protocol=quick", "--output", "run", "--quiet"]) == 2
    assert capsys.readouterr().err == "error: evaluation: there is nothing to judge\n"
    assert RunFolder(Path("run")).record()["state"] == "failed: evaluation: there is nothing to judge"
    assert Path("run/export/config.json").is_file()


def test_embeddings_are_those_of_the_exported_network_in_every_format(tiny_run: Path) -> None:
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Path("images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(f"images/{number}.png")
    assert main(["embed", str(tiny_run), "--data", "images", "--output", "parquet"]) == 0
    assert main(["embed", str(tiny_run / "export"), "--data", "images", "--output", "npy", "--format", "npy"]) == 0
    table = {row["id"]: row["embedding"] for row in rows(Path("parquet"))}
    assert table.keys() == {f"{number}.png" for number in range(4)}
    for shard in Path("npy").glob("part-*.npy"):
        for name, embedding in zip(
            json.loads(shard.with_suffix(".json").read_text())["id"], np.load(shard), strict=True
        ):
            assert np.allclose(table[name], embedding, atol=1e-6)
    model = timm.create_model(f"local-dir:{tiny_run / 'export'}", pretrained=True).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    image = torch.from_numpy(np.array(Image.open("images/2.png"))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = model((image - mean) / std)[0]
    assert np.allclose(table["2.png"], expected, atol=1e-5)
    Image.new("RGB", (32, 32)).save("images/2.png")
    assert main(["embed", str(tiny_run), "--data", "images", "--output", "parquet"]) == 2, (
        "the shards are of other files"
    )


def test_embedding_goes_on_where_it_was_interrupted(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["embed", str(tiny_run), "--output", "shards", "--shard-size", "30"]
    assert main(command) == 0
    manifest = json.loads(Path("shards/manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["rows"] == 120
    assert manifest["shards"] == 5
    whole = rows(Path("shards"))
    Path("shards/part-00002.parquet").unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in Path("shards").glob("part-*")}
    assert main(command) == 0
    assert {path.name: path.stat().st_mtime_ns for path in Path("shards").glob("part-*") if path.name in kept} == kept
    assert rows(Path("shards")) == whole
    monkeypatch.setattr("ssl_inv.run.embed.feature_table", None)
    assert main(command) == 0


def test_a_shard_that_cannot_be_read_is_left_out_and_columns_keep_their_meaning(tiny_run: Path) -> None:
    Path("turns").mkdir()
    for number in range(40):
        Image.fromarray(np.full((32, 32, 3), 6 * number, dtype=np.uint8)).save(f"turns/{number}.png")
    Path("turns/7.png").write_bytes(b"no image")
    Path("turns/views.csv").write_text(
        "path,object,view[real]\n" + "".join(f"{n}.png,{n},{n + 0.5}\n" for n in range(40))
    )
    command = [
        "embed",
        str(tiny_run),
        "--data",
        "turns",
        "--data.max_broken=0.1",
        "--output",
        "shards",
        "--shard-size",
        "1",
    ]
    assert main(command) == main(command) == 0
    found = {str(row["id"]): row for row in rows(Path("shards"))}
    assert found.keys() == {f"{number}.png" for number in range(40) if number != 7}
    assert json.loads(Path("shards/manifest.json").read_text())["rows"] == 39
    assert (found["3.png"]["view"], found["3.png"]["transform_view"]) == (0, 3.5)


def test_shards_of_other_weights_are_not_mixed(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", str(tiny_run), "--output", "shards"]) == 0
    shutil.copytree(tiny_run, "run")
    state = RunFolder(Path("run")).load_checkpoint()
    assert state is not None
    next(value for value in state["backbone"].values() if value.is_floating_point()).add_(1)
    torch.save(state, "run/checkpoints/last.ckpt")
    shutil.copy("shards/manifest.json", "kept.json")
    manifest = {**json.loads(Path("kept.json").read_text()), "model": "run: sie, test_resnet, after 2 steps"}
    Path("shards/manifest.json").write_text(json.dumps(manifest))
    assert main(["embed", "run", "--output", "shards"]) == 2
    assert "was begun with another weights" in capsys.readouterr().err


@pytest.mark.parametrize("output", [None, "new/folder"])
def test_export_writes_where_it_is_asked_to_without_the_data(
    output: str | None, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run, "run")
    shutil.rmtree("run/export")
    recipe = yaml.safe_load(Path("run/recipe.yaml").read_text())
    recipe["data"] = {"name": "folder", "path": "gone", "size": 32}
    recipe["augmentation"]["size"] = 24
    Path("run/recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["export", "run", *(["--output", output] if output else [])]) == 0
    place = output or "run/export"
    assert capsys.readouterr().out == f"{place}\n"
    told = json.loads(Path(place, "config.json").read_text())["pretrained_cfg"]
    assert (told["input_size"], told["crop_pct"]) == ([3, 24, 24], 0.75), "views of 24 pixels are cut from images of 32"
    assert timm.create_model(f"local-dir:{place}", pretrained=True).num_features == 96


def test_what_is_rendered_is_read_checked_and_embedded_as_3diebench(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", "solids", "--data.classes=4", "--data.objects=20", "--data.views=3", "--data.size=32"]) == 0
    data = threediebench(path="solids", size=32)
    assert (len(data.train), len(data.validation)) == (16, 4)
    assert set(data.train.view_counts) == {3}
    assert data.train.labels is not None
    assert main(["check", "tiny.yaml", "--data.name=threediebench", "--data.path=solids", "--data.size=32"]) == 0
    assert "tiny.yaml: valid\ndata: 16 training and 4 validation objects\n" in capsys.readouterr().out
    assert main(["embed", str(tiny_run), "--data", "solids", "--output", "shards"]) == 0
    assert len(rows(Path("shards"))) == 60
    assert {"rotation_0", "floor_hue", "label"} <= rows(Path("shards"))[0].keys()


def test_a_table_is_recognised_by_its_csv_file(tiny_run: Path) -> None:
    Path("turns").mkdir()
    for number in range(6):
        Image.fromarray(np.full((32, 32, 3), 40 * number, dtype=np.uint8)).save(f"turns/{number}.png")
    Path("turns/views.csv").write_text(
        "path,object,azimuth[deg]\n" + "".join(f"{n}.png,{n // 2},{n * 30}\n" for n in range(6))
    )
    for data in ("turns", "turns/views.csv"):
        output = Path(data.replace("/", "-") + "-shards")
        assert main(["embed", str(tiny_run), "--data", data, "--output", str(output)]) == 0
        assert sorted(str(row["id"]) for row in rows(output)) == [f"{number}.png" for number in range(6)]
        assert len({(row["split"], row["object"]) for row in rows(output)}) == 3
        assert "azimuth" in rows(output)[0]


def test_the_report_on_plain_images_shows_the_views_that_were_made_of_them() -> None:
    Path("images").mkdir()
    for number in range(20):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
            f"images/{number}.png"
        )
    settings = [
        "--data.path=images",
        "--data.size=32",
        "--backbone.arguments={channels: [8, 8, 8, 8]}",
        "--trainer.steps=1",
    ]
    assert (
        main(
            [
                "pretrain",
                "simclr-folder",
                *settings,
                "--trainer.batch_size=4",
                "--monitor.every=0",
                "--output=run",
                "--quiet",
            ]
        )
        == 0
    )
    page = Path("run/report.html").read_text()
    assert "What the objective was shown" in page
    assert "crop" in page[page.index("What the objective was shown") :]


def test_recipes_are_listed_and_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert "demo" in shipped_recipes()
    assert [line.split()[0] for line in listed.splitlines() if line][:-1] == list(shipped_recipes())
    assert main(["recipes", "demo", "--trainer.steps=7"]) == 0
    printed = capsys.readouterr().out
    head = "".join(
        itertools.takewhile(
            lambda line: line.startswith("#"), shipped_recipes()["demo"].read_text().splitlines(keepends=True)
        )
    )
    assert printed.startswith(f"{head}\n")
    assert yaml.safe_load(printed)["trainer"]["steps"] == 7
    assert main(["recipes", "demo", "--explain"]) == 0
    explained = capsys.readouterr().out
    assert explained.startswith(f"{head}\n# ")
    assert "  # optimiser steps; give this or `epochs`.\n  steps: " in explained
    assert re.search(r"^#     L = ", explained, re.MULTILINE)


def test_settings_may_stand_before_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--trainer.steps", "7", "demo"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["steps"] == 7


def test_the_installed_program_runs_beside_foreign_folders(foreign_folder: Path) -> None:
    command = [sys.executable, "-m", "ssl_inv.run.cli", "check", "tiny.yaml"]
    done = subprocess.run(command, cwd=foreign_folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.startswith("tiny.yaml: valid\n")
