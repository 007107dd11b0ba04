"""The objects of a bucket, by obstore: each is written whole or not at all, and created by one of many hosts.

Requests are tried again while the bucket does not answer, for a few seconds or, for a patient process, for a
minute. Credentials, region and endpoint come from the AWS_* variables, as other programs read them.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from coreset_backend.errors import ConfigError, StorageError
from coreset_backend.files import replacing, saving
from coreset_backend.settings.model_dir import bucket_and_prefix

if TYPE_CHECKING:
    from obstore import ObjectMeta

with contextlib.suppress(ImportError):  # the extra `s3`
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError, NotModifiedError, PreconditionError
    from obstore.store import S3Store

PIECE_BYTES = 8_000_000
"""So much of an object is read or written by one request."""
MOST_PIECES = 9_000
"""S3 takes 10,000 pieces of an object."""
REMEMBERED_BYTES, LARGEST_REMEMBERED = 64_000_000, 8_000_000
REGION = "The bucket is in another region than AWS_REGION says. Set AWS_REGION to the bucket's."
FIXES = {
    "NoSuchBucket": "There is no such bucket. Create it, or correct MODEL_DIR and AWS_ENDPOINT_URL.",
    "InvalidAccessKeyId": "Nobody has that AWS_ACCESS_KEY_ID there. Correct it and AWS_SECRET_ACCESS_KEY.",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID. Correct them.",
    "ExpiredToken": "AWS_SESSION_TOKEN has expired. Set new credentials and restart.",
    "RequestTimeTooSkewed": "The clock of this machine is wrong. Set it, as by NTP.",
    "AuthorizationHeaderMalformed": REGION,
    "incorrectly configured region": REGION,
    "AccessDenied": "The credentials may not do that. Allow s3:ListBucket on the bucket, and s3:GetObject, "
    "s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on its objects.",
    "NotImplemented": "It lacks a part of S3 that the store needs, such as conditional writes.",
    "invalid path": "An object there has an empty part, '.' or '..' in its key. Remove it.",
    "/latest/api/token": "There are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
}
"""What stands in the answer of S3 -> what to do."""
AWAY = "It does not answer as an S3 does. Check AWS_ENDPOINT_URL and the network; requests are tried again."


class NoObject(Exception):
    """There is no object of that key; the message is the answer."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing; ``changed`` is by the clock of the object store."""

    key: str
    tag: str
    changed: datetime


