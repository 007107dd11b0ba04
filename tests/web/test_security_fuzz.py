"""Anything at all sent to every route: an answer that the description names, never an unexpected error."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import SUPPORT
from saved_rounds import save_round
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse
from written_progress import changed

from coreset_backend.backend import Backend
from coreset_backend.connection.connect import SECRET_HEADER
from coreset_backend.jobs.progress import Failure, redis_key, write_pretraining, write_progress
from coreset_backend.reports import ImageFailure, Publication
from coreset_backend.store.record import BatchScores, ClassScores, Evaluation, Interval, Pace, WorkingTime
from coreset_backend.web.app import create_app
from coreset_backend.web.pages import TABS

MakeBackend = Callable[..., Backend]
PAYLOADS = [json.loads(path.read_text()) for path in (SUPPORT / "payloads").iterdir()]
LATIN = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30)
ODD = st.sampled_from([0, -1, 7, "7", "7.1", 2**63, 10**30, 1e308, "../../etc", "٧", "\0", "", [], {}, True])
JSON = st.recursive(
    ODD | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "project", "tasks", "action", "data"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@st.composite
def damaged_payloads(draw: st.DrawFn) -> Any:
    """A request that Label Studio really sent, with one to three of its values replaced or removed."""
    body = json.loads(json.dumps(draw(st.sampled_from(PAYLOADS))))
    for _ in range(draw(st.integers(1, 3))):
        place = body
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place)) if isinstance(place, dict) else st.just(0))
            if draw(st.booleans()):
                place[key] = draw(JSON)
                break
            if draw(st.booleans()):
                del place[key]
                break
            place = place[key]
    return body


BODIES = st.one_of(
    st.builds(lambda value: json.dumps(value).encode(), damaged_payloads() | JSON),
    st.binary(max_size=60),
    st.sampled_from(
        [b"[" * 100_000, b'{"project":' * 50_000, b'{"project": 1' + b"0" * 9000 + b"}", b"\xef\xbb\xbf{}"]
    ),
)


@st.composite
def requests(draw: st.DrawFn, app: Flask) -> dict[str, Any]:
    """The arguments of one request to a route of ``app``, or nearly to one."""
    rule = draw(st.sampled_from(sorted(app.url_map.iter_rules(), key=str)))
    value = st.sampled_from(["7", "1", "3", "8", "0", "99999999999999999999", "style.css"]) | LATIN
    path = re.sub(r"<[^>]+>", lambda _: draw(value), rule.rule)
    query = "?" + urlencode({"project": draw(value)}) if draw(st.booleans()) else ""
    headers = {"Authorization": draw(LATIN), SECRET_HEADER: draw(LATIN), "Origin": draw(LATIN)}
    signed = {SECRET_HEADER: app.extensions["backend"].webhook_secret}
    kept = draw(st.sets(st.sampled_from(sorted(headers)), max_size=1))
    return {
        "path": path + query,
        "method": draw(st.sampled_from([*sorted(rule.methods or ()), "GET", "POST", "PUT", "DELETE"])),
        "data": draw(BODIES),
        "content_type": draw(st.sampled_from(["application/json"] * 4 + ["text/plain", "", "é"])),
        "headers": {name: headers[name] for name in kept} or signed,
    }


@pytest.fixture
def client(make_backend: MakeBackend) -> FlaskClient:
    backend = make_backend()
    save_round(backend)
    return create_app(backend).test_client()


def template(app: Flask, path: str, method: str) -> str | None:
    """The path of the description that a request belongs to; None where the app knows no such route."""
    try:
        rule, _ = app.url_map.bind("localhost").match(path.partition("?")[0], method, return_rule=True)
    except HTTPException:
        return None
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)


TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def fits(value: Any, schema: Any, described: Any) -> bool:
    """Whether the value is as the schema says, of what our description uses of JSON Schema."""
    if "$ref" in schema:
        return fits(value, described["components"]["schemas"][schema["$ref"].rpartition("/")[2]], described)
    if "anyOf" in schema:
        return any(fits(value, each, described) for each in schema["anyOf"])
    kinds = schema.get("type", list(TYPES))
    if not any(isinstance(value, TYPES[kind]) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return False
    if isinstance(value, list):
        return all(fits(each, schema.get("items", {}), described) for each in value)
    if isinstance(value, dict):
        inner, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        for_others = others if isinstance(others, dict) else {}
        return (
            set(schema.get("required", ())) <= set(value)
            and all(name in inner or others is not False for name in value)
            and all(fits(each, inner.get(name, for_others), described) for name, each in value.items())
        )
    return True


def assert_described(answer: TestResponse, operation: Any, described: Any) -> None:
    """Type and shape of the body are those that the description gives for the status."""
    content = operation["responses"][str(answer.status_code)].get("content", {})
    if answer.is_json:
        assert fits(answer.json, content["application/json"].get("schema", {}), described), answer.text
    elif answer.data and answer.status_code == 200:
        assert set(content) & {answer.mimetype, "application/octet-stream"}, answer.mimetype


def fuzz(client: FlaskClient, examples: int) -> int:
    """Send ``examples`` requests, each of which must be answered as described; how many were sent."""
    app, sent = client.application, 0
    described = client.get("/openapi.json").json or {}
    paths = described["paths"]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(app))
    def send(request: dict[str, Any]) -> None:
        nonlocal sent
        sent += 1
        # Each from an address of its own, or the wrong secrets would soon shut all of them out.
        address = f"198.18.{sent // 250}.{sent % 250}"
        with client.open(**request, environ_base={"REMOTE_ADDR": address}) as answer:
            assert answer.status_code != 500, answer.text
            assert b"Traceback" not in answer.data
            path = template(app, request["path"], request["method"])
            operation = paths.get(path, {}).get(request["method"].lower())
            if operation is not None:
                assert str(answer.status_code) in operation["responses"], request
                assert_described(answer, operation, described)

    send()
    return sent


def test_every_answer_is_of_the_shape_that_is_described(client: FlaskClient) -> None:
    described = client.get("/openapi.json").json or {}
    bodies = {
        "/setup": {"project": 7},
        "/predict": {"project": 7, "tasks": [{"id": 1}, {"id": 99}]},
        "/webhook": {"action": "START_TRAINING", "project": {"id": 7}},
        "/api/projects/{project}/rollback": {"round": 1},
        "/api/projects/{project}/finish": {"accuracy": 0.9, "dry_run": True},
        "/api/projects/{project}/finish/accept": {"annotations": True, "rest": "hardest-last"},
        "/api/projects/{project}/copies": {"accuracy": 0.9, "dry_run": True},
        "/api/projects/{project}/bulk": {"task_ids": [1], "label": ["cat"], "dry_run": True},
        "/api/projects/{project}/bulk/undo": {"version": "bulk-1"},
        "/api/projects/{project}/examples": {"task_ids": [1], "like": "more"},
    }
    progress = described["components"]["schemas"]["ProjectProgress"]
    assert set(progress["required"]) == set(progress["properties"])
    shapes = 0
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            asked = path.replace("{project}", "7")
            if "{" in asked:
                continue
            answer = client.open(asked, method=method, json=bodies.get(path))
            asks = re.search("/finish|/copies|/bulk", path) and method == "post"
            refused = (409, 500) if asks else ()  # there is no Label Studio
            assert answer.status_code in (200, 202, 503, *refused), (path, answer.text)
            assert_described(answer, operation, described)
            shapes += answer.is_json
    assert shapes >= 15
    health = {"$ref": "#/components/schemas/Health"}
    assert fits({"status": "UP", "model_class": "Coreset", "version": "1"}, health, described)
    for wrong in ({"status": "UP"}, {"status": "DOWN", "model_class": "", "version": "1"}):
        assert not fits(wrong, health, described)
    assert not fits({"status": "UP", "model_class": "", "version": "1", "more": 1}, health, described)


PACE = Pace(per_day=100, days=14, with_labels=7, spread=1.0)
WORKING_TIME = WorkingTime(6.2, 1.0, 0.1, block=50, answers=240, idle=12, people=3, overlap=1, pace=PACE)


def test_a_project_with_everything_in_it_is_answered_as_described(make_backend: MakeBackend) -> None:
    backend = make_backend(hourly_cost="25 EUR")
    share = Interval(0.8, 0.7, 0.9, 60)
    evaluation = Evaluation(share, share, (ClassScores("cat", 30, 0.9, None, None),), share)
    for number in range(1, 5):
        save_round(backend)
        newest = backend.store.latest(7)
        assert newest
        with backend.store.draft(7) as draft:
            known = {"number": draft.number, "evaluation": evaluation, "random_slice": (1,)}
            known |= {"batch_figures": BatchScores(share, None), "radius_before": 2.0, "remarks": ("One.",)}
            known |= {"working_time": WORKING_TIME, "could_finish": 900}
            known |= {
                "counts": {"labeled": 20 * number, "pool": 1000},
                "failures": (ImageFailure(9, None, "no image"),),
            }
            arrays = {name: newest.array(name) for name in ("task_ids", "embedded_task_ids", "probabilities")}
            arrays |= {"label_codes": np.array([-1, -1, -1, 1], dtype=np.int16)}
            arrays |= {"pick_neighbors": np.array([[4, -1], [4, 3]]), "pick_distances": np.ones((2, 2), "f4")}
            draft.save(replace(newest.record, **known), arrays).mark_published(
                Publication(at=newest.record.taken_at)
            )
    write_progress(
        backend.redis,
        7,
        changed(state="running", phase="embed", done=3, total=9, last_failure=Failure("a", 1.0)),
    )
    write_pretraining(backend.redis, 7, changed(state="waiting", images=9, seen=3, budget=90))
    backend.redis.set(redis_key(7, "lease"), "held")
    client = create_app(backend).test_client()
    described = client.get("/openapi.json").json or {}
    for name in ("status", "history", "overview", "progress"):
        answer = client.get(f"/api/projects/7/{name}")
        assert answer.status_code == 200
        assert_described(answer, described["paths"][f"/api/projects/{{project}}/{name}"]["get"], described)
    for tab in TABS:
        assert client.get(f"/projects/7?tab={tab}").status_code == 200
    assert (client.get("/api/projects/7/history").json or {})["rounds"][-1]["per_class"]
    goals = (client.get("/api/projects/7/status").json or {})["work"]["goals"]
    assert [each["goal"] for each in goals] == ["finish", "all"] and goals[0]["cost"] and goals[0]["done_on"]


@pytest.mark.slow
def test_a_thousand_requests_end_in_no_unexpected_error(client: FlaskClient) -> None:
    assert fuzz(client, 1000) >= 1000


@pytest.mark.soak
def test_ten_thousand_requests_end_in_no_unexpected_error(client: FlaskClient) -> None:
    assert fuzz(client, 10_000) >= 10_000


def test_every_route_is_described_in_words(client: FlaskClient) -> None:
    described = client.get("/openapi.json").json or {}
    for rule in client.application.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            operation = described["paths"][path][method.lower()]
            assert " " in operation["summary"], f"{path} has no docstring to describe it by"
            assert [parameter["name"] for parameter in operation["parameters"]] == sorted(rule.arguments)


def test_a_route_that_reads_a_body_describes_it(client: FlaskClient) -> None:
    described = client.get("/openapi.json").json or {}
    for path, operations in described["paths"].items():
        if "post" in operations and "{" not in path:
            body = operations["post"]["requestBody"]["content"]["application/json"]["schema"]
            needed = described["components"]["schemas"][body["$ref"].rpartition("/")[2]]["required"]
            answer = client.post(path, json={})
            assert answer.status_code == 400
            assert any(f"`{name}`" in answer.text or name in answer.text for name in needed)
