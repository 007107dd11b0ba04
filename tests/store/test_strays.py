"""What does not belong into the store or into our keys of Redis: answered around, named."""

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from backend_run import run_environment
from click.testing import CliRunner
from fake_label_studio import TOKEN, FakeLabelStudio
from flask.testing import FlaskClient
from listening import worker_listens
from saved_rounds import record
from waiting import wait_until
from written_progress import changed

from coreset_backend.backend import Backend
from coreset_backend.cli.doctor import examine
from coreset_backend.cli.main import main
from coreset_backend.connection.connect import SECRET_HEADER
from coreset_backend.errors import Unwritable
from coreset_backend.files import write_sealed
from coreset_backend.jobs.keys import redis_key
from coreset_backend.jobs.monitoring import count, read_counts
from coreset_backend.jobs.progress import write_progress
from coreset_backend.jobs.status import project_status
from coreset_backend.jobs.tasks import reconcile_job
from coreset_backend.local.label_studio import free_port, is_free
from coreset_backend.reports import Publication
from coreset_backend.settings import Settings
from coreset_backend.web.app import create_app
from coreset_backend.web.pages import TABS
from coreset_backend.web.server import gunicorn_command

pytestmark = pytest.mark.slow
ARRAYS = {
    "task_ids": np.array([1, 2, 3]),
    "states": np.array([1, 2, 3], np.uint8),
    "scores": np.array([0, 0.5, 1], np.float32),
    "embedded_task_ids": np.array([1, 2, 3]),
    "label_codes": np.array([0, -1, 1], np.int16),
    "layout": np.zeros((3, 2), np.uint16),
    "probabilities": np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], np.float32),
    "image_keys": np.zeros((3, 32), np.uint8),
    "pick_neighbors": np.array([[1, -1], [2, 3]]),
    "pick_distances": np.ones((2, 2), np.float32),
    "suspects": np.array([1]),
    "suspect_codes": np.array([1]),
    "suspect_sets": np.array([[0, 1]], np.int8),
    "label_quality": np.array([0.1, np.nan, 0.9], np.float32),
    "suspect_shares": np.array([0.9], np.float32),
    "duplicate_groups": np.array([0, 0, -1], np.int32),
}
HELD, EXTRA, HISTORY, REPLAY = "held.json", "extra-params.json", "history.json", "replay.json"


def save(backend: Backend, project_id: int = 5, arrays: Any = None, **given: Any) -> Path:
    with backend.store.draft(project_id) as draft:
        stored = draft.save(
            record(draft.number, **{"project_id": project_id, **given}), {**ARRAYS, **(arrays or {})}
        )
    stored.mark_published(Publication(at="2026-01-01T00:00:00+00:00", sent=3))
    return stored.path


@pytest.fixture
def two(backend: Backend) -> Backend:
    """Project 5, which things are done to, and project 6, which is sound."""
    for project_id in (5, 5, 6):
        save(backend, project_id)
    worker_listens(backend)
    return backend


@pytest.fixture
def client(two: Backend) -> FlaskClient:
    return create_app(two).test_client()


def get(client: FlaskClient, path: str) -> int:
    return client.get(path).status_code


def answers(backend: Backend, client: FlaskClient, project_id: int) -> dict[str, int]:
    """The status of every answer about a project; each is one that says something."""
    signed = {SECRET_HEADER: backend.webhook_secret}
    body = {"project": project_id, "tasks": [{"id": 1}, {"id": 9}]}
    event = {"action": "ANNOTATION_CREATED", "project": {"id": project_id}}
    found = {
        "/setup": client.post("/setup", json={"project": project_id}),
        "/predict": client.post("/predict", json=body),
        "/webhook": client.post("/webhook", json=event, headers=signed),
        "/versions": client.get(f"/versions?project={project_id}"),
        **{f"page, {tab}": client.get(f"/projects/{project_id}?tab={tab}") for tab in TABS},
        "map": client.get(f"/projects/{project_id}/rounds/2/map"),
        "thumbnail": client.get(f"/projects/{project_id}/rounds/2/thumbnails/1.jpg"),
        **{
            name: client.get(f"/api/projects/{project_id}/{name}")
            for name in ("status", "overview", "progress", "history")
        },
    }
    assert not [name for name, answer in found.items() if answer.status_code == 500]
    assert not [
        name for name, answer in found.items() if b"Traceback" in answer.data or b"NaN" in answer.data
    ]
    return {name: answer.status_code for name, answer in found.items()}


