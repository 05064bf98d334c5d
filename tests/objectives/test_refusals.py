"""Settings, backbones and bases that an objective cannot use are refused in one line that names them.

Numbers below zero are refused in `test_objectives.py`.
"""

import inspect
import re
from typing import Any

import pytest
from small import MEAN_OF_PATCHES, OBOW_NETWORK, VICREG, build, small, vit

from ssl_inv.catalogue import OBJECTIVES, SettingError
from ssl_inv.transforms import Code, Flag, Rotation

OBOW = {"name": "obow", "levels": 1, "border": 0, "window": 2}
RESNET, MOBILENET = {"name": "test_resnet"}, {"name": "mobilenetv3_small_050"}
UNKNOWN = "no view of this data records 'rotatoin'; did you mean 'rotation'"
ENVIRONMENTS = "environments: must be one or more lists of parameters"
CAPSULES = [
    ({"capsules": 1}, "capsules: must be at least 2, got 1"),
    ({"map_side": 0}, "map_side: must be at least 1, got 0"),
]
REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "adaptive-multi-head": [
        ({"temperatures": [0.0, 1.0]}, "temperatures: must be the lowest, above 0, and the highest"),
        ({"heads": 0}, "heads: must be at least 1, got 0"),
    ],
    "augself": [
        ({"parameters": ["flip", "flip"]}, "parameters: names 'flip' twice, and once is enough: flip, flip"),
        ({"hidden": [0]}, "hidden: must have widths of at least 1, got [0]"),
        ({"parameters": ["rotatoin"], "weights": {"rotation": 0.5}}, f"parameters: {UNKNOWN}"),
        (
            {"parameters": ["rotation"], "weights": {"rotatoin": 0.5}},
            "weights: 'rotatoin' is not among parameters; did",
        ),
        ({"parameters": ["rotatoin"], "quarter_turns": ["rotation"]}, f"parameters: {UNKNOWN}"),
    ],
    "anti-invariance": [
        ({"parameters": ["rotatoin"], "weights": {"rotation": 0.5}}, f"parameters: {UNKNOWN}"),
        (
            {"parameters": [], "weights": {"rotation": 0.5}},
            "parameters: is empty; inverse: 0 without weights needs none",
        ),
        (
            {"parameters": [], "inverse": 0.0, "weights": {"rotation": 0.5}},
            "parameters: is empty; inverse: 0 without weights needs none",
        ),
        (
            {"parameters": ["rotation"], "weights": {"rotatoin": 0.5}},
            "weights: 'rotatoin' is not among parameters; did",
        ),
    ],
    "barlow-twins": [
        ({"projector": []}, "projector: must name at least one width"),
        ({"projector": [8, -1]}, "projector: must have widths of at least 1, got [8, -1]"),
    ],
    "byol": [({"momentum": 1.5}, "momentum: must lie between 0 and 1, got 1.5")],
    "capi": [
        ({"clusters": 1}, "clusters: must be at least 2, got 1"),
        ({"hidden_share": 1.0}, "hidden_share: must be above 0 and below 1, got 1.0"),
        ({"predicted_share": 0.0}, "predicted_share: must be above 0 and up to 1, got 0.0"),
        ({"momentum_warmup": 1.0}, "momentum_warmup: must be a share of all steps from 0 to below 1, got 1.0"),
        ({"predictor_heads": 2}, "predictor_heads: 2 heads do not share 12 dimensions in multiples of 4"),
        ({"backbone": RESNET}, "name: capi drops patches, which test_resnet cannot"),
        ({"backbone": vit()}, "are not their mean; give the model {class_token: false, global"),
    ],
    "capsie": CAPSULES,
    "conditional-byol": [({"action_embedding": 0}, "action_embedding: must be at least 1, got 0")],
    "context-prediction": [
        ({"neighbours": 9}, "neighbours: must lie between 1 and 8, got 9"),
        (
            {"patch_size": 96, "patch_gap": 48, "patch_jitter": 43},
            "patch_jitter: must be below 42.2 with patches 144 pixels apart, got 43",
        ),
        ({"patch_scale": [0.5]}, "patch_scale: must be the smallest and the largest share"),
    ],
    "context-ssl": [
        ({"environments": []}, ENVIRONMENTS),
        ({"environments": [["rotation"], []]}, ENVIRONMENTS),
        ({"environments": [["rotatoin"]]}, f"environments: {UNKNOWN}"),
        ({"environments": [["rotation"], ["flip", "flip"]]}, "environments: names 'flip' twice"),
        ({"heads": 5}, "heads: 5, which does not divide width, 12"),
        ({"context": 0}, "context: must be at least 1, got 0"),
        ({"masked": 1.5}, "masked: must lie between 0 and 1, got 1.5"),
        ({"layers": 0}, "layers: must be at least 1, got 0"),
    ],
    "deepcluster-v2": [
        ({"prototypes": [1]}, "prototypes: must name at least one set of at least 2, got [1]"),
        ({"prototypes": [3, 61]}, "prototypes: must be at most the 60 objects of the training data, got [3, 61]"),
    ],
    "dino": [
        ({"frozen_prototypes": 1.0}, "frozen_prototypes: must be a share"),
        ({"local_scale": [0.1]}, "local_scale: must be the smallest and the largest share"),
        ({"warmup_temperature": 0.0}, "warmup_temperature: must be above 0"),
    ],
    "ebc": [
        ({"alike": []}, "alike: is empty, and the augmentation has no operation `shared`; add it"),
        ({"alike": ["rotatoin"]}, f"alike: {UNKNOWN}"),
        ({"invariant": 3}, "invariant: must be below the 3 dimensions of embeddings, got 3"),
        ({"projector": [16]}, "context: 3, fewer than the 16 dimensions that move, which least squares need"),
    ],
    "ec-reconstruction": [
        ({"parameters": []}, "parameters: is empty; views of this data record rotation"),
        ({"base": {"name": "vicreg"}, "backbone": MOBILENET}, "from 288 channels to 1024 features"),
        (
            {"base": {"name": "i-jepa"}, "backbone": vit(**MEAN_OF_PATCHES)},
            "base: i-jepa predicts whole tokens and cannot work on some of their channels only",
        ),
    ],
    "equicaps": CAPSULES,
    "equimod": [({"action_embedding": 0}, "action_embedding: must be at least 1, got 0")],
    "essl": [
        *(({"turned_scale": one}, "turned_scale: must be the smallest and") for one in ([0.5], [0.5, 0.1], [0.5, 1.5])),
        ({"turned_size": 0}, "turned_size: must be at least 1, got 0"),
    ],
    "fino": [
        ({"attract": [], "repel": []}, "attract: and repel are empty; name at least one column"),
        ({"repel": ["rotation"]}, "repel: 'rotation' is in attract too; a column attracts or repels"),
        ({"attract": ["rotation", "rotation"]}, "attract: names 'rotation' twice"),
        ({"attract": ["rotatoin"]}, f"attract: {UNKNOWN}"),
        ({"repel": ["rotatoin"]}, f"repel: {UNKNOWN}"),
        ({"warmup": 1.0}, "warmup: must be a share of all steps from 0 to below 1, got 1.0"),
        ({"ranges": {"light_theta": [0, 1]}}, "ranges: 'light_theta' is no column of single numbers that guides"),
        ({"ranges": {"flip": [0, 1]}}, "ranges: 'flip' is no column of single numbers that guides"),
        ({"ranges": {"floor_hue": [1, 0]}}, "ranges: of 'floor_hue' must be a smallest and a largest number"),
        ({"base": {"name": "vicrig"}}, "base.name"),
    ],
    "gram-anchoring": [({"start": one}, "start: must be a share of all steps from 0 to") for one in (1.0, -0.1)],
    "i-jepa": [
        ({"blocks": 0}, "blocks: must be at least 1"),
        ({"block_scale": [0.2, 0.1]}, "block_scale: must be a smallest and a largest share"),
        ({"context_scale": [0.5, 1.5]}, "context_scale: must be a smallest and a largest share"),
        ({"block_aspect": [0.0, 1.0]}, "block_aspect: must be a smallest and a largest height over width"),
        ({"momentum": 1.5}, "momentum: must lie between 0 and 1"),
        ({"predictor_width": 18}, "predictor_width: must be a multiple of 4 and of the 2 attention heads, got 18"),
        ({"predictor_depth": 0}, "predictor_depth: must be at least 1"),
        ({"backbone": RESNET}, "name: i-jepa drops patches, which test_resnet cannot; choose one of timm's vit models"),
        ({"backbone": vit()}, "are not their mean; give the model {class_token: false, global"),
        ({"backbone": vit(**{**MEAN_OF_PATCHES, "fc_norm": True})}, "patch16_224 are not their mean"),
        ({"backbone": vit(**MEAN_OF_PATCHES, patch_drop_rate=0.5)}, "leave patch_drop_rate at 0"),
    ],
    "ibot": [
        ({"mask_share": [0.5, 0.1]}, "mask_share: must be a smallest and a largest share"),
        ({"backbone": RESNET}, "test_resnet has none; choose a vision transformer"),
    ],
    "interclr": [
        ({"clusters": 70}, "clusters: must lie between 2 and the 60 objects"),
        ({"smallest_cluster": 16}, "smallest_cluster: 16 times 4 clusters is more than the 60 objects"),
        ({"pool": 61}, "pool: must be at most the 60 training objects, got 61"),
        ({"negative_count": 10}, "negative_count: 10, but there are 9 objects to draw from"),
        ({"negatives": "random", "negative_count": 61}, "negative_count: 61, but there are 60 objects"),
        ({"negatives": "none", "share_neck": False}, "so share_neck must be true"),
        ({"weight": 2.0}, "weight: must lie between 0 and 1"),
        ({"base": {"name": "rotnet"}}, "'rotnet' gives no queries and keys"),
        ({"base": {"name": "equicaps"}}, "'equicaps' gives no queries and keys"),
        ({"base": {"name": "transitive", "weights": {"intra": 1}}}, "'transitive' gives no queries and keys"),
        ({"base": {"name": "swav"}}, "'swav' has views of other images or crops of several sizes"),
        ({"cluster_points": 0}, "cluster_points: must be at least 1, got 0"),
        ({"boundary": "angle", "margin": 4.0}, "margin: must be an angle within pi of 0, got 4.0"),
    ],
    "iwm": [
        ({"parameters": []}, "parameters: is empty; name what views differ in, or choose i-jepa"),
        ({"judged_side": 0}, "judged_side: must be at least 1"),
        ({"momentum": -0.1}, "momentum: must lie between 0 and 1"),
        ({"backbone": RESNET}, "iwm drops patches, which test_resnet cannot"),
        ({"backbone": vit(**MEAN_OF_PATCHES, dynamic_img_size=True)}, "give img_size instead of dynamic_img_size"),
    ],
    "lejepa": [
        ({"global_views": 1}, "global_views and local_views must make two or more"),
        ({"weight": 1.0}, "weight: must be above 0 and below 1"),
        ({"directions": 0}, "directions: must be at least 1"),
        ({"nodes": 1}, "nodes: must be at least 2"),
        ({"local_views": 1, "local_scale": [0.3]}, "local_scale: must be the smallest and the largest share"),
    ],
    "lewm": [
        ({"observed": 0}, "observed: must be at least 1, got 0"),
        ({"parameters": ["rotatoin"]}, f"parameters: {UNKNOWN}"),
        ({"parameters": []}, "parameters: is empty"),
        ({"dropout": 1.0}, "dropout: must be at least 0 and below 1, got 1.0"),
        ({"projector": []}, "projector: must name at least one width"),
        ({"inverse_weight": 2.0}, "inverse_weight: 2.0, but anti_collapse is 'sigreg'"),
        ({"anti_collapse": "inverse"}, "directions: 16, but anti_collapse is 'inverse'"),
    ],
    "moco-v2": [
        ({"momentum": 1.5}, "momentum: must lie between 0 and 1, got 1.5"),
        ({"queue": 0}, "queue: must be at least 1, got 0"),
    ],
    "moco-v3": [({"temperature": 0.0}, "temperature: must be above 0")],
    "msn": [
        ({"random_views": 0, "focal_views": 0}, "random_views and focal_views must make one or more"),
        ({"patch_drop": 1.0}, "patch_drop: must be a share of the patches"),
        ({"focal_scale": [0.1]}, "focal_scale: must be the smallest and the largest share"),
        ({"backbone": RESNET}, "test_resnet has none; choose a vision transformer"),
        ({"backbone": vit(patch_drop_rate=0.5)}, "leave patch_drop_rate at 0"),
    ],
    "nnclr": [({"temperature": 0.0}, "temperature: must be above 0, got 0.0")],
    "obow": [
        ({"levels": 0}, "levels: must be at least 1"),
        ({"levels": 9, "backbone": OBOW_NETWORK}, "levels: 9, but resnet18_stem3x3s1 gives the feature maps of 5"),
        ({"kappa": 0.0}, "kappa: must be above 0"),
        ({"momentum": 1.5}, "momentum: must lie between 0 and 1"),
        ({"crops": 0, "patches": 0}, "crops and patches must make at least one view"),
        ({"patches": 5, "patch_grid": 2}, "patches: 5, but a grid of 2 x 2 has 4; make patch_grid larger"),
        ({"crop_scale": [0.0, 0.5]}, "crop_scale: must be the smallest and the largest share"),
        ({"crop_scale": [0.5]}, "crop_scale: must be the smallest and the largest share"),
        ({"vocabulary": 1}, "vocabulary: must be at least 2"),
        ({"inverse_delta": 0.0}, "inverse_delta: must be above 0"),
        ({"distance_momentum": 1.0}, "distance_momentum: must be at least 0 and below 1"),
        ({"first_distance": 0.0}, "first_distance: must be above 0"),
        ({"window": 0}, "window: must be at least 1"),
        ({"backbone": vit()}, "levels: 1, but vit_tiny_patch16_224 gives tokens"),
    ],
    "odc": [
        ({"cluster_iterations": 0}, "cluster_iterations: must be at least 1, got 0"),
        ({"reweighting": -0.5}, "reweighting: must be at least 0, got -0.5"),
    ],
    "sd-jepa": [
        ({"observed": 1}, "observed: must be at least 2, got 1"),
        ({"window": 2}, "window: must lie between 1 and 1, the views after the middle one of 4, got 2"),
        ({"progression": 16}, "progression: must be at least 1 and below 16, the width of an embedding, got 16"),
        ({"sigreg_weight": 0.0}, "sigreg_weight: must be above 0"),
    ],
    "seq-jepa": [
        ({"observed": 0}, "observed: must be at least 1, got 0"),
        ({"views": "saccades", "radius": -1}, "radius: must be at least 0, got -1"),
        ({"views": "saccades", "patch": 1}, "patch: must be at least 2, got 1"),
        ({"heads": 5}, "heads: 5, which does not divide the 12 + 4 dimensions"),
        ({"conditioning": "aggregator", "observed": 1}, "observed is 1: no action"),
        ({"conditioning": "none", "parameters": ["rotatoin"]}, f"parameters: {UNKNOWN}"),
        ({"patch": 16}, "patch: 16, but views is 'sequence'; only saccades have it"),
        ({"momentum": 1.5}, "momentum: must lie between 0 and 1"),
        ({"momentum": 0.9, "anti_collapse": "sigreg"}, "momentum: 0.9, but anti_collapse is 'sigreg'; only a teacher"),
        ({"directions": 64}, "directions: 64, but anti_collapse is 'teacher'; only SIGReg has it"),
        ({"anti_collapse": "sigreg", "sigreg_weight": 0}, "sigreg_weight: must be above 0, got 0"),
    ],
    "sie": [
        ({"equivariant_share": 0}, "equivariant_share: must be above 0 and at most 1, got 0"),
        ({"equivariant_share": 0.9999}, "leaves a part empty"),
        ({"equivariant_share": 0.01}, "leaves a part empty"),
        ({"equivariant_share": 0.5, "projector": [16, 1]}, "leaves a part empty"),
    ],
    "ser": [
        ({"layer": 2}, "layer: 2, but vit_tiny_patch16_224 has 1"),
        ({"share": 0.0}, "share: must be a share of the samples, above 0 and at most 1, got 0.0"),
        *(
            ({"area": ends}, f"area: must be the smallest and the largest, from 0.1 to 4, got {ends}")
            for ends in ([1.3, 0.7], [100, 200], [0.001, 0.001], [0.5, 4.5], [1.0], [0.0, 1.0])
        ),
        *(
            ({"aspect": ends}, f"aspect: must be the smallest and the largest, from 0.25 to 4, got {ends}")
            for ends in ([1.5, 0.5], [100, 1000], [0.1, 1.0])
        ),
        ({"temperature": 0.0}, "temperature: must be above 0"),
        (
            {"backbone": vit()},
            "area: makes views of several sizes, and vit_tiny_patch16_224 takes one; give the network",
        ),
        ({"base": {"name": "vicreg", "projector": []}}, "base.projector: must name"),
    ],
    "simsiam": [({"predictor": 0}, "predictor: must be at least 1")],
    "soft-equivariance": [
        ({"symmetries": ["turn"]}, "symmetries: none is called 'turn'; did you mean 'turns'"),
        ({"symmetries": []}, "symmetries: must name one or more, each once"),
        ({"warmup": 0.5}, "0 <= warmup < adapt_at <= 1, got 0.5 and 0.25"),
        ({"strength": 0.0}, "strength: must be above 0, got 0.0"),
        ({"base": {"name": "vicreg", "projector": []}}, "base.projector: must name"),
        ({"base": {"name": "vicreg"}, "backbone": MOBILENET}, "from 288 channels to 1024 features"),
    ],
    "split": [
        ({"equivariant_share": 1.0}, "equivariant_share: with 1.0 of 12, one of the two parts would have no features"),
        ({"equivariant": {"name": "sie", "parameters": ["rotatoin"]}}, f"equivariant.parameters: {UNKNOWN}"),
        ({"invariant": {**VICREG, "projector": []}}, "invariant.projector: "),
        ({"invariant": {**OBOW, "vocabulary": 0}}, "invariant.vocabulary"),
        (
            {"invariant": {"name": "transitive", "projector": [16, 8]}},
            "with a Linked plan, the other plans must use one view of each image",
        ),
        ({"backbone": MOBILENET}, "from 288 channels to 1024 features"),
    ],
    "stl": [
        ({"alike": []}, "alike: is empty, and the augmentation has no operation `shared`; add it"),
        ({"alike": ["rotatoin"]}, f"alike: {UNKNOWN}"),
        ({"alike": ["rotation", "rotation"]}, "alike: names 'rotation' twice"),
        ({"transformation_widths": []}, "transformation_widths: must name at least one width"),
        ({"temperature": 0.0}, "temperature: must be above 0"),
    ],
    "swav": [
        ({"prototypes": 1}, "prototypes: must be at least 2, got 1"),
        ({"queue_start": 1.0}, "queue_start: must be a share of all steps"),
        ({"sinkhorn_temperature": 0.0}, "sinkhorn_temperature: must be above 0, got 0.0"),
    ],
    "transitive": [
        ({"weights": {"inta": 1}}, "weights: no kind of pairs is called 'inta'; did you mean 'intra'?"),
        ({"weights": {"intra": 0}}, "weights: must be at least 0, and one above 0, got {'intra': 0}"),
        ({"negatives": 1}, "negatives: must be at least 2, got 1"),
        ({"margin": 0.0}, "margin: must be above 0, got 0.0"),
        ({"least_similarity": 2.0}, "least_similarity: must lie between -1 and 1, got 2.0"),
        ({"cells": 61}, "cells: 61, but the training data has 60 images"),
        ({"teacher_architecture": "resnet18"}, "teacher_architecture: names the network of the weights at"),
    ],
}


