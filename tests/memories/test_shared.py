"""Galleries, graphs and clusters are the same, to the bit, for any number of processes, however uneven their shares."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_data import plain
from torch import Tensor, nn

from ssl_inv.data.source import Images, Indices, Source, Subset
from ssl_inv.memories.bank import Bank
from ssl_inv.memories.clusters import Clusters
from ssl_inv.memories.gallery import Gallery
from ssl_inv.memories.graph import NeighbourGraph
from ssl_inv.memories.search import EdgeRules
from ssl_inv.nn.distributed import rank
from ssl_inv.testing.processes import on_processes

COUNTS = np.array([1, 3, 2] * 7 + [1])  # 43 images of 22 objects


class Noise(Source):
    """Images of noise; some cannot be read."""

    view_counts, groups, labels, image_size = COUNTS, {}, None, 8

    def load(self, objects: Indices, views: Indices) -> Images:
        made = []
        for item, view in zip(objects.tolist(), views.tolist(), strict=True):
            pixels = np.random.default_rng((item, view)).integers(0, 256, (3, 8, 8), dtype=np.uint8)
            made.append(torch.from_numpy(pixels))
        return replace(plain(torch.stack(made)), readable=torch.from_numpy(objects % 9 != 4))


def made() -> dict[str, Tensor]:
    """Everything that is made from a gallery, on this process."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 16))
    found = {}
    for size in (3, 16, 256):
        gallery = Gallery(Noise(), nn.Identity(), "cpu", batch_size=size)
        pieces = [*gallery.features(encoder, every_view=True)]
        columns = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
        found |= {f"{name} of {size}": column for name, column in zip(pieces[0]._fields, columns, strict=True)}
    # On four processes an equal share is two images, and batches of two are rounded otherwise than of five.
    few = Gallery(Subset(Noise(), np.arange(5)), nn.Identity(), "cpu")
    found["few"] = torch.cat([piece.features for piece in few.features(encoder)])
    graph, bank, clusters = NeighbourGraph(22, 43, 3), Bank(22, 16), Clusters(22, 4, 16)
    graph.lay_out(COUNTS)
    graph.build(gallery, encoder, EdgeRules(3, cells=2))
    bank.fill(gallery, encoder)
    clusters.fit(bank)
    return {**found, **graph.state_dict(), **bank.state_dict(), **clusters.state_dict(), "rank": torch.tensor(rank())}


@pytest.mark.parametrize("processes", [2, 4])
def test_what_is_made_of_all_images_is_that_of_one_process(processes: int) -> None:
    alone = made()
    objects, views = np.repeat(np.arange(22), COUNTS), np.concatenate([np.arange(count) for count in COUNTS])
    for size in (3, 16, 256):
        assert alone[f"objects of {size}"].tolist() == objects.tolist(), "no image twice, and none never"
        assert alone[f"views of {size}"].tolist() == views.tolist()
        assert alone[f"readable of {size}"].tolist() == (objects % 9 != 4).tolist()
    assert bool((alone["neighbours"] >= 0).any())
    assert len(alone["labels"].unique()) == 4
    del alone["rank"]
    for number, found in enumerate(on_processes(processes, made)):
        assert int(found.pop("rank")) == number
        for name, expected in alone.items():
            assert torch.equal(found[name], expected), name
