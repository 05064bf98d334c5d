"""The commands other than `pretrain`, after the command line has checked their arguments."""

import importlib.util
import inspect
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from ssl_inv.catalogue import DATA, RecipeError, require, within
from ssl_inv.data.looks import require_rendered
from ssl_inv.data.reading import SETTINGS_OF_VALUES
from ssl_inv.data.source import Data, Subset
from ssl_inv.data.sources.rendered.posed import PosedObjects
from ssl_inv.engine.launch import quiet_lightning
from ssl_inv.engine.module import losses_of, weighted_sum
from ssl_inv.engine.progress import Progress, clock
from ssl_inv.engine.watch import require_known
from ssl_inv.run.build import build, held_out_of, innermost, possible_scores
from ssl_inv.run.data_sections import described_section
from ssl_inv.run.encoders import load_model
from ssl_inv.run.exports.export import export_run, export_torchvision
from ssl_inv.run.exports.export_onnx import export_onnx
from ssl_inv.run.exports.export_program import export_program
from ssl_inv.run.exports.model_card import UNKNOWN, Trained, model_card
from ssl_inv.run.exports.parts import parts_of
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.plain_yaml import dump_value
from ssl_inv.run.recipe import Choice, Recipe, apply_overrides, resolve_section
from ssl_inv.run.together import gathered

_OF_DATA = ("path", "classes", "views", "max_broken", "max_faces")
"""Settings of data that can be refused while these are written."""


@dataclass(frozen=True)
class OneStep:
    """A recipe that was built, and one step of it.

    Attributes:
        name: of the recipe.
        recipe: every setting.
        objects: to train on, and to judge by.
        batch: samples in the step.
        steps: of the whole run.
        losses: the terms of the loss.
        total: their weighted sum.
        loading: seconds to load the data of a batch.
        seconds: of views, forward and backward, on the CPU.
        notes: where the weights are from, and what of the data is not used.
    """

    name: str
    recipe: Recipe
    objects: tuple[int, int]
    batch: int
    steps: int
    losses: dict[str, float]
    total: float
    loading: float
    seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        terms = ", ".join(f"{term} {value:.4g}" for term, value in self.losses.items())
        trainer = self.recipe.trainer
        return (
            f"{self.name}: valid\n"
            f"{''.join(f'{note}{chr(10)}' for note in self.notes)}"
            f"data: {self.objects[0]:,} training and {self.objects[1]:,} validation objects\n"
            f"one step of {self.batch}: {self.loading:.2f} s for data, "
            f"{self.seconds:.2f} s for views, forward and backward on the CPU\n"
            f"all {self.steps:,} steps: about {clock(self.steps * trainer.accumulate * self.seconds)} at that speed\n"
            f"loss {self.total:.4g}: {terms}"
        )

    __repr__ = __str__


def check(name: str, recipe: Recipe) -> None:
    """Build a recipe and run one step of it. Nothing is written."""
    sys.stdout.write(f"{one_step(name, recipe)}\n")


def one_step(name: str, recipe: Recipe) -> OneStep:
    """Build a recipe and run one step of it.

    Raises:
        RecipeError: if it cannot be built, or a loss term is not finite.
    """
    with quiet_lightning():
        run = build(recipe)
        begun = time.perf_counter()
        with within("data"):
            batch = run.module.batches[0]
        loading = time.perf_counter() - begun
        # The first pass allocates memory and compiles kernels, so the time is that of the second. A memory may have
        # changed by then, so the loss is that of the first.
        passes = []
        for _ in range(2):
            begun = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.trainer.precision == "bf16"):
                losses = losses_of(run.objective, run.module.view_maker(batch), run.backbone)
            total = weighted_sum(losses)
            total.backward()  # type: ignore[no-untyped-call]
            seconds = time.perf_counter() - begun
            passes.append((losses, total))
    losses, total = passes[0]
    if odd := next((term for term, part in losses.items() if not bool(part.value.isfinite())), None):
        raise RecipeError(f"{name}: loss term '{odd}' is {losses[odd].value.item()} in the first step")
    networks = (run.backbone, run.objective)
    if not any(one.grad is not None and bool(one.grad.any()) for net in networks for one in net.parameters()):
        raise RecipeError(f"{name}: the loss, {total.item():.4g}, has no gradient in the first step")
    stop, scores = recipe.trainer.early_stop(), possible_scores(run.data, run.objective) if recipe.monitor.every else []
    require_known(recipe.trainer.watched_for_best(), "trainer.best", losses, scores)
    require_known(None if stop is None else stop.watched, "trainer.stop.name", losses, scores)
    run.start.tell()
    objects = len(run.module.batches.source), len(run.data.validation)
    terms = {term: part.value.item() for term, part in losses.items()}
    notes = tuple(one for one in (run.start.sentence, _not_used(run.data.notes)) if one)
    return OneStep(
        name, recipe, objects, len(batch.index), run.module.steps, terms, total.item(), loading, seconds, notes
    )


def _not_used(notes: Mapping[str, str]) -> str:
    return f"not used: {notes['not used']}" if "not used" in notes else ""


