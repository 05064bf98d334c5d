"""What an evaluation shows while it runs: how many images are encoded, which protocol runs, and the time left."""

import time
from collections.abc import Sequence

from ssl_inv.engine.progress import Progress, clock

ROUNDS = ("shuffled", "untrained", "trained")
"""A protocol runs on shuffled targets, on the untrained encoder and on the trained one, in this order."""


class JudgingProgress:
    """Lines such as `evaluating: 1,024 of 8,000 images encoded, 0m40s left`.

    The time left is that of the work which is shown: of the images, or of the rounds of one protocol.

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
        self._since = self._begun

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
        now, rounds = time.monotonic(), ROUNDS.index(round_name)
        if rounds == 0:
            self._since = now
        place = f"{self._protocols.index(protocol) + 1} of {len(self._protocols)}"
        # Rounds of one protocol take about the same time, protocols do not.
        left = (now - self._since) / rounds * (len(ROUNDS) - rounds) if rounds else None
        what = f"protocol {place}, {protocol}, {round_name}"
        self._show.update(f"evaluating: {what}" + ("" if left is None else f", {clock(left)} left of it"))
