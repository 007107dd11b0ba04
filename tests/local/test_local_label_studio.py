"""The local Label Studio, with a small program in its place that starts, answers and dies as it does."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coreset_backend.arrays import Resize
from coreset_backend.decoding import decoded_pixels
from coreset_backend.errors import ConfigError, ImageError, LabelStudioError, Unreachable
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import BROKEN, CLASSES, add_broken_files, make_images

STAND_IN = f"""#!{sys.executable}
import http.server, json, os, pathlib, subprocess, sys
data = pathlib.Path(os.environ["LABEL_STUDIO_BASE_DATA_DIR"])
trouble = pathlib.Path(__file__).with_name("trouble")
trouble = trouble.read_text() if trouble.exists() else ""
if trouble == "dies":
    sys.exit("no such table: project")
(data / "label_studio.sqlite3").write_text("migrated")
(data / ".env").write_text("SECRET_KEY=1")
if sys.argv[1] == "version":
    sys.exit()
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
(data / "seen.json").write_text(json.dumps(
    {{"environment": dict(os.environ), "arguments": sys.argv[1:], "pids": [os.getpid(), child.pid]}}))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(401 if trouble == "other login" and "whoami" in self.path else 200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Answer).serve_forever()
"""


@pytest.fixture
def executable(tmp_path: Path) -> Path:
    """An environment that looks as if Label Studio 1.23.2 were installed in it."""
    program = tmp_path / "environment/bin/label-studio"
    program.parent.mkdir(parents=True)
    program.write_text(STAND_IN)
    program.chmod(0o755)
    (tmp_path / "environment/lib/python3.11/site-packages/label_studio-1.23.2.dist-info").mkdir(parents=True)
    return program


@pytest.fixture
def start(executable: Path, tmp_path: Path) -> Callable[..., demo.LabelStudioServer]:
    return lambda **given: demo.start_label_studio(executable, tmp_path / "data", tmp_path / "files", **given)


def give_trouble(executable: Path, kind: str) -> None:
    executable.with_name("trouble").write_text(kind)


def seen(data_dir: Path) -> dict:
    return json.loads((data_dir / "seen.json").read_text())


def is_running(pid: int) -> bool:
    """Whether the process lives; one that is dead and not yet collected does not."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still running: {pids}"
        time.sleep(0.02)


