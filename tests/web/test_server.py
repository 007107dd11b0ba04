"""`coreset-backend serve` as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
from waiting import wait_until

from coreset_backend.local import label_studio as demo


def test_serve_uses_the_folder_that_the_other_commands_use(redis_url: str, tmp_path: Path) -> None:
    port = demo.free_port()
    (tmp_path / "key").write_text("0123456789abcdef\r\n")
    environment = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "REDIS_URL": redis_url,
        "PORT": str(port),
        "MODEL_DIR": "mine",
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY_FILE": "key",
    }
    (tmp_path / "flask.py").write_text("raise SystemExit('taken for a module')")
    log = tmp_path / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "coreset_backend", "serve"],
            env=environment,
            cwd=tmp_path,
            stdout=output,
            stderr=output,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as web:

            def registered() -> bool:
                assert server.poll() is None, log.read_text()
                try:
                    return web.post("/setup", json={"project": "7.1"}).status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(registered, "the web process")
        status = subprocess.run(
            [sys.executable, "-P", "-m", "coreset_backend", "status"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    finally:
        server.terminate()
        server.wait(60)
    assert "Project 7" in status.stdout, status.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flask.py", "key", "log", "mine"]
