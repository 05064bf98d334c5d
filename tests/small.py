"""Small objectives, memories and views that the tests of several rooms share; conftest files import the fixtures."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor, nn

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.memories.bank import Bank
from ssl_inv.memories.clusters import Clusters
from ssl_inv.memories.draws import Drawn, Kind, Negatives
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.nn.predictors import BilinearPredictor
from ssl_inv.objectives.base import Losses
from ssl_inv.objectives.interclr import InterCLR
from ssl_inv.objectives.seq_jepa import SeqJEPA
from ssl_inv.run.schema import schema_of
from ssl_inv.testing import GROUPS
from ssl_inv.testing.networks import SmallNetwork
from ssl_inv.testing.processes import kept_processes
from ssl_inv.transforms import Group, Real, Transform
from ssl_inv.views import View, Views

PLACE = {"place": Real(dimensions=3)}


VIT = {"img_size": 12, "patch_size": 3, "embed_dim": 12, "depth": 1, "num_heads": 2}
MEAN_OF_PATCHES = {"class_token": False, "global_pool": "avg", "fc_norm": False}


def vit(**arguments: Any) -> dict[str, Any]:
    """Settings of a small transformer."""
    return {"name": "vit_tiny_patch16_224", "arguments": {**VIT, **arguments}}


def transformer(**arguments: Any) -> Backbone:
    torch.manual_seed(0)
    return make_backbone(**vit(**arguments))


PROJECTOR = [24, 16]
VICREG = {"name": "vicreg", "projector": PROJECTOR}
PATCH_PREDICTOR = {"predictor_width": 8, "predictor_depth": 1, "least_context": 4, "backbone": vit(**MEAN_OF_PATCHES)}
CHANNELS = {"layers": [1, 1, 1, 1], "channels": [4, 4, 6, 8]}
# Every process draws its own dropout.
DYNAMICS = {"layers": 2, "heads": 2, "head_width": 4, "hidden": 12, "dropout": 0.0}
OBOW_NETWORK = {"name": "resnet18", "stem": "3x3-stride1", "arguments": CHANNELS}
SIZES: dict[str, dict[str, Any]] = {
    "capi": {
        "clusters": 10,
        "predicted_share": 0.5,
        "predictor_depth": 1,
        "predictor_heads": 1,
        "backbone": vit(**MEAN_OF_PATCHES),
    },
    "capsie": {"capsules": 3, "pose": 4, "map_side": 3},
    "equicaps": {"capsules": 3, "map_side": 3},
    "essl": {"rotation_head": [16]},
    "lejepa": {"directions": 16},
    "lewm": {**DYNAMICS, "directions": 16},
    "sd-jepa": {**DYNAMICS, "directions": 16},
    "lightly": {"head_settings": {"hidden_dim": 24, "output_dim": 16}},
    # Every process draws its own dropout.
    "seq-jepa": {"action_dimensions": 4, "layers": 2, "heads": 2, "predictor": 10, "dropout": 0.0},
    "anti-invariance": {"base": {"name": "sie", "projector": PROJECTOR}, "negatives": 0.5, "hidden": [16]},
    "supervised": {"labels": True, "classes": 3, "parameters": ["rotation", "light_hue"], "hidden": [16]},
    "ser": {"base": VICREG, "layer": 1, "token_head": [8], "share": 0.5, "backbone": vit(dynamic_img_size=True)},
    "soft-equivariance": {"base": VICREG, "symmetries": ["turns", "flips", "hues", "shifts"]},
    "context-ssl": {"context": 3, "masked": 0.4, "width": 12, "layers": 2, "heads": 2, "latent_hidden": [10]},
    "conv-jepa": {"least_context": 1, "block_scale": [0.1, 0.15]},
    "dino": {"prototypes": 10, "local_crops": 2},
    "ec-reconstruction": {"base": VICREG, "parameters": ["rotation"], "decoder": [8, 8]},
    "context-prediction": {"hidden": [16], "patch_size": 24, "patch_gap": 12, "patch_jitter": 4},
    "care": {"chunk": "jitter_order"},
    "split": {
        "invariant": {"name": "simclr", "projector": PROJECTOR},
        "equivariant": {"name": "sie", "equivariant_share": 1.0, "projector": PROJECTOR},
    },
    "fino": {"base": VICREG, "attract": ["flip", "rotation"], "repel": ["grey", "floor_hue"], "hidden": [8]},
    "gram-anchoring": {"base": VICREG, "start": 0.1, "refresh_every": 2, "refreshes": 1, "backbone": vit()},
    "i-jepa": PATCH_PREDICTOR,
    "iwm": {"parameters": ["rotation", "crop", "hue", "grey"], **PATCH_PREDICTOR},
    "moco-v2": {"queue": 12},
    "nnclr": {"queue": 12, "predictor": [16]},
    "stl": {"alike": ["rotation"], "transformation_widths": [8, 6], "transformation_projector": [8, 5]},
    "ebc": {"alike": ["rotation"], "context": 3, "projector": [8, 3]},
    "swav": {"queue": 8, "queue_start": 0.0, "prototypes": 10, "local_crops": 2},
    "msn": {"prototypes": 10, "focal_views": 2, "backbone": vit()},
    "adaptive-multi-head": {"hidden": 8},
    "deepcluster-v2": {"prototypes": [3, 4, 5], "local_crops": 2},
    "interclr": {
        "base": {"name": "moco-v2", "projector": PROJECTOR, "queue": 12},
        "clusters": 4,
        "smallest_cluster": 2,
        "negative_count": 5,
        "pool": 9,
    },
    "npid": {"negatives": 6},
    "odc": {"dropout": 0.0, "clusters": 4, "smallest_cluster": 2},
    "obow": {"levels": 1, "vocabulary": 20, "border": 0, "window": 2},
    "transitive": {"neighbours": 3, "first_graph": 0, "margin": 0.1},
    "ibot": {"prototypes": 10, "local_crops": 2, "mask_probability": 0.8, "backbone": vit()},
}


def small(name: str) -> dict[str, Any]:
    """Settings that make networks small, where the objective has them."""
    settings = SIZES.get(name, {})
    projected = "projector" in schema_of(OBJECTIVES.find(name)).settings
    return {"projector": PROJECTOR, **settings} if projected else settings


def build(name: str, groups: Mapping[str, Group] = GROUPS, **settings: Any) -> tuple[Backbone, Any]:
    """A small objective of 60 objects, with its backbone."""
    settings = {**small(name), **settings}
    given = settings.pop("backbone", None)
    torch.manual_seed(0)
    backbone = make_backbone(**given) if given else Backbone(SmallNetwork(), "small")
    objective = OBJECTIVES.find(name).load()(backbone.features, groups, **settings)
    objective.adopt(backbone)
    objective.allocate(60, 60)
    return backbone, objective


def total(terms: Losses) -> Tensor:
    """The loss that training descends."""
    return sum((term.weight * term.value for term in terms.values()), start=torch.zeros(()))


def views_of(pixels: Iterable[Tensor], transforms: Iterable[Transform] | None = None) -> Views:
    """Views of these pixels, whose transforms are empty if none are given."""
    pixels = list(pixels)
    both = zip(pixels, transforms or [Transform.empty()] * len(pixels), strict=True)
    return Views(tuple(View(*one) for one in both), torch.arange(len(pixels[0])))


def noise(sides: Iterable[int], batch: int = 4) -> Views:
    """Views of random pixels with so many pixels a side."""
    return views_of(torch.randn(batch, 3, side, side) for side in sides)


def normal(seed: int, *shape: int) -> Tensor:
    """Input of the recorded facts."""
    return torch.tensor(RandomState(seed).randn(*shape))


def single(seed: int, *shape: int) -> Tensor:
    """Input of the recorded facts in single precision."""
    return normal(seed, *shape).float()


def assert_recorded(found: Tensor | None, recorded: dict[str, Any]) -> None:
    """A tensor has the recorded sums and first numbers."""
    assert found is not None
    numbers = found.detach().double().flatten().numpy()
    weights = np.cos(np.arange(len(numbers)))
    assert numbers.sum() == pytest.approx(recorded["sum"], rel=1e-9, abs=1e-12)
    assert np.abs(numbers).sum() == pytest.approx(recorded["abs"], rel=1e-9)
    assert (numbers * weights).sum() == pytest.approx(recorded["wsum"], rel=1e-9)
    np.testing.assert_allclose(numbers[:4], recorded["head"], rtol=1e-9)


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


THEIR_TERMS = {
    "invariance": "repr_loss_inv",
    "equivariance": "repr_loss_equi",
    "variance": "std_loss",
    "covariance": "cov_loss",
    "predicted_variance": "pred_std_loss",
    "mean_entropy": "MEMAX_loss",
}
"""The names of loss terms in the authors' code of SIE and EquiCaps."""


