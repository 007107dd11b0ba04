"""Signs requests to Label Studio with a legacy or a personal access token, and reads its answers."""

import base64
import binascii
import json
import threading
import time
from collections.abc import Collection, Generator

import httpx

from coreset_backend.errors import Rejected, Unauthorized, Unreachable
from coreset_backend.label_studio.answers import Fields
from coreset_backend.redaction import keep_secret, redacted

LONGEST_TOKEN = 10_000
LEGACY_TOKENS_OFF = (
    "This organisation does not accept legacy tokens. Set LABEL_STUDIO_API_KEY to a personal access token "
    "(Label Studio: Account & Settings > Personal Access Token), or allow legacy tokens under "
    "Organization > API Tokens Settings."
)
TOKEN_REFUSED = (
    "Label Studio does not accept the token in LABEL_STUDIO_API_KEY. Copy it again from "
    "Account & Settings (personal access token or legacy token) of a user of this Label Studio."
)


class TokenAuth(httpx.Auth):
    """Signs requests with a legacy token or a personal access token.

    A personal access token is a JWT that can only be exchanged for access tokens, each valid for five
    minutes; the next one is requested shortly before the last expires. Safe to share between threads.
    """

    requires_response_body = True

    def __init__(self, url: str, api_key: str) -> None:
        self._refresh_url = f"{url}/api/token/refresh/"
        self._api_key = api_key
        self._personal = token_type(api_key) == "refresh"
        self._access = ""
        self._expires = 0.0
        keep_secret(api_key)
        self._lock = threading.Lock()
        if token_type(api_key) == "access":
            raise Unauthorized(
                "LABEL_STUDIO_API_KEY is an access token, which expires after five minutes. "
                "Set it to the personal access token from Account & Settings."
            )

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if not self._personal:
            request.headers["Authorization"] = f"Token {self._api_key}"
            yield request
            return
        if time.monotonic() > self._expires:
            yield from self._buy_access()
        request.headers["Authorization"] = f"Bearer {self._access}"
        response = yield request
        if response.status_code == 401:
            yield from self._buy_access()
            request.headers["Authorization"] = f"Bearer {self._access}"
            yield request

    def _buy_access(self) -> Generator[httpx.Request, httpx.Response, None]:
        response = yield httpx.Request("POST", self._refresh_url, json={"refresh": self._api_key})
        response.read()
        if response.status_code in (400, 401, 403):
            raise Unauthorized(TOKEN_REFUSED)
        access = read_object(response, "POST /api/token/refresh/", ("access",))["access"]
        access = access.strip() if isinstance(access, str) else ""
        if not (0 < len(access) < LONGEST_TOKEN and access.isascii() and access.isprintable()):
            raise Unreachable(
                "POST /api/token/refresh/ was answered with something that is not an access token."
            )
        with self._lock:
            keep_secret(access, instead_of=self._access)
            self._access = access
            self._expires = time.monotonic() + 240


def token_type(api_key: str) -> str | None:
    """``refresh`` for a personal access token, ``access`` for an access token, None for a legacy token."""
    parts = api_key.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return claims.get("token_type") if isinstance(claims, dict) else None


def read_answer(response: httpx.Response, request: str) -> object:
    """The JSON of an answer; None if it has no body.

    Raises Unauthorized, Rejected, or Unreachable for an answer that does not come from a Label Studio.
    """
    _raise_refusal(response, request)
    if not response.content and response.is_success:
        return None
    return _json_of(response, request)


def read_object(response: httpx.Response, request: str, expect: Collection[str]) -> Fields:
    """The JSON object of an answer, which has the keys of ``expect``; raises as ``read_answer``."""
    _raise_refusal(response, request)
    answer = _json_of(response, request)
    if not isinstance(answer, dict) or not set(expect) <= set(answer):
        raise _of_no_label_studio(response, request)
    return answer


def _raise_refusal(response: httpx.Response, request: str) -> None:
    if response.status_code == 401:
        off = "legacy token" in response.text and "disabled" in response.text
        raise Unauthorized(LEGACY_TOKENS_OFF if off else TOKEN_REFUSED)
    if response.is_error and not _is_of_something_else(response):
        raise Rejected(response.status_code, response.text, request)


def _json_of(response: httpx.Response, request: str) -> object:
    try:
        answer: object = response.json()
    except (ValueError, RecursionError):  # an HTML page, or half an answer
        raise _of_no_label_studio(response, request) from None
    if response.is_redirect:
        raise _of_no_label_studio(response, request)
    return answer


def _of_no_label_studio(response: httpx.Response, request: str) -> Unreachable:
    shown = " ".join(redacted(response.text[:1000]).split())[:80]
    return Unreachable(
        f"{request} was answered with {response.status_code} {response.headers.get('content-type', '')}, "
        f"not with the JSON of a Label Studio: {shown!r}. LABEL_STUDIO_URL does not seem to be its address. "
        + _where_it_may_be(response)
    )


def _is_of_something_else(response: httpx.Response) -> bool:
    """Whether a "not found" comes from another server: Label Studio's API sends it as JSON."""
    is_page = "html" in response.headers.get("content-type", "html")
    return is_page and response.status_code in (400, 404, 405, 410, 501)


def _where_it_may_be(response: httpx.Response) -> str:
    """Advice on LABEL_STUDIO_URL, with the address to which the answer redirects, if it does."""
    asked = response.request.url
    try:
        target = asked.join(response.headers.get("location", ""))
        moved = f"{target.scheme}://{target.netloc.decode('ascii')}{target.path}"
    except (httpx.InvalidURL, ValueError):
        moved = ""
    start, path, rest = moved.rpartition(asked.path)
    if response.is_redirect and path and start and not rest:
        return f"It redirects to {start}: set LABEL_STUDIO_URL to that."
    return (
        "Set it to the address of Label Studio's first page: with the sub-path if there is one, as in "
        "http://host/label-studio, and without the path of a page such as /projects/1."
    )
