"""Processes that work together: they meet, hear what has become of each other, and exchange more than gradients.

Everything but gradients goes through the store where the processes have met. A wait for it hears of a process that has
failed, and of a signal, which a wait in a collective does not.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from ssl_inv.engine.cluster import Meeting
from ssl_inv.engine.launched import Launched
from ssl_inv.engine.peers import PeerError, Peers

_ARRIVAL = timedelta(minutes=5)
"""How long processes that a launcher starts wait for each other to begin."""

_PIECE = 4 * 2**20
"""Bytes of a message that are sent at once. The store takes 8 MiB."""

_KNOWN = 10.0
"""Seconds that the first process waits, at most, until the others know that all have met."""


class MeetingError(RuntimeError):
    """The processes of a launch did not meet."""


class Team:
    """The processes of a launch.

    Args:
        launched: where this process stands; None is a process that works alone.

    Attributes:
        peers: the watch over the other processes, from `watch` on.
        last_words: what a process that hangs still does when another has failed.
    """

    def __init__(self, launched: Launched | None = None) -> None:
        self._launched = launched
        self.peers: Peers | None = None
        self.last_words: Callable[[str], None] | None = None
        self._opened: Store | None = None
        self._exchanges = 0

    @property
    def rank(self) -> int:
        """The number of this process."""
        return 0 if self._launched is None else self._launched.here.rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return 1 if self._launched is None else self._launched.world_size()

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    @property
    def where(self) -> Meeting | None:
        """Where the processes that a program from outside has started have met."""
        launched = self._launched
        return launched.where if launched is not None and launched.creates_processes_externally else None

    def of(self, count: int) -> range:
        """Which of `count` pieces of work are this process's own: every piece is that of exactly one process."""
        return range(self.rank, count, self.size)

    # How processes meet and part.

    def open(self) -> None:
        """Meet the others that a launcher has started. From here on, each sees it when another fails."""
        self.meet("arrived", _ARRIVAL.total_seconds())
        self.watch()
        self.connect()

    def watch(self, children: Sequence[Any] = ()) -> None:
        """Begin to watch the others; `children` are those that this process has started itself."""
        launched = self._launch
        self.peers = Peers(launched.where, self.rank, children, self._speak)
        self.peers.start()

    def connect(self) -> None:
        """Connect to the others, once all have met."""
        assert self.peers is not None
        self.peers.connect(private=self._launch.nodes == 1)

    def meet(self, occasion: str, seconds: float) -> None:
        """Wait for all processes.

        Raises:
            PeerError: if one of them has failed.
            MeetingError: if they do not come in time.
        """
        keys = [f"{occasion}-{rank}" for rank in range(self.size)]
        end = time.monotonic() + seconds
        try:
            self.store.set(keys[self.rank], "yes")
            # A wait in the store would hear neither of a rank that has failed nor of a signal.
            while missing := [rank for rank, key in enumerate(keys) if not self.store.check([key])]:
                self._require_all_well()
                if time.monotonic() > end:
                    late = ", ".join(map(str, missing))
                    raise MeetingError(f"rank(s) {late} did not come in {seconds / 60:.0f} minutes")
                time.sleep(0.05)
            # The store ends with the first process, which therefore leaves when all know that they have met.
            self.store.add(f"{occasion}-known", 1)
            known = time.monotonic() + _KNOWN
            while self.rank == 0 and self.store.add(f"{occasion}-known", 0) < self.size and time.monotonic() < known:
                time.sleep(0.01)
        except dist.DistError:
            raise MeetingError("the first process has ended before all had met") from None

    def why(self, error: BaseException) -> str:
        """The failure of another process that is the cause of an error here; empty if there is none."""
        if isinstance(error, PeerError):
            return str(error)
        return "" if self.peers is None else self.peers.why(error)

    def leave(self, reason: str = "") -> None:
        """Leave the others, in peace or with a reason that ends them too."""
        if self.peers is not None:
            self.peers.leave(reason)

    @property
    def store(self) -> Store:
        """The store of the processes; the first time, it is opened."""
        if self._opened is None:
            self._opened = self._open_store()
        return self._opened

    @property
    def _launch(self) -> Launched:
        if self._launched is None:
            raise RuntimeError("a process that works alone has nobody to meet")
        return self._launched

    def _open_store(self) -> Store:
        launched = self._launch
        address, port = launched.main_address, launched.main_port
        hosts = launched.where.hosted and launched.here.first
        given: dict[str, Any] = {}
        if launched.listener is not None:
            given["master_listen_fd"] = launched.listener.detach()
        try:
            store = TCPStore(address, port, None, hosts, _ARRIVAL, wait_for_workers=False, **given)
        except dist.DistError as error:
            reason = str(error).strip().splitlines()[0]
            raise MeetingError(f"no way to the first process at {address}, port {port}: {reason}") from None
        return PrefixStore(launched.where.name, store)

    def _speak(self, reason: str) -> None:
        if self.last_words is not None:
            self.last_words(reason)
        elif self.first:
            sys.stderr.write(f"error: {reason}\n")

    def _require_all_well(self) -> None:
        if self.peers is not None and self.peers.reason:
            raise PeerError(self.peers.reason)

    # What they exchange.

    def wait(self, stage: str) -> None:
        """Wait until all have come as far, however long it takes; see `meet`."""
        if self.size > 1:
            self.meet(stage, math.inf)

    def tell(self, key: str, content: bytes) -> None:
        """Send a message, however long. A key is used once."""
        pieces = range(0, len(content), _PIECE)
        try:
            for number, start in enumerate(pieces):
                self.store.set(f"{key}/{number}", content[start : start + _PIECE])  # type: ignore[arg-type]
            self.store.set(key, str(len(pieces)))
        except dist.DistError as error:
            raise PeerError(self.why(error) or "the first process has ended") from None

    def hear(self, key: str, keep: bool = False) -> bytes:
        """Wait for a message, and take it out of the store unless others are to hear it too.

        Raises:
            PeerError: if another process has failed.
        """
        try:
            while not self.store.check([key]):
                self._require_all_well()
                time.sleep(0.01)
            names = [f"{key}/{number}" for number in range(int(self.store.get(key)))]
            content = b"".join(self.store.get(name) for name in names)
            for name in [] if keep else [*names, key]:
                self.store.delete_key(name)
        except dist.DistError as error:
            raise PeerError(self.why(error) or "the first process has ended") from None
        return content

    def exchange(self) -> str:
        """A new beginning of keys, the same on all processes if all ask for it equally often."""
        self._exchanges += 1
        return f"exchange-{self._exchanges}"

    def collected(self, content: bytes) -> list[bytes]:
        """What every process gives, by rank, on the first; nothing on the others."""
        key = self.exchange()
        if not self.first:
            self.tell(f"{key}/{self.rank}", content)
            return []
        return [content, *(self.hear(f"{key}/{rank}") for rank in range(1, self.size))]

    def spread(self, content: bytes) -> bytes:
        """What the first process gives, on all of them."""
        key = self.exchange()
        if self.size == 1:
            return content
        if self.first:
            self.tell(key, content)
            return content
        return self.hear(key, keep=True)


ALONE = Team()
"""A process that works alone."""
