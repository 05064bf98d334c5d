"""Every registered objective conforms, and the conformance suite finds every fault."""

from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.run.schema import schema_of
from ssl_inv.testing import GROUPS, check_objective
from ssl_inv.testing.networks import SmallNetwork

TINY_TRANSFORMER = {
    "name": "vit_tiny_patch16_224",
    "arguments": {"img_size": 12, "patch_size": 3, "embed_dim": 12, "depth": 1, "num_heads": 2, "drop_path_rate": 0.0},
}
MEAN_OF_PATCHES = {
    "name": TINY_TRANSFORMER["name"],
    "arguments": {**TINY_TRANSFORMER["arguments"], "class_token": False, "global_pool": "avg", "fc_norm": False},  # type: ignore[dict-item]
}
PATCH_PREDICTOR = {"predictor_width": 8, "predictor_depth": 1, "least_context": 4, "backbone": MEAN_OF_PATCHES}
SMALL: dict[str, dict[str, Any]] = {
    "capsie": {"capsules": 3, "pose": 4, "map_side": 3},
    "equicaps": {"capsules": 3, "map_side": 3},
    "essl": {"rotation_head": [16]},
    "lejepa": {"directions": 16},
    # Every process draws its own dropout.
    "seq-jepa": {"action_dimensions": 4, "layers": 2, "heads": 2, "predictor": 10, "dropout": 0.0},
    "soft-equivariance": {
        "base": {"name": "vicreg", "projector": [24, 16]},
        "symmetries": ["turns", "flips", "hues", "shifts"],
    },
    "context-ssl": {"context": 3, "masked": 0.4, "width": 12, "layers": 2, "heads": 2, "latent_hidden": [10]},
    "dino": {"prototypes": 10, "local_crops": 2},
    "ec-reconstruction": {
        "base": {"name": "vicreg", "projector": [24, 16]},
        "parameters": ["rotation"],
        "decoder": [8, 8],
    },
    "context-prediction": {"hidden": [16], "patch_size": 24, "patch_gap": 12, "patch_jitter": 4},
    "care": {"chunk": "jitter_order"},
    "split": {
        "invariant": {"name": "simclr", "projector": [24, 16]},
        "equivariant": {"name": "sie", "equivariant_share": 1.0, "projector": [24, 16]},
    },
    "i-jepa": PATCH_PREDICTOR,
    "iwm": {"parameters": ["rotation", "crop", "hue", "grey"], **PATCH_PREDICTOR},
    "moco-v2": {"queue": 12},
    "nnclr": {"queue": 12, "predictor": [16]},
    "swav": {"queue": 8, "queue_start": 0.0, "prototypes": 10, "local_crops": 2},
    "msn": {"prototypes": 10, "focal_views": 2, "backbone": TINY_TRANSFORMER},
    "adaptive-multi-head": {"hidden": 8},
    "deepcluster-v2": {"prototypes": [3, 4, 5], "local_crops": 2},
    "interclr": {
        "base": {"name": "moco-v2", "projector": [24, 16], "queue": 12},
        "clusters": 4,
        "smallest_cluster": 2,
        "negative_count": 5,
        "pool": 9,
    },
    "npid": {"negatives": 6},
    "odc": {"dropout": 0.0, "clusters": 4, "smallest_cluster": 2},
    "obow": {"levels": 1, "vocabulary": 20, "border": 0, "window": 2},
    "transitive": {"neighbours": 3, "first_graph": 0, "margin": 0.1},
    "ibot": {"prototypes": 10, "local_crops": 2, "mask_probability": 0.8, "backbone": TINY_TRANSFORMER},
}


def small(name: str) -> dict[str, Any]:
    """Settings that make networks small, where the objective has them."""
    settings = SMALL.get(name, {})
    return {"projector": [24, 16], **settings} if "projector" in schema_of(OBJECTIVES.find(name)).settings else settings


@pytest.mark.parametrize("name", [*OBJECTIVES.members])
def test_registered_objectives_conform(name: str) -> None:
    check_objective(name, **small(name))


BELOW_ZERO = {"interclr": {"margin"}, "transitive": {"least_similarity"}}
"""Numbers that may be below zero."""
NOT_READ = {"sie": {"directions"}}
"""Settings that no default choice reads."""


def build(name: str, backbone: Backbone, settings: dict[str, Any]) -> None:
    objective = OBJECTIVES.find(name).load()(backbone.features, GROUPS, **settings)
    objective.adopt(backbone)
    objective.allocate(24, 24)


