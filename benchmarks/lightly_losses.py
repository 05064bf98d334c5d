"""Every loss of lightly on two processes, by lightly alone and as an objective here: the table of docs/lightly.md.

    python benchmarks/lightly_losses.py [--write] [LOSS ...]

Two processes with half the batch each compute a gradient, and so does one process with the whole batch, in float64,
with the same networks and views, batch normalisation over the global batch, and gradients averaged over processes. The
gradients of all weights are compared: the cosine between them, and the ratio of their lengths. `alone` is lightly's
class, given what one process has, with `gather_distributed` where it has that; its random numbers have the same seed on
both processes. `resumed` says whether the losses after a step are the same, bit for bit, after its state dict is saved
and loaded. With `--write`, the table goes into docs/lightly.md.
"""

import argparse
import inspect
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from lightly_sizes import EVERY, VARIANTS  # noqa: E402

from ssl_inv.nn.lightly_parts import loss_arguments, losses  # noqa: E402
from ssl_inv.nn.lightly_table import CALLS, LEFT_OUT, kind_of  # noqa: E402
from ssl_inv.nn.losses import full_precision  # noqa: E402
from ssl_inv.nn.sync_batch_norm import synchronise_batch_norm  # noqa: E402
from ssl_inv.objectives.base import Losses, Term  # noqa: E402
from ssl_inv.objectives.lightly import Lightly  # noqa: E402
from ssl_inv.testing import cases, conformance  # noqa: E402
from ssl_inv.testing.processes import kept_processes, on_processes  # noqa: E402
from ssl_inv.views import View, Views  # noqa: E402

PAGE = REPOSITORY / "docs" / "lightly.md"
MARKS = "<!-- measured: python benchmarks/lightly_losses.py --write -->\n", "<!-- end of measured -->\n"
NO_ROW = ("frozen prototypes", "normalised", "without masks", "the head of VICReg", "on features")
HEAD = ["loss", "is given", "head", "alone: cosine", "ratio", "resumed", "here: cosine", "ratio", "resumed"]


class Alone(Lightly):
    """The same networks and views, with the loss as lightly has it."""

    def __init__(self, features: int, groups: Any, **settings: Any) -> None:
        super().__init__(features, groups, **settings)
        given = settings.get("settings", {})
        own = {name: value for name, value in given.items() if name not in self.kind.passed}
        width = int(self.loss_width)
        arguments = loss_arguments(self.loss_name, self.kind, own, width)
        made_of = losses()[self.loss_name]
        gathers = {"gather_distributed": True} if "gather_distributed" in inspect.signature(made_of).parameters else {}
        self.loss_function = made_of(**{**arguments, **gathers})

    def together(self, *rows: Tensor) -> list[Tensor]:
        return [full_precision(one) for one in rows]

    def value(self, *inputs: Any, of: Any = None, **named: Any) -> Tensor:
        if self.kind.teacher_temperature:
            named["teacher_temp"] = self._teacher_temperature()
        made: Tensor = (self.loss_function if of is None else of)(*inputs, **named)
        return made.reshape(())

    def world_model_terms(self, predicted: Tensor, embedded: Tensor) -> Losses:
        inputs = {"predicted": predicted, "target": embedded[:, 1:], "embeddings": embedded}
        return {self.loss_name: Term(self.value(**inputs))}


def gradient(case: cases.Case) -> Tensor:
    """The gradient of all weights, of the global batch and averaged over processes."""
    networks = case.build().double()
    processes = conformance.world_size()
    if processes > 1:
        for part in networks.values():
            synchronise_batch_norm(part, torch.device("cpu"))
    views, share = case.views(1, dtype=torch.float64), cases.BATCH // processes
    rows = torch.arange(conformance.rank() * share, (conformance.rank() + 1) * share)
    mine = [View(view.pixels[rows], view.transform.select(rows)) for view in views.views]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what lightly's own calls warn of
        losses_of_mine = cases.losses_of(networks, Views(tuple(mine), views.index[rows]))
        cases.total_of(losses_of_mine).backward()
    found = [torch.zeros_like(one) if one.grad is None else one.grad for one in networks.parameters()]
    if processes > 1:
        for one in found:
            conformance._average(one)
    return torch.cat([one.flatten() for one in found])


def compared(expected: Tensor, found: Tensor) -> tuple[float, float]:
    """Cosine between the gradients of all weights, and the ratio of their lengths."""
    cosine = torch.nn.functional.cosine_similarity(expected, found, dim=0)
    return float(cosine), float(found.norm() / expected.norm())


def measured(objective: Any, settings: dict[str, Any]) -> list[str]:
    """Cosine, ratio and whether a resumed run is the same."""
    given = dict(settings)
    case = cases.Case(objective, given, backbone=given.pop("backbone", None))
    cosine, ratio = compared(gradient(case), on_processes(2, gradient, case)[0])
    try:
        conformance._check_state(case)
        resumed = "yes"
    except AssertionError:
        resumed = "no"
    return [f"{cosine:.4f}", f"{ratio:.4f}", resumed]


def row(name: str, settings: dict[str, Any]) -> list[str]:
    """A row of the table."""
    kind = kind_of(settings["loss"], settings.get("settings", {}), settings.get("momentum"))
    head = kind.head or "none"
    head += f", {kind.predictor}" if kind.predictor else ""
    return [f"`{name}`", CALLS[kind.call], head, *measured(Alone, settings), *measured(Lightly, settings)]


def table(rows: list[list[str]]) -> str:
    """Rows as Markdown."""
    lines = [HEAD, ["---"] * 3 + ["---:", "---:", "---"] * 2, *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loss", nargs="*")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    cases = {**EVERY, **{name: VARIANTS[name] for name in VARIANTS if not name.endswith(NO_ROW)}}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with kept_processes():
        rows = []
        for name in sorted(options.loss or cases):
            rows.append(row(name, cases[name]))
            print(*rows[-1], sep=" | ", file=sys.stderr)
    left_out = "".join(f"- `{name}`: {reason}.\n" for name, reason in sorted(LEFT_OUT.items()))
    text = f"{table(rows)}\nNot used here:\n\n{left_out}"
    if not options.write:
        print(text)
        return
    page = PAGE.read_text(encoding="utf-8")
    pattern = re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1])
    PAGE.write_text(re.sub(pattern, lambda _: f"{MARKS[0]}{text}{MARKS[1]}", page, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
