"""The processes of a run know when one of them ends, and why.

A collective does not say why it fails, and on a GPU it waits for minutes. So every rank keeps a connection to rank 0.
The kernel closes the connections of a process that dies, however it dies. A rank that fails by itself leaves its
reason in the store where the ranks have met, also if it fails before they meet.
"""

import json
import os
import re
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from ssl_inv.engine.cluster import Meeting

_GRACE = 10.0
"""Seconds that a process has to end by itself after another has ended badly."""

_WORD = "reason"
_SILENT = re.compile(
    r"gloo|nccl|ProcessGroup|process group|Connection (closed|reset|refused)|Broken pipe", re.IGNORECASE
)
"""What a collective or the store says if another process has gone."""


class PeerError(RuntimeError):
    """Another process of the run has failed."""


def client(where: Meeting, patience: float) -> Store:
    """A connection of one's own to the store: calls that wait for others block the store that they use."""
    limit = timedelta(seconds=patience)
    store = TCPStore(where.address, where.port, is_master=False, timeout=limit, wait_for_workers=False)
    return PrefixStore(where.name, store)


def leave_word(where: Meeting, rank: int, reason: str) -> bool:
    """Tell rank 0 why this rank ends. The first reason stays.

    Returns:
        Whether there was somebody to tell.
    """
    with suppress(RuntimeError, OSError), _without_torchs_account():
        _require_listener(where)
        store = client(where, 5.0)
        if store.add("failures", 1) == 1:
            store.set(_WORD, f"{named(rank)}: {' '.join(reason.split())}")
        return True
    return False


def word(where: Meeting) -> str | None:
    """The reason that a rank has left."""
    with suppress(RuntimeError, OSError), _without_torchs_account():
        _require_listener(where)
        store = client(where, 5.0)
        return store.get(_WORD).decode() if store.check([_WORD]) else None
    return None


def _require_listener(where: Meeting) -> None:
    """Raise an `OSError` if nobody has the store: torch would try for seconds."""
    socket.create_connection((where.address, where.port), timeout=5.0).close()


