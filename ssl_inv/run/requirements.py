"""What a recipe needs on this machine: files of data, of weights, and of other runs. Nothing here imports torch."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from ssl_inv.catalogue import DATA, OBJECTIVES, Catalogue, SettingError
from ssl_inv.run.recipe import Choice, JudgedRecipe, Recipe, load_recipe

_CATALOGUES: Mapping[str, Catalogue] = {"data": DATA, "objective": OBJECTIVES}


def load_runnable(name_or_path: str, overrides: list[str]) -> Recipe:
    """`load_recipe`, and a check that the files in the recipe exist."""
    recipe = load_recipe(name_or_path, overrides)
    require_files(recipe)
    require_start(recipe)
    return recipe


def require_files(recipe: JudgedRecipe) -> None:
    """Raise a `SettingError` if a folder or file of the data or the objective does not exist."""
    for section, setting in (
        ("data", "path"),
        ("data", "validation"),
        ("data", "split_folder"),
        ("objective", "teacher_path"),
    ):
        chosen: Choice | None = getattr(recipe, section, None)
        if chosen is None or chosen.name not in _CATALOGUES[section].members:
            continue
        value = chosen.settings.get(setting)
        for one in [value] if isinstance(value, str) else value or ():
            require_path(f"{section}.{setting}", one)


def require_path(setting: str, value: str) -> None:
    """Raise a `SettingError` if a folder or file does not exist."""
    if not (path := Path(value).expanduser()).exists():
        beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        close = get_close_matches(path.name, beside, n=1)
        tail = f"; did you mean {str(path.with_name(close[0]))!r}?" if close else ""
        raise SettingError(setting, f"no such file or folder: {value!r}{tail}")


def require_start(recipe: Recipe) -> None:
    """Raise a `SettingError` if the weights that a new run starts from are not there.

    A run that is resumed has them in its checkpoint.
    """
    weights, start = recipe.backbone.get("weights"), recipe.trainer.start
    if weights is None and (
        only := next((k for k in ("prefix", "partial") if recipe.backbone.get(f"weights_{k}")), None)
    ):
        raise SettingError(f"backbone.weights_{only}", "goes with backbone.weights, which is null")
    if weights is not None and start is not None:
        raise SettingError("trainer.start", "brings its own backbone, so it excludes backbone.weights; choose one")
    if start is not None and not (Path(start).expanduser() / "checkpoints" / "last.ckpt").is_file():
        raise SettingError("trainer.start", f"{start!r} is not the folder of a run with a checkpoint")
    if weights is not None and weights != "timm" and not weights.startswith(("timm/", "hf-hub:")):
        require_path("backbone.weights", weights)
