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
from ssl_inv.data.source import Source, Subset
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.engine.checkpoints import save_checkpoint
from ssl_inv.engine.launch import quiet_lightning, say
from ssl_inv.engine.module import NonFiniteLossError, extent
from ssl_inv.engine.monitor import OnlineMonitor
from ssl_inv.engine.progress import Progress
from ssl_inv.engine.recorder import Recorder
from ssl_inv.evaluation.results import format_table, to_json
from ssl_inv.run import report_page
from ssl_inv.run.build import Run, build, build_networks
from ssl_inv.run.export import export_run, preprocessing_of
from ssl_inv.run.folder import RunFolder, now
from ssl_inv.run.judging import Judgement, judge, judged_data
from ssl_inv.run.recipe import Recipe, difference, resolve
from ssl_inv.run.report import headlines, report_content, summary


def pretrain(recipe: Recipe, folder: RunFolder, resumed: bool, quiet: bool, numbered: bool) -> None:
    """Train, judge, export, report; or continue a run that was interrupted. A new folder may be `numbered`: see
    `RunFolder.create`.
    """
    with quiet_lightning():
        run = build(recipe)
        if not run.trainer.is_global_zero:
            # Started by the first process, which alone writes and speaks.
            silent = Progress(quiet=True)
            prepare(run, silent)
            train(run, None, silent)
            return
        if not resumed:
            folder = RunFolder.create(folder.path, recipe, ["ssl-inv", *sys.argv[1:]], numbered)
        with folder.held():
            _train_and_finish(run, folder, Progress(quiet=quiet))


def _train_and_finish(run: Run, folder: RunFolder, progress: Progress) -> None:
    try:
        prepare(run, progress)
        progress.keep(_headline(run, folder))
        train(run, folder, progress)
        _finish(run, folder, progress)
    except KeyboardInterrupt:
        folder.update(state="interrupted")
        raise KeyboardInterrupt(f"interrupted; ssl-inv pretrain --resume {folder.path} continues") from None
    except Exception as error:
        folder.update(state=f"failed: {' '.join(str(error).split())}")
        raise
    finally:
        progress.close()


def prepare(run: Run, progress: Progress) -> None:
    """Render what will be asked for again and again, once and in large pieces."""
    for source in {id(one): one for one in (innermost(run.data.train), innermost(run.data.validation))}.values():
        if isinstance(source, RenderedSolids) and source.cached:
            source.render_all(progress.counting("rendering"))
    progress.close()


def innermost(source: Source) -> Source:
    """The source that a chain of subsets is taken from."""
    while isinstance(source, Subset):
        source = source.source
    return source


def _headline(run: Run, folder: RunFolder) -> str:
    parameters = sum(parameter.numel() for parameter in run.backbone.parameters()) / 1e6
    return (
        f"{run.recipe.objective.name} on {run.recipe.data.name}: {len(run.module.batches.source):,} training and "
        f"{len(run.data.validation):,} validation objects, {run.backbone.architecture} ({parameters:.1f} M parameters), "
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
    """Train to the last step of the recipe, from the folder's checkpoint if it has one.

    Args:
        run: what to train. With several devices, one process for each of the others is started with the command line of
        this one.
        folder: where to write; None writes nothing, as on all processes but the first.
        progress: told how far the run is.

    Raises:
        NonFiniteLossError: if a loss term or a weight is not finite; the folder keeps the last good checkpoint.
        KeyboardInterrupt: if the run was interrupted; its folder says so and can be resumed.
    """
    if folder is not None:
        if (state := folder.load_checkpoint()) is not None:
            _require_same_run(run, folder, state)
            run.module.load_training_state(state)
        if changed := folder.goes_on(run.module.step):
            _warn(
                folder,
                f"the run goes on at step {run.module.step} otherwise than before, so not bit for bit: {', '.join(changed)}",
            )
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
    """Raise a `RecipeError` unless a checkpoint was made by this recipe on as many images; say so if files have changed
    since.
    """
    # Settings that came with a later version have their defaults in both.
    if changed := difference(resolve(state["recipe"], str(folder.checkpoint_file)), run.recipe):
        raise RecipeError(
            f"{str(folder.recipe_file)!r} has changed since the run's last checkpoint: {'; '.join(changed)}"
        )
    source = run.module.batches.source
    now = extent(source)
    if (before := tuple(state["extent"])) != now:
        counts = "{} objects in {} images".format
        raise RecipeError(
            f"data: the run began with {counts(*before)}, and there are {counts(*now)} now; it cannot go on"
        )
    if state["stamp"] != source.stamp:
        _warn(folder, "data: files have changed since the run began, so it does not go on bit for bit")


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
        # Lightning answers Ctrl-C by ending the program and turning a deaf ear to further ones.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _own_account_of_broken_images() -> Iterator[None]:
    """Silence the data's log while training: the recorder says once for all loader processes which images are broken."""
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


def finish(run: Run, folder: RunFolder, say: Callable[[str], None]) -> Judgement | None:
    """Judge, export and report a run whose training is done.

    Args:
        run: the trained run.
        folder: where its files are.
        say: told what is being done.

    Returns:
        What was measured, or None if the recipe asks for no evaluation.
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
        say("evaluating")
        backbone, objective = run.backbone.to(device), run.objective.to(device)
        untrained = tuple(network.to(device) for network in build_networks(run.recipe, run.module.view_maker.groups))
        maker = run.module.view_maker.to(device)
        normalise = maker.normalise if settings.views_of == "training" else maker.whole
        with within("evaluation"):
            judgement = judge(data, (backbone, objective), untrained, normalise, settings, device, seed)  # type: ignore[arg-type]
        write_text(folder.path / "results.json", to_json(judgement.table) + "\n")
        write_text(folder.path / "results.txt", format_table(judgement.table) + "\n")
    report_page.write_report(report_content(run, data, folder, judgement), folder.report_file)
    rows = [] if judgement is None else headlines(judgement.table)
    folder.update(
        state="complete",
        ended=now(),
        score={f"{row.trained.name} ({row.trained.part})": row.trained.value for row in rows},
    )
    return judgement


def _finish(run: Run, folder: RunFolder, progress: Progress) -> None:
    judgement = finish(run, folder, progress.update)
    progress.close()
    if judgement is not None:
        shown = summary(judgement.table)
        sys.stdout.write(
            f"{format_table(shown)}\n\n{len(judgement.table)} measurements: {folder.path / 'results.txt'}\n"
        )
    sys.stdout.write(f"export: {folder.export_folder}\nreport: {folder.report_file}\n")
