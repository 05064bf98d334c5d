"""The Python interface. The command line does the same with words.

Nothing here imports torch before a recipe and its settings are checked.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ssl_inv.catalogue import RecipeError, SettingError
from ssl_inv.run.continuing import continuation
from ssl_inv.run.environment import prepare_process
from ssl_inv.run.explain import recipe_head
from ssl_inv.run.folder import RunFolder, default_output, require_new, require_writable
from ssl_inv.run.plain_yaml import dump_value
from ssl_inv.run.python.asked import (
    AnyRecipe,
    Settings,
    changed,
    data_section,
    in_memory,
    memory_section,
    named_content,
    place,
    require_mapping,
    runnable,
)
from ssl_inv.run.python.run_result import RunResult
from ssl_inv.run.recipe import Recipe, plain_value, resolve, shipped_recipes
from ssl_inv.run.tables import Table

if TYPE_CHECKING:
    from ssl_inv.run.commands import OneStep
    from ssl_inv.run.pages.views_page import ShownViews
    from ssl_inv.run.python.embeddings import Embeddings
    from ssl_inv.run.python.kinds import AnyData, AnyEncoder, AnyProtocols, Place
    from ssl_inv.run.python.loaded import LoadedEncoder


def pretrain(
    recipe: AnyRecipe | None = None,
    data: "AnyData | None" = None,
    *,
    output: "Place | None" = None,
    settings: Settings | None = None,
    trainer: Mapping[str, Any] | None = None,
    resume: "Place | None" = None,
    changes: Settings | None = None,
    quiet: bool = False,
) -> RunResult:
    """Pretrain an encoder, evaluate it, export it and write a report.

    Args:
        recipe: the name of a shipped recipe, the path of a file, a mapping of sections, or a `Recipe`.
        data: in place of the recipe's; see `ssl_inv.run.python.kinds.AnyData`. Data in memory are not kept by the run:
            its recipe records their number, size and fingerprint, and whoever needs them again gives them again.
        output: a new folder; `runs/RECIPE-TIME` by default.
        settings: values by dotted keys, `{"trainer.steps": 100}`. One of `trainer.steps` and `trainer.epochs` replaces
            the other.
        trainer: settings of the trainer, `{"steps": 100}`.
        resume: a run to continue in its folder; the result is as if it had never stopped.
        changes: with `resume`: what the run's owner changes from now on, `{"trainer.steps": 2000}`.
        quiet: whether to print warnings only.

    Returns:
        The run: its folder, results, metrics and encoder.

    Raises:
        RecipeError: in one line, before anything is written, if a setting, the data or the folder cannot be used.
        NonFiniteLossError: if the loss or a weight is not finite. The folder keeps the last good checkpoint.
        KeyboardInterrupt: if the run was interrupted; it can be resumed.
    """
    prepare_process()
    if resume is not None:
        return _resumed(recipe, data, settings, trainer, output, resume, changes, quiet)
    if changes is not None:
        raise RecipeError("changes: need the run that is continued, resume=RUN")
    if recipe is None:
        raise RecipeError("recipe: one is missing; ssl_inv.recipes() lists those that come with the package")
    name, resolved = _asked(recipe, data, settings, trainer)
    folder = RunFolder(default_output(name) if output is None else place("output", output))
    # The first process starts the others after it has made the folder.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        (require_writable if output is None else require_new)(folder.path)
    _require_script(resolved)
    from ssl_inv.run import pretrain as running

    with _held(data):
        resolved = _recorded(resolved) if in_memory(data) else resolved
        command = ["ssl_inv.pretrain", name]
        folder = running.pretrain(resolved, folder, quiet, output is None, command, silent=quiet)
    return _finished(folder)


def _require_script(recipe: Recipe) -> None:
    if recipe.trainer.devices > 1 and (hasattr(sys, "ps1") or "ipykernel" in sys.modules):
        raise SettingError("trainer.devices", "must be 1 in a notebook: every device needs a process of its own script")


def _finished(folder: RunFolder) -> RunResult:
    if os.environ.get("LOCAL_RANK", "0") != "0":
        # This process was started to train beside the first one, which goes on with the script alone.
        raise SystemExit(0)
    return RunResult(folder.path)


def evaluate(
    encoders: "AnyEncoder | Sequence[AnyEncoder] | Mapping[str, AnyEncoder]",
    data: "AnyData | None" = None,
    protocols: "AnyProtocols | None" = None,
    *,
    settings: Settings | None = None,
    output: "Place | None" = None,
    pretrained: bool = False,
    quiet: bool = False,
) -> Table:
    """Measure what the features of some encoders know, beside the same encoders with random weights.

    The features of an encoder are computed once for all protocols.

    Args:
        encoders: one, a list, or a mapping of names to encoders; see `ssl_inv.run.python.kinds.AnyEncoder`.
        data: see `ssl_inv.run.python.kinds.AnyData`; None takes the data of the run. Probes are fitted on the training
            part and scored on the validation part. For data that a run was given in memory, the parts are those of the
            run.
        protocols: `quick`, `full`, names of protocols, or protocols; None takes `evaluation.protocol`.
        settings: values by dotted keys of the sections `data`, `normalization` and `evaluation`.
        output: a folder that keeps features and results, and from which a second call reads the features; with several
            encoders, a folder in it for each.
        pretrained: whether to load timm's weights of `timm:NAME`. This may download them.
        quiet: whether to print warnings only.

    Returns:
        Columns `encoder`, `measure`, `part`, `value`, `spread` (the standard error), and the baselines `untrained`
        (random weights, where they can be drawn) and `shuffled` (shuffled targets).

    Raises:
        RecipeError: in one line, if an encoder, the data or a setting cannot be used.
    """
    prepare_process()
    require_mapping("settings", settings, "a mapping such as {'evaluation.views': 4}")
    if output is not None:
        require_writable(place("output", output))
    from ssl_inv.run.python import calls

    with _held(data):
        return calls.evaluate(encoders, data, protocols, settings or {}, output, pretrained, quiet)


@overload
def embed(
    encoder: "AnyEncoder",
    data: "AnyData | None" = None,
    *,
    settings: Settings | None = None,
    output: None = None,
    pretrained: bool = False,
) -> "Embeddings": ...


@overload
def embed(
    encoder: "AnyEncoder",
    data: "AnyData | None" = None,
    *,
    settings: Settings | None = None,
    output: "Place",
    file_format: Literal["parquet", "npy"] = "parquet",
    shard_size: int = 50_000,
    pretrained: bool = False,
) -> Path: ...


def embed(
    encoder: "AnyEncoder",
    data: "AnyData | None" = None,
    *,
    settings: Settings | None = None,
    output: "Place | None" = None,
    file_format: Literal["parquet", "npy"] = "parquet",
    shard_size: int = 50_000,
    pretrained: bool = False,
) -> "Embeddings | Path":
    """The features of every image.

    Args:
        encoder: see `ssl_inv.run.python.kinds.AnyEncoder`.
        data: see `ssl_inv.run.python.kinds.AnyData`; None takes the data of the run.
        settings: values by dotted keys of the sections `data` and `normalization`.
        output: a folder for shards, to be read by other tools; None keeps the features in memory.
        file_format: of the shards.
        shard_size: images in a shard, about.
        pretrained: whether to load timm's weights of `timm:NAME`. This may download them.

    Returns:
        The features by part, in the order of the data; with `output`, the folder of the shards, which hold the part
        `all`.

    Raises:
        RecipeError: in one line, if the encoder, the data or a setting cannot be used.
    """
    prepare_process()
    require_mapping("settings", settings, "a mapping such as {'evaluation.views': 4}")
    if output is not None:
        require_writable(place("output", output))
    from ssl_inv.run.python import calls

    with _held(data):
        if output is None:
            return calls.embed(encoder, data, settings or {}, pretrained)
        return calls.write(encoder, data, settings or {}, pretrained, Path(output), file_format, shard_size)


def load(encoder: "Place", *, pretrained: bool = False) -> "LoadedEncoder":
    """An encoder as a torch module: from images as they come to the parts of its features.

    Args:
        encoder: a run or its folder, an exported folder, or `timm:NAME`.
        pretrained: whether to load timm's weights of `timm:NAME`. This may download them.

    Returns:
        `encoder(images)` gives `all`, and for a run of some objectives `invariant` and `equivariant`, `(B, D)` each.

    Raises:
        RecipeError: in one line, if there is no such encoder.
    """
    place("encoder", encoder, "a run, an exported folder or timm:NAME, for a module is loaded already")
    prepare_process()
    from ssl_inv.run.encoders import model_named
    from ssl_inv.run.python.loaded import LoadedEncoder

    return LoadedEncoder(model_named(os.fspath(encoder), pretrained))


def views(
    recipe: AnyRecipe,
    data: "AnyData | None" = None,
    *,
    images: int = 6,
    settings: Settings | None = None,
    output: "Place | None" = None,
) -> "ShownViews":
    """The first views of a run, where they lie in their images, and how each was made. Nothing is trained.

    Args:
        recipe: see `pretrain`.
        data: see `pretrain`.
        images: samples to show, from 1 to 50.
        settings: see `pretrain`.
        output: a page to write, .png or .html.

    Returns:
        What a notebook shows as a picture; a sequence of samples, with the pixels and the record of every view.

    Raises:
        RecipeError: in one line, if a setting, the data or the page cannot be used.
    """
    prepare_process()
    if type(images) is not int or not 1 <= images <= 50:
        raise SettingError("images", f"must be a whole number from 1 to 50, got {images!r}")
    if output is not None:
        if place("output", output).suffix not in (".png", ".html"):
            raise SettingError("output", f"{str(output)!r} is no page; its name must end with .png or .html")
        if Path(output).exists():
            raise SettingError("output", f"{str(output)!r} exists already; choose another name")
        require_writable(Path(output))
    name, resolved = _asked(recipe, data, settings, None)
    from ssl_inv.engine.launch import quiet_lightning
    from ssl_inv.run.pages.views_page import shown_views

    with _held(data), quiet_lightning():
        shown = shown_views(name, resolved, images)
    if output is not None:
        shown.write(output)
    return shown


def check(
    recipe: AnyRecipe,
    data: "AnyData | None" = None,
    *,
    settings: Settings | None = None,
    trainer: Mapping[str, Any] | None = None,
) -> "OneStep":
    """Check a recipe, build it and run one step on the CPU. Nothing is written.

    Args:
        recipe: see `pretrain`.
        data: see `pretrain`.
        settings: see `pretrain`.
        trainer: see `pretrain`.

    Returns:
        The checked recipe, the loss of the step, and how long a run would take.

    Raises:
        RecipeError: in one line, if a setting or the data cannot be used.
    """
    prepare_process()
    name, resolved = _asked(recipe, data, settings, trainer)
    from ssl_inv.run.commands import one_step

    with _held(data):
        return one_step(name, resolved)


@overload
def recipes(name: None = None) -> Table: ...


@overload
def recipes(name: AnyRecipe, *, settings: Settings | None = None) -> Recipe: ...


def recipes(name: AnyRecipe | None = None, *, settings: Settings | None = None) -> Table | Recipe:
    """The recipes that come with the package, or one with all its settings.

    Args:
        name: a recipe; None lists all.
        settings: see `pretrain`.

    Returns:
        Columns `name`, `title`, `time` and `score`; or the `Recipe`, whose `dump()` is its YAML.

    Raises:
        RecipeError: in one line, if there is no such recipe or setting.
    """
    if name is not None:
        origin, content = named_content(name)
        return resolve(changed(content, settings, None), origin)
    if settings is not None:
        raise RecipeError("settings: they are those of a recipe; recipes(NAME, settings=...)")
    heads = {name: recipe_head(path) for name, path in shipped_recipes().items()}
    rows = [
        {"name": name, "title": head.title, **{fact: head.facts.get(fact) for fact in ("time", "score")}}
        for name, head in heads.items()
    ]
    return Table(rows, title="Recipes that come with ssl-inv")


# What the functions share.


def _asked(
    recipe: AnyRecipe, data: Any, settings: Settings | None, trainer: Mapping[str, Any] | None
) -> tuple[str, Recipe]:
    """The name of a recipe and the recipe, with other data and after settings."""
    name, content = named_content(recipe)
    own = content.get("data")
    own = own if isinstance(own, Mapping) else {}
    if in_memory(data):
        content = {**content, "data": memory_section(data, own)}
    elif data is not None:
        content = {**content, "data": data_section(data, own)}
    return name, runnable(changed(content, settings, trainer), name)


def _resumed(
    recipe: AnyRecipe | None,
    data: Any,
    settings: Settings | None,
    trainer: Mapping[str, Any] | None,
    output: Any,
    resume: "Place",
    said: Settings | None,
    quiet: bool,
) -> RunResult:
    """Continue a run. Whatever is given beside it must be as in the run, or be what its owner says that they change."""
    if output is not None:
        raise RecipeError("output and resume exclude each other: a resumed run stays in its folder")
    require_mapping("changes", said, "a mapping such as {'trainer.steps': 2000}")
    folder = RunFolder.open(place("resume", resume, "a run or its folder"))
    begun = folder.recipe()
    if in_memory(data) and begun.data.name != "given":
        raise SettingError("data", f"the run has data of its own, {begun.data.name!r}; leave `data` out")
    content = begun.sections() if recipe is None else named_content(recipe)[1]
    if begun.data.name == "given":
        content["data"] = begun.sections()["data"]
    elif data is not None:
        content["data"] = data_section(data, content["data"])
    asked = resolve(changed(content, settings, trainer), str(folder.recipe_file))
    asked = asked if recipe is None else folder.as_begun(asked, [f"--{key}" for key in settings or ()])
    words = [f"{key}={dump_value(plain_value(value))}" for key, value in (said or {}).items()]
    continued = continuation(begun, asked, words, str(folder.path))
    _require_script(continued.recipe)
    runnable(continued.recipe.sections(), str(folder.recipe_file))
    from ssl_inv.run import pretrain as running

    with _held(data):
        folder = running.resume(continued, folder, quiet, silent=quiet)
    return _finished(folder)


def _held(data: Any) -> Any:
    """A context in which data in memory are found."""
    if not in_memory(data):
        return nullcontext()
    from ssl_inv.data.sources.given import holding

    return holding(data)


def _recorded(recipe: Recipe) -> Recipe:
    """A recipe that records what is known of data in memory."""
    from ssl_inv.run.python.calls import recorded

    return recorded(recipe)
