"""Access control: the login, the webhook's secret, limits of bodies, and headers for browsers.

Every route except liveness requires the login, if one is set. Label Studio sends no login with its webhooks,
so it sends the secret that `connect` has set. Wrong credentials are counted by the caller's address
(throttle.py).
"""

import base64
import hashlib
import hmac
import ipaddress
import logging
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, RequestEntityTooLarge, TooManyRequests, Unauthorized
from werkzeug.middleware.proxy_fix import ProxyFix

from coreset_backend.backend import Backend
from coreset_backend.connection.connect import SECRET_HEADER
from coreset_backend.web.callers import caller_of
from coreset_backend.web.events import START_TRAINING
from coreset_backend.web.requests import current_backend
from coreset_backend.web.throttle import Throttle

log = logging.getLogger(__name__)

MB = 1_000_000
LARGEST_BODY = 4 * MB
LARGEST_BODIES = {
    # About 100,000 tasks: Label Studio sends all selected tasks in one request (12,000 are 6 MB).
    "protocol.predict": 64 * MB,
    # A webhook reports up to 5,000 new tasks, in 2.5 MB.
    "protocol.webhook": 32 * MB,
}
OPEN_TO_ALL = "protocol.health"
SIGNED = "protocol.webhook"
# Names that no public DNS can point at this machine.
PRIVATE_NAMES = (".localhost", ".local", ".internal", ".home.arpa", ".test")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Task ids, labels and image addresses must not be cached between browser and backend.
    "Cache-Control": "no-store",
}


def guard_app(app: Flask, backend: Backend) -> None:
    """Check every request to ``app`` before its view runs, and add security headers to every answer."""
    app.extensions["throttle"] = Throttle()
    app.before_request(_refuse_large_body)
    app.before_request(_refuse_rebound_name)
    app.before_request(_refuse_other_sites)
    app.before_request(_refuse_strangers)
    app.after_request(_harden)
    if proxies := backend.settings.trusted_proxies:
        # Every trusted proxy adds one value to each of these headers; callers may have sent others.
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies, x_prefix=proxies
        )


# ---------------------------------------------------------------- credentials


def _caller() -> str:
    """The caller for whom wrong credentials are counted; the proxy, if it forwards no valid address."""
    peer = before_proxies("REMOTE_ADDR") or ""
    return caller_of(request.remote_addr or "") or caller_of(peer) or "unknown"


def before_proxies(name: str) -> str | None:
    """A value of the WSGI environment before forwarded headers were applied."""
    original: dict[str, str | None] = request.environ.get("werkzeug.proxy_fix.orig", request.environ)
    return original.get(name)


def _require(kind: str, came: bytes, expected: bytes, refusal: Unauthorized) -> None:
    """Return if ``came`` equals ``expected``; else count it and raise ``refusal``, or 429 after too many."""
    throttle: Throttle = current_app.extensions["throttle"]
    address = _caller()
    caller = f"{kind} {address}"
    shut = throttle.seconds_shut(caller)
    # Hashed first, so that the time does not depend on the length either.
    right = hmac.compare_digest(hashlib.sha256(came).digest(), hashlib.sha256(expected).digest())
    if right and (not shut or throttle.knows(caller)):
        throttle.note_right(caller)
        return
    shut = shut or throttle.note_wrong(caller, came)
    if shut:
        raise TooManyRequests(
            f"Too many wrong attempts from your address. Try again in {shut:.0f} s.",
            retry_after=int(shut) + 1,
        )
    log.warning("a wrong %s came from %s", kind, address)
    raise refusal


# ---------------------------------------------------------------- who may call


def _refuse_strangers() -> None:
    login = current_backend().basic_auth
    if request.endpoint == OPEN_TO_ALL:
        return
    if request.endpoint == SIGNED and SECRET_HEADER in request.headers:
        came = request.headers[SECRET_HEADER].encode()
        _require("webhook secret", came, current_backend().webhook_secret.encode(), _unsigned())
    elif login:
        _require_login(login)


