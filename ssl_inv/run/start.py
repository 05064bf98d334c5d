"""Where a new run starts: random weights, weights of others for the backbone, or everything that another run has."""

from pathlib import Path
from typing import Any

from ssl_inv.catalogue import SettingError, within
from ssl_inv.data.source import Source
from ssl_inv.engine.checkpoints import load_checkpoint
from ssl_inv.engine.launch import say
from ssl_inv.engine.module import extent
from ssl_inv.memories.progress import Progress
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.weight_files import Weights, read_weights, sha256_of
from ssl_inv.nn.weights import Fit, start_from
from ssl_inv.objectives.base import Objective
from ssl_inv.run.recipe import Recipe, read_yaml

_MOST = 8


class Start:
    """The start of a run by its recipe.

    Args:
        recipe: its settings `backbone.weights` and `trainer.start` name the start.

    Attributes:
        record: for run.json: the source, its SHA-256, and all that did not match; empty for random weights.
        sentence: the same in a line; empty for random weights.
        advice: what a user should know before training, and later of the run.
        passing: what only a user who has just written the recipe should know.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.record: dict[str, Any] = {}
        self.sentence = ""
        self.advice: list[str] = []
        self.passing: list[str] = []

    def of_backbone(self, backbone: Backbone) -> None:
        """Load `backbone.weights`, if the recipe names any.

        Raises:
            SettingError: if they cannot be read or do not fit.
        """
        settings = self.recipe.backbone
        if (source := settings.get("weights")) is None:
            return
        weights = read_weights(source, backbone.architecture)
        partial = bool(settings["weights_partial"])
        found = start_from(backbone, weights, settings["weights_prefix"], partial)
        self.record, self.sentence = _record(weights, found), _sentence(weights, found)
        if not found.whole:
            self.advice.append(f"backbone.weights: loaded in part; {found.differences}")
        self.advice += self._on_normalization(weights)

    def _on_normalization(self, weights: Weights) -> list[str]:
        mean, std = weights.mean, weights.std
        recipe_file = Path(weights.source).expanduser() / "recipe.yaml"
        if recipe_file.is_file():
            told = read_yaml(recipe_file).get("normalization") or {}
            mean, std = tuple(told.get("mean", ())), tuple(told.get("std", ()))
        ours = self.recipe.normalization
        if not mean or not std or (_near(mean, ours.mean) and _near(std, ours.std)):
            return []
        theirs = f"mean {[round(one, 4) for one in mean]} and std {[round(one, 4) for one in std]}"
        return [f"normalization: the weights of {weights.source} were trained with {theirs}, and the recipe has others"]

    def of_everything(self, backbone: Backbone, objective: Objective, source: Source) -> None:
        """Load backbone, objective and memories of `trainer.start`, if the recipe names a run, and count from step 0.

        Raises:
            SettingError: if the run has another objective or network, or memories of another number of images.
        """
        if (start := self.recipe.trainer.start) is None:
            return
        file = Path(start).expanduser() / "checkpoints" / "last.ckpt"
        with within("start"):
            state = load_checkpoint(file)
        theirs, ours = state["recipe"]["objective"]["name"], self.recipe.objective.name
        if theirs != ours:
            advice = f"backbone.weights: {start} takes its backbone alone"
            raise SettingError("start", f"{start} has the objective {theirs}, and this recipe has {ours}; {advice}")
        try:
            backbone.load_state_dict(state["backbone"])
            objective.load_state_dict(state["objective"])
        except RuntimeError as error:
            reason = " ".join(str(error).split()).partition(": ")[2][:300]
            counts = "{} objects in {} images".format
            if (before := tuple(state["extent"])) != (now := extent(source)):
                reason += f"; it began with {counts(*before)}, and there are {counts(*now)} now"
            raise SettingError("start", f"{start} does not fit this recipe: {reason}") from None
        for one in objective.modules():
            if isinstance(one, Progress):
                one.steps_done, one.share_done = 0, 0.0
        weights = Weights(start, {}, sha256_of(file))
        self.record = {"source": start, "sha256": weights.sha256, "everything": True, "step": int(state["step"])}
        self.sentence = f"start: backbone, objective and memories of {start} after {int(state['step']):,} steps"
        self.advice += self._on_normalization(weights)

    def tell(self) -> None:
        """Print all advice."""
        for one in (*self.passing, *self.advice):
            say(one)


def _near(one: tuple[float, ...], other: list[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) < 1e-3 for a, b in zip(one, other, strict=True))


def _record(weights: Weights, found: Fit) -> dict[str, Any]:
    return {
        "source": weights.source,
        "sha256": weights.sha256,
        "part": found.part,
        "loaded": len(found.loaded),
        "resampled": found.resampled,
        "adapted": found.adapted,
        "missing": found.missing,
        "unknown": found.unknown,
        "other_shape": {name: list(both) for name, both in found.other_shape.items()},
        "heads_left_out": found.heads,
        "others_left_out": found.others,
    }


def _sentence(weights: Weights, found: Fit) -> str:
    out = [*found.heads, *(one for one in found.others if one not in found.heads)]
    more = f" and {len(out) - _MOST} more" if len(out) > _MOST else ""
    parts = [
        f"start: {len(found.loaded)} tensors of {weights.source}" + (f", {found.part}" if found.part else ""),
        f"resampled {', '.join(found.resampled)}" if found.resampled else "",
        f"adapted from 3 channels {', '.join(found.adapted)}" if found.adapted else "",
        f"left out {', '.join(out[:_MOST])}{more}" if out else "",
        f"in part: {found.differences}" if not found.whole else "",
    ]
    return "; ".join(part for part in parts if part)
