"""Sends one request to Label Studio: signed, bounded in size and time, retried if that is safe."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypedDict, Unpack

import httpx

from coreset_backend.errors import Unreachable
from coreset_backend.label_studio.answers import Fields
from coreset_backend.label_studio.auth import TokenAuth, read_answer, read_object
from coreset_backend.network.outbound import TRUST_ADVICE, Proxy, retry_after, tls_context

PASSING = (500, 502, 503, 504)
LONGEST_PAUSE = 30.0
"""Seconds: a longer Retry-After of a busy Label Studio is not waited for in full."""
# Label Studio recounts the whole project inside the import request: 34 s at 20,000 tasks.
PATIENT = httpx.Timeout(30.0, read=600.0)


class Options(TypedDict, total=False):
    """What a request may carry: ``params`` stand behind the question mark of its address."""

    params: Mapping[str, str | int]
    json: object
    timeout: httpx.Timeout | float


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of an answer's body: ``size`` bytes, and ``seconds`` plus one second per ``rate`` bytes."""

    size: int = 256_000_000
    seconds: float = 60.0
    rate: int = 50_000


LIMITS = Limits()


class Api:
    """The API of the Label Studio at ``url``, with one pool of kept-alive connections.

    ``pauses``: seconds between the attempts of a request; there is one attempt more than pauses.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        verify: bool = True,
        proxy: Proxy | None = None,
        pauses: Sequence[float] = (1.0, 2.0),
        limits: Limits = LIMITS,
    ) -> None:
        self._pauses = pauses
        self._date = ""
        self.url = url.rstrip("/")
        self.auth = TokenAuth(self.url, api_key)
        self._proxy = proxy
        self._client = httpx.Client(
            auth=self.auth,
            verify=tls_context(verify),
            proxy=proxy.for_httpx() if proxy else None,
            trust_env=False,  # network/outbound.py decides on the proxy, for images too
            timeout=httpx.Timeout(30.0, connect=5.0),
            follow_redirects=False,
            headers={"Accept-Encoding": "identity"},
            event_hooks={"response": [lambda response: _bound_body(response, limits)]},
        )

    def close(self) -> None:
        self._client.close()

    @property
    def clock(self) -> datetime | None:
        """The time on Label Studio's clock at the last answer, rounded up to a second; None if unsaid."""
        try:
            return parsedate_to_datetime(self._date).astimezone(UTC) + timedelta(seconds=1)
        except (ValueError, OverflowError):
            return None

    def request(self, method: str, path: str, **options: Unpack[Options]) -> object:
        """The JSON of the answer; None if it has no body.

        A GET is retried if the server does not answer or answers 5xx, any method if it answers 429. Raises
        Unreachable, Unauthorized or Rejected.
        """
        return read_answer(self._send(method, path, options), f"{method} {path}")

    def request_object(
        self, method: str, path: str, expect: Collection[str], **options: Unpack[Options]
    ) -> Fields:
        """The JSON object of the answer, which has the keys of ``expect``; otherwise as ``request``."""
        return read_object(self._send(method, path, options), f"{method} {path}", expect)

    def _send(self, method: str, path: str, options: Options) -> httpx.Response:
        for pause in (*self._pauses, None):
            try:
                response = self._client.request(method, self.url + path, **options)
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
                if pause is None or method != "GET":
                    raise Unreachable(_unreachable(self.url, self._proxy, error)) from error
            else:
                busy = response.status_code == 429 or (method == "GET" and response.status_code in PASSING)
                if pause is None or not busy:
                    self._date = response.headers.get("date", "")
                    return response
                asked = retry_after(response.headers.get("retry-after")) or 0.0
                pause = max(pause, min(asked, LONGEST_PAUSE))
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def _unreachable(url: str, proxy: Proxy | None, error: Exception) -> str:
    if "CERTIFICATE" in str(error).upper():
        return f"The certificate of Label Studio at {url} is not trusted ({error}). {TRUST_ADVICE}"
    if "WRONG_VERSION_NUMBER" in str(error):
        return f"{url} does not speak TLS: LABEL_STUDIO_URL should begin with http://, or name another port."
    by = f" through the proxy {proxy} (CORESET_LABEL_STUDIO_PROXY)" if proxy else ""
    return (
        f"Label Studio at {url} does not answer{by} ({type(error).__name__}: {error}). "
        "Check that it runs and that LABEL_STUDIO_URL is the address at which this process reaches it; "
        "in a container, 'localhost' is the container itself."
    )


# ---------------------------------------------------------------- bounds on a body


class _BoundedBody(httpx.SyncByteStream):
    """The body of an answer; reading beyond the limits raises Unreachable."""

    def __init__(self, stream: httpx.SyncByteStream, limits: Limits, request: str) -> None:
        self._stream, self._limits, self._request = stream, limits, request

    def __iter__(self) -> Iterator[bytes]:
        limits, started, size = self._limits, time.monotonic(), 0
        for chunk in self._stream:
            size += len(chunk)
            if size > limits.size:
                raise Unreachable(
                    f"The answer to {self._request} is larger than the limit of {limits.size:,} bytes."
                )
            if time.monotonic() - started > limits.seconds + size / limits.rate:
                raise Unreachable(
                    f"The answer to {self._request} is too slow: {size:,} bytes in "
                    f"{time.monotonic() - started:.0f} s. Check the network and the load of Label Studio."
                )
            yield chunk

    def close(self) -> None:
        self._stream.close()


def _bound_body(response: httpx.Response, limits: Limits) -> None:
    """Read the body of the answer within the limits. Raises Unreachable if it is compressed."""
    request = f"{response.request.method} {response.request.url.path}"
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):  # a few bytes may unpack to gigabytes
        raise Unreachable(
            f"{request} was answered in the encoding {encoding[:40]!r}; an unencoded answer was requested. "
            "Make the proxy in front of Label Studio respect 'Accept-Encoding: identity'."
        )
    assert isinstance(response.stream, httpx.SyncByteStream)
    response.stream = _BoundedBody(response.stream, limits, request)