def embed(
    model: str,
    data: str | None,
    overrides: list[str],
    pretrained: bool,
    output: Path,
    file_format: str,
    shard_size: int,
    index: str | None = None,
) -> None:
    """Write the features of every image, and an index of them if `index` names a kind."""
    from ssl_inv.run.search.writing import write_embeddings

    with quiet_lightning(), gathered() as team:
        loaded = load_model(model, data, overrides, pretrained)
        rows = write_embeddings(loaded, output, file_format, shard_size, index, team)
    if team.first:
        sys.stdout.write(f"{rows:,} embeddings in {output}\n")


def report(folder: RunFolder) -> None:
    """Make the report of a run again."""
    from ssl_inv.run.pretrain import report as make_report

    make_report(folder)
    sys.stdout.write(f"report: {folder.report_file}\n")


def export(
    folder: RunFolder, file_format: str, output: Path | None, any_size: bool = False, licence: str | None = None
) -> None:
    """Write the backbone of a run.

    Args:
        folder: of the run, at one of its checkpoints.
        file_format: timm, torchvision, onnx or torch-export.
        output: folder or file; None is a place inside the run.
        any_size: whether a program takes images of any size.
        licence: of the weights, for the model card of timm's folder.
    """
    from ssl_inv.run.saved_run import SavedRun

    # The export of the run itself is of its last checkpoint, and stays.
    of_step = "" if folder.at_end else f"-{folder.checkpoint_file.stem}"
    default = {
        "timm": f"{folder.export_folder.name}{of_step}",
        "torchvision": f"torchvision{of_step}.pth",
        "onnx": f"backbone{of_step}.onnx",
        "torch-export": f"backbone{of_step}.pt2",
    }
    place = output or folder.path / default[file_format]
    with quiet_lightning():
        run = SavedRun.open(folder)
        backbone, preprocessing, objective = run.backbone(), run.preprocessing, run.objective()
        parts = {} if objective is None else parts_of(objective, backbone, preprocessing.input_size)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with within("export"):
                if file_format == "timm":
                    told = () if objective is None else tuple(objective.parameters_told)
                    step, (objects, images) = run.state["step"], run.state["extent"]
                    facts = run.recipe, backbone, preprocessing, parts, told, step, (objects, images)
                    about = Trained(*facts, licence=licence or UNKNOWN)
                    export_run(backbone, preprocessing, place, parts, model_card(about, folder))
                elif file_format == "torchvision":
                    export_torchvision(backbone.model, backbone.architecture, place, overwrite=output is None)
                else:
                    write = export_onnx if file_format == "onnx" else export_program
                    arguments = backbone.model, place, preprocessing, output is None
                    write(*arguments, any_size=any_size, parts=parts)
        except ModuleNotFoundError as error:
            raise RecipeError(str(error)) from None
    sys.stdout.write(f"{place}\n")


def describe_data(
    name: str, overrides: list[str], output: Path | None, images: int, as_json: bool, every: bool = False
) -> None:
    """Say what a data set is, draw some of its images, and perhaps open every one."""
    from ssl_inv.run.pages import data_page

    section = apply_overrides({"data": described_section(name, overrides)}, overrides, ["data"])["data"]
    chosen = resolve_section("data", section, "the command line")
    if every and "max_broken" in chosen.settings:
        chosen.settings["max_broken"] = 1.0
    broken: dict[str, str] | None = None
    with within("data"):
        data = held_out_of(chosen, DATA.find(chosen.name).load()(**chosen.settings))
        if every:
            data_page.hold_back(data)
        facts = {"data": chosen.name, **data_page.facts(data)}
        if every:
            facts.pop("cannot be read", None)
            facts.pop("cannot be rendered", None)
            broken = data_page.broken(data)
        if output is not None:
            data_page.write_sheet(data, name, output, images)
    if as_json:
        sys.stdout.write(json.dumps(facts if broken is None else {**facts, "broken": broken}, indent=1) + "\n")
    else:
        sys.stdout.write(data_page.text(facts) + ("" if broken is None else data_page.list_of(broken, data)))
    if output is not None:
        # Nothing stands behind JSON.
        (sys.stderr if as_json else sys.stdout).write(f"sheet: {output}\n")


def shard(name: str, overrides: list[str], output: Path, size_mb: float, order: Literal["shuffled", "kept"]) -> None:
    """Write data as tar shards."""
    from ssl_inv.data.shards.writing import write_shards

    section = apply_overrides({"data": described_section(name, overrides)}, overrides, ["data"])["data"]
    chosen = resolve_section("data", section, "the command line")
    with within("data"):
        whole = chosen.held_out.held_out == "objects"
        require(whole, "held_out", "is chosen where data are read, and what is written has all views; leave it out")
        data = DATA.find(chosen.name).load()(**chosen.settings)
        require_rendered(data)
    progress = Progress()
    try:
        with within("data", besides=["output"]), within("output", besides=_OF_DATA):
            asked = {"name": chosen.name, **chosen.settings}
            summary = write_shards(data, output, asked, size_mb, order, progress.counting("objects"))
    finally:
        progress.close()
    if summary.unreadable:
        first, reason = next(iter(summary.unreadable.items()))
        count = f"{len(summary.unreadable):,} image(s) cannot be read and are left out"
        progress.warn(f"{count}, the first {first}: {reason}")
    for change in summary.changed:
        progress.warn(f"names of numbers cannot say what it is: {change}")
    sys.stdout.write(
        f"{summary.objects:,} objects, {summary.images:,} images in {summary.shards:,} shards: {output}\n"
        f"to train on them: --data.name shards --data.path {output} --data.size PIXELS{_read_again(chosen, data)}\n"
    )


