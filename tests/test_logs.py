"""Log lines: their fields, and that no secret is in them, at DEBUG, over a real run of web and worker."""

import base64
import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from redis import Redis
from serving import Echo, serving
from waiting import wait_until

from coreset_backend.connection.connect import SECRET_HEADER
from coreset_backend.local import label_studio as demo
from coreset_backend.logs import LogFormatter, set_log_context
from coreset_backend.redaction import keep_secret, redacted
from coreset_backend.settings import Settings
from coreset_backend.settings.environment import environment_names
from coreset_backend.settings.settings import SECRETS
from coreset_backend.web.server import gunicorn_command

SEEDS = {
    "LABEL_STUDIO_API_KEY": "seeded00token00000000000000000000000000a",
    "BASIC_AUTH_PASS": "seeded-pässword",
    "CORESET_WEBHOOK_SECRET": "seeded-webhook-secret",
    "REDIS_PASSWORD": "seeded-redis-password",
    "CORESET_RAY_TOKEN": "seeded-ray-token",
}


def record(message: str, *arguments: object, failure: BaseException | None = None) -> logging.LogRecord:
    told = (type(failure), failure, failure.__traceback__) if failure else None
    return logging.LogRecord("coreset_backend.jobs.tasks", logging.WARNING, "f", 1, message, arguments, told)


def test_a_json_line_has_project_and_round_and_a_traceback_without_the_secret() -> None:
    set_log_context(project=7, round=3)
    try:
        raise ValueError("it was hush-hush")
    except ValueError as failure:
        keep_secret("hush-hush")
        line = LogFormatter(as_json=True).format(record("failed: %s", "ü", failure=failure))
    set_log_context()
    found = json.loads(line)
    assert "\n" not in line
    assert (found["project"], found["round"], found["level"]) == (7, 3, "WARNING")
    assert found["message"].startswith("failed: ü\n  | Traceback")
    assert found["message"].endswith("ValueError: it was ***")
    assert "project" not in json.loads(LogFormatter(as_json=True).format(record("x")))


def test_the_command_line_shows_no_secret_whoever_quotes_it(echo: str) -> None:
    """A token with a line end of Windows, a server that answers with what it was sent, a slip of the hand."""
    key = SEEDS["LABEL_STUDIO_API_KEY"]
    given = {
        "LABEL_STUDIO_URL": echo,
        "LABEL_STUDIO_API_KEY": f"{key}\r\n",
        "REDIS_URL": "redis://127.0.0.1:1",
    }
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), **given}
    for project, words in (("1", "Label Studio answered 400"), (key, "Invalid value for '--project': '***'")):
        command = [sys.executable, "-m", "coreset_backend", "connect", "--project", project]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ran.returncode == 2 and words in ran.stderr
        assert key not in ran.stderr + ran.stdout


UNCAUGHT = """
import sys, threading
from coreset_backend.logs import configure_logging
from coreset_backend.settings import read_settings
configure_logging(read_settings())
def fail():
    raise ValueError("it was seeded-webhook-secret")
thread = threading.Thread(target=fail, name="poll")
thread.start()
thread.join()
fail()
"""


def test_what_nobody_catches_is_logged_without_its_secret() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", UNCAUGHT],
        env={"PYTHONPATH": os.pathsep.join(sys.path), "CORESET_WEBHOOK_SECRET": "seeded-webhook-secret"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert ran.stderr.count("ValueError: it was ***") == 2
    assert "ends thread poll" in ran.stderr and "seeded" not in ran.stderr


@pytest.mark.parametrize("part", ["x", "&sig", "-eyJ", "'key", "'a':'", "%26key", "c2Vl", "/+", "\\"])
def test_a_long_text_is_redacted_in_time_that_grows_with_its_length_alone(part: str) -> None:
    keep_secret("seeded-webhook-secret")
    shown = redacted(part * (200_000 // len(part)) + " seeded-webhook-secret")  # minutes, if it grew faster
    assert "seeded" not in shown


def test_a_text_line() -> None:
    assert LogFormatter(as_json=False).format(record("x")).endswith(" WARNING coreset_backend.jobs.tasks: x")


@pytest.fixture
def echo() -> Iterator[str]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Echo)) as address:
        yield address


@pytest.fixture
def locked_redis(redis_url: str) -> Iterator[Redis]:
    """The session's Redis, emptied, asking for the seeded password."""
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
        redis.config_set("requirepass", SEEDS["REDIS_PASSWORD"])
    with Redis.from_url(redis_url, password=SEEDS["REDIS_PASSWORD"]) as redis:
        yield redis
        redis.config_set("requirepass", "")


@pytest.mark.slow
def test_no_seeded_secret_is_in_the_logs_answers_or_redis_of_a_real_run(
    redis_url: str, locked_redis: Redis, tmp_path: Path, echo: str
) -> None:
    names = environment_names()
    assert all(set(names[field]) & set(SEEDS) for field in SECRETS), "a secret is not seeded"
    port = demo.free_port()
    settings = Settings(model_dir=tmp_path / "data", port=port, log_level="DEBUG")
    given = {"BASIC_AUTH_USER": "ops", "LOG_LEVEL": "DEBUG", "CORESET_LOG_FORMAT": "json"} | SEEDS
    given |= {"REDIS_URL": redis_url, "MODEL_DIR": str(settings.model_dir), "LABEL_STUDIO_URL": echo}
    environment = {**os.environ, **given, "CORESET_DEBOUNCE_SECONDS": "0"}
    said, login = [], ("ops", SEEDS["BASIC_AUTH_PASS"])
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("wb"))
        work = [sys.executable, "-m", "coreset_backend", "work"]
        for command in (gunicorn_command(settings), work):
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(process.wait, 120)
            stack.callback(process.terminate)
        address, each_anew = f"http://127.0.0.1:{port}", httpx.Limits(max_keepalive_connections=0)
        client = stack.enter_context(
            httpx.Client(base_url=address, timeout=60, trust_env=False, limits=each_anew)
        )

        def status() -> str:
            with contextlib.suppress(httpx.HTTPError):
                return client.get("/api/projects/7/status", auth=login).text
            return ""

        wait_until(status, "the web process")
        event = {
            "action": "START_TRAINING",
            "project": {"id": 7},
            "access_token": SEEDS["LABEL_STUDIO_API_KEY"],
        }
        for headers in ({SECRET_HEADER: SEEDS["CORESET_WEBHOOK_SECRET"]}, {SECRET_HEADER: "wrong"}, {}):
            said.append(client.post("/webhook", json=event, headers=headers).text)
        said.append(client.get("/projects?token=" + SEEDS["BASIC_AUTH_PASS"]).text)
        said.append(client.post("/predict", content=b"{", auth=login).text)
        quoted = {"project": SEEDS["CORESET_WEBHOOK_SECRET"]}
        told = client.post("/setup", json=quoted, auth=login).text
        assert "not '***'" in told
        said.append(wait_until(lambda: '"last_failure":{' in (text := status()) and text, "the failed round"))
        said += [client.get(path, auth=login).text for path in ("/projects/7", "/metrics", "/openapi.json")]
        said.append(str([locked_redis.dump(key) for key in locked_redis.keys("coreset:*")]))
    said.append((tmp_path / "log").read_text())
    assert "Label Studio answered 400" in said[5]
    assert '"project": 7' in said[-1]
    pair = base64.b64encode(":".join(login).encode()).decode()
    for secret in (*SEEDS.values(), pair):
        assert not [text for text in said if secret in text]