@pytest.mark.parametrize("name", [*OBJECTIVES.members])
def test_numbers_below_zero_are_refused_by_name(name: str) -> None:
    spared = BELOW_ZERO.get(name, set()) | NOT_READ.get(name, set())
    given = small(name)
    backbone = make_backbone(**given.pop("backbone")) if "backbone" in given else Backbone(SmallNetwork(), "small")
    for setting, annotation in ((key, one.type) for key, one in schema_of(OBJECTIVES.find(name)).settings.items()):
        if {int, float}.isdisjoint((annotation, *get_args(annotation))) or get_origin(annotation) in (list, dict):
            continue
        if setting in spared or setting.endswith("seed"):
            continue
        with pytest.raises(ValueError, match=setting):
            build(name, backbone, {**given, setting: -1})


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sie", {"predictor": "hypernetwork"}),
        ("sie", {"predictor": "concatenation", "convention": "canonical"}),
        ("sie", {"parameters": ["rotation", "floor_hue", "crop"]}),
        ("sen", {"predictor": "embedded", "action_embedding": 6}),
        ("essl", {"projector_norm": True}),
        ("vicreg-trajectory", {"shape": "tangent", "normalised_centre": False, "compared": "two"}),
    ],
    ids=str,
)
def test_variants_conform(name: str, settings: dict[str, Any]) -> None:
    check_objective(name, **small(name), **settings)


FAULTY = """
import torch
from torch import nn
from ssl_inv.objectives.base import Objective, Term
from ssl_inv.nn.distributed import gather
from ssl_inv.views import Pair

class Sound(Objective):
    def __init__(self, features, groups):
        super().__init__()
        self.head = nn.Linear(features, 4)

    @property
    def plan(self):
        return Pair()

    def value(self, x, y):
        # Both gathers of the last sum share one gradient.
        spread = gather(x).var(0) + (gather(x) - gather(y)).square().mean(0)
        return spread.mean() + (gather(x) + gather(y)).square().mean()

    def loss(self, views, backbone):
        x, y = (self.head(backbone(view.pixels)) for view in views.views)
        return {"term": Term(self.value(*(z if z.dtype == torch.float64 else z.float() for z in (x, y))))}

class WithoutGather(Sound):
    def value(self, x, y):
        return (x.var(0) + (x - y).square().mean(0)).mean()

class UnusedHead(Sound):
    def __init__(self, features, groups):
        super().__init__(features, groups)
        self.spare = nn.Linear(features, 4)

class HiddenState(Sound):
    momentum = 1.0

    def value(self, x, y):
        return self.momentum * super().value(x, y)

    def after_step(self, backbone, step, steps):
        self.momentum = 0.9 * self.momentum

class NotPersistent(Sound):
    def __init__(self, features, groups):
        super().__init__(features, groups)
        self.register_buffer("rate", torch.ones(()), persistent=False)

    def value(self, x, y):
        return self.rate * super().value(x, y)

    def after_step(self, backbone, step, steps):
        self.rate.mul_(0.5)

class HalfPrecision(Sound):
    def value(self, x, y):
        return super().value(x, y).bfloat16() if torch.is_autocast_enabled("cpu") else super().value(x, y)

class NotFinite(Sound):
    def value(self, x, y):
        return super().value(x, y) / 0

class ProbesItsHead(Sound):
    def representations(self, backbone):
        return lambda pixels: {"all": self.head(backbone(pixels))}

class WithoutAll(Sound):
    def representations(self, backbone):
        return lambda pixels: {"invariant": backbone(pixels)}

class LeftOnHost(Sound):
    def value(self, x, y):
        return super().value(x, y * torch.ones(4))

class OwnQueue(Sound):
    def __init__(self, features, groups):
        super().__init__(features, groups)
        self.register_buffer("mean", torch.zeros(4))

    def value(self, x, y):
        self.mean.lerp_(x.detach().mean(0).to(self.mean.dtype), 0.5)
        return super().value(x, y)
"""


def test_what_is_sound_conforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faultless.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    check_objective("faultless.Sound")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("WithoutGather", "on one process, in step 1; gather"),
        ("UnusedHead", "no gradient for objective.spare.weight, objective.spare.bias"),
        ("HiddenState", "differs after it is saved and loaded"),
        ("NotPersistent", "differs after it is saved and loaded"),
        ("LeftOnHost", "on a GPU, the loss mixes tensors of the device and of the host"),
        ("HalfPrecision", "loss term 'term' is torch.bfloat16, not float32 under bfloat16 autocast"),
        ("NotFinite", "loss term 'term' is inf"),
        ("ProbesItsHead", "representation all depends on weights of the objective"),
        ("WithoutAll", "representations have no 'all', only invariant"),
        ("OwnQueue", "the buffer of objective.mean on 2 processes is not that of one process"),
    ],
)
def test_faults_are_named(fault: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"faulty_{fault}.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AssertionError, match=sentence):
        check_objective(f"faulty_{fault}.{fault}")
