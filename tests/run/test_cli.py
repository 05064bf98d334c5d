"""The commands do what they promise, in a folder that has an `evaluation` and a `recipes` of its own."""

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet
import pytest
import timm
import torch
import yaml
from PIL import Image

from ssl_inv.data.images import BrokenImagesError
from ssl_inv.data.sources.threediebench import threediebench
from ssl_inv.engine.module import NonFiniteLossError
from ssl_inv.evaluation.features import EvaluationBatch
from ssl_inv.evaluation.suite import QUICK
from ssl_inv.run.cli import main
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.recipe import shipped_recipes


@pytest.fixture(autouse=True)
def foreign_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: str, write) -> Path:
    """The current folder of every test."""
    package = {"evaluation/__init__.py": b"raise RuntimeError('this is not the package that was meant')"}
    write(tmp_path, {**package, "recipes/demo.yaml": b"not: a recipe", "tiny.yaml": tiny_recipe.encode()})
    monkeypatch.chdir(tmp_path)
    heads = replace(QUICK["transforms_r2"], epochs=1, minimum_steps=5)
    brief = {**QUICK, "linear": replace(QUICK["linear"], steps=5), "transforms_r2": heads}
    monkeypatch.setattr("ssl_inv.run.judging.QUICK", brief)
    return tmp_path


def command(text: str) -> int:
    return main(shlex.split(text))


def rows(folder: str) -> list[dict[str, object]]:
    parts = sorted(Path(folder).glob("part-*.parquet"))
    return [row for path in parts for row in pyarrow.parquet.read_table(path).to_pylist()]


def images(folder: str, pixels: list[np.ndarray[Any, Any]]) -> None:
    Path(folder).mkdir()
    for number, one in enumerate(pixels):
        Image.fromarray(one).save(f"{folder}/{number}.png")


def noise(count: int) -> list[np.ndarray[Any, Any]]:
    return [np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8) for seed in range(count)]


def plain(count: int, step: int) -> list[np.ndarray[Any, Any]]:
    return [np.full((32, 32, 3), step * number, dtype=np.uint8) for number in range(count)]


def read_json(path: str) -> Any:
    return json.loads(Path(path).read_text())


def copy_with(tiny_run: Path, **sections: dict[str, object]) -> None:
    """A copy of the run in the folder `run`. The arguments replace sections of its recipe."""
    shutil.copytree(tiny_run, "run")
    recipe = {**yaml.safe_load(Path("run/recipe.yaml").read_text()), **sections}
    Path("run/recipe.yaml").write_text(yaml.safe_dump(recipe))
    state = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    torch.save({**state, "recipe": recipe}, "run/checkpoints/last.ckpt")


def test_a_run_leaves_what_it_promises_and_plain_timm_loads_its_export(tiny_run: Path) -> None:
    folder = RunFolder.open(tiny_run)
    assert {"recipe.yaml", "run.json", "metrics.jsonl", "report.html"} <= {path.name for path in tiny_run.iterdir()}
    record, state = folder.record(), folder.load_checkpoint()
    assert (record["state"], record["command"][0], state["step"]) == ("complete", "ssl-inv", 2)
    model = timm.create_model(f"local-dir:{tiny_run / 'export'}", pretrained=True)
    assert all(torch.equal(value, state["backbone"][f"model.{name}"]) for name, value in model.state_dict().items())


def test_pretrain_judges_with_the_quick_protocol_and_prints_where_things_are(capsys) -> None:
    assert command("pretrain tiny.yaml --evaluation.protocol=quick --output run") == 0
    shown = capsys.readouterr()
    assert "sie on rendered: 32 training and 8 validation objects, test_resnet" in shown.err
    assert "linear/top1" in shown.out
    assert "export: run/export\nreport: run/report.html\n" in shown.out
    assert read_json("run/results.json")


def test_a_complete_run_resumes_to_the_same_weights(tiny_run: Path) -> None:
    shutil.copytree(tiny_run, "run")
    assert command("pretrain tiny.yaml --resume run --quiet") == 0
    before, after = (RunFolder(folder).load_checkpoint()["backbone"] for folder in (tiny_run, Path("run")))
    assert all(torch.equal(after[name], value) for name, value in before.items())


