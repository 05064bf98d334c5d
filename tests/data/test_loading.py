"""The batch of a step is a function of the seed and the step, on its way to the device too; how long it is waited for
is always said.
"""

import io

import faiss
import numpy as np
import pytest
import torch
import yaml
from small_data import plain
from torch import Tensor

from ssl_inv.data.batches import Batch, StepBatches, StepLoader, UnreadableBatchError
from ssl_inv.data.source import Images, Indices, Source
from ssl_inv.engine import launch
from ssl_inv.engine.progress import Progress
from ssl_inv.engine.settings import TrainerSettings
from ssl_inv.memories.search import faiss_for_all_processes
from ssl_inv.run import build, pretrain
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.recipe import resolve
from ssl_inv.testing.device import DEVICE, PretendedGPU
from ssl_inv.transforms import Real, Transform


class Numbers(Source):
    """Objects whose pixels and transform tell which view of which object they are."""

    view_counts, groups, labels, image_size = None, {"view": Real()}, None, 2

    def __init__(self, objects: int = 23, views: int = 4, broken: frozenset[int] = frozenset()) -> None:
        self.view_counts, self.broken = np.full(objects, views, dtype=np.int64), broken

    def load(self, objects: Indices, views: Indices) -> Images:
        if (objects == 1000).any():
            raise ValueError("object 1000 is cursed")
        pixels = torch.from_numpy(np.stack((objects, views, objects + views), axis=1)).to(torch.uint8)
        readable = torch.from_numpy(~np.isin(objects, list(self.broken)))
        transform = Transform({"view": torch.from_numpy(views).float()}, self.groups)
        return Images(pixels.view(-1, 3, 1, 1).repeat(1, 1, 2, 2), transform, readable)


def assert_views_are_of_the_objects(batch: Batch) -> None:
    for one in batch.images:
        assert torch.equal(one.pixels[:, 0, 0, 0].long(), batch.index)
        assert torch.equal(one.pixels[:, 1, 0, 0].float(), one.transform["view"])


def same(one: Batch, other: Batch) -> bool:
    pixels = all(
        torch.equal(a.pixels, b.pixels) and torch.equal(a.transform["view"], b.transform["view"])
        for a, b in zip(one.images, other.images, strict=True)
    )
    return pixels and torch.equal(one.index, other.index) and (one.epoch, one.broken) == (other.epoch, other.broken)


@pytest.mark.parametrize("objects", [24, 23])
def test_an_epoch_visits_every_object_once_in_a_new_order_and_what_does_not_fill_a_batch_changes(objects):
    batches, steps = StepBatches(Numbers(objects), 8, 2, seed=0), objects // 8
    epochs = [torch.cat([batches[steps * epoch + step].index for step in range(steps)]).tolist() for epoch in range(8)]
    assert all(len(epoch) == len(set(epoch)) == 8 * steps for epoch in epochs)
    assert set().union(*epochs) == set(range(objects))
    assert len({tuple(epoch) for epoch in epochs}) == 8


