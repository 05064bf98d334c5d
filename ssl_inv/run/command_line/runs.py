"""The commands on several runs: runs, compare, sweep."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_inv.atomic import write_text
from ssl_inv.catalogue import RecipeError, suggest
from ssl_inv.run.command_line.arguments import AddCommand, number, one_of, output_option
from ssl_inv.run.folder import require_writable
from ssl_inv.run.side_by_side.runs import STATES, parsed_conditions, runs_table
from ssl_inv.run.tables import Table

if TYPE_CHECKING:
    from ssl_inv.run.side_by_side.comparison import RunComparison

FORMATS = {"text": ".txt", "csv": ".csv", "markdown": ".md", "latex": ".tex", "json": ".json", "html": ".html"}
"""Formats of a comparison, and how the names of their files end."""

_MOST_SCORES = 3


def add_runs(command: AddCommand) -> None:
    """Add the commands."""
    one = command("runs", _runs, "list the runs below a folder: what they are, how far they came, what they scored")
    one.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="where to look (runs)")
    one.add_argument("--state", metavar="STATE,...", help=f"only runs in these states: {', '.join(STATES)}")
    settings = "only runs with this setting, such as objective.name=sie"
    one.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help=settings)
    one.add_argument("--sort", default="began", metavar="COLUMN", help="the column to sort by (began)")
    one.add_argument("--reverse", action="store_true", help="largest or latest first")
    kind = one.add_mutually_exclusive_group()
    kind.add_argument("--json", action="store_true", help="as JSON, with all columns and digits")
    kind.add_argument("--csv", action="store_true", help="as CSV, with all columns and digits")

    one = command("compare", _compare, "compare runs: means and deviations over seeds, paired differences")
    runs = "folder of a run, of runs, or of `ssl-inv evaluate --output`"
    one.add_argument("runs", nargs="+", metavar="RUN", help=runs)
    keys = "settings that make the groups, or recipe; by default all that differ but the seed"
    one.add_argument("--group", nargs="+", metavar="KEY", help=keys)
    names = "such as linear/top1, r2, 'knn/*', linear/top1:all, loss, monitor; by default the few that open a report"
    one.add_argument("--measure", nargs="+", metavar="NAME", help=names)
    against = "the group that the others are compared with, by a setting or one of its runs; by default the first"
    one.add_argument("--baseline", metavar="KEY=VALUE|RUN", help=against)
    one.add_argument("--format", **one_of(list(FORMATS)), help="by default that of the name of FILE, or text")
    output_option(one, "FILE", "file to write; standard output by default")

    one = command("sweep", _sweep, "run a recipe with every combination of some settings")
    one.add_argument("recipes", nargs="+", metavar="RECIPE", help="names of shipped recipes, or paths of recipe files")
    output_option(one, "FOLDER", "folder for the runs and for sweep.csv; a second call continues", required=True)
    one.add_argument("--jobs", type=number(int, 1), default=1, metavar="N", help="runs at a time, on each device (1)")
    one.add_argument("--devices", metavar="0,1,...", help="GPUs that runs are spread over, each run on one")
    one.add_argument("--dry-run", action="store_true", help="check and list the runs; writes nothing")
    one.add_argument("--slurm", action="store_true", help="print a script for sbatch with one task a run instead")
    one.add_argument("--only", type=number(int, 0), metavar="I", help="make run I alone, counted from 0")


def _runs(arguments: argparse.Namespace) -> None:
    table = runs_table(
        arguments.folders or [Path("runs")],
        states=[one.strip() for one in arguments.state.split(",")] if arguments.state else (),
        where=parsed_conditions(arguments.where),
        sort=arguments.sort,
        reverse=arguments.reverse,
    )
    if arguments.json or arguments.csv:
        sys.stdout.write(f"{table.to_json()}\n" if arguments.json else table.to_csv())
        return
    sys.stdout.write(f"{_for_people(table)}\n" if len(table) else "no runs\n")
    for row in table:
        if row["reason"]:
            sys.stdout.write(f"{row['run']}: {row['reason']}\n")


def _for_people(table: Table) -> Table:
    """The columns that fit on a terminal."""
    from ssl_inv.engine.progress import clock

    known = {"run", "path", "recipe", "objective", "data", "backbone", "state", "reason", "step", "steps", "epochs"}
    known |= {"seed", "began", "seconds", "device"}
    scores = [name for name in table.columns if name not in known][:_MOST_SCORES]
    rows = [
        {
            **{name: row[name] for name in ("run", "recipe", "objective", "data", "state")},
            "step": _progress(row),
            "seed": row["seed"],
            **{name: row[name] for name in scores},
            "began": None if row["began"] is None else str(row["began"])[:16].replace("T", " "),
            "took": None if row["seconds"] is None else clock(row["seconds"]),
            "device": row["device"],
        }
        for row in table
    ]
    shown = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return Table(rows, shown)


def _progress(row: dict[str, Any]) -> str | None:
    total = row["steps"] or (f"{row['epochs']} epochs" if row["epochs"] else None)
    if row["step"] is None:
        return None if total is None else f"0/{total}"
    return f"{row['step']}" if total in (None, row["step"]) else f"{row['step']}/{total}"


def _compare(arguments: argparse.Namespace) -> None:
    output: Path | None = arguments.output
    kind = arguments.format or _format_of(output)
    if output is not None:
        require_writable(output.parent)
        if output.is_dir():
            raise RecipeError(f"--output: {str(output)!r} is a folder; name a file")
    from ssl_inv.run.side_by_side.comparison import compare

    compared = compare(arguments.runs, group=arguments.group, measures=arguments.measure, baseline=arguments.baseline)
    text = _written(compared, kind)
    if output is None:
        sys.stdout.write(text)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, text)
        sys.stdout.write(f"{output}\n")
        for note in compared.notes:
            sys.stderr.write(f"note: {note}\n")


def _format_of(output: Path | None) -> str:
    if output is None:
        return "text"
    for kind, ending in FORMATS.items():
        if output.suffix == ending:
            return kind
    endings = list(FORMATS.values())
    raise RecipeError(f"--output: {str(output)!r} has no known ending; {suggest(output.suffix, endings)}, or --format")


def _written(compared: "RunComparison", kind: str) -> str:
    if kind in ("csv", "json"):
        for note in compared.notes:
            sys.stderr.write(f"note: {note}\n")
    if kind == "html":
        from ssl_inv.run.pages.comparison_page import comparison_page

        return comparison_page(compared)
    write: dict[str, Callable[[], str]] = {
        "text": lambda: f"{compared}\n",
        "csv": compared.to_csv,
        "markdown": compared.to_markdown,
        "latex": compared.to_latex,
        "json": lambda: f"{compared.to_json()}\n",
    }
    return write[kind]()


def _sweep(arguments: argparse.Namespace) -> None:
    from ssl_inv.run.side_by_side.sweep import Sweep, slurm_script
    from ssl_inv.run.side_by_side.sweep_grid import combinations, parsed_settings

    output: Path = arguments.output
    runs = combinations(arguments.recipes, parsed_settings(arguments.overrides))
    sweep = Sweep(output, runs, arguments.jobs, _devices(arguments.devices))
    if arguments.slurm and arguments.only is not None:
        raise RecipeError("--slurm and --only exclude each other: the script has a task for each run")
    if arguments.only is not None and arguments.only >= len(runs):
        raise RecipeError(f"--only {arguments.only}: the runs are counted from 0 to {len(runs) - 1}")
    if arguments.slurm:
        sys.stdout.write(slurm_script(sweep, arguments.recipes, arguments.overrides))
        return
    if arguments.dry_run:
        sweep.check()
        sys.stdout.write(f"{sweep.planned()}\n")
        return
    require_writable(output)
    table = sweep.run(None if arguments.only is None else [arguments.only])
    sys.stdout.write(f"{_sweep_for_people(table)}\n{output / 'sweep.csv'}\n")


def _sweep_for_people(table: Table) -> Table:
    hidden = ("path", "recipe", "began", "seconds", "device")
    columns = [
        name for name in table.columns if name not in hidden and any(one is not None for one in table.column(name))
    ]
    return Table(table.rows, columns)


def _devices(text: str | None) -> Sequence[str]:
    if text is None:
        return ()
    found = [one.strip() for one in text.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise RecipeError(f"--devices: expected different numbers of GPUs as 0,1, got {text!r}")
    return found
