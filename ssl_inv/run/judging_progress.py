"""What an evaluation shows while it runs: how many images are encoded, which protocol runs, and the time left."""

import time
from collections.abc import Sequence

from ssl_inv.engine.progress import Progress, clock

ROUNDS = ("shuffled", "untrained", "trained")
"""Every protocol runs on shuffled targets, on the untrained encoder and on the trained one, in this order."""


class JudgingProgress:
    """Lines such as `evaluating: 1,024 of 8,000 images encoded, 0m40s left`.

    The time left is that of the work which is shown. Protocols differ in length: it is known from the second round on,
    when each has run once.

    Args:
        show: where the lines go.
        images: to encode, with all encoders.
    """

    def __init__(self, show: Progress, images: int) -> None:
        self._show, self._images = show, images
        self._encoded = 0
        self._begun = time.monotonic()
        self._encoded_here = 0
        self._protocols: tuple[str, ...] = ()
        self._now: tuple[str, str, float] | None = None
        self._seconds: dict[tuple[str, str], float] = {}

    def encoded(self, count: int) -> None:
        """Tell that so many further images are encoded."""
        self._encoded += count
        self._encoded_here += count
        seconds = time.monotonic() - self._begun
        left = clock(seconds / max(self._encoded_here, 1) * (self._images - self._encoded))
        self._show.update(f"evaluating: {self._encoded:,} of {self._images:,} images encoded, {left} left")

    def known(self, count: int) -> None:
        """Tell that so many images need not be encoded, because their features are known."""
        self._encoded += count

    def measures(self, protocols: Sequence[str]) -> None:
        """Tell which protocols will run, in their order."""
        self._protocols = tuple(protocols)

    def begins(self, round_name: str, protocol: str) -> None:
        """Tell that a protocol begins, in one of `ROUNDS`."""
        now = time.monotonic()
        if self._now is not None:
            *before, since = self._now
            self._seconds[before[0], before[1]] = now - since
        self._now = round_name, protocol, now
        left = self._left(round_name, protocol)
        place = ROUNDS.index(round_name) * len(self._protocols) + self._protocols.index(protocol) + 1
        what = f"{protocol}, {round_name}, {place} of {len(ROUNDS) * len(self._protocols)}"
        self._show.update(f"evaluating: {what}" + ("" if left is None else f", {clock(left)} left"))

    def _left(self, round_name: str, protocol: str) -> float | None:
        """The seconds of what has not run, each as long as the same protocol before; None if one has not run before."""
        before = {name: seconds for (_, name), seconds in self._seconds.items()}
        if not set(self._protocols) <= before.keys():
            return None
        rest = [*self._protocols[self._protocols.index(protocol) :]]
        rest += [*self._protocols] * (len(ROUNDS) - 1 - ROUNDS.index(round_name))
        return sum(before[name] for name in rest)
