"""The line that shows how far a run is."""

import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{rest:02d}s"


class Progress:
    """One line that is rewritten on a terminal; in a file, a line every now and then.

    Args:
        file: where to; standard error by default, so that standard output has results only.
        quiet: show warnings and nothing else.
        interval: seconds between lines where lines cannot be rewritten.
    """

    def __init__(self, file: TextIO | None = None, quiet: bool = False, interval: float = 15.0) -> None:
        self.console = Console(file=file, stderr=file is None, highlight=False, soft_wrap=True)
        self.quiet, self.interval = quiet, interval
        self.first_step = 0
        self._live: Live | None = None
        self._printed = 0.0

    def update(self, line: str) -> None:
        """Show the state of the run."""
        if self.quiet:
            return
        if self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, refresh_per_second=8, transient=True)
                self._live.start()
            self._live.update(Text(line, overflow="ellipsis", no_wrap=True))
        elif time.monotonic() - self._printed > self.interval:
            self._printed = time.monotonic()
            self.console.print(line, markup=False)

    def keep(self, line: str) -> None:
        """Print a line that stays."""
        if not self.quiet:
            self.console.print(line, markup=False)

    def warn(self, line: str) -> None:
        """Print a warning, also when quiet."""
        self.console.print(f"warning: {line}", style="yellow", markup=False)

    def close(self) -> None:
        """Take the rewritten line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def counting(self, what: str) -> Callable[[int, int], None]:
        """A callback that shows how much of `what` is done."""
        return lambda done, total: self.update(f"{what}: {done:,} of {total:,}")
