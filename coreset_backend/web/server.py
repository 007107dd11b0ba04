"""How gunicorn serves the web process, and to whom. It imports nothing that is missing in the web's image."""

import ipaddress
import sys
from pathlib import Path

from coreset_backend.errors import ConfigError
from coreset_backend.settings import Settings
from coreset_backend.settings.settings import in_an_address
from coreset_backend.web.sockets import THREADS

# Gunicorn imports from the folder where it is started, and reads its configuration there: in a folder of the
# user a file redis.py would be taken for the library.
PACKAGES = Path(__file__).parent.parent.parent


def gunicorn_command(settings: Settings) -> list[str]:
    """How the web process is served: one process, since threads only wait for clients, the store and Redis.

    Start it in `PACKAGES` with `absolute_paths` in its environment. Raises ConfigError when strangers could
    reach it and no login is set.
    """
    _refuse_open_door(settings)
    return [
        *(sys.executable, "-P", "-m", "gunicorn", "coreset_backend.web.wsgi:app"),
        *("--bind", f"{in_an_address(settings.host)}:{settings.port}"),
        *("--worker-class", "coreset_backend.web.sockets.Worker", "--workers", "1"),
        *("--threads", str(THREADS), "--worker-connections", str(2 * THREADS)),
        # gunicorn's own sendfile would wait for a client past its deadline.
        *("--timeout", "120", "--graceful-timeout", "10", "--no-sendfile"),
        # Which proxies are believed is CORESET_TRUSTED_PROXIES' to say; gunicorn believes this machine's.
        *("--forwarded-allow-ips", ""),
        "--no-control-socket",
        *("--log-level", settings.log_level.lower()),
    ]


def local_address(settings: Settings) -> str:
    """Where the web answers on this machine; one that serves all addresses is at its loopback too."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://{in_an_address(host)}:{settings.port}"


def _refuse_open_door(settings: Settings) -> None:
    try:
        private = settings.host == "localhost" or ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        private = False
    if not private and settings.require_auth and settings.basic_auth_user is None:
        raise ConfigError(
            f"HOST={settings.host} serves other machines, but no login is set. Set BASIC_AUTH_USER and "
            "BASIC_AUTH_PASS, or CORESET_REQUIRE_AUTH=false if a proxy in front requires a login."
        )