@contextmanager
def _without_torchs_account() -> Iterator[None]:
    """Keep back what torch writes about a store that is gone, a page for each attempt. The process is about to end."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        for descriptor in (kept, nowhere):
            os.close(descriptor)


def named(rank: int) -> str:
    """A rank with its machine, as messages name it."""
    return f"rank {rank} on {socket.gethostname()}"


def is_farewell(error: BaseException) -> bool:
    """Whether an error says only that another process does not answer."""
    return isinstance(error, dist.DistError) or bool(isinstance(error, RuntimeError) and _SILENT.search(str(error)))


class Peers:
    """Watches the other processes of a run from a thread of its own.

    Args:
        where: the processes meet.
        rank: of this process.
        children: the processes that this one has started: ranks 1, 2, ...
        last_words: called with the reason before a process that hangs is ended; None on all ranks but 0.
    """

    def __init__(
        self,
        where: Meeting,
        rank: int,
        children: Sequence[subprocess.Popen[bytes]] = (),
        last_words: Callable[[str], None] | None = None,
    ) -> None:
        self.where, self.rank, self.last_words = where, rank, last_words
        self._children = dict(enumerate(children, start=1))
        self._known = threading.Event()
        self._left = threading.Event()
        self._reason = ""
        self._names: dict[socket.socket, tuple[int, str]] = {}
        self._server: socket.socket | None = None
        self._token = secrets.token_hex(16)
        self._selector = selectors.DefaultSelector()
        self._store: Store | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True, name="peers")

    @property
    def reason(self) -> str:
        """Why another process has failed; empty as long as none is known to have."""
        return self._reason

    def start(self) -> None:
        """Watch, from before the processes meet."""
        self._thread.start()

    def connect(self, private: bool) -> None:
        """Connect the ranks, once they have met.

        Args:
            private: whether all of them are on this machine.
        """
        store = client(self.where, 60.0)
        if self.rank == 0:
            self._server = socket.create_server(("127.0.0.1" if private else "", 0), backlog=1024)
            self._selector.register(self._server, selectors.EVENT_READ)
            address = "127.0.0.1" if private else self._own_address()
            store.set("peers", json.dumps([address, self._server.getsockname()[1], self._token]))
            return
        address, port, token = json.loads(store.get("peers"))
        connection = socket.create_connection((address, port), timeout=60.0)
        introduction = [token, self.rank, f"{named(self.rank)}, process {os.getpid()},"]
        connection.sendall(json.dumps(introduction).encode() + b"\n")
        self._keep(connection, 0, "rank 0")

    def _own_address(self) -> str:
        """The address by which other machines reach this one."""
        with socket.create_connection((self.where.address, self.where.port), timeout=60.0) as there:
            own = str(there.getsockname()[0])
        # The store is on this machine, and others know it by the address that they were given.
        return self.where.address if own.startswith("127.") or own == "::1" else own

    def _keep(self, connection: socket.socket, rank: int, name: str) -> None:
        connection.setblocking(False)
        # A machine that has lost its power closes no connection.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._names[connection] = rank, name
        self._selector.register(connection, selectors.EVENT_READ)

    def leave(self, reason: str = "") -> None:
        """Stop watching, and tell the others: a reason to end too, or that all is well."""
        if self._left.is_set():
            return
        if reason and self.rank != 0 and not self._reason:
            leave_word(self.where, self.rank, reason)
        line = json.dumps(reason).encode() + b"\n"
        self._left.set()
        self._thread.join(timeout=5.0)
        for connection in self._names:
            with suppress(OSError):
                if self.rank == 0 or not reason:
                    connection.sendall(line)
                connection.close()
        if self._server is not None:
            self._server.close()

    def why(self, error: BaseException) -> str:
        """Why another process has failed, if that is why this one has; empty if the error is this process's own."""
        if is_farewell(error):
            self._known.wait(_GRACE)
        return self._reason

    def _watch(self) -> None:
        next_look = 0.0
        while not self._left.is_set():
            reason = self._reason_of_connections()
            connected = {rank for rank, _ in self._names.values()}
            for rank, child in self._children.items():
                # The connection of a process knows whether it has left in peace.
                if not reason and rank not in connected and child.poll():
                    reason = self._ended(rank, f"{named(rank)}, process {child.pid},")
            if not reason and self.rank == 0 and time.monotonic() > next_look:
                reason = self._left_word() or ""
                next_look = time.monotonic() + 1.0
            if reason:
                self._conclude(reason)
                return

    def _reason_of_connections(self) -> str:
        # Without a connection, some systems do not wait in a selector.
        if not self._selector.get_map():
            time.sleep(0.2)
            return ""
        for key, _ in self._selector.select(timeout=0.2):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            if connection is self._server:
                self._accept(connection)
            elif connection in self._names and (reason := self._heard(connection)):
                return reason
        return ""

    def _accept(self, server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.settimeout(5.0)
        try:
            with connection.makefile("rb") as lines:
                token, rank, name = json.loads(lines.readline(4096))
        except (OSError, ValueError, TypeError):
            token = ""
        if not secrets.compare_digest(str(token), self._token):
            connection.close()
            return
        self._keep(connection, int(rank), str(name))

    def _heard(self, connection: socket.socket) -> str:
        rank, name = self._names[connection]
        try:
            line = connection.recv(65536)
        except BlockingIOError:
            return ""
        except OSError:
            line = b""
        if not line:
            self._forget(connection)
            return self._ended(rank, name)
        with suppress(ValueError):
            if reason := json.loads(line):
                return str(reason)
        self._forget(connection)  # it has done its part
        self._children.pop(rank, None)
        return ""

    def _forget(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._names[connection]
        connection.close()

    def _ended(self, rank: int, name: str) -> str:
        """How a rank has ended: by its own word, by its exit code, or by nothing that anybody knows."""
        child, end = self._children.get(rank), time.monotonic() + 3.0
        while time.monotonic() < end and not self._left.is_set():
            if self.rank == 0 and (reason := self._left_word()):
                return reason
            if child is not None and (code := child.poll()) is not None and code < 0:
                return f"{name} was killed by {signal.Signals(-code).name}"
            time.sleep(0.1)
        if child is not None and (code := child.poll()):
            return f"{name} ended with exit code {code}"
        return f"{name} has ended without a word: it was killed, or its machine is gone"

    def _left_word(self) -> str | None:
        try:
            self._store = self._store or client(self.where, 5.0)
            return self._store.get(_WORD).decode() if self._store.check([_WORD]) else None
        except (RuntimeError, OSError):  # the store is not there yet, or not any more
            self._store = None
            return None

    def _conclude(self, reason: str) -> None:
        self._reason = reason
        self._known.set()
        if self.rank == 0:
            line = json.dumps(reason).encode() + b"\n"
            for connection in self._names:
                with suppress(OSError):
                    connection.sendall(line)
        if self._left.wait(_GRACE + 5.0):
            return
        try:
            if self.last_words is not None:
                self.last_words(reason)
            sys.stderr.flush()
            for child in self._children.values():
                child.kill()
        finally:
            os._exit(1)
