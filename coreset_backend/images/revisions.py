"""Remembers the content at each address, so that a replaced file is noticed.

Pixels are cached by the content of their file. The table holds for each address the SHA-256 of its content
and its validator (ETag or Last-Modified; for local files time and size). Local files are checked in every
round, which costs microseconds. A server is asked about an image at most once a day, and about at most
MOST_ASKED images in a round, beginning with the images that were checked longest ago: a round of 100,000
images must not wait for 100,000 answers. A refresh, which a person asks for, lifts both limits: each entry
has the last one that it was checked for, so that every host checks all that it has read before.

The file is part of the cache: if it is lost, images are fetched again.
"""

import heapq
import itertools
import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

ASKED_AGAIN_AFTER = 86_400.0
MOST_ASKED = 1000
ASKING_SECONDS = 30.0
"""A round sends no more questions after this time, except for a refresh."""
_MOST_AT_ONCE = 500
_MOST_ROWS = 2_000_000  # 0.5 GB
_TABLE = """
CREATE TABLE IF NOT EXISTS seen (
    address TEXT PRIMARY KEY, content TEXT NOT NULL, validator TEXT NOT NULL, asked REAL NOT NULL,
    refreshed_at REAL NOT NULL DEFAULT 0
) WITHOUT ROWID
"""
_NOTE = """
INSERT INTO seen VALUES (?, ?, ?, ?, ?) ON CONFLICT (address) DO UPDATE SET
content = excluded.content, validator = excluded.validator, asked = excluded.asked,
refreshed_at = max(refreshed_at, excluded.refreshed_at)
"""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Seen(NamedTuple):
    """The content and validator of an address when it was last checked, at ``asked`` (``time.time``).

    ``refreshed_at``: the last refresh that it was checked for.
    """

    content: str
    validator: str
    asked: float
    refreshed_at: float = 0.0


class Revisions:
    """The table in the file at ``path``; safe to use from several threads and processes at once."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock, self._said_broken = path, threading.Lock(), False
        self._connection = self._opened()

    def seen(self, addresses: Iterable[str]) -> dict[str, Seen]:
        """Address -> its entry; unknown addresses are absent."""
        wanted = iter(addresses)
        found: dict[str, Seen] = {}
        while some := tuple(itertools.islice(wanted, _MOST_AT_ONCE)):
            places = ", ".join("?" * len(some))
            columns = "address, content, validator, asked, refreshed_at"
            rows = self._run(f"SELECT {columns} FROM seen WHERE address IN ({places})", some)
            found |= {row[0]: Seen(*row[1:]) for row in rows}
        return found

    def note(self, address: str, content: str, validator: str, refreshed_at: float = 0.0) -> None:
        """Remember the current content of ``address``, read for the refresh of that time or a later one."""
        self._run(_NOTE, (address, content, validator, time.time(), refreshed_at))

    def close(self) -> None:
        """Close the file."""
        if self._connection:
            self._connection.close()

    def _run(
        self, statement: str, values: tuple[object, ...] = ()
    ) -> list[tuple[str, str, str, float, float]]:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall() if self._connection else []
        except sqlite3.Error as error:  # a full disk, another process that keeps it locked
            self._say_broken(error)
            return []

    def _opened(self) -> sqlite3.Connection | None:
        try:
            connection = sqlite3.connect(
                self._path, timeout=20, isolation_level=None, check_same_thread=False
            )
            # After a power failure lost images are fetched again; a killed process loses nothing.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(_TABLE)
            self._add_refreshes(connection)
            self._forget_the_oldest(connection)
        except sqlite3.Error as error:
            self._say_broken(error)
            is_damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
            return self._opened_anew() if is_damaged else self._opened_to_read()
        return connection

    def _opened_to_read(self) -> sqlite3.Connection | None:
        """The file as it is, where nothing can be written beside it, as on a full disk."""
        try:
            place = f"{self._path.absolute().as_uri()}?mode=ro&immutable=1"
            connection = sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False)
            connection.execute("SELECT count(*) FROM seen")
        except sqlite3.Error:
            return None
        return connection

    def _opened_anew(self) -> sqlite3.Connection | None:
        for suffix in ("", "-wal", "-shm"):
            try:
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            except OSError:
                return None
        return self._opened()

    @staticmethod
    def _add_refreshes(connection: sqlite3.Connection) -> None:
        """Add the column to a file of an earlier release."""
        columns = "SELECT name FROM pragma_table_info('seen')"
        if ("refreshed_at",) in connection.execute(columns).fetchall():
            return
        connection.execute("BEGIN IMMEDIATE")  # another process may add it too
        if ("refreshed_at",) not in connection.execute(columns).fetchall():
            connection.execute("ALTER TABLE seen ADD COLUMN refreshed_at REAL NOT NULL DEFAULT 0")
        connection.execute("COMMIT")

    @staticmethod
    def _forget_the_oldest(connection: sqlite3.Connection) -> None:
        ((count,),) = connection.execute("SELECT count(*) FROM seen").fetchall()
        if count > _MOST_ROWS:
            connection.execute(
                "DELETE FROM seen WHERE address IN (SELECT address FROM seen ORDER BY asked LIMIT ?)",
                (count - _MOST_ROWS,),
            )

    def _say_broken(self, error: sqlite3.Error) -> None:
        if not self._said_broken:
            self._said_broken = True
            logger.warning("%s cannot be used (%s): images are fetched again", self._path, error)


def due(seen: Mapping[str, Seen], now: float, refreshed_at: float = 0.0) -> set[str]:
    """The addresses to check in this round: those not checked since the refresh of that time, and of the
    others those checked longest ago.

    The latter only with a validator of the server; without one each check would be a whole download.
    """
    wanted = {address for address, known in seen.items() if known.refreshed_at < refreshed_at}
    since = now - ASKED_AGAIN_AFTER
    old = (
        (known.asked, address)
        for address, known in seen.items()
        if known.validator.startswith(("etag:", "date:"))
        and address not in wanted
        and not since < known.asked <= now
    )
    return wanted | {address for _, address in heapq.nsmallest(MOST_ASKED, old)}
