"""The Python interface. The command line does the same with words.

Nothing here imports torch before a recipe and its settings are checked.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ssl_inv.catalogue import RecipeError, SettingError, suggest
from ssl_inv.run.environment import prepare_process
from ssl_inv.run.explain import recipe_head
from ssl_inv.run.folder import require_writable
from ssl_inv.run.python.asked import (
    AnyRecipe,
    Settings,
    allow_modules,
    asked,
    changed,
    held,
    in_python,
    named_content,
    place,
    require_mapping,
)
from ssl_inv.run.python.run_result import RunResult
from ssl_inv.run.python.runs import begun, resumed
from ssl_inv.run.recipe import Recipe, resolve, shipped_recipes
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
    trust: Sequence[str] = (),
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
        trust: modules whose code the recipe, the run or the export may name. It holds from now on in this process.

    Returns:
        The run: its folder, results, metrics and encoder.

    Raises:
        RecipeError: in one line, before anything is written, if a setting, the data or the folder cannot be used.
        NonFiniteLossError: if the loss or a weight is not finite. The folder keeps the last good checkpoint.
        KeyboardInterrupt: if the run was interrupted; it can be resumed.
    """
    prepare_process()
    allow_modules(trust)
    if resume is not None:
        return resumed(recipe, data, settings, trainer, output, resume, changes, quiet)
    if changes is not None:
        raise RecipeError("changes: need the run that is continued, resume=RUN")
    return begun(recipe, data, settings, trainer, output, quiet)


