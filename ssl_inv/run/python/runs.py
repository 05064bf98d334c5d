"""Runs that `ssl_inv.pretrain` begins or continues. Nothing here imports torch before everything is checked."""

import sys
from collections.abc import Mapping
from typing import Any

from ssl_inv.catalogue import RecipeError, SettingError
from ssl_inv.engine import cluster
from ssl_inv.run.continuing import continuation
from ssl_inv.run.folder import RunFolder, default_output, require_new, require_writable
from ssl_inv.run.joining import joined
from ssl_inv.run.python.asked import (
    AnyRecipe,
    Settings,
    asked,
    changed,
    data_section,
    held,
    in_memory,
    named_content,
    place,
)
from ssl_inv.run.python.run_result import RunResult
from ssl_inv.run.recipe import Recipe, resolve
from ssl_inv.run.requirements import require_files


def begun(
    recipe: AnyRecipe | None,
    data: Any,
    settings: Settings | None,
    trainer: Mapping[str, Any] | None,
    output: Any,
    quiet: bool,
) -> RunResult:
    """A new run; see `ssl_inv.pretrain`."""
    if recipe is None:
        raise RecipeError("recipe: one is missing; ssl_inv.recipes() lists those that come with the package")
    name, resolved = asked(recipe, data, settings, trainer)
    folder = RunFolder(default_output(name) if output is None else place("output", output))
    # The first process makes the folder, and the others write nothing.
    if joined(resolved).first:
        (require_writable if output is None else require_new)(folder.path)
    _require_script(resolved)
    from ssl_inv.run import pretrain as running

    with held(data):
        resolved = _recorded(resolved) if in_memory(data) else resolved
        command = ["ssl_inv.pretrain", name]
        folder = running.pretrain(resolved, folder, quiet, output is None, command, silent=quiet)
    return _finished(folder)


def resumed(
    recipe: AnyRecipe | None,
    data: Any,
    settings: Settings | None,
    trainer: Mapping[str, Any] | None,
    output: Any,
    resume: Any,
    said: Settings | None,
    quiet: bool,
) -> RunResult:
    """Continue a run. Whatever is given beside it must be as in the run, or be what its owner says that they change."""
    if output is not None:
        raise RecipeError("output and resume exclude each other: a resumed run stays in its folder")
    folder = RunFolder.open(place("resume", resume, "a run or its folder"))
    began = folder.recipe()
    if in_memory(data) and began.data.name != "given":
        raise SettingError("data", f"the run has data of its own, {began.data.name!r}; leave `data` out")
    content = began.sections() if recipe is None else named_content(recipe)[1]
    if began.data.name == "given":
        content["data"] = began.sections()["data"]
    elif data is not None:
        content["data"] = data_section(data, content.get("data") or {})
    wanted = resolve(changed(content, settings, trainer), str(folder.recipe_file))
    if recipe is not None:
        wanted = folder.as_begun(wanted, [f"--{key}" for key in settings or ()])
    meant = resolve(changed(wanted.sections(), said, None, "changes"), "changes")
    continued = continuation(began, wanted, meant, str(folder.path), python=True)
    _require_script(continued.recipe)
    require_files(continued.recipe)
    joined(continued.recipe)
    from ssl_inv.run import pretrain as running

    with held(data):
        folder = running.resume(continued, folder, quiet, silent=quiet)
    return _finished(folder)


def _require_script(recipe: Recipe) -> None:
    if recipe.trainer.devices > 1 and (hasattr(sys, "ps1") or "ipykernel" in sys.modules):
        raise SettingError("trainer.devices", "must be 1 in a notebook: every device needs a process of its own script")


def _finished(folder: RunFolder) -> RunResult:
    if not cluster.place().first:
        # This process was started to train beside the first one, which goes on with the script alone.
        raise SystemExit(0)
    return RunResult(folder.path)


def _recorded(recipe: Recipe) -> Recipe:
    """A recipe that records what is known of data in memory."""
    from ssl_inv.run.python.calls import recorded

    return recorded(recipe)