def assert_others_are_not_touched(backend: Backend, client: FlaskClient) -> None:
    found = answers(backend, client, 6)
    assert {name: status for name, status in found.items() if status >= 400} == {"map": 404, "thumbnail": 404}
    assert client.get("/projects").status_code == 200
    metrics = client.get("/metrics")
    assert metrics.status_code == 200 and 'coreset_round{project="6"} 1.0' in metrics.text
    assert 'coreset_project_state{project="6",state="idle"} 1.0' in metrics.text


# ---------------------------------------------------------------- what is no project and no round

STRAYS = [
    *("projects/0", "projects/007", "projects/٣", "projects/5 (copy)", "projects/+5", "projects/-1"),
    *("projects/5_0", "projects/5.bak", "projects/²", "projects/" + "9" * 200, "projects/lost+found"),
    *(f"projects/5/{name}" for name in ("round-old", "round-00003.bak", "round-3", "round-", "round-00000")),
    *(
        f"projects/5/{name}"
        for name in ("round--0001", "round-000003", "round-٠٠٠٠٣", "round-1e5", "ROUND-00003")
    ),
    *(f"projects/5/round-{digits}" for digits in ("0" * 240 + "3", "9" * 240, "9999999999")),
]


def as_folder(path: Path) -> None:
    path.mkdir()
    (path / "round.json").write_text("{}")


def as_file(path: Path) -> None:
    path.write_text("somebody's")


def as_broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


def as_loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("kind", [as_folder, as_file, as_broken_link, as_loop])
def test_what_is_not_exactly_a_name_of_ours_is_left_alone(
    two: Backend, client: FlaskClient, kind: Callable[[Path], None]
) -> None:
    for name in STRAYS:
        kind(two.store.root / name)
        assert two.store.projects() == [5, 6] and two.store.numbers(5) == [1, 2], name
    assert set(answers(two, client, 5).values()) <= {200, 202, 404}
    assert_others_are_not_touched(two, client)
    assert save(two).name == "round-00003"
    two.store.prune(5, 2)
    assert two.store.numbers(5) == [2, 3]
    assert all(os.path.lexists(two.store.root / name) for name in STRAYS), "what is not ours is not removed"


@pytest.mark.parametrize("kind", [as_folder, as_file, as_broken_link, as_loop])
@pytest.mark.parametrize("name", ["round-00003", "round-12345678"])
def test_what_takes_the_name_of_a_round_keeps_none_from_being_saved(
    two: Backend, client: FlaskClient, name: str, kind: Callable[[Path], None]
) -> None:
    kind(two.store.root / "projects/5" / name)
    assert set(answers(two, client, 5).values()) <= {200, 202, 404, 409}
    assert_others_are_not_touched(two, client)
    number = int(name.removeprefix("round-"))
    assert save(two).name == f"round-{number + 1:05d}"


@pytest.mark.parametrize("kind", [as_file, as_broken_link, as_loop])
def test_a_file_where_the_folder_of_a_project_belongs_is_said(
    two: Backend, client: FlaskClient, kind: Callable[[Path], None]
) -> None:
    kind(two.store.root / "projects/9")
    assert two.store.projects() == [5, 6]
    answer = client.post("/setup", json={"project": 9})
    assert answer.status_code == 503 and "9 could not be saved below" in (answer.json or {})["error"]
    assert_others_are_not_touched(two, client)


def test_rounds_that_are_copies_of_others_are_no_rounds(two: Backend, client: FlaskClient) -> None:
    folder = two.store.root / "projects"
    shutil.copytree(folder / "5/round-00001", folder / "5/round-00003")
    shutil.copytree(folder / "5/round-00001", folder / "6/round-00002")
    for project_id in (5, 6):
        latest = two.store.latest(project_id)
        assert latest and latest.record.project_id == project_id
        assert set(answers(two, client, project_id).values()) <= {200, 202, 404, 409}
    assert "it is round 1 of project 5, copied here" in "".join(doctored(two, 6))
    assert save(two).name == "round-00004"


