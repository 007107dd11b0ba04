"""Starts the process that drives Ray, follows its reports, and ends it."""

import contextlib
import importlib.util
import logging
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from coreset_backend.errors import ClusterError, ConfigError
from coreset_backend.fleet.messages import JOB, REPORT, Cluster, Job, Report
from coreset_backend.settings import Settings

log = logging.getLogger(__name__)
DRIVER = "coreset_backend.fleet.ray_driver"
FIXED = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_NUM_REDIS_GET_RETRIES": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
    "RAY_raylet_start_wait_time_s": "120",
}
"""No reports to Ray's maker, and nobody without the token. A head that is gone is given up after 20 s; this
machine has 120 s to join the cluster."""


def describe_cluster(settings: Settings) -> list[tuple[str, bool]]:
    """What doctor says of the cluster: (line, whether it is a problem). Raises ClusterError, ConfigError."""
    reports = list(driven(settings, Job(Cluster(settings.ray_address, settings.device))))
    return [line for report in reports for line in report.lines]


def driven(settings: Settings, job: Job) -> Iterator[Report]:
    """The reports of the process that does the job; it ends with this iterator, however that ends."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "CORESET_CLUSTER is ray, but Ray is not installed. Run: pip install 'coreset-backend[ray]'"
        )
    with tempfile.TemporaryFile() as errors, _driver(settings, errors.fileno()) as driver:
        assert driver.stdin and driver.stdout
        driver.stdin.write(JOB.dump_json(job) + b"\n")
        driver.stdin.flush()
        for line in driver.stdout:
            report = REPORT.validate_json(line)
            if report.failed:
                kind = ConfigError if report.kind == "ConfigError" else ClusterError
                raise kind(report.failed)
            if report.ended:
                return
            yield report
        errors.seek(0)
        log.error("Ray's driver ended: %s", errors.read()[-2000:].decode(errors="replace"))
        where = f"at {settings.ray_address}" if settings.ray_address else "of this machine"
        raise ClusterError(
            f"The Ray cluster {where} was lost (its driver ended with {driver.wait()}). What it has embedded "
            "is kept."
        )


@contextlib.contextmanager
def _driver(settings: Settings, errors: int) -> Iterator[subprocess.Popen[bytes]]:
    token = settings.ray_token.get_secret_value() if settings.ray_token else secrets.token_hex(32)
    driver = subprocess.Popen(
        # -P: import nothing from the current folder, but this package from where it is.
        [sys.executable, "-P", "-m", DRIVER],
        env={**os.environ, **FIXED, "RAY_AUTH_TOKEN": token, "PYTHONPATH": _import_path()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
    )
    with driver:
        try:
            yield driver
        finally:
            driver.kill()


def _import_path() -> str:
    return os.pathsep.join(part for part in sys.path if part)