def test_views_are_of_the_object_different_and_told_by_the_transform():
    batch = StepBatches(Numbers(), 8, 3, seed=0)[5]
    views = torch.stack([one.pixels[:, 1, 0, 0] for one in batch.images])
    assert_views_are_of_the_objects(batch)
    assert all(len(set(column.tolist())) == 3 for column in views.T)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batch_of_one_process(processes):
    whole = StepBatches(Numbers(), 8, 2, seed=1)
    parts = [StepBatches(Numbers(), 8, 2, 1, rank, processes) for rank in range(processes)]
    for step in (0, 1, 7):
        shares = [part[step] for part in parts]
        assert torch.equal(torch.cat([one.index for one in shares]), whole[step].index)
        for view in range(2):
            assert torch.equal(torch.cat([one.images[view].pixels for one in shares]), whole[step].images[view].pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fresh_loader_at_any_step_gives_what_a_long_one_gives(workers):
    source = Numbers(broken=frozenset({3}))
    whole = [*StepLoader(StepBatches(source, 8, 2, seed=4), 0, 6)]
    fresh = [*StepLoader(StepBatches(source, 8, 2, seed=4), 3, 6, workers)]
    assert all(same(one, other) for one, other in zip(whole[3:], fresh, strict=True))


def test_another_seed_gives_another_order_and_other_views():
    one, other = (StepBatches(Numbers(), 8, 2, seed)[0] for seed in (0, 1))
    assert not torch.equal(one.index, other.index)


def test_unreadable_samples_give_their_place_to_readable_ones_and_are_named():
    broken = frozenset(range(6))
    batches = StepBatches(Numbers(24, broken=broken), 8, 2, seed=0)
    for step in range(6):
        batch = batches[step]
        assert not broken & set(batch.index.tolist())
        assert all(bool(one.readable.all()) for one in batch.images)
        assert_views_are_of_the_objects(batch)
    named = {int(name.split()[1].rstrip(",")) for step in range(3) for name in batches[step].broken}
    assert named == broken


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_loader_processes_arrive_as_they_were_raised(workers):
    hopeless = StepBatches(Numbers(8, broken=frozenset(range(8))), 4, 2, seed=0)
    unreadable = r"^object \d, view \d and its replacements cannot be read; \d+ views"
    with pytest.raises(UnreadableBatchError, match=unreadable):
        next(iter(StepLoader(hopeless, 0, 2, workers)))
    cursed = StepBatches(Numbers(1001), 1001, 2, seed=0)
    with pytest.raises(ValueError, match=r"^object 1000 is cursed$"):
        next(iter(StepLoader(cursed, 0, 1, workers)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((24, 2, 0), "batch_size: 24 is larger than the 23 objects"),
        ((9, 2, 0, 0, 2), "batch_size: 9 cannot be shared evenly by 2 processes"),
        ((8, 5, 0), r"an object of the training data has 4 view\(s\), 5 are needed"),
    ],
)
def test_impossible_batches_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        StepBatches(Numbers(), *arguments)


# On the way to the device.


def test_a_batch_goes_to_a_gpu_from_page_locked_memory_with_its_shapes_types_and_order_in_memory(monkeypatch):
    pinned = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor.dtype) or tensor)
    channels_last = torch.randint(0, 256, (3, 5, 7, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    record = {"a": torch.randn(3, 4), "b": torch.randn(3).double(), "c": torch.randn(6)[::2]}
    images = (
        Images(channels_last, Transform(record, dict.fromkeys("abc", Real())), torch.ones(3, dtype=torch.bool)),
        plain(torch.ones(3, 3, 2, 2).byte()),
    )
    batch = Batch(images, torch.arange(3), 0, (), torch.zeros(2, 3, 2, dtype=torch.int64))
    with PretendedGPU():
        there = batch.to(DEVICE)
        again = there.to(DEVICE)
    # The pixels of each view, and the numbers of a transform by type; nothing is pinned that is on the device.
    assert sorted(map(str, pinned)) == ["torch.float32", "torch.float64", "torch.uint8", "torch.uint8"]
    for one, moved in zip(images, there.images, strict=True):
        assert moved.pixels.device == DEVICE
        assert (moved.pixels.shape, moved.pixels.stride()) == (one.pixels.shape, one.pixels.stride())
        for name, value in one.transform.values.items():
            found = moved.transform[name]
            assert (found.device, found.shape, found.dtype) == (DEVICE, value.shape, value.dtype)
    for host in (there.index, there.shown, *(one.readable for one in there.images)):
        assert host.device.type == "cpu"
    assert again.images[0].pixels is there.images[0].pixels


# Loader processes.


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, 6),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 6),
        ({}, 6),
    ],
    ids=["quota", "no quota", "version 1", "version 1 without quota", "no control groups"],
)
def test_cores_are_those_of_the_container_and_of_the_process(files, most, monkeypatch):
    """joblib counts them: 8 in the machine, 6 for the process, and the time that Linux gives a container."""
    contents = {f"/sys/fs/cgroup/{name}": content for name, content in files.items()}
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setattr("os.path.exists", contents.__contains__)
    monkeypatch.setattr("builtins.open", lambda name: io.StringIO(contents[name]))
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    found = launch.cpu_count()
    monkeypatch.undo()
    assert found == most


@pytest.mark.parametrize(
    ("cores", "own", "processes", "given"), [(16, 2, 8, 16), (16, 2, 4, 8), (4, 2, 8, 4), (1, 2, 1, 2), (1, 2, 2, 2)]
)
def test_what_one_process_does_for_all_it_does_on_the_cores_of_all(cores, own, processes, given, monkeypatch):
    monkeypatch.setattr("ssl_inv.memories.search.cpu_count", lambda: cores)
    monkeypatch.setattr("ssl_inv.memories.search.processes_here", lambda: processes)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(own)
    try:
        with faiss_for_all_processes():
            assert faiss.omp_get_max_threads() == given
        assert faiss.omp_get_max_threads() == own
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "devices", "asked", "started"),
    [
        (4, 1, 64, 4),
        (4, 2, 3, 2),
        (1, 2, 2, 1),
        (4, 1, 3, 3),
        (4, 1, 0, 0),
        (4, 1, None, 3),
        (64, 1, None, 8),
        (1, 4, None, 1),
    ],
)
def test_no_more_loader_processes_than_cores(cores, devices, asked, started, monkeypatch, caplog):
    monkeypatch.setattr(launch, "cpu_count", lambda: cores)
    assert launch.workers(TrainerSettings(steps=1, devices=devices, workers=asked), Numbers()) == started
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (asked is not None and asked > started)
    assert all(f"trainer.workers is {asked}, but there are {cores} core(s)" in line for line in said)


# Waiting.


@pytest.mark.parametrize("terminal", [True, False])
def test_the_line_the_metrics_and_the_summary_say_the_share_of_waiting(terminal, tmp_path, tiny_recipe, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1" if terminal else "")
    monkeypatch.setenv("COLUMNS", "140")
    content = yaml.safe_load(tiny_recipe)
    content["trainer"] |= {"steps": 3, "log_every": 2}
    run, said = build.build(resolve(content)), io.StringIO()
    folder = RunFolder.create(tmp_path / "run", run.recipe, [])
    progress = Progress(said)
    assert progress.console.is_terminal == terminal
    lines: list[str] = []
    show = progress.update
    monkeypatch.setattr(progress, "update", lambda line: (lines.append(line), show(line)))
    pretrain.train(run, folder, progress)
    # From the first step on, which is before the first line of the metrics.
    assert len(lines) == 3
    assert all("% waiting for data" in line and " img/s" in line for line in lines)
    assert "% waiting for data" in said.getvalue()
    assert "% of the time waiting for data" in said.getvalue()
    assert [0 < line["waiting"] < 1 for line in folder.metrics()] == [True, True]
    assert 0 < folder.record()["waiting"] < 1
    assert folder.record()["images_per_second"] > 0
