"""The cost of a training step of every objective, against its networks alone.

    python benchmarks/step_cost.py
    python benchmarks/step_cost.py --objectives vicreg dino --rounds 15 --output ""

Each objective is measured with a shipped recipe. Two things alternate in one process: a step on ready views (loss,
backward, update and what follows it), and the networks of the same step alone. The networks are all outermost calls of
modules with parameters, on inputs of the same shapes, with gradients where the loss has them. Losses, queues, clusters,
moving averages and regrouping are not part of them. Printed are medians of processor time (on a GPU: of time), peak
allocations, and their ratios; they are written as JSON too. The data are always rendered solids, which changes neither
shapes nor cost.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import AroundBackbone, Backbone, Cached
from ssl_inv.objectives.base import Objective
from ssl_inv.run.build import Run, build
from ssl_inv.run.recipe import RecipeError, load_recipe, read_yaml, shipped_recipes

OUTPUT = Path(__file__).parent.parent / "docs" / "step-cost.json"
_CALLS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Module, "__call__"),
    (Backbone, "feature_map"),
    (Backbone, "tokens"),
)
"""The ways to call a network."""
_WARM_UP = 2
_OBJECTS = 6500
"""At least so many objects: InterCLR draws its negatives from a pool of 5,000 training objects, four fifths of all."""
_FEWER_CLUSTERS = {name: ["--objective.clusters=50"] for name in ("interclr", "odc")}
"""A hundred images a cluster, as their recipes have of 50,000; with ten, every step would have half of all clusters to
mend.
"""
_SMALLER_GROUPS = {"ebc": ["--objective.context=15"]}
"""Groups that fit in a batch of 16, with which the kept numbers are measured."""
_PREFERRED = ("rendered", "folder", "imagenet")
"""Ends of recipes' names: which of several recipes for an objective is taken."""


@dataclass(frozen=True)
class Cost:
    """The cost of a step of an objective, and of its networks alone.

    Attributes:
        objective: its name.
        recipe: the recipe with the settings.
        images: views per step.
        step_ms: milliseconds of a step.
        networks_ms: milliseconds of its networks.
        time_ratio: median ratio of the two over the rounds.
        step_mb: peak allocation of a step, in megabytes.
        networks_mb: peak allocation of its networks.
        memory_ratio: ratio of the two.
    """

    objective: str
    recipe: str
    images: int
    step_ms: float
    networks_ms: float
    time_ratio: float
    step_mb: float
    networks_mb: float
    memory_ratio: float


@dataclass(frozen=True)
class _Result:
    """In the arguments of a call, stands for output `place` of call number `call`."""

    call: int
    place: int


@dataclass(frozen=True)
class _Call:
    """One call of a network: function, arguments, whether a graph is built, and which outputs get a gradient."""

    function: Callable[..., Any]
    arguments: Any
    with_gradient: bool
    receives: list[bool]


