"""What a step of each objective costs over its networks, as benchmarks/step_cost.py has measured it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from method_pages.markup import folded, table
from ssl_inv.catalogue import OBJECTIVES

MEASURED = Path(__file__).parent.parent / "step-cost.json"


def measured_costs() -> list[dict[str, Any]]:
    """The cost of a step of each objective, one recipe each; none where nothing has been measured."""
    return list(json.loads(MEASURED.read_text(encoding="utf-8"))["costs"]) if MEASURED.exists() else []


def cost_of_steps(link: Callable[[str], str]) -> list[str]:
    """A section for the page of all objectives: nothing where nothing has been measured.

    Args:
        link: from an objective's name to a link to its page.
    """
    if not MEASURED.exists():
        return []
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    costs = sorted(measured["costs"], key=lambda cost: (-cost["time_ratio"], cost["objective"]))
    rows = [
        (
            link(cost["objective"]),
            f"`{cost['recipe']}`",
            str(cost["images"]),
            f"{cost['networks_ms']:.0f}",
            f"{cost['time_ratio']:.2f}",
            f"{cost['networks_mb']:.0f}",
            f"{cost['memory_ratio']:.2f}",
        )
        for cost in costs
    ]
    head = (
        "objective",
        "recipe",
        "views a step",
        "networks, ms",
        "step / networks",
        "networks, MB",
        "step / networks, memory",
    )
    most = max(cost["time_ratio"] for cost in costs)
    command = " ".join(["python benchmarks/step_cost.py", *measured["overrides"], f"--rounds {measured['rounds']}"])
    explained = (
        "A whole training step on views that are ready, over forward, backward and update of the same networks on as many images: losses, "
        "queues, clusters and moving averages are the difference. Processor time and the most that is allocated at a time, "
        f"on {measured['device']}, {measured['threads']} thread, the median of {measured['rounds']} rounds in turn: `{command}`. "
        f"The largest of the {len(costs)} ratios of time is {most:.2f}."
    )
    if lacking := sorted(OBJECTIVES.members.keys() - {cost["objective"] for cost in costs}):
        explained += f" Not measured: {', '.join(map(link, lacking))}."
    return [
        "## What a step costs",
        explained,
        folded(f"All {len(costs)} objectives", table(head, rows, range(2, len(head)))),
    ]
