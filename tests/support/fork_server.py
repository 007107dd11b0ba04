"""The process that `forked.py` has its commands forked from: it has imported what they need, in one thread.

It listens in the folder given. Each caller holds one connection open while it may want commands; when none is
left, the process removes the folder and ends. A command has a connection of its own: a request comes in, its
pid goes out, and its exit status when it has ended. A command whose connection breaks is killed.
"""

import contextlib
import fcntl
import gc
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import threading
import traceback
from dataclasses import dataclass, field
from importlib import import_module, reload
from pathlib import Path
from typing import Any

IMPORTED = ("coreset_backend.cli.export", "coreset_backend.cli.work")
SOCKET, LOCK = "socket", "lock"
READY = b"ready\n"


@dataclass
class ForkServer:
    """Its connections, and the connection of each command by a descriptor of its process."""

    listener: socket.socket
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    callers: set[socket.socket] = field(default_factory=set)
    commands: dict[int, tuple[int, socket.socket]] = field(default_factory=dict)

    def serve(self) -> dict[str, Any] | None:
        """In a forked child, what it is to run; None when the last caller has gone."""
        self.selector.register(self.listener, selectors.EVENT_READ)
        began = False
        while self.callers or not began:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    self._accept()
                    began = True
                elif isinstance(key.fileobj, socket.socket):
                    if (asked := self._hear(key.fileobj)) and (job := self._fork(asked, key.fileobj)):
                        return job
                elif key.fd in self.commands:
                    self._tell(key.fd)
        return None

    def _accept(self) -> None:
        caller = self.listener.accept()[0]
        self.callers.add(caller)
        self.selector.register(caller, selectors.EVENT_READ)
        caller.sendall(READY)

    def _hear(self, caller: socket.socket) -> dict[str, Any]:
        """What the caller wants; nothing if it has gone, and then its command is killed."""
        with contextlib.suppress(ConnectionError):
            if line := caller.makefile("rb").readline():
                return dict(json.loads(line))
        self._drop(caller)
        for handle, (_pid, of) in self.commands.items():
            if of is caller:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        return {}

    def _drop(self, caller: socket.socket) -> None:
        if caller in self.callers:
            self.callers.remove(caller)
            self.selector.unregister(caller)
            caller.close()

    def _fork(self, asked: dict[str, Any], caller: socket.socket) -> dict[str, Any] | None:
        """The request in the child, None in this process."""
        pid = os.fork()
        if not pid:
            self._leave()
            return asked
        handle = os.pidfd_open(pid)
        self.commands[handle] = pid, caller
        self.selector.register(handle, selectors.EVENT_READ)
        with contextlib.suppress(ConnectionError):
            caller.sendall(b"%d\n" % pid)
        return None

    def _leave(self) -> None:
        """Close in a child what is the server's."""
        for inherited in (self.listener, *self.callers, self.selector):
            inherited.close()
        for handle in self.commands:
            os.close(handle)

    def _tell(self, handle: int) -> None:
        """The exit status of an ended command, to its caller."""
        pid, caller = self.commands.pop(handle)
        self.selector.unregister(handle)
        os.close(handle)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if caller in self.callers:
            with contextlib.suppress(ConnectionError):
                caller.sendall(b"%d\n" % status)
            self._drop(caller)


def serve_in(folder: Path) -> dict[str, Any]:
    """What this process is to run, once it is a command; the server itself ends here."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "not-yet"))
        listener.listen()
        (folder / "not-yet").rename(folder / SOCKET)
        if job := ForkServer(listener).serve():
            return job
        with (folder / LOCK).open("w") as lock:  # nobody starts another meanwhile
            fcntl.flock(lock, fcntl.LOCK_EX)
            shutil.rmtree(folder)
    os._exit(0)


def become(arguments: list[str], environment: dict[str, str], folder: str, stdout: str, stderr: str) -> None:
    """`python -m coreset_backend`, as if this process had just been started."""
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, "another thread ran in the process that this was forked from"
    os.environ.clear()
    os.environ.update(environment)
    if any(name.startswith("HF_") for name in environment):
        reload(import_module("huggingface_hub.constants"))  # it reads them when it is imported
    os.chdir(folder)
    for descriptor, path in ((1, stdout), (2, stderr)):
        with Path(path).open("ab") as file:
            os.dup2(file.fileno(), descriptor)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.argv = ["coreset-backend", *arguments]
    runpy.run_module("coreset_backend", run_name="__main__", alter_sys=True)


def exit_status(job: dict[str, Any]) -> int:
    """Run it to its end, with all its threads; what Python would end with."""
    try:
        become(**job)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else bool(ended.code)
    except BaseException:  # noqa: BLE001 - as at the end of any program
        traceback.print_exc()
        return 1
    finally:
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    for name in IMPORTED:
        import_module(name)
    gc.freeze()  # else a command's first search for garbage copies all that was imported
    # Not by Python's own end: onnxruntime would wait for a thread that a forked process does not have.
    os._exit(exit_status(serve_in(Path(sys.argv[1]))))
