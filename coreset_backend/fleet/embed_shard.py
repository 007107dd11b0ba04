"""What a machine does with a shard: fetch, decode and embed its images."""

from collections.abc import Sequence

from coreset_backend import model
from coreset_backend.arrays import Resize
from coreset_backend.fleet.shelf import Embedded, Source
from coreset_backend.images import Images


def embed_shard(
    frozen: model.Classifier,
    images: Images,
    tasks: Sequence[tuple[int, str | None]],
    resize: Resize,
    refreshed_at: float = 0.0,
) -> Embedded:
    """The readable images of the tasks (id, address), embedded; the others are left out.

    ``refreshed_at`` as in ``Images.fetch``. Raises NotFinite, OutOfMemory, and the error of a token that
    Label Studio refuses.
    """
    pixels, _ = images.fetch(tasks, resize, more=True, refreshed_at=refreshed_at)
    uris = dict(tasks)
    seen = images.last_seen([uris[task_id] for task_id in pixels.task_ids.tolist()])
    sources = tuple(
        Source(task_id, each.content, each.validator)
        for task_id, each in zip(pixels.task_ids.tolist(), seen, strict=True)
        if each
    )
    return Embedded(pixels.keys, model.embed(frozen, pixels), sources)
