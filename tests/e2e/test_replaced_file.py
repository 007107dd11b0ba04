"""A file of the real Label Studio, read by the address that storages write, and again when it is replaced."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from image_server import plain_png

from coreset_backend.arrays import Resize
from coreset_backend.images import Images, open_images
from coreset_backend.images.fetch import REVISIONS
from coreset_backend.images.revisions import ASKED_AGAIN_AFTER
from coreset_backend.label_studio.auth import TokenAuth
from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo

pytestmark = pytest.mark.e2e


def shade(images: Images, uri: str) -> int:
    pixels, failures = images.fetch([(1, uri)], Resize(16))
    assert failures == []
    return int(pixels[0:1][0, 8, 8, 0])


def test_a_replaced_local_file_is_noticed_by_label_studios_etag(
    label_studio: demo.LabelStudioServer, tmp_path: Path
) -> None:
    folder = label_studio.document_root / "replaced"
    folder.mkdir()
    (folder / "a.png").write_bytes(plain_png(10))
    url, token = label_studio.url, label_studio.login.token
    demo_project.create_demo_project(url, token, folder, "Replaced files", ("cat", "dog"))
    images = open_images(label_studio_url=url, auth=TokenAuth(url, token), cache_dir=tmp_path)
    uri = "http://localhost:8080/data/local-files/?d=replaced/a.png"  # as LABEL_STUDIO_HOST has it written
    assert shade(images, uri) == 10
    with contextlib.closing(sqlite3.connect(tmp_path / REVISIONS, isolation_level=None)) as file:
        [(before,)] = file.execute("SELECT validator FROM seen").fetchall()
        assert before.startswith("etag:")
        for red, is_same in ((10, True), (20, False)):
            (folder / "a.png").write_bytes(plain_png(red)) if not is_same else None
            file.execute("UPDATE seen SET asked = asked - ?", (ASKED_AGAIN_AFTER,))
            assert shade(images, uri) == red
            [(now,)] = file.execute("SELECT validator FROM seen").fetchall()
            assert (now == before) is is_same
    images.close()
