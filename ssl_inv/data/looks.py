"""A look at some images before a run: files can be read without an error and still show nothing."""

import numpy as np

from ssl_inv.data.images import StoredImages
from ssl_inv.data.reading import Reading
from ssl_inv.data.source import Source, Subset
from ssl_inv.data.sources.threediebench import ThreeDIEBench

SAMPLE = 16
"""Images that are looked at, spread over all objects."""

NARROW = 26
"""Levels of 255 below which images use under a tenth of the range."""


def odd_looks(source: Source) -> str | None:
    """What is odd about the values of some stored images; None if nothing is, or if images are made.

    Twelve bits in a 16-bit file, black ink on transparent ground and masks in place of images are read without an
    error. Nothing is kept in memory or counted as broken.
    """
    objects = np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(np.int64))
    numbers, inner = objects, source
    while isinstance(inner, Subset):
        numbers, inner = inner.objects[numbers], inner.source
    if not isinstance(inner, StoredImages):
        return None
    seen = [(item, pixels) for item in numbers.tolist() if (pixels := inner.glance(item)) is not None]
    if not seen:
        return None
    low, high = (np.array([end(pixels) for _, pixels in seen]) for end in (np.min, np.max))
    flat = np.flatnonzero(low == high)
    # Its images are what they are: there are no settings to advise.
    reading: Reading | None = None if isinstance(inner, ThreeDIEBench) else getattr(inner, "reading", None)
    if len(flat) > len(seen) / 2:
        name, value = inner.describe(seen[flat[0]][0], 0), low[flat[0]]
        black = reading is not None and reading.background == "black" and value == 0
        advice = "; if they are transparent, set `background: white`" if black else ""
        return f"{len(flat)} of {len(seen)} images looked at have one value everywhere: {name} is {value}{advice}"
    if int(high.max()) - int(low.min()) < NARROW:
        found = f"{len(seen)} images looked at have values from {low.min()} to {high.max()} of 255 only"
        wide = reading is not None and reading.white is None
        return f"{found}{'; for grey files of 10 or 12 bits, name the brightest value with `white`' if wide else ''}"
    return None
