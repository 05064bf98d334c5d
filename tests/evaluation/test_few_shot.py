"""Episodes are of different objects; known encoders score 1 and exactly chance."""

import pytest
import torch
from constructed import normal, same_on_both, values, views_of

from ssl_inv.evaluation.protocols.few_shot import FewShot

LABELS = torch.arange(90) % 6


def test_an_encoder_of_classes_scores_one_and_a_collapsed_one_exactly_chance():
    classes = views_of(torch.eye(6)[LABELS][:, None].expand(-1, 3, -1), LABELS)
    collapsed = views_of(torch.ones(90, 3, 4), LABELS)
    for table, expected in ((classes, 1), (collapsed, 1 / 6)):
        found = values(FewShot(episodes=50), same_on_both(table))
        assert list(found.values()) == pytest.approx([expected] * 2)


def test_an_encoder_of_the_object_alone_is_at_chance():
    # Two views of one object in support and query would make it perfect.
    table = views_of(normal(0, 90, 1, 32).expand(-1, 5, -1), LABELS)
    for found in FewShot().run(same_on_both(table)):
        assert abs(found.value - 1 / 6) < 4 * found.spread
        assert "6-way, cut from 50, chance 0.167, 600 episodes" in found.detail


def test_an_episode_has_classes_and_objects_once():
    labels = torch.tensor([3] * 9 + [0] * 4 + [7] * 8 + [5] * 2 + [2] * 7)
    support, queries = FewShot(ways=3, queries=2, episodes=30).draw(labels, 4)
    assert (support.shape, queries.shape) == ((30, 3, 4), (30, 3, 2))
    rows = torch.cat((support, queries), dim=2)
    for episode in rows:
        assert len(set(episode.flatten().tolist())) == 18
        of_class = labels[episode]
        assert (of_class == of_class[:, :1]).all()
        # Classes of four and of two objects have not enough.
        assert sorted(of_class[:, 0].tolist()) == [2, 3, 7]
    assert len({tuple(episode.flatten().tolist()) for episode in rows}) == 30


def test_too_few_objects_and_shuffled_labels():
    table = views_of(torch.eye(6)[LABELS][:, None].expand(-1, 3, -1), LABELS)
    (few,) = FewShot(shots=(30,)).run(same_on_both(table))
    assert few.detail == "needs two classes with 31 validation objects, got 0"
    shuffled = list(FewShot(episodes=200).shuffled(same_on_both(table), 0))
    assert all(abs(one.value - 1 / 6) < 0.1 for one in shuffled)
