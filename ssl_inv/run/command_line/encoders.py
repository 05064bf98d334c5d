"""The commands on encoders that exist: evaluate, embed, export, report."""

import argparse
from pathlib import Path

from ssl_inv.catalogue import PROTOCOLS, RecipeError, SettingError, suggest
from ssl_inv.run.command_line.arguments import (
    LIBRARY_NAMES,
    AddCommand,
    checkpoint_option,
    chosen_model,
    licence_option,
    model_and_data,
    model_options,
    number,
    one_of,
    output_option,
)
from ssl_inv.run.command_line.protocol_list import ListedHelp, listed
from ssl_inv.run.folder import RunFolder, require_exam, require_new, require_results, require_writable
from ssl_inv.run.recipe import check_overrides
from ssl_inv.run.requirements import require_files

_SETS = ("quick", "full", "all")
"""Names of several protocols."""


def add_encoders(command: AddCommand) -> None:
    """Add the commands."""
    what = "evaluate runs, exported folders, models of timm or torchvision, or features, side by side"
    one = command("evaluate", _evaluate, what)
    features = f"folder of a run, checkpoint in it, exported folder, {LIBRARY_NAMES}, or folder of features"
    one.add_argument("models", metavar="MODEL", nargs="+", help=features)
    model_options(one)
    one.add_argument(
        "--protocols",
        nargs="+",
        metavar="NAME",
        help="what is measured: quick, full, all, or names from the list below (quick)",
    )
    one.formatter_class = ListedHelp
    one.add_argument_group("protocols", listed())
    output_option(one, "FOLDER", "also write the page and the results there, and cache features and measurements")
    one.add_argument("--layers", action="store_true", help="measure the features of every layer of models of timm")
    one.add_argument("--map", **one_of(["pca", "umap"]), default="pca", help="how the page draws features (pca)")

    one = command("embed", _embed, "write the features of every image, with what is known about the image")
    model_and_data(one)
    output_option(one, "FOLDER", "folder for shards and _manifest.json; a second call continues", required=True)
    one.add_argument("--format", **one_of(["parquet", "npy"]), default="parquet", help="format of the shards (parquet)")
    one.add_argument(
        "--shard-size", type=number(int, 1), default=50_000, metavar="ROWS", help="images per shard, about (50000)"
    )
    kinds = "also write an index for `ssl-inv neighbours`: exact, compressed for millions (ivf-pq), or by their number"
    one.add_argument("--index", **one_of(["exact", "ivf-pq", "auto"]), help=kinds)

    one = command("export", _export, "write the backbone of a run for other libraries")
    one.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    checkpoint_option(one)
    formats = ["timm", "torchvision", "onnx", "torch-export"]
    one.add_argument("--format", **one_of(formats), default="timm", help="for which library (timm)")
    output_option(
        one, "PATH", "folder (timm) or file; inside the run by default, named after a checkpoint if one is chosen"
    )
    one.add_argument(
        "--any-size", action="store_true", help="for onnx and torch-export: images of any size, not only the run's"
    )
    licence_option(one, "of the weights, for the model card of timm's folder")

    one = command("report", _report, "make the report of a run again")
    one.add_argument("run", type=Path, metavar="RUN", help="folder of a run")


def _report(arguments: argparse.Namespace) -> None:
    folder = RunFolder.open(arguments.run)
    require_files(folder.recipe())
    from ssl_inv.run.commands import report

    report(folder)


def _evaluate(arguments: argparse.Namespace) -> None:
    check_overrides(arguments.overrides)
    models = [chosen_model(model, arguments.checkpoint) for model in arguments.models]
    require_protocols(arguments.protocols or [])
    if arguments.output is not None:
        (require_results if len(models) == 1 else require_exam)(arguments.output)
    from ssl_inv.run.exam.command import exam

    exam(
        models,
        arguments.data,
        arguments.overrides,
        arguments.pretrained,
        arguments.protocols,
        arguments.output,
        arguments.layers,
        arguments.map,
    )


def require_protocols(names: list[str]) -> None:
    """Raise a `RecipeError` if one of some names means no protocol."""
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise RecipeError(f"--protocols: {twice[0]!r} stands twice")
    for name in names:
        if name in _SETS:
            if len(names) > 1:
                raise RecipeError(f"--protocols: {name!r} stands alone")
            continue
        try:
            PROTOCOLS.require_known(name)
        except SettingError:
            advice = suggest(name, [*_SETS, *PROTOCOLS.members])
            raise RecipeError(f"--protocols: none is called {name!r}; {advice}") from None


def _embed(arguments: argparse.Namespace) -> None:
    check_overrides(arguments.overrides)
    name = chosen_model(str(arguments.model), arguments.checkpoint)
    require_writable(arguments.output)
    from ssl_inv.run.commands import embed

    model = name, arguments.data, arguments.overrides, arguments.pretrained
    embed(*model, arguments.output, arguments.format, arguments.shard_size, arguments.index)


def _export(arguments: argparse.Namespace) -> None:
    folder, kind = RunFolder.open(arguments.run), arguments.format
    if arguments.any_size and kind not in ("onnx", "torch-export"):
        raise RecipeError(f"--any-size goes with --format onnx or torch-export; {kind}'s network takes any size it can")
    if arguments.license is not None and kind != "timm":
        raise RecipeError(f"--license stands in the model card of --format timm; {kind} has none")
    if arguments.checkpoint is not None:
        folder = folder.at_checkpoint(arguments.checkpoint)
    if arguments.output is not None:
        require_new(arguments.output)
    from ssl_inv.run.commands import export

    export(folder, kind, arguments.output, arguments.any_size, arguments.license)
