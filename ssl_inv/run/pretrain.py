"""A whole run: train, evaluate, export, report."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as lightning
import torch
import torch.distributed as dist
from pytorch_lightning.loggers.logger import DummyLogger

from ssl_inv.atomic import link_or_copy, write_text
from ssl_inv.catalogue import RecipeError, within
from ssl_inv.data.source import Data
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.engine.checkpoints import save_checkpoint
from ssl_inv.engine.launch import quiet_lightning, say
from ssl_inv.engine.loggers import Loggers
from ssl_inv.engine.module import NonFiniteLossError, Pretraining, extent
from ssl_inv.engine.monitor import OnlineMonitor
from ssl_inv.engine.progress import Progress
from ssl_inv.engine.recorder import Recorder
from ssl_inv.engine.settings import MonitorSettings
from ssl_inv.evaluation.results import format_table, to_json
from ssl_inv.run.build import Run, build, build_networks, innermost
from ssl_inv.run.continuing import WHERE_DATA_LIES, Changes, Continuation, trains_on, unsaid, worded
from ssl_inv.run.exports.export import CARD, export_run, preprocessing_of
from ssl_inv.run.exports.model_card import Trained, model_card
from ssl_inv.run.exports.parts import parts_of
from ssl_inv.run.folder import RunFolder, now
from ssl_inv.run.judging import judge, judged_data
from ssl_inv.run.pages import report_page
from ssl_inv.run.pages.pictures import pictures_of
from ssl_inv.run.pages.report import report_content, scores, summary
from ssl_inv.run.recipe import Recipe, as_saved, changes, resolve


def pretrain(
    recipe: Recipe,
    folder: RunFolder,
    quiet: bool,
    numbered: bool,
    command: list[str] | None = None,
    silent: bool = False,
) -> RunFolder:
    """Train, evaluate, export and report.

    Args:
        recipe: every setting.
        folder: where to write.
        quiet: whether to show no progress.
        numbered: see `RunFolder.create`.
        command: what began the run, for its record; None takes the command line.
        silent: whether to print no results either.

    Returns:
        The folder of the run.
    """
    with quiet_lightning():
        run = build(recipe)
        if _helps(run):
            return folder
        folder = RunFolder.create(folder.path, run.recipe, command or ["ssl-inv", *sys.argv[1:]], numbered)
        with folder.held():
            results = _train_and_finish(run, folder, Progress(quiet=quiet))
            if not silent:
                sys.stdout.write(results)
    return folder


def resume(continued: Continuation, folder: RunFolder, quiet: bool, silent: bool = False) -> RunFolder:
    """Continue an interrupted run, or one that is complete with what its owner changes.

    Raises:
        RecipeError: if the run cannot go on so. Nothing is written.
    """
    with quiet_lightning():
        # The weights that a run starts from may be gone when it goes on from a checkpoint.
        run = build(continued.recipe, begins=not folder.checkpoint_file.is_file())
        if _helps(run):
            return folder
        with folder.held():
            restore(run, folder, continued)
            results = _train_and_finish(run, folder, Progress(quiet=quiet), restored=True)
            if not silent:
                sys.stdout.write(results)
    return folder


def _helps(run: Run) -> bool:
    """Train if this is a process that rank 0 has started, which alone writes and prints. False on rank 0."""
    if run.trainer.is_global_zero:
        return False
    silent = Progress(quiet=True)
    prepare(run, silent)
    # Callbacks may ask every process for loggers, but only those of rank 0 write.
    run.trainer.loggers = [DummyLogger() for _ in run.recipe.trainer.loggers]
    train(run, None, silent)
    return True


def _train_and_finish(run: Run, folder: RunFolder, progress: Progress, restored: bool = False) -> str:
    try:
        prepare(run, progress)
        progress.keep(_headline(run, folder))
        if run.start.record:
            folder.update(start=run.start.record)
            progress.keep(run.start.sentence)
        for advice in run.start.advice:
            folder.warn(advice)
        loggers = train(run, folder, progress, restored)
        return finish(run, folder, progress, loggers)
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


def make_monitor(
    module: Pretraining, data: Data, settings: MonitorSettings, seed: int, device: torch.device
) -> OnlineMonitor | None:
    """The online monitor of a run, or None if the recipe switches it off."""
    if not settings.every:
        return None
    encoder = module.objective.representations(module.backbone)
    return OnlineMonitor(data, encoder, module.backbone, module.view_maker.whole, settings, device, seed)


def train(run: Run, folder: RunFolder | None, progress: Progress, restored: bool = False) -> Loggers | None:
    """Train to the last step of the recipe, from the folder's checkpoint if there is one.

    Args:
        run: what to train. For every further device, this process starts another one with the same command line.
        folder: where to write; None writes nothing, as on all ranks but 0.
        progress: the progress display.
        restored: whether the run has its checkpoint by `restore`.

    Returns:
        The loggers, to be told the results; None without a folder.

    Raises:
        NonFiniteLossError: if a loss term or a weight is not finite. The folder keeps the last good checkpoint.
        KeyboardInterrupt: if the run was interrupted. Its record says so, and it can be resumed.
    """
    module, loggers, history = run.module, None, list[dict[str, Any]]()
    if folder is not None:
        if not restored:
            restore(run, folder)
        if changed := folder.goes_on(module.step):
            continues = f"the run continues at step {module.step} with other versions, so not bit for bit"
            _warn(folder, f"{continues}: {', '.join(changed)}")
        folder.remove_leftovers()
        loggers = _loggers(run, folder)
        folder.forget_metrics_after(module.step)
        folder.update(state="training")
        # What has ended a run does not count again for one whose owner goes on with it.
        before = [one["step"] for one in folder.record().get("continued", []) if trains_on(one["changes"])]
        history = [one for one in folder.metrics() if one["step"] > max(before, default=-1)]
    progress.first_step = module.step
    stopped = folder is not None and folder.record().get("stopped")
    if module.step < module.steps and not stopped:
        if folder is not None:
            folder.forget_results()  # of an earlier step
        settings, every = run.recipe.trainer, run.recipe.monitor.every
        monitor = (
            None if folder is None else make_monitor(module, run.data, run.recipe.monitor, settings.seed, run.device)
        )
        recorder = Recorder(folder, _save_to(run, folder), settings, monitor, progress, loggers, history, every)
        if folder is not None and recorder.reason:  # killed between its last checkpoint and the word that it stopped
            folder.update(stopped={"step": module.step, "why": recorder.reason})
            return loggers
        run.trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
        # The recorder alone needs no numbers by Lightning's `log`.
        module.telling = "callbacks" if settings.callbacks else "nobody"
        _count_from(run.trainer, module.step)
        try:
            _fit(run)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{error}; {_last_good(folder)}") from None
        finally:
            progress.close()
    return loggers


def _loggers(run: Run, folder: RunFolder) -> Loggers:
    """The loggers of a run, which go on where they were."""
    record = folder.record()
    before, history = record.get("loggers", {}), folder.metrics()
    told = max([before.get("told", 0), *(entry.get("step", 0) for entry in history)])
    loggers = Loggers(run.recipe.trainer.loggers, folder.path, before.get("kept", {}), told)
    loggers.begin(run.recipe.sections(), [one for one in history if one["step"] <= run.module.step])
    if loggers.all:
        folder.update(loggers={"told": told, "kept": loggers.kept})
    run.trainer.loggers = list(loggers.all.values())
    return loggers


def _save_to(run: Run, folder: RunFolder | None) -> Callable[[Mapping[str, Any], bool], None] | None:
    if folder is None:
        return None

    def save(state: Mapping[str, Any], best: bool) -> None:
        content = {"recipe": run.recipe.sections(), **state}
        if best:
            save_checkpoint(folder.best_file, content)
            link_or_copy(folder.best_file, folder.checkpoint_file)
            return
        save_checkpoint(folder.checkpoint_file, content)
        folder.keep_checkpoint(int(state["step"]), run.recipe.trainer.keep)

    return save


def restore(run: Run, folder: RunFolder, continued: Continuation | None = None) -> None:
    """Load the folder's checkpoint, if there is one, and write the recipe that the run goes on with.

    Raises:
        RecipeError: if the checkpoint is from another recipe or other data. Nothing is written.
    """
    module, state = run.module, folder.load_checkpoint()
    said: Changes = {} if continued is None else continued.said
    free: Changes = {} if continued is None else continued.free
    if state is not None:
        _require_same_run(run, folder, state, {**free, **said})
        if module.steps < int(state["step"]):
            raise RecipeError(f"trainer.steps: {module.steps}, but the run has done {state['step']} steps already")
        try:
            module.load_training_state(state)
        except (RuntimeError, ValueError, KeyError) as error:
            if not said:
                raise
            told, reason = ", ".join(said), str(error).strip().splitlines()[-1].strip()
            raise RecipeError(f"--continue {told}: the run's weights do not fit any more: {reason}") from None
    if continued is not None and (said or free):
        folder.change(continued.recipe, said, module.step)


def _require_same_run(run: Run, folder: RunFolder, state: Mapping[str, Any], changed: Changes) -> None:
    """Raise a `RecipeError` if a checkpoint is from another recipe or number of images; warn if files have changed."""
    # A setting that is newer than the checkpoint has its default in both.
    saved = resolve(as_saved(state["recipe"]), str(folder.checkpoint_file))
    other = unsaid(changes(saved, run.recipe), folder.record().get("continued", []))
    if other := {key: both for key, both in other.items() if key not in changed}:
        raise RecipeError(
            f"{str(folder.recipe_file)!r} has changed since the run's last checkpoint: {'; '.join(worded(other))}"
        )
    source = run.module.batches.source
    now = extent(source)
    if (before := tuple(state["extent"])) != now:
        counts = "{} objects in {} images".format
        raise RecipeError(
            f"data: the run began with {counts(*before)}, and there are {counts(*now)} now; it cannot continue"
        )
    if state["stamp"] == source.stamp:
        return
    if moved := [key for key in WHERE_DATA_LIES if key in changed]:
        raise RecipeError(
            f"{moved[0]}: the files there are not those that the run began with; copy them with their times"
        )
    _warn(folder, "data: files have changed since the run began, so it does not continue bit for bit")


def _warn(folder: RunFolder, what: str) -> None:
    say(what)
    folder.warn(what)


def _count_from(trainer: lightning.Trainer, step: int) -> None:
    """Let Lightning, and callbacks that ask it, count on from a step."""
    loop = trainer.fit_loop.epoch_loop
    loop.manual_optimization.optim_step_progress.total.ready = step
    loop.manual_optimization.optim_step_progress.total.completed = step
    loop._batches_that_stepped = step


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


def _counts(run: Run) -> dict[str, dict[str, int]]:
    """The objects and images of both splits, for run.json."""
    splits = {"training": run.module.batches.source, "validation": run.data.validation}
    counts = {name: extent(source) for name, source in splits.items()}
    return {name: {"objects": objects, "images": images} for name, (objects, images) in counts.items()}


def finish(run: Run, folder: RunFolder, progress: Progress, loggers: Loggers | None = None) -> str:
    """Export, evaluate and report a run after training, and tell its loggers.

    Returns:
        The results, and where everything is, to be printed.
    """
    settings, device, seed = run.recipe.evaluation, run.device, run.recipe.trainer.seed
    with within("evaluation"):
        data = judged_data(run.data, settings, run.objective.plan, run.augmentation, seed, device)
    with within("export"):
        image_size = run.data.train.image_size
        view_size = run.augmentation.view_size(image_size)
        recipe = run.recipe
        preprocessing = preprocessing_of(recipe.normalization, view_size, image_size, recipe.data.settings)
        parts = parts_of(run.objective, run.backbone, view_size)
        folder.update(counts=_counts(run))
        told = tuple(run.objective.parameters_told)
        step, known = run.module.step, extent(run.module.batches.source)
        about = Trained(run.recipe, run.backbone, preprocessing, parts, told, step, known)
        export_run(run.backbone, preprocessing, folder.export_folder, parts, model_card(about, folder))
    judgement = None
    if settings.protocol == "none":
        folder.forget_results()  # of another evaluation
    else:
        backbone, objective = run.backbone.to(device), run.objective.to(device)
        untrained = tuple(network.to(device) for network in build_networks(run.recipe, run.module.view_maker.groups))
        maker = run.module.view_maker.to(device)
        normalise = maker.normalise if settings.views_of == "training" else maker.whole
        trained = (backbone, objective)
        with within("evaluation"):
            judgement = judge(
                data,
                trained,
                untrained,  # type: ignore[arg-type]
                normalise,
                settings,
                device,
                seed,
                show=progress,
            )
        write_text(folder.path / "results.json", to_json(judgement.table) + "\n")
        write_text(folder.path / "results.txt", format_table(judgement.table) + "\n")
    content = report_content(run, data, folder, judgement)
    report_page.write_report(content, folder.report_file)
    if loggers is not None and loggers.all:
        shown = summary([] if judgement is None else judgement.table)
        results = {f"{row.trained.name}, {row.trained.part}": row.trained.value for row in shown}
        loggers.conclude({"result": results}, pictures_of(content), run.module.step)
        folder.update(loggers={**folder.record()["loggers"], "kept": loggers.kept})
    score = {} if judgement is None else scores(judgement.table)
    folder.update(state="complete", ended=now(), score=score)
    # With the numbers.
    write_text(folder.export_folder / CARD, model_card(about, folder))
    progress.close()
    places = f"export: {folder.export_folder}\nreport: {folder.report_file}\n"
    if judgement is None:
        return places
    measured = f"{len(judgement.table)} measurements: {folder.path / 'results.txt'}"
    return f"{format_table(summary(judgement.table))}\n\n{measured}\n{places}"
