"""What each command does, once its arguments are known to be well formed."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ssl_inv.callbacks import Progress, clock
from ssl_inv.data.rendered import RenderedSolids
from ssl_inv.evaluation.results import format_table, to_json
from ssl_inv.finish import export_run, finish, judge
from ssl_inv.models import load_model
from ssl_inv.pretrain import Run, build, build_data, refuse_unwritable, train
from ssl_inv.recipe import EvaluationSettings, Recipe, RecipeError, load_recipe, named
from ssl_inv.run_folder import RunFolder, default_output, write_text


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep libraries from talking between our lines; their errors still raise."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*litlogger.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        yield


def pretrain(recipe_name: str | None, overrides: list[str], output: str | None, resume: str | None, quiet: bool) -> None:
    """Train, judge, export, report; or continue a run that was interrupted."""
    with _quiet_libraries():
        progress = Progress(quiet=quiet)
        recipe, folder, place = _recipe_and_folder(recipe_name, overrides, output, resume)
        run = build(recipe)
        if folder is None:
            folder = RunFolder.create(place, recipe, ["ssl-inv", *sys.argv[1:]])
        prepare(run, progress)
        progress.keep(_headline(run, folder))
        train(run, folder, progress)
        if run.trainer.global_rank == 0:
            _finish(run, folder, progress)


def _recipe_and_folder(name: str | None, overrides: list[str], output: str | None, resume: str | None) -> tuple[Recipe, RunFolder | None, Path]:
    if resume is None:
        if name is None:
            raise RecipeError("a recipe is missing: ssl-inv pretrain RECIPE; `ssl-inv recipes` lists them")
        recipe = load_recipe(name, overrides)
        place = Path(output) if output else default_output(name)
        refuse_unwritable(place)
        return recipe, None, place
    if output is not None:
        raise RecipeError("--output and --resume exclude each other: a resumed run stays in its folder")
    folder = RunFolder.open(Path(resume))
    if name is not None:
        folder.refuse_another_recipe(load_recipe(name, overrides))
    elif overrides:
        raise RecipeError(f"a resumed run keeps its recipe; {overrides[0]} cannot change it")
    return folder.recipe(), folder, folder.path


def prepare(run: Run, progress: Progress) -> None:
    """Render what will be asked for again and again, once and in large pieces."""
    for source in {id(one): one for one in (innermost(run.data.train), innermost(run.data.validation))}.values():
        if isinstance(source, RenderedSolids):
            source.render_all(progress.counting("rendering"))
    progress.close()


def innermost(source: Any) -> Any:
    """The source that a chain of subsets is taken from."""
    while hasattr(source, "source"):
        source = source.source
    return source


def _headline(run: Run, folder: RunFolder) -> str:
    parameters = sum(parameter.numel() for parameter in run.backbone.parameters()) / 1e6
    return (
        f"{run.recipe['objective']['name']} on {run.recipe['data']['name']}: {len(run.data.train):,} training and "
        f"{len(run.data.validation):,} validation objects, {run.backbone.architecture} ({parameters:.1f} M parameters), "
        f"{run.module.schedule.steps} steps of {run.settings.batch_size} on {run.trainer.strategy.root_device}; writing {folder.path}"
    )


def _finish(run: Run, folder: RunFolder, progress: Progress) -> None:
    judgement = finish(run, folder, progress.update)
    progress.close()
    if judgement is not None:
        sys.stdout.write(format_table(judgement.table) + "\n\n")
    sys.stdout.write(f"export: {folder.export_folder}\nreport: {folder.report_file}\n")


def check(recipe_name: str, overrides: list[str]) -> None:
    """Build a recipe and run one step of it; nothing is written."""
    import time

    with _quiet_libraries():
        recipe = load_recipe(recipe_name, overrides)
        run = build(recipe)
        steps = run.module.schedule.steps
        begun = time.perf_counter()
        batch = run.module.batches[0]
        loaded = time.perf_counter()
        losses = run.objective.loss(run.module.view_maker(batch), run.backbone)
        total = torch.stack([term.weight * term.value for term in losses.values()]).sum()
        total.backward()
        seconds = time.perf_counter() - loaded
    terms = ", ".join(f"{name} {term.value.item():.4g}" for name, term in losses.items())
    sys.stdout.write(
        f"{recipe_name}: valid\n"
        f"data: {len(run.data.train):,} training and {len(run.data.validation):,} validation objects\n"
        f"one step of {len(batch.index)}: {loaded - begun:.2f} s for data, {seconds:.2f} s for views, forward and backward on the CPU\n"
        f"all {steps} steps: about {clock(steps * seconds)} at that speed\n"
        f"loss {total.item():.4g}: {terms}\n"
    )


def evaluate(model: str, data: str | None, overrides: list[str], output: str | None, pretrained: bool) -> None:
    """Judge any encoder on any data, beside its untrained self."""
    with _quiet_libraries():
        loaded = load_model(model, data, overrides, pretrained)
        settings = EvaluationSettings(**loaded.recipe["evaluation"])
        if settings.protocol == "none":
            raise RecipeError("evaluation.protocol: 'none' judges nothing; did you mean 'quick'?")
        if output is not None:
            refuse_unwritable(Path(output))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with named("evaluation"):
            judgement = judge(loaded.data, loaded.trained, loaded.untrained, loaded.normalise, settings, device)
    sys.stdout.write(f"{loaded.description}\n{format_table(judgement.table)}\n")
    if output is not None:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "results.json", to_json(judgement.table) + "\n")
        judgement.trained.train.save(folder / "train.safetensors")
        judgement.trained.validation.save(folder / "validation.safetensors")


def embed(model: str, data: str | None, overrides: list[str], output: str, file_format: str, shard_size: int, pretrained: bool) -> None:
    """Write the features of every image."""
    from ssl_inv.embedding import write_shards

    if shard_size < 1:
        raise RecipeError(f"--shard-size must be at least 1, got {shard_size}")
    with _quiet_libraries():
        refuse_unwritable(Path(output))
        loaded = load_model(model, data, overrides, pretrained)
        progress = Progress()
        rows = write_shards(loaded, Path(output), file_format, shard_size, progress.counting("embedding"))
        progress.close()
    sys.stdout.write(f"{rows:,} embeddings in {output}\n")


def export(run_path: str, file_format: str, output: str | None) -> None:
    """Write the backbone of a run."""
    from ssl_inv.export import export_onnx, export_torchvision
    from ssl_inv.models import load_run

    with _quiet_libraries():
        folder = RunFolder.open(Path(run_path))
        backbone, recipe, preprocessing = load_run(folder)
        default = {"timm": folder.export_folder, "torchvision": folder.path / "torchvision.pth", "onnx": folder.path / "backbone.onnx"}[file_format]
        place = Path(output) if output else default
        refuse_unwritable(place)
        if place.exists() and output:
            raise RecipeError(f"output {output!r} exists already")
        try:
            with named("export"):
                if file_format == "timm":
                    export_run(recipe, backbone, preprocessing.input_size, place)
                elif file_format == "torchvision":
                    export_torchvision(backbone.model, backbone.architecture, place, overwrite=output is None)
                else:
                    export_onnx(backbone.model, place, preprocessing, overwrite=output is None)
        except ModuleNotFoundError as error:
            raise RecipeError(str(error)) from None
    sys.stdout.write(f"{place}\n")


def render(output: str, overrides: list[str], quality: int) -> None:
    """Write rendered solids in the layout of 3DIEBench."""
    from ssl_inv.data.threediebench import write_threediebench
    from ssl_inv.recipe import apply_overrides, resolve

    if not 1 <= quality <= 100:
        raise RecipeError(f"--quality must lie between 1 and 100, got {quality}")
    others = [one for one in overrides if one.startswith("--") and not one.startswith("--data.")]
    if others:
        raise RecipeError(f"{others[0]}: rendering takes --data. settings only")
    content = {"objective": {"name": "sie"}, "data": {"name": "rendered"}, "trainer": {"steps": 1}}
    recipe = resolve(apply_overrides(content, overrides))
    if recipe["data"]["name"] != "rendered":
        raise RecipeError(f"data.name: render writes 'rendered' data, not {recipe['data']['name']!r}")
    refuse_unwritable(Path(output))
    data = build_data(recipe)
    source = innermost(data.train)
    progress = Progress()
    with named("output"):
        latents = source.latents_of_all()
        write_threediebench(
            Path(output), source, latents, (data.train.objects, data.validation.objects), quality, progress.counting("rendering")  # type: ignore[attr-defined]
        )
    progress.close()
    sys.stdout.write(f"{len(source):,} objects, {int(source.view_counts.sum()):,} images in {output}\n")