@pytest.mark.parametrize(
    ("name", "settings", "message"), [(name, *row) for name, rows in REFUSED.items() for row in rows], ids=str
)
def test_what_an_objective_cannot_use_is_named(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        build(name, **settings)
    assert "\n" not in str(caught.value)


SETTINGS = {name: inspect.signature(OBJECTIVES.find(name).load()).parameters for name in OBJECTIVES.members}
TOLD = [name for name, settings in SETTINGS.items() if "parameters" in settings and "base" not in settings]


WRONG = [
    (["order"], "^parameters: 'order' has no numeric value$"),
    (["rotatoin"], rf"^parameters: {UNKNOWN}\?$"),
    (["rotation", "flip", "rotation"], "^parameters: names 'rotation' twice"),
    ([], "^parameters: is empty"),
]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    # Without parameters, vicreg-trajectory takes views in their given order, and supervised classes alone.
    [(name, *row) for name in TOLD for row in WRONG if row[0] or name not in ("vicreg-trajectory", "supervised")],
    ids=str,
)
def test_an_objective_is_told_something_that_is_recorded_and_measures(name, parameters, message):
    groups = {"rotation": Rotation(), "order": Code(), "flip": Flag()}
    with pytest.raises(ValueError, match=message):
        OBJECTIVES.find(name).load()(8, groups, parameters=parameters)


