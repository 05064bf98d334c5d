"""How a process joins a run: as which one, and whether it begins the run or goes on with it."""

import logging
import shutil

from ssl_inv.catalogue import SettingError, within
from ssl_inv.engine.cluster import Place, place, require_fitting, restarted
from ssl_inv.run.continuing import Continuation, continuation
from ssl_inv.run.folder import RunFolder, has_not_begun
from ssl_inv.run.recipe import Recipe


def joined(recipe: Recipe) -> Place:
    """Where this process stands in a run.

    Raises:
        SettingError: if the launcher has started other processes than the recipe asks for. The others end silently, so
            that it is said once.
    """
    with within("trainer"):
        here = place()
        try:
            require_fitting(here, recipe.trainer.nodes, recipe.trainer.devices)
        except SettingError:
            if here.first:
                raise
            raise SystemExit(2) from None
    return here


def takes_up(folder: RunFolder, recipe: Recipe, named: bool) -> Continuation | None:
    """How a run goes on that torchrun or SLURM has restarted by the same command; None if it begins.

    Args:
        folder: of the command.
        recipe: of the command.
        named: whether the command names the folder.

    Raises:
        RecipeError: if a run of another recipe is there.
    """
    if not restarted():
        return None
    if not named:
        logging.getLogger("ssl_inv").warning("warning: restarted, but without --output the run begins anew")
    elif folder.is_unfinished():
        began = folder.recipe()
        asked = folder.as_begun(recipe, [])
        return continuation(began, asked, asked, str(folder.path))
    elif has_not_begun(folder.path):
        # It was killed while it made its folder.
        shutil.rmtree(folder.path, ignore_errors=True)
    return None
