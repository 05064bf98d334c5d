"""A map that holds the mask reaches the best of its grid, and one that is blind reaches one class everywhere."""

import pytest
import torch
from imaged import encoded_by
from sklearn.metrics import jaccard_score
from torch import Tensor

from ssl_inv.evaluation.protocols.dense import (
    IGNORED,
    Dense,
    cell_shares,
    class_iou,
    classes_of,
    enlarged,
    mean_iou,
    pixel_counts,
)
from ssl_inv.evaluation.protocols.logistic import LogisticRegression
from ssl_inv.evaluation.results import Bootstrap

SIDE, COUNT = 32, 24
PROTOCOL = Dense(neighbours=5, linear=LogisticRegression(strengths=(1.0, 100.0)), bootstrap=Bootstrap(10))


def boxes() -> Tensor:
    """A box of 16 pixels somewhere in each image."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(COUNT, SIDE, SIDE, dtype=torch.int64)
    for one, (y, x) in zip(masks, torch.randint(0, 17, (COUNT, 2), generator=generator).tolist(), strict=True):
        one[y : y + 16, x : x + 16] = 1
    return masks


def images() -> Tensor:
    """The box has the colour of its class, which is the object's number modulo 3."""
    classes = torch.arange(COUNT) // 2 % 3
    boxed = boxes()[:, None] * torch.nn.functional.one_hot(classes, 3).view(-1, 3, 1, 1)
    noise = torch.randn(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return boxed + 0.02 * noise


def colours(pixels: Tensor) -> Tensor:
    means = torch.nn.functional.avg_pool2d(pixels, 4)
    return torch.cat((means, 1 - means.sum(dim=1, keepdim=True)), dim=1)


def measured(maps, pixels: Tensor | None = None) -> dict[str, object]:
    masks = boxes()
    encoded = encoded_by(
        lambda one: {"all": one.mean(dim=(2, 3))},
        maps,
        images() if pixels is None else pixels,
        masks=lambda split, objects, views: masks[2 * objects + views],
    )
    return {row.name.removeprefix("dense/"): row for row in PROTOCOL.run(encoded)}


def level(row, words: str) -> float:
    return float(row.detail.split(words)[1].split(",")[0])


@pytest.mark.parametrize("head", ["knn", "linear"])
def test_what_is_in_the_map_is_read_from_it(head):
    found = measured(colours)
    for task in ("regions", "classes"):
        row = found[f"{head}/{task}/miou"]
        best = level(row, "8 x 8 cells ")
        assert 0.85 * best < row.value < 1.05 * best < 1.05
        assert row.spread is not None
        assert found[f"{head}/{task}/accuracy"].value > row.value
        assert row.value > 1.5 * level(row, "one class everywhere ")


@pytest.mark.parametrize("head", ["knn", "linear"])
def test_a_blind_map_has_the_score_of_one_class_everywhere(head):
    row = measured(lambda one: torch.ones(len(one), 4, 8, 8))[f"{head}/regions/miou"]
    assert row.value == pytest.approx(level(row, "one class everywhere "), abs=1e-3)


def test_a_map_that_knows_the_object_without_its_class_tells_the_ground_from_it_alone():
    found = measured(lambda one: torch.nn.functional.avg_pool2d(one.sum(dim=1, keepdim=True), 4).repeat(1, 2, 1, 1))
    assert found["linear/regions/miou"].value > 0.8
    assert found["linear/classes/miou"].value < 0.5


def test_counts_give_the_scores_of_scikit_learn_and_leave_ignored_pixels_out():
    generator = torch.Generator().manual_seed(2)
    truth, predicted = torch.randint(0, 4, (2, 6, 16, 16), generator=generator)
    truth[:, :4] = IGNORED
    counts = pixel_counts(predicted, truth, 4).sum(dim=0)
    known = truth != IGNORED
    wanted = jaccard_score(truth[known], predicted[known], average=None)
    assert class_iou(counts).tolist() == pytest.approx(wanted.tolist())
    assert float(mean_iou(counts)) == pytest.approx(wanted.mean())
    # A class that is only predicted lowers the others, and is no class of the mean.
    rare = pixel_counts(torch.full_like(truth, 3), truth.clamp_max(2), 4).sum(dim=0)
    assert class_iou(rare)[:3].tolist() == [0, 0, 0]
    assert class_iou(rare)[3].isnan()


def test_cells_have_the_shares_of_the_pixels_that_count():
    pixels = torch.tensor([[[0, 0, 1, 1], [0, IGNORED, IGNORED, IGNORED], [2, 2, IGNORED, IGNORED], [1, 2, 255, 255]]])
    shares = cell_shares(pixels, 3, (2, 2))
    assert shares[0, :, 0, 0].tolist() == [1, 0, 0]
    assert shares[0, :, 0, 1].tolist() == [0, 1, 0]
    assert shares[0, :, 1, 0].tolist() == pytest.approx([0, 0.25, 0.75])
    assert shares[0, :, 1, 1].tolist() == [0, 0, 0]
    assert enlarged(shares, (4, 4))[0, 3, 0] == 2
    regions = torch.tensor([[[0, 1, IGNORED]], [[0, 1, 2]]])
    assert classes_of(regions, torch.tensor([4, -1])).tolist() == [[[0, 5, IGNORED]], [[0, IGNORED, IGNORED]]]


def test_masks_of_another_size_are_refused():
    encoded = encoded_by(
        lambda one: {"all": one.mean(dim=(2, 3))},
        colours,
        images(),
        masks=lambda split, objects, views: torch.zeros(len(objects), 8, 8, dtype=torch.int64),
    )
    with pytest.raises(ValueError, match="masks have the shape"):
        list(PROTOCOL.run(encoded))
