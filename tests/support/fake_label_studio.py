"""A Label Studio in a thread: what the backend uses of 1.23.2, over real HTTP, with faults to switch on.

It keeps to what the real one was seen to do; `label_studio_contract.py` asks both the same questions.
"""

import base64
import contextlib
import io
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import numpy as np
from flask import Flask, Response, abort, jsonify, request
from PIL import Image
from ports import kept
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

Json = Any
TOKEN = "0123456789abcdef0123456789abcdef01234567"
EMAIL = "lead@example.com"
MOMENT = "%Y-%m-%dT%H:%M:%S.%fZ"
MOST_UPLOADS = 998
"""Uploaded images that a page may have: SQLite finds the condition for their files too deep otherwise."""


def choices_config(labels: tuple[str, ...]) -> str:
    choices = "".join(f'<Choice value="{label}"/>' for label in labels)
    return (
        '<View><Image name="image" value="$image"/>'
        f'<Choices name="label" toName="image">{choices}</Choices></View>'
    )


def picture(seed: int, size: int = 40) -> bytes:
    """A PNG of coloured noise, another for each seed."""
    body = io.BytesIO()
    low = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(low).resize((size, size)).save(body, "PNG")
    return body.getvalue()


@dataclass(slots=True)
class Fault:
    """What goes wrong with requests whose method and path match, after ``skip`` of them, ``times`` times.

    ``kind``: a status as 500; ``slow`` (``seconds`` late); ``cut`` (the connection ends within the body);
    ``html`` (a page, with status 200); ``torn`` (JSON that stops); ``other`` (JSON of another shape);
    ``answer`` (what ``answer`` makes of the query, with ``headers``); ``drip`` (a byte every 0.1 s);
    ``meanwhile`` (somebody else is faster: ``act`` is done first); ``held`` (done and answered once
    ``released``).
    """

    kind: int | str
    path: str = ""
    method: str = ""
    skip: int = 0
    times: float = float("inf")
    seconds: float = 0.0
    headers: Mapping[str, str] | None = None
    answer: Callable[[Mapping[str, str]], bytes] = lambda _query: b""
    act: Callable[[], object] = lambda: None
    released: threading.Event = field(default_factory=threading.Event)

    def strikes(self, method: str, path: str) -> bool:
        if self.method not in ("", method) or not re.search(self.path, path) or not self.times:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class FakeLabelStudio:
    """Projects, tasks, annotations and predictions in memory, served at ``url`` until ``close``.

    ``asked`` lists (method, path) of every request. ``down`` stops listening, ``up`` listens again on the
    same port with everything kept, as after a restart.
    """

    def __init__(self) -> None:
        self.projects: dict[int, Json] = {}
        self.tasks: dict[int, Json] = {}
        self.predictions: list[Json] = []
        self.backends: dict[int, Json] = {}
        self.webhooks: dict[int, Json] = {}
        self.views: dict[int, Json] = {}
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.token = TOKEN
        self.personal_token = ""
        self.release = "1.23.2"
        self.faults: list[Fault] = []
        self.lag = timedelta()  # how far the clock of the server that saves tasks is behind the others'
        self.filters = True  # an early release ignores the filters by id and by time
        self.uncounted: set[int] = set()  # tasks that were annotated while predictions were imported
        self._ids = itertools.count(1)
        self._lock = threading.RLock()
        self._app = _application(self)
        self._port = 0
        self._server: BaseWSGIServer | None = None
        self._keeper: socket.socket | None = None
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def up(self) -> None:
        if self._keeper:
            self._keeper.close()
        self._server = make_server(
            "127.0.0.1", self._port, self._app, threaded=True, request_handler=_QuietHandler
        )
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self._port = self._server.server_port
        self._serving = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._serving.start()

    def down(self) -> None:
        if self._server:
            self._server.shutdown()
            self._serving.join()  # it closes the server
            self._server, self._keeper = None, kept(self._port)

    def close(self) -> None:
        self.heal()
        self.down()
        if self._keeper:
            self._keeper.close()

    def fail(self, kind: int | str, path: str = "", **options: Any) -> Fault:
        """Switch a fault on; the newest that matches a request strikes."""
        self.faults.append(Fault(kind, path, **options))
        return self.faults[-1]

    def heal(self) -> None:
        for fault in self.faults:
            fault.released.set()
        self.faults.clear()

    def next_id(self) -> int:
        return next(self._ids)

    # ------------------------------------------------------------ what people do

    def create_project(self, images: int = 0, labels: tuple[str, ...] = ("cat", "dog")) -> int:
        """A project with that many uploaded images as tasks; its id."""
        project_id = self.next_id()
        self.projects[project_id] = {
            "id": project_id,
            "title": f"Project {project_id}",
            "label_config": choices_config(labels),
            "model_version": "",
            "sampling": "Sequential sampling",
        }
        for number in range(images):
            path = f"/data/upload/{project_id}/{number}.png"
            self.files[path] = picture(1000 * project_id + number)
            self.add_task(project_id, {"image": path})
        return project_id

    def add_task(self, project_id: int, data: Json) -> int:
        task_id = self.next_id()
        self.tasks[task_id] = {
            "id": task_id,
            "project": project_id,
            "data": data,
            "annotations": [],
            "overlap": 1,
            "is_labeled": False,
        }
        self.touch(task_id)
        self.tasks[task_id]["created_at"] = self.tasks[task_id]["updated_at"]
        return task_id

    def touch(self, task_id: int) -> None:
        """Note that the task was saved now; annotations do, imported predictions do not."""
        self.tasks[task_id]["updated_at"] = _stamp(datetime.now(UTC) - self.lag)

    def change_data(self, task_id: int, data: Json) -> None:
        self.tasks[task_id]["data"] = data
        self.touch(task_id)

    def annotate(
        self,
        task_id: int,
        label: str | None,
        *,
        cancelled: bool = False,
        by: int = 1,
        lead_time: float | None = None,
    ) -> None:
        region = {
            "from_name": "label",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [label]},
        }
        body = {"result": [region] if label else [], "was_cancelled": cancelled, "lead_time": lead_time}
        self.add_annotation(task_id, {**body, "completed_by": by})

    def add_annotation(self, task_id: int, body: Json) -> Json:
        annotation = {
            "id": self.next_id(),
            "result": body["result"],
            "was_cancelled": bool(body.get("was_cancelled")),
            "ground_truth": bool(body.get("ground_truth")),
            "completed_by": body.get("completed_by", 1),
            "updated_at": f"2026-01-01T00:00:00.{self.next_id():06d}Z",
            "updated_by": body.get("updated_by", 1),
            "created_at": body.get("created_at", datetime.now(UTC).isoformat()),
            "lead_time": body.get("lead_time"),
            "import_id": body.get("import_id"),
            "parent_prediction": body.get("parent_prediction"),
        }
        self.tasks[task_id]["annotations"].append(annotation)
        _compare_with_overlap(self.tasks[task_id])
        self.touch(task_id)
        return annotation

    def correct(self, task_id: int, label: str, *, by: int = 2) -> None:
        """Change the task's latest annotation in the editor, which saves no key that it does not know."""
        latest = self.tasks[task_id]["annotations"][-1]
        value = {"choices": [label]}
        region = {"from_name": "label", "to_name": "image", "type": "choices", "value": value}
        latest |= {"result": [region], "updated_by": by}
        self.touch(task_id)

    def note_backend(self, backend: Json) -> None:
        """What follows where somebody adds a backend, in the form or by the SDK."""
        project = self.projects[backend["project"]]
        project["model_version"] = project["model_version"] or backend["title"]
        hook_id, url = self.next_id(), f"{backend['url']}/webhook"
        if not any(each["url"] == url for each in self.webhooks.values()):
            self.webhooks[hook_id] = {"id": hook_id, "project": project["id"], "url": url, "headers": {}}

    def delete_project(self, project_id: int) -> None:
        del self.projects[project_id]
        for task_id in [each["id"] for each in self.tasks.values() if each["project"] == project_id]:
            self.delete_task(task_id)

    def delete_task(self, task_id: int) -> None:
        del self.tasks[task_id]
        self.predictions = [each for each in self.predictions if each["task"] != task_id]

    # ------------------------------------------------------------ what they then see

    def tasks_of(self, project_id: int) -> list[Json]:
        return [task for task in self.tasks.values() if task["project"] == project_id]

    def listing(self, project_id: int, wanted: str) -> list[Json]:
        """The tasks that the Data Manager lists for a query, on all pages."""
        return _listing(self, project_id, json.loads(wanted))

    def versions(self, project_id: int) -> dict[str, int]:
        """Version -> how many predictions of it the project holds."""
        found: dict[str, int] = {}
        for each in self.predictions:
            if each["project"] == project_id:
                found[each["model_version"]] = found.get(each["model_version"], 0) + 1
        return found

    def predictions_of(self, task_id: int) -> list[Json]:
        return [each for each in self.predictions if each["task"] == task_id]

    def queue(self, project_id: int, by: int | None = None) -> list[int]:
        """The task ids that "Label All Tasks" shows (that user), in order, before it falls back to chance."""
        version = self.projects[project_id]["model_version"]
        scores: dict[int, float] = {}
        for each in self.predictions:
            if each["project"] == project_id and each["model_version"] == version:
                scores[each["task"]] = min(each["score"], scores.get(each["task"], 1.0))
        shown = [
            task_id
            for task_id in scores
            if not self.tasks[task_id]["is_labeled"]
            and by not in [each["completed_by"] for each in self.tasks[task_id]["annotations"]]
        ]
        return sorted(shown, key=scores.__getitem__)


