"""Small HTTP servers of the tests' own."""

import contextlib
import threading
from collections.abc import Iterator
from socketserver import TCPServer


@contextlib.contextmanager
def serving(server: TCPServer) -> Iterator[str]:
    """The address of ``server``, which answers in a thread of its own while the block runs."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