class Objects:
    """The objects below ``address``, as in s3://bucket/prefix, by key.

    Every method raises StorageError if the bucket cannot be used. A process must not fork once a method was
    called: the child would wait forever at its first own call.
    """

    def __init__(self, address: str, *, patient: bool = False) -> None:
        if "S3Store" not in globals():
            raise ConfigError(f"{address} needs obstore. Run: pip install 'coreset-backend[s3]'")
        self.address = address
        self._store = _opened(*bucket_and_prefix(address), patient)
        self._remembered: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._lock = Lock()
        self._listings = ContextVar[dict[str, list[Listed]] | None]("listings", default=None)

    @contextlib.contextmanager
    def as_of_now(self) -> Iterator[None]:
        """For the length of the block, each project's folder is listed once, and only what changed is read.

        What other hosts change meanwhile may stay unseen: for what only reads.
        """
        token = self._listings.set({})
        try:
            yield
        finally:
            self._listings.reset(token)

    def place(self, key: str) -> str:
        return f"{self.address}/{key}"

    def get(self, key: str) -> bytes | None:
        """The content of the object; None without one. An unchanged one is not read again."""
        tag, known = self._remembered.get(key, ("", b""))
        if self._listings.get() is not None and key.startswith("projects/"):
            listed = {each.key: each.tag for each in self.below("/".join(key.split("/")[:2]))}
            if key not in listed:
                return None
            if tag == listed[key]:
                return known
        try:
            with self._asking(key):
                found = obstore.get(self._store, key, options={"if_none_match": tag} if tag else {})
                if found.meta["size"] > PIECE_BYTES:
                    return b"".join(self._pieces(key, found.meta))
                content = bytes(found.bytes())
        except NotModifiedError:
            return known
        except NoObject as error:
            if "NoSuchKey" not in str(error):  # it was not S3 that did not know the address
                raise StorageError(self.place(key), AWAY, str(error)) from None
            return None
        self._remember(key, found.meta["e_tag"], content)
        return content

    def put(self, key: str, content: bytes | Path) -> str:
        """Write the object, or replace it; returns its tag."""
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        piece = max(PIECE_BYTES, size // MOST_PIECES)
        self._changes()
        with self._asking(key):
            return obstore.put(self._store, key, content, chunk_size=piece, max_concurrency=2)["e_tag"] or ""

    def create(self, key: str, content: bytes) -> bool:
        """Write the object if there is none; whether it was this call that did.

        If the answer to a first try is lost, a second one finds the object that the first has made.
        """
        self._changes()
        try:
            with self._asking(key):
                obstore.put(self._store, key, content, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return self.get(key) == content
        return True

    def download(self, key: str, path: Path) -> None:
        """Write the object to ``path``, whole or not at all. Raises NoObject and Unwritable."""
        with self._asking(key):
            about = obstore.head(self._store, key)
        with saving(path), replacing(path, durable=False) as partial, partial.open("wb") as file:
            for piece in self._pieces(key, about):
                file.write(piece)

    def _pieces(self, key: str, about: "ObjectMeta") -> Iterator[bytes]:
        """The content, of which a slow network brings a piece in time, not the whole."""
        try:
            for start in range(0, about["size"], PIECE_BYTES):
                part = start, min(start + PIECE_BYTES, about["size"])
                with self._asking(key):
                    found = obstore.get(self._store, key, options={"range": part, "if_match": about["e_tag"]})
                    piece = bytes(found.bytes())
                yield piece
        except PreconditionError as error:
            raise StorageError(
                self.place(key), "It was replaced while it was read; try again.", str(error)
            ) from None

    def below(self, key: str) -> list[Listed]:
        """All objects below the folder; the empty one that some programs make for the folder is none."""
        listings = self._listings.get()
        if listings is not None and key in listings:
            return listings[key]
        with self._asking(key):
            found = obstore.list(self._store, key).collect()
        listed = [
            Listed(each["path"], each["e_tag"] or "", each["last_modified"])
            for each in found
            if each["path"] != key
        ]
        if listings is not None:
            listings[key] = listed
        return listed

    def folders(self, key: str) -> list[str]:
        """Names of the folders in the folder."""
        with self._asking(key):
            found = obstore.list_with_delimiter(self._store, key)["common_prefixes"]
        return [folder.rpartition("/")[2] for folder in found]

    def copy(self, key: str, to: str) -> None:
        self._changes()
        with self._asking(key):
            obstore.copy(self._store, key, to)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the objects, in this order, as far as there are any."""
        self._changes()
        for key in keys:
            with contextlib.suppress(NoObject), self._asking(key):
                obstore.delete(self._store, key)

    def _changes(self) -> None:
        """What was listed is no longer so."""
        if listings := self._listings.get():
            listings.clear()

    def _remember(self, key: str, tag: str | None, content: bytes) -> None:
        with self._lock:
            self._remembered.pop(key, None)
            if tag and len(content) <= LARGEST_REMEMBERED:
                self._remembered[key] = tag, content
            while sum(len(held) for _, held in self._remembered.values()) > REMEMBERED_BYTES:
                self._remembered.popitem(last=False)

    @contextlib.contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        """Raises NoObject if there is none."""
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise StorageError(self.place(key), FIXES["NoSuchBucket"], str(error)) from None
            raise NoObject(str(error)) from None
        except (AlreadyExistsError, NotModifiedError, PreconditionError):
            raise
        except (BaseError, OSError, ValueError) as error:
            said = str(error)
            fix = next((fix for word, fix in FIXES.items() if word in said), AWAY)
            raise StorageError(self.place(key), fix, said) from None


def _opened(bucket: str, prefix: str, patient: bool) -> "S3Store":
    return S3Store(
        bucket,
        prefix=prefix or None,
        config={"disable_bulk_delete": True},  # not every S3 has it
        client_options={
            "allow_http": True,  # AWS_ENDPOINT_URL says which
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=60 if patient else 10),
        },
        retry_config={
            "max_retries": 20,
            "retry_timeout": timedelta(seconds=60 if patient else 3),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        },
    )