def evaluate(
    encoders: "AnyEncoder | Sequence[AnyEncoder] | Mapping[str, AnyEncoder]",
    data: "AnyData | None" = None,
    protocols: "AnyProtocols | None" = None,
    *,
    settings: Settings | None = None,
    output: "Place | None" = None,
    pretrained: bool = False,
    quiet: bool = False,
    trust: Sequence[str] = (),
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
        trust: modules whose code the recipe, the run or the export may name. It holds from now on in this process.

    Returns:
        Columns `encoder`, `measure`, `part`, `value`, `spread` (the standard error), and the baselines `untrained`
        (random weights, where they can be drawn) and `shuffled` (shuffled targets).

    Raises:
        RecipeError: in one line, if an encoder, the data or a setting cannot be used.
    """
    prepare_process()
    allow_modules(trust)
    require_mapping("settings", settings, "a mapping such as {'evaluation.views': 4}")
    if output is not None:
        require_writable(place("output", output))
    from ssl_inv.run.python import calls

    with held(data):
        return calls.evaluate(encoders, data, protocols, settings or {}, output, pretrained, quiet)


@overload
def embed(
    encoder: "AnyEncoder",
    data: "AnyData | None" = None,
    *,
    settings: Settings | None = None,
    output: None = None,
    pretrained: bool = False,
    trust: Sequence[str] = (),
) -> "Embeddings": ...


@overload
def embed(
    encoder: "AnyEncoder",
    data: "AnyData | None" = None,
    *,
    settings: Settings | None = None,
    output: "Place",
    file_format: Literal["parquet", "npy"] | None = None,
    shard_size: int | None = None,
    index: Literal["exact", "ivf-pq", "auto"] | None = None,
    pretrained: bool = False,
    trust: Sequence[str] = (),
) -> Path: ...


def embed(
    encoder: "AnyEncoder",
    data: "AnyData | None" = None,
    *,
    settings: Settings | None = None,
    output: "Place | None" = None,
    file_format: Literal["parquet", "npy"] | None = None,
    shard_size: int | None = None,
    index: Literal["exact", "ivf-pq", "auto"] | None = None,
    pretrained: bool = False,
    trust: Sequence[str] = (),
) -> "Embeddings | Path":
    """The features of every image.

    Args:
        encoder: see `ssl_inv.run.python.kinds.AnyEncoder`.
        data: see `ssl_inv.run.python.kinds.AnyData`; None takes the data of the run.
        settings: values by dotted keys of the sections `data` and `normalization`.
        output: a folder for shards, to be read by other tools; None keeps the features in memory.
        file_format: of the shards, `parquet` or `npy`; `parquet` by default.
        shard_size: images in a shard, about; 50,000 by default.
        index: also writes an index of the shards, for `ssl_inv.run.search.Index` and `ssl-inv neighbours`: `exact`,
            `ivf-pq` for millions, or `auto` by their number.
        pretrained: whether to load timm's weights of `timm:NAME`. This may download them.
        trust: modules whose code the recipe, the run or the export may name. It holds from now on in this process.

    Returns:
        The features by part, in the order of the data; with `output`, the folder of the shards, which hold the part
        `all`.

    Raises:
        RecipeError: in one line, if the encoder, the data or a setting cannot be used.
    """
    prepare_process()
    allow_modules(trust)
    require_mapping("settings", settings, "a mapping such as {'data.size': 64}")
    _require_shards(output, file_format, shard_size, index)
    from ssl_inv.run.python import calls

    with held(data):
        if output is None:
            return calls.embed(encoder, data, settings or {}, pretrained)
        form = file_format or "parquet", shard_size or 50_000, index
        return calls.write(encoder, data, settings or {}, pretrained, Path(output), *form)


def _require_shards(output: Any, file_format: object, shard_size: object, index: object) -> None:
    of_shards = {"file_format": file_format, "shard_size": shard_size, "index": index}
    if output is None:
        if given := [name for name, value in of_shards.items() if value is not None]:
            raise SettingError(given[0], "is of shards on disk, so it goes with `output`")
        return
    for name, known in (("file_format", ("parquet", "npy")), ("index", ("exact", "ivf-pq", "auto"))):
        if of_shards[name] is not None and of_shards[name] not in known:
            raise SettingError(name, f"there is no {of_shards[name]!r}; {suggest(str(of_shards[name]), known)}")
    if shard_size is not None and (type(shard_size) is not int or shard_size < 1):
        raise SettingError("shard_size", f"must be a whole number of at least 1, got {shard_size!r}")
    require_writable(place("output", output))


def load(encoder: "Place", *, pretrained: bool = False, trust: Sequence[str] = ()) -> "LoadedEncoder":
    """An encoder as a torch module: from images as they come to the parts of its features.

    Args:
        encoder: a run or its folder, an exported folder, or `timm:NAME`.
        pretrained: whether to load timm's weights of `timm:NAME`. This may download them.
        trust: modules whose code the recipe, the run or the export may name. It holds from now on in this process.

    Returns:
        `encoder(images)` gives `all`, and for runs of some objectives and their exports `invariant` and `equivariant`,
        `(B, D)` each.

    Raises:
        RecipeError: in one line, if there is no such encoder.
    """
    place("encoder", encoder, "a run, an exported folder or timm:NAME, for a module is loaded already")
    prepare_process()
    allow_modules(trust)
    from ssl_inv.run.encoders import model_named
    from ssl_inv.run.python.loaded import LoadedEncoder

    with in_python():
        return LoadedEncoder(model_named(os.fspath(encoder), pretrained))


def views(
    recipe: AnyRecipe,
    data: "AnyData | None" = None,
    *,
    images: int = 6,
    settings: Settings | None = None,
    output: "Place | None" = None,
    trust: Sequence[str] = (),
) -> "ShownViews":
    """The first views of a run, where they lie in their images, and how each was made. Nothing is trained.

    Args:
        recipe: see `pretrain`.
        data: see `pretrain`.
        images: samples to show, from 1 to 50.
        settings: see `pretrain`.
        output: a page to write, .png or .html.
        trust: modules whose code the recipe, the run or the export may name. It holds from now on in this process.

    Returns:
        What a notebook shows as a picture; a sequence of samples, with the pixels and the record of every view.

    Raises:
        RecipeError: in one line, if a setting, the data or the page cannot be used.
    """
    prepare_process()
    allow_modules(trust)
    if type(images) is not int or not 1 <= images <= 50:
        raise SettingError("images", f"must be a whole number from 1 to 50, got {images!r}")
    if output is not None:
        if place("output", output).suffix not in (".png", ".html"):
            raise SettingError("output", f"{str(output)!r} is no page; its name must end with .png or .html")
        if Path(output).exists():
            raise SettingError("output", f"{str(output)!r} exists already; choose another name")
        require_writable(Path(output))
    name, resolved = asked(recipe, data, settings, None)
    from ssl_inv.engine.launch import quiet_lightning
    from ssl_inv.run.pages.views_page import shown_views

    with held(data), quiet_lightning():
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
    trust: Sequence[str] = (),
) -> "OneStep":
    """Check a recipe, build it and run one step on the CPU. Nothing is written.

    Args:
        recipe: see `pretrain`.
        data: see `pretrain`.
        settings: see `pretrain`.
        trainer: see `pretrain`.
        trust: modules whose code the recipe, the run or the export may name. It holds from now on in this process.

    Returns:
        The checked recipe, the loss of the step, and how long a run would take.

    Raises:
        RecipeError: in one line, if a setting or the data cannot be used.
    """
    prepare_process()
    allow_modules(trust)
    name, resolved = asked(recipe, data, settings, trainer)
    from ssl_inv.run.commands import one_step

    with held(data):
        return one_step(name, resolved)


@overload
def recipes(name: None = None) -> Table: ...


@overload
def recipes(name: AnyRecipe, *, settings: Settings | None = None, trust: Sequence[str] = ()) -> Recipe: ...


def recipes(
    name: AnyRecipe | None = None, *, settings: Settings | None = None, trust: Sequence[str] = ()
) -> Table | Recipe:
    """The recipes that come with the package, or one with all its settings.

    Args:
        name: a recipe; None lists all.
        settings: see `pretrain`.
        trust: modules whose code the recipe, the run or the export may name. It holds from now on in this process.

    Returns:
        Columns `name`, `title`, `time` and `score`; or the `Recipe`, whose `dump()` is its YAML.

    Raises:
        RecipeError: in one line, if there is no such recipe or setting.
    """
    allow_modules(trust)
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
