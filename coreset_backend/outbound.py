"""How this process speaks to servers: for now, how long a busy one asks to wait."""

import email.utils
import time
from datetime import UTC


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait, at least 0; None where it has neither of its forms."""
    text = (header or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        until = email.utils.parsedate_to_datetime(text)
        # A date whose zone is "-0000" is parsed to one without a zone, and is in UTC.
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, until.timestamp() - time.time())
    except (ValueError, OverflowError, TypeError, LookupError):
        return None
