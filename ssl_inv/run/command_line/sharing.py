"""The commands that share what was trained: push."""

import argparse
from pathlib import Path

from ssl_inv.catalogue import RecipeError
from ssl_inv.run.command_line.arguments import AddCommand, licence_option


def add_sharing(command: AddCommand) -> None:
    """Add the commands."""
    one = command("push", _push, "upload an exported network with its model card to a model hub")
    one.add_argument("source", type=Path, metavar="RUN_OR_EXPORT", help="folder of a run, or exported folder")
    one.add_argument("repository", metavar="REPOSITORY", help="OWNER/NAME on the hub; it is made if there is none")
    one.add_argument("--private", action="store_true", help="make a new repository private")
    one.add_argument(
        "--token-env",
        metavar="VARIABLE",
        help="environment variable with the access token; by default HF_TOKEN, or the login of `hf auth login`",
    )
    licence_option(one, "of the weights, for the model card")
    one.add_argument("--dry-run", action="store_true", help="print what would be sent; nothing is sent")


def _push(arguments: argparse.Namespace) -> None:
    if not arguments.source.is_dir():
        raise RecipeError(f"there is no folder {str(arguments.source)!r}")
    from ssl_inv.run.exports.sharing import push

    push(
        arguments.source,
        arguments.repository,
        private=arguments.private,
        token_variable=arguments.token_env,
        licence=arguments.license,
        dry_run=arguments.dry_run,
    )
