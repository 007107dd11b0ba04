"""The pages in a real Chromium, on a round saved to the store: what needs no Label Studio."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browser import (
    accessibility_violations,
    console_errors,
    downloaded,
    draw_lasso,
    open_browser,
    prefer_colours,
    press,
    wait_for,
    wait_until_said,
)
from numpy.typing import NDArray
from PIL import Image
from saved_rounds import record
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select
from serving import serving
from werkzeug.serving import make_server
from written_progress import changed

from coreset_backend.backend import Backend
from coreset_backend.evaluation.comparison import MeanCurve, keep_replay
from coreset_backend.foreign_text import fit_cell
from coreset_backend.images.cache import PixelCache
from coreset_backend.jobs.keys import PRETRAINING_LEASE, redis_key
from coreset_backend.jobs.monitoring import alive_key
from coreset_backend.jobs.progress import write_pretraining, write_progress
from coreset_backend.project import Labels
from coreset_backend.reports import ImageFailure, Publication
from coreset_backend.store.examples import read_examples
from coreset_backend.store.record import STATES, BatchScores, Evaluation, Interval
from coreset_backend.web.app import create_app
from coreset_backend.web.pages import TABS

pytestmark = pytest.mark.browser
N = 400
LABELED, PICKED = np.arange(1, 41), np.arange(41, 61)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[webdriver.Chrome, Path]]:
    folder = tmp_path_factory.mktemp("chromium")
    with open_browser(folder) as page:
        yield page, folder


@pytest.fixture
def page(chromium: tuple[webdriver.Chrome, Path]) -> webdriver.Chrome:
    chromium[0].get("about:blank")
    console_errors(chromium[0])
    return chromium[0]


def save_round(backend: Backend, n: int = N, **given: Any) -> None:
    """Two classes on two islands: cats left, dogs right; tasks 1 to 40 labelled, 41 to 60 picked.

    ``given`` are fields of the record.
    """
    rng = np.random.default_rng(0)
    task_ids = np.arange(1, n + 1)
    kinds = task_ids % 2
    states = np.full(n, STATES.index("pool"), dtype=np.uint8)
    states[LABELED - 1], states[PICKED - 1] = STATES.index("labeled"), STATES.index("selected")
    places = np.column_stack([16000 + 32000 * kinds, np.full(n, 32000)]) + rng.uniform(-7000, 7000, (n, 2))
    probabilities = np.where(kinds[:, None] == [0, 1], 0.9, 0.1).astype(np.float32)
    keys = rng.integers(0, 256, (N, 32), dtype=np.uint8)
    cache = PixelCache(backend.store.image_cache, 10**9, 0)
    for key in keys:
        cache.write(key.tobytes().hex(), rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), 0)
    with backend.store.draft(7) as draft:
        draft.save(
            record(
                draft.number,
                title="Pets",
                batch=tuple(PICKED.tolist()),
                reserve=(),
                distances=tuple(np.linspace(9, 5, len(PICKED)).tolist()),
                holdout=tuple(LABELED[:10].tolist()),
                counts=dict(zip(STATES, np.bincount(states, minlength=len(STATES)).tolist(), strict=True))
                | {"labeled": given.pop("labels_so_far", len(LABELED))},
                failures=(ImageFailure(n + 1, "/data/x.jpg", "no image"),),
                **given,
            ),
            {
                "task_ids": task_ids,
                "states": states,
                "embedded_task_ids": task_ids,
                "image_keys": np.resize(keys, (n, 32)),
                "clusters": (1 - kinds).astype(np.int16),
                "layout": places.clip(0, 65535).astype(np.uint16),
                "label_codes": np.where(states == 0, kinds, -1).astype(np.int16),
                "probabilities": probabilities,
                "duplicate_groups": np.where(task_ids > n - 4, 0, -1).astype(np.int32),
                "suspects": LABELED[:2],
                "suspect_sets": np.array([[1, 0], [0, 1]], dtype=np.int8),
                "label_quality": np.full(n, 0.25, dtype=np.float32),
                "suspect_shares": np.array([1.0, 0.8], dtype=np.float32),
                "pick_neighbors": np.column_stack([np.resize(LABELED, 20), np.r_[-1, PICKED[:-1]]]),
                "pick_distances": np.full((20, 2), 9, dtype=np.float32),
            },
        )


@pytest.fixture
def backend(make_backend: Callable[..., Backend]) -> Backend:
    return make_backend(label_studio_url="http://label-studio.invalid")


@pytest.fixture
def address(backend: Backend) -> Iterator[str]:
    """Where the pages are served."""
    with serving(make_server("127.0.0.1", 0, create_app(backend), threaded=True)) as served:
        yield served


def open_project(page: webdriver.Chrome, address: str, tab: str = "pool") -> None:
    page.get(f"{address}/projects/7?tab={tab}")
    if tab == "pool":
        wait_for(page, "document.getElementById('map').dataset.ready")


def on_map(page: webdriver.Chrome, task_id: int) -> tuple[float, float]:
    """Where the map shows the task, from the middle of its box."""
    x, y = page.execute_script(
        "const map = document.getElementById('map').embeddingMap;"
        "const [x, y] = map.toScreen(map.task.indexOf(arguments[0]));"
        "return [x - map.box.clientWidth / 2, y - map.box.clientHeight / 2]",
        task_id,
    )
    return x, y


def pixels(shown: WebElement) -> NDArray[np.int64]:
    """int64[height, width, 3]: the element as it is drawn, all of it."""
    shown.parent.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", shown)
    return np.asarray(Image.open(io.BytesIO(shown.screenshot_as_png)).convert("RGB"), dtype=np.int64)


def pointer(page: webdriver.Chrome) -> ActionChains:
    return ActionChains(page, duration=20)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible_and_the_console_silent(
    backend: Backend, address: str, page: webdriver.Chrome, scheme: str
) -> None:
    save_round(backend)
    prefer_colours(page, scheme)
    for tab in reversed(TABS):
        open_project(page, address, tab)
        assert accessibility_violations(page) == []
    page.find_element(By.CSS_SELECTOR, "[data-pick]").click()
    assert accessibility_violations(page) == []
    page.get(f"{address}/projects")
    assert accessibility_violations(page) == []
    assert console_errors(page) == []
    backend.store.register(9)
    for path in ("8", *(f"9?tab={tab}" for tab in TABS)):
        page.get(f"{address}/projects/{path}")
        assert accessibility_violations(page) == []


def test_a_pick_says_why_it_was_made(backend: Backend, address: str, page: webdriver.Chrome) -> None:
    save_round(backend)
    open_project(page, address, "now")
    pick = page.find_elements(By.CSS_SELECTOR, "[data-pick]")[1]
    pick.send_keys(Keys.ENTER)
    dialog = page.find_element(By.ID, "why")
    assert "pick 2 of round 1" in dialog.text
    assert "Its nearest labelled image, task 2 (“cat”), is 9.00 away." in dialog.text
    assert dialog.find_element(By.ID, "why-link").get_attribute("href").endswith("/projects/7/data?task=42")
    dialog.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert page.switch_to.active_element == pick


def test_hovering_the_map_shows_the_image_and_the_lasso_lists_and_exports(
    backend: Backend, address: str, chromium: tuple[webdriver.Chrome, Path], page: webdriver.Chrome
) -> None:
    save_round(backend)
    open_project(page, address)
    canvas = page.find_element(By.ID, "map-points")
    drawn = pixels(canvas)
    yellow = (abs(drawn - (0xFB, 0xBF, 0x24)).sum(2) < 40).sum()
    assert yellow > 20 * 50  # the batch's points are drawn

    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    x, y = on_map(page, 41)
    pointer(page).move_to_element_with_offset(canvas, int(x), int(y)).perform()
    tip = page.find_element(By.ID, "map-tip")
    assert "selected, pick " in tip.text
    assert wait_for(page, "document.querySelector('#map-tip img').naturalWidth") == 32

    draw_lasso(page, 0.5)
    cats = [task_id for task_id in range(1, N + 1) if task_id % 2 == 0]
    title = page.find_element(By.ID, "chosen-title")
    assert title.text == f"Inside the lasso: {len(cats)} images, the first 120 shown"
    assert len(page.find_elements(By.CSS_SELECTOR, "#chosen-list img")) == 120
    page.find_element(By.ID, "chosen-export").click()
    file = chromium[1] / "project-7-round-1.csv"
    lines = list(csv.DictReader(downloaded(file).splitlines()))
    assert [int(line["task_id"]) for line in lines] == cats
    assert lines[0]["label"] == lines[0]["predicted"] == "cat"
    assert lines[20]["pick"] == "2"
    page.find_element(By.ID, "chosen-clear").click()
    assert not title.is_displayed()
    assert console_errors(page) == []


def ticked(page: webdriver.Chrome) -> list[int]:
    """The tasks that are selected among those shown."""
    boxes = page.find_elements(By.CSS_SELECTOR, "#chosen-list input:checked")
    return [int(box.get_attribute("data-task") or 0) for box in boxes]


def list_cluster(page: webdriver.Chrome, number: int) -> None:
    """List the images of a cluster by keyboard alone."""
    Select(page.find_element(By.ID, "map-colour")).select_by_value("cluster")
    page.find_element(By.CSS_SELECTOR, f"#map-legend li:nth-child({number}) button").send_keys(Keys.ENTER)


def test_listed_images_are_selected_by_mouse_and_by_keyboard(
    backend: Backend, address: str, page: webdriver.Chrome
) -> None:
    save_round(backend)
    open_project(page, address)
    list_cluster(page, 2)  # the cats have the even numbers
    assert page.switch_to.active_element.text == "Cluster 2: 200 images, the first 120 shown"
    cats = list(range(2, N + 1, 2))
    boxes = page.find_elements(By.CSS_SELECTOR, "#chosen-list input")
    assert boxes[0].get_attribute("aria-label") == "Task 2: labelled; labelled “cat”; predicted “cat”"
    tiles = page.find_elements(By.CSS_SELECTOR, "#chosen-list .tile")
    tiles[1].click()
    ActionChains(page).key_down(Keys.SHIFT).click(tiles[4]).key_up(Keys.SHIFT).perform()
    assert ticked(page) == cats[1:5]
    tiles[2].click()
    assert ticked(page) == [cats[1], cats[3], cats[4]]
    page.find_element(By.ID, "bulk-none").click()

    boxes[0].send_keys(Keys.ARROW_RIGHT, Keys.SPACE)
    page.switch_to.active_element.send_keys(Keys.SHIFT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert ticked(page) == cats[1:4]
    row = page.execute_script(
        "const tops = [...document.querySelectorAll('#chosen-list li')].map((item) => item.offsetTop);"
        "return tops.filter((top) => top === tops[0]).length"
    )
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert page.switch_to.active_element == boxes[3 + row]
    page.switch_to.active_element.send_keys(Keys.CONTROL, "a")
    assert page.find_element(By.ID, "bulk-count").text == "200 images selected"
    page.find_element(By.ID, "chosen-more").click()
    assert ticked(page) == cats
    assert accessibility_violations(page) == []
    assert console_errors(page) == []


def test_examples_are_marked_shown_with_their_weight_and_removed(
    backend: Backend, address: str, page: webdriver.Chrome
) -> None:
    save_round(backend)
    open_project(page, address)
    assert not page.find_element(By.ID, "chosen").is_displayed()
    page.find_element(By.ID, "bulk-suspects").click()
    assert page.find_element(By.ID, "chosen-title").text == "Suspected label errors: 2 images"
    assert not page.find_element(By.ID, "bulk-more").is_enabled()
    page.find_element(By.CSS_SELECTOR, "#chosen-list .tile").click()
    page.find_element(By.ID, "bulk-more").click()
    wait_until_said(page, "1 image marked. 1 example weighs from the next round on.")
    shown = wait_for(page, "document.querySelector('#examples')")
    assert shown.text.startswith("more × 4")
    page.find_element(By.ID, "bulk-fewer").click()
    wait_for(page, "document.querySelector('#examples')?.innerText.startsWith('fewer × 0.25')")
    assert [each.task_id for each in read_examples(backend.store, 7)] == [1]
    assert accessibility_violations(page) == []
    page.find_element(By.CSS_SELECTOR, "[data-unmark]").send_keys(Keys.ENTER)
    wait_until_said(page, "The example is removed.")
    assert read_examples(backend.store, 7) == ()
    save_round(backend)  # a new round keeps what is listed and selected
    wait_for(page, "document.getElementById('live').dataset.round === '2'")
    wait_for(page, "document.querySelectorAll('#chosen-list input:checked').length === 1")
    assert page.find_element(By.ID, "chosen-title").text == "Suspected label errors: 2 images"
    assert console_errors(page) == []


def test_an_exported_class_is_no_formula(
    backend: Backend, address: str, chromium: tuple[webdriver.Chrome, Path], page: webdriver.Chrome
) -> None:
    kinds = ('=HYPERLINK("http://evil.example","x")', "dog;\t@SUM(1)")
    save_round(backend, labels=Labels("label", "image", kinds, multiple=False))
    open_project(page, address)
    page.find_element(By.CSS_SELECTOR, "#map-legend button").click()
    page.find_element(By.ID, "chosen-export").click()
    file = chromium[1] / "project-7-round-1.csv"
    lines = list(csv.DictReader(downloaded(file).splitlines()))
    assert {line["label"] for line in lines} == {fit_cell(kind) for kind in kinds}
    assert {fit_cell(kind) for kind in kinds} == {f"'{kinds[0]}", "dog;'\t'@SUM(1)"}


def test_the_map_is_used_by_keyboard(backend: Backend, address: str, page: webdriver.Chrome) -> None:
    save_round(backend)
    open_project(page, address)
    canvas = page.find_element(By.ID, "map-points")
    before = on_map(page, 41)
    canvas.send_keys("+", Keys.ARROW_LEFT)
    assert on_map(page, 41)[0] == pytest.approx(1.3 * before[0] + 40, abs=1)
    canvas.send_keys("0")
    assert on_map(page, 41) == pytest.approx(before)
    legend = page.find_element(By.CSS_SELECTOR, "#map-legend button")
    assert legend.text == "Labelled 40"
    legend.send_keys(Keys.ENTER)
    assert page.switch_to.active_element.text == "Labelled: 40 images"


MAP_AFTER_LOAD = """
    const [page] = performance.getEntriesByType("navigation");
    const map = performance.getEntriesByType("resource").find(({ name }) => name.endsWith("/map"));
    return map.startTime >= page.loadEventStart;
