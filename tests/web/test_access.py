"""What strangers, other web sites and too large bodies get from the web process."""

import base64
import http.client
import itertools
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask
from flask.testing import FlaskClient
from serving import web_process

from coreset_backend.backend import Backend
from coreset_backend.connection.connect import SECRET_HEADER
from coreset_backend.errors import ConfigError
from coreset_backend.settings import Settings, read_settings
from coreset_backend.web.app import create_app
from coreset_backend.web.server import gunicorn_command
from coreset_backend.web.throttle import KNOWN_S, REMEMBERED_CALLERS, WINDOW_S, WRONG_GUESSES, Throttle

MakeBackend = Callable[..., Backend]
LOGIN = {"basic_auth_user": "ops", "basic_auth_pass": "pässwörd"}


def basic(pair: str | bytes) -> str:
    return "Basic " + base64.b64encode(pair if isinstance(pair, bytes) else pair.encode()).decode()


RIGHT = {"Authorization": basic("ops:pässwörd")}
STRANGERS: dict[str, dict[str, str]] = {
    "nothing": {},
    "an empty header": {"Authorization": ""},
    "a scheme alone": {"Authorization": "Basic"},
    "no base64": {"Authorization": "Basic !!!"},
    "letters outside ASCII": {"Authorization": "Basic é"},
    "bytes that are no UTF-8": {"Authorization": basic(b"\xff\xfe:\xff")},
    "no colon": {"Authorization": basic("ops")},
    "no user": {"Authorization": basic(":pässwörd")},
    "no password": {"Authorization": basic("ops:")},
    "half the password": {"Authorization": basic("ops:päss")},
    "the password in Latin-1": {"Authorization": basic("ops:pässwörd".encode("latin-1"))},
    "a bearer": {"Authorization": "Bearer pässwörd"},
    "a wrong secret": {SECRET_HEADER: "guess"},
    "an empty secret": {SECRET_HEADER: ""},
}


@pytest.fixture
def locked(make_backend: MakeBackend) -> Flask:
    return create_app(make_backend(**LOGIN))


def routes(app: Flask) -> Iterator[tuple[str, str]]:
    """(method, a path) of everything that the app answers, and a path that it does not know."""
    values = {"project_id": 7, "project": 7, "number": 1, "task_id": 3, "filename": "style.css"}
    for rule in app.url_map.iter_rules():
        built = rule.build({name: values.get(name, 1) for name in rule.arguments})
        assert built
        for method in rule.methods or ():
            yield method, built[1]
    yield "GET", "/nowhere"


@pytest.mark.parametrize("who", STRANGERS)
def test_every_route_but_liveness_refuses_strangers(locked: Flask, who: str) -> None:
    refused = {}
    for method, path in routes(locked):
        with locked.test_client().open(
            path, method=method, headers=STRANGERS[who], json={"project": 7}
        ) as answer:
            refused[method, path] = answer.status_code
            assert b"Traceback" not in answer.data
    open_to_all = {pair for pair, status in refused.items() if status not in (401, 429)}
    assert {path for _, path in open_to_all} == {"/", "/health"}


def test_the_right_login_opens_every_route(locked: Flask) -> None:
    for method, path in routes(locked):
        with locked.test_client().open(path, method=method, headers=RIGHT, json={"project": 7}) as answer:
            assert answer.status_code not in (401, 403, 429), (method, path)


def test_a_browser_is_asked_for_the_login_and_label_studio_is_told_what_to_do(locked: Flask) -> None:
    page = locked.test_client().get("/projects")
    assert page.headers["WWW-Authenticate"].startswith("Basic realm=")
    event = locked.test_client().post("/webhook", json={"action": "ANNOTATION_CREATED"})
    assert "coreset-backend connect" in event.json["error"]  # type: ignore[index]


def test_both_fields_count_and_a_colon_in_the_password_is_part_of_it(make_backend: MakeBackend) -> None:
    client = create_app(make_backend(basic_auth_user="a", basic_auth_pass="b:c")).test_client()
    assert client.get("/projects", headers={"Authorization": basic("a:b:c")}).status_code == 200
    with pytest.raises(ValueError, match="colon"):
        Settings(basic_auth_user="a:b", basic_auth_pass="c")


def test_an_empty_secret_file_is_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("\n")
    monkeypatch.setenv("CORESET_WEBHOOK_SECRET_FILE", str(tmp_path / "secret"))
    with pytest.raises(ConfigError, match="which is empty"):
        read_settings()


