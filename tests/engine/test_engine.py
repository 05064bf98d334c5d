"""The engine names what goes wrong, and logging, monitors and checkpoints do not change the training."""

import copy
import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ssl_inv.data.images import BrokenImagesError
from ssl_inv.engine.meter import Meter
from ssl_inv.engine.module import NonFiniteLossError
from ssl_inv.engine.progress import Progress
from ssl_inv.nn import losses
from ssl_inv.run.build import Run, build
from ssl_inv.run.cli import main
from ssl_inv.run.environment import versions
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.pretrain import train
from ssl_inv.run.recipe import RecipeError, resolve
from ssl_inv.testing import check_objective

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}


def make(**sections: dict[str, Any]) -> Run:
    """A run on a few rendered solids. The arguments change sections of the recipe."""
    content: dict[str, dict[str, Any]] = {
        "objective": {"name": "vicreg", "projector": [16, 16]},
        "backbone": {"name": "test_resnet"},
        "data": {"name": "rendered", "classes": 4, "objects": 24, "views": 3, "size": 16},
        "trainer": {"steps": 4, "batch_size": 8, "checkpoint_every": 1, "log_every": 1, "accelerator": "cpu"},
        "monitor": {"every": 0},
        "evaluation": {"protocol": "none"},
    }
    for name, section in sections.items():
        content[name] = {**(content.get(name, {}) if "name" not in section or name == "backbone" else {}), **section}
    return build(resolve(content))


def follow(run: Run, folder: Path) -> tuple[RunFolder, str]:
    """Train in `folder`; returns the folder and the printed text."""
    said = io.StringIO()
    record = RunFolder.create(folder, run.recipe, [])
    train(run, record, Progress(said))
    return record, said.getvalue()


def losses_of(folder: RunFolder) -> list[dict[str, float]]:
    return [line["loss"] for line in folder.metrics() if "loss" in line]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lars"])
def test_what_is_held_neither_moves_nor_decays_nor_leaves_a_trace_and_is_trained_afterwards(name, tmp_path) -> None:
    decay = {"weight_decay": 0.5} if name == "adamw" else {}
    run = make(objective={"name": "misbehaving.HoldsItsHead"}, optimizer={"name": name, "lr": 0.1, **decay})
    head = run.objective.head
    before = head.weight.detach().clone()
    follow(run, tmp_path / "run")
    assert not torch.equal(head.weight, before)
    if name == "adamw":
        moments = run.module.optimization.optimizer.state
        assert (moments[head.weight]["step"], moments[head.bias]["step"]) == (2, 4)


