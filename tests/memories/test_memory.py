"""Claims about the queue: nothing is lost, nothing is copied, and a checkpoint holds it."""

import copy
import io

import pytest
import torch

from ssl_inv.memories.queue import Queue


def rows(start: int, count: int, dimensions: int = 2) -> torch.Tensor:
    """Rows that tell their number."""
    return torch.arange(start, start + count, dtype=torch.float32)[:, None].expand(-1, dimensions)


def fill(queue: Queue, *counts: int) -> None:
    start = 0
    for count in counts:
        queue.put(rows(start, count))
        queue.flush()
        start += count


@pytest.mark.parametrize(
    "counts", [(48, 48, 48), (100, 30), (99, 2), (1,) * 205, (250,), (7, 333, 5), (100, 100)], ids=str
)
def test_the_last_vectors_are_kept_whatever_the_batches(counts):
    queue = Queue(100, 2)
    fill(queue, *counts)
    total = sum(counts)
    assert queue.filled == min(total, 100)
    assert sorted(queue.entries()[:, 0].tolist()) == list(range(max(0, total - 100), total))


def test_rows_stand_where_their_number_says():
    queue = Queue(100, 2)
    fill(queue, 48, 48, 48)
    assert queue.vectors[:, 0].tolist() == [*range(100, 144), *range(44, 100)]


def test_what_is_put_in_waits_for_the_end_of_the_step():
    queue = Queue(5, 2)
    before = queue.vectors.clone()
    queue.put(rows(0, 2))
    queue.put(rows(2, 2))
    assert torch.equal(queue.vectors, before)
    queue.flush()
    queue.flush()
    assert queue.entries()[:, 0].tolist() == [0, 1, 2, 3]


def test_a_gradient_may_be_taken_after_more_was_put_in():
    queue = Queue(5, 2)
    query = torch.ones(1, 2, requires_grad=True)
    (query @ queue.vectors.T).sum().backward(retain_graph=False)
    value = (query @ queue.vectors.T).sum()
    queue.put(query)
    value.backward()
    assert query.grad is not None
    assert not queue.vectors.requires_grad


def test_entries_are_no_copy_and_a_new_queue_has_none():
    queue = Queue(5, 2)
    assert queue.entries().shape == (0, 2)
    torch.testing.assert_close(queue.vectors.norm(dim=1), torch.ones(5))
    fill(queue, 3)
    assert queue.entries().data_ptr() == queue.vectors.data_ptr()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_queue_goes_on_after_it_was_saved_or_copied(precision):
    queue, restored = Queue(10, 2, precision), Queue(10, 2, precision)
    fill(queue, 7)
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for one in (queue, restored, copy.deepcopy(queue)):
        assert one.filled == 7
        one.put(rows(7, 6))
        one.flush()
        assert one.vectors[:, 0].tolist() == [10, 11, 12, 3, 4, 5, 6, 7, 8, 9]
        assert one.vectors.element_size() == (2 if precision == "fp16" else 4)


def test_a_queue_of_nothing_is_refused():
    with pytest.raises(ValueError, match="queue: must be at least 1, got 0"):
        Queue(0, 2)
