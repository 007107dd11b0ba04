"""The connections of the web process: a gunicorn worker that no slow client can stop.

gunicorn's own threaded worker lets a client keep a thread for as long as it likes, so eight idle connections
stop eight threads. Here each connection has a thread of its own, each phase of a request has a deadline, each
address has a bound, and only what computes takes one of the few slots. Where an address has too many
connections, the newest is served and the one that has kept us waiting longest is closed: a refusal would
shut out everybody behind the same proxy.
"""

import contextlib
import errno
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from enum import IntEnum
from typing import Protocol

from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]
from gunicorn.workers.gthread import TConn, ThreadWorker  # type: ignore[import-untyped]
from typing_extensions import Buffer

from coreset_backend.web.callers import caller_of

MOST_CONNECTIONS = 512
MOST_FOR_AN_ADDRESS = 128
# Threads above the connections: a closed one takes a moment to end.
THREADS = MOST_CONNECTIONS + 64
COMPUTING = 8
# An honest client has sent its head by then, however busy the machine is.
YOUNG_S = 1.0
ALWAYS_ANSWERED = ("/", "/health")
# A stopping process waits no longer than this for a client.
LAST_PATIENCE_S = 1.0


class Phase(IntEnum):
    """What is expected of the client, in the order in which connections are given up."""

    LEAVE = 0
    HEAD = 1
    BODY = 2
    TAKE_ANSWER = 3


PATIENCE_S = {Phase.LEAVE: 2.0, Phase.HEAD: 10.0, Phase.BODY: 60.0, Phase.TAKE_ANSWER: 60.0}
"""Seconds for a whole phase, however steadily the bytes drip; Label Studio itself waits at most 100 s."""


class ClientSocket(socket.socket):
    """A connection whose client has a deadline: past it, reads and writes fail as if the client had left."""

    phase = Phase.HEAD
    since = 0.0
    waits = False
    slots: threading.Semaphore | None = None

    def expect(self, phase: Phase) -> None:
        """Begin a phase of the request."""
        self.phase, self.since = phase, time.monotonic()

    def recv(self, size: int, flags: int = 0) -> bytes:
        with self._waiting():
            return super().recv(size, flags)

    def sendall(self, data: Buffer, flags: int = 0) -> None:
        if self.phase is Phase.BODY:
            self.expect(Phase.TAKE_ANSWER)
        with self._waiting():
            super().sendall(data, flags)

    def waited(self) -> float:
        """Seconds that the client has kept us waiting in this phase; 0 while we compute."""
        return time.monotonic() - self.since if self.waits or self.phase is Phase.HEAD else 0.0

    def worth(self) -> tuple[bool, int, float]:
        """The order in which connections are given up, lowest first."""
        young = self.waited() < YOUNG_S
        return young, 0 if young else self.phase, self.since

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        allowed = self.gettimeout()
        left = self.since + PATIENCE_S[self.phase] - time.monotonic()
        if left <= 0:
            raise _gone()
        self.settimeout(min(left, math.inf if allowed is None else allowed))
        self.waits = True
        if self.slots:
            self.slots.release()
        try:
            yield
        except TimeoutError:
            raise _gone() from None
        finally:
            self.waits = False
            self.take_slot()
            self.settimeout(allowed)

    def take_slot(self) -> None:
        """Wait for a slot to compute in, at no cost to the client's time."""
        if self.slots:
            began = time.monotonic()
            self.slots.acquire()
            self.since += time.monotonic() - began


def _gone() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "the client was too slow")


class _Readable(Protocol):
    def read(self, size: int) -> bytes: ...


class _Body(Protocol):
    reader: _Readable


class _Request(Protocol):
    """What we use of gunicorn's request; with ``must_close`` the answer says that the connection ends."""

    path: str
    body: _Body
    must_close: bool


