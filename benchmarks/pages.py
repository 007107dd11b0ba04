"""How long the page of a project takes with many tasks, in a real Chromium.

    python benchmarks/pages.py --tasks 100000 [--screenshot page.png]

The store is made up: places and states are drawn, the images are a few hundred drawn ones. Printed are what
the web process answers (size and CPU time), and what the browser waits for: the answer, its load event, the
map drawn, and the longest time that the page did not react, each the median of five, and what it was the
first time, when neither the web process nor the browser had opened a page.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait
from werkzeug.serving import make_server

from coreset_backend.backend import Backend, open_backend
from coreset_backend.images.cache import PixelCache
from coreset_backend.local.demo_images import CLASSES, make_images
from coreset_backend.project import Labels
from coreset_backend.reports import ImageFailure, TrainingReport
from coreset_backend.settings import Settings
from coreset_backend.store.record import STATES
from coreset_backend.store.store import Round
from coreset_backend.web.app import create_app

IMAGES = 300
LABELED, BATCH, RESERVE, UNREADABLE = 900, 100, 100, 250


def cached_images(backend: Backend, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keys in the image cache, uint8[m, 32], and classes, int16[m], of the drawn images."""
    cache = PixelCache(backend.store.image_cache, 10**9, 0)
    made = make_images(folder, IMAGES, seed=1)
    keys = np.random.default_rng(0).integers(0, 256, (IMAGES, 32), dtype=np.uint8)
    for (name, _), key in zip(made, keys, strict=True):
        pixels = np.asarray(Image.open(folder / name).convert("RGB").resize((128, 128)))
        cache.write(key.tobytes().hex(), pixels, 0)
    return keys, np.array([CLASSES.index(kind) for _, kind in made], dtype=np.int16)


def save_round(backend: Backend, n: int, keys: np.ndarray, kinds: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, len(keys), n)
    codes = kinds[image]
    centers = rng.uniform(9000, 56000, (len(CLASSES) * 4, 2))
    places = centers[codes * 4 + rng.integers(0, 4, n)] + rng.normal(0, 3500, (n, 2))
    states = np.full(n, STATES.index("pool"), dtype=np.uint8)
    order = rng.permutation(n)
    parts = np.split(order, np.cumsum([LABELED, BATCH, RESERVE, UNREADABLE]))
    for state, rows in zip(("labeled", "selected", "reserve", "unreadable"), parts, strict=False):
        states[rows] = STATES.index(state)
    readable = np.flatnonzero(states != STATES.index("unreadable"))
    task_ids = np.arange(1, n + 1)
    batch, reserve = task_ids[parts[1]], task_ids[parts[2]]
    probabilities = rng.dirichlet(np.ones(len(CLASSES)), n).astype(np.float32) * 0.3
    probabilities[np.arange(n), codes] += 0.7
    groups = np.full(n, -1, dtype=np.int32)
    groups[order[:600]] = np.arange(600) // 3
    suspects = task_ids[parts[0][:40]]
    record = Round(
        project_id=1,
        number=1,
        model_version="coreset-1-now",
        fingerprint="f",
        taken_at="2026-01-01T09:30:00+00:00",
        strategy="k_center",
        backbone="small_cnn",
        seed=0,
        labels=Labels("label", "image", CLASSES, multiple=False),
        batch=tuple(batch.tolist()),
        reserve=tuple(reserve.tolist()),
        distances=tuple(np.linspace(9, 4, BATCH + RESERVE).tolist()),
        radius_before=9.1,
        radius_after=6.5,
        training=TrainingReport(holdout_accuracy=0.871, n_holdout=180, n_train=720),
        holdout=(),
        counts=dict(zip(STATES, np.bincount(states, minlength=len(STATES)).tolist(), strict=True)),
        failures=tuple(
            ImageFailure(int(task_ids[row]), f"/data/local-files/?d=pool/{row}.jpg", "no JPEG")
            for row in parts[3]
        ),
        timings={"images": 40.0, "fit": 60.0, "embed": 30.0, "publish": 5.0},
        title="A hundred thousand",
    )
    with backend.store.draft(1) as draft:
        draft.save(
            record,
            {
                "task_ids": task_ids,
                "states": states,
                "scores": rng.random(n).astype(np.float32),
                "embedded_task_ids": task_ids[readable],
                "image_keys": keys[image[readable]],
                "layout": places.clip(0, 65535).astype(np.uint16)[readable],
                "label_codes": np.where(states == 0, codes, -1).astype(np.int16),
                "probabilities": probabilities[readable],
                "predicted": probabilities[readable].argmax(1).astype(np.int16),
                "clusters": codes[readable].astype(np.int16),
                "duplicate_groups": groups[readable],
                "suspects": suspects,
                "suspect_sets": np.eye(len(CLASSES), dtype=np.int8)[(codes[suspects - 1] + 1) % len(CLASSES)],
                "label_quality": np.where(states == 0, 0.3, np.nan).astype(np.float32)[readable],
                "suspect_shares": np.linspace(1, 0.75, len(suspects)).astype(np.float32),
                "pick_neighbors": np.column_stack(
                    [np.resize(task_ids[parts[0]], BATCH + RESERVE), np.r_[-1, batch, reserve[:-1]]]
                ),
                "pick_distances": np.full((BATCH + RESERVE, 2), 5, dtype=np.float32),
            },
        )


def browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("headless=new", "no-sandbox", "use-angle=swiftshader", "enable-unsafe-swiftshader"):
        options.add_argument(f"--{flag}")
    for flag in ("disable-dev-shm-usage", "disable-background-networking", "window-size=1400,1000"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": LONG_TASKS})
    return chrome


LONG_TASKS = """window.longest = 0;
new PerformanceObserver((list) => {
  for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration);
}).observe({ entryTypes: ["longtask"] });"""


def timings(page: webdriver.Chrome, url: str) -> dict[str, float]:
    """Milliseconds from the start of the navigation."""
    started = time.monotonic()
    page.get(url)
    WebDriverWait(page, 60, 0.02).until(
        lambda page: page.execute_script("return document.getElementById('map').dataset.ready")
    )
    drawn = 1000 * (time.monotonic() - started)
    found: dict[str, Any] = json.loads(
        page.execute_script("return JSON.stringify(performance.getEntriesByType('navigation')[0])")
    )
    time.sleep(0.3)  # the browser reports a long task after its end
    longest = page.execute_script("return window.longest")
    return {
        "answer": found["responseEnd"],
        "load": found["loadEventEnd"],
        "map": drawn,
        "longest task": longest,
    }


def answers(backend: Backend) -> None:
    """Print size and CPU time of what the page is made of, the median of five."""
    client = create_app(backend).test_client()
    for path in (
        "/projects",
        "/projects/1",
        "/projects/1?tab=pool",
        "/projects/1/rounds/1/map",
        f"/projects/1/rounds/1/thumbnails/{backend.store.open(1, 1).record.batch[0]}.jpg",
        "/api/projects/1/status",
        "/api/projects/1/history",
        "/metrics",
        "/api/projects/1/progress",
    ):
        times = []
        for _ in range(5):
            started = time.process_time()
            body = client.get(path).data
            times.append(1000 * (time.process_time() - started))
        print(f"{path:26} {len(body) / 1000:6.0f} kB {statistics.median(times):6.1f} ms of CPU")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--screenshot", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            model_dir=Path(folder) / "data",
            redis_url="redis://127.0.0.1:1",
            label_studio_url="http://localhost:8080",
        )
        backend = open_backend(settings)
        keys, kinds = cached_images(backend, Path(folder) / "images")
        save_round(backend, arguments.tasks, keys, kinds)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = make_server("127.0.0.1", 0, create_app(backend), threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser()
        try:
            first, *runs = [
                timings(page, f"http://127.0.0.1:{server.port}/projects/1?tab=pool") for _ in range(6)
            ]
            for name in first:
                print(
                    f"{name:12} {statistics.median(run[name] for run in runs):6.0f} ms, "
                    f"the first time {first[name]:6.0f} ms"
                )
            answers(backend)
            for line in page.get_log("browser"):  # type: ignore[no-untyped-call]
                print(line["level"], line["message"])
            if arguments.screenshot:
                height = page.execute_script("return document.documentElement.scrollHeight")
                page.set_window_size(1400, min(height + 100, 6000))
                time.sleep(2)
                page.save_screenshot(str(arguments.screenshot))
        finally:
            page.quit()
            server.shutdown()


if __name__ == "__main__":
    main()