@contextlib.contextmanager
def running() -> Iterator[FakeLabelStudio]:
    """A fake Label Studio for the length of the block."""
    studio = FakeLabelStudio()
    try:
        yield studio
    finally:
        studio.close()


class _QuietHandler(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        """Say nothing."""


def _stamp(moment: datetime) -> str:
    return moment.strftime(MOMENT)


def _kept(task: Json) -> list[Json]:
    return [each for each in task["annotations"] if not each["was_cancelled"]]


def _compare_with_overlap(task: Json) -> None:
    """As the real one does where an annotation changes, and only then."""
    annotators = {each["completed_by"] for each in _kept(task)}
    task["is_labeled"] = len(annotators) >= task["overlap"]


def _jwt(claims: Json) -> str:
    parts = (json.dumps({"alg": "HS256"}), json.dumps(claims), "signature")
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


# ---------------------------------------------------------------- the API


def _application(studio: FakeLabelStudio) -> Flask:
    app = Flask("fake_label_studio")
    app.url_map.strict_slashes = False
    app.register_error_handler(HTTPException, lambda error: (jsonify(detail=error.description), error.code))

    @app.before_request
    def note_fail_and_authorise() -> Response | None:
        with studio._lock:
            studio.asked.append((request.method, request.path))
            struck = next(
                (each for each in reversed(studio.faults) if each.strikes(request.method, request.path)), None
            )
        if struck and (answer := _misbehave(struck)):
            return answer
        if request.path not in ("/health", "/api/token/refresh/") and not _authorised(studio):
            abort(401, "Invalid token.")
        return None

    for rule, methods, view in _ROUTES:
        app.add_url_rule(rule, view.__name__, _bound(studio, view), methods=methods)
    return app


def _bound(studio: FakeLabelStudio, view: Any) -> Any:
    def answer(**arguments: Any) -> Any:
        with studio._lock:
            if "project_id" in arguments and arguments["project_id"] not in studio.projects:
                abort(404, "No Project matches the given query.")
            return view(studio, **arguments)

    return answer


def _misbehave(fault: Fault) -> Response | None:
    if fault.kind == "slow":
        time.sleep(fault.seconds)
        return None
    if fault.kind == "held":
        fault.released.wait()
        return None
    if fault.kind == "meanwhile":
        fault.act()
        return None
    if fault.kind == "cut":
        connection = request.environ["werkzeug.socket"]
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
            b'{"total": 3, "tasks": [{"id": 1'
        )
        connection.shutdown(2)
        return Response(status=200)
    if fault.kind == "answer":
        return Response(
            fault.answer(request.args), 200, dict(fault.headers or {}), mimetype="application/json"
        )
    if fault.kind == "drip":
        return Response(_drip(), 200, mimetype="application/json")
    if isinstance(fault.kind, int):
        detail = json.dumps({"detail": HTTPStatus(fault.kind).phrase})
        return Response(detail, fault.kind, dict(fault.headers or {}), mimetype="application/json")
    bodies = {"html": "<!doctype html><title>Label Studio</title>", "torn": '{"tasks": [{', "other": "[]"}
    mimetype = "text/html" if fault.kind == "html" else "application/json"
    return Response(bodies[fault.kind], 200, mimetype=mimetype)


