"""Metrics for Prometheus: those of this web process, and those read from store and Redis at each scrape.

A job of the worker is a process that ends with the job, so a scrape could not read its counters: it adds
them to Redis (`jobs.monitoring.count`), and one scrape of the web returns the counters of all workers.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from coreset_backend import __version__
from coreset_backend.backend import Backend
from coreset_backend.errors import CoresetError, QueueError
from coreset_backend.evaluation.round_scores import holdout_accuracy
from coreset_backend.finish.tally import tally
from coreset_backend.jobs.monitoring import COUNTERS, heartbeat_ages, job_counts, read_counts
from coreset_backend.jobs.progress import read_progress
from coreset_backend.jobs.states import RoundState
from coreset_backend.store.saved_round import StoredRound

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Label Studio gives up /health after 1 s, /setup after 3 s, /predict after 100 s.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 3, 10, 30, 100)


def measure_app(app: Flask, backend: Backend) -> None:
    """Time every request of ``app``, and prepare :func:`metrics_text`."""
    registry = CollectorRegistry()
    app.extensions["metrics"] = registry
    ProcessCollector(registry=registry)
    registry.register(StoreAndRedisCollector(backend))
    durations = Histogram(
        "coreset_http_request_duration_seconds",
        "Time to answer a request, by route",
        ("route", "method", "status"),
        buckets=BUCKETS,
        registry=registry,
    )
    running = Gauge("coreset_http_requests_in_progress", "Requests being answered now", registry=registry)

    def begin() -> None:
        running.inc()
        g.began = time.perf_counter()

    def end(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "unknown"
        # A client may send any word as a method; only methods of a known route may become label values.
        method = request.method if request.url_rule else "unknown"
        durations.labels(route, method, response.status_code).observe(time.perf_counter() - g.began)
        return response

    # Runs first before a request and, because Flask reverses the order, last after it.
    app.before_request_funcs.setdefault(None, []).insert(0, begin)
    app.after_request_funcs.setdefault(None, []).insert(0, end)
    app.teardown_request(lambda _error: running.dec())


def metrics_text(app: Flask) -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(app.extensions["metrics"])


class StoreAndRedisCollector(Collector):
    """The metrics of store and Redis, read at each scrape."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("coreset_build", "Always 1, with the version", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        free = shutil.disk_usage(next(p for p in (self._root, *self._root.parents) if p.exists())).free
        yield GaugeMetricFamily("coreset_disk_free_bytes", "Free space below MODEL_DIR", value=free)
        yield from self._rounds()
        yield self._labels()
        try:
            queue = list(self._queue())
        except QueueError:
            queue = []
        yield GaugeMetricFamily("coreset_redis_up", "1 while Redis answers", value=float(bool(queue)))
        yield from queue

    @property
    def _root(self) -> Path:
        return self._backend.settings.local_dir

    def _queue(self) -> Iterator[Metric]:
        """The metrics that are kept in Redis; raises QueueError."""
        ages = heartbeat_ages(self._backend.queue)
        yield GaugeMetricFamily("coreset_workers", "Workers that listen", value=len(ages))
        if ages:
            age = min(ages.values())
            yield GaugeMetricFamily(
                "coreset_worker_heartbeat_age_seconds", "Age of the newest heartbeat", value=age
            )
        queues = self._backend.high_priority_queue, self._backend.queue
        jobs = GaugeMetricFamily("coreset_jobs", "Jobs of RQ by state", labels=["state"])
        for state, count in job_counts(queues).items():
            jobs.add_metric([state], count)
        yield jobs
        states = GaugeMetricFamily(
            "coreset_project_state", "1 for the project's state", labels=["project", "state"]
        )
        for project_id, found in self._backend.of_each_project(self._state):
            now = RoundState.UNKNOWN if isinstance(found, CoresetError) else found
            for state in RoundState:
                states.add_metric([str(project_id), state], float(state == now))
        yield states
        counts = read_counts(self._backend.redis)
        for name, (meaning, labels) in COUNTERS.items():
            family = CounterMetricFamily(name, meaning, labels=labels)
            for values, value in counts.get(name, {}).items():
                family.add_metric(values, value)
            yield family

    def _state(self, project_id: int) -> RoundState:
        return read_progress(self._backend.redis, self._backend.store, project_id).state

    def _rounds(self) -> Iterator[Metric]:
        """The newest round of each project."""
        number = GaugeMetricFamily("coreset_round", "Number of the newest round", labels=["project"])
        taken = GaugeMetricFamily(
            "coreset_round_timestamp_seconds", "Start of the newest round", labels=["project"]
        )
        published = GaugeMetricFamily(
            "coreset_round_published", "1 once the newest round is published", labels=["project"]
        )
        tasks = GaugeMetricFamily("coreset_pool_tasks", "Tasks by state", labels=["project", "state"])
        radius = GaugeMetricFamily(
            "coreset_covering_radius", "Largest distance of a task to a center", labels=["project"]
        )
        accuracy = GaugeMetricFamily(
            "coreset_holdout_accuracy", "Accuracy on the hold-out", labels=["project"]
        )
        off = GaugeMetricFamily(
            "coreset_calibration_error", "Expected calibration error on the hold-out", labels=["project"]
        )
        seconds = GaugeMetricFamily(
            "coreset_round_duration_seconds", "Time of the newest round's phases", labels=["project", "phase"]
        )
        for project, stored in self._newest():
            record, publication = stored.record, stored.publication
            number.add_metric([project], record.number)
            taken.add_metric([project], datetime.fromisoformat(record.taken_at).timestamp())
            published.add_metric([project], float(publication is not None))
            for state, count in record.counts.items():
                tasks.add_metric([project, state], count)
            for phase, spent in stored.timings(publication).items():
                seconds.add_metric([project, phase], spent)
            if record.radius_after is not None:
                radius.add_metric([project], record.radius_after)
            if measured := holdout_accuracy(record):
                accuracy.add_metric([project], measured.value)
            if record.evaluation and record.evaluation.calibration:
                off.add_metric([project], record.evaluation.calibration.error)
        yield from (number, taken, published, tasks, radius, accuracy, off, seconds, self._working_time())

    def _working_time(self) -> Metric:
        work = GaugeMetricFamily(
            "coreset_label_seconds", "Mean working time on a label, idle editors left out", labels=["project"]
        )
        for project, stored in self._newest():
            if known := stored.record.working_time:
                work.add_metric([project], known.seconds)
        return work

    def _labels(self) -> Metric:
        """Who labels the tasks of each project."""
        family = GaugeMetricFamily("coreset_labels", "Tasks by who labels them", labels=["project", "by"])
        for project, stored in self._newest():
            counts = asdict(tally(self._backend.store, stored.record.project_id, stored))
            for by, count in counts.items():
                family.add_metric([project, by.removeprefix("by_")], count)
        return family

    def _newest(self) -> Iterator[tuple[str, StoredRound]]:
        for project_id, stored in self._backend.of_each_project(self._backend.store.latest):
            if isinstance(stored, StoredRound):
                yield str(project_id), stored