def test_only_what_was_put_aside_by_us_is_removed_from_gone(two: Backend) -> None:
    two.store.forget(6)
    gone = two.store.root / "gone"
    for name in ("backup-2020", "6-٣", "6-1", "06-1700000000", "notes"):
        (gone / name).mkdir()
    two.store.empty_gone(seconds=-1)
    assert sorted(path.name for path in gone.iterdir()) == sorted(
        ["backup-2020", "6-٣", "6-1", "06-1700000000", "notes"]
    )


BIG = "9" * 300


@pytest.mark.parametrize("number", [BIG, "0", "1" + "0" * 18, "4294967297", "99999", "-1", "1.0", "٣", "1e3"])
def test_a_number_of_any_size_is_answered(two: Backend, client: FlaskClient, number: str) -> None:
    for path in (
        *(f"/projects/5/rounds/{number}/{each}" for each in ("map", "thumbnails/1.jpg")),
        *(
            f"/projects/{number}",
            f"/api/projects/{number}/status",
            f"/projects/5/rounds/2/thumbnails/{number}.jpg",
        ),
    ):
        assert get(client, path) in (400, 404, 308), path
    with contextlib.suppress(ValueError):
        answer = client.post("/api/projects/5/rollback", json={"round": int(number)})
        assert answer.status_code in (400, 404) and len(answer.text) < 500


# ---------------------------------------------------------------- folders and files of another kind


def doctored(backend: Backend, project_id: int) -> list[str]:
    return dict(examine(backend, [project_id]))[f"Project {project_id}"]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end, contextlib.chdir(path.parent):
        end.bind(path.name)


KINDS = [as_folder, as_broken_link, as_loop, pipe, huge, bound]
OF_A_ROUND = ("round.json", "published.json", "task_ids.npy", "scores.npy", "states.npy", "probabilities.npy")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_passed_over(
    two: Backend, client: FlaskClient, kind: Callable[[Path], None]
) -> None:
    folder = two.store.root / "projects/5"
    for name in (*(f"round-00002/{name}" for name in OF_A_ROUND), HELD, EXTRA, HISTORY, REPLAY):
        if kind is huge and name.endswith(".npy"):
            continue  # a terabyte takes its time, but no memory
        with put_aside(folder / name):
            kind(folder / name)
            assert set(answers(two, client, 5).values()) <= {200, 202, 404, 409}, name
    assert_others_are_not_touched(two, client)


