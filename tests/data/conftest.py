"""What tests of data share."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ssl_inv.data.source import Images, Source


@pytest.fixture(scope="session")
def png() -> Callable[[int], bytes]:
    """A file of 8x8 pixels of one colour: red is the given value, green half of it."""

    def content(value: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (value, value // 2, 0)).save(buffer, "PNG")
        return buffer.getvalue()

    return content


@pytest.fixture(scope="session")
def load_all() -> Callable[[Source], Images]:
    """Loads all views of all objects, in order."""

    def load(source: Source) -> Images:
        counts = source.view_counts
        return source.load(np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(n) for n in counts]))

    return load


@pytest.fixture(scope="session")
def files_of() -> Callable[[Source], set[str]]:
    """The names of all views."""

    def names(source: Source) -> set[str]:
        return {source.describe(item, view) for item, count in enumerate(source.view_counts) for view in range(count)}

    return names
