"""Claims about the vocabulary of visual words: how it is renewed, filled, and compared in blocks."""

from typing import Any

import numpy as np
import pytest
import torch
from small import normal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssl_inv.memories import vocabulary
from ssl_inv.memories.vocabulary import Comparison, VisualWords


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that any operation gives."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.largest = max([self.largest, *(one.numel() for one in tree_leaves(made) if isinstance(one, Tensor))])
        return made


@pytest.mark.parametrize("inverse_delta", [15.0, None])
def test_chunks_give_the_same_and_hold_little(inverse_delta, monkeypatch):
    maps, draws = normal(5, 12, 6, 9, 9).clamp_min(0), torch.rand(12)
    bags = []
    for at_once in (2**30, 5 * 49 * 40):
        torch.manual_seed(0)
        words = VisualWords(6, 40, inverse_delta).double()
        monkeypatch.setattr(vocabulary, "_AT_ONCE", at_once)
        with LargestTensor() as seen:
            bags.append(words(maps, draws))
    assert seen.largest == max(5 * 49 * 40, maps.numel())
    torch.testing.assert_close(*bags, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("images", "words"), [(4, 10), (10, 10), (7, 3)])
def test_the_newest_words_stay_whatever_the_batch(images, words):
    module = VisualWords(2, words, border=0, window=1)
    pixels = torch.arange(3.0 * images)[:, None, None, None].expand(-1, 2, 1, 1)
    for batch in torch.split(pixels, images):
        module(batch, torch.zeros(images))
        module.flush()
    assert sorted(module.words[:, 0].tolist()) == list(range(3 * images - words, 3 * images))


def test_a_word_is_every_position_s_alike_and_of_the_inside():
    maps = torch.arange(49.0).view(1, 1, 7, 7).repeat(1000, 1, 1, 1)
    module = VisualWords(1, 1000)
    module(maps, torch.linspace(0, 1, 1001)[:-1])
    module.flush()
    found, counts = torch.unique(module.words, return_counts=True)
    centres = [float(7 * row + column) for row in (2, 3, 4) for column in (2, 3, 4)]
    assert found.tolist() == centres
    assert (counts.max() - counts.min()).item() <= 1
    module(maps[:1], torch.tensor([np.nextafter(np.float32(1), np.float32(0))]))
    module.flush()
    assert module.words[0].item() == centres[-1]


def test_a_warm_start_takes_as_many_words_of_every_image_and_different_ones():
    maps = torch.arange(4 * 49.0).view(4, 1, 7, 7)
    module = VisualWords(1, 20, first_distance=None)
    module.fill(maps, torch.rand(4))
    assert len(torch.unique(module.words)) == 20
    assert torch.bincount((module.words[:, 0] / 49).long()).tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize(("making", "count"), [("local_average", 100), ("global_average", 30)])
def test_a_warm_start_has_no_word_twice_where_words_outnumber_positions(making, count):
    module = VisualWords(3, count, making=making)
    maps = torch.rand(4, 3, 7, 7)
    module.fill(maps, torch.rand(4))
    assert len(torch.unique(module.words, dim=0)) == count
    assert module.words.min() >= maps.min()
    assert module.words.max() <= maps.max()


def test_the_mean_distance_begins_with_that_of_the_first_batches():
    module, means = VisualWords(3, 8, first_distance=None, border=0).double(), []
    for step in range(4):
        maps = 100 * normal(step, 5, 3, 4, 4)
        means.append(Comparison(maps, module.words).nearest()[0].mean())
        module(maps, torch.rand(5))
        module.flush()
        torch.testing.assert_close(module.distance, torch.stack(means).mean())
    module.batches.fill_(1000)
    before = module.distance.clone()
    module(torch.zeros(5, 3, 4, 4, dtype=torch.float64), torch.rand(5))
    module.flush()
    assert 0.989 < (module.distance / before).item() < 1


def test_codes_do_not_depend_on_the_scale_of_features():
    bags = []
    for scale in (1.0, 1000.0):
        module = VisualWords(3, 8, first_distance=None).double()
        module.words.copy_(scale * normal(1, 8, 3))
        bags.append(module(scale * normal(0, 5, 3, 6, 6), torch.zeros(5)))
    torch.testing.assert_close(*bags)


def test_maps_that_are_all_alike_give_finite_bags():
    module = VisualWords(3, 8, first_distance=None)
    module.words.fill_(1.0)
    torch.testing.assert_close(module(torch.ones(2, 3, 7, 7), torch.zeros(2)), torch.full((2, 8), 1 / 8))
