"""A recipe in a Lightning trainer of one's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ssl_inv.engine.callbacks import OnlineScores
from ssl_inv.engine.data_module import PretrainingData
from ssl_inv.engine.module import Pretraining
from ssl_inv.run.build import build_module
from ssl_inv.run.fitting import make_monitor
from ssl_inv.run.python.asked import allow_modules
from ssl_inv.run.recipe import Recipe, apply_overrides, load_recipe, resolve
from ssl_inv.run.requirements import require_files


def parts(
    recipe: Recipe | str | Path | Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
) -> tuple[Pretraining, PretrainingData]:
    """The module and the data of a recipe, for `pytorch_lightning.Trainer.fit(module, data)`.

    The losses are those of `ssl-inv pretrain`, step by step. The trainer decides on hardware, precision, logging and
    checkpoints: the recipe's settings of these are not used. Training ends after the last step of the recipe, if the
    trainer does not end it before.

    Args:
        recipe: the name of a shipped recipe, the path of one, its sections, or a resolved one.
        settings: changes by dotted key: `{"trainer.steps": 100}`.
        trust: modules whose code the recipe may name. It holds from now on in this process.

    Raises:
        RecipeError: if the recipe cannot be run.
    """
    allow_modules(trust)
    overrides = [word for key, value in (settings or {}).items() for word in _override(key, value)]
    if isinstance(recipe, str | Path):
        recipe = load_recipe(str(recipe), overrides)
    else:
        content = recipe.sections() if isinstance(recipe, Recipe) else dict(recipe)
        recipe = resolve(apply_overrides(content, overrides))
    require_files(recipe)
    data, _, module, start = build_module(recipe, torch.device("cpu"))
    start.tell()
    return module, PretrainingData(module, data, recipe.monitor)


def scores(data: PretrainingData) -> OnlineScores:
    """A callback that scores the encoder as the recipe's `monitor` says, and logs `monitor/knn` and others.

    Args:
        data: of `parts`.

    Raises:
        ValueError: if the recipe has no monitor.
    """
    module = data.module
    monitor = make_monitor(module, data.data, data.monitor, module.settings.seed, torch.device("cpu"))
    if monitor is None:
        raise ValueError("monitor.every is 0, so there are no scores")
    return OnlineScores(monitor)


def _override(key: str, value: Any) -> Sequence[str]:
    from ssl_inv.run.plain_yaml import dump_value

    return [f"--{key}", dump_value(value)]