@contextlib.contextmanager
def put_aside(path: Path) -> Iterator[None]:
    """While the block puts something else in the place of what may be there."""
    aside = path.with_name(f".{path.name}-aside")
    if path.exists():
        path.rename(aside)
    try:
        yield
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if aside.exists():
            aside.rename(path)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """As a user for whom modes count, as they do not for root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
@pytest.mark.parametrize("name", ["5", "5/round-00002"])
def test_a_folder_without_the_right_to_read_it_is_named(
    two: Backend, client: FlaskClient, name: str, mode: int
) -> None:
    root = two.store.root
    two.store.webhook_secret()
    for path in (root, *root.rglob("*")):
        os.chown(path, 65534, 65534)
    for folder in (root, *root.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o711)
    (root / "projects" / name).chmod(mode)
    with as_nobody():
        try:
            assert set(answers(two, client, 5).values()) <= {200, 202, 404, 409, 503}
            assert_others_are_not_touched(two, client)
            page = client.get("/projects").text
            if name == "5" and mode in (0o000, 0o100):
                assert "cannot be read (Permission denied)" in page
        finally:
            (root / "projects" / name).chmod(0o755)


# ---------------------------------------------------------------- sealed files of another shape


def body_of(path: Path) -> Any:
    return json.loads(path.read_bytes().partition(b"\n")[2])


def reseal(path: Path, **changed: Any) -> None:
    fields = body_of(path) if path.exists() else {}
    for name, value in changed.items():
        if value is ...:
            fields.pop(name, None)
        else:
            fields[name] = value
    write_sealed(path, fields)


ODD: list[Any] = [
    None,
    [],
    {},
    "x",
    -1,
    1.5,
    float("nan"),
    float("inf"),
    True,
    10**300,
    [None],
    {"a": [1]},
    ...,
]
FIELDS = tuple(name for name in record().__dataclass_fields__)
INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20}
FIGURES = {
    "accuracy": INTERVAL,
    "macro_f1": INTERVAL,
    "gain": None,
    "per_class": [{"name": "cat", "n": 3, "precision": 0.5, "recall": None, "f1": 0.5}],
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_record_of_another_shape_is_passed_over_or_harmless(
    two: Backend, client: FlaskClient, field: str
) -> None:
    path = two.store.root / "projects/5/round-00002/round.json"
    as_saved = path.read_bytes()
    for odd in ODD:
        path.write_bytes(as_saved)
        reseal(path, **{field: odd})
        for shown in ("/projects/5", "/api/projects/5/overview", "/api/projects/5/status", "/metrics"):
            answer = client.get(shown)
            assert answer.status_code == 200 and b"NaN" not in answer.data.replace(b" NaN", b""), (field, odd)
    assert_others_are_not_touched(two, client)


def altered(value: Any) -> Iterator[Any]:
    """The value with each of its parts, however deep, replaced by something odd."""
    yield from ODD[:9]
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        for other in altered(part):
            copy = json.loads(json.dumps(value))
            copy[name] = other
            yield copy


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("round-00002/round.json", {"evaluation": FIGURES}),
        ("round-00002/round.json", {"training": {"holdout_accuracy": 0.5, "n_train": 5, "n_holdout": 3}}),
        ("round-00002/round.json", {"batch_figures": {"pool": INTERVAL, "picks": None}}),
        ("round-00002/round.json", {"failures": [{"task_id": 3, "uri": None, "reason": "gone"}]}),
        ("round-00002/published.json", {"at": "2026-01-01T00:00:00+00:00", "seconds": 1.5, "sent": 3}),
        (HELD, {"reason": "By hand.", "number": 1, "newest": 2}),
        (
            REPLAY,
            {
                "sentence": "k_center is better.",
                "lines": [
                    {
                        "strategy": "random",
                        "batch": 5,
                        "seeds": 1,
                        "points": [{"labels": 5, "value": 0.5, "low": 0.4, "high": 0.6}],
                    }
                ],
            },
        ),
        (EXTRA, {"batch_size": 4, "strategy": "k_center", "trigger": "auto"}),
    ],
    ids=["evaluation", "training", "batch_figures", "failures", "published", "held", "replay", "extra"],
)
def test_each_part_of_a_file_may_be_anything(
    two: Backend, client: FlaskClient, name: str, fields: dict[str, Any]
) -> None:
    path = two.store.root / "projects/5" / name
    as_saved = path.read_bytes() if path.exists() else b""
    signed = {SECRET_HEADER: two.webhook_secret}
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 5}}
    tasks = {"project": 5, "tasks": [{"id": 1}]}
    for field, value in fields.items():
        for odd in [value, *altered(value)]:
            if as_saved:
                path.write_bytes(as_saved)
            reseal(path, **{**fields, field: odd})
            statuses = [
                *(client.get(f"/projects/5?tab={tab}").status_code for tab in TABS),
                client.get("/projects").status_code,
                client.post("/predict", json=tasks).status_code,
                client.post("/webhook", json=event, headers=signed).status_code,
            ]
            assert set(statuses) <= {200, 202}, (field, odd, statuses)
            assert "NaN" not in client.get("/api/projects/5/overview").text
    assert_others_are_not_touched(two, client)


NO_OBJECTS = [b"[]", b"null", b"3", b'"x"', b"{", b"[" * 100_000, b"\xff", b"", b"1" * 9000]


@pytest.mark.parametrize("name", ["round-00002/published.json", EXTRA, REPLAY, HELD, HISTORY])
def test_json_that_is_no_object_is_passed_over(two: Backend, client: FlaskClient, name: str) -> None:
    for body in NO_OBJECTS:
        (two.store.root / "projects/5" / name).write_bytes(body)
        assert set(answers(two, client, 5).values()) <= {200, 202, 404, 409}, body
    assert_others_are_not_touched(two, client)


def test_a_history_of_another_shape_hides_only_what_cannot_be_read(two: Backend, client: FlaskClient) -> None:
    save(two)
    two.store.prune(5, 2)
    path = two.store.root / "projects/5" / HISTORY
    rounds = body_of(path)["rounds"]
    for odd in ODD:
        write_sealed(path, {"rounds": [*rounds, *([] if odd is ... else [odd])]})
        assert [each.number for each in two.store.history(5)] == [1, 2, 3]
        reseal(path, rounds=odd)
        assert [each.number for each in two.store.history(5)][-2:] == [2, 3]
        assert set(answers(two, client, 5).values()) <= {200, 202, 404}


ODD_ARRAYS = (
    *(np.empty(0), np.array(3), np.zeros((1, 1, 1)), np.array([99, 98])),
    *(np.array([-5, 2**40, 7]), np.array(["x"])),
)


@pytest.mark.parametrize("array", ARRAYS)
def test_arrays_that_do_not_fit_together_are_passed_over(
    two: Backend, client: FlaskClient, array: str
) -> None:
    for odd in ODD_ARRAYS:
        number = int(save(two, arrays={array: odd}).name.removeprefix("round-"))
        assert set(answers(two, client, 5).values()) <= {200, 202, 404, 409}, odd
        for path in ("map", "thumbnails/1.jpg"):
            assert get(client, f"/projects/5/rounds/{number}/{path}") in (200, 404, 409), odd
    assert_others_are_not_touched(two, client)


def test_settings_of_a_newer_release_are_passed_over_and_named(two: Backend, client: FlaskClient) -> None:
    kept = {"batch_size": 7, "curriculum": "hard first", "strategy": "clairvoyant", "trigger": 5}
    write_sealed(two.store.root / "projects/5" / EXTRA, kept)
    save(two, attributes={"novelty": "1", "holdout": "0.3"})
    assert set(answers(two, client, 5).values()) <= {200, 202, 404}
    settings = two.settings_by_round(5, record(attributes={"novelty": "1", "holdout": "0.3"}))
    assert (settings.batch_size, settings.strategy, settings.trigger) == (7, "uncertainty_herding", "auto")
    assert settings.holdout == 0.3
    [problem] = [line for line in doctored(two, 5) if "unknown to this release" in line]
    assert "curriculum, strategy, trigger" in problem
    assert_others_are_not_touched(two, client)


# ---------------------------------------------------------------- on the wire


@pytest.fixture
def url(two: Backend, redis_url: str, tmp_path: Path) -> Iterator[str]:
    """The address of the real server, whose log is in ``server.log``."""
    settings = Settings(redis_url=redis_url, model_dir=two.settings.model_dir, port=free_port())
    environment = run_environment(tmp_path, settings.port, REDIS_URL=redis_url)
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(gunicorn_command(settings), env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: not is_free(settings.port), "the server")
        yield f"http://127.0.0.1:{settings.port}"
    finally:
        process.terminate()
        process.wait(60)


CONTROLS = ["a\0b", "\x1b[31mred", "\x7f", "\r\nX: y", "a\u2028b", "\ud800", "é" * 500, "a" * 9000]


def test_control_characters_in_the_form_are_answered_in_one_line(url: str, tmp_path: Path) -> None:
    for name in CONTROLS:
        for extra in ({name: 1}, {"strategy": name}, {"batch_size": name}, {"trigger": [name]}):
            content = json.dumps({"project": 5, "extra_params": extra}).encode()
            headers = {"Content-Type": "application/json"}
            answer = httpx.post(f"{url}/setup", content=content, headers=headers, trust_env=False, timeout=60)
            assert answer.status_code == 400, answer.text
            assert answer.reason_phrase.isprintable() and len(answer.reason_phrase) <= 400
    assert "Traceback" not in (tmp_path / "server.log").read_text()


CHUNKS = [
    b"zz\r\n{}\r\n0\r\n\r\n",
    b"-2\r\n{}\r\n0\r\n\r\n",
    b"2\r\n{}xx0\r\n\r\n",
    b"\r\n\r\n",
    b"ffffffffffffffffffff\r\n{}\r\n",
    b"2;" + b"a" * 9000 + b"\r\n{}\r\n0\r\n\r\n",
    b"2\r\n{}\r\n0\r\nBad Trailer\r\n\r\n",
    b"5\r\n{}",
]


def test_malformed_chunks_are_refused_without_a_traceback(two: Backend, url: str, tmp_path: Path) -> None:
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    for path, chunks in itertools.product(("/setup", "/webhook", "/api/projects/5/rollback"), CHUNKS):
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"{SECRET_HEADER}: {two.webhook_secret}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        with socket.create_connection(address, timeout=60) as connection:
            connection.sendall(head.encode() + chunks)
            connection.shutdown(socket.SHUT_WR)
            answered = b"".join(iter(lambda: connection.recv(65536), b""))
        assert not answered or answered.startswith(b"HTTP/1.1 4"), (path, chunks[:30], answered[:300])
    assert httpx.get(f"{url}/health", trust_env=False, timeout=60).status_code == 200
    assert "Traceback" not in (tmp_path / "server.log").read_text()


# ---------------------------------------------------------------- a folder that cannot be written


@contextlib.contextmanager
def on_a_disk_of(folder: Path, *options: str) -> Iterator[None]:
    """A file system of its own with what is in ``folder``, mounted with these options."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", folder], capture_output=True)
    if mount.returncode:
        folder.rmdir()
        aside.rename(folder)
        pytest.skip("it takes the right to mount a disk")
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        if options:
            subprocess.run(["mount", "-o", ",".join(("remount", *options)), folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


@pytest.fixture(params=["read-only", "full"])
def no_room(request: pytest.FixtureRequest, two: Backend) -> Iterator[str]:
    """A store that nothing can be written into, and why."""
    two.store.webhook_secret()
    two.store.keep_extra_params(5, {"batch_size": 4})
    with on_a_disk_of(two.store.root, *(["ro"] if request.param == "read-only" else [])):
        if request.param == "full":
            fill(two.store.root)
        yield {"read-only": "Read-only file system", "full": "No space left on device"}[request.param]


def test_a_store_that_cannot_be_written_still_answers_and_says_what_it_cannot_do(
    two: Backend, client: FlaskClient, no_room: str
) -> None:
    for project_id in (5, 6):
        assert set(answers(two, client, project_id).values()) <= {200, 202, 404}
    assert_others_are_not_touched(two, client)
    for path, body in (
        ("/setup", {"project": 9}),
        ("/setup", {"project": 5, "extra_params": {"batch_size": 5}}),
        ("/api/projects/5/cancel", {}),
        ("/api/projects/5/rollback", {"round": 1}),
    ):
        answer = client.post(path, json=body)
        if no_room.startswith("No space") and (path, body) == ("/setup", {"project": 9}):
            continue  # a folder may find room where a file does not
        assert answer.status_code == 503, (path, answer.text)
        assert (
            no_room in (answer.json or {})["error"]
            and "Free disk space there" in (answer.json or {})["error"]
        )
    assert client.post("/api/projects/5/start").status_code == 202
    with pytest.raises(Unwritable, match=no_room):
        two.store.keep_extra_params(5, {"batch_size": 6})
    assert two.store.extra_params(5) == {"batch_size": 4}
    assert f"cannot be written ({no_room})" in "".join(dict(examine(two, []))["Store"])
    left = [path for path in two.store.root.rglob(".*") if path.is_file()]
    assert not left, "what was begun is removed"


def test_commands_say_in_one_line_that_the_folder_cannot_be_written(
    two: Backend, no_room: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("MODEL_DIR", str(two.settings.model_dir))
    monkeypatch.setenv("PORT", str(free_port()))
    for command in (["cancel", "--project", "5"], ["rollback", "--project", "5", "--round", "1"]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
        assert done.output.startswith("Error: ") and no_room in done.output
    assert CliRunner().invoke(main, ["status"]).exit_code == 0
    if no_room.startswith("Read-only"):
        done = CliRunner().invoke(main, ["start", "--project", "9"])
        assert done.exit_code == 2 and no_room in done.output


# ---------------------------------------------------------------- our keys in Redis

GARBAGE = [b"\xff\xfe\0", b"", b"[]", b"null", b"3", b'{"state": 5}', b"[" * 100_000, b"9" * 5000, b"NaN"]
PROGRESS = [
    *GARBAGE,
    *(
        json.dumps({"state": "running", **odd}).encode()
        for odd in (
            {"done": "x", "total": "y"},
            {"done": -1, "total": 5},
            {"phase": ["fit"]},
            {"retry_at": "soon"},
            {"retry_at": 1e300},
            {"error": {"a": 1}},
            {"last_failure": {"error": "x", "at": 1e300}},
            {"last_failure": "x"},
            {"labeling": {"round": "1", "done": None}},
            {"labeling": []},
            {"state": "dreaming"},
        )
    ),
]
NAMES = (
    "progress",
    "pretraining",
    "lease",
    "waiting",
    "demands",
    "republish",
    "unseen",
    "failures",
    "spared",
)


def put(backend: Backend, key: str, kind: str, content: bytes) -> None:
    redis = backend.redis
    redis.delete(key)
    if kind == "string":
        redis.set(key, content)
    elif kind == "list":
        redis.rpush(key, content)
    elif kind == "set":
        redis.sadd(key, content)
    elif kind == "hash":
        redis.hset(key, content, content)
    else:
        redis.zadd(key, {content: 1})


KINDS_OF_KEYS = ("string", "list", "set", "hash", "zset")


@pytest.fixture
def poll(two: Backend, redis_url: str, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The poll as a worker runs it, on a Label Studio that has projects 5 and 6."""
    while studio.create_project() < 6:
        pass
    for project_id, number in itertools.product((5, 6), range(3)):
        studio.add_task(project_id, {"image": f"/data/upload/{project_id}/{number}.png"})
    for name, value in (
        ("REDIS_URL", redis_url),
        ("MODEL_DIR", two.settings.model_dir),
        ("LABEL_STUDIO_URL", studio.url),
        ("LABEL_STUDIO_API_KEY", TOKEN),
        ("CORESET_DEBOUNCE_SECONDS", 0),
    ):
        monkeypatch.setenv(name, str(value))
    return reconcile_job


@pytest.mark.parametrize("kind", KINDS_OF_KEYS)
@pytest.mark.parametrize("name", NAMES)
def test_garbage_in_a_key_of_a_project_stops_nothing(
    two: Backend, client: FlaskClient, poll: Any, name: str, kind: str
) -> None:
    key = redis_key(5, name)
    for content in PROGRESS if kind == "string" and name in ("progress", "pretraining") else GARBAGE[:4]:
        put(two, key, kind, content)
        assert set(answers(two, client, 5).values()) <= {200, 202, 404}, content
        assert_others_are_not_touched(two, client)
        project_status(two, 5)
        write_progress(two.redis, 5, changed(state="idle"))
        poll()
        two.high_priority_queue.empty(), two.queue.empty()
        two.redis.delete(redis_key(5, "waiting"))
        assert client.post("/api/projects/5/start").status_code == 202
        assert two.high_priority_queue.count == 1, "a person's start is queued whatever was there"
        assert project_status(two, 5).progress.state in ("waiting", "running")
        two.high_priority_queue.empty()
        two.redis.delete(*(redis_key(5, each) for each in ("waiting", "demands", "progress", "pretraining")))


@pytest.mark.parametrize("name", ["lease", "waiting", "spared"])
def test_what_would_stand_in_the_way_for_ever_is_dropped_by_the_poll(
    two: Backend, poll: Any, name: str
) -> None:
    put(two, redis_key(5, name), "string", b"\xff")
    poll()
    left = two.redis.get(redis_key(5, name))
    assert left is None or (name == "waiting" and left.startswith(b"round-5-")), "or what the poll asked for"


@pytest.mark.parametrize("kind", KINDS_OF_KEYS)
@pytest.mark.parametrize(
    "content", [b"\xff", b"x", b"[]", b'["coreset_rounds"]', b'["a", "b"]', b"[1, 2, 3, 4]"]
)
def test_garbage_among_the_counts_and_the_workers_stops_no_scrape(
    two: Backend, client: FlaskClient, kind: str, content: bytes
) -> None:
    put(two, "coreset:counts", kind, content)
    assert_others_are_not_touched(two, client)
    count(two.redis, "coreset_rounds", "5", "done", "")
    assert read_counts(two.redis)["coreset_rounds"] == {("5", "done", ""): 1}
    two.redis.sadd(f"rq:workers:{two.queue.name}", content)
    two.redis.set("coreset:alive:x", content)
    assert_others_are_not_touched(two, client)
    assert get(client, "/ready") == 200


def test_a_number_among_the_counts_that_is_none_begins_anew(two: Backend) -> None:
    two.redis.hset("coreset:counts", json.dumps(["coreset_rounds", "5", "done", ""]), "many")
    count(two.redis, "coreset_rounds", "5", "done", "")
    assert read_counts(two.redis)["coreset_rounds"] == {("5", "done", ""): 1}