def _read_again(chosen: Choice, data: Data) -> str:
    """Settings of values that files in shards need as they needed them before; pixels have them behind them."""
    from ssl_inv.data.shards.writing import copies_files

    if not copies_files(data.train):
        return f" --data.channels {data.train.channels}" if data.train.channels != 3 else ""
    usual = inspect.signature(DATA.find(chosen.name).load()).parameters
    told = {name: chosen.settings[name] for name in SETTINGS_OF_VALUES if name in usual and name in chosen.settings}
    return "".join(
        f" --data.{name} {dump_value(value)!r}" if isinstance(value, list) else f" --data.{name} {dump_value(value)}"
        for name, value in told.items()
        if value != usual[name].default
    )


def render(chosen: Choice, output: Path, quality: int, beside: Sequence[str]) -> None:
    """Write rendered solids or meshes in the layout of 3DIEBench."""
    from ssl_inv.data.sources.meshes.source import RenderedMeshes
    from ssl_inv.data.sources.threediebench_writing import Writing, write_threediebench

    with gathered() as team:
        with within("data"):
            whole = chosen.held_out.held_out == "objects"
            require(whole, "held_out", "is chosen where data are read, and what is written has all views; leave it out")
            data = DATA.find(chosen.name).load()(**{**chosen.settings, "cache": False})
            require_rendered(data)
        source = innermost(data.train)
        assert isinstance(source, PosedObjects)
        assert isinstance(data.train, Subset)
        assert isinstance(data.validation, Subset)
        progress = Progress(quiet=not team.first)
        try:
            # What a mesh or its class is to blame for is named as a setting of the data.
            with within("data", besides=["output"]), within("output", besides=_OF_DATA):
                split, latents = (data.train.objects, data.validation.objects), source.all_latents()
                shared = (team.rank, team.size), team.wait
                told = {"data": {"name": chosen.name, **chosen.settings}, "quality": quality, "beside": list(beside)}
                writing = Writing({**told, "stamp": source.stamp}, isinstance(source, RenderedMeshes))
                if isinstance(source, RenderedMeshes):
                    writing = replace(writing, beside=partial(source.beside, beside), name_of=source.name_of)
                counted = progress.counting("rendering")
                written = write_threediebench(output, source, latents, split, quality, counted, *shared, writing)
        finally:
            progress.close()
    if not team.first:
        return
    left_out = len(source) - written
    broken = f", {left_out:,} broken left out" if left_out else ""
    sys.stdout.write(f"{written:,} objects, {written * source.views:,} images in {output}{broken}\n")


def tracks(videos: str, frames: str, output: Path, settings: dict[str, Any], size: int, margin: float) -> None:
    """Find the tracks of videos and write them as a table of views."""
    if importlib.util.find_spec("cv2") is None:
        raise RecipeError("tracks need OpenCV: pip install 'ssl-inv[video]'")
    from ssl_inv.data.videos.followers import tracker
    from ssl_inv.data.videos.mining import TrackSettings
    from ssl_inv.data.videos.reading import find_videos
    from ssl_inv.data.videos.writing import write_tracks

    progress = Progress()
    try:
        with within("tracks"):
            chosen = TrackSettings(**settings)
            tracker(chosen.tracker)
            found = find_videos(videos, frames)
        with within("output"):
            summary = write_tracks(found, output, chosen, size, margin, progress.update)
    finally:
        progress.close()
    for name, reason in summary.broken.items():
        progress.warn(f"{name}: {reason}; the tracks before that are kept")
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in summary.dropped.items()) or "none"
    if summary.videos - len(summary.empty) == 1:
        progress.warn(
            "tracks of a single video may show one object, yet they are split at random into training and validation"
        )
    sys.stdout.write(
        f"{summary.objects:,} objects, {summary.views:,} views of {summary.videos:,} videos: {output / 'tracks.csv'}\n"
        f"dropped: {dropped}\n"
        f"videos without a track: {', '.join(summary.empty) or 'none'}\n"
        f"to train on them: --data.name table --data.path {output} --data.size {size}\n"
    )


def views(name: str, recipe: Recipe, output: Path, images: int) -> None:
    """Draw the first views of a run on one page."""
    from ssl_inv.run.pages.views_page import shown_views

    with quiet_lightning():
        shown_views(name, recipe, images).write(output)
    sys.stdout.write(f"{output}\n")


def operations(recipe: Recipe | None, output: Path) -> None:
    """Draw every operation on one page, on the first image of a recipe's data or on a built-in one."""
    from ssl_inv.run.pages.operations_page import write_operations

    write_operations(recipe, output)
    sys.stdout.write(f"{output}\n")
