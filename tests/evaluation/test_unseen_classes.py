"""A pose that every class shows in one way is read from unseen classes; one that each shows in its own is not."""

from dataclasses import replace

import pytest
import torch

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.protocols.unseen_classes import UnseenClasses
from ssl_inv.evaluation.results import Bootstrap
from ssl_inv.transforms import Real, Transform

CLASSES, VIEWS = 8, 4
NAMES = tuple("abcdefgh")
PROTOCOL = UnseenClasses(bootstrap=Bootstrap(20), kinds=("relative", "absolute"))


def table(seed: int, own_way: bool, objects: int = 64) -> FeatureTable:
    """Features of a class, and of the size of its objects: in one direction for all classes, or in one for each."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(objects).repeat_interleave(VIEWS)
    labels, sizes = rows % CLASSES, torch.randn(len(rows), generator=generator)
    directions = torch.eye(CLASSES)[labels] if own_way else torch.ones(len(rows), CLASSES)
    known = torch.cat((3 * torch.eye(CLASSES)[labels], sizes[:, None] * directions), dim=1)
    features = known + 0.05 * torch.randn(known.shape, generator=generator)
    made = Transform({"size": sizes}, {"size": Real()})
    views = torch.arange(VIEWS).repeat(objects)
    return FeatureTable({"all": features}, rows + 1000 * seed, views, labels, class_names=NAMES, transform=made)


def measured(own_way: bool, protocol: UnseenClasses = PROTOCOL) -> dict[str, float | None]:
    return {row.name: row.value for row in protocol.run(Encoded(table(0, own_way), table(1, own_way)))}


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_one_way_for_all_classes_holds_for_new_ones_and_ways_of_their_own_do_not(kind: str) -> None:
    one, own = (
        [found[f"unseen/r2/{kind}/size/{word}"] for word in ("seen", "unseen")]
        for found in (measured(False), measured(True))
    )
    assert min(one) > 0.95
    assert own[0] > 0.95
    assert own[1] < 0.1


def test_objects_of_unseen_classes_are_found_by_features_and_not_by_what_was_fitted_to_others() -> None:
    found = measured(True)
    assert found["unseen/retrieval/features"] > 0.9
    assert found["unseen/retrieval/learnt/seen"] > 0.9
    assert found["unseen/retrieval/learnt/unseen"] < found["unseen/retrieval/learnt/seen"] - 0.2


def test_named_classes_are_the_unseen_ones_and_unknown_ones_are_told() -> None:
    found = measured(True, replace(PROTOCOL, classes=("a", "h")))
    assert found["unseen/r2/relative/size/seen"] > 0.95
    assert found["unseen/r2/relative/size/unseen"] < 0.1
    assert {f"unseen/retrieval/features/{word}" for word in ("seen", "unseen")} <= set(found)
    (row,) = replace(PROTOCOL, classes=("a", "zebra")).run(Encoded(table(0, True), table(1, True)))
    assert row.detail == "train and validation do not both have a class 'zebra'"
    *poses, row = replace(PROTOCOL, classes=("a",)).run(Encoded(table(0, True), table(1, True)))
    assert len(poses) == 4
    assert (row.name, row.detail) == ("unseen/retrieval", "needs two classes on either side")


def test_shuffled_poses_cannot_be_read() -> None:
    encoded = Encoded(table(0, False), table(1, False))
    found = {row.name: row.value for row in PROTOCOL.shuffled(encoded, 0)}
    assert abs(found["unseen/r2/absolute/size/seen"]) < 0.15
