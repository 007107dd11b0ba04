"""Images in a bucket: read by the links that Label Studio signs for the project's storage."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from e2e_stack import Stack
from serving import serving

from coreset_backend.local import demo_project
from coreset_backend.local.demo_images import CLASSES, make_images

pytestmark = pytest.mark.e2e
N = 40


class Bucket(BaseHTTPRequestHandler):
    """As much of S3 as Label Studio asks of a bucket: whether it is there, its list, and a signed object."""

    folder: Path
    signed: set[str]

    def do_HEAD(self) -> None:
        self.answer(b"", "application/xml")

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        _, _, key = parts.path.lstrip("/").partition("/")
        if not key:
            return self.answer(self.listing(), "application/xml")
        if "X-Amz-Signature" not in parse_qs(parts.query) and "Signature" not in parse_qs(parts.query):
            return self.send_error(403)
        self.signed.add(key)
        return self.answer((self.folder / key).read_bytes(), "image/jpeg")

    def listing(self) -> bytes:
        entries = "".join(
            f"<Contents><Key>{path.name}</Key><Size>{path.stat().st_size}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for path in sorted(self.folder.iterdir())
        )
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>pool</Name><KeyCount>{N}</KeyCount><IsTruncated>false</IsTruncated>{entries}"
            "</ListBucketResult>"
        ).encode()

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[tuple[str, set[str]]]:
    """The address of a bucket `pool` with N images, and the keys that were fetched by a signed link."""
    make_images(tmp_path / "pool", N, seed=31)
    fetched: set[str] = set()
    handler = type("ThisBucket", (Bucket,), {"folder": tmp_path / "pool", "signed": fetched})
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as address:
        yield address, fetched


def test_a_pool_in_a_bucket(stack: Stack, admin: httpx.Client, bucket: tuple[str, set[str]]) -> None:
    address, fetched = bucket
    project_id = demo_project.create_project(admin, "In a bucket", demo_project.choices_config(CLASSES))
    storage = {
        "project": project_id,
        "title": "pool",
        "bucket": "pool",
        "s3_endpoint": address,
        "region_name": "us-east-1",
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
        "use_blob_urls": True,
        "presign": True,
        "regex_filter": ".*jpg",
    }
    made = admin.post("/api/storages/s3/", json=storage)
    assert made.status_code == 201, made.text
    synced = admin.post(f"/api/storages/s3/{made.json()['id']}/sync")
    assert synced.status_code == 200, synced.text
    stack.connect(project_id)
    first = stack.wait_for_round(project_id, 1)
    assert first["unreadable"] == []
    assert len(first["batch"]) == 24
    assert len(fetched) == N
