"""Every memory keeps the contract of `ssl_inv.memories.base`, and every module that counts steps that of `progress`.

The test imports all modules of the room and checks all subclasses that it finds. A new memory is one file there and one
entry of `EXAMPLES` here.
"""

import copy
import importlib
import io
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from small import normal
from small_data import Known, Numbered
from torch import Tensor, nn

import ssl_inv.memories
from ssl_inv.memories.bank import Bank
from ssl_inv.memories.base import Memory
from ssl_inv.memories.centring import CentredTargets
from ssl_inv.memories.centroids import Centroids
from ssl_inv.memories.clusters import Clusters
from ssl_inv.memories.directions import RandomDirections
from ssl_inv.memories.gallery import Gallery
from ssl_inv.memories.graph import NeighbourGraph
from ssl_inv.memories.masking import BlockMasking
from ssl_inv.memories.progress import Progress
from ssl_inv.memories.queue import Queue
from ssl_inv.memories.rolled_masking import RolledMasking
from ssl_inv.memories.search import EdgeRules
from ssl_inv.memories.vocabulary import VisualWords
from ssl_inv.nn.distributed import rank, world_size
from ssl_inv.testing.processes import on_processes

BATCH, OBJECTS = 8, 12
ALL = torch.arange(OBJECTS)
KINDS = torch.tensor([0, 2, 1, -1, 0, 0, 2, 1])


def build_graph(graph: NeighbourGraph, step: int) -> None:
    graph.lay_out(Numbered.view_counts)
    encoder = Known(normal(step, 2 * OBJECTS, 4).float())
    graph.build(Gallery(Numbered(), nn.Identity(), "cpu", batch_size=5), encoder, EdgeRules(3))


def cluster(clusters: Clusters, step: int) -> None:
    bank = Bank(OBJECTS, 4).double()
    bank.vectors.copy_(normal(step, OBJECTS, 4))
    clusters.fit(bank, seed=step)
    clusters.relabel(torch.tensor([step]), normal(step, 1, 4))


@dataclass(frozen=True)
class Example:
    """A small memory, what a batch of a step does to it, and what a loss reads from it.

    A memory has `put` if rows wait in it: its third argument says which rows of the global batch. Another has `change`.
    """

    make: Callable[[], Any]
    ask: Callable[[Any], Tensor]
    put: Callable[[Any, int, slice], Any] | None = None
    change: Callable[[Any, int], None] | None = None


EXAMPLES = {
    Queue: Example(
        lambda: Queue(10, 3), Queue.entries, lambda queue, step, rows: queue.put(normal(step, BATCH, 3)[rows])
    ),
    Bank: Example(
        lambda: Bank(OBJECTS, 4, renewal=0.5),
        lambda bank: bank.similarities(normal(0, 2, 4)),
        lambda bank, step, rows: bank.put(torch.arange(step, step + BATCH)[rows], normal(step, BATCH, 4)[rows]),
    ),
    VisualWords: Example(
        lambda: VisualWords(3, 10, border=0),
        lambda words: copy.deepcopy(words).eval()(normal(0, 2, 3, 4, 4), torch.zeros(2)),
        lambda words, step, rows: words(normal(step, BATCH, 3, 4, 4)[rows], torch.rand(BATCH)[rows]),
    ),
    CentredTargets: Example(
        lambda: CentredTargets(4, 0.9, 0.04, 0.04, 0.0),
        lambda targets: targets(normal(0, 2, 4)),
        lambda targets, step, rows: targets.put(normal(step, BATCH, 4)[rows].mean(dim=0)),
    ),
    Clusters: Example(lambda: Clusters(OBJECTS, 3, 4), lambda clusters: clusters.members.order, change=cluster),
    NeighbourGraph: Example(
        lambda: NeighbourGraph(OBJECTS, 2 * OBJECTS, 3), lambda graph: graph.related(ALL, ALL), change=build_graph
    ),
    RandomDirections: Example(
        lambda: RandomDirections(5), lambda made: made(torch.zeros(1, 3)), change=RandomDirections.advance
    ),
    BlockMasking: Example(
        lambda: BlockMasking(2, (0.1, 0.3), (0.8, 1.2), (0.8, 1.0), 1, seed=0),
        lambda masking: masking.visible(torch.arange(4), (8, 8)),
        change=lambda masking, step: masking.advance(step, 10),
    ),
    RolledMasking: Example(
        lambda: RolledMasking(0.6, 0.5, seed=0),
        lambda masking: masking(torch.arange(4), (8, 8), torch.device("cpu")).targets,
        change=lambda masking, step: masking.advance(step, 10),
    ),
    Centroids: Example(
        lambda: Centroids(3, 4, 0.5, 0.1),
        lambda centroids: centroids(normal(0, 2, 4), torch.tensor([0, 2])),
        lambda centroids, step, rows: centroids.put(
            *((normal(step + view, BATCH, 4)[rows], KINDS[rows]) for view in (0, 5))
        ),
    ),
}