class _Reader:
    """A request's body; as long as it is not read to its end, the answer says that the connection ends.

    gunicorn would say that it stays, and close it all the same where much is unread. Malformed chunks read as
    a client that left in the middle, which Flask knows about.
    """

    def __init__(self, request: _Request) -> None:
        self._request, self._reader = request, request.body.reader
        self._must_close = request.must_close
        request.must_close = self._must_close or not self._is_at_end()

    def read(self, size: int) -> bytes:
        try:
            data = self._reader.read(size)
        except ParseException as error:
            raise OSError(errno.EBADMSG, str(error)) from error
        if self._is_at_end() or (size and not data):
            self._request.must_close = self._must_close
        return data

    def _is_at_end(self) -> bool:
        """Whether a body of known length has been read; of another only an empty read tells."""
        return getattr(self._reader, "length", None) == 0


class Connection(TConn):  # type: ignore[misc]
    """One client's connection, among those of its worker."""

    def __init__(
        self,
        cfg: object,
        sock: socket.socket,
        address: object,
        server: object,
        among: set["Connection"],
    ) -> None:
        super().__init__(cfg, ClientSocket(fileno=sock.detach()), address, server)
        self.data_ready = True  # else gunicorn waits with a selector of its own
        self.caller = caller_of(address[0] if isinstance(address, tuple) else "")
        self.ended = False
        self.sock.expect(Phase.HEAD)
        self._among = among
        among.add(self)

    def end(self) -> None:
        """Let its thread find that the client has left."""
        self.ended = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self, graceful: bool = False) -> None:
        """Close at once: its thread has waited already for the client to take the answer."""
        self._among.discard(self)
        super().close()


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker: a thread and deadlines for each connection, a bound for each address."""

    def __init__(self, *given: object, **more: object) -> None:
        super().__init__(*given, **more)
        self.connections: set[Connection] = set()
        self.slots = threading.Semaphore(COMPUTING)

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection, at the cost of the slowest one where there are too many."""
        try:
            client, address = listener.accept()
        except OSError:  # it has left already
            return
        connection = Connection(self.cfg, client, address, listener.getsockname(), self.connections)
        self.nr_conns += 1
        self._make_room_for(connection)
        self.enqueue_req(connection)

    def _make_room_for(self, newest: Connection) -> None:
        """End one connection where there are too many: the slowest of the address, or of the busiest one."""
        present = Counter(each.caller for each in self.connections if not each.ended)
        if present[newest.caller] > MOST_FOR_AN_ADDRESS:
            self._slowest_of(newest.caller, newest).end()
        elif present.total() > MOST_CONNECTIONS:
            self._slowest_of(present.most_common(1)[0][0], newest).end()

    def _slowest_of(self, caller: str, newest: Connection) -> Connection:
        """The connection of ``caller`` that has kept us waiting longest; ``newest`` where none does.

        Of those that are no longer young, one that has sent a head is given up last.
        """
        waiting = [
            each
            for each in self.connections
            if each.caller == caller and each is not newest and not each.ended and each.sock.waited()
        ]
        return min(waiting, key=lambda each: each.sock.worth(), default=newest)

    def handle(self, conn: Connection) -> object:
        """Serve one request in a thread of the connection's own; whether the connection is kept."""
        conn.sock.expect(Phase.HEAD)
        kept = super().handle(conn)
        if kept:
            conn.sock.expect(Phase.HEAD)
        else:
            _see_off(conn.sock)
        return kept

    def handle_request(self, req: _Request, conn: Connection) -> bool:
        """Answer the request whose head has come, in one of the slots for what computes."""
        conn.sock.expect(Phase.BODY)
        req.body.reader = _Reader(req)
        if req.path in ALWAYS_ANSWERED:
            return bool(super().handle_request(req, conn))
        conn.sock.slots = self.slots
        conn.sock.take_slot()
        try:
            return bool(super().handle_request(req, conn))
        finally:
            conn.sock.slots = None
            self.slots.release()

    def murder_pending(self) -> None:
        """Called in each turn of the loop: once the process stops, wait for nobody who is slow."""
        super().murder_pending()
        if not self.alive:
            for connection in list(self.connections):
                if connection.sock.waited() > LAST_PATIENCE_S:
                    connection.end()


def _see_off(sock: ClientSocket) -> None:
    """Let the client take its answer: closing on unread bytes would reset the connection before it has."""
    sock.expect(Phase.LEAVE)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass
