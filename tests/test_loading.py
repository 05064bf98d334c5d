"""The batch of a step is a function of the seed and the step."""

import numpy as np
import pytest
import torch

from ssl_inv.data.base import Images, Indices, Labels, Source
from ssl_inv.data.loading import Batch, StepBatches, StepLoader, UnreadableBatchError
from ssl_inv.transforms import Group, Real, Transform


class Numbers(Source):
    """Objects whose pixels and transform tell which view of which object they are."""

    def __init__(self, objects: int = 23, views: int = 4, broken: frozenset[int] = frozenset()) -> None:
        self.objects, self.views, self.broken = objects, views, broken

    @property
    def view_counts(self) -> Indices:
        return np.full(self.objects, self.views, dtype=np.int64)

    @property
    def groups(self) -> dict[str, Group]:
        return {"view": Real()}

    @property
    def labels(self) -> Labels | None:
        return None

    @property
    def image_size(self) -> int:
        return 2

    def load(self, objects: Indices, views: Indices) -> Images:
        if (objects == 1000).any():
            raise ValueError("object 1000 is cursed")
        pixels = torch.from_numpy(np.stack((objects, views, objects + views), axis=1)).to(torch.uint8)
        readable = torch.from_numpy(~np.isin(objects, list(self.broken)))
        transform = Transform({"view": torch.from_numpy(views).float()}, self.groups)
        return Images(pixels.view(-1, 3, 1, 1).repeat(1, 1, 2, 2), transform, readable)


def same(one: Batch, other: Batch) -> bool:
    images = zip(one.images, other.images, strict=True)
    pixels = all(torch.equal(a.pixels, b.pixels) and torch.equal(a.transform["view"], b.transform["view"]) for a, b in images)
    return pixels and torch.equal(one.index, other.index) and (one.epoch, one.broken) == (other.epoch, other.broken)


def test_an_epoch_visits_every_object_once_in_a_new_order() -> None:
    batches = StepBatches(Numbers(24), 8, 2, seed=0)
    epochs = [torch.cat([batches[3 * epoch + step].index for step in range(3)]).tolist() for epoch in range(3)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_what_does_not_fill_a_batch_is_left_out_of_an_epoch_and_changes_between_epochs() -> None:
    batches = StepBatches(Numbers(23), 8, 2, seed=0)
    epochs = [{int(one) for step in range(2) for one in batches[2 * epoch + step].index} for epoch in range(8)]
    assert all(len(epoch) == 16 for epoch in epochs)
    assert set.union(*epochs) == set(range(23))


def test_views_are_of_the_object_different_and_told_by_the_transform() -> None:
    batch = StepBatches(Numbers(), 8, 3, seed=0)[5]
    views = torch.stack([one.pixels[:, 1, 0, 0] for one in batch.images])
    for one in batch.images:
        assert torch.equal(one.pixels[:, 0, 0, 0].long(), batch.index)
        assert torch.equal(one.pixels[:, 1, 0, 0].float(), one.transform["view"])
    assert all(len(set(column.tolist())) == 3 for column in views.T)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batch_of_one_process(processes: int) -> None:
    whole = StepBatches(Numbers(), 8, 2, seed=1)
    parts = [StepBatches(Numbers(), 8, 2, 1, rank, processes) for rank in range(processes)]
    for step in (0, 1, 7):
        shares = [part[step] for part in parts]
        assert torch.equal(torch.cat([one.index for one in shares]), whole[step].index)
        for view in range(2):
            assert torch.equal(torch.cat([one.images[view].pixels for one in shares]), whole[step].images[view].pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fresh_loader_at_any_step_gives_what_a_long_one_gives(workers: int) -> None:
    source = Numbers(broken=frozenset({3}))
    whole = [*StepLoader(StepBatches(source, 8, 2, seed=4), 0, 6)]
    fresh = [*StepLoader(StepBatches(source, 8, 2, seed=4), 3, 6, workers)]
    assert all(same(one, other) for one, other in zip(whole[3:], fresh, strict=True))


def test_another_seed_gives_another_order_and_other_views() -> None:
    one, other = (StepBatches(Numbers(), 8, 2, seed)[0] for seed in (0, 1))
    assert not torch.equal(one.index, other.index)


def test_unreadable_samples_give_their_place_to_readable_ones_and_are_named() -> None:
    broken = frozenset(range(6))
    batches = StepBatches(Numbers(24, broken=broken), 8, 2, seed=0)
    for step in range(6):
        batch = batches[step]
        assert not broken & set(batch.index.tolist())
        assert all(bool(one.readable.all()) for one in batch.images)
        for one in batch.images:
            assert torch.equal(one.pixels[:, 0, 0, 0].long(), batch.index)
            assert torch.equal(one.pixels[:, 1, 0, 0].float(), one.transform["view"])
    named = {int(name.split()[1].rstrip(",")) for step in range(3) for name in batches[step].broken}
    assert named == broken


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_loader_processes_arrive_as_they_were_raised(workers: int) -> None:
    hopeless = StepBatches(Numbers(8, broken=frozenset(range(8))), 4, 2, seed=0)
    with pytest.raises(UnreadableBatchError, match=r"^object \d, view \d and its replacements cannot be read; \d+ views"):
        next(iter(StepLoader(hopeless, 0, 2, workers)))
    cursed = StepBatches(Numbers(1001), 1001, 2, seed=0)
    with pytest.raises(ValueError, match=r"^object 1000 is cursed$"):
        next(iter(StepLoader(cursed, 0, 1, workers)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((24, 2, 0), "batch_size 24 is larger than the 23 objects"),
        ((9, 2, 0, 0, 2), "batch_size 9 cannot be shared evenly by 2 processes"),
        ((8, 5, 0), r"an object of the training data has 4 view\(s\), 5 are needed"),
    ],
)
def test_impossible_batches_are_refused(arguments: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        StepBatches(Numbers(), *arguments)