"""


def test_of_a_hundred_thousand_points_a_sample_is_drawn_and_all_are_counted(
    backend: Backend, address: str, page: webdriver.Chrome
) -> None:
    save_round(backend, 100_000)
    open_project(page, address)
    assert page.find_element(By.ID, "map-count").text == (
        "100,000 images; 50,000 of them are drawn, with the whole batch"
    )
    canvas = page.find_element(By.ID, "map-points")
    drawn = pixels(canvas)
    pool = (abs(drawn - (0x5B, 0x6A, 0x99)).sum(2) < 60).mean()
    assert pool > 0.1
    assert page.execute_script(MAP_AFTER_LOAD)
    open_project(page, address, "now")
    assert page.find_element(By.CSS_SELECTOR, "[data-count=pool]").text == "99\u202f940"
    assert console_errors(page) == []


def test_the_learning_curve_is_drawn_with_its_intervals_and_the_radius_by_round(
    backend: Backend, address: str, page: webdriver.Chrome
) -> None:
    for count, accuracy, low in ((40, 0.6, 0.2), (80, 0.75, 0.65), (160, 0.84, 0.74), (320, 0.88, 0.78)):
        interval = Interval(accuracy, low, accuracy + 0.08, 60)
        save_round(
            backend,
            evaluation=Evaluation(interval, interval),
            labels_so_far=count,
            radius_before=9.0 - count / 80,
            radius_after=4.0,
        )
    prefer_colours(page, "light")
    open_project(page, address, "learned")
    told = httpx.get(f"{address}/api/projects/7/history").json()["advice"]
    assert told["verdict"] in page.find_element(By.ID, "advice").text
    assert told["sentence"] in page.find_element(By.ID, "advice").text
    assert (
        "88.0 % of 60 hold-out images predicted correctly after 320 labels"
        in page.find_element(By.TAG_NAME, "main").text
    )
    for plot, points in (("learning-plot", 4 + len(told["curve"])), ("radius-plot", 4)):
        shown = page.find_element(By.ID, plot)
        assert 4 <= int(shown.get_attribute("data-ready") or 0) <= points
        ink = (pixels(shown).min(2) < 180).mean()
        assert ink > 0.005
    accent = abs(pixels(page.find_element(By.ID, "learning-plot")) - (0x4F, 0x46, 0xE5)).sum(2) < 40
    assert accent.sum() > 4 * 60  # four points with their intervals,
    assert not accent[-40:].any()  # none of which runs into the axis
    assert accessibility_violations(page) == []
    assert console_errors(page) == []


def test_core_set_stands_against_random_where_it_was_measured(
    backend: Backend, address: str, page: webdriver.Chrome
) -> None:
    shares = BatchScores(Interval(0.8, 0.6, 0.9, 20), Interval(0.4, 0.3, 0.5, 80))
    for _ in range(2):
        save_round(backend, random_slice=tuple(PICKED[:5].tolist()), batch_figures=shares)
    labels, spread = np.array([20, 40, 60]), np.array([0.03, 0.02, 0.01])
    replayed = [
        MeanCurve(strategy, 20, labels, np.array(mean), spread, 3)
        for strategy, mean in (("k_center", [0.5, 0.7, 0.8]), ("random", [0.4, 0.5, 0.6]))
    ]
    keep_replay(backend.store, 7, replayed, "Best here: k_center.")
    prefer_colours(page, "dark")
    open_project(page, address, "learned")
    assert page.find_element(By.ID, "replay-words").text == "Best here: k_center."
    assert "80 % of the 40 randomly sampled images" in page.find_element(By.ID, "slice-words").text
    for plot, colours in (("replay-plot", ("8b8cf9", "a3a9c6")), ("slice-plot", ("8b8cf9", "a3a9c6"))):
        drawn = pixels(page.find_element(By.ID, plot))
        for colour in colours:
            rgb = [int(colour[start : start + 2], 16) for start in (0, 2, 4)]
            assert (abs(drawn - rgb).sum(2) < 30).sum() > 150
    for summary in page.find_elements(By.CSS_SELECTOR, "details summary"):
        summary.send_keys(Keys.ENTER)
    rows = [row.text for row in page.find_elements(By.CSS_SELECTOR, "#replay tbody tr")]
    assert [row.split(" ", 2)[2] for row in rows[:3]] == ["20 50.0 %", "40 70.0 %", "60 80.0 %"]
    assert rows[3:] == ["random 20 20 40.0 %", "random 20 40 50.0 %", "random 20 60 60.0 %"]
    rows = [row.text for row in page.find_elements(By.CSS_SELECTOR, "#slice tbody tr")]
    assert rows == ["1 80.0 % of 20 40.0 % of 80", "2 80.0 % of 20 40.0 % of 80"]
    assert accessibility_violations(page) == []
    assert console_errors(page) == []


def test_progress_is_live_with_its_phase_and_the_time_left(
    backend: Backend, address: str, page: webdriver.Chrome
) -> None:
    save_round(backend, timings={"images": 100.0, "fit": 300.0})
    open_project(page, address, "history")
    assert not page.find_element(By.ID, "steps").is_displayed()
    backend.redis.set(redis_key(7, "lease"), "a worker's")
    backend.redis.sadd(f"rq:workers:{backend.queue.name}", "rq:worker:one")
    backend.redis.set(alive_key("one"), "1")
    backend.redis.expire(alive_key("one"), 3600)
    write_progress(backend.redis, 7, changed(state="running", phase="images", done=100, total=400))
    wait_for(page, "document.getElementById('sentence').textContent === 'Reading images: 100 of 400.'")
    current = page.find_element(By.CSS_SELECTOR, "#steps [aria-current=step]")
    assert current.text == "Reading images"
    assert page.find_element(By.ID, "meter").get_attribute("value") == "0.25"
    assert re.fullmatch(r"about \d+ min left", page.find_element(By.ID, "time-left").text)
    write_progress(
        backend.redis, 7, changed(phase="polishing", done=0, total=0)
    )  # one that the page knows nothing of
    wait_for(page, "document.querySelector('#steps [aria-current=step]').textContent === 'Polishing'")
    assert page.find_element(By.ID, "meter").get_dom_attribute("value") is None
    assert accessibility_violations(page) == []
    write_progress(backend.redis, 7, changed(state="idle"))
    backend.redis.set(redis_key(7, PRETRAINING_LEASE), "a worker's")
    write_pretraining(
        backend.redis, 7, changed(state="running", images=100, seen=150, budget=1000, seconds_left=30)
    )
    wait_for(
        page, "document.getElementById('sentence').textContent.includes('epoch 2 of 10, about 30 s left')"
    )
    assert not page.find_element(By.ID, "steps").is_displayed()
    assert page.find_element(By.ID, "meter").get_attribute("value") == "0.15"


def test_the_page_follows_a_round_without_a_reload_and_keeps_its_tab(
    backend: Backend, address: str, page: webdriver.Chrome
) -> None:
    backend.store.register(7)
    page.get(f"{address}/projects/7")
    assert "No batch yet" in page.find_element(By.TAG_NAME, "main").text
    save_round(backend)
    first = wait_for(page, "document.querySelector('[data-pick]')")
    assert "Round 1 is ready." in page.find_element(By.ID, "messages").text
    save_round(backend)
    wait_for(page, "document.getElementById('live').dataset.round === '2'")
    assert page.find_elements(By.CSS_SELECTOR, "[data-pick]")[0] != first
    page.find_element(By.ID, "tab-pool").send_keys(Keys.ENTER)
    wait_for(page, "document.getElementById('map')?.dataset.ready")
    page.find_element(By.ID, "tab-history").send_keys(Keys.ENTER)
    wait_for(page, "document.querySelectorAll('#rounds tbody tr').length === 2")
    tab = page.find_element(By.ID, "tab-history")
    page.execute_script("arguments[0].focus()", tab)
    save_round(backend)
    wait_for(page, "document.querySelectorAll('#rounds tbody tr').length === 3")
    assert page.find_elements(By.CSS_SELECTOR, ".tabs [aria-current=page]")[0].text == "History"
    assert page.switch_to.active_element.get_attribute("id") == "tab-history"
    page.back()
    wait_for(page, "document.getElementById('map')?.dataset.ready")
    wait_for(page, "document.querySelector('.tabs [aria-current=page]').innerText === 'Pool'")
    assert console_errors(page) == []


def test_every_action_asks_once_by_keyboard_and_says_what_it_did(
    backend: Backend, address: str, page: webdriver.Chrome
) -> None:
    save_round(backend)
    save_round(backend)
    for number in (1, 2):
        backend.store.open(7, number).mark_published(Publication(at=f"2026-01-01T00:0{number}:00+00:00"))
    open_project(page, address, "history")
    assert page.find_element(By.ID, "messages").get_attribute("aria-live") == "polite"
    press(page, "[data-action=start]", "A round is queued.")
    wait_for(page, "document.getElementById('state').textContent === 'waiting'")
    wait_for(page, "document.querySelector('[data-action=start]').disabled")
    press(page, "[data-action=cancel]", "Cancelled. Annotators keep the current batch.")
    held = backend.store.held(7)
    assert held
    wait_for(page, f"document.getElementById('sentence').textContent.includes({held.reason!r})")
    press(page, "[data-action=publish]", "The batch will be published in a moment.")
    press(page, "[data-action=rollback]", "Rolled back to round 1. Its batch will be published in a moment.")
    wait_for(page, "document.getElementById('live').dataset.round === '1'")
    backend.store.open(7, 1).mark_published(Publication(at="2026-01-01T00:03:00+00:00"))
    wait_until_said(page, "The batch of round 1 is published.")
    rows = [row.text for row in page.find_elements(By.CSS_SELECTOR, "#rounds tbody tr")]
    assert ["served now" in row for row in rows] == [False, True]
    assert accessibility_violations(page) == []
    assert console_errors(page) == []


def test_an_action_that_fails_says_the_reason_of_the_server(
    backend: Backend, address: str, page: webdriver.Chrome
) -> None:
    save_round(backend)
    save_round(backend)
    (backend.store.open(7, 1).path / "layout.npy").write_bytes(b"damaged")
    open_project(page, address, "history")
    press(page, "[data-action=rollback]", "layout.npy does not match its hash")
    assert page.find_element(By.CSS_SELECTOR, "#messages .bad").text
    assert page.find_element(By.ID, "live").get_attribute("data-round") == "2"