def bilinear(weight: Tensor) -> BilinearPredictor:
    """The predictor with the weight of the hypernetwork's linear layer, rows (out, in), columns the action."""
    size = math.isqrt(len(weight))
    predictor = BilinearPredictor(size, weight.shape[1]).double()
    predictor.weight.data = weight.view(size, size, -1).permute(2, 0, 1).clone()
    return predictor


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
        draws = Negatives(kind, count, pool)
        return draws.draw(queries, labels, bank, clusters.labels, clusters.members, keys), clusters

    return draw


@pytest.fixture(scope="session")
def interclr(bank_and_clusters: Callable[..., tuple[Bank, Clusters]]) -> Callable[..., InterCLR]:
    """InterCLR with MoCo v2 and this bank, on a small transformer with 8 features."""

    def make(**settings: Any) -> InterCLR:
        torch.manual_seed(0)
        base = {"name": "moco-v2", "projector": [16, 5], "queue": 16}
        small = {"clusters": 6, "smallest_cluster": 0, "negative_count": 10, "pool": 24}
        made = InterCLR(8, {}, base={**base, **settings.pop("base", {})}, **{**small, **settings})
        made.adopt(make_backbone(**vit(embed_dim=8)))
        made.allocate(60, 60)
        made.bank, made.clusters = bank_and_clusters()
        return made.double()

    return make
