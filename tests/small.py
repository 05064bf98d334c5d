"""Small objectives and memories that the tests of several rooms share; their conftest files import the fixtures."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor, nn

from ssl_inv.memories.bank import Bank
from ssl_inv.memories.clusters import Clusters
from ssl_inv.memories.draws import Drawn, Kind, Negatives
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import make_backbone
from ssl_inv.objectives.interclr import InterCLR
from ssl_inv.objectives.seq_jepa import SeqJEPA
from ssl_inv.testing.processes import kept_processes
from ssl_inv.transforms import Group, Real

PLACE = {"place": Real(dimensions=3)}


@pytest.fixture(scope="session", autouse=True)
def same_processes() -> Iterator[None]:
    """Tests on two processes share one pair: to start a pair takes longer than most tests."""
    with kept_processes():
        yield


@pytest.fixture(scope="session")
def seq_jepa() -> Callable[..., tuple[SeqJEPA, nn.Module]]:
    """Small seq-JEPA and its encoder, one linear layer, as in the recorded forward passes."""

    class Stub(nn.Module):
        features = 8

        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(8, 8, bias=False)

        def forward(self, pixels: Tensor) -> Tensor:
            return self.lin(pixels.flatten(1))

    def make(groups: Mapping[str, Group] = PLACE, **settings: Any) -> tuple[SeqJEPA, nn.Module]:
        torch.manual_seed(0)
        backbone = Stub()
        small = {"action_dimensions": 4, "layers": 2, "heads": 2, "predictor": 10, "dropout": 0.0}
        objective = SeqJEPA(8, groups, **{"parameters": list(groups), **small, **settings})
        objective.adopt(backbone)
        return objective, backbone

    return make


def normal(seed: int, *shape: int) -> Tensor:
    """Input of the recorded facts."""
    return torch.tensor(RandomState(seed).randn(*shape))


@pytest.fixture(scope="session")
def bank_and_clusters() -> Callable[..., tuple[Bank, Clusters]]:
    """The bank and clusters of the facts about InterCLR: 60 vectors of 5 dimensions in 6 clusters, 19 in the first."""

    def make(renewal: float = 1.0, smallest: int = 0) -> tuple[Bank, Clusters]:
        bank, clusters = Bank(60, 5, renewal).double(), Clusters(60, 6, 5, smallest).double()
        bank.vectors.copy_(F.normalize(normal(0, 60, 5), dim=1))
        clusters.labels[50:] = 0
        clusters.recentre(bank)
        return bank, clusters

    return make


@pytest.fixture(scope="session")
def drawn_negatives(bank_and_clusters: Callable[..., tuple[Bank, Clusters]]) -> Callable[..., tuple[Drawn, Clusters]]:
    """Negatives for objects 0, 13, 28 and 51 of this bank, and the clusters."""

    def draw(kind: Kind, count: int = 10, pool: int = 24, seed: int = 0) -> tuple[Drawn, Clusters]:
        bank, clusters = bank_and_clusters()
        labels, keys = clusters.labels[torch.tensor([0, 13, 28, 51])].long(), torch.arange(4) + 4 * seed
        queries = losses.unit_rows(normal(2, 4, 5))
        return Negatives(kind, count, pool).draw(
            queries, labels, bank, clusters.labels, clusters.members, keys
        ), clusters

    return draw


@pytest.fixture(scope="session")
def interclr(bank_and_clusters: Callable[..., tuple[Bank, Clusters]]) -> Callable[..., InterCLR]:
    """InterCLR with MoCo v2 and this bank, on a small transformer with 8 features."""

    def make(**settings: Any) -> InterCLR:
        torch.manual_seed(0)
        base = {"name": "moco-v2", "projector": [16, 5], "queue": 16}
        small = {"clusters": 6, "smallest_cluster": 0, "negative_count": 10, "pool": 24}
        made = InterCLR(8, {}, base={**base, **settings.pop("base", {})}, **{**small, **settings})
        arguments = {"img_size": 12, "patch_size": 3, "embed_dim": 8, "depth": 1, "num_heads": 2}
        made.adopt(make_backbone(name="vit_tiny_patch16_224", arguments=arguments))
        made.allocate(60, 60)
        made.bank, made.clusters = bank_and_clusters()
        return made.double()

    return make
