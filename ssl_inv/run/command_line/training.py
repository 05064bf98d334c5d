"""The commands that begin with a recipe: pretrain, recipes, views, check."""

import argparse
import itertools
import sys
from pathlib import Path

from ssl_inv.catalogue import RecipeError
from ssl_inv.run.command_line.arguments import RECIPE, AddCommand, number, output_option
from ssl_inv.run.continuing import Continuation, continuation, with_said
from ssl_inv.run.explain import explained, recipe_head
from ssl_inv.run.folder import RunFolder, default_output, require_new, require_writable
from ssl_inv.run.joining import joined, takes_up
from ssl_inv.run.recipe import Recipe, apply_overrides, find_recipe, load_recipe, resolve, shipped_recipes
from ssl_inv.run.requirements import load_runnable, require_files

MOST_IMAGES = 50
"""Most images on one page of views: few programs open a larger picture."""

_IMAGES = 6
"""Images on one page of views, if it is not said."""


def add_training(command: AddCommand) -> None:
    """Add the commands."""
    one = command("pretrain", _pretrain, "pretrain an encoder, evaluate it, export it and write a report")
    one.add_argument("recipe", nargs="?", **RECIPE)
    output_option(one, "FOLDER", "folder of the run; runs/RECIPE-TIME by default")
    resume = "continue the run in this folder; the result is as if it had never stopped"
    one.add_argument("--resume", type=Path, metavar="RUN", help=resume)
    change = (
        "with --resume: a setting that changes from here on, such as trainer.steps=2000; can be given several times"
    )
    one.add_argument("--continue", dest="said", action="append", default=[], metavar="KEY=VALUE", help=change)
    one.add_argument("--quiet", action="store_true", help="print only warnings and results")

    one = command("recipes", _recipes, "list the shipped recipes, or print one with all its settings")
    one.add_argument("recipe", nargs="?", **RECIPE)
    one.add_argument("--explain", action="store_true", help="say what every setting means")

    one = command("views", _views, "draw the first views of a run and where they lie in their images, on one page")
    one.add_argument("recipe", nargs="?", **RECIPE)
    output_option(one, "FILE", "page to write, .png or .html; views.png, views-2.png, ... by default")
    most = f"images to show, at most {MOST_IMAGES} ({_IMAGES})"
    one.add_argument("--images", type=number(int, 1, MOST_IMAGES), metavar="N", help=most)
    sheet = "draw every operation at three strengths instead, on the first image of the recipe or on a built-in one"
    one.add_argument("--operations", action="store_true", help=sheet)

    one = command("check", _check, "check a recipe, build it and run one step; writes nothing")
    one.add_argument("recipe", **RECIPE)


def _pretrain(arguments: argparse.Namespace) -> None:
    if arguments.resume is not None:
        continued, folder = _resumed_run(arguments)
        from ssl_inv.run.pretrain import resume

        resume(continued, folder, arguments.quiet)
        return
    if arguments.said:
        raise RecipeError("--continue: needs the run that is continued, --resume RUN")
    recipe, folder, goes_on = _new_run(arguments)
    from ssl_inv.run.pretrain import pretrain, resume

    if goes_on is not None:
        resume(goes_on, folder, arguments.quiet)
        return
    pretrain(recipe, folder, arguments.quiet, numbered=arguments.output is None)


def _new_run(arguments: argparse.Namespace) -> tuple[Recipe, RunFolder, Continuation | None]:
    """The recipe and the folder of a run, and how it goes on if a launcher has begun it before."""
    if arguments.recipe is None:
        raise RecipeError("a recipe is missing: ssl-inv pretrain RECIPE; `ssl-inv recipes` lists them")
    recipe = load_runnable(arguments.recipe, arguments.overrides)
    here = joined(recipe)
    folder = RunFolder(arguments.output or default_output(arguments.recipe))
    # The first process makes the folder, and the others write nothing.
    goes_on = takes_up(folder, recipe, arguments.output is not None) if here.first else None
    # The other tasks of srun see a refusal only once they can reach the first one: `RunFolder.create` refuses there.
    if here.first and goes_on is None and here.launcher != "srun":
        (require_new if arguments.output else require_writable)(folder.path)
    return recipe, folder, goes_on


def _resumed_run(arguments: argparse.Namespace) -> tuple[Continuation, RunFolder]:
    if arguments.output is not None:
        raise RecipeError("--output and --resume exclude each other: a resumed run stays in its folder")
    folder = RunFolder.open(arguments.resume)
    began = asked = folder.recipe()
    if arguments.recipe is not None:
        asked = folder.as_begun(load_recipe(arguments.recipe, arguments.overrides), arguments.overrides)
    elif arguments.overrides:
        asked = resolve(apply_overrides(began.sections(), arguments.overrides), str(folder.recipe_file))
    continued = continuation(began, asked, with_said(asked, arguments.said), str(folder.path))
    require_files(continued.recipe)
    joined(continued.recipe)
    return continued, folder


def _views(arguments: argparse.Namespace) -> None:
    if arguments.operations:
        if arguments.images is not None:
            raise RecipeError("--images and --operations exclude each other: operations are drawn on one image")
        if arguments.recipe is None and arguments.overrides:
            problem = "settings are those of a recipe, whose first image is drawn on"
            raise RecipeError(f"{problem}: ssl-inv views --operations RECIPE {' '.join(arguments.overrides)}")
    elif arguments.recipe is None:
        raise RecipeError("a recipe is missing: ssl-inv views RECIPE; `ssl-inv recipes` lists them")
    recipe = None if arguments.recipe is None else load_runnable(arguments.recipe, arguments.overrides)
    stem = "operations" if arguments.operations else "views"
    numbered = (Path(f"{stem}-{number}.png") for number in itertools.count(2))
    free = next(path for path in itertools.chain([Path(f"{stem}.png")], numbered) if not path.exists())
    output = arguments.output or free
    if output.suffix not in (".png", ".html"):
        raise RecipeError(f"--output: {str(output)!r} is no page; its name must end with .png or .html")
    if output.exists():
        raise RecipeError(f"output {str(output)!r} exists already; choose another name")
    require_writable(output)
    from ssl_inv.run.commands import operations, views

    if arguments.operations:
        operations(recipe, output)
    elif recipe is not None:
        views(arguments.recipe, recipe, output, arguments.images or _IMAGES)


def _check(arguments: argparse.Namespace) -> None:
    recipe = load_runnable(arguments.recipe, arguments.overrides)
    from ssl_inv.run.commands import check

    check(arguments.recipe, recipe)


def _recipes(arguments: argparse.Namespace) -> None:
    if arguments.recipe is not None:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        head = recipe_head(find_recipe(arguments.recipe)).text
        sys.stdout.write((f"{head}\n" if head else "") + (explained(recipe) if arguments.explain else recipe.dump()))
        return
    if arguments.overrides or arguments.explain:
        raise RecipeError("a recipe is missing: ssl-inv recipes RECIPE; without one, all are listed")
    titles = {name: recipe_head(path).title for name, path in shipped_recipes().items()}
    width = max(map(len, titles))
    sys.stdout.write("".join(f"{name:{width}}  {title}\n" for name, title in titles.items()))
    sys.stdout.write(
        "\nssl-inv recipes NAME prints one: how to run it, how long it takes, what it scores, and every setting\n"
    )
