"""Keep the results of finished runs in the repository.

    python docs/record.py RUN [RUN ...] [--recipe RECIPE] [--name NAME] [--add]

RUN is the folder of a run. Runs of one recipe that differ in their seed alone become one file,
docs/results/RECIPE.json, with the numbers of every seed; with --add, the seeds that the file has already stay in it.
`python docs/build.py` then shows them on the pages of the objectives.
"""

import argparse
import sys
from pathlib import Path

from method_pages.recorded import RESULTS, joined, read_records, write_record
from method_pages.runs import recipe_name, record_of

from ssl_inv.catalogue import suggest
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.recipe import shipped_recipes


def main() -> int:
    """Record the runs that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument(
        "--recipe", help="the recipe whose results these are, where a run was begun with another and changed into it"
    )
    parser.add_argument("--name", help="the name of the file; by default that of the recipe")
    parser.add_argument("--add", action="store_true", help="keep the seeds that the file has already")
    arguments = parser.parse_args()
    kept = {record.name: record for record in read_records()} if arguments.add else {}
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
            name = arguments.name or recipe
            records = [record_of(name, recipe, folder) for folder in folders] + ([kept[name]] if name in kept else [])
            record = joined(records)
            sys.stdout.write(
                f"{write_record(record).relative_to(RESULTS.parent.parent)}: seeds {', '.join(map(str, record.seeds))}\n"
            )
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
