"""Runs of objectives with memories resume bit for bit, and a graph's pairs reach loader processes and two ranks."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_inv.engine.cluster import Place
from ssl_inv.engine.module import Pretraining
from ssl_inv.engine.progress import Progress
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.distributed import rank
from ssl_inv.run.build import Run, build
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.pretrain import train
from ssl_inv.run.recipe import Recipe, RecipeError, resolve
from ssl_inv.testing.processes import on_processes
from ssl_inv.views import View, Views
from ssl_inv.views.maker import ViewMaker

STEPS = 9
CONTENT = {
    "objective": {"name": "transitive", "projector": [16, 8], "neighbours": 4},
    "backbone": {"name": "test_resnet"},
    "data": {"name": "rendered", "classes": 4, "objects": 24, "views": 3, "size": 16},
    "trainer": {"steps": STEPS, "batch_size": 8, "checkpoint_every": 1, "log_every": 1, "accelerator": "cpu"},
    "monitor": {"every": 0},
    "evaluation": {"protocol": "none"},
}
"""Five epochs, the first of which has no graph."""


def recipe(**sections: dict[str, Any]) -> Recipe:
    """A recipe of CONTENT, of which the arguments change settings."""
    return resolve({name: {**CONTENT.get(name, {}), **sections.get(name, {})} for name in {**CONTENT, **sections}})


def follow(folder: Path, wanted: Recipe, prepare: Callable[[Run], Run] = lambda run: run) -> RunFolder:
    """Train in a folder, from its checkpoint if it has one."""
    record = RunFolder.open(folder) if folder.exists() else RunFolder.create(folder, wanted, [])
    train(prepare(build(wanted)), record, Progress(io.StringIO()))
    return record


def in_double(run: Run) -> Run:
    """The run in double precision, where hardly any of a difference is rounding."""

    def doubled(maker: ViewMaker, images: Any, views: Views) -> Views:
        return Views(tuple(View(one.pixels.double(), one.transform) for one in views.views), views.index, views.shown)

    run.module.double()
    run.module.view_maker.register_forward_hook(doubled)
    return run


def assert_same_state(one: Path, other: Path, tolerance: float = 0.0) -> None:
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (one, other)]
    for part in ("backbone", "objective"):
        assert states[0][part].keys() == states[1][part].keys()
        for name, tensor in states[0][part].items():
            if isinstance(tensor, Tensor):
                torch.testing.assert_close(states[1][part][name], tensor, rtol=0, atol=tolerance, msg=name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    follow(folder, recipe())
    return folder


def test_images_are_those_that_the_pairs_name_and_before_the_first_epoch_views_of_one_object():
    run = build(recipe())
    batches, source = run.module.batches, run.data.train
    first = batches[0].shown
    assert torch.equal(first[1], torch.stack((first[0, :, 0], (first[0, :, 1] + 1) % 3), dim=1))
    for epoch in (0, 1):
        run.objective.between_epochs(run.backbone, epoch, Gallery(source, run.module.view_maker.whole, "cpu"))
    batches.links = run.objective.links(0)
    batch = batches[0]
    for image, shown in zip(batch.images, batch.shown.numpy(), strict=True):
        assert torch.equal(image.pixels, source.load(shown[:, 0], shown[:, 1]).pixels)
    assert torch.equal(batch.shown[0, :, 0], batch.index)
    assert not torch.equal(batch.shown[1, :, 0], batch.index)


def test_the_record_of_a_run_tells_what_the_graph_is(uninterrupted):
    said = [line["memory"] for line in RunFolder(uninterrupted).metrics() if "memory" in line]
    assert (said[0]["edges"], said[0]["drawn_intra"]) == (0, 1)
    assert said[1]["edges"] > 0
    assert {"degree_median", "components", "drawn_transitive", "precision_inter", "seconds"} <= said[1].keys()


def test_loader_processes_see_the_graph(uninterrupted, tmp_path):
    follow(tmp_path / "run", recipe(trainer={"workers": 2}))
    assert_same_state(uninterrupted, tmp_path / "run")


LIGHTLY = {"head_settings": {"hidden_dim": 16, "output_dim": 8}}
MEMORIES: dict[str, dict[str, Any]] = {
    "graph of neighbours": {"name": "transitive", "projector": [16, 8], "neighbours": 4},
    "queue, bank and clusters": {
        "name": "interclr",
        "base": {"name": "moco-v2", "projector": [16, 8], "queue": 24},
        **{"clusters": 4, "smallest_cluster": 2, "negative_count": 5, "pool": 9},
    },
    "offline labels": {
        "name": "interclr",
        "base": {"name": "npid", "projector": [8], "negatives": 6},
        **{"clusters": 4, "labels": "offline", "negatives": "random", "negative_count": 5},
    },
    "words": {
        "name": "obow",
        **{"levels": 1, "vocabulary": 12, "border": 0, "window": 1, "warm_start": True, "first_distance": None},
        **{"crops": 1, "crop_size": 16, "patches": 0},
    },
    "clusters that change a little": {"name": "odc", "projector": [16, 8], "clusters": 4, "smallest_cluster": 2},
    "clusters of two banks": {"name": "deepcluster-v2", "projector": [16, 8], "local_crops": 0, "prototypes": [4, 4]},
    "queue of prototypes": {"name": "swav", "projector": [16, 8], "prototypes": 6, "local_crops": 0, "queue": 16},
    "queue of neighbours": {"name": "nnclr", "projector": [16, 8], "predictor": [8], "queue": 24},
    "lightly's bank": {"name": "lightly", **LIGHTLY, "loss": "NTXentLoss", "settings": {"memory_bank_size": 24}},
    "lightly's covariance": {"name": "lightly", **LIGHTLY, "loss": "TiCoLoss"},
    "lightly's random slices": {"name": "lightly", **LIGHTLY, "loss": "VISRegLoss", "local_crops": 1, "local_size": 32},
    "lightly's centre and schedules": {
        **{
            "name": "lightly",
            "loss": "DINOLoss",
            "local_crops": 0,
            "temperature_warmup": 0.8,
            "frozen_prototypes": 0.2,
        },
        "head_settings": {"hidden_dim": 16, "bottleneck_dim": 8, "output_dim": 6},
    },
}


SMOOTH = {"name": "test_vit", "arguments": {"img_size": 32, "patch_size": 8}}


class PlugPulledError(Exception):
    """Somebody pulled the plug."""


@pytest.mark.parametrize("memory", MEMORIES)
def test_every_memory_is_resumed_bit_for_bit(memory, tmp_path, monkeypatch):
    content = {
        **CONTENT,
        "objective": MEMORIES[memory],
        "data": {**CONTENT["data"], "views": 1, "size": 32},
        "augmentation": {"name": "obow" if memory == "words" else "simclr", "size": 32},
        "trainer": {**CONTENT["trainer"], "batch_size": 4, "accumulate": 3, "steps": 6, "checkpoint_every": 2},
    }
    wanted = resolve(content)
    follow(tmp_path / "whole", wanted)

    def stop(module: Pretraining, *_: Any) -> None:
        if module.step == 3:
            raise PlugPulledError

    # An epoch is four batches and a step is three, so the last checkpoint and the stop lie within an epoch.
    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "on_train_batch_end", stop)
        with pytest.raises(PlugPulledError):
            follow(tmp_path / "run", wanted)
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["step"] == 2
    follow(tmp_path / "run", wanted)
    assert_same_state(tmp_path / "whole", tmp_path / "run")


def half_on_two(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Train with the other rank up to the third step; returns what the objective remembers then."""
    os.environ["MASTER_PORT"] = "1"  # nobody asks for it, as the ranks have met
    wanted = resolve({**content, "trainer": {**content["trainer"], "devices": 2}})
    run = in_double(build(wanted, here=Place("lightning", rank(), rank(), 0, 2)))

    def stop(*_: Any) -> None:
        if run.module.step == 3:
            raise PlugPulledError

    run.module.on_train_batch_end = stop
    with pytest.raises(PlugPulledError):
        train(run, RunFolder.create(folder, wanted, []) if rank() == 0 else None, Progress(io.StringIO()))
    return run.objective.state_dict()


