"""Has a Ray cluster fetch, decode and embed the images of a pool, shard by shard.

Another process drives Ray (``ray_driver``) and writes the shards.
"""

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from coreset_backend import model
from coreset_backend.arrays import Resize
from coreset_backend.fleet.messages import Cluster, Job, Report
from coreset_backend.fleet.plan import plan_shards
from coreset_backend.fleet.ray_process import driven
from coreset_backend.fleet.shelf import Shelf
from coreset_backend.settings import Settings

log = logging.getLogger(__name__)
Watch = Callable[[Report, int], None]


def embed_on_cluster(
    settings: Settings,
    frozen: model.Classifier,
    tasks: Sequence[tuple[int, str | None]],
    addresses: Sequence[str],
    resize: Resize,
    folder: Path,
    watch: Watch,
    refreshed_at: float = 0.0,
) -> Shelf:
    """The shards of these tasks (id, address of the image), ids ascending, with those embedded before.

    ``addresses``: a digest of each task's image. ``watch`` gets each report with the number of images; what
    it raises ends the work on all machines. ``refreshed_at`` as in ``Images.fetch``. Raises ClusterError, and
    ConfigError if a machine computes otherwise.
    """
    network = model.features_name(frozen)
    shelf, task_ids = Shelf(folder, network), np.array([task_id for task_id, _ in tasks], dtype=np.int64)
    shelf.prepare(refreshed_at)
    missing = [each for each in plan_shards(network, task_ids, addresses) if not shelf.has(each.name)]
    new = sum(len(shard.rows) for shard in missing)
    log.info("%d of %d images are embedded on the cluster, in %d shards", new, len(tasks), len(missing))
    if not missing:
        return shelf
    shards = tuple((shelf.file_name(each.name), tuple(tasks[row] for row in each.rows)) for each in missing)
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "network.safetensors"
        model.save_classifier(frozen, weights)
        job = Job(
            Cluster(settings.ray_address, frozen.device.type),
            folder=str(folder),
            network=network,
            arithmetic=frozen.arithmetic,
            weights=str(weights),
            resize=resize,
            shards=shards,
            refreshed_at=refreshed_at,
        )
        for report in driven(settings, job):
            watch(replace(report, images=len(tasks) - new + report.images), len(tasks))
    return shelf
