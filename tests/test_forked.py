"""A forked command is the real one: the same words, exit status and environment, ended by signals."""

import os
import signal
import subprocess
from pathlib import Path

import forked
import pytest
from backend_run import backend_command, run_environment
from waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "command", [("strategies",), ("status",), ("rollback", "--project", "x"), ("--help",)]
)
def test_it_says_and_answers_what_the_real_one_does(tmp_path: Path, command: tuple[str, ...]) -> None:
    environment = run_environment(tmp_path, 1, LOG_LEVEL="DEBUG")
    real = subprocess.run(backend_command(*command), env=environment, capture_output=True, text=True)
    known = forked.run(*command, environment=environment, timeout=240)
    assert (known.returncode, known.stdout, known.stderr) == (real.returncode, real.stdout, real.stderr)


def test_its_environment_is_that_of_the_test_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "louder")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    assert forked.run("strategies", environment=environment, timeout=240).returncode == 0
    refused = forked.run("strategies", environment=environment | {"LOG_LEVEL": "louder"}, timeout=240)
    assert refused.returncode == 2 and "LOG_LEVEL" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_and_its_pid_is_its_own(tmp_path: Path, redis_url: str, number: int) -> None:
    environment = run_environment(tmp_path, 1, REDIS_URL=redis_url)
    worker = forked.start("work", environment=environment, output=tmp_path / "log")
    os.kill(worker.pid, 0)
    assert worker.poll() is None and worker.pid != os.getpid()
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(0.01)
    worker.send_signal(number)
    wait_until(lambda: worker.poll() is not None, "its end")
    assert worker.wait() == worker.returncode and worker.returncode in (-number, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)


def test_a_command_that_nobody_holds_any_more_is_killed(tmp_path: Path, redis_url: str) -> None:
    environment = run_environment(tmp_path, 1, REDIS_URL=redis_url)
    worker = forked.start("work", environment=environment, output=tmp_path / "log")
    left = Path(f"/proc/{worker.pid}")
    assert left.exists()
    del worker
    wait_until(lambda: not left.exists(), "its end")