# ---------------------------------------------------------------- guessing


def attempt(client: FlaskClient, password: str, address: str = "198.51.100.7") -> int:
    headers = {"Authorization": basic(f"ops:{password}")}
    return client.get("/projects", headers=headers, environ_base={"REMOTE_ADDR": address}).status_code


def test_a_hundred_guesses_are_shut_out_after_ten_and_others_are_not(locked: Flask) -> None:
    client = locked.test_client()
    answers = [attempt(client, str(number)) for number in range(100)]  # within the minute that counts
    assert answers == [401] * WRONG_GUESSES + [429] * (100 - WRONG_GUESSES)
    assert attempt(client, "pässwörd") == 429
    assert attempt(client, "pässwörd", "198.51.100.8") == 200
    assert client.get("/health", environ_base={"REMOTE_ADDR": "198.51.100.7"}).status_code == 200


def test_an_old_password_said_again_and_again_shuts_nobody_out(locked: Flask) -> None:
    client = locked.test_client()
    answers = [attempt(client, "last year's") for _ in range(50)]
    assert answers == [401] * WRONG_GUESSES + [429] * (50 - WRONG_GUESSES)
    assert attempt(client, "pässwörd") == 200


def test_a_caller_of_ipv6_is_its_whole_network(locked: Flask) -> None:
    client = locked.test_client()
    for number in range(WRONG_GUESSES):
        assert attempt(client, str(number), f"2001:db8::{number:x}") == 401
    assert attempt(client, "pässwörd", "2001:db8::ffff") == 429
    assert attempt(client, "pässwörd", "2001:db8:0:1::1") == 200


def test_guessed_webhook_secrets_are_shut_out_without_shutting_out_the_login(locked: Flask) -> None:
    client = locked.test_client()
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 7}}
    answers = [
        client.post("/webhook", json=event, headers={SECRET_HEADER: str(number)}).status_code
        for number in range(20)
    ]
    assert answers == [401] * WRONG_GUESSES + [429] * (20 - WRONG_GUESSES)
    backend: Backend = locked.extensions["backend"]
    assert not backend.queue.jobs
    assert client.post("/webhook", json=event, headers=RIGHT).status_code == 202


def test_the_minute_passes_and_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    waits = [throttle.note_wrong("a", bytes([number])) for number in range(WRONG_GUESSES + 2)]
    assert waits == [0.0] * WRONG_GUESSES + [WINDOW_S] * 2
    now[0] = WINDOW_S - 20
    assert throttle.seconds_shut("a") == 20
    now[0] = WINDOW_S
    assert throttle.seconds_shut("a") == 0
    for number in range(REMEMBERED_CALLERS + 5):
        throttle.note_wrong(str(number), b"x")
        throttle.note_right(str(number))
    assert len(throttle._callers) == len(throttle._right) == REMEMBERED_CALLERS
    assert throttle.knows("100")
    now[0] += KNOWN_S
    assert not throttle.knows("100")


FORWARDED = {
    "a port of its own each time": [f"203.0.113.9:{port}" for port in range(1000, 1025)],
    "the same IPv4 address in IPv6": [f"::ffff:203.0.113.9:{port}" for port in range(1000, 1025)],
    "brackets and ports": [f"[2001:db8::{port:x}]:{port}" for port in range(1000, 1025)],
    "zones": [f"fe80::1%eth{number}" for number in range(25)],
    "claims in front of the address": [f"198.51.100.{n}, 203.0.113.9" for n in range(25)],
    "what is no address": [f"unknown-{number}" for number in range(25)],
    "nothing, and commas": ["," * (number + 1) for number in range(25)],
}


@pytest.mark.parametrize("how", FORWARDED)
def test_twenty_five_guesses_of_one_caller_are_one_callers(make_backend: MakeBackend, how: str) -> None:
    client = create_app(make_backend(**LOGIN, trusted_proxies=1)).test_client()
    statuses = [
        client.get(
            "/projects", headers={"X-Forwarded-For": value, "Authorization": basic(f"ops:{number}")}
        ).status_code
        for number, value in enumerate(FORWARDED[how])
    ]
    assert statuses == [401] * WRONG_GUESSES + [429] * (25 - WRONG_GUESSES)
    for other in ("203.0.113.10", "::ffff:203.0.113.10", "2001:db8:0:1::9"):
        headers = {"X-Forwarded-For": other, **RIGHT}
        assert client.get("/projects", headers=headers).status_code == 200


