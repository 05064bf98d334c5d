"""Speed of a run, and how long it waits for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Rates(NamedTuple):
    """Speed.

    Attributes:
        images_per_second: views, over all ranks.
        waiting: share of the time spent waiting for data.
    """

    images_per_second: float
    waiting: float


class Meter:
    """Speed of the whole run, and since the last reading. Also the loss terms that were checked last, and their sum."""

    def __init__(self) -> None:
        self.terms: dict[str, float] = {}
        self.total = 0.0
        self.start()

    def start(self) -> None:
        """Start the clock."""
        self._begun = self._last = time.perf_counter()
        self._waited = 0.0
        self._images = 0
        self._at_reading = (0.0, 0.0, 0)

    def data_arrived(self) -> None:
        """The wait for a batch is over."""
        self._waited += time.perf_counter() - self._last

    def batch_done(self) -> None:
        """The wait for the next batch begins."""
        self._last = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time inside: monitors and checkpoints are neither training nor waiting."""
        stopped = time.perf_counter()
        yield
        pause = time.perf_counter() - stopped
        self._begun += pause
        self._last += pause

    def count(self, images: int) -> None:
        """Count `images` more views, over all ranks."""
        self._images += images

    @property
    def whole(self) -> Rates:
        """Since the start."""
        return self._since((0.0, 0.0, 0))

    @property
    def recent(self) -> Rates:
        """Since the last reading."""
        return self._since(self._at_reading)

    def read(self) -> Rates:
        """The rates since the last reading; this is the next one."""
        rates = self.recent
        self._at_reading = self._totals()
        return rates

    def _totals(self) -> tuple[float, float, int]:
        return time.perf_counter() - self._begun, self._waited, self._images

    def _since(self, before: tuple[float, float, int]) -> Rates:
        seconds, waited, images = (after - earlier for after, earlier in zip(self._totals(), before, strict=True))
        return Rates(images / max(seconds, 1e-9), min(waited / max(seconds, 1e-9), 1.0))
