import base64
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from paths import ROOT
from saved_rounds import LABELS, save_round

from coreset_backend.backend import Backend
from coreset_backend.connection.connect import SECRET_HEADER
from coreset_backend.web.app import create_app

MakeBackend = Callable[..., Backend]
PROJECT = {"id": 7, "title": "Pets"}


def signed(backend: Backend) -> dict[str, str]:
    return {SECRET_HEADER: backend.webhook_secret}


def waiting_jobs(backend: Backend) -> int:
    return backend.jobs_waiting


@pytest.mark.parametrize("path", ["/", "/health"])
def test_health_answers_without_redis_or_login(make_backend: MakeBackend, path: str) -> None:
    away = make_backend(redis_url="redis://127.0.0.1:1", basic_auth_user="u", basic_auth_pass="p")
    answer = create_app(away).test_client().get(path)
    assert answer.status_code == 200
    assert answer.json and answer.json["status"] == "UP"


def test_ready_says_that_no_worker_listens(client: FlaskClient) -> None:
    assert client.get("/ready").status_code == 503


def test_setup_registers_the_project_and_asks_for_its_first_round_once(
    backend: Backend, client: FlaskClient
) -> None:
    body = {
        "project": "7.1795444315",
        "schema": "<View/>",
        "hostname": "http://evil.example",
        "access_token": "x",
    }
    for _ in range(4):
        answer = client.post("/setup", json=body)
        assert answer.json == {"model_version": "pool-0-no-round-yet"}
    assert backend.store.projects() == [7]
    assert waiting_jobs(backend) == 1


def test_predict_answers_each_task_once_in_order_under_the_pool_version(
    backend: Backend, client: FlaskClient
) -> None:
    save_round(backend)
    tasks = [{"id": task_id, "data": {}} for task_id in (3, 99, 1, 4, 2)] + [{"data": {}}]
    results = (client.post("/predict", json={"project": "7.1", "tasks": tasks}).json or {})["results"]
    assert [result["score"] for result in results] == pytest.approx([0.3, 1.0, 0.1, 0.4, 0.2, 1.0])
    assert {result["model_version"] for result in results} == {"pool-1-now"}
    chosen = [result["result"][0]["value"]["choices"] if result["result"] else None for result in results]
    assert chosen == [["cat"], None, ["dog"], None, None, None]
    assert results[2]["result"][0]["score"] == pytest.approx(0.95)
    assert results[2]["result"][0]["from_name"] == LABELS.from_name


@pytest.mark.parametrize(
    ("right", "sure", "is_shown"),
    [
        (1, 1, False),
        (13, 13, False),
        (14, 14, True),
        (19, 20, False),  # 95 %, but perhaps 78 %
        (21, 22, True),
        (57, 60, True),
        (51, 60, False),  # 85 %, but perhaps 75 %
    ],
)
def test_answers_are_shown_where_the_hold_out_proves_that_such_answers_are_right(
    backend: Backend, client: FlaskClient, right: int, sure: int, is_shown: bool
) -> None:
    save_round(backend, right, sure)
    results = (client.post("/predict", json={"project": "7.1", "tasks": [{"id": 1}]}).json or {})["results"]
    assert bool(results[0]["result"]) == is_shown


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ('<Text name="t" value="$text"/>', "has no <Image"),
        (
            '<Repeater on="$x"><Image name="i" value="$x[{{idx}}]"/></Repeater>',
            "several images per task in a <Repeater>",
        ),
        ('<Image name="i" value="$x" coreset_control="moon"/>', "there is no <Choices> 'moon'"),
    ],
)
def test_a_label_config_that_cannot_be_worked_on_is_told_in_the_form(
    backend: Backend, client: FlaskClient, tags: str, words: str
) -> None:
    answer = client.post("/setup", json={"project": "7.1", "schema": f"<View>{tags}</View>"})
    assert answer.status_code == 400 and words in answer.status
    assert backend.store.projects() == []


def test_unseen_tasks_are_noted(backend: Backend, client: FlaskClient) -> None:
    client.post("/predict", json={"project": "7", "tasks": [{"id": 99}]})
    assert backend.redis.smembers("coreset:7:unseen") == {b"99"}