def of_batch(run: Run, batch: int) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Terms of the loss of a batch, and their gradients."""
    networks = torch.nn.ModuleList([copy.deepcopy(run.backbone), copy.deepcopy(run.objective)])
    terms = networks[1].loss(run.module.view_maker(run.module.batches[batch]), networks[0])
    torch.stack([term.weight * term.value for term in terms.values()]).sum().backward()
    gradients = [one.grad for one in networks.parameters() if one.grad is not None]
    return {name: float(term.value.detach()) for name, term in terms.items()}, gradients


def test_accumulated_batches_make_one_step_with_the_mean_of_their_losses_and_gradients(tmp_path: Path) -> None:
    run = make(optimizer=SGD, trainer={"steps": 1, "accumulate": 3, "batch_size": 4})
    parameters = [*run.backbone.parameters(), *run.objective.parameters()]
    before = [one.detach().clone() for one in parameters]
    terms, gradients = zip(*(of_batch(run, batch) for batch in range(3)), strict=True)
    folder, _ = follow(run, tmp_path / "run")
    loss = {name: sum(one[name] for one in terms) / 3 for name in terms[0]}
    assert losses_of(folder) == [pytest.approx(loss, rel=1e-4)]
    for number, (parameter, old) in enumerate(zip(parameters, before, strict=True)):
        mean = sum(one[number] for one in gradients) / 3
        torch.testing.assert_close(parameter.detach(), old - 0.1 * mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("each", [False, True])
def test_gradients_are_clipped_together_or_each_by_itself(each: bool, tmp_path: Path) -> None:
    run = make(optimizer=SGD, trainer={"steps": 1, "clip": 1e-3, "clip_each": each})
    before = [one.detach().clone() for one in run.module.parameters()]
    norms = torch.stack([one.norm() for one in of_batch(run, 0)[1]])
    follow(run, tmp_path / "run")
    pairs = zip(run.module.parameters(), before, strict=True)
    moved = torch.stack([(one.detach() - old).norm() / 0.1 for one, old in pairs])
    expected = norms.clamp(max=1e-3) if each else norms * (1e-3 / norms.norm())
    torch.testing.assert_close(moved, expected, rtol=2e-2, atol=2e-6)


def test_losses_in_reduced_precision_are_float32_and_what_follows_a_step_is_too(monkeypatch, tmp_path) -> None:
    exact, _ = follow(make(data={"size": 32}), tmp_path / "exact")
    run = make(trainer={"precision": "bf16"}, data={"size": 32})
    found = []
    monkeypatch.setattr(run.objective, "after_step", lambda *_: found.append(torch.ones(2, 2) @ torch.ones(2, 2)))
    folder, _ = follow(run, tmp_path / "run")
    assert [one.dtype for one in found] == [torch.float32] * 4
    first = losses_of(folder)[0]
    assert first == pytest.approx(losses_of(exact)[0], rel=0.1, abs=0.02)
    assert any(value != float(torch.tensor(value).bfloat16()) for value in first.values()), "terms were rounded"
    assert all(one.dtype == torch.float32 for one in run.backbone.parameters())


def test_reduced_precision_is_refused_where_the_cpu_gives_wrong_gradients() -> None:
    with pytest.raises(RecipeError, match=r"^trainer\.precision: bf16, but .* images of 16 pixels"):
        make(trainer={"precision": "bf16"}, data={"size": 16})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_covariance_of_huge_half_precision_embeddings_does_not_overflow(dtype: torch.dtype) -> None:
    embedding = (300 * torch.randn(64, 32, generator=torch.Generator().manual_seed(0))).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses.covariance(embedding)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, losses.covariance(embedding.double()).float(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        ("BreaksAtStepThree", "loss term 'term' became inf at step 3"),
        ("GradientBreaksAtStepThree", "is not finite after step 3"),
    ],
)
@pytest.mark.parametrize("every", [0, 1])
def test_what_is_not_finite_stops_the_run_before_it_is_saved(objective, sentence, every, tmp_path) -> None:
    monitor = {"every": every, "share": 1.0, "objects": 8}
    run = make(objective={"name": f"misbehaving.{objective}"}, monitor=monitor)
    with pytest.raises(NonFiniteLossError, match=f"{sentence}.*; the last good checkpoint is .*last.ckpt"):
        follow(run, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    state = folder.load_checkpoint()
    assert state["step"] == 2
    assert all(tensor.isfinite().all() for tensor in state["backbone"].values())
    assert folder.record()["state"].startswith("failed: ")


@pytest.mark.parametrize(
    ("objective", "got"),
    [
        ("BareTensor", "got a tensor of shape ()"),
        ("NoTerms", "got {}"),
        ("OnePerSample", "got 'term': a tensor of shape (8,)"),
        ("NoTerm", "got 'term': 0.5"),
        ("DictOfTensors", "got 'term': a tensor of shape ()"),
        ("FloatValue", "got 'term': 0.5"),
    ],
)
def test_a_loss_that_is_no_mapping_of_scalar_terms_ends_in_one_line(objective, got, tmp_path, capsys) -> None:
    run = make(objective={"name": f"misbehaving.{objective}"})
    (tmp_path / "recipe.yaml").write_text(run.recipe.dump())
    for command in (["check"], ["pretrain", "--quiet", "--output", str(tmp_path / "run")]):
        assert main([command[0], str(tmp_path / "recipe.yaml"), *command[1:]]) == 2
        form = "a mapping of at least one name to a Term with a scalar value"
        assert capsys.readouterr().err == f"error: objective: an objective's loss must be {form}, {got}\n"
    assert RunFolder.open(tmp_path / "run").record()["state"].startswith("failed: objective: ")
    with pytest.raises(
        AssertionError, match=r"the loss is Tensor|has no terms|is no scalar|is no Term|no tensor|not a tensor"
    ):
        check_objective(f"misbehaving.{objective}")


@pytest.mark.parametrize(
    ("objective", "said", "checked"),
    [
        ("Detached", "no loss term has a gradient (term): they are detached, or made without one", "has no gradient"),
        ("ListAsWeight", "the weight of the loss term 'term' must be a number, got [1]", "has the weight [1]"),
    ],
)
def test_terms_that_teach_nothing_or_weigh_nothing_end_in_one_line(objective, said, checked, tmp_path, capsys) -> None:
    run = make(objective={"name": f"misbehaving.{objective}"})
    (tmp_path / "recipe.yaml").write_text(run.recipe.dump())
    for command in (["check"], ["pretrain", "--quiet", "--output", str(tmp_path / "run")]):
        assert main([command[0], str(tmp_path / "recipe.yaml"), *command[1:]]) == 2
        assert capsys.readouterr().err == f"error: objective: {said}\n"
    with pytest.raises(AssertionError, match=re.escape(checked)):
        check_objective(f"misbehaving.{objective}")


def test_collapse_is_said_and_recorded(tmp_path: Path) -> None:
    run = make(objective={"name": "misbehaving.Collapsed"}, monitor={"every": 2, "share": 1.0, "objects": 8})
    folder, said = follow(run, tmp_path / "run")
    assert "warning: collapse at step 2: the features of different images are nearly one vector" in said
    assert folder.record()["warnings"][0].startswith("collapse at step 2")


def images(folder: Path, count: int, broken: int = 0) -> None:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (16, 16), (number * 8, 90, 200 - number * 4)).save(folder / f"{number:02d}.png")
    for number in range(broken):
        (folder / f"{number:02d}.png").write_bytes(b"no image")


def folder_run(path: Path, **trainer: Any) -> Run:
    data = {"name": "folder", "path": str(path), "size": 16, "cache": False}
    return make(data=data, augmentation={"name": "simclr", "blur": 0.0}, trainer=trainer)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_replaced_and_named_once(workers, tmp_path, capfd, caplog) -> None:
    images(tmp_path / "images", 30, broken=2)
    (tmp_path / "images" / "20.png").write_bytes(b"no image")
    run = folder_run(tmp_path / "images", workers=workers, steps=8)
    trained = {run.data.train.describe(number, 0) for number in range(len(run.data.train))}
    broken = sorted(trained & {"00.png", "01.png", "20.png"})
    # The first are met before training, to know the size of images.
    told = "".join(record.getMessage() for record in caplog.records)
    capfd.readouterr()
    folder, said = follow(run, tmp_path / "run")
    assert broken == ["00.png", "01.png", "20.png"]
    assert sorted(folder.record()["broken_images"]) == broken
    assert [said.count(f"{name} cannot be read") for name in broken] == [0, 0, 1]
    assert [told.count(f"cannot read {name}") for name in broken] == [1, 1, 0]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_images_end_the_run_with_one_line(workers: int, tmp_path: Path) -> None:
    images(tmp_path / "images", 60)
    run = folder_run(tmp_path / "images", workers=workers, batch_size=12, steps=3)
    # Ten are allowed, and no process alone meets more.
    for file in sorted((tmp_path / "images").iterdir())[::3]:
        file.write_bytes(b"no image")
    with pytest.raises(BrokenImagesError, match="images cannot be read") as error:
        follow(run, tmp_path / "run")
    assert not re.search("\n|raceback", str(error.value))


def test_a_run_goes_on_with_its_own_recipe_and_as_many_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "images"
    images(place, 30)
    folder, _ = follow(folder_run(place, steps=2), tmp_path / "run")

    def go_on(steps: int = 2) -> None:
        train(folder_run(place, steps=steps), folder, Progress(io.StringIO()))

    with pytest.raises(RecipeError, match=r"changed since the run's last checkpoint, or .*: trainer\.steps: 2 -> 4"):
        go_on(steps=4)
    (place / "05.png").write_bytes((place / "06.png").read_bytes())
    caplog.clear()
    go_on()
    changed = "data: files have changed since the run began, so it does not continue bit for bit"
    assert caplog.messages == [f"warning: {changed}"]
    assert folder.record()["warnings"] == [changed]
    Image.new("RGB", (16, 16)).save(place / "99.png")
    counts = "the run began with 27 objects in 27 images, and there are 28 objects in 28 images now"
    with pytest.raises(RecipeError, match=counts):
        go_on()


def test_a_run_that_goes_on_with_other_versions_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, _ = follow(make(), tmp_path / "run")
    here = folder.record()["versions"]
    folder.update(versions={**here, "torch": "2.0"}, host={**folder.record()["host"], "threads": 99})
    for _ in range(2):
        train(make(), folder, Progress(io.StringIO()))
    # The second time, nothing differs from the first time.
    differing = f"torch 2.0 -> {here['torch']}, threads 99 -> {torch.get_num_threads()}"
    said = f"the run continues at step 4 with other versions, so not bit for bit: {differing}"
    assert caplog.messages == [f"warning: {said}"]
    assert folder.record()["warnings"] == [said]
    assert [(pause["step"], pause["versions"]) for pause in folder.record()["resumed"]] == [(4, here)] * 2


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    folder, _ = follow(make(), tmp_path / "run")
    here = folder.record()["versions"]
    for file in (folder.checkpoint_file, folder.previous_file):
        file.unlink(missing_ok=True)
    folder.update(versions={**here, "torch": "2.0"}, began="2026-01-01T10:00:00+0000")
    train(make(), folder, Progress(io.StringIO()))
    record = folder.record()
    assert (record["versions"], record["began"] > "2026-01-02", "resumed" in record) == (here, True, False)


def test_runs_have_folders_of_their_own_and_a_run_folder_is_never_overwritten(tmp_path: Path) -> None:
    recipe = make().recipe
    folders = [RunFolder.create(tmp_path / "run", recipe, [], numbered=True).path.name for _ in range(3)]
    assert folders == ["run", "run-2", "run-3"]
    content = (tmp_path / "run" / "run.json").read_text()
    with pytest.raises(RecipeError, match="exists already"):
        RunFolder.create(tmp_path / "run", recipe, [])
    assert (tmp_path / "run" / "run.json").read_text() == content


def test_the_commit_is_not_that_of_code_that_differs_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*command: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@y"]
        subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True, capture_output=True)

    for folder in ("ssl_inv", "evaluation", "docs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "code.py").write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "x")
    monkeypatch.setattr("ssl_inv.run.environment.__file__", str(tmp_path / "ssl_inv" / "run" / "environment.py"))
    (tmp_path / "docs" / "code.py").write_text("2")
    assert versions().keys() >= {"commit", "torch"}
    assert "uncommitted" not in versions()
    (tmp_path / "evaluation" / "code.py").write_text("2")
    (tmp_path / "ssl_inv" / "new.py").write_text("2")
    assert versions()["uncommitted"] == "evaluation/code.py, ssl_inv/new.py"


def test_the_monitor_changes_nothing_and_nobody_speaks_but_the_progress_display(tmp_path: Path, capfd) -> None:
    dropout = {"name": "test_resnet", "arguments": {"drop_rate": 0.3}}
    runs, folders = [], []
    for every in (0, 1):
        runs.append(make(backbone=dropout, monitor={"every": every, "share": 1.0, "objects": 8}))
        folders.append(follow(runs[-1], tmp_path / f"run-{every}")[0])
        assert runs[-1].backbone.training
        assert capfd.readouterr() == ("", "")
    silent, monitored = ([line["monitor"] for line in one.metrics() if "monitor" in line] for one in folders)
    assert not silent
    assert {"knn", "linear", "r2 rotation", "rankme", "deviation"} <= monitored[0].keys()
    assert losses_of(folders[0]) == losses_of(folders[1])
    one, other = (run.module.training_state() for run in runs)
    for part in ("backbone", "objective"):
        assert all(torch.equal(tensor, other[part][name]) for name, tensor in one[part].items())


def test_between_epochs_is_called_before_each_epoch_with_its_objects(tmp_path: Path) -> None:
    run = make(objective={"name": "misbehaving.LooksBetweenEpochs"}, trainer={"steps": 5, "batch_size": 8})
    per_epoch = run.module.batches.steps_per_epoch
    folder, _ = follow(run, tmp_path / "run")
    epochs = -(-5 // per_epoch)
    assert int(run.objective.calls) == epochs
    assert run.objective.seen.eq(epochs).all()
    noted = [line for line in folder.metrics() if "memory" in line]
    assert [line["step"] for line in noted] == [1 + epoch * per_epoch for epoch in range(epochs)]
    assert noted[0]["memory"]["classes"] == 4


def test_numbers_that_are_not_finite_are_null_in_the_metrics(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.log(step=1, monitor={"r2 hue": float("nan"), "knn": 0.5}, waiting=[float("inf")])
    assert json.loads(folder.metrics_file.read_text(), parse_constant=pytest.fail) == folder.metrics()[0]
    assert folder.metrics() == [{"step": 1, "monitor": {"r2 hue": None, "knn": 0.5}, "waiting": [None]}]


def test_the_meter_counts_training_and_waiting_and_leaves_out_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ssl_inv.engine.module.time.perf_counter", lambda: now[0])
    meter = Meter()
    for _ in range(2):
        for _ in range(2):
            now[0] += 1.0
            meter.data_arrived()
            meter.count(30)
            now[0] += 3.0
            with meter.paused():
                now[0] += 100.0
            meter.batch_done()
        assert meter.read() == (7.5, 0.25)
