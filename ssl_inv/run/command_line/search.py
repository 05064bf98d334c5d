"""The command that searches in embeddings: neighbours."""

import argparse
from pathlib import Path

from ssl_inv.catalogue import RecipeError
from ssl_inv.run.command_line.arguments import AddCommand, number
from ssl_inv.run.folder import require_writable
from ssl_inv.run.recipe import apply_overrides

_SUFFIXES = (".html", ".png", ".json")


def add_search(command: AddCommand) -> None:
    """Add the command."""
    one = command("neighbours", _neighbours, "find the nearest pictures in an index, or its near duplicates")
    one.add_argument("index", type=Path, metavar="INDEX", help="folder that `ssl-inv embed --index` has written")
    images = "image file, folder, zip or tar; or the id or number of a row of the index"
    one.add_argument("images", nargs="*", metavar="IMAGE", help=images)
    parts = "invariant, equivariant or all (the first two side by side where the encoder has them; all for duplicates)"
    one.add_argument("--part", metavar="PART", help=f"part of the features: {parts}")
    one.add_argument("-k", type=number(int, 1, 10_000), default=10, metavar="N", help="neighbours of each query (10)")
    one.add_argument("--duplicates", action="store_true", help="list groups of near duplicates in the index")
    threshold = "cosine from which two pictures are near duplicates; 1 is the same direction (0.98)"
    one.add_argument("--threshold", type=number(float, 0, 1), metavar="COSINE", help=threshold)
    output = f"also write a page or the JSON there; the name ends with {', '.join(_SUFFIXES)}"
    one.add_argument("--output", type=Path, metavar="FILE", help=output)
    one.add_argument("--json", action="store_true", help="print JSON instead of text")
    one.add_argument("--encoder", metavar="MODEL", help="where the encoder of the index is now, if it was moved")


def _neighbours(arguments: argparse.Namespace) -> None:
    if arguments.duplicates and arguments.images:
        raise RecipeError("--duplicates: compares the pictures of the index, so it takes no IMAGE")
    if not arguments.duplicates and not arguments.images:
        raise RecipeError("IMAGE is missing: a file, a folder or a row to find neighbours of; or --duplicates")
    if arguments.threshold is not None and not arguments.duplicates:
        raise RecipeError("--threshold: goes with --duplicates")
    if arguments.output is not None:
        if arguments.output.suffix.lower() not in _SUFFIXES:
            raise RecipeError(f"--output: the name must end with {', '.join(_SUFFIXES)}, got {arguments.output.name!r}")
        if arguments.output.is_dir():
            raise RecipeError(f"--output: {str(arguments.output)!r} is a folder")
        require_writable(arguments.output.parent)
    apply_overrides({"data": {}}, arguments.overrides, ["data"])
    from ssl_inv.run.search import Index

    index = Index.open(arguments.index, arguments.encoder, arguments.overrides)
    from ssl_inv.run.search.commands import duplicates, neighbours

    if arguments.duplicates:
        threshold = 0.98 if arguments.threshold is None else arguments.threshold
        duplicates(index, threshold, arguments.part, arguments.output, arguments.json)
    else:
        neighbours(index, arguments.images, arguments.k, arguments.part, arguments.output, arguments.json)
