"""Speed and memory of the exam's probes beside those of lightly, faiss and scikit-learn, in one process.

    OMP_NUM_THREADS=1 python benchmarks/exam_speed.py
    OMP_NUM_THREADS=1 python benchmarks/exam_speed.py --rows 200000 --width 768 --queries 2000 --only knn

Features are random, with a mean for each of ten classes. The ways alternate; printed are the median processor seconds
of some rounds, their ratio to ours, the accuracy, and how much memory a call needs above what the process held.
lightly's search is given features of length one, as it asks for; faiss searches its flat index of inner products, and
building it counts. The linear probe trains its heads of 26 learning rates together, and scikit-learn fits one logistic
regression; the accuracy is that of the best head.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.evaluation.protocols.linear import LinearProbe
from ssl_inv.run.kept_measurements import costing

CLASSES, NEIGHBOURS, TEMPERATURE = 10, 20, 0.07
RATES = tuple(float(rate) for rate in torch.logspace(-4, 1, 26))


class Contest:
    """Features and the ways to classify them."""

    def __init__(self, rows: int, width: int, queries: int) -> None:
        generator = torch.Generator().manual_seed(0)
        means = 0.12 * torch.randn(CLASSES, width, generator=generator)
        self.labels = torch.randint(CLASSES, (rows,), generator=generator)
        self.wanted = torch.randint(CLASSES, (queries,), generator=generator)
        self.bank = torch.randn(rows, width, generator=generator) + means[self.labels]
        self.queries = torch.randn(queries, width, generator=generator) + means[self.wanted]

    def ours(self) -> Tensor:
        return NearestNeighbours(k=NEIGHBOURS).votes(self.bank, self.labels, self.queries, CLASSES).argmax(dim=1)

    def lightly(self) -> Tensor:
        from lightly.utils.benchmarking import knn_predict

        bank, found = normalize(self.bank, dim=1).T, []
        for some in torch.split(normalize(self.queries, dim=1), 512):
            ranked = knn_predict(some, bank, self.labels, CLASSES, knn_k=NEIGHBOURS, knn_t=TEMPERATURE)
            found.append(ranked[:, 0])
        return torch.cat(found)

    def faiss(self) -> Tensor:
        import faiss

        index = faiss.IndexFlatIP(self.bank.shape[1])
        index.add(normalize(self.bank, dim=1).numpy())
        similarity, rows = map(torch.from_numpy, index.search(normalize(self.queries, dim=1).numpy(), NEIGHBOURS))
        weights = (similarity / TEMPERATURE).softmax(dim=1)
        votes = weights.new_zeros(len(rows), CLASSES).scatter_add_(1, self.labels[rows], weights)
        return votes.argmax(dim=1)

    def linear(self, rough: bool = True) -> Tensor:
        features, queries = self.standardised()
        heads = LinearProbe.quick().fit(features, self.labels, CLASSES, RATES, rough)
        rows = torch.cat((queries, torch.ones(len(queries), 1)), dim=1)
        scores = (rows @ heads.permute(1, 0, 2).flatten(1)).view(len(rows), len(heads), CLASSES)
        found = scores.argmax(dim=2)
        return found[:, (found == self.wanted[:, None]).float().mean(dim=0).argmax()]

    def standardised(self) -> tuple[Tensor, Tensor]:
        deviation, mean = torch.std_mean(self.bank, dim=0)
        return (self.bank - mean) / deviation, (self.queries - mean) / deviation

    def sklearn(self, standardise: bool = False) -> Tensor:
        from sklearn.linear_model import LogisticRegression

        bank, queries = self.standardised() if standardise else (self.bank, self.queries)
        fitted = LogisticRegression(max_iter=200).fit(bank.numpy(), self.labels.numpy())
        return torch.from_numpy(fitted.predict(queries.numpy()))

    @property
    def contests(self) -> dict[str, dict[str, Callable[[], Tensor]]]:
        """The ways of each contest, ours first."""
        return {
            "knn": {"ours": self.ours, "lightly": self.lightly, "faiss": self.faiss},
            "linear": {
                "ours, 26 heads": self.linear,
                "ours, 26 heads in single precision": lambda: self.linear(rough=False),
                "scikit-learn, one fit": self.sklearn,
                "scikit-learn, one fit, standardised": lambda: self.sklearn(standardise=True),
            },
        }


def raced(contest: Contest, ways: dict[str, Callable[[], Tensor]], rounds: int) -> list[dict[str, object]]:
    """The median processor seconds, memory and accuracy of each way; the first one is ours."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    facts: dict[str, tuple[float, float | None]] = {}
    for turn in range(rounds):
        for name, way in ways.items():
            begun = time.process_time()
            with costing("cpu") as cost:
                found = way()
            seconds[name].append(time.process_time() - begun)
            if not turn:
                accuracy = float((found == contest.wanted).float().mean())
                facts[name] = accuracy, None if cost.memory is None else cost.memory / 2**20
    ours = statistics.median(next(iter(seconds.values())))
    return [
        {
            "way": name,
            "seconds": round(statistics.median(taken), 3),
            "of ours": round(statistics.median(taken) / ours, 2),
            "accuracy": round(facts[name][0], 4),
            "memory, MB": None if facts[name][1] is None else round(facts[name][1] or 0),
        }
        for name, taken in seconds.items()
    ]


def main() -> None:
    """Run the contests that are asked for and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["knn", "linear"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    contest = Contest(arguments.rows, arguments.width, arguments.queries)
    for ways in Contest(2000, arguments.width, 64).contests.values():
        for way in ways.values():
            way()  # imports, and what a library allocates once
    results = {}
    for name, ways in contest.contests.items():
        if arguments.only in (None, name):
            results[name] = raced(contest, ways, arguments.rounds)
            print(f"{name}: {arguments.rows:,} x {arguments.width}, {arguments.queries:,} queries")
            for row in results[name]:
                print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
