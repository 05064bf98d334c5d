"""The progress display of a run."""

import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ssl_inv.plain import printable


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{rest:02d}s"


class Progress:
    """One line that is rewritten on a terminal; in a file, a new line from time to time.

    Args:
        file: where to write; standard error by default, so that standard output has results only.
        quiet: show only warnings.
        interval: seconds between lines in a file.
    """

    def __init__(self, file: TextIO | None = None, quiet: bool = False, interval: float = 15.0) -> None:
        self.console = Console(file=file, stderr=file is None, highlight=False, soft_wrap=True)
        self.quiet, self.interval = quiet, interval
        self.first_step = 0
        self._live: Live | None = None
        self._printed = 0.0

    def update(self, line: str) -> None:
        """Show a line in place of the last one."""
        if self.quiet:
            return
        line = printable(line)
        if self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, refresh_per_second=8, transient=True)
                self._live.start()
            self._live.update(Text(printable(line), overflow="ellipsis", no_wrap=True))
        elif time.monotonic() - self._printed > self.interval:
            self._printed = time.monotonic()
            self.console.print(printable(line), markup=False)

    def keep(self, line: str) -> None:
        """Print a line that stays."""
        if not self.quiet:
            self.console.print(printable(line), markup=False)

    def warn(self, line: str) -> None:
        """Print a warning, also when quiet."""
        self.console.print(printable(f"warning: {line}"), style="yellow", markup=False)

    def close(self) -> None:
        """Remove the rewritten line."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def counting(self, what: str) -> Callable[[int, int], None]:
        """A callback `(done, total)` that shows how much of `what` is done."""
        return lambda done, total: self.update(f"{what}: {done:,} of {total:,}")
