"""How the numbers of an image file become 8-bit pixels: settings that all sources of files share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ssl_inv.catalogue import require, require_at_least

Pixels = NDArray[np.uint8]

MOST_PIXELS = 178_956_970
"""Pixels of an image in memory, at most: as many as Pillow opens, half a gigabyte."""

SETTINGS_OF_VALUES = ("background", "white", "bands", "range", "channels", "max_pixels")
"""Settings of sources that say how the numbers of a file become pixels."""

SETTINGS_OF_KEEPING = frozenset(("cache", "cache_gigabytes", "memory_gb", "max_broken"))
"""Settings of sources that change no image: what stays in memory, and how many may be broken before a run stops."""

Background = Literal["black", "white", "drop"]

_SHORT = (np.uint8, np.int8, np.uint16, np.int16, np.float16, np.float32)
"""Numbers that single precision holds."""

Limits = tuple[tuple[float, float], ...]
"""The numbers that become 0 and 255: one pair for all bands, or one for each; empty if they are not known."""


_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"background": "black", "white": None, "bands": [], "range": [], "channels": None, "max_pixels": MOST_PIXELS}
)


class UnreadableImageError(ValueError):
    """One image cannot be decoded; the message is the reason, without the name."""


@dataclass(frozen=True)
class Reading:
    """How the numbers of a file become 8-bit pixels.

    Attributes:
        background: what transparent pixels are laid over; `drop` shows what the file has under them.
        white: the value that becomes 255 in images of more than 8 bits or of floats, where 0 becomes 0; None takes
            65535, or in a TIFF what its tags say, and refuses 32 bits and floats.
        bands: the bands that are taken, counted from 1. Empty takes the file's own colours, and a fourth band as
            opacity if the file says so; or all bands if `channels` says how many.
        most_pixels: of an image in memory.
        channels: of the pixels; None: as many as bands, or 3, where a single band is grey and repeated.
        ends: the values that become 0 and 255, for all bands or for each; bytes too.

    Raises:
        SettingError: if a value is out of its range, or two exclude each other.
    """

    background: Background = "black"
    white: float | None = None
    bands: tuple[int, ...] = ()
    most_pixels: int = MOST_PIXELS
    channels: int | None = None
    ends: Limits = ()

    def __post_init__(self) -> None:
        known = get_args(Background)
        require(self.background in known, "background", f"must be {', '.join(known)}, got {self.background!r}")
        require(self.white is None or self.white > 0, "white", f"must be above 0, got {self.white}")
        counted = all(band >= 1 for band in self.bands)
        require(counted, "bands", f"must be bands counted from 1, got {list(self.bands)}")
        require_at_least(1, max_pixels=self.most_pixels)
        if self.channels is not None:
            require_at_least(1, channels=self.channels)
            fits = not self.bands or self.channels == len(self.bands) or (len(self.bands), self.channels) == (1, 3)
            named = f"{len(self.bands)} band(s) are named in `bands`"
            require(fits, "channels", f"{self.channels}, but {named}; leave `channels` out")
        self._check_ends()

    def _check_ends(self) -> None:
        require(not self.ends or self.white is None, "range", "excludes `white`, which is the range [0, white]")
        for low, high in self.ends:
            require(low < high, "range", f"must be the lowest and the highest number, got [{low}, {high}]")
        taken = len(self.bands) or (self.channels or 3)
        fits = len(self.ends) in (0, 1, taken)
        require(fits, "range", f"must be one pair, or one for each of {taken} band(s), got {len(self.ends)} pairs")

    def settings(self) -> dict[str, Any]:
        """What of it is not the default, as settings of a data source, without the limit on memory."""
        found = {
            "background": self.background,
            "white": self.white,
            "bands": list(self.bands),
            "range": [list(one) for one in self.ends],
            "channels": self.channels,
        }
        return {name: value for name, value in found.items() if value != _DEFAULTS[name]}

    @property
    def count(self) -> int:
        """The channels of the pixels."""
        return self.channels or (len(self.bands) if len(self.bands) > 1 else 3)

    @property
    def colours(self) -> bool:
        """Whether the file's own colours are taken, as red, green and blue."""
        return not self.bands and self.count == 3

    @property
    def as_stored(self) -> bool:
        """Whether red, green and blue of 8 bits are the pixels."""
        return self.colours and not self.ends

    @property
    def pages_are_bands(self) -> bool:
        """Whether the pages of a file with one band each are taken as the bands of one image."""
        return bool(self.bands) or self.count not in (1, 3)

    @property
    def limits(self) -> Limits:
        """The values that become 0 and 255, if they are given."""
        return self.ends or (() if self.white is None else ((0.0, self.white),))


PLAIN = Reading()


def reading_of(
    background: Background,
    white: float | None,
    bands: Sequence[int],
    ends: Sequence[Any],
    channels: int | None,
    max_pixels: int,
) -> Reading:
    """A reading from settings, where `ends` is `[low, high]`, or a list of such pairs.

    Raises:
        SettingError: if a setting has another form, or is out of its range.
    """
    pairs = [ends] if ends and all(isinstance(one, int | float) for one in ends) else [*ends]
    pairs_fit = all(isinstance(one, list | tuple) and len(one) == 2 for one in pairs)
    require(pairs_fit, "range", f"must be [lowest, highest], or a list of such pairs, got {list(ends)}")
    limits = tuple((float(low), float(high)) for low, high in pairs)
    return Reading(background, white, tuple(bands), max_pixels, channels, limits)


def reading_from(settings: Mapping[str, Any], channels: int) -> Reading:
    """The reading of the settings of any data source; those that it has not have their defaults.

    Args:
        settings: of the source.
        channels: of its images.

    Raises:
        SettingError: see `reading_of`; or if the settings give other channels.
    """
    found = {name: settings.get(name, default) for name, default in _DEFAULTS.items()}
    if channels != 3 and not found["bands"] and found["channels"] is None:
        found["channels"] = channels
    reading = reading_of(*(found[name] for name in ("background", "white", "bands", "range", "channels", "max_pixels")))
    require(reading.count == channels, "channels", f"are {channels}, but these settings read {reading.count}")
    return reading


def spread(numbers: NDArray[Any], limits: Limits) -> Pixels:
    """Numbers `(H, W, C)` as bytes, linear between the limits and cut off there. NaN is the lower limit.

    Raises:
        UnreadableImageError: if there are limits for another number of bands.
    """
    if len(limits) not in (1, numbers.shape[2]):
        raise UnreadableImageError(f"`range` has {len(limits)} pairs, and {numbers.shape[2]} band(s) are read")
    exact = np.float32 if numbers.dtype in _SHORT else np.float64
    low, high = np.array(limits, dtype=exact).T
    share = (numbers.astype(exact) - low) / (high - low)
    pixels: Pixels = np.rint(255 * np.nan_to_num(share.clip(0, 1), nan=0.0)).astype(np.uint8)
    return pixels


def band_axis(shape: Sequence[int], channels: int | None = None) -> int | None:
    """Which axis of an image with three axes is that of the bands: 0 or 2; None if it is not clear.

    It is the only one of the two with as many entries as there are channels, if their number is known; else the one
    that is shorter than both others.
    """
    known = [axis for axis in (0, 2) if shape[axis] == channels]
    if len(known) == 1:
        return known[0]
    first, last = shape[0] < min(shape[1:]), shape[2] < min(shape[:2])
    return 0 if first else 2 if last else None
