"""A wire between two processes that a test can slow down, silence, cut, or hold at a word."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ports import kept


@dataclass
class Hold:
    """Once the server has answered to ``word``, it is ``reached``; such answers wait until ``release``."""

    word: bytes
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        self.released.set()


class TcpProxy:
    """Listens at ``port`` of this machine and passes bytes to and from what ``dial`` connects to.

    ``asked`` counts the pieces that clients sent. ``delay`` is waited before each piece is passed on. ``cut``
    resets all connections and refuses new ones, ``silence`` lets nothing through and says nothing, ``heal``
    ends both.
    """

    def __init__(self, dial: Callable[[], socket.socket]) -> None:
        self.delay, self.asked = 0.0, 0
        self._dial = dial
        self._passing = threading.Event()
        self._passing.set()
        self._hold: Hold | None = None
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._keeper: socket.socket | None = None
        self.port = 0
        self._listen()

    def hold(self, word: bytes) -> Hold:
        """Hold each connection to the server that says ``word``: who gives up waiting may say it again."""
        self._hold = Hold(word)
        return self._hold

    def silence(self) -> None:
        self._passing.clear()

    def cut(self) -> None:
        if self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener, self._keeper = None, kept(self.port)
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def heal(self) -> None:
        self._passing.set()
        if self._listener is None:
            self._listen()

    def close(self) -> None:
        self._passing.set()
        if self._hold:
            self._hold.release()
        self.cut()
        if self._keeper:
            self._keeper.close()

    def _listen(self) -> None:
        if self._keeper:
            self._keeper.close()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=100)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = self._dial()
                except OSError:
                    client.close()
                    continue
                self._open |= {client, server}
                held: list[Hold] = []
                for source, sink, asks in ((client, server, True), (server, client, False)):
                    thread = threading.Thread(target=self._pump, args=(source, sink, asks, held), daemon=True)
                    thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, asks: bool, held: list[Hold]) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                self.asked += asks
                if self.delay:
                    time.sleep(self.delay)
                self._passing.wait()
                hold = self._hold
                if asks and hold and hold.word in piece:
                    held.append(hold)
                if not asks and held:
                    held[-1].reached.set()
                    held[-1].released.wait()
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._open.discard(end)


@contextlib.contextmanager
def proxied(dial: Callable[[], socket.socket]) -> Iterator[TcpProxy]:
    """A proxy for the length of the block."""
    proxy = TcpProxy(dial)
    try:
        yield proxy
    finally:
        proxy.close()