def _drip() -> Iterator[bytes]:
    yield b"["
    while True:
        time.sleep(0.1)
        yield b" "


def _authorised(studio: FakeLabelStudio) -> bool:
    came = request.headers.get("Authorization", "")
    return came in (f"Token {studio.token}", f"Bearer {_access(studio)}" if studio.personal_token else "")


def _access(studio: FakeLabelStudio) -> str:
    return _jwt({"token_type": "access", "of": studio.personal_token[-9:]})


def whoami(studio: FakeLabelStudio) -> Json:
    return jsonify(id=1, email=EMAIL)


def people(studio: FakeLabelStudio) -> Json:
    ids = {1} | {each["completed_by"] for task in studio.tasks.values() for each in task["annotations"]}
    return jsonify(
        [{"id": user, "email": EMAIL if user == 1 else f"{user}@example.com"} for user in sorted(ids)]
    )


def health(studio: FakeLabelStudio) -> Json:
    return jsonify(status="UP")


def version(studio: FakeLabelStudio) -> Json:
    return jsonify(release=studio.release)


def make_personal_token(studio: FakeLabelStudio) -> Json:
    if studio.personal_token:
        abort(409, "You already have a personal access token.")
    studio.personal_token = _jwt({"token_type": "refresh", "jti": studio.next_id()})
    return jsonify(token=studio.personal_token), 201


