"""Small settings of every loss of lightly, for the networks of the conformance suite."""

from typing import Any

from small import MEAN_OF_PATCHES, vit

from ssl_inv.nn.lightly_table import KINDS

HEAD = {"hidden_dim": 24, "output_dim": 16}
DINO_HEAD = {"hidden_dim": 24, "bottleneck_dim": 8, "output_dim": 10}
MASKED = {"head_settings": DINO_HEAD, "backbone": vit(), "temperature_warmup": 0.5}

SMALL: dict[str, dict[str, Any]] = {
    "CAPILoss": {
        "head_settings": {"num_clusters": 10},
        "predictor_settings": {"depth": 1, "num_heads": 1},
        "backbone": vit(**MEAN_OF_PATCHES, num_heads=1),
    },
    "DINOLoss": {"head_settings": DINO_HEAD, "local_crops": 2, "temperature_warmup": 0.5, "warmup_temperature": 0.02},
    "DirectCLRLoss": {"settings": {"loss_dim": 8}},
    "DetConBLoss": {"head_settings": HEAD, "predictor_settings": {"hidden_dim": 8}},
    "EMPSSLLoss": {"views": 3, "head_settings": HEAD},
    "IBOTPatchLoss": MASKED,
    "IBOTPlusPlusPatchLoss": {**MASKED, "settings": {"visible_loss_weight": 0.5}},
    "KoLeoLoss": {},
    "LeJEPALoss": {"head_settings": HEAD, "local_crops": 2, "settings": {"sigreg_num_vectors": 16}},
    "LeWMLoss": {
        "head_settings": HEAD,
        "actions": ["rotation", "light_theta"],
        "predictor_settings": {"hidden_dim": 12, "depth": 1, "num_heads": 2},
        "settings": {"sigreg_num_vectors": 16},
    },
    "MSNLoss": {"head_settings": HEAD, "prototypes": 10, "local_crops": 2, "backbone": vit()},
    "PMSNLoss": {"head_settings": HEAD, "prototypes": 10, "local_crops": 2, "masked": 0.0},
    "NegativeCosineSimilarity": {"head_settings": HEAD, "predictor_settings": {"hidden_dim": 8}},
    "PatchKernelAlignmentLoss": {"backbone": vit()},
    "SIGReg": {"head_settings": HEAD, "settings": {"num_vectors": 16}},
    "SwaVLoss": {"head_settings": HEAD, "prototypes": 10, "local_crops": 2, "queue": 8},
    "VICRegLLoss": {"head_settings": HEAD, "dense_head_settings": HEAD, "local_crops": 1},
    "VISRegLoss": {"head_settings": HEAD, "local_crops": 2, "settings": {"num_slices": 16}},
    "WMSELoss": {"head_settings": {"hidden_dim": 24, "output_dim": 2}, "settings": {"w_size": 4}},
}
"""What differs from a small head."""


def small(loss: str) -> dict[str, Any]:
    """The settings of `check_objective` for a loss."""
    return {"loss": loss, **SMALL.get(loss, {"head_settings": HEAD})}


EVERY = {name: small(name) for name in KINDS}
VARIANTS: dict[str, dict[str, Any]] = {
    "NTXentLoss with a bank": {**small("NTXentLoss"), "settings": {"memory_bank_size": 12}},
    "DirectCLRLoss with a bank": {
        **small("DirectCLRLoss"),
        "settings": {"loss_dim": 8, "memory_bank_size": [12, 8]},
    },
    "NegativeCosineSimilarity with a teacher": {**small("NegativeCosineSimilarity"), "momentum": 0.9},
    "DINOLoss with frozen prototypes": {**small("DINOLoss"), "frozen_prototypes": 0.2, "local_crops": 0},
    "LeWMLoss normalised": {**small("LeWMLoss"), "settings": {"sigreg_num_vectors": 16, "normalize": True}},
    "MSNLoss without masks": {**small("MSNLoss"), "masked": 0.0, "views": 1},
    "NTXentLoss with the head of VICReg": {**small("NTXentLoss"), "head": "VICRegProjectionHead"},
    "VICRegLLoss on patches": {**small("VICRegLLoss"), "local_crops": 0, "backbone": vit()},
    "DetConSLoss on patches": {**small("DetConSLoss"), "regions": 3, "backbone": vit()},
    "PatchKernelAlignmentLoss of 12 tokens": {
        **small("PatchKernelAlignmentLoss"),
        "settings": {"max_tokens": 12},
    },
    "VICRegLoss on features": {"loss": "VICRegLoss", "head": "none"},
}
"""Further ways of calling some losses."""