def test_a_stranger_on_ipv4_in_ipv6_does_not_lock_the_others_out(locked: Flask) -> None:
    client = locked.test_client()
    for number in range(WRONG_GUESSES):
        assert attempt(client, str(number), "::ffff:198.51.100.7") == 401
    assert attempt(client, "pässwörd", "198.51.100.7") == 429
    assert attempt(client, "pässwörd", "::ffff:198.51.100.8") == 200


def test_who_logged_in_before_is_not_locked_out_by_guesses_from_its_address(locked: Flask) -> None:
    client = locked.test_client()
    assert attempt(client, "pässwörd") == 200
    guessed = [attempt(client, str(number)) for number in range(25)]
    assert guessed == [401] * WRONG_GUESSES + [429] * (25 - WRONG_GUESSES)
    assert attempt(client, "pässwörd") == 200
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 7}}
    secret = locked.extensions["backend"].webhook_secret
    signed = [secret, *map(str, range(25)), secret]
    answers = [
        client.post("/webhook", json=event, headers={SECRET_HEADER: each}).status_code for each in signed
    ]
    assert (answers[0], answers[-2], answers[-1]) == (202, 429, 202)


def test_behind_proxies_that_are_trusted_the_caller_is_who_they_say(make_backend: MakeBackend) -> None:
    def last_of(app: Flask) -> int:
        statuses = [
            app.test_client().get("/projects", headers={**forwarded, "Authorization": basic(f"ops:{n}")})
            for n, forwarded in enumerate({"X-Forwarded-For": f"203.0.113.{n}"} for n in range(20))
        ]
        return statuses[-1].status_code

    assert last_of(create_app(make_backend(**LOGIN, trusted_proxies=1))) == 401  # twenty callers
    assert last_of(create_app(make_backend(**LOGIN))) == 429  # one caller that claims to be twenty


# ---------------------------------------------------------------- browsers