def kinds() -> list[type[nn.Module]]:
    """All memories and step counters of the room."""
    for module in pkgutil.iter_modules(ssl_inv.memories.__path__, "ssl_inv.memories."):
        importlib.import_module(module.name)
    found, new = [], [Memory, Progress]
    while new:
        new = [kind for one in new for kind in one.__subclasses__()]
        found += [kind for kind in new if kind.__module__.startswith("ssl_inv.memories.")]
    return found


WAITING = [kind for kind, example in EXAMPLES.items() if example.put]


def made(kind: type, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return EXAMPLES[kind].make().double()


def share() -> slice:
    """The rows of the global batch that belong to this process."""
    size = BATCH // world_size()
    return slice(rank() * size, (rank() + 1) * size)


def batch(memory: Any, step: int, *rows: slice) -> None:
    """A batch, or several micro-batches, before the end of the step."""
    example = EXAMPLES[type(memory)]
    if example.change:
        example.change(memory, step)
    for some in rows or (share(),) if example.put else ():
        torch.manual_seed(step)
        example.put(memory, step, some)


def train(memory: Any, step: int, *rows: slice) -> None:
    batch(memory, step, *rows)
    if isinstance(memory, Memory):
        memory.flush()


def state(memory: Any) -> dict[str, Any]:
    """What is in a checkpoint, and what a loss reads."""
    return {**copy.deepcopy(memory.state_dict()), "asked": EXAMPLES[type(memory)].ask(memory).clone()}


def assert_same(one: dict[str, Any], other: dict[str, Any], tolerance: float = 0.0) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def through_a_file(memory: Any) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_every_memory_of_the_room_is_checked():
    missing = [kind.__name__ for kind in kinds() if kind not in EXAMPLES]
    assert not missing, f"add an example of {', '.join(missing)} to EXAMPLES"


@pytest.mark.parametrize("kind", EXAMPLES)
def test_saved_and_loaded_or_copied_it_goes_on_as_if_nothing_had_happened(kind):
    memory, fresh, loaded = made(kind), made(kind, seed=2), made(kind, seed=1)
    train(memory, 1)
    assert {name for name, _ in memory.named_buffers()} <= memory.state_dict().keys(), "a buffer is not persistent"
    # Both may cache what they compute from their buffers, and in one rows wait.
    state(fresh)
    train(loaded, 3)
    state(loaded)
    batch(loaded, 4)
    for other in (fresh, loaded):
        other.load_state_dict(through_a_file(memory))
        assert_same(state(memory), state(other))
    copied = copy.deepcopy(memory)
    train(memory, 2)
    for other in (fresh, loaded, copied):
        train(other, 2)
        assert_same(state(memory), state(other))


@pytest.mark.parametrize("kind", WAITING)
def test_rows_wait_until_flush_and_are_forgotten_on_loading(kind):
    memory = made(kind)
    train(memory, 1)
    before, saved = state(memory), through_a_file(memory)
    batch(memory, 2)
    assert_same(before, state(memory))
    copied = copy.deepcopy(memory)
    copied.load_state_dict(saved)
    assert memory.waits
    assert not copied.waits
    copied.flush()
    assert_same(before, state(copied))
    memory.flush()
    after = state(memory)
    assert any(not torch.equal(before[name], after[name]) for name in before if isinstance(before[name], Tensor))
    memory.flush()
    assert_same(after, state(memory))


@pytest.mark.parametrize("kind", WAITING)
def test_micro_batches_are_taken_in_in_their_order_as_one_batch(kind):
    whole, split = made(kind), made(kind)
    for step in (1, 2):
        train(whole, step)
        train(split, step, slice(0, 4), slice(4, 8))
    assert_same(state(whole), state(split), 1e-9)


def two_steps() -> dict[str, dict[str, Any]]:
    memories = [made(kind) for kind in EXAMPLES]
    for memory in memories:
        train(memory, 1)
        train(memory, 2)
    return {type(memory).__name__: state(memory) for memory in memories}


def test_two_processes_equal_one():
    alone = two_steps()
    for found in on_processes(2, two_steps):
        for name, expected in alone.items():
            assert_same(expected, found[name], 1e-9)


@pytest.mark.parametrize(
    ("saved", "counts"),
    [(7, (7, 0.0)), (0.25, (0, 0.25)), ({"steps": 7, "progress": 0.25}, (7, 0.25))],
    ids=["steps alone", "share alone", "both"],
)
def test_progress_goes_on_from_every_form_in_which_it_was_ever_saved(saved, counts):
    progress = Progress()
    progress.load_state_dict({"_extra_state": saved})
    assert (progress.steps_done, progress.share_done) == counts
    progress.advance(8, 32)
    assert progress.get_extra_state() == {"steps": 8, "progress": 0.25}
