"""What `coreset-backend doctor` finds without a Label Studio."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from buckets import running_s3

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


def test_a_bucket_that_cannot_be_used_is_named_with_its_fix(
    make_backend: Callable[..., Backend], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with running_s3() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        [problem] = dict(examine(make_backend(model_dir="s3://no-such-bucket"), []))["Store"]
        assert "There is no such bucket. Create it" in problem
        [note] = dict(examine(make_backend(model_dir="s3://rounds/a"), []))["Store"]
    assert note.startswith("Rounds are in s3://rounds/a; this machine has its copies and the image cache in")
