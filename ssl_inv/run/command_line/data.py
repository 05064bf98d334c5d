"""The commands on data: data, render, shard, tracks."""

import argparse
from pathlib import Path
from typing import Any

from ssl_inv.catalogue import RecipeError
from ssl_inv.run.command_line.arguments import AddCommand, number, one_of, output_option
from ssl_inv.run.folder import require_new, require_writable
from ssl_inv.run.recipe import apply_overrides, resolve_section
from ssl_inv.run.requirements import require_path

BESIDE = ("depth", "faces", "parts")
"""What can be written beside each image of a mesh."""

MOST_MARGIN = 10.0
"""Largest margin around a tracked object, in shares of its box: beyond that a view shows something else."""


def add_data(command: AddCommand) -> None:
    """Add the commands."""
    one = command("data", _data, "say what a data set is, what was not used and why, and draw some of its images")
    data = "folder, zip, tar, table, Parquet, Arrow or numpy file, shards, recipe, or name of a kind of data"
    one.add_argument("data", metavar="DATA", help=data)
    output_option(one, "FILE", "also draw a sheet of images, .png or .html")
    images = "images of each part on the sheet (16)"
    one.add_argument("--images", type=number(int, 1, 200), default=16, metavar="N", help=images)
    every = "open every image, and list all that cannot be read, with the reasons"
    one.add_argument("--all", action="store_true", help=every)
    one.add_argument("--json", action="store_true", help="print JSON")

    one = command("render", _render, "write rendered solids or meshes as a data set in the layout of 3DIEBench")
    one.add_argument("output", type=Path, metavar="FOLDER", help="folder to write; a second call continues")
    found = "folder or archive of glTF, OBJ, STL, PLY or OFF files, or .npz of meshes (solids)"
    one.add_argument("--meshes", metavar="MESHES", help=found)
    beside = f"what to write beside each image, of {', '.join(BESIDE)}; meshes only"
    one.add_argument("--beside", type=_listed, default=[], metavar="NAMES", help=beside)
    one.add_argument("--quality", type=number(int, 1, 95), default=95, metavar="Q", help="JPEG quality (95)")

    one = command("shard", _shard, "write any data as tar shards, which webdataset reads too")
    kinds = "folder, zip, tar, table, Parquet, Arrow or numpy file, shards, recipe, or name of a kind of data"
    one.add_argument("data", metavar="DATA", help=kinds)
    one.add_argument("output", type=Path, metavar="OUTPUT", help="folder to write; a second call continues")
    size = "a shard is closed when it has so many million bytes (256)"
    one.add_argument("--size-mb", type=number(float, 0.001), default=256.0, metavar="MB", help=size)
    order = "of the objects: shuffled by a fixed key, because neighbours are read together, or kept (shuffled)"
    one.add_argument("--order", **one_of(["shuffled", "kept"]), default="shuffled", help=order)

    _tracks_options(command("tracks", _tracks, "find and follow moving objects in videos, and write their views"))


def _data(arguments: argparse.Namespace) -> None:
    apply_overrides({}, arguments.overrides, ["data"])
    if (output := arguments.output) is not None:
        if output.suffix not in (".png", ".html"):
            raise RecipeError(f"--output: {str(output)!r} is no page; its name must end with .png or .html")
        if output.exists():
            raise RecipeError(f"output {str(output)!r} exists already; choose another name")
        require_writable(output)
    from ssl_inv.run.commands import describe_data

    describe_data(arguments.data, arguments.overrides, output, arguments.images, arguments.json, arguments.all)


def _render(arguments: argparse.Namespace) -> None:
    start = {"name": "rendered"} if arguments.meshes is None else {"name": "meshes", "path": arguments.meshes}
    content = apply_overrides({"data": start}, arguments.overrides, ["data"])
    chosen = resolve_section("data", content["data"], "the command line")
    if chosen.name not in ("rendered", "meshes"):
        raise RecipeError(f"data.name: render writes 'rendered' data or 'meshes', not {chosen.name!r}")
    if chosen.name == "rendered" and (arguments.beside or arguments.meshes is not None):
        option = "--beside" if arguments.beside else "--meshes"
        raise RecipeError(f"{option}: is for meshes, but data.name is 'rendered'")
    if chosen.name == "meshes":
        require_path("data.path", chosen.settings["path"])
    require_new(arguments.output)
    from ssl_inv.run.commands import render

    render(chosen, arguments.output, arguments.quality, arguments.beside)


def _listed(text: str) -> list[str]:
    """The names in a list with commas, in the order of `BESIDE`."""
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in BESIDE]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(BESIDE)}")
    return [name for name in BESIDE if name in names]


def _shard(arguments: argparse.Namespace) -> None:
    apply_overrides({}, arguments.overrides, ["data"])
    require_writable(arguments.output)
    from ssl_inv.run.commands import shard

    shard(arguments.data, arguments.overrides, arguments.output, arguments.size_mb, arguments.order)


def _tracks(arguments: argparse.Namespace) -> None:
    if not Path(arguments.videos).expanduser().exists():
        raise RecipeError(f"there is no folder or file {arguments.videos!r}")
    require_writable(arguments.output)
    from ssl_inv.run.commands import tracks

    settings = {name: getattr(arguments, name) for name in ("tracker", "length", "step", "objects", "agreement")}
    tracks(arguments.videos, arguments.frames, arguments.output, settings, arguments.size, arguments.margin)


def _tracks_options(parser: argparse.ArgumentParser) -> None:
    def option(name: str, kind: Any, default: Any, what: str, metavar: str | None = None) -> None:
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=f"{what} ({default})")

    videos = "folder of videos or of folders with frames, zip of frames, or one video"
    parser.add_argument("videos", metavar="VIDEOS", help=videos)
    output_option(parser, "FOLDER", "folder for table and images; a second call continues", required=True)
    frames = "which images are frames, such as '*.jpg' beside masks (all)"
    parser.add_argument("--frames", default="*", metavar="PATTERN", help=frames)
    trackers = ["flow", "csrt", "kcf"]
    parser.add_argument("--tracker", **one_of(trackers), default="flow", help="how objects are followed (flow)")
    option("--length", number(int), 30, "frames that an object is followed for at a time", "FRAMES")
    option("--step", number(int), 5, "frames from one view to the next", "FRAMES")
    option("--objects", number(int), 2, "most objects at a time", "N")
    option("--agreement", number(float), 0.5, "overlap with the first box after following back; 0: no check")
    option("--size", number(int, 1), 128, "side of the views", "PIXELS")
    option("--margin", number(float, 0, MOST_MARGIN), 0.2, "what a view shows around its box, in sides of the box")