LACKS, SMALLER = "there is not enough memory", "try a smaller data.size or trainer.batch_size"
ALLOCATOR = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: tried 9 bytes"
LOADER = "Caught in a loader process.\nOriginal Traceback (most recent call last):\n  ...\na.b.C: too many\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NonFiniteLossError("loss term 'x' became nan at step 3"), "loss term 'x' became nan at step 3"),
        (BrokenImagesError(LOADER), "too many"),
        (OSError(28, "No space left on device", "run/last.ckpt"), "run/last.ckpt: No space left on device"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "CUDA out of memory; try a smaller trainer.batch_size"),
        (MemoryError("Unable to allocate 38 GiB"), f"{LACKS} (Unable to allocate 38 GiB); {SMALLER}"),
        (MemoryError(), f"{LACKS}; {SMALLER}"),
        (RuntimeError(ALLOCATOR), f"{LACKS} (can't allocate memory: tried 9 bytes); {SMALLER}"),
        (KeyboardInterrupt(), "interrupted; ssl-inv pretrain --resume run continues"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_run_that_fails_says_why_and_one_that_is_interrupted_how_to_go_on_in_one_line(
    error, line, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("ssl_inv.run.pretrain.train", Mock(side_effect=error))
    assert command("pretrain tiny.yaml --output run --quiet") == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert capsys.readouterr().err == f"error: {line}\n"


JUDGE = "--data=tiny.yaml --data.views=2 --evaluation.protocol=quick --evaluation.neighbours=5000 --output=judged"


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("run", {"all", "invariant", "equivariant"}),
        ("run/export", {"all", "invariant", "equivariant"}),
        ("timm:test_resnet", {"all"}),
    ],
)
def test_evaluate_judges_runs_exports_and_models_of_timm_and_cuts_too_many_neighbours(
    model, parts, tiny_run, capsys
) -> None:
    shutil.copytree(tiny_run, "run")
    assert command(f"evaluate {model} {JUDGE}") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(model)
    assert "cut from 5000 to the number of training rows" in shown, "more neighbours than there are"
    probed = [one for one in read_json("judged/results.json") if one["trained"]["name"] == "linear/top1"]
    assert {one["trained"]["part"] for one in probed} == parts
    assert all(one["untrained"]["value"] is not None for one in probed)
    page = ["exam.csv", "exam.html", "exam.json", "exam.tex"]
    written = ["evaluation.json", *page, "features", "measurements", "results.json"]
    assert sorted(path.name for path in Path("judged").iterdir()) == written
    told = read_json("judged/evaluation.json")
    assert told["model"].startswith(model)
    assert told["recipe"]["data"]["views"] == 2


RESNET = "--backbone.name=resnet18 --backbone.stem=3x3-stride2 --backbone.arguments='{channels: [8, 8, 8, 8]}'"
SMALLER_VIEWS = (
    "--backbone.name=vit_tiny_patch16_224 --augmentation.name=simclr --augmentation.size=24 --monitor.every=1 "
    "--backbone.arguments='{img_size: 24, patch_size: 8, depth: 1, embed_dim: 24}'"
)


@pytest.mark.parametrize(("seed", "network"), [(0, RESNET), (1, SMALLER_VIEWS)], ids=["resnet", "views below images"])
def test_a_run_is_judged_as_it_judged_itself(seed: int, network: str) -> None:
    own = f"--trainer.seed={seed} --evaluation.objects=4 --evaluation.protocol=quick {network}"
    assert command(f"pretrain tiny.yaml --data.size=32 {own} --output=run --quiet") == 0
    assert command("evaluate run --output=judged") == 0
    assert Path("judged/results.json").read_text() == Path("run/results.json").read_text()
    assert command("embed run --output=embedded") == 0


def test_evaluating_again_reads_the_features_that_were_kept(tiny_run, monkeypatch, capsys) -> None:
    evaluate = f"evaluate {tiny_run} --data.views=2 --evaluation.protocol=quick --output=judged"
    assert command(evaluate) == 0
    first = capsys.readouterr().out, Path("judged/results.json").read_text()
    # Two splits, each seen by the trained and the untrained encoder.
    assert len(list(Path("judged/features").iterdir())) == 4
    extracted = []

    def counted(*source: object) -> Iterator[EvaluationBatch]:
        extracted.append(source)
        yield from ()

    monkeypatch.setattr("ssl_inv.engine.features.evaluation_batches", counted)
    assert command(evaluate) == 0
    assert (capsys.readouterr().out, Path("judged/results.json").read_text()) == first
    assert not extracted
    for other in ("--evaluation.views=1", "--data.seed=1", "--normalization.mean='[0, 0, 0]'"):
        extracted.clear()
        assert command(f"{evaluate} {other}") == 2
        assert extracted, other


