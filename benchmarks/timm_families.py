"""Which families of timm train and export here: the smallest network of each, one step, and its rebuilding.

python benchmarks/timm_families.py [FAMILY ...] > families.json
"""

import json
import sys
import time
import warnings
from typing import Any

import timm
import torch

from ssl_inv.engine.preflight import require_forward
from ssl_inv.nn.backbones import make_backbone
from ssl_inv.run.exports.export import Preprocessing
from ssl_inv.run.exports.rebuilding import require_rebuildable

_TRIED = 6
_SIDE = 128
"""Largest side of images, where a network takes any."""

_MOST = 100e6
"""Parameters of the largest network that is made."""


def parameters(name: str) -> float:
    """Parameters of a network, made without memory for them; infinite where it cannot be."""
    try:
        with torch.device("meta"):
            return sum(one.numel() for one in timm.create_model(name, num_classes=0).parameters())
    except Exception:
        return float("inf")


def smallest(family: str) -> tuple[str, float]:
    """The network of a family with the fewest parameters, among those whose names promise few."""
    small = (
        "test_",
        "zepto",
        "pico",
        "femto",
        "atto",
        "nano",
        "tiny",
        "mini",
        "_xxs",
        "_xs",
        "_s",
        "small",
        "b0",
        "18",
    )
    names = sorted(timm.list_models(module=family), key=lambda name: (not any(one in name for one in small), len(name)))
    return min(((name, parameters(name)) for name in names[:_TRIED]), key=lambda both: both[1])


def tried(name: str) -> dict[str, Any]:
    """One forward pass with its checks, one step at two images, and the rebuilding of an export."""
    config = timm.get_pretrained_cfg(name)
    size = config.input_size[-1] if config else 224
    if config and not config.fixed_input_size:
        size = min(size, _SIDE)
    try:
        backbone = make_backbone(name=name)
        require_forward(backbone, size)
        require_rebuildable(backbone, Preprocessing((0.5,) * 3, (0.5,) * 3, size))
    except ValueError as error:
        return {"refused": str(error)}
    backbone(torch.randn(2, 3, size, size)).square().mean().backward()
    finite = all(bool(one.grad.isfinite().all()) for one in backbone.parameters() if one.grad is not None)
    return {"size": size, "finite gradients": finite}


def main() -> None:
    """Print one JSON object a family."""
    warnings.simplefilter("ignore")
    for family in sys.argv[1:] or timm.list_modules():
        begun = time.perf_counter()
        if not timm.list_models(module=family):
            continue
        name, count = smallest(family)
        try:
            found = {"left out": f"{count / 1e6:.0f} M parameters"} if _MOST < count < float("inf") else tried(name)
        except Exception as error:
            found = {"traceback": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        row = {"family": family, "network": name, "parameters": count / 1e6, **found}
        print(json.dumps({**row, "seconds": round(time.perf_counter() - begun, 1)}), flush=True)


if __name__ == "__main__":
    main()