ALIKE = {"clusters that change a little": {"dropout": 0.0}}
"""Settings with which a memory is the same on any number of processes: each draws its own dropout."""


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
def test_every_memory_is_equal_on_two_ranks_and_goes_on_on_one(memory, tmp_path):
    content = {
        **CONTENT,
        "objective": {**MEMORIES[memory], **ALIKE.get(memory, {})},
        "backbone": CONTENT["backbone"] if memory == "words" else SMOOTH,
        "data": {**CONTENT["data"], "views": 1, "size": 32},
        "augmentation": {"name": "obow" if memory == "words" else "simclr", "size": 32},
        "optimizer": {"name": "sgd", "lr": 0.001, "warmup": 0.0},
        "trainer": {**CONTENT["trainer"], "batch_size": 4, "steps": 6, "checkpoint_every": 2, "workers": 0},
    }
    wanted = resolve(content)
    # In single precision, batch normalisation of eight images multiplies a rounding error by ten at every step.
    follow(tmp_path / "whole", wanted, in_double)
    first, second = on_processes(2, half_on_two, tmp_path / "run", content)
    for name, value in first.items():
        if isinstance(value, Tensor):
            assert torch.equal(second[name], value), name
    follow(tmp_path / "run", wanted, in_double)
    assert_same_state(tmp_path / "whole", tmp_path / "run", 1e-9)


@pytest.mark.slow
def test_two_processes_train_the_weights_of_one(tmp_path):
    # An epoch is two steps, so the last two steps have the graph.
    optimizer = {"name": "sgd", "lr": 0.01, "warmup": 0.0}
    wanted = recipe(data={"size": 32}, optimizer=optimizer, trainer={"steps": 4})
    (tmp_path / "recipe.yaml").write_text(wanted.dump())
    program = [sys.executable, "-m", "ssl_inv.run.cli", "pretrain", "recipe.yaml", "--quiet"]
    for devices in ("1", "2"):
        command = [*program, "--output", devices, "--trainer.devices", devices]
        subprocess.run(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    assert_same_state(tmp_path / "1", tmp_path / "2", 1e-3)


def test_single_images_need_an_augmentation_and_learn_from_neighbours_with_one():
    sentence = r"^data: objects of this data have 1 view\(s\) and 2 are needed; choose an augmentation"
    with pytest.raises(RecipeError, match=sentence):
        build(recipe(data={"views": 1}))
    run = build(recipe(data={"views": 1}, augmentation={"name": "simclr", "size": 16}))
    run.objective.between_epochs(run.backbone, 1, Gallery(run.data.train, run.module.view_maker.whole, "cpu"))
    assert run.module.view_maker.plan.linked
