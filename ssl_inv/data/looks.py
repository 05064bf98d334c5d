"""Looks at images before a run: files can be broken, differ in size, or be read without an error and show nothing."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ssl_inv.catalogue import SettingError
from ssl_inv.data.image_files import EncodedImages
from ssl_inv.data.images import StoredImages
from ssl_inv.data.reading import Pixels, Reading, UnreadableImageError
from ssl_inv.data.source import Data, Source, Subset
from ssl_inv.data.sources.meshes.source import RenderedMeshes
from ssl_inv.data.sources.threediebench import ThreeDIEBench

SAMPLE = 16
"""Images that are looked at, spread over all objects."""

NARROW = 26
"""Levels of 255 below which images use under a tenth of the range."""

_HEADERS, _FEW, _SECONDS = 64, 20_000, 1.0
"""Headers that are read, spread over all images; of few images all that can be read in some time."""


def require_one_size(data: Data) -> None:
    """Refuse images of different sizes or shapes where no `size` makes them equal, as far as the headers of some tell.

    All headers are read if there are at most 20,000 images and it takes no longer than a second.

    Raises:
        SettingError: for `size`, naming the first image that differs.
    """
    sources: list[Source] = []
    for source in (data.train, data.validation):
        while isinstance(source, Subset):
            source = source.source
        if not any(source is one for one in sources):
            sources.append(source)
    for source in sources:
        if isinstance(source, StoredImages) and source.size is None:
            _require_one_size(source)


def require_rendered(data: Data) -> None:
    """Refuse meshes of which none to train on, or none to judge by, can be rendered; then name those that are broken.

    Raises:
        SettingError: for `path`.
    """
    found = []
    for part, source in (("to train on", data.train), ("of the validation split", data.validation)):
        objects = np.arange(len(source))
        while isinstance(source, Subset):
            objects, source = source.objects[objects], source.source
        if isinstance(source, RenderedMeshes):
            source.require_readable(objects, part)
            found.append(source)
    for source in {id(one): one for one in found}.values():
        source.tell()


def _require_one_size(source: StoredImages) -> None:
    counts, side = source.view_counts, source.image_size
    total = int(counts.sum())
    spread = np.unique(np.linspace(0, total - 1, _HEADERS).astype(np.int64)).tolist()
    rest = sorted({*range(total)} - {*spread}) if total <= _FEW else []
    until = time.monotonic() + _SECONDS
    for number, image in enumerate([*spread, *rest]):
        if number >= len(spread) and time.monotonic() > until:
            return
        try:
            height, width = source.sides_of(image)
        except UnreadableImageError:
            continue
        if (height, width) != (side, side):
            item = int(np.searchsorted(np.cumsum(counts), image, side="right"))
            name = source.describe(item, image - int(counts[:item].sum()))
            first = f"the first image {side}x{side}"
            raise SettingError("size", f"{name} has {width}x{height} pixels but {first}; these images need a `size`")


def broken_images(source: Source, tell: Callable[[int, int], None]) -> dict[str, str]:
    """Decode every image of a source, on all cores if it has files, and keep none.

    Args:
        source: objects whose images are stored.
        tell: is told how many images are done, and of how many.

    Returns:
        The images that cannot be read, or the meshes that cannot be rendered, by their names, with the reasons; empty
        for images that are made of nothing.
    """
    while isinstance(source, Subset):
        source = source.source
    if isinstance(source, RenderedMeshes):
        return source.broken_of_all(tell)
    if not isinstance(source, StoredImages):
        return {}
    stored, objects = source, np.repeat(np.arange(len(source)), source.view_counts).tolist()
    views = np.concatenate([np.arange(count) for count in source.view_counts]).tolist()

    def reason(image: int) -> str | None:
        try:
            stored.pixels_of(image)
        except UnreadableImageError as error:
            return str(error)
        return None

    # A torch dataset is never read by two threads at once.
    threads = (os.cpu_count() or 1) if isinstance(source, EncodedImages) else 1
    found: dict[str, str] = {}
    with ThreadPoolExecutor(threads) as pool:
        for image, why in enumerate(pool.map(reason, range(len(objects)))):
            if why is not None:
                found[source.describe(objects[image], views[image])] = why
            tell(image + 1, len(objects))
    return found


def _first_view(source: StoredImages, item: int) -> Pixels | None:
    """The pixels of an object's first view; None if it cannot be read."""
    try:
        return source.pixels_of(source.image_of(item))
    except UnreadableImageError:
        return None


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
    seen = [(item, pixels) for item in numbers.tolist() if (pixels := _first_view(inner, item)) is not None]
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
    return _idle(inner, [item for item, _ in seen])


def _idle(source: StoredImages, items: list[int]) -> str | None:
    """Says that `white` changes nothing, if all of some objects have images of 8 bits."""
    if not isinstance(source, EncodedImages) or (white := source.reading.white) is None:
        return None
    if any(source.is_wide(source.image_of(item)) for item in items):
        return None
    what = (
        f"`white: {white:g}` changes nothing: it is for more than 8 bits, and the {len(items)} images looked at have 8"
    )
    return f"{what}; `range: [0, {white:g}]` is for bytes too"