def refresh_token(studio: FakeLabelStudio) -> Json:
    if not studio.personal_token or (request.get_json() or {}).get("refresh") != studio.personal_token:
        abort(401, "Token is invalid or expired")
    return jsonify(access=_access(studio))


def create_project(studio: FakeLabelStudio) -> Json:
    project_id = studio.create_project()
    studio.projects[project_id] |= request.get_json()
    return jsonify(studio.projects[project_id]), 201


def project(studio: FakeLabelStudio, project_id: int) -> Json:
    known = studio.projects[project_id]
    if request.method == "DELETE":
        studio.delete_project(project_id)
        return "", 204
    if request.method == "PATCH":
        wanted = request.get_json()
        chosen = wanted.get("model_version", "")
        if chosen is None or chosen not in ("", *_titles(studio, project_id), *studio.versions(project_id)):
            abort(400, "Model version doesn't exist either as live model or as static predictions.")
        known |= wanted
    return jsonify(known | {"task_number": len(studio.tasks_of(project_id))})


def import_tasks(studio: FakeLabelStudio, project_id: int) -> Json:
    ids = [studio.add_task(project_id, data) for data in request.get_json()]
    return jsonify(task_count=len(ids)), 201


def tasks(studio: FakeLabelStudio) -> Json:
    query, project_id = request.args, int(request.args["project"])
    if project_id not in studio.projects:
        abort(404, "No Project matches the given query.")
    found, scores = studio.listing(project_id, query.get("query", "{}")), _scores(studio, project_id)
    page, size = int(query.get("page", 1)), int(query.get("page_size", 100))
    shown = found[(page - 1) * size : page * size]
    if not shown and page > 1:
        abort(404, "Invalid page.")
    if sum(str(task["data"].get("image")).startswith("/data/upload/") for task in shown) > MOST_UPLOADS:
        abort(500, "Expression tree is too large (maximum depth 1000)")
    names = set(query["include"].split(",")) if "include" in query else None
    more = "predictions_score" in (names or ()), "predictions" in (names or ())
    return jsonify(
        total=len(found),
        tasks=[
            _shown(studio, task, names, "fields" in query)
            | ({"predictions_score": scores.get(task["id"])} if more[0] else {})
            | ({"predictions": studio.predictions_of(task["id"])} if more[1] else {})
            for task in shown
        ],
    )


