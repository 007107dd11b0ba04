"""What `coreset-backend doctor` finds without a Label Studio."""

import tempfile
from pathlib import Path

import pytest

from coreset_backend.backend import Backend
from coreset_backend.cli.doctor import examine


@pytest.mark.parametrize(
    ("folder_mode", "file_mode", "is_open"),
    [(0o755, 0o644, True), (0o755, 0o640, False), (0o700, 0o644, False)],
)
def test_a_secret_that_everybody_can_read_is_named(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, folder_mode: int, file_mode: int, is_open: bool
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own folders keep others out
        secret = Path(folder) / "token"
        secret.write_text("hush")
        secret.chmod(file_mode)
        Path(folder).chmod(folder_mode)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY_FILE", str(secret))
        problems = dict(examine(backend, []))["Secret files"]
    if is_open:
        [problem] = problems
        assert f"LABEL_STUDIO_API_KEY_FILE names {secret}" in problem
        assert f"chmod o-r {secret}" in problem
        assert "hush" not in problem
    else:
        assert problems == []


def test_in_a_container_compose_mounts_secrets_as_they_are(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY_FILE", "/run/secrets/label_studio_api_key")
    assert dict(examine(backend, []))["Secret files"] == []
