"""Keep the results of finished runs in the repository.

    python docs/record.py RUN [RUN ...] [--recipe RECIPE] [--name NAME]

RUN is the folder of a run. Runs of one recipe that differ in their seed alone become one file, docs/results/RECIPE.json, with the numbers
of every seed. `python docs/build.py` then shows them on the pages of the objectives.
"""

import argparse
import sys
from pathlib import Path

from method_pages.recorded import RESULTS, write_record
from method_pages.runs import recipe_name, record_of

from ssl_inv.recipe import shipped_recipes
from ssl_inv.registry import suggest
from ssl_inv.run_folder import RunFolder


def main() -> int:
    """Record the runs that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--recipe", help="the recipe whose results these are, where a run was begun with another and changed into it")
    parser.add_argument("--name", help="the name of the file; by default that of the recipe")
    arguments = parser.parse_args()
    try:
        groups: dict[str, list[RunFolder]] = {}
        for run in arguments.runs:
            folder = RunFolder.open(run)
            groups.setdefault(arguments.recipe or recipe_name(folder), []).append(folder)
        if arguments.name and len(groups) > 1:
            raise ValueError(f"--name is for runs of one recipe, these are of {', '.join(groups)}")
        for recipe, folders in groups.items():
            if recipe not in shipped_recipes():
                raise ValueError(f"no shipped recipe is called {recipe!r}; {suggest(recipe, shipped_recipes())}")
            path = write_record(record_of(arguments.name or recipe, recipe, folders))
            sys.stdout.write(f"{path.relative_to(RESULTS.parent.parent)}: {len(folders)} runs\n")
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
