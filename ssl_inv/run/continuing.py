"""What a resumed run may change: what cannot change its result at once, and the rest only if its owner says so."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssl_inv.catalogue import RecipeError, suggest
from ssl_inv.run.plain_yaml import dump_value
from ssl_inv.run.recipe import Recipe, apply_overrides, changes, resolve

Changes = Mapping[str, tuple[Any, Any]]
"""The settings that differ, by their full key: what they were, and what they will be."""

WHERE_DATA_LIES = ("data.path", "data.validation", "data.split_folder")

PROCESSES = ("trainer.nodes", "trainer.devices", "trainer.strategy")
"""Settings that say how processes share a batch and the networks: they change the order of sums, and so the last bits.
"""

FREE = (
    *(f"trainer.{name}" for name in ("workers", "checkpoint_every", "log_every", "keep", "best", "requeue")),
    *("trainer.loggers", "trainer.callbacks", *PROCESSES),
    *(f"monitor.{name}" for name in ("every", "objects", "share")),
    *WHERE_DATA_LIES,
)
"""Settings that cannot change what a run learns. Data may lie elsewhere if the files are the same."""

CONTINUED = (
    *(f"trainer.{name}" for name in ("steps", "epochs", "clip", "clip_each", "stop")),
    *(f"trainer.{name}" for name in ("precision", "accelerator")),
    *(f"optimizer.{name}" for name in ("lr", "weight_decay", "final_weight_decay", "schedule", "warmup", "warmup_lr")),
    "optimizer.final_lr",
)
"""Settings that a run can go on with in another way from a step on."""

_SECTIONS = ("evaluation", "objective")
"""Sections of which every setting can change, if its owner says so. New weights must still have their old shapes."""

_FIXED = {
    "backbone": "its weights are those of this network",
    "data": "the run has learnt from these data in their order",
    "augmentation": "the objective has learnt to tell these transforms",
    "normalization": "the network has learnt from pixels that were prepared so",
    "objective": "its weights are those of this objective",
    "optimizer": "the optimiser's state is made for it",
    "trainer": "the order of the data and the random numbers depend on it",
}


@dataclass(frozen=True)
class Continuation:
    """The recipe that a run goes on with.

    Attributes:
        recipe: every setting.
        free: changes that cannot change the result.
        said: changes that the owner has said.
    """

    recipe: Recipe
    free: Changes
    said: Changes


def can_be_continued(key: str) -> bool:
    """Whether a setting can change if the owner says so."""
    section, _, name = key.partition(".")
    return key in CONTINUED or key in FREE or (section in _SECTIONS and (section, name) != ("objective", "name"))


def with_said(asked: Recipe, words: Sequence[str]) -> Recipe:
    """The recipe after the command line's `--continue section.key=value`.

    Raises:
        RecipeError: if a word has another form, or there is no such setting.
    """
    return resolve(apply_overrides(asked.sections(), [_override(one) for one in words]), "--continue")


def continuation(began: Recipe, asked: Recipe, meant: Recipe, where: str, python: bool = False) -> Continuation:
    """The recipe of a resumed run.

    Args:
        began: the run's recipe.
        asked: the same with the changes that the owner asks for without a word.
        meant: that one with the changes that the owner says that they make.
        where: the folder of the run, for messages.
        python: whether messages name the arguments of `ssl_inv.pretrain` in place of options.

    Raises:
        RecipeError: for a change that must be said, or cannot be made.
    """
    plain = changes(began, asked)
    if others := {key: both for key, both in plain.items() if key not in FREE}:
        advice = ""
        if all(map(can_be_continued, others)):
            after = {key: value for key, (_, value) in others.items()}
            options = " ".join(f"--continue {key}={dump_value(value)}" for key, value in after.items())
            sayings = f"changes={after!r}" if python else options
            advice = f"; if that is meant, say so: {sayings}"
        raise RecipeError(f"{where!r} began with another recipe: {'; '.join(worded(others))}{advice}")
    said = changes(asked, meant)
    for key in said:
        if not can_be_continued(key):
            reason = _FIXED.get(key.partition(".")[0], "the run depends on it")
            option = "changes" if python else "--continue"
            raise RecipeError(f"{option} {key}: cannot change in a run that has begun: {reason}; begin a new run")
    free = {**plain, **{key: both for key, both in said.items() if key in FREE}}
    return Continuation(meant, free, {key: both for key, both in said.items() if key not in FREE})


def _override(word: str) -> str:
    key, equals, _ = word.partition("=")
    if not equals or "." not in key:
        raise RecipeError(f"--continue {word}: expected section.key=value, as in --continue trainer.steps=2000")
    section, _, name = key.removeprefix("--").partition(".")
    names = [one.partition(".")[2] for one in CONTINUED if one.startswith(f"{section}.")]
    if section == "trainer" and name and not name.isidentifier():
        raise RecipeError(f"--continue {word}: no such setting; {suggest(name, names)}")
    return f"--{word.removeprefix('--')}"


def worded(different: Mapping[str, Sequence[Any]]) -> list[str]:
    """Changes as `optimizer.lr: 0.001 -> 0.01`."""
    return [f"{key}: {before!r} -> {after!r}" for key, (before, after) in different.items()]


def unsaid(different: Changes, continued: Iterable[Mapping[str, Any]]) -> Changes:
    """The changes since a checkpoint that are neither free nor recorded in run.json."""
    recorded = [(key, both[1]) for one in continued for key, both in one["changes"].items()]
    return {key: both for key, both in different.items() if key not in FREE and (key, both[1]) not in recorded}


def trains_on(changed: Iterable[str]) -> bool:
    """Whether training goes on in another way after settings have changed, and not the evaluation alone."""
    return any(not key.startswith("evaluation.") for key in changed)


def early_end(record: Mapping[str, Any]) -> str:
    """At which step training ended before its last one, and why, by run.json; empty if it did not."""
    stopped = record.get("stopped")
    return f"ended early at step {stopped['step']:,}: {stopped['why']}" if stopped else ""


def shared_by(began: Recipe, goes_on: Recipe) -> str:
    """That other processes share the batches from here on, and what that means; empty if as many do."""
    before, after = (_processes(one) for one in (began, goes_on))
    if before == after:
        return ""
    return f"{after} in place of {before}: the same batches and views, and the same losses up to rounding"


def _processes(recipe: Recipe) -> str:
    count = recipe.trainer.nodes * recipe.trainer.devices
    return f"{count} process{'es' * (count > 1)}{' with shards' * (recipe.trainer.strategy == 'fsdp')}"


def went_on(record: Mapping[str, Any]) -> list[str]:
    """From which steps training went on in another way by run.json, and in which."""
    return [
        f"from step {one['step']:,} with {', '.join(worded(one['changes']))}"
        for one in record.get("continued", [])
        if trains_on(one["changes"])
    ]
