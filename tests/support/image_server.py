"""Pictures, and a web server that serves them."""

import io
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

import httpx
from PIL import Image


def picture(kind: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (80, 60), **options: Any) -> bytes:
    """A red image in any format and mode that Pillow writes."""
    body = io.BytesIO()
    Image.new("RGB", size, (200, 40, 40)).convert(mode).save(body, kind, **options)
    return body.getvalue()


def plain_png(shade: int = 0, side: int = 8) -> bytes:
    """A square PNG of one colour, another for each ``shade``."""
    body = io.BytesIO()
    Image.new("RGB", (side, side), (shade % 256, shade // 256 % 256, 90)).save(body, "PNG")
    return body.getvalue()


class ImageHandler(BaseHTTPRequestHandler):
    """A web server that serves FILES, asks for the token below /data/, and remembers what it was asked."""

    FILES: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        body = self.FILES.get(self.path)
        locked = self.path.startswith("/data/") and self.headers.get("Authorization") != "Token t"
        self.send_response(401 if locked else 404 if body is None else 200)
        self.end_headers()
        self.wfile.write(b"" if locked or body is None else body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Token(httpx.Auth):
    """The token that ``ImageHandler`` asks for."""

    def auth_flow(self, request: httpx.Request) -> Any:
        request.headers["Authorization"] = "Token t"
        yield request