@pytest.mark.parametrize(
    "action",
    [
        "ANNOTATION_CREATED",
        "ANNOTATIONS_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATION_DELETED",
        "ANNOTATIONS_DELETED",
        "TASKS_CREATED",
        "TASKS_DELETED",
        "START_TRAINING",
    ],
)
def test_fifty_events_make_one_job(backend: Backend, client: FlaskClient, action: str) -> None:
    body = {"action": action, "project": PROJECT}
    answers = [client.post("/webhook", json=body, headers=signed(backend)) for _ in range(50)]
    assert {answer.status_code for answer in answers} == {202}
    assert waiting_jobs(backend) == 1
    assert bool(backend.redis.exists("coreset:7:demands")) == (action == "START_TRAINING")


@pytest.mark.parametrize("action", ["PROJECT_UPDATED", "LABEL_LINK_CREATED", "SOMETHING_NEW"])
def test_our_own_patch_and_unknown_events_start_nothing(
    backend: Backend, client: FlaskClient, action: str
) -> None:
    answer = client.post("/webhook", json={"action": action, "project": PROJECT}, headers=signed(backend))
    assert answer.status_code == 200
    assert waiting_jobs(backend) == 0


def test_events_without_the_secret_are_refused(backend: Backend, client: FlaskClient) -> None:
    body = {"action": "ANNOTATION_CREATED", "project": PROJECT}
    for headers in ({}, {SECRET_HEADER: "wrong"}, {SECRET_HEADER: "é"}):
        assert client.post("/webhook", json=body, headers=headers).status_code == 401
    assert waiting_jobs(backend) == 0


def test_manual_trigger_waits_for_start_training(make_backend: MakeBackend) -> None:
    backend = make_backend(trigger="manual")
    client = create_app(backend).test_client()
    client.post(
        "/webhook", json={"action": "ANNOTATION_CREATED", "project": PROJECT}, headers=signed(backend)
    )
    assert waiting_jobs(backend) == 0
    client.post("/webhook", json={"action": "START_TRAINING", "project": PROJECT})
    assert waiting_jobs(backend) == 1


LOGIN = "Basic " + base64.b64encode(b"ops:pass").decode()
WRONG = ["", "Basic", "Basic !!!", "Bearer x", LOGIN[:-4], "Basic " + base64.b64encode(b"\xff:\xff").decode()]


@pytest.mark.parametrize("authorization", WRONG)
def test_with_a_login_set_everything_but_health_asks_for_it(
    make_backend: MakeBackend, authorization: str
) -> None:
    client = create_app(make_backend(basic_auth_user="ops", basic_auth_pass="pass")).test_client()
    headers = {"Authorization": authorization}
    event = {"action": "START_TRAINING", "project": PROJECT}
    assert client.post("/webhook", json=event, headers=headers).status_code == 401
    for path in ("/setup", "/predict", "/api/projects/7/start"):
        assert client.post(path, json={"project": "7", "tasks": []}, headers=headers).status_code == 401
    for path in ("/versions", "/ready", "/api/projects/7/status"):
        assert client.get(path, headers=headers).status_code == 401


def test_the_right_login_is_let_in(make_backend: MakeBackend) -> None:
    client = create_app(make_backend(basic_auth_user="ops", basic_auth_pass="pass")).test_client()
    headers = {"Authorization": LOGIN}
    assert client.post("/setup", json={"project": "7"}, headers=headers).status_code == 200
    event = {"action": "START_TRAINING", "project": PROJECT}
    assert client.post("/webhook", json=event, headers=headers).status_code == 202


BAD_BODIES: list[Any] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"\xff\xfe",
    b'{"project": {}}',
    b'{"project": "../../etc"}',
]
BAD_BODIES += [
    b'{"project": true}',
    b'{"project": "1%2f.."}',
    b'{"project": -1}',
    b'{"project": "' + b"9" * 99 + b'"}',
]
BAD_BODIES += [b'{"project": 7, "tasks": 3}', b'{"project": 7, "tasks": [3]}', b'{"action": 3, "project": 7}']


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
@pytest.mark.parametrize("body", BAD_BODIES)
def test_malformed_bodies_are_4xx_with_a_reason(backend: Backend, path: str, body: bytes) -> None:
    client = create_app(backend).test_client()
    answer = client.post(path, data=body, content_type="application/json", headers=signed(backend))
    if path == "/setup" and b'"project": 7' in body:
        assert answer.status_code == 200
        return
    assert 400 <= answer.status_code < 500
    assert answer.json and answer.json["error"]
    assert b"Traceback" not in answer.data


