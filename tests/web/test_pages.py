"""The pages as a browser without JavaScript gets them; e2e/test_project_page.py has the rest."""

import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, astuple
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from listening import worker_listens
from numpy.typing import NDArray
from PIL import Image
from saved_rounds import flip_a_byte, record
from written_progress import changed

from coreset_backend.backend import Backend
from coreset_backend.cli.status import status_lines
from coreset_backend.evaluation.scores import answer_codes, proportion
from coreset_backend.images.cache import PixelCache
from coreset_backend.jobs.keys import redis_key
from coreset_backend.jobs.progress import Labeling, write_progress
from coreset_backend.jobs.status import project_status
from coreset_backend.project import Labels
from coreset_backend.reports import CandidateScores, ImageFailure, Publication
from coreset_backend.selection import STRATEGIES
from coreset_backend.settings import Settings
from coreset_backend.store.findings import suspects
from coreset_backend.store.record import STATES, Audition, Calibration, Evaluation
from coreset_backend.web.app import create_app
from coreset_backend.web.class_table import ROWS_AT_ONCE, class_table
from coreset_backend.web.embedding_map import MOST_DRAWN
from coreset_backend.web.overview import CHOICE_WORDS
from coreset_backend.web.pages import TABS

MakeBackend = Callable[..., Backend]
COUNTS = {
    "labeled": 1,
    "selected": 2,
    "reserve": 1,
    "pool": 95,
    "skipped": 1,
    "unreadable": 1,
    "duplicate": 0,
}
KEYS = np.arange(3 * 32, dtype=np.uint8).reshape(3, 32)


@pytest.fixture
def backend(make_backend: MakeBackend) -> Backend:
    return make_backend(
        label_studio_url="http://label-studio:8080", label_studio_browser_url="https://label.example"
    )


def save_round(backend: Backend, project_id: int = 7, **given: Any) -> None:
    with backend.store.draft(project_id) as draft:
        known: dict[str, Any] = {
            "project_id": project_id,
            "title": "Pets <b>",
            "counts": COUNTS,
            "failures": (ImageFailure(9, "/data/x.jpg", "no <image>"),),
        }
        draft.save(
            record(draft.number, **{**known, **given}),
            {
                "task_ids": np.array([1, 2, 3, 4]),
                "states": np.array([1, 5, 1, 0], dtype=np.uint8),
                "clusters": np.array([0, 1, 0], dtype=np.int16),
                "layout": np.array([[0, 5], [65535, 7], [9, 9]], dtype=np.uint16),
                "duplicate_groups": np.array([0, -1, 0], dtype=np.int32),
                "suspects": np.array([4]),
                "suspect_sets": np.array([[1, 0]], dtype=np.int8),
                "label_quality": np.array([np.nan, np.nan, 0.2], dtype=np.float32),
                "suspect_shares": np.array([0.9], dtype=np.float32),
                "probabilities": np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], dtype=np.float32),
                "label_codes": np.array([-1, -1, -1, 1], dtype=np.int16),
                "embedded_task_ids": np.array([1, 3, 4]),
                "image_keys": KEYS,
                "pick_neighbors": np.array([[4, -1], [4, 3], [4, 1]]),
                "pick_distances": np.array([[3.0, np.inf], [2.5, 2.0], [2.0, 1.0]], dtype=np.float32),
            },
        )


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_the_calibration_is_told_with_what_chance_makes_of_it(backend: Backend, client: FlaskClient) -> None:
    measured = Calibration(error=0.121, by_chance=0.08, at_most=0.15, n=40, bins=2)
    share = proportion(30, 40)
    save_round(backend, evaluation=Evaluation(share, share, calibration=measured))
    told = text(client.get("/projects/7?tab=learned").text)
    assert "calibration error 12.1 % on 40 images, no larger than chance" in told
    history = (client.get("/api/projects/7/history").json or {})["rounds"]
    assert history[0]["calibration"] == asdict(measured)
    status = project_status(backend, 7)
    assert status.round and status.round.calibration == measured
    assert any("calibration error 12.1 %" in line for line in status_lines(status))
    assert 'coreset_calibration_error{project="7"} 0.121' in client.get("/metrics").text


