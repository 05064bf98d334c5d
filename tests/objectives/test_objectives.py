"""Every registered objective conforms, and the conformance suite finds every fault."""

from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from small import OBOW_NETWORK, PROJECTOR, SIZES, build, small, vit

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.run.schema import schema_of
from ssl_inv.testing import check_objective
from ssl_inv.transforms import Pose


@pytest.mark.parametrize("name", [*OBJECTIVES.members])
def test_registered_objectives_conform(name: str) -> None:
    check_objective(name, **small(name))


EQUIMOD = {"name": "equimod", "projector": PROJECTOR}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "adaptive-multi-head": [{"negatives": "all"}],
    "anti-invariance": [
        {"base": {"name": "simclr", "projector": PROJECTOR}, "negatives": 0.0, "parameters": ["rotation", "crop"]},
        {
            "base": {"name": "equimod", "projector": PROJECTOR},
            "inverse": 0.0,
            "weights": {"crop": 2},
            "symmetric": True,
            "views": 3,
        },
        {"base": {"name": "seq-jepa", **SIZES["seq-jepa"]}, "views": 3, "within": 0.0},
    ],
    "capi": [{"momentum_warmup": 0.0, "keep": "student", "hidden_share": 0.3, "predicted_share": 1.0}],
    "augself": [
        {"parameters": ["crop", "floor_hue"], "quarter_turns": ["floor_hue"], "weights": {"crop": 0.5}},
    ],
    "capsie": [{"parameters": ["rotation", "floor_hue"], "convention": "canonical"}],
    "context-ssl": [
        {"context": 5, "positions": "none", "masked": 0.9},
        {"environments": [["rotation"]], "convention": "sie", "clamped": True},
    ],
    "conv-jepa": [{"multi_block": 0.0, "keep": "student", "hidden_share": 0.4}],
    "dino": [{"targets": "sinkhorn", "koleo": 0.1, "batch_norm": True, "unit_norm": False, "backbone": vit()}],
    "ebc": [{"queries": "last", "candidates": "queries", "invariant": 1}],
    "ec-reconstruction": [{"base": {"name": name, "projector": PROJECTOR}} for name in ("simclr", "sie")],
    "essl": [
        {"projector_norm": True},
        {"base": "simsiam", "rotation_head": [16, 16], "predictor_hidden": 8, "last_activation": False},
    ],
    "equicaps": [{"poses": "4x4", "groups": {"pose": Pose(0.5)}}],
    "equimod": [
        {"base": "vicreg", "predictor": "bilinear", "source": "pair", "parameters": ["rotation"]},
        {"base": "vicreg"},
        {"predictor": "bilinear", "predictor_initialisation": "group", "parameters": ["crop", "rotation"]},
    ],
    "fino": [
        {
            "head": "classification",
            "schedule": "constant",
            "warmup": 0.0,
            "attract": ["light_theta"],
            "ranges": {"light_theta": [-1, 1]},
        },
        {"base": {"name": "simclr", "projector": PROJECTOR}, "repel": [], "schedule": "linear"},
    ],
    "gram-anchoring": [
        {"base": {"name": "ibot", "prototypes": 10, "local_crops": 2, "projector": PROJECTOR}, "start": 0.0},
        {"base": {"name": "moco-v3", "projector": PROJECTOR}, "negatives": "teacher-clipped", "backbone": None},
    ],
    "ibot": [{"shared_head": False, "mask_probability": 0.3}],
    "interclr": [
        {"share_neck": False, "neck": [24, 16]},
        {"negatives": "hard", "boundary": "angle"},
        {"negatives": "random", "labels": "offline", "bank_place": "host", "own_entry": False},
        {"base": {"name": "byol", "projector": [24, 16], "predictor": [16]}, "negatives": "none"},
        {"base": {"name": "simsiam", "projector": [24, 16], "predictor": 8}, "share_neck": False, "neck": [16]},
        {"base": {"name": "npid", "projector": [16], "negatives": 6}, "negatives": "semi-easy"},
    ],
    "lejepa": [{"form": "flattened", "local_views": 2, "scale_by_batch": False, "symmetric_nodes": True}],
    "lewm": [
        {"anti_collapse": "inverse", "directions": 1024, "parameters": ["rotation", "floor_hue"]},
        {"anti_collapse": "both", "observed": 1, "target_gradient": False, "inverse_hidden": [8]},
    ],
    "moco-v2": [{"extrapolation": 2.0, "interpolation": 1.6, "renormalised": True}],
    "moco-v3": [{"predictor_norm": True, "frozen_patch_projection": True, "backbone": vit()}],
    "msn": [{"entropy": 0.5, "random_views": 2, "focal_views": 0, "patch_drop": 0.5}],
    "nnclr": [{"queue_precision": "fp16"}],
    "obow": [
        {"levels": 2, "window": 1, "crops": 1, "patches": 1, "warm_start": True, "backbone": OBOW_NETWORK},
        {"assignment": "hard", "words": "no_averaging", "learn_kappa": True, "first_distance": None, "patches": 0},
        {"pooling": "mean", "words": "global_average", "crops": 0, "vocabulary": 7},
    ],
    "sd-jepa": [{"observed": 5, "window": 2, "straightening": 0.5, "progression": 4}],
    "sen": [
        {"predictor": "embedded", "action_embedding": 6},
        {"predictor": "bilinear", "predictor_initialisation": "group", "predictor_held": 2},
    ],
    "seq-jepa": [
        {"target": "standardised"},
        {"anti_collapse": "sigreg", "directions": 16},
        {"anti_collapse": "sigreg", "directions": 16, "target": "standardised", "observed": 1},
        {"conditioning": "none", "initialisation": "copies"},
        {"conditioning": "aggregator", "action_statistics": "padded"},
        {"conditioning": "predictor", "action_statistics": "repeated", "observed": 1},
        {"action_dimensions": 0, "parameters": ["rotation", "crop", "hue", "blur"], "convention": "seq-jepa"},
        {"views": "saccades", "parameters": ["fixation"], "observed": 2},
    ],
    "ser": [
        {"base": {"name": "moco-v3", "projector": PROJECTOR, "predictor": [16]}, "share": 0.25},
        {"base": {"name": "dino", **SIZES["dino"], "projector": PROJECTOR}, "area": [1.0, 1.0], "aspect": [1.0, 1.0]},
    ],
    "sie": [
        {"predictor": "hypernetwork"},
        {"predictor": "magnitude-invariant", "parameters": ["rotation", "crop"]},
        {"predictor": "concatenation", "convention": "canonical"},
        {"parameters": ["rotation", "floor_hue", "crop"]},
        {"anti_collapse": "sigreg", "directions": 16},
        {"parameters": ["light_hue", "light_theta", "crop"], "predictor_initialisation": "group"},
    ],
    "soft-equivariance": [{"base": {"name": "sie", "projector": PROJECTOR}, "channels": "regular"}],
    "split": [
        {"invariant": {"name": "obow", **SIZES["obow"]}},  # views of its own
        {"invariant": {"name": "moco-v2", "queue": 12, "projector": PROJECTOR}, "equivariant": EQUIMOD},
        {"invariant": {"name": "supervised", "labels": True, "classes": 3}},
    ],
    "supervised": [
        {"parameters": []},
        {"labels": False, "classification": 0.0, "parameters": ["rotation", "crop", "grey"], "hidden": []},
    ],
    "swav": [{"local_crops": 0, "backbone": vit()}],
    "transitive": [
        {"criterion": "info_nce"},
        {"hard_from": 0.0, "cells": 2, "max_degree": 1},
        {"weights": {"intra": 1.0}},
    ],
    "vicreg-trajectory": [{"shape": "tangent", "normalised_centre": False, "compared": "two"}],
}
SLOW = ("interclr", "transitive")
"""The variants of these objectives take long."""


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(name, one, marks=[pytest.mark.slow] * (name in SLOW), id=f"{name}-{one}")
        for name, variants in VARIANTS.items()
        for one in variants
    ],
)
def test_variants_conform(name: str, settings: dict[str, Any]) -> None:
    check_objective(name, **{**small(name), **settings})


BELOW_ZERO = {"interclr": {"margin"}, "transitive": {"least_similarity"}}
"""Numbers that may be below zero."""
NOT_READ = {"sie": {"directions"}}
"""Settings that no default choice reads."""


@pytest.mark.parametrize("name", [*OBJECTIVES.members])
def test_numbers_below_zero_are_refused_by_name(name: str) -> None:
    spared = BELOW_ZERO.get(name, set()) | NOT_READ.get(name, set())
    for setting, annotation in ((key, one.type) for key, one in schema_of(OBJECTIVES.find(name)).settings.items()):
        if {int, float}.isdisjoint((annotation, *get_args(annotation))) or get_origin(annotation) in (list, dict):
            continue
        if setting in spared or setting.endswith("seed"):
            continue
        with pytest.raises(ValueError, match=setting):
            build(name, **{setting: -1})


FAULTY = """
import torch
from torch import nn
from ssl_inv.objectives.base import Objective, Term
from ssl_inv.nn.distributed import gather
from ssl_inv.views import Pair
class Sound(Objective):
    least_batch = 2
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
class OneSample(Sound):
    least_batch = 1
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
        ("OneSample", r"loss term 'term' is nan on a batch of 1 sample\(s\), which `least_batch` allows"),
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
