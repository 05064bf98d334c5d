"""Heads that pool by themselves read what the mean of all cells has lost, and heads trained together train as alone."""

from dataclasses import replace

import pytest
import torch
from imaged import encoded_by
from torch import Tensor

from ssl_inv.evaluation.protocols.pooling_heads import HEADS, AttentiveHead, MomentHead, initialised, trained_heads
from ssl_inv.evaluation.protocols.token_heads import TokenHeads
from ssl_inv.evaluation.results import Bootstrap

PROTOCOL = TokenHeads(
    learning_rates=(3e-3, 3e-2), weight_decays=(1e-3,), steps=60, batch=64, width=32, bootstrap=Bootstrap(10)
)


def cells(kind: str, objects: Tensor) -> Tensor:
    """Feature maps `(M, 8, 4, 4)` of 3 classes, whose class lies in one marked cell, in how channels vary together, or
    in the mean.
    """
    generator = torch.Generator().manual_seed(0)
    maps, classes = torch.randn(len(objects), 8, 4, 4, generator=generator), objects % 3
    if kind == "mean":
        maps[torch.arange(len(objects)), classes] += 1
    elif kind == "moments":
        # Channel 0 goes with one of three others.
        maps[torch.arange(len(objects)), 1 + classes] = maps[:, 0]
    else:
        place = torch.randint(0, 16, (len(objects),), generator=generator)
        flat, rows = maps.view(len(objects), 8, 16), torch.arange(len(objects))
        # Every cell claims some class; the marked one is right, and the others as often wrong as right.
        flat[:, :3] = 3 * torch.nn.functional.one_hot(
            torch.randint(0, 3, (len(objects), 16), generator=generator), 3
        ).movedim(-1, 1)
        flat[rows, :3, place] = 3 * torch.nn.functional.one_hot(classes, 3).float()
        flat[rows, 3, place] = 6.0
    return maps


def measured(kind: str) -> dict[str, object]:
    count = 240
    objects = torch.arange(count) // 2
    maps = cells(kind, objects)
    # An image is the number of its map.
    pixels = torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 3, 4, 4)

    def encode(some: Tensor) -> dict[str, Tensor]:
        return {"all": maps[some[:, 0, 0, 0].long()].mean(dim=(2, 3))}

    encoded = encoded_by(encode, lambda some: maps[some[:, 0, 0, 0].long()], pixels)
    halves = (encoded.train.select(rows) for rows in torch.arange(count).split(2 * count // 3))
    encoded = replace(encoded, train=next(halves), validation=next(halves))
    return {row.name.split("/")[1]: row.value for row in PROTOCOL.run(encoded)}


@pytest.mark.parametrize(
    ("kind", "read", "not_read"),
    [("marked", ["attentive"], ["mean"]), ("moments", ["moment"], ["mean"]), ("mean", list(HEADS), [])],
)
def test_each_head_reads_what_it_is_made_for(kind, read, not_read):
    found = measured(kind)
    assert all(found[name] > 0.85 for name in read), found
    assert all(found[name] < 0.65 for name in not_read), found


def test_maps_of_one_cell_have_nothing_to_pool():
    encoded = encoded_by(
        lambda one: {"all": one.mean(dim=(2, 3))},
        lambda one: one.mean(dim=(2, 3), keepdim=True),
        torch.rand(8, 3, 4, 4),
    )
    (row,) = PROTOCOL.run(encoded)
    assert (row.value, row.detail) == (None, "the feature map has one cell: there is nothing to pool")


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_are_trained_together_are_those_trained_alone(name):
    tokens, labels = torch.randn(20, 5, 6, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3
    head, grid = initialised(HEADS[name](6, 3, 28), 0), [(1e-2, 0.1), (1e-3, 0.0)]
    together = trained_heads(head, tokens, labels, grid, 4, 8, 0)
    for one, settings in zip(together, grid, strict=True):
        (alone,) = trained_heads(head, tokens, labels, [settings], 4, 8, 0)
        for parameter, value in alone.items():
            torch.testing.assert_close(one[parameter], value, atol=1e-5, rtol=1e-4)
    begun = dict(head.named_parameters())
    assert any(not torch.equal(together[0][parameter], begun[parameter]) for parameter in begun)


def test_a_query_of_nothing_gives_the_mean_of_the_values():
    head = initialised(AttentiveHead(128, 3, 0), 0)
    tokens = torch.randn(2, 7, 128, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        head.query.zero_()
        torch.testing.assert_close(head(tokens), head.logits(head.values(tokens).mean(dim=1)))
    assert head.heads == 2


def test_widths_that_cannot_be_split_are_refused():
    with pytest.raises(ValueError, match="multiple of 4 and at least 28, got 30"):
        MomentHead(8, 2, 30)