HELD = Audition(
    current="small",
    chosen="large",
    candidates=(
        CandidateScores(
            "large", 0.8, 0.75, 0.5, 0.75, lead=0.2, lead_error=0.05, expected_lead=0.16, seconds=0.01
        ),
        CandidateScores("small", 0.6, 0.55, 0.9, seconds=0.001),
        CandidateScores("huge", problem="this pool takes 90 min"),
    ),
    images=80,
    labels=100,
    sentence="The labels choose the backbone large.",
)


def test_the_page_says_who_chose_the_backbone(make_backend: MakeBackend) -> None:
    backend = make_backend()
    save_round(backend)
    assert "backbone-choice" not in create_app(backend).test_client().get("/projects/7?tab=learned").text
    backend.store.keep_audition(7, HELD)
    client = create_app(backend).test_client()
    told = text(client.get("/projects/7?tab=learned").text)
    assert "The labels choose the backbone large. It is used from the next round on." in told
    assert (
        "20.0 ± 5.0 points" in told
        and "16.0 points" in told
        and "Not compared: this pool takes 90 min" in told
    )
    shown = (client.get("/api/projects/7/overview").json or {})["backbone_choice"]
    assert [each["name"] for each in shown["audition"]["candidates"]] == ["large", "small", "huge"]
    save_round(backend, audition=HELD)
    assert "It is used from the next round on" not in text(client.get("/projects/7?tab=learned").text)
    named = make_backend(backbone="small_cnn", model_dir=backend.settings.model_dir)
    told = text(create_app(named).test_client().get("/projects/7?tab=learned").text)
    assert "The setting CORESET_BACKBONE=small_cnn chooses the backbone, so the labels do not." in told


CARDS = {
    "now": ["now", "counts", "work", "batch"],
    "learned": ["now", "learned", "classes"],
    "pool": ["now", "map", "bulk", "finish", "copies", "suspects", "duplicates", "failures"],
    "history": ["now", "rounds", "settings"],
}


def test_each_tab_is_a_link_that_needs_no_script_and_has_its_cards(
    backend: Backend, client: FlaskClient
) -> None:
    save_round(backend)
    assert client.get("/projects/7").text == client.get("/projects/7?tab=now").text
    for tab, cards in CARDS.items():
        html = client.get(f"/projects/7?tab={tab}").text
        found = re.findall(r'<section class="card[^"]*" aria-labelledby="(\w+)-title"', html)
        assert found == cards
        links = re.findall(r'<a id="tab-(\w+)" href="/projects/7\?tab=(\w+)" (aria-current="page")?>', html)
        assert [link[:2] for link in links] == [(each, each) for each in TABS]
        assert [link[0] for link in links if link[2]] == [tab]
        assert 'id="next-who"' in html


def test_projects_are_listed_with_their_counts(backend: Backend, client: FlaskClient) -> None:
    assert "No project is connected yet" in text(client.get("/projects").text)
    save_round(backend)
    shown = text(client.get("/projects").text)
    assert "1 of 101" in shown
    assert "Pets &lt;b&gt;" in shown


def test_the_page_shows_what_the_overview_says(backend: Backend, client: FlaskClient) -> None:
    save_round(backend)
    html = client.get("/projects/7").text
    overview = client.get("/api/projects/7/overview").json or {}
    found = dict(re.findall(r'data-count="(\w+)">([\d\u202f]+)<', html))
    assert {state: int(count) for state, count in found.items()} == {**COUNTS, "model": 0, "copy": 0}
    assert overview["round"]["total"] == sum(COUNTS.values())
    first, second = overview["round"]["batch"]
    assert first["labeled"] == {"task_id": 4, "distance": 3.0, "label": "dog"}
    assert first["earlier"] is None
    assert second["earlier"]["task_id"] == 3
    assert overview["label_studio"] == "https://label.example/projects/7/data"
    pages = {tab: client.get(f"/projects/7?tab={tab}").text for tab in TABS}
    assert pages["now"] == html
    assert "no &lt;image&gt;" in pages["pool"]
    assert all("Pets <b>" not in each for each in pages.values())
    assert re.search(r"Model of round \d+: small_cnn\.", pages["learned"])
    shown = json.loads(re.search(r'id="view">(.*?)</script>', html)[1])  # type: ignore[index]
    assert shown == overview


