"""The commands on encoders that exist: evaluate, embed, export, report."""

import argparse
from pathlib import Path

from ssl_inv.catalogue import RecipeError
from ssl_inv.run.command_line.arguments import (
    AddCommand,
    checkpoint_option,
    chosen_model,
    licence_option,
    model_and_data,
    number,
    one_of,
    output_option,
)
from ssl_inv.run.folder import RunFolder, require_new, require_results, require_writable
from ssl_inv.run.recipe import check_overrides
from ssl_inv.run.requirements import require_files


def add_encoders(command: AddCommand) -> None:
    """Add the commands."""
    one = command("evaluate", _evaluate, "evaluate a run, an exported folder or any timm model")
    model_and_data(one)
    output_option(one, "FOLDER", "also write results.json there, and cache the features")

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
    model = chosen_model(arguments)
    if arguments.output is not None:
        require_results(arguments.output)
    from ssl_inv.run.commands import evaluate

    evaluate(model, arguments.data, arguments.overrides, arguments.pretrained, arguments.output)


def _embed(arguments: argparse.Namespace) -> None:
    check_overrides(arguments.overrides)
    name = chosen_model(arguments)
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