def test_the_named_command_goes_before_our_environment_and_that_before_the_path(
    executable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert demo.find_label_studio(tmp_path) is None
    assert demo.find_label_studio(tmp_path, "no-such-program") is None
    monkeypatch.setenv("PATH", str(executable.parent))
    assert demo.find_label_studio(tmp_path) == executable
    ours = tmp_path / ".label-studio/bin/label-studio"
    ours.parent.mkdir(parents=True)
    ours.symlink_to(executable)
    assert demo.find_label_studio(tmp_path) == ours
    assert demo.find_label_studio(tmp_path, str(executable)) == executable


def test_the_version_is_that_of_the_environment_also_behind_a_link(executable: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(executable)
    assert demo.label_studio_version(tmp_path / "link") == "1.23.2"
    with pytest.raises(ConfigError, match="No Label Studio is installed beside"):
        demo.label_studio_version(tmp_path / "elsewhere/bin/label-studio")


def test_a_golden_data_directory_is_made_once_and_without_the_secret_key(
    executable: Path, tmp_path: Path
) -> None:
    cache, said = tmp_path / "cache", []
    left_by_a_killed_migration = cache / "label-studio-1.23.2.partial/torn"
    left_by_a_killed_migration.mkdir(parents=True)
    golden = demo.golden_data_dir(executable, cache, said.append)
    assert demo.golden_data_dir(executable, cache, said.append) == golden
    assert golden == cache / "label-studio-1.23.2"
    assert [path.name for path in golden.iterdir()] == ["label_studio.sqlite3"]
    assert len(said) == 1


def test_a_migration_that_fails_leaves_no_golden_data_directory(executable: Path, tmp_path: Path) -> None:
    give_trouble(executable, "dies")
    with pytest.raises(LabelStudioError, match="no such table"):
        demo.golden_data_dir(executable, tmp_path / "cache")
    assert not (tmp_path / "cache/label-studio-1.23.2").exists()


def test_a_copy_is_whole_and_never_written_over(executable: Path, tmp_path: Path) -> None:
    golden = demo.golden_data_dir(executable, tmp_path / "cache")
    target = demo.migrated_copy(golden, tmp_path / "data")
    database = target / "label_studio.sqlite3"
    assert database.read_text() == "migrated"
    database.write_text("labelled for a week")
    demo.migrated_copy(golden, target)
    assert database.read_text() == "labelled for a week"


def test_a_start_keeps_its_login_to_the_owner_and_to_the_next_start(
    start: Callable[..., demo.LabelStudioServer],
) -> None:
    logins = []
    for _ in range(2):
        with start() as server:
            logins.append(server.login)
    assert logins[0] == logins[1]
    assert len(server.login.token) == 40
    assert server.login.token not in repr(server)
    assert stat.S_IMODE((server.data_dir / "login.json").stat().st_mode) == 0o600


def test_label_studio_sees_its_settings_and_none_of_ours(
    start: Callable[..., demo.LabelStudioServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PORT", "HOST", "HTTP_PROXY", "http_proxy", "LABEL_STUDIO_API_KEY", "DJANGO_DB"):
        monkeypatch.setenv(name, "ours")
    with start() as server:
        environment = seen(server.data_dir)["environment"]
    assert "ours" not in environment.values()
    assert environment["LABEL_STUDIO_USER_TOKEN"] == server.login.token
    assert environment["LABEL_STUDIO_SSRF_PROTECTION_ENABLED"] == "false"
    assert environment["LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"] == str(tmp_path / "files")
    assert "LABEL_STUDIO_HOST" not in environment


def test_stop_ends_label_studio_and_what_it_started(start: Callable[..., demo.LabelStudioServer]) -> None:
    server = start()
    pids = seen(server.data_dir)["pids"]
    assert all(is_running(pid) for pid in pids)
    server.stop()
    wait_until_gone(pids)
    server.stop()


def test_a_killed_parent_takes_label_studio_along(executable: Path, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux ends a child with its parent")
    script = (
        "import sys, signal; from pathlib import Path\n"
        "from coreset_backend.local import label_studio as demo\n"
        "demo.start_label_studio(*map(Path, sys.argv[1:])); print('up', flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", script, str(executable), str(tmp_path / "data"), str(tmp_path / "files")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        parent.send_signal(signal.SIGKILL)
    pids = seen(tmp_path / "data")["pids"]
    try:
        wait_until_gone(pids[:1])
    finally:
        os.kill(pids[1], signal.SIGKILL)  # the kernel ends the child only; the real one starts no other


def test_a_busy_port_is_refused_before_the_start(start: Callable[..., demo.LabelStudioServer]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert not demo.is_free(port)
        with pytest.raises(ConfigError, match=f"Port {port} is in use"):
            start(port=port)


def test_a_port_that_was_found_is_found_by_nobody_else_before_its_server_listens() -> None:
    port = demo.free_port()
    assert demo.is_free(port)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))  # as another process looks for one
    with socket.create_server(("127.0.0.1", port)):
        assert not demo.is_free(port)


def test_two_label_studios_do_not_share_a_data_directory(
    start: Callable[..., demo.LabelStudioServer],
) -> None:
    with start() as first:
        with pytest.raises(ConfigError, match="Another Label Studio runs on"):
            start()
        assert first.process.poll() is None
    start().stop()


def test_a_start_that_fails_shows_the_end_of_the_log(
    executable: Path, start: Callable[..., demo.LabelStudioServer]
) -> None:
    give_trouble(executable, "dies")
    said: list[str] = []
    with pytest.raises(Unreachable, match=r"exit status 1(.|\n)*no such table: project"):
        start(report=said.append)
    assert "creates its database" in said[0]


def test_a_label_studio_that_does_not_know_our_login_is_stopped(
    executable: Path, start: Callable[..., demo.LabelStudioServer], tmp_path: Path
) -> None:
    give_trouble(executable, "other login")
    with pytest.raises(LabelStudioError, match=r"login\.json"):
        start()
    wait_until_gone(seen(tmp_path / "data")["pids"])


def test_images_come_from_the_seed_and_show_every_class(tmp_path: Path) -> None:
    made = make_images(tmp_path / "one", 90, seed=5, size=48)
    assert made == make_images(tmp_path / "two", 90, seed=5, size=48)
    assert made != make_images(tmp_path / "three", 90, seed=6, size=48)
    counts = [[label for _, label in made].count(name) for name in CLASSES]
    assert min(counts) > 0
    assert counts[0] > 4 * counts[-1]  # a long tail
    for name, _ in made:
        with Image.open(tmp_path / "one" / name) as first, Image.open(tmp_path / "two" / name) as second:
            assert first.size == (48, 48)
            assert np.array_equal(np.asarray(first), np.asarray(second))


def test_broken_files_are_named_like_images_and_cannot_be_read(tmp_path: Path) -> None:
    add_broken_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(BROKEN)
    for path in tmp_path.iterdir():
        with pytest.raises(ImageError):
            decoded_pixels(path.read_bytes(), Resize(64), 10**6)
