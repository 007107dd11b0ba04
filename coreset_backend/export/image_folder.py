"""The labelled images as files: in a folder of their class, or in one folder with a table of their classes.

Single choice: ``images/<class>/<task id>.<ending>``, as torchvision's ImageFolder and Hugging Face's
imagefolder read it. In multiple choice an image may have several classes or none, which folders cannot say:
all files are in ``images/``, and ``metadata.jsonl`` there has the classes, as imagefolder reads it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coreset_backend.arrays import Progress, unwatched
from coreset_backend.export.labels import LabeledTask, Status
from coreset_backend.files import replacing, saving
from coreset_backend.images import Images
from coreset_backend.reports import ImageFailure

METADATA = "metadata.jsonl"
_BEGINNINGS = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"RIFF": "webp",
    b"II": "tif",
    b"MM": "tif",
}
_ISO_BRANDS = {b"avif": "avif", b"avis": "avif"}


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """``files``: task id -> the path of its image below the folder. ``failures``: those that have none."""

    files: Mapping[int, str]
    failures: Sequence[ImageFailure]


def write_images(
    images: Images,
    folder: Path,
    tasks: Sequence[tuple[int, str | None]],
    folders: Mapping[int, str],
    progress: Progress = unwatched,
) -> ImageFiles:
    """Write the image of each (task id, address) into its folder of ``folders``, "" for ``folder`` itself.

    Images of these tasks that are below ``folder`` already are kept and moved; everything else there is
    removed. Raises Unwritable.
    """
    with saving(folder):
        for name in {"", *folders.values()}:
            (folder / name).mkdir(parents=True, exist_ok=True)
        files = _kept(folder, folders)

    def keep(task_id: int, data: bytes) -> None:
        path = folder / folders[task_id] / f"{task_id}.{ending_of(data)}"
        with saving(path), replacing(path, durable=False) as partial:
            partial.write_bytes(data)
        files[task_id] = path.relative_to(folder).as_posix()

    missing = [(task_id, uri) for task_id, uri in tasks if task_id not in files]
    done = len(tasks) - len(missing)
    failures = images.copy_files(missing, keep, lambda count, _: progress(done + count, len(tasks)))
    with saving(folder):
        for path in [path for path in folder.iterdir() if path.is_dir() and not any(path.iterdir())]:
            path.rmdir()  # torchvision refuses a class without an image
    return ImageFiles(files, failures)


def _kept(folder: Path, folders: Mapping[int, str]) -> dict[int, str]:
    """The images that an unfinished export left, each in its folder now; all else is removed."""
    kept = {}
    for path in [path for path in folder.rglob("*") if not path.is_dir()]:
        task_id = int(path.stem) if path.stem.isascii() and path.stem.isdecimal() else 0
        if task_id not in folders or task_id in kept:
            path.unlink()
            continue
        placed = folder / folders[task_id] / path.name
        path.rename(placed)
        kept[task_id] = placed.relative_to(folder).as_posix()
    return kept


def ending_of(data: bytes) -> str:
    """The ending for the name of a file that can be decoded, by what it holds."""
    if data[4:8] == b"ftyp":
        return _ISO_BRANDS.get(data[8:12], "heic")
    return next((ending for start, ending in _BEGINNINGS.items() if data.startswith(start)), "img")


def write_metadata(folder: Path, files: Mapping[int, str], tasks: Sequence[LabeledTask]) -> None:
    """Write the classes of each file of a project with multiple choice; raises Unwritable."""
    path = folder / METADATA
    with saving(path), path.open("w") as out:
        for task in tasks:
            if task.status is Status.LABELED and task.task_id in files:
                fields = {"file_name": files[task.task_id], "labels": list(task.label or ())}
                out.write(json.dumps(fields | {"task_id": task.task_id}) + "\n")