def test_a_round_saved_by_an_older_version_is_shown_too(backend: Backend, client: FlaskClient) -> None:
    with backend.store.draft(7) as draft:
        draft.save(record(1), {"task_ids": np.array([1, 2, 3])})
    assert "Project 7" in client.get("/projects/7").text
    batch = (client.get("/api/projects/7/overview").json or {})["round"]["batch"]
    assert [pick["labeled"] for pick in batch] == [None, None]
    assert client.get("/projects/7/rounds/1/thumbnails/3.jpg").status_code == 404


def test_a_project_without_a_round_and_one_that_nobody_knows(backend: Backend, client: FlaskClient) -> None:
    backend.store.register(7)
    assert "No batch yet" in client.get("/projects/7").text
    for tab, words in (
        ("learned", "Nothing learned yet"),
        ("pool", "No images read yet"),
        ("history", "No rounds"),
    ):
        assert words in client.get(f"/projects/7?tab={tab}").text
    for path in (
        "/projects/7?tab=nowhere",
        "/projects/8",
        "/api/projects/8/overview",
        "/api/projects/8/progress",
        "/projects/7/rounds/3/thumbnails/1.jpg",
    ):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "Traceback" not in answer.text


def test_thumbnails_are_cut_from_the_cache_and_only_of_the_rounds_own_tasks(
    backend: Backend, client: FlaskClient
) -> None:
    cache = PixelCache(backend.store.image_cache, 10**9, 0)
    pixels = np.full((224, 224, 3), 200, dtype=np.uint8)
    cache.write(KEYS[1].tobytes().hex(), pixels, 0)
    save_round(backend)
    answer = client.get("/projects/7/rounds/1/thumbnails/3.jpg")
    assert answer.status_code == 200
    image = Image.open(io.BytesIO(answer.data))
    assert image.size == (192, 192)
    assert abs(int(np.asarray(image).mean()) - 200) < 3
    assert client.get("/projects/7/rounds/1/thumbnails/1.jpg").status_code == 404  # not cached
    assert client.get("/projects/7/rounds/1/thumbnails/2.jpg").status_code == 404  # has no image
    with backend.store.draft(8) as draft:
        draft.save(record(1, project_id=8), {"embedded_task_ids": np.array([5]), "image_keys": KEYS[:1]})
    assert client.get("/projects/8/rounds/1/thumbnails/3.jpg").status_code == 404  # another project's task


def test_pages_ask_for_the_login(make_backend: MakeBackend) -> None:
    backend = make_backend(basic_auth_user="ops", basic_auth_pass="pass")
    save_round(backend)
    client = create_app(backend).test_client()
    for path in (
        "/projects",
        "/projects/7",
        "/api/projects/7/overview",
        "/projects/7/rounds/1/thumbnails/3.jpg",
    ):
        assert client.get(path).status_code == 401


def publish_newest(backend: Backend) -> None:
    newest = backend.store.latest(7)
    assert newest
    newest.mark_published(Publication())


OPENED: list[str] | None = None
"""The files that are opened while it is a list; a hook of the interpreter cannot be taken back."""


