"""A whole run: train, evaluate, export, report."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from ssl_inv.atomic import write_text
from ssl_inv.catalogue import RecipeError, within
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.engine.checkpoints import save_checkpoint
from ssl_inv.engine.launch import quiet_lightning, say
from ssl_inv.engine.module import NonFiniteLossError, extent
from ssl_inv.engine.monitor import OnlineMonitor
from ssl_inv.engine.progress import Progress
from ssl_inv.engine.recorder import Recorder
from ssl_inv.evaluation.results import format_table, to_json
from ssl_inv.run import report_page
from ssl_inv.run.build import Run, build, build_networks, innermost
from ssl_inv.run.export import export_run, preprocessing_of
from ssl_inv.run.folder import RunFolder, now
from ssl_inv.run.judging import judge, judged_data
from ssl_inv.run.recipe import Recipe, as_saved, difference, resolve
from ssl_inv.run.report import headlines, report_content, summary


def pretrain(
    recipe: Recipe,
    folder: RunFolder,
    resumed: bool,
    quiet: bool,
    numbered: bool,
    command: list[str] | None = None,
    silent: bool = False,
) -> RunFolder:
    """Train, evaluate, export and report, or continue an interrupted run.

    Args:
        recipe: every setting.
        folder: where to write, or what to continue.
        resumed: whether to continue.
        quiet: whether to show no progress.
        numbered: see `RunFolder.create`.
        command: what began the run, for its record; None takes the command line.
        silent: whether to print no results either.

    Returns:
        The folder of the run.
    """
    with quiet_lightning():
        run = build(recipe)
        if not run.trainer.is_global_zero:
            # Rank 0 has started this process; it alone writes and prints.
            hidden = Progress(quiet=True)
            prepare(run, hidden)
            train(run, None, hidden)
            return folder
        if not resumed:
            folder = RunFolder.create(folder.path, recipe, command or ["ssl-inv", *sys.argv[1:]], numbered)
        with folder.held():
            results = _train_and_finish(run, folder, Progress(quiet=quiet))
            if not silent:
                sys.stdout.write(results)
    return folder


def _train_and_finish(run: Run, folder: RunFolder, progress: Progress) -> str:
    try:
        prepare(run, progress)
        progress.keep(_headline(run, folder))
        train(run, folder, progress)
        return finish(run, folder, progress)
    except KeyboardInterrupt:
        folder.update(state="interrupted")
        raise KeyboardInterrupt(f"interrupted; ssl-inv pretrain --resume {folder.path} continues") from None
    except Exception as error:
        folder.update(state=f"failed: {' '.join(str(error).split())}")
        raise
    finally:
        progress.close()


def prepare(run: Run, progress: Progress) -> None:
    """Render cached solids once, in large pieces, before training asks for them one by one."""
    for source in {id(one): one for one in (innermost(run.data.train), innermost(run.data.validation))}.values():
        if isinstance(source, RenderedSolids) and source.cached:
            source.render_all(progress.counting("rendering"))
    progress.close()


def _headline(run: Run, folder: RunFolder) -> str:
    parameters = sum(parameter.numel() for parameter in run.backbone.parameters()) / 1e6
    return (
        f"{run.recipe.objective.name} on {run.recipe.data.name}: {len(run.module.batches.source):,} training and "
        f"{len(run.data.validation):,} validation objects, "
        f"{run.backbone.architecture} ({parameters:.1f} M parameters), "
        f"{run.module.steps} steps of {run.recipe.trainer.batch_size} on {run.device}; writing {folder.path}"
    )


def make_monitor(run: Run) -> OnlineMonitor | None:
    """The online monitor of a run, or None if the recipe switches it off."""
    settings = run.recipe.monitor
    if not settings.every:
        return None
    encoder = run.objective.representations(run.backbone)
    return OnlineMonitor(
        run.data, encoder, run.backbone, run.module.view_maker.whole, settings, run.device, run.recipe.trainer.seed
    )


def train(run: Run, folder: RunFolder | None, progress: Progress) -> None:
    """Train to the last step of the recipe, from the folder's checkpoint if there is one.

    Args:
        run: what to train. For every further device, this process starts another one with the same command line.
        folder: where to write; None writes nothing, as on all ranks but 0.
        progress: the progress display.

    Raises:
        NonFiniteLossError: if a loss term or a weight is not finite. The folder keeps the last good checkpoint.
        KeyboardInterrupt: if the run was interrupted. Its record says so, and it can be resumed.
    """
    if folder is not None:
        if (state := folder.load_checkpoint()) is not None:
            _require_same_run(run, folder, state)
            run.module.load_training_state(state)
        if changed := folder.goes_on(run.module.step):
            continues = f"the run continues at step {run.module.step} with other versions, so not bit for bit"
            _warn(folder, f"{continues}: {', '.join(changed)}")
        folder.remove_leftovers()
        folder.forget_metrics_after(run.module.step)
        folder.update(state="training")
    progress.first_step = run.module.step
    if run.module.step < run.module.steps:
        monitor = None if folder is None else make_monitor(run)
        recorder = Recorder(folder, _save_to(run, folder), run.recipe.trainer, monitor, progress)
        run.trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
        try:
            _fit(run)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{error}; {_last_good(folder)}") from None
        finally:
            progress.close()


def _save_to(run: Run, folder: RunFolder | None) -> Callable[[Mapping[str, Any]], None] | None:
    if folder is None:
        return None
    return lambda state: save_checkpoint(folder.checkpoint_file, {"recipe": run.recipe.sections(), **state})


def _require_same_run(run: Run, folder: RunFolder, state: Mapping[str, Any]) -> None:
    """Raise a `RecipeError` if a checkpoint is from another recipe or number of images; warn if files have changed."""
    # A setting that is newer than the checkpoint has its default in both.
    if changed := difference(resolve(as_saved(state["recipe"]), str(folder.checkpoint_file)), run.recipe):
        raise RecipeError(
            f"{str(folder.recipe_file)!r} has changed since the run's last checkpoint: {'; '.join(changed)}"
        )
    source = run.module.batches.source
    now = extent(source)
    if (before := tuple(state["extent"])) != now:
        counts = "{} objects in {} images".format
        raise RecipeError(
            f"data: the run began with {counts(*before)}, and there are {counts(*now)} now; it cannot continue"
        )
    if state["stamp"] != source.stamp:
        _warn(folder, "data: files have changed since the run began, so it does not continue bit for bit")


def _warn(folder: RunFolder, what: str) -> None:
    say(what)
    folder.warn(what)


def _fit(run: Run) -> None:
    try:
        with quiet_lightning(), _own_account_of_broken_images():
            run.trainer.fit(run.module)
    except SystemExit:
        if not run.trainer.interrupted:
            raise
        # On Ctrl-C, Lightning ends the program and ignores further ones.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _own_account_of_broken_images() -> Iterator[None]:
    """Silence the log of the data while training. The recorder names broken images once for all loader processes."""
    logger = logging.getLogger("ssl_inv.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _last_good(folder: RunFolder | None) -> str:
    if folder is None or not folder.checkpoint_file.is_file():
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {folder.checkpoint_file}"


def finish(run: Run, folder: RunFolder, progress: Progress) -> str:
    """Export, evaluate and report a run after training.

    Returns:
        The results, and where everything is, to be printed.
    """
    settings, device, seed = run.recipe.evaluation, run.device, run.recipe.trainer.seed
    with within("evaluation"):
        data = judged_data(run.data, settings, run.objective.plan, run.augmentation, seed, device)
    with within("export"):
        image_size = run.data.train.image_size
        view_size = run.augmentation.view_size(image_size)
        preprocessing = preprocessing_of(run.recipe.normalization, view_size, image_size)
        export_run(run.backbone, preprocessing, folder.export_folder)
    judgement = None
    if settings.protocol != "none":
        progress.update("evaluating")
        backbone, objective = run.backbone.to(device), run.objective.to(device)
        untrained = tuple(network.to(device) for network in build_networks(run.recipe, run.module.view_maker.groups))
        maker = run.module.view_maker.to(device)
        normalise = maker.normalise if settings.views_of == "training" else maker.whole
        trained = (backbone, objective)
        with within("evaluation"):
            judgement = judge(data, trained, untrained, normalise, settings, device, seed)  # type: ignore[arg-type]
        write_text(folder.path / "results.json", to_json(judgement.table) + "\n")
        write_text(folder.path / "results.txt", format_table(judgement.table) + "\n")
    report_page.write_report(report_content(run, data, folder, judgement), folder.report_file)
    rows = [] if judgement is None else headlines(judgement.table)
    scores = {f"{row.trained.name} ({row.trained.part})": row.trained.value for row in rows}
    folder.update(state="complete", ended=now(), score=scores)
    progress.close()
    places = f"export: {folder.export_folder}\nreport: {folder.report_file}\n"
    if judgement is None:
        return places
    measured = f"{len(judgement.table)} measurements: {folder.path / 'results.txt'}"
    return f"{format_table(summary(judgement.table))}\n\n{measured}\n{places}"
