"""Log lines: text or JSON, each saying which project and round it is about, and no secret in any."""

import base64
import json
import logging
import re
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from coreset_backend.settings import Settings

HIDDEN = "***"
# What gives itself away, whoever's it is: credentials of HTTP, JWTs, signatures in addresses, user:pass@host.
_GIVEAWAYS = (
    (re.compile(r"\b(Token|Bearer|Basic)(\s+)[\w.~+/=-]{16,}", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*"), HIDDEN),
    (
        re.compile(r"([?&][\w-]*(?:sig|token|secret|password|key|credential)[\w-]*=)[^&\s\"']+", re.I),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(://)[^/\s@\"']+@"), rf"\1{HIDDEN}@"),
)
_about: ContextVar[tuple[tuple[str, int], ...]] = ContextVar("about", default=())


def about(**what: int) -> None:
    """Have the lines of this thread say from now on what they are about, as ``project=7, round=3``."""
    _about.set(tuple(what.items()))


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """Everything in the settings that no log line and no answer may hold, the longest first."""
    held = (getattr(settings, name) for name in Settings.model_fields)
    found = {value.get_secret_value() for value in held if isinstance(value, SecretStr)}
    if settings.basic_auth_user and settings.basic_auth_pass:
        pair = f"{settings.basic_auth_user}:{settings.basic_auth_pass.get_secret_value()}"
        found.add(base64.b64encode(pair.encode()).decode())
    if password := urlsplit(settings.redis_url or "").password:
        found |= {password, unquote(password)}
    return tuple(sorted((secret for secret in found if len(secret) > 3), key=len, reverse=True))


def redacted(text: str, secrets: Iterable[str]) -> str:
    """``text`` with ``secrets``, and whatever looks like one, replaced by three stars."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for pattern, instead in _GIVEAWAYS:
        text = pattern.sub(instead, text)
    return text


class Lines(logging.Formatter):
    """One line of text for each record or, with ``as_json``, one JSON object."""

    def __init__(self, secrets: Iterable[str], as_json: bool) -> None:
        super().__init__("%(message)s" if as_json else "%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._secrets, self._as_json = tuple(secrets), as_json

    def format(self, record: logging.LogRecord) -> str:
        text = redacted(super().format(record), self._secrets)
        if not self._as_json:
            return text
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": text,
            "process": record.process,
        }
        return json.dumps(line | dict(_about.get()), ensure_ascii=False)


def configure_logging(settings: Settings) -> None:
    """Have this process log to standard error as the settings say."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(Lines(secrets_of(settings), settings.log_format == "json"))
    logging.basicConfig(level=settings.log_level, handlers=[lines], force=True)
    for name in ("httpx", "httpcore", "urllib3"):  # whole addresses and headers, of every request
        logging.getLogger(name).setLevel(logging.WARNING)