def _require_login(login: tuple[str, str]) -> None:
    refusal = _unsigned() if request.endpoint == SIGNED else _not_logged_in()
    header = request.headers.get("Authorization")
    if header is None:
        if request.endpoint == SIGNED:
            log.warning("a webhook was refused: it does not carry %s", SECRET_HEADER)
        raise refusal
    _require("login", _credential(header), ":".join(login).encode(), refusal)


def _credential(header: str) -> bytes:
    """User and password of a Basic login, joined by a colon; the whole header if it is not a Basic login.

    Werkzeug's `request.authorization` raises ValueError on non-ASCII letters, so any stranger could cause an
    unexpected error, and it ignores characters that are not base64.
    """
    scheme, _, encoded = header.partition(" ")
    try:
        return base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else header.encode()
    except ValueError:
        return header.encode()


def require_signature(action: str) -> None:
    """Accept an event with the secret or the login; if no login is set, also Start Training without either.

    Label Studio sends the login with Start Training only, and the secret with all other events.
    """
    if SECRET_HEADER in request.headers or current_backend().basic_auth or action == START_TRAINING:
        return
    log.warning("a webhook was refused: it does not carry %s", SECRET_HEADER)
    raise _unsigned()


def _not_logged_in() -> Unauthorized:
    return Unauthorized(
        "Log in with the values of BASIC_AUTH_USER and BASIC_AUTH_PASS. In Label Studio, enter them in the "
        "backend's form (Settings > Model), or run `coreset-backend connect`.",
        www_authenticate=WWWAuthenticate("basic", {"realm": "coreset_backend", "charset": "UTF-8"}),
    )


def _unsigned() -> Unauthorized:
    return Unauthorized(
        f"The webhook must carry the header {SECRET_HEADER}. Run `coreset-backend connect --project N`, "
        "which sets it; until then only the poll notices changes of the project.",
        www_authenticate=None,
    )


# ---------------------------------------------------------------- browsers


def _refuse_rebound_name() -> None:
    """Without a login, answer only to names that no stranger can point at this machine.

    Otherwise a web page of evil.example, whose name resolves to 127.0.0.1 after the page was loaded, could
    read and start everything here through its visitor's browser.
    """
    if current_backend().basic_auth or request.endpoint == OPEN_TO_ALL:
        return
    # Behind a proxy both are checked: a page can set X-Forwarded-Host itself, but not Host.
    for host in (request.host, before_proxies("HTTP_HOST") or ""):
        if not _is_our_name(host):
            raise Forbidden(
                f"Without a login this backend does not answer to the name {host[:100]!r}. Set CORESET_URL "
                "to its address, or set a login (BASIC_AUTH_USER and BASIC_AUTH_PASS)."
            )


def _is_our_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    own = urlsplit(current_backend().settings.url).hostname
    return "." not in name or name == own or name.endswith(PRIVATE_NAMES) or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refuse_other_sites() -> None:
    """Refuse requests that another web site makes with a visitor's login; only browsers send
    these headers.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if request.method in ("GET", "HEAD", "OPTIONS") or site in ("same-origin", "none"):
        return
    if site is None and (origin is None or origin.partition("://")[2] == request.host):
        return
    raise Forbidden(
        "Another web site made this request with your browser. If you made it yourself through a reverse "
        "proxy, let the proxy pass on the header Host, or set CORESET_TRUSTED_PROXIES."
    )


def _harden(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


# ---------------------------------------------------------------- how much


def _refuse_large_body() -> None:
    limit = LARGEST_BODIES.get(request.endpoint or "", LARGEST_BODY)
    request.max_content_length = limit  # also limits a body of unknown length while it is read
    if (request.content_length or 0) > limit:
        raise RequestEntityTooLarge(f"The body is larger than the {limit // MB} MB that this route accepts.")