class Networks:
    """The outermost calls of modules with parameters in a loss, repeated without what stands between them.

    Args:
        step: computes a loss and its gradient.
    """

    def __init__(self, step: Callable[[], None]) -> None:
        self.calls: list[_Call] = []
        self._outputs: list[Tensor] = []  # kept, so that no two have one id
        self._place: dict[int, _Result] = {}
        self._batches: dict[tuple[int, ...], int] = {}
        with self._recording():
            step()
        self._outputs.clear()
        self._place.clear()

    def __call__(self) -> None:
        """Call all networks again, then backward."""
        results: list[list[Tensor]] = []

        def given(value: Any) -> Any:
            return results[value.call][value.place] if isinstance(value, _Result) else value

        for call in self.calls:
            positional, named = tree_map(given, call.arguments)
            # A cache would find the batch of the last round, and its freed graph.
            uncached = mock.patch.object(Cached, "encode", AroundBackbone.encode)
            with uncached, torch.set_grad_enabled(call.with_gradient):
                results.append(_tensors(call.function(*positional, **named)))
        reached = [
            tensor
            for call, tensors in zip(self.calls, results, strict=True)
            for tensor, receives in zip(tensors, call.receives, strict=True)
            if receives
        ]
        torch.autograd.backward(reached, [torch.ones_like(tensor) for tensor in reached])

    @contextmanager
    def _recording(self) -> Iterator[None]:
        originals = [(kind, name, getattr(kind, name)) for kind, name in _CALLS]
        inside = [False]

        def recorded(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(module: nn.Module, *positional: Any, **named: Any) -> Any:
                if inside[0] or isinstance(module, Objective) or next(module.parameters(), None) is None:
                    return original(module, *positional, **named)
                inside[0] = True
                try:
                    arguments = tree_map(self._remembered, (positional, named))
                    output = original(module, *positional, **named)
                finally:
                    inside[0] = False
                batch = (id(module), *map(id, positional))
                if isinstance(module, Cached) and batch in self._batches:
                    self._found_again(self._batches[batch], output)
                else:
                    self._batches[batch] = len(self.calls)
                    self._record(partial(original, module), arguments, output)
                return output

            return call

        for kind, name, original in originals:
            setattr(kind, name, recorded(original))
        try:
            yield
        finally:
            for kind, name, original in originals:
                setattr(kind, name, original)

    def _remembered(self, value: Any) -> Any:
        """An argument for later: the output of the network that it came from, or a copy."""
        if not isinstance(value, Tensor):
            return value
        return self._place.get(id(value)) or value.detach().clone().requires_grad_(value.requires_grad)

    def _found_again(self, number: int, output: Any) -> None:
        """A cache has computed nothing: its output stands for that of an earlier call."""
        for place, tensor in enumerate(_tensors(output)):
            self._place[id(tensor)] = _Result(number, place)
            self._outputs.append(tensor)
            if tensor.requires_grad:
                receives = self.calls[number].receives
                tensor.register_hook(lambda _, place=place, receives=receives: receives.__setitem__(place, True))  # type: ignore[no-untyped-call]

    def _record(self, function: Callable[..., Any], arguments: Any, output: Any) -> None:
        tensors = _tensors(output)
        receives = [False] * len(tensors)
        for place, tensor in enumerate(tensors):
            self._place[id(tensor)] = _Result(len(self.calls), place)
            if tensor.requires_grad:
                tensor.register_hook(lambda _, place=place: receives.__setitem__(place, True))  # type: ignore[no-untyped-call]
        self._outputs += tensors
        self.calls.append(_Call(function, arguments, torch.is_grad_enabled(), receives))


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def recipe_of(objective: str) -> str:
    """The shipped recipe with which an objective is measured.

    Raises:
        RecipeError: if there is none, or the objective cannot be measured with it.
    """
    if objective == "split":
        raise RecipeError("two objectives share passes of the backbone in split, which a record of calls does not show")
    names = [name for name, path in shipped_recipes().items() if read_yaml(path)["objective"]["name"] == objective]
    for end in _PREFERRED:
        if found := [name for name in names if name.endswith(end)]:
            return min(found, key=len)
    raise RecipeError(f"no recipe is shipped that could be measured with {objective}")


def measure(objective: str, rounds: int, overrides: list[str]) -> Cost:
    """Run a step and its networks, alternating."""
    name = recipe_of(objective)
    own = load_recipe(name).data
    data = [
        "--data.name=rendered",
        f"--data.size={own.settings.get('size', 64)}",
        "--data.cache=false",
        "--data.classes=4",
    ]
    data += ["--data.views=1"] if own.name == "folder" else []
    data += _FEWER_CLUSTERS.get(objective, []) + _SMALLER_GROUPS.get(objective, [])
    batch = load_recipe(name, [*data, *overrides]).trainer.batch_size
    run = build(load_recipe(name, [*data, f"--data.objects={max(2 * batch, _OBJECTS)}", *overrides]))
    return _measured(objective, name, run, rounds)


def _measured(objective: str, recipe: str, run: Run, rounds: int) -> Cost:
    module, optimizer, device = run.module.train(), run.module.optimization.optimizer, run.trainer.strategy.root_device
    module.to(device)
    _before_the_first_epoch(run, device)
    views = module.view_maker(module.batches[0].to(device))
    half = run.recipe.trainer.precision == "bf16"
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # as much work, and weights that no round finds changed

    def backward() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            losses = run.objective.loss(views, run.backbone)
        torch.stack([term.weight * term.value for term in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]

    networks = Networks(backward)

    def step() -> None:
        backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.objective.after_step(run.backbone, 1, 100)

    def bare() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            networks()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds: dict[str, list[float]] = {"step": [], "networks": []}
    for number in range(_WARM_UP + rounds):
        for name, work in (("step", step), ("networks", bare)):
            spent = clocked(work, device)
            if number >= _WARM_UP:
                seconds[name].append(spent)
    step_ms, networks_ms = (1000 * statistics.median(some) for some in seconds.values())
    step_mb, networks_mb = (peak_bytes(work, device) / 1e6 for work in (step, bare))
    images = sum(len(view.pixels) for view in views.views)
    # Neighbours in time meet the same other work on the machine.
    ratio = statistics.median(one / other for one, other in zip(*seconds.values(), strict=True))
    return Cost(objective, recipe, images, step_ms, networks_ms, ratio, step_mb, networks_mb, step_mb / networks_mb)


def _before_the_first_epoch(run: Run, device: torch.device) -> None:
    """Prepare what the first batch needs: clusters and links."""
    batches, objective = run.module.batches, run.objective
    if objective.looks_between_epochs:
        with torch.no_grad():
            objective.between_epochs(run.backbone, 0, Gallery(batches.source, run.module.view_maker.whole, device))
    batches.links = objective.links(run.recipe.trainer.seed)


def clocked(work: Callable[[], None], device: torch.device) -> float:
    """Seconds of processor time, which other work on the machine changes little. On a GPU: seconds until the work is
    done.
    """
    if device.type != "cuda":
        begun = time.process_time()
        work()
        return time.process_time() - begun
    torch.cuda.synchronize(device)
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """The peak allocation, beyond what was allocated when the work began."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    assert profile.profiler is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def table(costs: list[Cost]) -> str:
    """The costs as lines of text."""
    lines = [f"{'objective':20s} {'images':>6s}" + 2 * f" {'networks':>10s} {'step':>10s} {'ratio':>6s}"]
    for one in costs:
        times = f"{one.networks_ms:7.1f} ms {one.step_ms:7.1f} ms {one.time_ratio:6.3f}"
        memory = f"{one.networks_mb:7.1f} MB {one.step_mb:7.1f} MB {one.memory_ratio:6.3f}"
        lines.append(f"{one.objective:20s} {one.images:6d} {times} {memory}")
    return "\n".join(lines)


def main() -> None:
    """Measure some objectives, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--objectives", nargs="+", default=list(OBJECTIVES.members), help="all registered ones by default"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default=str(OUTPUT), help="JSON file to write; empty writes none")
    arguments, overrides = parser.parse_known_args()
    torch.set_num_threads(arguments.threads)
    costs = []
    for name in arguments.objectives:
        try:
            costs.append(measure(name, arguments.rounds, overrides))
        except RecipeError as error:
            print(f"{name}: {error}")
            continue
        print(table(costs[-1:]).splitlines()[1], flush=True)
    print(table(costs))
    if arguments.output:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        facts = {"threads": arguments.threads, "rounds": arguments.rounds, "device": device, "overrides": overrides}
        content = {**facts, "costs": [asdict(one) for one in costs]}
        Path(arguments.output).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
