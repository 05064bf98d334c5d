"""The columns that an export names are the parts that the evaluation probes."""

import pytest
import torch
from small import build

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.nn.modes import frozen
from ssl_inv.run.exports.parts import parts_of


@pytest.mark.parametrize("name", sorted(OBJECTIVES.members))
def test_the_columns_are_what_is_probed(name: str) -> None:
    backbone, objective = build(name)
    backbone.train()
    parts = parts_of(objective, backbone, 12)
    assert backbone.training
    with frozen(objective), frozen(backbone), torch.no_grad():
        probed = objective.representations(backbone)(torch.randn(3, 3, 12, 12))
        features = backbone(torch.zeros(1, 3, 12, 12))
    assert set(parts) == set(probed) - {"all"}
    for part, (first, end) in parts.items():
        assert torch.equal(probed["all"][:, first:end], probed[part])
        assert end <= features.shape[1]


def test_a_part_that_is_no_run_of_columns_has_none() -> None:
    backbone, objective = build("simclr")

    def representations(given):
        def encode(pixels):
            features = given(pixels)
            return {"all": features, "every other": features[:, ::2], "head": features.tanh(), "end": features[:, -3:]}

        return encode

    objective.representations = representations
    assert parts_of(objective, backbone, 16) == {"end": (backbone.features - 3, backbone.features)}