def note_opened(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and OPENED is not None:
        OPENED.append(str(arguments[0]))


sys.addaudithook(note_opened)


@pytest.mark.parametrize("path", ["/projects/7", "/api/projects/7/overview", "/api/projects/7/status"])
def test_each_round_is_opened_once_for_a_page(backend: Backend, client: FlaskClient, path: str) -> None:
    global OPENED
    for _ in range(3):
        save_round(backend)
    OPENED = []
    assert client.get(path).status_code == 200
    opened, OPENED = OPENED, None
    rounds = Counter(each for each in opened if each.endswith("round.json"))
    assert len(rounds) == 3 and set(rounds.values()) == {1}


def test_the_page_says_how_much_of_the_batch_is_done_and_calls_a_mere_look_no_round(
    backend: Backend, client: FlaskClient
) -> None:
    def shown() -> tuple[str, str]:
        progress = (client.get("/api/projects/7/progress").json or {})["progress"]
        return progress["state"], progress["sentence"]

    save_round(backend)
    publish_newest(backend)
    worker_listens(backend)
    assert shown()[1].startswith("Round 1 is being labelled. The next")
    write_progress(backend.redis, 7, changed(state="idle", labeling=Labeling(1, 1)))
    backend.redis.set(redis_key(7, "waiting"), "a job that looks whether a round is due")
    assert shown() == (
        "idle",
        "Round 1 is being labelled: 1 of 2 done. The next round starts automatically when its batch is done.",
    )
    backend.redis.rpush(redis_key(7, "demands"), "started by hand")
    assert shown()[0] == "waiting"
    backend.redis.delete(redis_key(7, "demands"))
    save_round(backend)
    publish_newest(backend)
    assert shown()[1].startswith("Round 2 is being labelled. The next")


def test_with_redis_away_the_page_is_shown_and_says_so(make_backend: MakeBackend) -> None:
    backend = make_backend(redis_url="redis://127.0.0.1:1")
    save_round(backend)
    answer = create_app(backend).test_client().get("/projects/7")
    assert answer.status_code == 200
    assert "Redis does not answer" in answer.text


def test_the_map_holds_every_readable_image_with_class_and_state(
    backend: Backend, client: FlaskClient
) -> None:
    save_round(backend)
    data = client.get("/projects/7/rounds/1/map").data
    n = 3
    assert np.frombuffer(data, "<u4", 2).tolist() == [n, 2]
    assert np.frombuffer(data, "<f8", n, 8).tolist() == [1, 3, 4]
    assert np.frombuffer(data, "<u2", 2 * n, 8 + 8 * n).tolist() == [0, 5, 65535, 7, 9, 9]
    assert np.frombuffer(data, "<i2", n, 8 + 12 * n).tolist() == [-1, -1, 1]
    assert np.frombuffer(data, "<i2", n, 8 + 14 * n).tolist() == [0, 1, 0]
    states = np.frombuffer(data, "u1", n, 8 + 16 * n)
    assert [STATES[state] for state in states] == ["selected", "selected", "labeled"]
    assert np.frombuffer(data, "u1", n, 8 + 17 * n).tolist() == [0, 1, 0]
    assert len(data) == 8 + 18 * n


def test_the_round_marked_as_served_is_the_one_that_was_published_last(
    backend: Backend, client: FlaskClient
) -> None:
    def marked() -> list[tuple[int, bool]]:
        overview = client.get("/api/projects/7/overview").json or {}
        return [(line["number"], line["served"]) for line in overview["rounds"]]

    for _ in range(3):
        save_round(backend)
    assert marked() == [(3, False), (2, False), (1, False)]
    for number, minute in ((1, 1), (2, 2)):
        backend.store.open(7, number).mark_published(Publication(at=f"2026-01-01T00:0{minute}:00+00:00"))
    assert marked() == [(3, False), (2, True), (1, False)]
    html = client.get("/projects/7?tab=history").text
    assert re.findall(r'data-action="rollback" data-number="(\d+)"', html) == ["2", "1"]
    backend.store.hold(7, "Rolled back to round 1 by hand.", 1)
    backend.store.open(7, 1).mark_published(Publication(at="2026-01-01T00:03:00+00:00"))
    assert marked() == [(3, False), (2, False), (1, True)]
    html = client.get("/projects/7?tab=history").text
    assert re.findall(r'data-action="rollback" data-number="(\d+)"', html) == ["3", "2"]


def test_suspects_and_duplicates_are_listed(backend: Backend, client: FlaskClient) -> None:
    save_round(backend)
    found = (client.get("/api/projects/7/overview").json or {})["round"]
    assert found["duplicates"] == [[1, 4]]
    assert found["duplicate_counts"] == {"groups": 1, "images": 2, "sizes": [2]}
    assert found["suspects"] == [
        {
            **{"task_id": 4, "label": "dog", "suggested_label": "cat"},
            **{"share": pytest.approx(0.9), "quality": pytest.approx(0.2)},
        }
    ]
    shown = text(client.get("/projects/7?tab=pool").text)
    assert "1 suspected label error " in shown
    assert "cat (90 %) 0.20" in shown


def test_suspects_of_earlier_releases_and_of_multiple_choice_are_shown(
    backend: Backend, client: FlaskClient
) -> None:
    arrays = {
        "task_ids": np.array([1, 2]),
        "states": np.array([1, 1], dtype=np.uint8),
        "label_codes": np.array([0, 1], dtype=np.int16),
        "embedded_task_ids": np.array([1, 2]),
        "suspects": np.array([2]),
        "suspect_shares": np.array([0.9], dtype=np.float32),
    }

    def found(**more: NDArray[np.generic]) -> Any:
        with backend.store.draft(7) as draft:
            stored = draft.save(record(draft.number), {**arrays, **more})
        return [(one.label, one.suggested_label, one.quality) for one in suspects(stored)]

    assert found(suspect_codes=np.array([0], dtype=np.int16)) == [("dog", "cat", None)]
    sets = {"label_sets": np.array([[1, 0], [1, 1]], np.int8), "suspect_sets": np.array([[0, 0]], np.int8)}
    quality = np.array([0.9, 0.25], dtype=np.float32)
    assert found(**sets, label_quality=quality) == [("cat, dog", "none of these", 0.25)]


def test_the_class_table_adds_up_and_measures_on_the_hold_out(backend: Backend, client: FlaskClient) -> None:
    save_round(backend, holdout=(4,))
    cat, dog = (client.get("/api/projects/7/overview").json or {})["round"]["classes"]
    assert cat == {"name": "cat", "labeled": 0, "predicted": 1, "held_out": 0, "right": 0}
    assert dog == {"name": "dog", "labeled": 1, "predicted": 1, "held_out": 1, "right": 0}
    assert "dog 1 1 0 of 1" in text(client.get("/projects/7?tab=learned").text)


@pytest.mark.parametrize("multiple", [False, True])
@pytest.mark.parametrize("answers_saved", [False, True])
def test_the_class_table_is_what_a_count_of_all_tasks_gives(
    backend: Backend, multiple: bool, answers_saved: bool
) -> None:
    rng, names, n = np.random.default_rng(0), ("a", "b", "c"), ROWS_AT_ONCE + 9_000
    task_ids = np.arange(0, 3 * n, 3)
    rows = np.sort(rng.choice(n, n - 5_000, replace=False))  # the others are unreadable
    odds = rng.random((len(rows), 3), dtype=np.float32)
    sets = rng.integers(0, 2, (n, 3)) if multiple else np.eye(3, dtype=np.int64)[rng.integers(0, 3, n)]
    known, held = rng.random(n) < 0.1, np.arange(n) % 4 == 0
    arrays: dict[str, Any] = {
        "task_ids": task_ids,
        "embedded_task_ids": task_ids[rows],
        "probabilities": odds,
        "label_codes": np.where(known, sets.argmax(1), -1).astype(np.int16),
    }
    arrays |= {"label_sets": np.where(known[:, None], sets, -1).astype(np.int8)} if multiple else {}
    arrays |= {"predicted": answer_codes(odds, multiple)} if answers_saved else {}
    labels, holdout = Labels("label", "image", names, multiple), tuple(task_ids[held].tolist())
    with backend.store.draft(7) as draft:
        stored = draft.save(record(draft.number, labels=labels, holdout=holdout), arrays)

    named = sets == 1
    said = odds > 0.5 if multiple else odds == odds.max(1, keepdims=True)
    if multiple:
        named, said = (np.column_stack([each, ~each.any(1)]) for each in (named, said))
    measured = named[rows] & (known & held)[rows, None]
    nothing = [None] * 4
    expected = zip(
        (*names, "none of these") if multiple else names,
        named[known].sum(0).tolist(),
        said[~known[rows]].sum(0).tolist(),
        nothing if multiple else measured.sum(0).tolist(),
        nothing if multiple else (measured & said).sum(0).tolist(),
        strict=True,
    )
    assert [astuple(line) for line in class_table(stored)] == list(expected)


def test_of_many_unreadable_images_a_page_names_the_first(backend: Backend, client: FlaskClient) -> None:
    save_round(backend, failures=tuple(ImageFailure(n, f"/data/{n}.jpg", "torn") for n in range(1, 451)))
    page = client.get("/projects/7?tab=pool").text
    assert "450 unreadable images" in text(page) and "The first 200 are shown" in text(page)
    assert page.count("<td>torn</td>") == 200
    shown = (client.get("/api/projects/7/overview").json or {})["round"]
    assert (len(shown["failures"]), shown["failure_count"]) == (200, 450)
    assert len((client.get("/api/projects/7/status").json or {})["round"]["unreadable"]) == 450


def test_the_page_says_how_the_batch_was_chosen(backend: Backend, client: FlaskClient) -> None:
    for strategy, words in (
        ("k_center", "farthest from"),
        ("random", "sampled at random"),
        ("mine:f", "mine:f selected"),
    ):
        save_round(backend, strategy=strategy)
        assert words in text(client.get("/projects/7").text)
    assert (
        {"k_center", "random", Settings.model_fields["strategy"].default}
        <= set(CHOICE_WORDS)
        <= set(STRATEGIES)
    )


def test_the_map_of_a_large_pool_is_a_sample_with_the_counts_of_all(
    backend: Backend, client: FlaskClient
) -> None:
    n = MOST_DRAWN + 10_000
    rng = np.random.default_rng(0)
    states = np.full(n, STATES.index("pool"), dtype=np.uint8)
    rows = rng.permutation(n)
    states[rows[:30_000]], states[rows[-40:]] = STATES.index("labeled"), STATES.index("selected")
    arrays = {
        "task_ids": np.arange(n) + 5,
        "states": states,
        "embedded_task_ids": np.arange(n) + 5,
        "layout": np.zeros((n, 2), np.uint16),
        "label_codes": np.where(states == STATES.index("labeled"), 1, -1).astype(np.int16),
        "predicted": (rows % 3 == 0).astype(np.int16),
        "suspects": rows[20_000:20_200] + 5,
    }
    with backend.store.draft(7) as draft:
        draft.save(record(draft.number), arrays)
    data = client.get("/projects/7/rounds/1/map").data
    drawn, version, total, _ = np.frombuffer(data, "<u4", 4)
    assert (drawn, version, total) == (MOST_DRAWN, 3, n)
    shown = np.frombuffer(data, "<f8", drawn, 16).astype(int)
    assert (np.diff(shown) > 0).all()
    assert {*(rows[-40:] + 5), *arrays["suspects"]} <= set(shown.tolist())
    counts, at = [], 16 + 18 * MOST_DRAWN
    while at < len(data):
        (many,) = np.frombuffer(data, "<u4", 1, at)
        counts.append(dict(np.frombuffer(data, "<i4", 2 * many, at + 4).reshape(-1, 2).tolist()))
        at += 4 + 8 * int(many)
    told = [states, arrays["label_codes"], arrays["predicted"], np.full(n, 255)]
    assert counts == [dict(sorted(Counter(values.tolist()).items())) for values in told]
    labeled = (states[shown - 5] == STATES.index("labeled")).sum()
    assert 0.4 * MOST_DRAWN < labeled <= MOST_DRAWN / 2


def test_a_thumbnail_is_refused_once_the_round_is_altered(backend: Backend, client: FlaskClient) -> None:
    save_round(backend)
    thumbnail = "/projects/7/rounds/1/thumbnails/3.jpg"
    before = client.get(thumbnail).status_code
    path = backend.store.open(7, 1).path / "image_keys.npy"
    assert client.get(thumbnail).status_code == before
    flip_a_byte(path, 0.99)
    assert client.get(thumbnail).status_code == 409


def test_of_many_near_duplicates_the_page_lists_some_and_counts_all(
    backend: Backend, client: FlaskClient
) -> None:
    sizes = np.r_[5000, np.full(300, 9)]
    groups = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    arrays = {
        "task_ids": np.arange(len(groups)) + 1,
        "embedded_task_ids": np.arange(len(groups)) + 1,
        "duplicate_groups": groups,
        "label_codes": np.full(len(groups), -1, np.int16),
    }
    with backend.store.draft(7) as draft:
        draft.save(record(draft.number), arrays)
    found = (client.get("/api/projects/7/overview").json or {})["round"]
    assert [len(group) for group in found["duplicates"]] == [100, *[9] * 99]
    assert found["duplicates"][1][:2] == [5001, 5002]
    assert found["duplicate_counts"] == {"groups": 301, "images": 7700, "sizes": [5000, *[9] * 99]}
    page = client.get("/projects/7?tab=pool").text
    assert "301 groups of near-duplicates" in page
    assert "and 4\u202f994 more" in page