def _listing(studio: FakeLabelStudio, project_id: int, wanted: Json) -> list[Json]:
    filters = wanted.get("filters") or {"conjunction": "and", "items": []}
    every = all if filters["conjunction"] == "and" else any
    scores, found = _scores(studio, project_id), studio.tasks_of(project_id)
    if chosen := wanted.get("selectedItems"):
        assert chosen["all"] is False
        included = set(chosen["included"])
        found = [task for task in found if task["id"] in included]
    found = [
        task
        for task in found
        if not filters["items"]
        or every(_matches(studio, task, scores.get(task["id"]), item) for item in filters["items"])
    ]
    if wanted.get("ordering") == ["tasks:predictions_score"]:
        found.sort(key=lambda task: scores.get(task["id"], 2.0))
    if wanted.get("ordering") == ["-tasks:updated_at"]:
        found.sort(key=lambda task: task["updated_at"], reverse=True)
    return found


def _matches(studio: FakeLabelStudio, task: Json, score: float | None, item: Json) -> bool:
    column = item["filter"].rpartition(":")[2]
    if item["type"] == "Datetime" and item["operator"] != "empty":
        datetime.strptime(item["value"], MOMENT)
    if item["operator"] in ("less", "greater") and column in ("id", "updated_at", "created_at"):
        is_less = task[column] < item["value"]
        is_so = is_less if item["operator"] == "less" else task[column] > item["value"]
        return is_so or not studio.filters
    if item["operator"] == "less":
        return score is not None and score < item["value"]
    if item["operator"] == "empty":
        empty = {
            "predictions_score": score is None,
            "completed_at": not task["is_labeled"],
            "annotators": not task["annotations"],
        }
        return bool(empty[column] == item["value"])
    return bool(_counts(studio, task)[column] > item["value"])


def _scores(studio: FakeLabelStudio, project_id: int) -> dict[int, float]:
    """Task id -> the mean over its predictions of the project's version, as the Data Manager shows it."""
    chosen = studio.projects[project_id]["model_version"]
    scores: dict[int, list[float]] = {}
    for each in studio.predictions:
        if each["project"] == project_id and each["model_version"] == chosen:
            scores.setdefault(each["task"], []).append(each["score"])
    return {task_id: sum(values) / len(values) for task_id, values in scores.items()}


def _counts(studio: FakeLabelStudio, task: Json) -> dict[str, int]:
    kept = 0 if task["id"] in studio.uncounted else len(_kept(task))
    skips = 0 if task["id"] in studio.uncounted else len(task["annotations"]) - kept
    return {"total_annotations": kept, "cancelled_annotations": skips}


def _shown(studio: FakeLabelStudio, task: Json, names: set[str] | None, all_fields: bool) -> Json:
    whole = {
        **task,
        **_counts(studio, task),
        "annotations": [
            {name: value for name, value in each.items() if names is None or name in names or name == "id"}
            for each in task["annotations"]
        ]
        if all_fields
        else "1, 2",  # without fields=all the list is words for a table's cell
    }
    return whole if names is None else {name: whole[name] for name in names if name in whole}


