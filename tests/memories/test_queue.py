"""Claims about the queue: nothing is lost and nothing is copied."""

import pytest
import torch

from ssl_inv.memories.queue import Queue


def filled(queue: Queue, *counts: int) -> Queue:
    """The queue after batches of so many rows, each of which holds its own number."""
    for number, rows in enumerate(torch.arange(sum(counts), dtype=torch.float32).split(counts)):
        queue.put(rows[:, None].expand(-1, 2))
        if number % 2:
            queue.flush()
    queue.flush()
    return queue


@pytest.mark.parametrize(
    "counts", [(48, 48, 48), (100, 30), (99, 2), (1,) * 205, (250,), (7, 333, 5), (100, 100)], ids=str
)
def test_the_last_vectors_are_kept_at_the_place_of_their_number_whatever_the_batches(counts):
    queue, total = filled(Queue(100, 2), *counts), sum(counts)
    assert queue.filled == min(total, 100)
    kept = range(max(0, total - 100), total)
    assert queue.entries()[:, 0].tolist() == sorted(kept, key=lambda number: number % 100)


def test_a_gradient_may_be_taken_after_more_was_put_in():
    queue = Queue(5, 2)
    query = torch.ones(1, 2, requires_grad=True)
    value = (query @ queue.vectors.T).sum()
    queue.put(query)
    value.backward()
    assert query.grad is not None
    assert not queue.vectors.requires_grad


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("fp16", 2)])
def test_entries_are_no_copy_and_a_new_queue_has_none(precision, size):
    queue = Queue(5, 2, precision)
    assert queue.entries().shape == (0, 2)
    torch.testing.assert_close(queue.vectors.float().norm(dim=1), torch.ones(5), atol=size / 1000, rtol=0)
    filled(queue, 3)
    assert queue.entries().data_ptr() == queue.vectors.data_ptr()
    assert queue.vectors.element_size() == size


def test_a_queue_of_nothing_is_refused():
    with pytest.raises(ValueError, match="queue: must be at least 1, got 0"):
        Queue(0, 2)
