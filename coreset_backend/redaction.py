"""Removes secrets from every text: errors, logs, pages, answers and Redis.

A process passes each secret that it reads to `keep_secret`. `redacted` then replaces it in any text, in
every form in which libraries write it: percent-encoded, base64, escaped as in `repr` and JSON.
"""

import base64
import html
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import quote, quote_plus

HIDDEN = "***"
SHORTEST = 4
"""Length of the shortest secret that is replaced: a shorter one would match ordinary words."""
UNMISTAKABLE = 8
"""A shorter secret is replaced as a whole word only, a longer one also inside words."""
LEAST_BASE64 = 6
"""Least number of base64 characters that depend on the secret alone; with fewer, other texts would match."""
# Patterns of foreign secrets: HTTP credentials, JWTs, signatures in addresses, user:pass@host. Each pattern
# is bounded or starts at a word boundary; otherwise a long word takes quadratic time.
_SECRET_NAME = r"[\w-]{0,64}(?:sig|token|secret|passwo?r?d|key|credential)[\w-]{0,64}"
_GIVEAWAYS = (
    (re.compile(r"\b(Token|Bearer|Basic)(\s+)[\w.~+/=-]{16,}", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    (re.compile(r"(?<![\w-])eyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*"), HIDDEN),
    (re.compile(rf"((?:[?&]|%3F|%26){_SECRET_NAME}(?:=|%3D))(?:(?!%26)[^&\s\"'])+", re.I), rf"\1{HIDDEN}"),
    (re.compile(rf"((['\"]){_SECRET_NAME}\2\s*:\s*(['\"]))(?:(?!\3)[^\\]|\\.)+", re.I), rf"\1{HIDDEN}"),
    (re.compile(r"(://)[^/\s@\"']+@"), rf"\1{HIDDEN}@"),
)
_kept: set[str] = set()


def keep_secret(*secrets: str | None, instead_of: str = "") -> None:
    """Make `redacted` replace these secrets from now on; ``instead_of``: an expired one to forget."""
    _kept.discard(instead_of)
    for secret in secrets:
        if secret and len(secret) >= SHORTEST:
            _kept.add(secret)


def redacted(text: str) -> str:
    """``text`` with every kept secret, and everything that looks like a secret, replaced by three stars."""
    if _kept:
        text = _pattern(frozenset(_kept)).sub(HIDDEN, text)
    for pattern, instead in _GIVEAWAYS:
        text = pattern.sub(instead, text)
    return text


@lru_cache(maxsize=4)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    """Matches every form of each secret, the longest first: one secret may begin with another."""
    forms = {form: pattern for secret in secrets for form, pattern in _forms(secret)}
    longest_first = sorted(forms, key=len, reverse=True)
    return re.compile("|".join(forms[form] for form in longest_first))


def _forms(secret: str) -> Iterator[tuple[str, str]]:
    """(form, regular expression for it) for each way in which libraries write the secret."""
    whole_word = len(secret) < UNMISTAKABLE
    for form in {
        secret,
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        repr(secret.encode())[2:-1],
        html.escape(secret),
    }:
        yield form, rf"(?<!\w){re.escape(form)}(?!\w)" if whole_word else re.escape(form)
    for form in {quote(secret), quote(secret, safe=""), quote_plus(secret)} - {secret}:
        yield form, f"(?i:{re.escape(form)})"
    for form in _in_base64(secret.encode()):
        yield form, rf"(?<![\w+/-])[\w+/-]*{re.escape(form)}[\w+/=-]*"


def _in_base64(secret: bytes) -> Iterator[str]:
    """The base64 characters that depend on the secret alone, for each of its three alignments in a text."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret).decode().rstrip("=")
        first = (0, 2, 3)[before]  # characters that depend on the preceding bytes too
        last = len(encoded) - bool((before + len(secret)) % 3)
        if last - first >= LEAST_BASE64:
            yield encoded[first:last]
            yield encoded[first:last].translate(str.maketrans("+/", "-_"))