def test_a_run_is_judged_elsewhere_without_its_own_data(tiny_run: Path) -> None:
    copy_with(tiny_run, data={"name": "threediebench", "path": "gone", "size": 32})
    assert command(f"evaluate run {JUDGE}") == 0
    parts = {row["trained"]["part"] for row in read_json("judged/results.json")}
    assert parts >= {"invariant", "equivariant"}


def test_a_judgement_that_fails_leaves_the_export_and_says_so_in_the_record(monkeypatch, capsys) -> None:
    monkeypatch.setattr("ssl_inv.run.judged_run.judge", Mock(side_effect=ValueError("there is nothing to judge")))
    assert command("pretrain tiny.yaml --evaluation.protocol=quick --output run --quiet") == 2
    assert capsys.readouterr().err == "error: evaluation: there is nothing to judge\n"
    assert RunFolder(Path("run")).record()["state"] == "failed: evaluation: there is nothing to judge"
    assert Path("run/export/config.json").is_file()


def test_embeddings_are_those_of_the_exported_network_in_every_format(tiny_run: Path) -> None:
    images("images", noise(4))
    assert command(f"embed {tiny_run} --data images --output parquet") == 0
    assert command(f"embed {tiny_run / 'export'} --data images --output npy --format npy") == 0
    table = {row["id"]: row["embedding"] for row in rows("parquet")}
    assert table.keys() == {f"{number}.png" for number in range(4)}
    for shard in Path("npy").glob("part-*.npy"):
        for name, embedding in zip(read_json(str(shard.with_suffix(".json")))["id"], np.load(shard), strict=True):
            assert np.allclose(table[name], embedding, atol=1e-6)
    model = timm.create_model(f"local-dir:{tiny_run / 'export'}", pretrained=True).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    image = torch.from_numpy(np.array(Image.open("images/2.png"))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = model((image - mean) / std)[0]
    assert np.allclose(table["2.png"], expected, atol=1e-5)
    Image.new("RGB", (32, 32)).save("images/2.png")
    assert command(f"embed {tiny_run} --data images --output parquet") == 2, "the shards are of other files"


def test_embedding_goes_on_where_it_was_interrupted(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = f"embed {tiny_run} --output shards --shard-size 30"
    assert command(embed) == 0
    manifest = read_json("shards/_manifest.json")
    assert (manifest["complete"], manifest["rows"], manifest["shards"]) == (True, 120, 5)
    whole = rows("shards")
    Path("shards/part-00002.parquet").unlink()
    kept = {path: path.stat().st_mtime_ns for path in Path("shards").glob("part-*")}
    assert command(embed) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert rows("shards") == whole
    monkeypatch.setattr("ssl_inv.run.embed.feature_table", None)
    assert command(embed) == 0


def test_a_shard_that_cannot_be_read_is_left_out_and_columns_keep_their_meaning(tiny_run: Path) -> None:
    images("turns", plain(40, 6))
    Path("turns/7.png").write_bytes(b"no image")
    table = "".join(f"{n}.png,{n},{n + 0.5}\n" for n in range(40))
    Path("turns/views.csv").write_text(f"path,object,view[real]\n{table}")
    embed = f"embed {tiny_run} --data turns --data.max_broken=0.1 --output shards --shard-size 1"
    assert command(embed) == command(embed) == 0
    found = {str(row["id"]): row for row in rows("shards")}
    assert found.keys() == {f"{number}.png" for number in range(40) if number != 7}
    assert read_json("shards/_manifest.json")["rows"] == 39
    assert (found["3.png"]["view"], found["3.png"]["transform_view"]) == (0, 3.5)


def test_shards_of_other_weights_are_not_mixed(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(f"embed {tiny_run} --output shards") == 0
    shutil.copytree(tiny_run, "run")
    state = RunFolder(Path("run")).load_checkpoint()
    next(value for value in state["backbone"].values() if value.is_floating_point()).add_(1)
    torch.save(state, "run/checkpoints/last.ckpt")
    manifest = {**read_json("shards/_manifest.json"), "model": "run: sie, test_resnet, after 2 steps"}
    Path("shards/_manifest.json").write_text(json.dumps(manifest))
    assert command("embed run --output shards") == 2
    assert "was begun with another weights" in capsys.readouterr().err


@pytest.mark.parametrize("output", [None, "new/folder"])
def test_export_writes_where_it_is_asked_to_without_the_data(output, tiny_run, capsys) -> None:
    augmentation = yaml.safe_load((tiny_run / "recipe.yaml").read_text())["augmentation"]
    data = {"name": "folder", "path": "gone", "size": 32}
    copy_with(tiny_run, data=data, augmentation={**augmentation, "size": 24})
    shutil.rmtree("run/export")
    assert command(f"export run --output {output}" if output else "export run") == 0
    place = output or "run/export"
    assert capsys.readouterr().out == f"{place}\n"
    told = read_json(f"{place}/config.json")["pretrained_cfg"]
    assert (told["input_size"], told["crop_pct"]) == ([3, 24, 24], 0.75), "views of 24 pixels are cut from images of 32"
    assert timm.create_model(f"local-dir:{place}", pretrained=True).num_features == 96


def test_what_is_rendered_is_read_checked_and_embedded_as_3diebench(tiny_run, capsys) -> None:
    assert command("render solids --data.classes=4 --data.objects=20 --data.views=3 --data.size=32") == 0
    data = threediebench(path="solids", size=32)
    assert (len(data.train), len(data.validation)) == (16, 4)
    assert set(data.train.view_counts) == {3}
    assert data.train.labels is not None
    assert command("check tiny.yaml --data.name=threediebench --data.path=solids --data.size=32") == 0
    assert "tiny.yaml: valid\ndata: 16 training and 4 validation objects\n" in capsys.readouterr().out
    assert command(f"embed {tiny_run} --data solids --output shards") == 0
    assert len(rows("shards")) == 60
    assert {"rotation_0", "floor_hue", "label"} <= rows("shards")[0].keys()


@pytest.mark.parametrize("data", ["turns", "turns/views.csv"])
def test_a_table_is_recognised_by_its_csv_file(data: str, tiny_run: Path) -> None:
    images("turns", plain(6, 40))
    table = "".join(f"{n}.png,{n // 2},{n * 30}\n" for n in range(6))
    Path("turns/views.csv").write_text(f"path,object,azimuth[deg]\n{table}")
    assert command(f"embed {tiny_run} --data {data} --output shards") == 0
    assert sorted(str(row["id"]) for row in rows("shards")) == [f"{number}.png" for number in range(6)]
    assert len({(row["split"], row["object"]) for row in rows("shards")}) == 3
    assert "azimuth" in rows("shards")[0]


def test_the_report_on_plain_images_shows_the_views_that_were_made_of_them() -> None:
    images("images", noise(20))
    network = "--backbone.arguments='{channels: [8, 8, 8, 8]}'"
    length = "--trainer.steps=1 --trainer.batch_size=4 --monitor.every=0"
    data = "--data.path=images --data.size=32"
    assert command(f"pretrain simclr-folder {data} {network} {length} --output=run --quiet") == 0
    page = Path("run/report.html").read_text()
    assert "crop" in page[page.index("What the objective was shown") :]


def test_recipes_are_listed_and_printed_whole_and_settings_may_stand_first(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(text: str) -> str:
        assert command(f"recipes {text}") == 0
        return capsys.readouterr().out

    assert "demo" in shipped_recipes()
    assert [line.split()[0] for line in printed("").splitlines() if line][:-1] == list(shipped_recipes())
    lines = shipped_recipes()["demo"].read_text().splitlines(keepends=True)
    head = "".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert printed("demo --trainer.steps=7").startswith(f"{head}\n")
    for order in ("demo --trainer.steps=7", "--trainer.steps 7 demo"):
        assert yaml.safe_load(printed(order))["trainer"]["steps"] == 7, "settings may stand before the recipe"
    explained = printed("demo --explain")
    assert explained.startswith(f"{head}\n# ")
    assert "  # optimiser steps; give this or `epochs`.\n  steps: " in explained
    assert re.search(r"^#     L = ", explained, re.MULTILINE)


@pytest.mark.slow
def test_the_installed_program_runs_beside_foreign_folders(foreign_folder: Path) -> None:
    check = [sys.executable, "-m", "ssl_inv.run.cli", "check", "tiny.yaml"]
    done = subprocess.run(check, cwd=foreign_folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tiny.yaml: valid\n")
