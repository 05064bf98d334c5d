"""A batch that is too small for an objective is refused by the batch size; every other one trains."""

from typing import Any

import pytest
import torch
from small import build, small
from torch import nn

from ssl_inv.augment.policies import simclr
from ssl_inv.catalogue import OBJECTIVES, SettingError
from ssl_inv.engine.preflight import require_batch
from ssl_inv.testing.cases import GROUPS, Case, before_epoch, losses_of, parts_of, total_of

SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {} for name in OBJECTIVES.members},
    # A last layer alone has no batch normalisation, which would refuse single samples for other reasons.
    **{
        f"{name} plain": {"projector": [16]}
        for name in OBJECTIVES.members
        if "projector" in small(name) and name not in ("ebc", "odc")
    },
    "context-ssl set": {"positions": "none"},
    "moco-v2 transformed": {"extrapolation": 2.0, "interpolation": 1.6},
    "soft-equivariance two": {"symmetries": ["turns", "flips"]},
    "augself unbounded": {"bounded": False, "symmetric": False, "projector": [16]},
    "adaptive-multi-head all": {"negatives": "all", "projector": [16]},
    "transitive info-nce": {"criterion": "info_nce", "projector": [16]},
}


def without_normalised_heads(network: nn.Module) -> None:
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm1d):
            network.add_module(name, nn.Identity())
        else:
            without_normalised_heads(child)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("case", SETTINGS)
def test_a_small_batch_trains_or_is_refused(case, normalised):
    name = case.partition(" ")[0]
    settings = {**small(name), **SETTINGS[case]}
    described = Case(name, settings, GROUPS, settings.pop("backbone", None))
    for batch in (1, 2, 3):
        networks = described.build()
        backbone, objective = parts_of(networks)
        if not normalised:
            without_normalised_heads(objective)
        try:
            require_batch(batch, objective, simclr(), processes=1)
            refused = None
        except SettingError as error:
            refused = str(error)
        if refused is not None:
            assert refused.startswith(f"batch_size: {batch} is too small")
            continue
        before_epoch(networks)
        moved = []
        for step in (1, 2):
            networks.zero_grad()
            losses = losses_of(networks, described.views(step, batch=batch), seed=step)
            total = total_of(losses)
            assert total.isfinite(), f"{dict(losses)} at {batch}"
            total.backward()
            gradients = [one.grad for one in backbone.parameters() if one.grad is not None]
            assert all(bool(one.isfinite().all()) for one in gradients)
            moved += [bool(one.any()) for one in gradients]
            with torch.no_grad():
                objective.after_step(backbone, step, 10)
        assert any(moved), f"the backbone learns nothing at {batch}"


def test_the_least_batch_of_objectives_around_others_is_the_largest():
    assert build("split")[1].least_batch == 2
    assert build("soft-equivariance", symmetries=["turns", "flips", "hues"])[1].least_batch == 3
    assert build("interclr")[1].least_batch == 1
    assert build("context-ssl")[1].least_batch == 3
    assert build("context-ssl", positions="none")[1].least_batch == 2
