"""What this project does beside what others do, in one table.

    make benchmark      # then again: PYTHONPATH=.peers .venv/bin/python benchmarks/table.py

Selection, label errors, label efficiency, reading the pool and a round on a real Label Studio: each is
measured by the benchmark of its name in this folder, on images and vectors that are made here, and the
others in the same run. Label efficiency is not timed, so its two pools share the cores. Five minutes on two.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import label_efficiency
import label_errors
import numpy as np
import pool
import selection
import torch

HERE = Path(__file__).parent
VERSIONS = (
    "coreset-backend",
    "torch",
    "numpy",
    "scikit-activeml",
    "fpsample",
    "lightly-mundig",
    "cleanlab",
)
BUDGETS = (20, 100, 200)
STRATEGIES = {
    "random": "random order",
    "margin": "margin (modAL's)",
    "k_center": "k-Center (the paper's)",
    label_efficiency.DEFAULT: "",
}
IMAGES = 256


@dataclass(frozen=True, slots=True)
class Row:
    """``better`` is ours over theirs, or theirs over ours where less is better."""

    what: str
    n: str
    ours: str
    other: str = ""
    theirs: str = ""
    better: str = ""


def selecting() -> Iterator[Row]:
    """CPU seconds for 1,000 of 50,000 vectors, on one core."""
    features, n, d, labeled, batch = selection.CASES["T1 mixture"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        np.save(path, selection.make(features, n, d))
        own, *others = (
            (method, selection.in_a_process(method, path, labeled, batch)["seconds"])
            for method in selection.present()
        )
    for method, seconds in others:
        yield Row(
            f"select {batch:,} by k-Center, CPU s",
            f"{n:,} x {d}",
            f"{own[1]:.2f}",
            method,
            f"{seconds:.1f}",
            f"{seconds / own[1]:.0f} x",
        )


def finding_label_errors() -> Iterator[Row]:
    """Average precision on a drawn pool with 5 % of 1,000 labels wrong."""
    line = ["--labels", "1000", "--wrong", "0.05", "--draws", "3"]
    with_cleanlab = installed("cleanlab")
    given = label_errors.arguments().parse_args([*line, "--cleanlab"] if with_cleanlab else line)
    figures = label_errors.figures_of(given, 1000, 0.05)
    for drawn in ("drawn", "drawn tail"):
        own = figures[drawn, "ours"][0]
        for method, name in (("vote", "vote of 10 neighbours"), ("cleanlab", "cleanlab")):
            if (drawn, method) in figures:
                theirs = figures[drawn, method][0]
                yield Row(
                    f"label errors, {drawn}, average precision",
                    "1,000 labels, 3 draws",
                    f"{own:.3f}",
                    name,
                    f"{theirs:.3f}",
                    f"{own - theirs:+.3f}",
                )


def learning(name: str) -> list[Row]:
    """Accuracy by labels on one pool, the mean over 3 draws."""
    torch.set_num_threads(1)
    budgets = ",".join(map(str, BUDGETS))
    with tempfile.TemporaryDirectory() as folder:
        line = ["--pool", name, "--cache", folder, "--draws", "3", "--budgets", budgets]
        given = label_efficiency.arguments().parse_args([*line, "--strategies", ",".join(STRATEGIES)])
        cells = list(label_efficiency.missing_cells(given, []))
    curves = {
        strategy: 100 * np.mean([cell["curve"] for cell in cells if cell["strategy"] == strategy], axis=0)
        for strategy in STRATEGIES
    }
    own = curves.pop(label_efficiency.DEFAULT)
    return [
        Row(
            f"accuracy on {name}, {labels} labels, %",
            "3 draws",
            f"{own[place]:.1f}",
            STRATEGIES[strategy],
            f"{curve[place]:.1f}",
            f"{own[place] - curve[place]:+.1f}",
        )
        for place, labels in enumerate(BUDGETS)
        for strategy, curve in curves.items()
    ]


def reading_the_pool() -> Iterator[Row]:
    """Images per CPU-second, against the bare network in torch's bfloat16."""
    torch.set_num_threads(1)
    files = [pool.photograph(seed) for seed in range(pool.FILES)]
    with tempfile.TemporaryDirectory(prefix="pool-") as place, pool.served(files) as url:
        found = pool.embed_rates("efficientnet_lite0", url, Path(place), IMAGES)
    own = found["openvino"] or found["process"]
    runtime = "OpenVINO" if found["openvino"] else "torch"
    yield Row(
        f"embed by Lite0 by {runtime}, images per CPU-s",
        f"{IMAGES} images",
        f"{own:.0f}",
        "torch's forward alone",
        f"{found['forward']:.0f}",
        f"{own / found['forward']:.1f} x",
    )


def a_round() -> Iterator[Row]:
    """Seconds on a real Label Studio with 300 tasks."""
    ran = subprocess.run(
        [sys.executable, HERE / "round.py", "300"], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        yield Row(f"a round: {ran.stderr.strip().splitlines()[-1]}", "", "")
    for name, seconds in re.findall(r"n = 300, (.*?): ([\d.]+) s from the event", ran.stdout):
        yield Row(f"a round, {name}, s until it is served", "300 tasks", seconds)


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def conditions() -> str:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{datetime.now(UTC):%d %B %Y}; {cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, "
        + ", ".join(f"{name} {installed(name) or 'absent'}" for name in VERSIONS)
    )


def say(what: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {what}", file=sys.stderr, flush=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    told, rows = conditions(), []
    timed = {
        "selection": selecting,
        "label errors": finding_label_errors,
        "the pool": reading_the_pool,
        "rounds on Label Studio": a_round,
    }
    for name, measure in timed.items():
        say(f"measuring {name}")
        rows += measure()
    say("measuring label efficiency on fruit and digits")
    with ProcessPoolExecutor(2) as side_by_side:
        for found in side_by_side.map(learning, ("fruit", "digits")):
            rows += found
    print(f"{told}\n\n| what | n | ours | compared with | theirs | difference |\n|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.n} | {row.ours} | {row.other} | {row.theirs} | {row.better} |")


if __name__ == "__main__":
    main()