def one_task(studio: FakeLabelStudio, task_id: int) -> Json:
    if task_id not in studio.tasks:
        abort(404, "No Task matches the given query.")
    if request.method == "DELETE":
        studio.delete_task(task_id)
        return "", 204
    if request.method == "PATCH":
        studio.tasks[task_id] |= request.get_json()
        studio.touch(task_id)
    return jsonify(_shown(studio, studio.tasks[task_id], None, True))


def annotate(studio: FakeLabelStudio, task_id: int) -> Json:
    if task_id not in studio.tasks:
        abort(404, "No Task matches the given query.")
    return jsonify(studio.add_annotation(task_id, request.get_json())), 201


def predictions(studio: FakeLabelStudio) -> Json:
    if request.method == "POST":  # stored as it is, unlike an import
        body = request.get_json()
        if body["task"] not in studio.tasks:
            abort(400, "Invalid pk - object does not exist.")
        project_id = studio.tasks[body["task"]]["project"]
        studio.predictions.append({**body, "project": project_id, "id": studio.next_id()})
        return jsonify(studio.predictions[-1]), 201
    return jsonify(studio.predictions_of(int(request.args["task"])))


def one_prediction(studio: FakeLabelStudio, prediction_id: int) -> Json:
    studio.predictions = [each for each in studio.predictions if each["id"] != prediction_id]
    return "", 204


def import_predictions(studio: FakeLabelStudio, project_id: int) -> Json:
    rows = request.get_json()
    present = {task["id"] for task in studio.tasks_of(project_id)}
    if any(row["task"] not in present for row in rows):
        abort(400, "Some tasks do not exist in the project.")
    config = studio.projects[project_id]["label_config"]
    valid = [
        row for row in rows if 0 <= row["score"] <= 1 and all(_fits(each, config) for each in row["result"])
    ]
    studio.predictions += [{**row, "project": project_id, "id": studio.next_id()} for row in valid]
    return jsonify(created=len(valid)), 201


def _fits(region: Json, config: str) -> bool:
    chosen = region["value"]["choices"]
    return all(isinstance(choice, str) and f'value="{choice}"' in config for choice in chosen)


def _titles(studio: FakeLabelStudio, project_id: int) -> list[str]:
    return [each["title"] for each in studio.backends.values() if each["project"] == project_id]


def action(studio: FakeLabelStudio) -> Json:
    chosen = request.get_json()["selectedItems"]["included"]
    if request.args["id"] == "delete_tasks_annotations":
        for task_id in chosen:
            studio.tasks[task_id]["annotations"].clear()
            studio.touch(task_id)
        return jsonify(detail="Deleted")
    if request.args["id"] == "predictions_to_annotations":
        return _annotate_as_predicted(studio, request.get_json()["model_version"], chosen)
    assert request.args["id"] == "delete_tasks_predictions"
    studio.predictions = [each for each in studio.predictions if each["task"] not in chosen]
    return jsonify(detail="Deleted")


def _annotate_as_predicted(studio: FakeLabelStudio, version: str, chosen: list[int]) -> Json:
    """As the real one: one annotation of each prediction that has none yet, which nobody has saved."""
    done = {each["parent_prediction"] for task in studio.tasks.values() for each in task["annotations"]}
    wanted = [
        each
        for each in studio.predictions
        if each["task"] in chosen and each["model_version"] == version and each["id"] not in done
    ]
    for each in wanted:
        body = {"result": each["result"], "updated_by": None, "parent_prediction": each["id"]}
        studio.add_annotation(each["task"], body)
    return jsonify(detail=f"Created {len(wanted)} annotations")