@pytest.fixture
def client(make_backend: MakeBackend) -> FlaskClient:
    backend = make_backend(url="http://coreset.example:9090")
    backend.store.register(7)
    return create_app(backend).test_client()


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:8080"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ],
)
def test_another_web_site_cannot_press_our_buttons(client: FlaskClient, headers: dict[str, str]) -> None:
    for path in ("/api/projects/7/start", "/setup", "/predict", "/webhook"):
        assert client.post(path, json={"project": 7, "tasks": []}, headers=headers).status_code == 403
    backend: Backend = client.application.extensions["backend"]
    assert not backend.queue.jobs


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://anything"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost"},
    ],
)
def test_our_own_page_and_what_is_no_browser_can(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.post("/api/projects/7/start", headers=headers).status_code == 202


def test_a_form_of_another_site_is_no_json_even_from_an_old_browser(client: FlaskClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = client.post("/setup", data=b'{"project": 7, "x": "="}', content_type=kind)
        assert answer.status_code == 400


NAMES = {
    "evil.example": 403,
    "127.0.0.1.evil.example": 403,
    "coreset.example.evil.example:9090": 403,
    "coreset.example:9090": 200,
    "127.0.0.1:9090": 200,
    "[::1]:9090": 200,
    "localhost": 200,
    "web:9090": 200,
    "host.docker.internal:9090": 200,
    "web.coreset.svc.cluster.local": 200,
    "CORESET.example": 200,
    "localhost@evil.example": 403,
    "[::1": 403,
}


@pytest.mark.parametrize("name", NAMES)
def test_without_a_login_only_names_that_no_stranger_can_point_here_are_answered(
    client: FlaskClient, name: str
) -> None:
    assert client.get("/projects", headers={"Host": name}).status_code == NAMES[name]
    assert client.get("/health", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize("forwarded", ["localhost", "127.0.0.1", "coreset.example", "[::1]", "a, localhost"])
def test_a_page_cannot_pass_as_ours_by_a_forwarded_host(make_backend: MakeBackend, forwarded: str) -> None:
    for proxies in (0, 1, 2):
        app = create_app(make_backend(url="http://coreset.example:9090", trusted_proxies=proxies))
        headers = {"Host": "evil.example", "X-Forwarded-Host": forwarded}
        assert app.test_client().get("/projects", headers=headers).status_code == 403
        headers = {"Host": "localhost", "X-Forwarded-Host": ", ".join(["evil.example"] * 2)}
        expected = 403 if proxies else 200
        assert app.test_client().get("/projects", headers=headers).status_code == expected


def test_with_a_login_any_name_is_answered(locked: Flask) -> None:
    assert locked.test_client().get("/projects", headers={**RIGHT, "Host": "evil.example"}).status_code == 200


def test_every_answer_is_hardened(locked: Flask) -> None:
    for method, path in routes(locked):
        for headers in (RIGHT, {}):
            with locked.test_client().open(path, method=method, headers=headers) as answer:
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["X-Frame-Options"] == "DENY"
                assert "public" not in answer.headers["Cache-Control"]
                assert "Set-Cookie" not in answer.headers


# ---------------------------------------------------------------- how much, and what paths


@pytest.fixture
def served(redis_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    """The web process as it is deployed, without a login."""
    with web_process(redis_url, tmp_path) as web:
        yield web.client


def plain_request(
    served: httpx.Client, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of a request whose path is sent as it is written, which tidy clients do not do."""
    head = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    with socket.create_connection(("127.0.0.1", served.base_url.port or 0), timeout=60) as connection:
        connection.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n".encode()
        )
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        with answer:
            return answer.status, answer.read()


def test_bodies_are_limited_whether_their_length_is_said_or_not(served: httpx.Client) -> None:
    spaces = itertools.repeat(b" " * 1_000_000)
    for path, limit in (("/setup", 4), ("/webhook", 32), ("/predict", 64), ("/nowhere", 4)):
        claimed = {"Content-Length": str(limit * 1_000_000 + 1), "Content-Type": "application/json"}
        assert plain_request(served, "POST", path, claimed)[0] == 413
    chunked = served.post(
        "/setup", content=itertools.islice(spaces, 6), headers={"Content-Type": "application/json"}
    )
    assert chunked.status_code == 413
    just = json.dumps({"project": 7, "schema": "<View/>", "more": "x" * 3_900_000})
    answer = served.post("/setup", content=just, headers={"Content-Type": "application/json"})
    assert answer.json() == {"model_version": "pool-0-no-round-yet"}


TRAVERSALS = [
    "/static/../web.py",
    "/static/..%2fweb.py",
    "/static/%2e%2e/web.py",
    "/static/..%252fweb.py",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/....//web.py",
    "/static/..\\web.py",
    "/static/style.css%00.png",
    "/projects/7/rounds/1/thumbnails/..%2f..%2f..%2fwebhook-secret.jpg",
    "/projects/7/rounds/../../../webhook-secret",
    "/projects/..%2f..%2fetc/rounds/1/map",
    "/projects/7%2f..%2f8/rounds/1/map",
    "/api/projects/..%2f..%2fetc/status",
    "/api/projects/%2e%2e/status",
    "/api/projects/" + "9" * 3000 + "/status",
    "/api/projects/1.17e9/status",
    "/api/projects/٧/status",
    "/versions?project=../../etc",
    "/versions?project=1%2f..",
]


def test_no_path_leads_out_of_its_folder(served: httpx.Client, tmp_path: Path) -> None:
    secret = tmp_path / "data/webhook-secret"
    served.post("/webhook", json={"action": "ANNOTATION_CREATED", "project": 7}, headers={SECRET_HEADER: "x"})
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    for path in TRAVERSALS:
        status, body = plain_request(served, "GET", path)
        assert status == 308 or 400 <= status < 500, (path, status)
        for leaked in (b"root:", b"create_app", secret.read_bytes()):
            assert leaked not in body, path
    for project in ("../../etc", "1%2f..", "٧", "7" * 10_000, [7], {"id": 7}, 1e30, -7, True, None):
        for path, body in (("/setup", {"project": project}), ("/predict", {"project": project, "tasks": []})):
            assert served.post(path, json=body).status_code == 400
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


# ---------------------------------------------------------------- the open door


@pytest.mark.parametrize(
    ("host", "bound"), [(host, host) for host in ("0.0.0.0", "192.168.1.5", "coreset.lan")] + [("::", "[::]")]
)
def test_without_a_login_only_this_machine_is_served(host: str, bound: str) -> None:
    given: dict[str, Any] = {"host": host, "model_dir": Path("data")}
    with pytest.raises(ConfigError, match="no login is set"):
        gunicorn_command(Settings(**given))
    assert f"{bound}:9090" in gunicorn_command(Settings(**given, **LOGIN))
    assert f"{bound}:9090" in gunicorn_command(Settings(**given, require_auth=False))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8"])
def test_this_machine_needs_no_login(host: str) -> None:
    assert "--no-control-socket" in gunicorn_command(Settings(host=host, model_dir=Path("data")))
