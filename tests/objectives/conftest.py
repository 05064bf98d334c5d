"""Fixtures of the tests of objectives."""

import pytest
import torch
from small import bank_and_clusters, interclr, same_processes, seq_jepa, views_of
from torch import Tensor, nn

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.nn.backbones import Backbone
from ssl_inv.testing import GROUPS, random_transform
from ssl_inv.views import Views

__all__ = ["bank_and_clusters", "interclr", "same_processes", "seq_jepa"]


@pytest.fixture
def backbone() -> Backbone:
    """One linear layer from 6 numbers to 6 features."""

    class Network(nn.Module):
        num_features = 6

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, pixels: Tensor) -> Tensor:
            return self.layer(pixels)

    torch.manual_seed(0)
    return Backbone(Network(), "one linear layer")


@pytest.fixture
def some_views():
    """Views of six numbers each, as the fixture `backbone` reads them."""

    def views(count: int, seed: int = 1, batch: int = 8) -> Views:
        torch.manual_seed(seed)
        return views_of(torch.randn(count, batch, 6), [random_transform(GROUPS, batch) for _ in range(count)])

    return views


@pytest.fixture
def build():
    """Objectives on six features, with small projectors."""

    def objective(name: str, backbone: Backbone, **settings):
        torch.manual_seed(2)
        made = OBJECTIVES.find(name).load()(6, GROUPS, projector=[8, 5], **settings)
        made.adopt(backbone)
        return made

    return objective
