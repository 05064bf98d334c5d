"""A run as its last good checkpoint has it, which must be of the same recipe and data."""

from collections.abc import Mapping
from typing import Any

from ssl_inv.catalogue import RecipeError
from ssl_inv.engine.launch import say
from ssl_inv.engine.module import extent
from ssl_inv.run.build import Run
from ssl_inv.run.continuing import WHERE_DATA_LIES, Changes, Continuation, shared_by, trains_on
from ssl_inv.run.folder import RunFolder


def restore(run: Run, folder: RunFolder, continued: Continuation | None = None) -> None:
    """Load the folder's checkpoint, if there is one, and write the recipe that the run goes on with.

    Raises:
        RecipeError: if the checkpoint is from another recipe or other data. Nothing is written.
    """
    module, (state, damage) = run.module, folder.last_good() if folder.has_checkpoint else (None, "")
    said: Changes = {} if continued is None else continued.said
    free: Changes = {} if continued is None else continued.free
    if state is not None:
        _require_same_run(run, folder, state, {**free, **said})
        if module.steps < int(state["step"]):
            raise RecipeError(f"trainer.steps: {module.steps}, but the run has done {state['step']} steps already")
        try:
            module.load_training_state(state)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            if not said:
                raise RecipeError(f"{folder.checkpoint_file} does not fit its own recipe: {reason}") from None
            raise RecipeError(
                f"--continue {', '.join(said)}: the run's weights do not fit any more: {reason}"
            ) from None
        idle = [key for key in said if trains_on([key])]
        if idle and module.step >= module.steps:
            done = f"the run has done all of its {module.steps} steps, so nothing would be trained with it"
            advice = f"say more steps too: --continue trainer.steps={2 * module.steps}"
            raise RecipeError(f"--continue {', '.join(idle)}: {done}; {advice}")
    if damage:
        folder.set_aside_damaged()
        warn(folder, f"{damage}; continuing from step {module.step:,} of the checkpoint before it")
    folder.mend(run.recipe)
    if continued is not None and (said or free):
        if changed := shared_by(folder.recipe(), continued.recipe):
            say(f"the run goes on at step {module.step} with {changed}")
        folder.change(continued.recipe, said, module.step)


def _require_same_run(run: Run, folder: RunFolder, state: Mapping[str, Any], changed: Changes) -> None:
    """Raise a `RecipeError` if a checkpoint is from another recipe or number of images; warn if files have changed."""
    folder.require_own(state, run.recipe, changed)
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
    warn(folder, "data: files have changed since the run began, so it does not continue bit for bit")


def warn(folder: RunFolder, what: str) -> None:
    """Print a warning, and keep it in the record of a run."""
    say(what)
    folder.warn(what)
