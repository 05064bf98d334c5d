"""Claims about OBoW: what learns, which words are used, when they change, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from small import OBOW_NETWORK, noise
from torch import Tensor

from ssl_inv.augment.policies import obow
from ssl_inv.data.sources.rendered.source import rendered
from ssl_inv.memories.vocabulary import Comparison, SmallMapError, VisualWords
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.objectives.obow import OBoW
from ssl_inv.transforms import keyed_random

TINY: dict[str, Any] = {"vocabulary": 20, "border": 0, "window": 2}


def build(**settings: Any) -> tuple[Backbone, OBoW]:
    torch.manual_seed(0)
    backbone = make_backbone(**OBOW_NETWORK)
    objective = OBoW(backbone.features, {}, **{**TINY, **settings})
    objective.adopt(backbone)
    return backbone.train(), objective.train()


def test_the_student_learns_and_the_teacher_follows() -> None:
    backbone, objective = build()
    terms = objective.loss(noise([16] * objective.plan.count, 6), backbone)
    assert [term.weight for term in terms.values()] == [1, 1, 0, 0]
    (terms["crops"].value + terms["patches"].value).backward()  # type: ignore[no-untyped-call]
    assert all(one.grad is not None for one in backbone.parameters())
    with_gradient = {name.split(".")[0] for name, one in objective.named_parameters() if one.grad is not None}
    assert with_gradient == {"heads"}
    before = [one.clone() for one in objective.teacher.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, backbone.parameters(), strict=True))
    with torch.no_grad():
        for one in backbone.parameters():
            one.add_(1)
    objective.after_step(backbone, 50, 100)
    for old, new in zip(before, objective.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.005)


def test_predictions_and_targets_use_the_words_of_before() -> None:
    _, objective = build(first_distance=1.0)
    before = [words.words.clone() for words in objective.words]  # type: ignore[operator]
    views = noise([16] * objective.plan.count, 6)
    maps = objective.teacher(views[0].pixels)
    classifiers, bags = objective._targets(maps, views.index)
    for level, words in enumerate(objective.words):
        assert isinstance(words, VisualWords)
        torch.testing.assert_close(classifiers[level], objective.heads[level].classifier(before[level]))  # type: ignore[operator]
        assert torch.equal(words.words, before[level])
        words.flush()
        expected = Comparison(maps[level], before[level]).soft_bags(15 / words.distance, "max")
        torch.testing.assert_close(bags[level], expected)
        assert not torch.equal(words.words, before[level])


def test_micro_batches_of_one_step_see_the_same_words_and_come_in_together() -> None:
    _, objective = build(warm_start=True, first_distance=None)
    maps = [torch.rand(10, channels, 4, 4) for channels in (6, 8)]
    seen = []
    for part in (slice(0, 5), slice(5, 10)):
        objective._targets([one[part] for one in maps], torch.arange(10)[part])
        seen.append([words.words.clone() for words in objective.words])  # type: ignore[operator]
    for words, (first, second) in zip(objective.words, zip(*seen, strict=True), strict=True):
        assert isinstance(words, VisualWords)
        assert torch.equal(first, second)
        words.flush()
        assert torch.equal(words.words[10:], first[10:])
        assert not (words.words[5:10] == first[5:10]).all(dim=1).any()
        assert (int(words.oldest), int(words.batches)) == (10, 1)


def test_positions_depend_on_step_sample_and_level_alone() -> None:
    _, objective = build()
    seen: list[Tensor] = []
    for words in objective.words:
        words.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    maps = [torch.rand(5, channels, 4, 4) for channels in (6, 8)]
    index = torch.tensor([9, 4, 7, 0, 2])
    objective._targets(maps, index)
    objective._targets([one[2:3] for one in maps], index[2:3])
    objective.set_extra_state(1)
    objective._targets(maps, index)
    assert seen[0][2] == seen[2][0]
    assert len(torch.unique(torch.cat((seen[0], seen[1], seen[4])))) == 15
    drawn = keyed_random.uniform(0, 0, index.numpy(), 0, count=1)[:, 0].astype(np.float32)
    np.testing.assert_array_equal(seen[0].numpy(), drawn)


def test_only_the_first_step_starts_warm() -> None:
    backbone, objective = build(warm_start=True)
    maps = [torch.rand(5, channels, 4, 4) + 10 for channels in (6, 8)]
    objective._targets(maps, torch.arange(5))
    assert all(words.words.min() > 9 for words in objective.words)  # type: ignore[operator]
    objective.after_step(backbone, 1, 10)
    objective._targets([one + 10 for one in maps], torch.arange(5))
    assert all((words.words < 19).any() for words in objective.words)  # type: ignore[operator]


def test_views_are_the_papers() -> None:
    from small_data import plain

    from ssl_inv.transforms.keyed_random import Key
    from ssl_inv.views.makers import maker_of

    source = rendered(classes=2, objects=8, views=1, size=40).train
    plan = OBoW(8, {}, crop_size=24, patch_size=12, patch_view=36, patch_jitter=4).plan
    key = Key(0, 0, np.arange(4), 0)
    pixels = source.load(np.arange(4), np.zeros(4, dtype=np.int64)).pixels
    made = maker_of(plan, obow(size=32)).make([plain(pixels)], key)
    assert [one.pixels.shape[-1] for one in made] == [32, 24, 24, *[12] * 5]
    teacher, *students = (one.transform for one in made)
    torch.testing.assert_close(teacher["crop"], torch.tensor([[0.5, 0.5, 0.875, 0.875]]).expand(4, -1))
    for name in ("brightness", "hue", "grey", "blur"):
        torch.testing.assert_close(teacher[name], teacher.groups[name].neutral(4))
    areas = [one["crop"][:, 2:].prod(dim=1) for one in students]
    assert all(area.min() > 0.03 and area.max() < 0.65 for area in areas[:2])
    assert all(area.min() > 0.5 for area in areas[2:])
    assert all(torch.equal(one["hue"], students[2]["hue"]) for one in students[2:])
    assert not any(one["blur"].any() for one in students[2:])


def test_maps_that_are_too_small_are_refused() -> None:
    backbone, objective = build(border=1, window=3)
    message = "border 1 and window 3 need feature maps of at least 5 pixels a side, got 4 x 4"
    with pytest.raises(SmallMapError, match=message):
        objective.loss(noise([32] * objective.plan.count), backbone)
