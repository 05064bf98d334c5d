"""The cost of InterCLR's parts of a step, here and in the plain way.

    OMP_NUM_THREADS=1 python benchmarks/bank_cost.py --rounds 3
    python benchmarks/bank_cost.py --device cuda --queries 256 --rounds 10

The bank has the size of ImageNet's and random vectors. Both ways of each part alternate in one process. Printed are
median seconds (on a CPU: processor seconds), their ratio, and the growth of memory.

The plain ways are those of the published code. It sends the bank to every process (here: one copy, which no network
beats), looks for every query's cluster in all labels, sorts the pool, redraws negatives on the host until none is of
the query's cluster, draws random ones from the table of the alias method (built once a run; here a hundredth of it),
and copies the vectors of all negatives.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.memories.bank import Bank
from ssl_inv.memories.clusters import Clusters
from ssl_inv.memories.draws import Drawn, Negatives, draw_positives
from ssl_inv.transforms.keyed_random import sample_keys


class Step:
    """The parts of a step, each in both ways."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.device = torch.device(arguments.device)
        self.bank = Bank(arguments.objects, 128, precision=arguments.precision, place=arguments.place).to(self.device)
        self.clusters = Clusters(arguments.objects, arguments.clusters, 128).to(self.device)
        self.clusters.labels.copy_(torch.randint(arguments.clusters, (arguments.objects,)))
        self.clusters.recentre(self.bank)
        self.host_labels = self.clusters.labels.cpu()
        self.negatives = Negatives("semi-hard", arguments.negatives, arguments.pool)
        self.index = torch.randperm(arguments.objects)[: arguments.queries]
        self.queries = F.normalize(torch.randn(arguments.queries, 128, device=self.device), dim=1)
        self.batch = torch.randperm(arguments.objects)[:256], torch.randn(256, 128, device=self.device)
        self.known = torch.rand(arguments.queries, arguments.negatives, device=self.device)
        self.drawn = torch.randint(arguments.objects, (arguments.queries, arguments.negatives), device=self.device)

    @property
    def parts(self) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
        """Ours and the plain way of each part."""
        return {
            "take in 256 keys": (self.take_in, self.send_bank),
            "positives": (self.positives, self.positives_by_scan),
            "semi-hard negatives": (self.draw, self.draw_by_sorting),
            "random negatives": (self.draw_from_all, self.alias_table),
            "similarities, gradient": (self.similarities, self.similarities_of_copies),
        }

    def take_in(self) -> None:
        """Take in vectors and labels of the global batch."""
        self.bank.put(*self.batch)
        for taken in self.bank.flush():
            self.clusters.relabel(*taken)

    def send_bank(self) -> Tensor:
        """One copy of the bank."""
        return self.bank.vectors.clone()

    def positives(self) -> Tensor:
        """Includes the sorting that new labels make necessary."""
        self.clusters._members = None
        keys = sample_keys(self.index, self.device, 0)
        labels = self.clusters.labels[self.index.to(self.device)].long()
        return draw_positives(self.clusters.members, labels, self.index.to(self.device), keys)

    def positives_by_scan(self) -> list[Tensor]:
        """Look for every query's cluster in all labels, on the host."""
        found = [(self.host_labels == self.host_labels[one]).nonzero().squeeze(1) for one in self.index]
        return [members[torch.randint(len(members), ())] for members in found]

    def draw(self) -> Drawn:
        """Draw directly from the pool's other clusters."""
        keys, labels = sample_keys(self.index, self.device, 1), self.clusters.labels
        own = labels[self.index.to(self.device)].long()
        return self.negatives.draw(self.queries, own, self.bank, labels, self.clusters.members, keys)

    def draw_by_sorting(self) -> Tensor:
        """Sort the pool, draw without replacement, look up labels on the host, and redraw members of the query's own
        cluster.
        """
        similar = self.queries @ self.bank.vectors.to(self.queries).T
        pool = similar.topk(self.negatives.pool, dim=1).indices
        weights = torch.ones(pool.shape, device=self.device)
        own = self.host_labels[self.index].unsqueeze(1)

        def some() -> Tensor:
            return pool.gather(1, weights.multinomial(self.negatives.count)).cpu()

        drawn = some()
        while (same := self.host_labels[drawn] == own).any():
            drawn = torch.where(same, some(), drawn)
        return drawn.to(self.device)

    def draw_from_all(self) -> Drawn:
        """Draw numbers of objects of other clusters."""
        keys, own = sample_keys(self.index, self.device, 2), self.clusters.labels[self.index.to(self.device)].long()
        return Negatives("random", self.negatives.count).draw(
            self.queries, own, self.bank, self.clusters.labels, self.clusters.members, keys
        )

    def alias_table(self) -> list[int]:
        """Build a hundredth of the table of the alias method, entry by entry, for equal probabilities. Needed once a
        run.
        """
        count = len(self.bank) // 100
        shares, large = torch.zeros(count), []
        for entry in range(count):
            shares[entry] = count * (1 / count)
            if shares[entry] >= 1:
                large.append(entry)
        return large

    def similarities(self) -> None:
        """Similarities that the draw already knows, and a gradient from rows that are not copied."""
        queries = self.queries.clone().requires_grad_()
        self.bank.similarity(queries, self.drawn, self.known).sum().backward()

    def similarities_of_copies(self) -> None:
        """Similarities with copies of all negatives of all queries at once."""
        queries = self.queries.clone().requires_grad_()
        rows = self.bank.vectors[self.drawn.to(self.bank.vectors.device)].to(queries)
        torch.bmm(rows, queries.unsqueeze(2)).sum().backward()


def clocked(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds until the work is done, and the largest growth of memory in MiB."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    before = _start_watching(device)
    begun = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - begun, (_highest(device) - before) / 2**20


def _start_watching(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return _of_process("VmRSS")


def _highest(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _of_process("VmHWM")


def _of_process(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line for line in lines if line.startswith(what)).split()[1])


def main() -> None:
    """Measure all parts, both ways alternating."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("objects", 1281167),
        ("clusters", 10000),
        ("queries", 32),
        ("negatives", 16384),
        ("pool", 128000),
        ("rounds", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp32")
    parser.add_argument("--place", choices=["device", "host"], default="device")
    arguments = parser.parse_args()
    step = Step(arguments)
    found = {}
    for part, ways in step.parts.items():
        rounds = [[clocked(way, step.device) for way in ways] for _ in range(arguments.rounds + 1)][1:]
        (ours, our_memory), (plain, plain_memory) = (
            [statistics.median(one) for one in zip(*way, strict=True)] for way in zip(*rounds, strict=True)
        )
        found[part] = {"seconds": (ours, plain), "mebibytes": (our_memory, plain_memory)}
        memory = f"{our_memory:7.0f} MiB, plain {plain_memory:7.0f} MiB"
        print(f"{part:23s} {1000 * ours:8.1f} ms, plain {1000 * plain:9.1f} ms, {plain / ours:7.1f} times; {memory}")
    print(json.dumps({**vars(arguments), "found": found}))


if __name__ == "__main__":
    main()
