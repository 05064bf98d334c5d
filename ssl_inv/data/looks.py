"""A look at some images before a run: files can be read without an error and still show nothing."""

import numpy as np

from ssl_inv.data.source import Source

SAMPLE = 16
"""Images that are looked at, spread over all objects."""

NARROW = 26
"""Levels of 255 below which images use under a tenth of the range."""


def odd_looks(source: Source) -> str | None:
    """What is odd about the values of some images; None if nothing is.

    Twelve bits in a 16-bit file, black ink on transparent ground and masks in place of images are read without an
    error.
    """
    objects = np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(np.int64))
    images = source.load(objects, np.zeros_like(objects))
    readable = images.readable.numpy()
    pixels = images.pixels.numpy()[readable].reshape(int(readable.sum()), -1)
    if not len(pixels):
        return None
    low, high = pixels.min(1), pixels.max(1)
    flat = np.flatnonzero(low == high)
    if len(flat) > len(pixels) / 2:
        name, value = source.describe(int(objects[readable][flat[0]]), 0), low[flat[0]]
        advice = "; if they are transparent, set `background: white`" if value == 0 else ""
        return f"{len(flat)} of {len(pixels)} images looked at have one value everywhere: {name} is {value}{advice}"
    if int(high.max()) - int(low.min()) < NARROW:
        found = f"{len(pixels)} images looked at have values from {low.min()} to {high.max()} of 255 only"
        return f"{found}; for files of 10 or 12 bits, name the brightest value with `white`"
    return None
