"""The parts of a recipe train in a Lightning trainer of one's own as they do in ours."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from ssl_inv.catalogue import RecipeError
from ssl_inv.engine.launch import quiet_lightning
from ssl_inv.engine.progress import Progress
from ssl_inv.run.build import build
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.lightning import parts, scores
from ssl_inv.run.pretrain import train
from ssl_inv.run.recipe import resolve

STEPS = 7
CONTENT: dict[str, Any] = {
    "objective": {"name": "vicreg", "projector": [8, 8]},
    "backbone": {"name": "test_resnet", "arguments": {"drop_rate": 0.2}},
    "data": {"name": "rendered", "classes": 4, "objects": 30, "views": 3, "size": 16},
    "trainer": {"steps": STEPS, "batch_size": 8, "accelerator": "cpu", "log_every": 1, "workers": 0},
    "monitor": {"every": 2, "objects": 8, "share": 1.0},
    "evaluation": {"protocol": "none"},
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_lightning():
        yield


def trainer(**settings: Any) -> lightning.Trainer:
    bare = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(**{**bare, "accelerator": "cpu", "log_every_n_steps": 1, **settings})


def logged(folder: Path) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for file in sorted(folder.rglob("metrics.csv")):
        with file.open() as text:
            for row in csv.DictReader(text):
                if row["loss/total"]:
                    numbers = {name: float(value) for name, value in row.items() if value and name.startswith("loss/")}
                    found[int(row["step"])] = numbers
    return found


def ours(folder: Path, **changed: Any) -> tuple[dict[int, dict[str, float]], dict[str, torch.Tensor]]:
    """The losses by step and the last weights of a run by the engine's own trainer."""
    run = build(resolve({**CONTENT, "trainer": {**CONTENT["trainer"], **changed}}))
    record = RunFolder.create(folder, run.recipe, [])
    train(run, record, Progress(quiet=True))
    lines = [json.loads(line) for line in record.metrics_file.read_text().splitlines()]
    losses = {
        line["step"]: {f"loss/{name}": value for name, value in line["loss"].items()}
        for line in lines
        if "loss" in line
    }
    return losses, dict(run.module.state_dict())


def same(found: dict[int, dict[str, float]], expected: dict[int, dict[str, float]]) -> None:
    assert found.keys() == expected.keys()
    for step, numbers in expected.items():
        assert {name: value for name, value in found[step].items() if name != "loss/total"} == numbers, step


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_and_weights_are_those_of_our_own_trainer_bit_for_bit(accumulate: int, tmp_path: Path) -> None:
    expected, weights = ours(tmp_path / "run", accumulate=accumulate)
    module, data = parts(CONTENT, {"trainer.accumulate": accumulate})
    own = trainer(logger=CSVLogger(tmp_path / "own"))
    own.fit(module, data)
    # Training ends by itself after the last step, in the middle of an epoch.
    assert (own.global_step, module.step) == (STEPS, STEPS)
    same(logged(tmp_path / "own"), expected)
    for name, weight in weights.items():
        assert torch.equal(module.state_dict()[name], weight), name


@pytest.mark.parametrize("at", [2, 3])
def test_a_checkpoint_of_lightning_continues_exactly_from_any_step(at: int, tmp_path: Path) -> None:
    expected, weights = ours(tmp_path / "run")
    module, data = parts(CONTENT)
    assert len(data.train_dataloader()) == 3, "step 2 lies inside an epoch, step 3 at its end"
    saver = ModelCheckpoint(tmp_path / "saved", "{step}", every_n_train_steps=at, save_top_k=-1)
    settings = {"enable_checkpointing": True, "callbacks": [saver]}
    trainer(max_steps=at, **settings).fit(module, data)
    module, data = parts(CONTENT)
    second = trainer(logger=CSVLogger(tmp_path / "second"))
    second.fit(module, data, ckpt_path=tmp_path / "saved" / f"step={at}.ckpt", weights_only=False)
    assert second.global_step == STEPS
    same(logged(tmp_path / "second"), {step: one for step, one in expected.items() if step > at})
    for name, weight in weights.items():
        assert torch.equal(module.state_dict()[name], weight), name


def test_callbacks_of_lightning_watch_losses_and_scores(tmp_path: Path) -> None:
    module, data = parts(CONTENT, {"trainer.steps": 30})
    best = ModelCheckpoint(tmp_path, "best", monitor="monitor/rankme", mode="max", every_n_train_steps=2)
    stop = EarlyStopping("loss/total", patience=1, min_delta=1e9, check_on_train_epoch_end=True)
    own = trainer(callbacks=[scores(data), best, stop], enable_checkpointing=True)
    own.fit(module, data)
    assert own.global_step == 6, "after two epochs of three steps"
    assert best.best_model_score is not None
    assert best.best_model_score >= own.callback_metrics["monitor/rankme"]
    assert (tmp_path / "best.ckpt").is_file()


def test_more_batches_than_processes_can_share_and_other_data_are_refused(tmp_path: Path) -> None:
    module, data = parts(CONTENT)
    with pytest.raises(RecipeError, match=r"trainer\.batch_size: 8 cannot be shared evenly by 3 processes"):
        module._join(0, 3)
    trainer(max_steps=1).fit(module, data)
    with pytest.raises(ValueError, match="none of a pretraining by ssl-inv"):
        module.on_load_checkpoint({})
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    other, _ = parts(CONTENT, {"data.objects": 40})
    with pytest.raises(ValueError, match="the run began with 24 objects in 72 images, and there are 32 objects"):
        other.on_load_checkpoint(checkpoint)


def test_a_recipe_is_refused_as_on_the_command_line() -> None:
    with pytest.raises(RecipeError, match=r"trainer\.stpes: no such setting; did you mean 'steps'"):
        parts(CONTENT, {"trainer.stpes": 3})
