"""The key of the views that are being made, for code that has no argument for it, such as kornia's containers."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ssl_inv.transforms.keyed_random import Key

_current: ContextVar[Key | None] = ContextVar("key", default=None)


@contextmanager
def keyed(key: Key) -> Iterator[None]:
    """Let everything inside draw from a key.

    `with keyed(key): views = sequence(images)`. It holds for the thread or the asynchronous task that enters it. The
    inner of two nested ones counts.

    Args:
        key: one row for each image of the batch.
    """
    token = _current.set(key)
    try:
        yield
    finally:
        _current.reset(token)


def current_key() -> Key | None:
    """The key of the innermost `keyed`; None outside of all."""
    return _current.get()