PATCHES = vit(**MEAN_OF_PATCHES)
ONE_PATCH = vit(**{**MEAN_OF_PATCHES, "patch_size": 12})
CAPI = {"name": "capi", **{key: one for key, one in small("capi").items() if key != "backbone"}}
TOO_SMALL: list[tuple[str, dict[str, Any], str]] = [
    ("conv-jepa", {"hidden_share": 1, "multi_block": 0.9}, "hidden_share: 1 hides 16 of 4 x 4 places; some must"),
    ("conv-jepa", {"hidden_share": 0, "multi_block": 0.9}, "hidden_share: 0 hides 0 of 4 x 4 places; some must"),
    ("conv-jepa", {"blocks": 40, "multi_block": 0.1}, "blocks: 40 of them can hide all 4 x 4 patches"),
    (
        "conv-jepa",
        {"block_scale": [1.0, 1.0], "block_aspect": [1.0, 1.0]},
        "block_scale: [1.0, 1.0] makes blocks that hide all 4 x 4",
    ),
    ("conv-jepa", {"size": 4}, "backbone.stem: the last map of these images has one place"),
    ("capi", {"backbone": ONE_PATCH}, "hidden_share: 0.65 of 1 x 1 patches leaves 1 to see; give larger images or"),
    ("i-jepa", {"backbone": ONE_PATCH}, "block_scale: [0.15, 0.2] makes blocks that hide all 1 x 1 patches"),
    ("equicaps", {"map_side": 3}, "map_side: 3, but the backbone's feature maps of these images have 4 x"),
    ("capsie", {"map_side": 3}, "map_side: 3, but the backbone's feature maps of these images have 4 x"),
    ("obow", {"border": 1, "window": 3, "size": 16}, "border: border 1 and window 3 need feature maps of at least 5"),
    ("soft-equivariance", {"size": 4}, "symmetries: a feature map of one cell has no shifts"),
    ("soft-equivariance", {"size": 30}, "symmetries: shifts: images of 30 pixels do not divide into the 8 cells"),
    ("ser", {"size": 2}, "layer: 1, whose cells of 3 pixels are larger than views of 2"),
    (
        "gram-anchoring",
        {"base": VICREG, "backbone": OBOW_NETWORK, "size": 8},
        "backbone.stem: the last map of these images",
    ),
    (
        "gram-anchoring",
        {"base": VICREG, "backbone": vit(patch_size=12)},
        "backbone.arguments: the last map of these images has one place, and the term compares several; take larger",
    ),
    ("gram-anchoring", {"base": CAPI, "backbone": ONE_PATCH}, "base.hidden_share: 0.65 of 1 x 1 patches leaves 1"),
]


@pytest.mark.parametrize(("name", "settings", "message"), TOO_SMALL, ids=str)
def test_what_any_step_would_refuse_is_refused_before_the_first(name, settings, message):
    """Masks of two kinds are drawn at random, so the kind that cannot be made may first come late."""
    given = {key: one for key, one in settings.items() if key != "size"}
    backbone, objective = build(name, **given)
    size = settings.get("size", 12 if "img_size" in backbone.arguments else 16)
    with pytest.raises(SettingError, match="^" + re.escape(message)):
        objective.require_size(backbone, size)


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES.members) - {"lightly", "transitive"}))
def test_views_that_fit_are_not_refused(name):
    backbone, objective = build(name)
    size = 12 if "img_size" in backbone.arguments or name in ("capsie", "equicaps") else 32
    objective.require_size(backbone, size)
