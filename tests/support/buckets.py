"""A real server of S3, moto's, as a process of its own; buckets on it; and a wire to it that can fail."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from waiting import wait_until

from coreset_backend.local.label_studio import free_port
from coreset_backend.store.bucket import Bucket
from coreset_backend.store.objects import Objects
from coreset_backend.store.store import Store

SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"}
"""Enough for moto to see that a request is for S3."""


@dataclass(frozen=True)
class S3Server:
    """The address of the server; ``environment`` leads whatever reads AWS_* to it."""

    port: int

    @property
    def environment(self) -> dict[str, str]:
        return environment_to(self.port)

    def make_bucket(self, name: str) -> None:
        self._send("PUT", name).raise_for_status()

    def put_stray(self, key: str) -> None:
        """An object with any key at all, in the bucket `rounds`."""
        self._send("PUT", f"rounds/{key}", b"stray")

    def require_credentials(self, *, required: bool) -> None:
        """Whether the server refuses keys that it does not know."""
        self._send("POST", "moto-api/reset-auth", b"0" if required else b"inf").raise_for_status()

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return self._send("GET", "moto-api/").status_code == 200
        return False

    def _send(self, method: str, path: str, content: bytes = b"") -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}/{path}"
        return httpx.request(method, url, headers=SIGNED, content=content, trust_env=False, timeout=60)


def environment_to(port: int) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key-of-the-tests",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    }


@contextlib.contextmanager
def running_s3() -> Iterator[S3Server]:
    """The server, with a bucket `rounds`."""
    server = S3Server(free_port())
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(server.port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(server.answers, "moto's server", pause=0.05)
            server.make_bucket("rounds")
            yield server
        finally:
            process.terminate()


@dataclass
class InFolder:
    """A store in a folder, and its files behind its back."""

    root: Path

    @property
    def store(self) -> Store:
        """The store as a process opens it that has just started, on any host."""
        return Store(self.root)

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def write(self, key: str, content: bytes) -> None:
        (self.root / key).write_bytes(content)

    def folders(self, key: str) -> list[str]:
        return [path.name for path in (self.root / key).iterdir()] if (self.root / key).is_dir() else []

    def move(self, key: str, to: str) -> None:
        (self.root / key).rename(self.root / to)


@dataclass
class InBucket:
    """A store in a bucket, and its objects behind its back."""

    address: str
    copies: Path

    @property
    def store(self) -> Store:
        """The store as a host opens it that has no copies yet."""
        hosts = len(list(self.copies.glob("host-*")))
        (local := self.copies / f"host-{hosts}").mkdir(parents=True)
        return Store(Bucket(self.address, local))

    @property
    def objects(self) -> Objects:
        return Objects(self.address)

    def read(self, key: str) -> bytes:
        content = self.objects.get(key)
        assert content is not None
        return content

    def write(self, key: str, content: bytes) -> None:
        self.objects.put(key, content)

    def folders(self, key: str) -> list[str]:
        return self.objects.folders(key)

    def move(self, key: str, to: str) -> None:
        for each in self.objects.below(key):
            self.objects.copy(each.key, to + each.key.removeprefix(key))
            self.objects.delete([each.key])


def flip_in(place: InFolder | InBucket, key: str, at: float = 0.5) -> None:
    """Alter one bit of the file, ``at`` of the way through it."""
    content = bytearray(place.read(key))
    content[int(at * (len(content) - 1))] ^= 1
    place.write(key, bytes(content))
