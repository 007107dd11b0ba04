"""Log lines as text or JSON, with their project and round, and without secrets."""

import json
import logging
import sys
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType

from coreset_backend.foreign_text import one_line
from coreset_backend.redaction import redacted
from coreset_backend.settings import Settings

log = logging.getLogger(__name__)
LONGEST_MESSAGE = 4000
_context: ContextVar[tuple[tuple[str, int], ...]] = ContextVar("about", default=())


def set_log_context(**what: int) -> None:
    """Set the context of this thread's log lines, as in ``project=7, round=3``."""
    _context.set(tuple(what.items()))


class LogFormatter(logging.Formatter):
    """Formats a record as one line of text or, with ``as_json``, as one JSON object.

    A traceback follows in lines that begin with ``  | ``, so that no part of it can look like a record.
    """

    def __init__(self, as_json: bool) -> None:
        super().__init__("%(message)s" if as_json else "%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        record.message = one_line(redacted(record.getMessage()), LONGEST_MESSAGE)
        record.asctime = self.formatTime(record, self.datefmt)
        traceback = redacted(self.formatException(record.exc_info)) if record.exc_info else ""
        text = "\n  | ".join([self.formatMessage(record), *map(one_line, traceback.splitlines())])
        if not self._as_json:
            return text
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": text,
            "process": record.process,
        }
        return json.dumps(line | dict(_context.get()), ensure_ascii=False)


def configure_logging(settings: Settings) -> None:
    """Log to standard error by the settings, uncaught errors included."""
    form = LogFormatter(settings.log_format == "json")
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(form)
    logging.basicConfig(level=settings.log_level, handlers=[lines], force=True)
    for name in ("httpx", "httpcore", "urllib3"):  # they log whole addresses and headers of every request
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("gunicorn.error", "gunicorn.access"):  # they have handlers of their own
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(form)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Log an uncaught error; Python's own hook would print it with its secrets."""
    if not issubclass(kind, KeyboardInterrupt):
        log.critical("an unexpected error ends the process", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(failed: threading.ExceptHookArgs) -> None:
    name = failed.thread.name if failed.thread else "?"
    error = failed.exc_value or failed.exc_type()
    log.critical(
        "an unexpected error ends thread %s", name, exc_info=(failed.exc_type, error, failed.exc_traceback)
    )