def test_with_redis_away_requests_say_so_and_predict_still_answers(make_backend: MakeBackend) -> None:
    backend = make_backend(redis_url="redis://127.0.0.1:1")
    client = create_app(backend).test_client()
    event = {"action": "ANNOTATION_CREATED", "project": PROJECT}
    answer = client.post("/webhook", json=event, headers=signed(backend))
    assert answer.status_code == 503
    assert answer.json and "Redis does not answer" in answer.json["error"]
    assert client.post("/setup", json={"project": "7"}).status_code == 200
    assert client.post("/predict", json={"project": "7", "tasks": [{"id": 1}]}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/setup", {}, "`project` must be the project's id, as in 7 or '7.1795444315'."),
        ("/setup", {"project": "x"}, "The project must be a number, as in 7 or '7.1795444315', not 'x'."),
        ("/setup", {"project": [7]}, "The project must be a number, as in 7 or '7.1795444315', not '[7]'."),
        ("/setup", {"project": 7, "schema": "\ud800"}, "The label config"),
        ("/predict", {"project": 7}, "`tasks` must be a list of task objects, as Label Studio sends them."),
        ("/predict", {"project": 7, "tasks": [1]}, "`tasks` must be a list of task objects, "),
        ("/webhook", {"project": 7}, "`action` must be the name of the event, as in ANNOTATION_CREATED."),
        ("/webhook", {"action": "TASKS_CREATED", "project": {}}, "The project must be a number"),
        ("/webhook", {"action": "TASKS_CREATED"}, "The project must be a number"),
        ("/api/projects/7/rollback", {"round": "1"}, "`round` must be the number of a round, as in 3."),
        ("/api/projects/7/rollback", {"round": True}, "`round` must be the number of a round, as in 3."),
        ("/api/projects/7/rollback", {"round": 0}, "`round` must be the number of a round, as in 3."),
        ("/api/projects/7/rollback", [1], "The body must be a JSON object"),
    ],
)
def test_a_body_of_another_shape_is_told_what_was_expected(
    backend: Backend, client: FlaskClient, path: str, body: object, words: str
) -> None:
    save_round(backend)
    answer = client.post(path, json=body, headers=signed(backend))
    assert answer.status_code == 400
    assert (answer.json or {})["error"].startswith(words)


def test_tasks_without_an_id_of_ours_get_an_empty_prediction(backend: Backend, client: FlaskClient) -> None:
    save_round(backend)
    tasks = [{"data": {}}, {"id": None}, {"id": "1"}, {"id": -5}, {"id": 2**70}]
    results = (client.post("/predict", json={"project": 7, "tasks": tasks}).json or {})["results"]
    assert [(each["result"], each["score"]) for each in results] == [([], 1.0)] * len(tasks)


def test_status_of_an_unknown_project_is_404_and_of_a_known_one_its_newest_round(
    backend: Backend, client: FlaskClient
) -> None:
    assert client.get("/api/projects/7/status").status_code == 404
    save_round(backend)
    answer = client.get("/api/projects/7/status").json or {}
    assert answer["round"]["batch"] == [3, 1]
    assert answer["progress"]["state"] == "idle"
    assert answer["progress"]["error"] is None and answer["progress"]["steps"][0]["status"] == "pending"


def test_versions(backend: Backend, client: FlaskClient) -> None:
    save_round(backend)
    save_round(backend)
    assert client.get("/versions").json == {"versions": []}
    assert client.get("/versions?project=7.1").json == {"versions": ["pool-2-now", "pool-1-now"]}


def test_a_corrupt_round_falls_back_to_the_one_before(backend: Backend, client: FlaskClient) -> None:
    save_round(backend)
    save_round(backend)
    (backend.store.root / "projects/7/round-00002/scores.npy").write_bytes(b"torn")
    results = (client.post("/predict", json={"project": "7", "tasks": [{"id": 1}]}).json or {})["results"]
    assert results[0]["model_version"] == "pool-1-now"


def test_every_endpoint_of_the_api_is_in_its_document(client: FlaskClient) -> None:
    text = (ROOT / "docs/api.md").read_text()
    rules = {
        f"{method} {re.sub('<[^>]*project[^>]*>', '<id>', rule.rule)}"
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) & {"GET", "POST"}
        if rule.rule.startswith("/api/")
        or rule.rule in ("/ready", "/health", "/setup", "/predict", "/webhook")
    }
    assert len(rules) >= 9
    assert sorted(rule for rule in rules if f"`{rule}`" not in text) == []


@pytest.mark.parametrize("what", ["overview", "progress", "status", "history"])
def test_the_api_says_in_json_that_a_project_is_not_connected(client: FlaskClient, what: str) -> None:
    answer = client.get(f"/api/projects/9/{what}")
    assert answer.status_code == 404
    assert answer.json["error"].startswith("Project 9 is not connected.")
