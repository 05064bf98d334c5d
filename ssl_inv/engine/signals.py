"""Signals that ask a run to end: it ends after the step that is under way, with a checkpoint, and within a time limit.

A handler in Python runs only when the main thread is between two instructions. A main thread that waits in a collective
is not, so a thread of its own reads the numbers of signals from the pipe that the interpreter writes them to at once.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

PATIENCE = 25.0
"""Seconds from a signal that ends a run to its end. SLURM and torchrun kill after 30."""

_ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_EARLY = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""SLURM's `--signal` sends one of these some time before the end, and SIGTERM at the end."""


_STOP = b"\0"
"""What the pipe gets when nobody listens any more; no signal has this number."""


class Interrupted(KeyboardInterrupt):
    """A signal has ended the run, which can continue.

    Args:
        number: of the signal.
        message: for the user.
        agreed: whether all processes of the run end by it, after a step.
    """

    def __init__(self, number: int, message: str = "", agreed: bool = False) -> None:
        super().__init__(message or said(number))
        self.number, self.agreed = number, agreed

    @property
    def code(self) -> int:
        """The exit code that shells give for this signal."""
        return 128 + self.number

    @property
    def early(self) -> bool:
        """Whether the signal announces an end that is still to come."""
        return self.number in _EARLY


def said(number: int) -> str:
    """`interrupted`, and by which signal if it was not Ctrl-C."""
    return "interrupted" if number == signal.SIGINT else f"interrupted by {signal.Signals(number).name}"


class Signals:
    """Listens to the signals that end a run, in the main thread of a process; in another thread it does nothing.

    Within `awaited`, a signal is kept for who asks for it at the end of a step. Elsewhere it raises `Interrupted`. If
    nothing has come of it after `PATIENCE`, or on a second Ctrl-C, the process ends where it is. Handlers of the
    surrounding program are left alone.

    Args:
        last_words: called before the process ends where it is, with what is to be said.
    """

    def __init__(self, last_words: Callable[[str], None] | None = None) -> None:
        self.received = 0
        """The first signal that has come while it was awaited; 0 if none has."""
        self.last_words = last_words
        self._awaiting = self._deaf = False
        self._since = 0.0
        self._seen = 0
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._wakeup = -1
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Signals":
        global _active
        if threading.current_thread() is not threading.main_thread() or os.name != "posix":
            return self
        free = (signal.SIG_DFL, signal.default_int_handler)
        taken = [one for one in (*_ENDING, *_EARLY) if signal.getsignal(one) in free]
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._before = {one: signal.signal(one, self._handle) for one in taken}
        _active = self
        self._thread = threading.Thread(target=self._listen, daemon=True, name="signals")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        global _active
        if self._pipe is None:
            return
        _active = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        assert self._thread is not None
        os.write(self._pipe[1], _STOP)
        self._thread.join()
        for end in self._pipe:
            os.close(end)
        self._pipe = None

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Within this, somebody asks for `received` after every step."""
        self._awaiting = True
        try:
            yield
        finally:
            self._awaiting = False

    def disregard(self) -> None:
        """Raise nothing any more: the process ends for another reason, which is to be recorded."""
        self._deaf = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._awaiting and not self._deaf:
            raise Interrupted(number)
        self.received = self.received or number

    def _listen(self) -> None:
        assert self._pipe is not None
        reader = self._pipe[0]
        while True:
            left = self._since + PATIENCE - time.monotonic() if self._since else None
            ready, _, _ = select.select([reader], [], [], left if left is None else max(0.0, left))
            if not ready:
                return self._end(self._seen)
            for number in os.read(reader, 64):
                if number == _STOP[0]:
                    return None
                if number not in self._before:
                    continue
                if number == signal.SIGINT and self._since:
                    return self._end(number)
                if number in _ENDING and not self._since:
                    self._since, self._seen = time.monotonic(), number
                if self._awaiting:
                    self.received = self.received or number

    def _end(self, number: int) -> None:
        try:
            if self.last_words is not None:
                self.last_words(said(number))
            sys.stderr.flush()
        finally:
            os._exit(128 + number)


_active: Signals | None = None


def _in_a_fork() -> None:
    """Let a loader process live on: SLURM and Ctrl-C signal it too, and the step under way needs its batches."""
    if _active is None:
        return
    signal.set_wakeup_fd(-1)
    for number in _active._before:
        signal.signal(number, signal.SIG_IGN)
    if signal.SIGTERM in _active._before:
        # A parent that wants it gone sends SIGTERM as well.
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(int(PATIENCE)))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_fork)
