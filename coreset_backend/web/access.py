"""Who may call the web process, how much they may send, and what a browser may do with the answers.

Every route but liveness asks for the login, where one is set. Label Studio signs its events with the secret
that `connect` installed, since it sends no login with them. Wrong credentials are counted by the caller's
address (throttle.py).
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
    # Some 100,000 tasks: Label Studio sends all selected ones in one request (12,000 are 6 MB).
    "protocol.predict": 64 * MB,
    # It tells of new tasks 5,000 at a time, in 2.5 MB.
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
    # Task ids, labels and image addresses stay out of caches between the browser and us.
    "Cache-Control": "no-store",
}


def guard_app(app: Flask, backend: Backend) -> None:
    """Check every request to ``app`` before its view runs, and harden every answer."""
    app.extensions["throttle"] = Throttle()
    app.before_request(_refuse_large_body)
    app.before_request(_refuse_rebound_name)
    app.before_request(_refuse_other_sites)
    app.before_request(_refuse_strangers)
    app.after_request(_harden)
    if proxies := backend.settings.trusted_proxies:
        # Every proxy that is trusted adds one value to each of these headers; callers may have put others.
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies, x_prefix=proxies
        )


# ---------------------------------------------------------------- credentials


def _caller() -> str:
    """Who is counted. What a proxy forwards and is no address counts as the proxy."""
    peer = before_proxies("REMOTE_ADDR") or ""
    return caller_of(request.remote_addr or "") or caller_of(peer) or "unknown"


def before_proxies(name: str) -> str | None:
    """A value of the WSGI environment as it was before forwarded headers were believed."""
    original: dict[str, str | None] = request.environ.get("werkzeug.proxy_fix.orig", request.environ)
    return original.get(name)


def _require(kind: str, came: bytes, expected: bytes, refusal: Unauthorized) -> None:
    """Return when ``came`` is ``expected``; else count it and raise ``refusal``, or 429 after too many."""
    throttle: Throttle = current_app.extensions["throttle"]
    address = _caller()
    caller = f"{kind} {address}"
    shut = throttle.seconds_shut(caller)
    # Hashed first, so that the time taken says nothing about the length either.
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
            log.warning("an event was refused: it carries no %s", SECRET_HEADER)
        raise refusal
    _require("login", _credential(header), ":".join(login).encode(), refusal)


def _credential(header: str) -> bytes:
    """What the header carries: user and password, joined by a colon, or all of it where it is no Basic login.

    Werkzeug's `request.authorization` raises ValueError on letters outside ASCII, so any stranger could cause
    an unexpected error, and it passes over characters that are no base64.
    """
    scheme, _, encoded = header.partition(" ")
    try:
        return base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else header.encode()
    except ValueError:
        return header.encode()


def require_signature(action: str) -> None:
    """Let an event pass that was signed or came with the login; without a login, Start Training too.

    Label Studio sends the login with Start Training only, and the secret with all others.
    """
    if SECRET_HEADER in request.headers or current_backend().basic_auth or action == START_TRAINING:
        return
    log.warning("an event was refused: it carries no %s", SECRET_HEADER)
    raise _unsigned()


def _not_logged_in() -> Unauthorized:
    return Unauthorized(
        "This needs the user name and password of BASIC_AUTH_USER and BASIC_AUTH_PASS. In Label Studio "
        "they are set in the backend's form (Settings > Model), or by `coreset-backend connect`.",
        www_authenticate=WWWAuthenticate("basic", {"realm": "coreset_backend", "charset": "UTF-8"}),
    )


def _unsigned() -> Unauthorized:
    return Unauthorized(
        f"The webhook must carry the header {SECRET_HEADER}. Run `coreset-backend connect --project N`, "
        "which installs it; until then the project is only polled.",
        www_authenticate=None,
    )


# ---------------------------------------------------------------- browsers


def _refuse_rebound_name() -> None:
    """Without a login, be reachable by names only that no stranger can point at this machine.

    Else a web page of evil.example, whose name is made to resolve to 127.0.0.1 after it was loaded, could
    read and start everything here with its visitor's browser.
    """
    if current_backend().basic_auth or request.endpoint == OPEN_TO_ALL:
        return
    # Behind a proxy both: the page can set X-Forwarded-Host itself, but not Host.
    for host in (request.host, before_proxies("HTTP_HOST") or ""):
        if not _is_our_name(host):
            raise Forbidden(
                f"This backend does not know itself as {host[:100]!r}. Set CORESET_URL to its address, or a "
                "login (BASIC_AUTH_USER and BASIC_AUTH_PASS); with a login any name will do."
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
    """Let no other web site press our buttons with a visitor's login. What is no browser says neither."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if request.method in ("GET", "HEAD", "OPTIONS") or site in ("same-origin", "none"):
        return
    if site is None and (origin is None or origin.partition("://")[2] == request.host):
        return
    raise Forbidden(
        "Another web site asked for this with your browser. If you asked yourself, through a reverse proxy, "
        "have it pass the header Host on, or set CORESET_TRUSTED_PROXIES."
    )


def _harden(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


# ---------------------------------------------------------------- how much


def _refuse_large_body() -> None:
    limit = LARGEST_BODIES.get(request.endpoint or "", LARGEST_BODY)
    request.max_content_length = limit  # holds for a body of unknown length too, while it is read
    if (request.content_length or 0) > limit:
        raise RequestEntityTooLarge(f"The body has more than the {limit // MB} MB that this route takes.")
