"""A whole run: train, evaluate, export, report."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pytorch_lightning.loggers.logger import DummyLogger

from ssl_inv.atomic import CannotWriteError, link_or_copy, write_text
from ssl_inv.catalogue import RecipeError, within
from ssl_inv.data.source import Data
from ssl_inv.data.sources.rendered.posed import PosedObjects
from ssl_inv.engine.checkpoints import save_checkpoint
from ssl_inv.engine.cluster import Place, place
from ssl_inv.engine.launch import count_from, quiet_lightning, say
from ssl_inv.engine.loggers import Loggers, Picture
from ssl_inv.engine.module import extent
from ssl_inv.engine.progress import Progress
from ssl_inv.engine.recorder import Recorder
from ssl_inv.engine.signals import Interrupted, Signals
from ssl_inv.engine.team import ALONE, Team
from ssl_inv.evaluation.results import format_table, to_json
from ssl_inv.run.build import Run, build, innermost
from ssl_inv.run.continuing import Continuation, trains_on
from ssl_inv.run.exports.export import CARD, export_run, preprocessing_of
from ssl_inv.run.exports.model_card import Trained, model_card
from ssl_inv.run.exports.parts import parts_of
from ssl_inv.run.fitting import ended_by, fit, last_words, make_monitor, requeue, require_trained, speaks_up
from ssl_inv.run.folder import RunFolder, now
from ssl_inv.run.judged_run import data_to_judge, judged
from ssl_inv.run.judging import Judgement
from ssl_inv.run.pages import report_page
from ssl_inv.run.pages.pictures import pictures_of
from ssl_inv.run.pages.report import report_content, scores, summary
from ssl_inv.run.recipe import Recipe
from ssl_inv.run.remarks import SPLITS
from ssl_inv.run.restoring import restore, warn
from ssl_inv.run.together import after_training, all_train, part


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
    here = place()
    with quiet_lightning(), Signals() as signals, speaks_up(here, recipe):
        run = build(recipe, here=here)
        if _helps(run, here, signals):
            return folder
        folder = RunFolder.create(folder.path, run.recipe, command or ["ssl-inv", *sys.argv[1:]], numbered)
        with folder.held():
            run.start.tell()
            results = _train_and_finish(run, folder, here, Progress(quiet=quiet), signals)
            if not silent:
                sys.stdout.write(results)
    return folder


def resume(continued: Continuation, folder: RunFolder, quiet: bool, silent: bool = False) -> RunFolder:
    """Continue an interrupted run, or one that is complete with what its owner changes.

    Raises:
        RecipeError: if the run cannot go on so. Nothing is written.
    """
    here = place()
    with quiet_lightning(), Signals() as signals, speaks_up(here, continued.recipe):
        # The weights that a run starts from may be gone when it goes on from a checkpoint.
        run = build(continued.recipe, begins=not folder.has_checkpoint, here=here)
        if _helps(run, here, signals):
            return folder
        with folder.held():
            # What a killed run was writing may fill the disk.
            folder.remove_leftovers()
            restore(run, folder, continued)
            run.start.tell()
            results = _train_and_finish(run, folder, here, Progress(quiet=quiet), signals, restored=True)
            if not silent:
                sys.stdout.write(results)
    return folder


def _helps(run: Run, here: Place, signals: Signals) -> bool:
    """Train and encode if this is not the first process, which alone writes and prints. False on that one."""
    if here.first:
        return False
    silent = Progress(quiet=True)
    prepare(run, silent)
    # Callbacks may ask every process for loggers, but only those of rank 0 write.
    run.trainer.loggers = [DummyLogger() for _ in run.recipe.trainer.loggers]
    train(run, None, silent, signals=signals)
    with after_training(run, signals) as team:
        if team.size > 1 and run.recipe.evaluation.protocol != "none":
            judged(run, data_to_judge(run), silent, team)
    return True


def _train_and_finish(
    run: Run, folder: RunFolder, here: Place, progress: Progress, signals: Signals, restored: bool = False
) -> str:
    signals.last_words = last_words(folder, "interrupted", continues=True)
    try:
        prepare(run, progress)
        progress.keep(_headline(run, folder))
        if run.start.record:
            folder.update(start=run.start.record)
            progress.keep(run.start.sentence)
        for advice in run.start.advice:
            folder.warn(advice)
        loggers = train(run, folder, progress, restored, signals)
        with after_training(run, signals) as team:
            return finish(run, folder, progress, loggers, team)
    except KeyboardInterrupt as error:
        signals.disregard()
        if reason := ended_by(here, run.recipe, error):
            folder.update(state=f"failed: {reason}")
            raise reason from None
        folder.update(state="interrupted")
        words = f"{str(error) or 'interrupted'}; ssl-inv pretrain --resume {folder.path} continues"
        if not isinstance(error, Interrupted):
            raise KeyboardInterrupt(words) from None
        if run.recipe.trainer.requeue and error.early:
            requeue()
        raise Interrupted(error.number, words) from None
    except Exception as error:
        signals.disregard()
        with suppress(OSError):  # the record cannot always be written either
            folder.update(state=f"failed: {' '.join(str(error).split())}")
        if isinstance(error, CannotWriteError):
            goes_on = f"`ssl-inv pretrain --resume {folder.path}` goes on from the last checkpoint"
            raise CannotWriteError(f"{error}; when it can be written, {goes_on}") from None
        raise
    finally:
        progress.close()


def prepare(run: Run, progress: Progress) -> None:
    """Render cached solids and meshes once, in large pieces, before training asks for them one by one."""
    for source in {id(one): one for one in (innermost(run.data.train), innermost(run.data.validation))}.values():
        if isinstance(source, PosedObjects) and source.cached:
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


def train(
    run: Run,
    folder: RunFolder | None,
    progress: Progress,
    restored: bool = False,
    signals: Signals | None = None,
) -> Loggers | None:
    """Train to the last step of the recipe, from the folder's checkpoint if there is one.

    Args:
        run: what to train. If nobody else has started the processes of the further devices, this one does, with the
            same command line.
        folder: where to write; None writes nothing, as on all ranks but 0.
        progress: the progress display.
        restored: whether the run has its checkpoint by `restore`.
        signals: what asks training to end after a step; None listens to nothing.

    Returns:
        The loggers, to be told the results; None without a folder.

    Raises:
        NonFiniteLossError: if a loss term or a weight is not finite. The folder keeps the last good checkpoint.
        PeerError: if another process of the run has failed.
        KeyboardInterrupt: if the run was interrupted. Its record says so, and it can be resumed.
    """
    module, loggers, history = run.module, None, list[dict[str, Any]]()
    signals = signals or Signals()
    if folder is not None:
        if not restored:
            restore(run, folder)
        if changed := folder.goes_on(module.step):
            continues = f"the run continues at step {module.step} with other versions, so not bit for bit"
            warn(folder, f"{continues}: {', '.join(changed)}")
        loggers = _loggers(run, folder)
        folder.forget_metrics_after(module.step)
        folder.update(state="training")
        # What has ended a run does not count again for one whose owner goes on with it.
        before = [one["step"] for one in folder.record().get("continued", []) if trains_on(one["changes"])]
        history = [one for one in folder.metrics() if one["step"] > max(before, default=-1)]
    progress.first_step = module.step
    stopped = None if folder is None else folder.record().get("stopped")
    if folder is not None and stopped and module.step < stopped["step"]:  # the checkpoint of that step is damaged
        folder.update(stopped=None)
        stopped = None
    trains = module.step < module.steps and not stopped
    if trains and folder is not None:
        folder.forget_results()  # of an earlier step
    settings, every = run.recipe.trainer, run.recipe.monitor.every
    scores = trains and (folder is not None or settings.strategy == "fsdp")  # all of them hold a part of the encoder
    monitor = make_monitor(module, run.data, run.recipe.monitor, settings.seed, run.device) if scores else None
    asked = lambda: signals.received  # noqa: E731
    recorder = Recorder(folder, _save_to(run, folder), settings, monitor, progress, loggers, history, every, asked)
    if trains and folder is not None and recorder.reason:
        # Killed between its last checkpoint and the word that it stopped.
        folder.update(stopped={"step": module.step, "why": recorder.reason})
        trains = False
    if not all_train(run, trains):
        return loggers
    run.trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
    # The recorder alone needs no numbers by Lightning's `log`.
    module.telling = "callbacks" if settings.callbacks else "nobody"
    count_from(run.trainer, module.step)
    try:
        fit(run, signals, folder)
    finally:
        progress.close()
    if number := recorder.signal or signals.received:
        part(run)
        raise Interrupted(number, agreed=True)
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
        step = int(state["step"])
        if step not in saved:
            folder.keep_previous()
        saved[:] = [step]
        if best:
            save_checkpoint(folder.best_file, content)
            link_or_copy(folder.best_file, folder.checkpoint_file)
            return
        save_checkpoint(folder.checkpoint_file, content)
        folder.keep_checkpoint(step, run.recipe.trainer.keep)

    saved = list[int]()
    return save


def _counts(run: Run) -> dict[str, dict[str, int]]:
    """The objects and images of both splits, for run.json."""
    splits = {"training": run.module.batches.source, "validation": run.data.validation}
    counts = {name: extent(source) for name, source in splits.items()}
    return {name: {"objects": objects, "images": images} for name, (objects, images) in counts.items()}


def finish(run: Run, folder: RunFolder, progress: Progress, loggers: Loggers | None = None, team: Team = ALONE) -> str:
    """Export, evaluate and report a run after training, and tell its loggers.

    Args:
        run: the trained run.
        folder: where to write.
        progress: the progress display.
        loggers: to tell; None is none.
        team: the processes that share the encoding of the evaluation.

    Returns:
        The results, and where everything is, to be printed.

    Raises:
        UntrainedError: if training has ended before its last step, and the record does not say why.
    """
    require_trained(run, folder)
    data = data_to_judge(run)
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
    judgement = judged(run, data, progress, team)
    for warning in () if judgement is None else judgement.remarks.warnings:
        say(warning)
        folder.warn(warning)
    if judgement is None:
        folder.forget_results()  # of another evaluation
    else:
        text = f"{format_table(judgement.table)}\n\n{SPLITS[run.data.held_out]}\n"
        folder.keep_results(to_json(judgement.table) + "\n", text)
    pictures = _reported(run, data, folder, judgement, loggers is not None and bool(loggers.all))
    if loggers is not None and loggers.all:
        shown = summary([] if judgement is None else judgement.table)
        results = {f"{row.trained.name}, {row.trained.part}": row.trained.value for row in shown}
        loggers.conclude({"result": results}, pictures or {}, run.module.step)
        folder.update(loggers={**folder.record()["loggers"], "kept": loggers.kept})
    for problem in [] if loggers is None else loggers.problems:
        folder.warn(problem)
    score = {} if judgement is None else scores(judgement.table)
    folder.update(state="complete", ended=now(), score=score)
    # With the numbers.
    write_text(folder.export_folder / CARD, model_card(about, folder))
    progress.close()
    places = f"export: {folder.export_folder}\n" + ("" if pictures is None else f"report: {folder.report_file}\n")
    if judgement is None:
        return places
    measured = f"{len(judgement.table)} measurements: {folder.path / 'results.txt'}"
    return f"{format_table(summary(judgement.table))}\n\n{SPLITS[run.data.held_out]}\n{measured}\n{places}"


def _reported(
    run: Run, data: Data, folder: RunFolder, judgement: Judgement | None, drawn: bool
) -> dict[str, Picture] | None:
    """Write the report. What goes wrong there is a warning: the run has its results without it.

    Returns:
        The pictures of the report for loggers, if they are to be drawn; None if there is no report.
    """
    try:
        content = report_content(run, data, folder, judgement)
        report_page.write_report(content, folder.report_file)
        return pictures_of(content) if drawn else {}
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        warn(folder, f"{_NO_REPORT} ({reason}); `ssl-inv report {folder.path}` makes it again")
        return None


_NO_REPORT = "the report was not made"


def report(folder: RunFolder, quiet: bool = False) -> None:
    """Make the report of a run again. The features are computed again for it; the results stay as they are.

    Raises:
        RecipeError: if the run has no checkpoint, or its data are not there.
    """
    if not folder.has_checkpoint:
        raise RecipeError(f"{str(folder.path)!r} has no checkpoint yet")
    progress = Progress(quiet=quiet)
    with quiet_lightning(), folder.held():
        run = build(folder.recipe(), begins=False)
        restore(run, folder)
        prepare(run, progress)
        try:
            data = data_to_judge(run)
            content = report_content(run, data, folder, judged(run, data, progress))
        finally:
            progress.close()
        content = replace(content, warnings=_of_run(content.warnings))
        report_page.write_report(content, folder.report_file)
        folder.update(warnings=_of_run(folder.record().get("warnings", [])) or None)


def _of_run(warnings: Sequence[str]) -> list[str]:
    """Warnings without those about a report that was not made."""
    return [one for one in warnings if not one.startswith(_NO_REPORT)]