def one_annotation(studio: FakeLabelStudio, annotation_id: int) -> Json:
    for task in studio.tasks.values():
        for each in task["annotations"]:
            if each["id"] == annotation_id:
                if request.method == "DELETE":
                    task["annotations"].remove(each)
                    _compare_with_overlap(task)
                    studio.touch(task["id"])
                    return "", 204
                each |= {**request.get_json(), "updated_by": 1}
                _compare_with_overlap(task)
                studio.touch(task["id"])
                return jsonify(each)
    abort(404, "No Annotation matches the given query.")


def model_versions(studio: FakeLabelStudio, project_id: int) -> Json:
    if request.method == "GET":
        return jsonify(studio.versions(project_id))
    if tuple(map(int, studio.release.split(".")[:2])) < (1, 12):
        abort(405, 'Method "DELETE" not allowed.')
    dead = request.get_json()["model_version"]
    before = len(studio.predictions)
    studio.predictions = [
        each for each in studio.predictions if (each["project"], each["model_version"]) != (project_id, dead)
    ]
    if studio.projects[project_id]["model_version"] in (dead, *_titles(studio, project_id)):
        studio.projects[project_id]["model_version"] = None
    return jsonify(deleted_predictions=before - len(studio.predictions))


def _collection(name: str, view_name: str) -> Any:
    def collection(studio: FakeLabelStudio, item_id: int | None = None) -> Json:
        items: dict[int, Json] = getattr(studio, name)
        if request.method == "GET":
            wanted = int(request.args["project"])
            return jsonify([each for each in items.values() if each["project"] == wanted])
        if request.method == "DELETE":
            dead = items.pop(item_id or 0)
            owner = studio.projects[dead["project"]]
            if name == "backends" and owner["model_version"] == dead["title"]:
                owner["model_version"] = ""
            return "", 204
        item_id = item_id or studio.next_id()
        items[item_id] = {**items.get(item_id, {}), **request.get_json(), "id": item_id}
        if name == "backends" and request.method == "POST":
            studio.note_backend(items[item_id])
        return jsonify(items[item_id]), 201 if request.method == "POST" else 200

    collection.__name__ = view_name
    return collection


def upload(studio: FakeLabelStudio, path: str) -> Json:
    body = studio.files.get(f"/data/upload/{path}")
    if body is None:
        abort(404)
    return Response(body, mimetype="image/png")


_ROUTES: list[tuple[str, list[str], Any]] = [
    ("/health", ["GET"], health),
    ("/api/current-user/whoami", ["GET"], whoami),
    ("/api/version", ["GET"], version),
    ("/api/token/", ["POST"], make_personal_token),
    ("/api/token/refresh/", ["POST"], refresh_token),
    ("/api/projects/", ["POST"], create_project),
    ("/api/projects/<int:project_id>/", ["GET", "PATCH", "DELETE"], project),
    ("/api/projects/<int:project_id>/import", ["POST"], import_tasks),
    ("/api/projects/<int:project_id>/import/predictions", ["POST"], import_predictions),
    ("/api/projects/<int:project_id>/model-versions/", ["GET", "DELETE"], model_versions),
    ("/api/tasks/", ["GET"], tasks),
    ("/api/tasks/<int:task_id>/", ["GET", "PATCH", "DELETE"], one_task),
    ("/api/users/", ["GET"], people),
    ("/api/tasks/<int:task_id>/annotations/", ["POST"], annotate),
    ("/api/annotations/<int:annotation_id>/", ["PATCH", "DELETE"], one_annotation),
    ("/api/predictions/", ["GET", "POST"], predictions),
    ("/api/dm/actions/", ["POST"], action),
    ("/api/predictions/<int:prediction_id>/", ["DELETE"], one_prediction),
    ("/data/upload/<path:path>", ["GET"], upload),
]
for _name, _path in (("backends", "/api/ml/"), ("webhooks", "/api/webhooks/"), ("views", "/api/dm/views/")):
    _ROUTES.append((_path, ["GET", "POST"], _collection(_name, f"list_{_name}")))
    _ROUTES.append((f"{_path}<int:item_id>/", ["PATCH", "DELETE"], _collection(_name, f"one_{_name}")))
