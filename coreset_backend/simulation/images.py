"""Images whose labels are known: read from folders or a project, and split in pool and test."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from coreset_backend.arrays import PixelRows, PixelSubset, Resize, Rows
from coreset_backend.decoding import Decoders
from coreset_backend.errors import ConfigError, ImageError, TooFewLabels, UnsupportedLabelConfig
from coreset_backend.project import Labels

if TYPE_CHECKING:
    from coreset_backend.backend import Backend


MOST_PIXELS = 100_000_000


TEST_SHARE = 0.2


FEWEST = 5  # images of one set of classes; rarer sets are shared out together


ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True, slots=True, eq=False)
class LabeledImages:
    """``pixels`` uint8[n, size, size, 3], read as asked for; the classes of each image among ``names``.

    ``chosen``: a tuple of names for each image: one, or any number where ``multiple``.
    """

    pixels: PixelRows
    chosen: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    multiple: bool = False

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def labels(self) -> Labels:
        return Labels("label", "image", self.names, self.multiple)

    def part(self, rows: Rows) -> "LabeledImages":
        chosen = tuple(self.chosen[row] for row in rows)
        return LabeledImages(PixelSubset(self.pixels, rows), chosen, self.names, self.multiple)

    def digest(self) -> str:
        """Hex; another one for other pixels or classes."""
        digest = hashlib.sha256(repr((self.names, self.multiple, self.chosen)).encode())
        for start in range(0, len(self), 1024):
            digest.update(self.pixels[np.arange(start, min(start + 1024, len(self)))].tobytes())
        return digest.hexdigest()

    def image_keys(self) -> NDArray[np.uint8]:
        """uint8[n, 32]: the SHA-256 of each image's pixels."""
        digests = [
            hashlib.sha256(self.pixels[np.array([row])].tobytes()).digest() for row in range(len(self))
        ]
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def read_folder(folder: Path, resize: Resize, decoded: Path) -> LabeledImages:
    """The images below ``folder``, resized; each subfolder is a class.

    They are decoded once, into the file ``decoded``: 3 bytes a pixel. Raises ConfigError without two
    classes, or naming a file that is no readable image.
    """
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir())) if folder.is_dir() else ()
    found = [(path, name) for name in names for path in _image_files(folder / name)]
    if len({name for _, name in found}) < 2:
        raise ConfigError(
            f"{folder} must have a subfolder of images for each class, and at least two classes."
        )
    return read_files(found, names, resize, decoded)


def read_files(
    found: Sequence[tuple[Path, str]], names: tuple[str, ...], resize: Resize, decoded: Path
) -> LabeledImages:
    """The files, each with its class, resized, decoded once into the file ``decoded``.

    Raises ConfigError naming a file that is no readable image.
    """
    decoded.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(found), resize.size, resize.size, 3)
    pixels = open_memmap(decoded, mode="w+", dtype=np.uint8, shape=shape)
    with Decoders(MOST_PIXELS) as decoders:
        for row, (path, _) in enumerate(found):
            try:
                pixels[row] = decoders.pixels(path.read_bytes(), resize)
            except ImageError as error:
                raise ConfigError(f"{path} cannot be used: {error}.") from error
    return LabeledImages(pixels, tuple((name,) for _, name in found), names)


def read_project(backend: "Backend", project_id: int, resize: Resize) -> LabeledImages:
    """The labelled images of a Label Studio project, resized, from the backend's cache.

    Images that cannot be read are left out. Raises UnsupportedLabelConfig unless the project asks for
    classes of each image, TooFewLabels without two different answers, and what Label Studio answers.
    """
    control = backend.settings_by_label_config(project_id, {}).control
    snapshot = backend.label_studio.fetch_snapshot(project_id, control=control)
    if snapshot.labels is None:
        raise UnsupportedLabelConfig(
            f"Project {project_id} '{snapshot.title}' has no classes of its images, which simulate needs. "
            "Replay a project with <Choices> on its <Image>."
        )
    chosen = {task.task_id: task.label for task in snapshot.tasks if task.label is not None}
    if (known := len(set(chosen.values()))) < 2:
        raise TooFewLabels(known, 2)
    uris = [(task.task_id, task.uri) for task in snapshot.tasks if task.task_id in chosen]
    pixels, _ = backend.images.fetch(uris, resize)
    readable = tuple(chosen[task_id] for task_id in pixels.task_ids.tolist())
    return LabeledImages(pixels, readable, snapshot.labels.names, snapshot.labels.multiple)


def _image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)


def split(images: LabeledImages, share: float = TEST_SHARE) -> tuple[LabeledImages, LabeledImages]:
    """Pool and test images: ``share`` of each class, at least one, measures and is never chosen.

    In multiple choice the sets of classes stand for classes, those of fewer than FEWEST images as one.
    """
    rng = np.random.default_rng(0)
    count = Counter(images.chosen)
    kind = [
        label if not images.multiple or count[label] >= FEWEST else ("any other",) for label in images.chosen
    ]
    members: dict[tuple[str, ...], list[int]] = {}
    for row, label in enumerate(kind):
        members.setdefault(label, []).append(row)
    test = np.zeros(len(images), dtype=bool)
    for label in sorted(members):
        rows = rng.permutation(members[label])
        test[rows[: max(1, round(share * len(rows)))]] = True
    return images.part(np.flatnonzero(~test)), images.part(np.flatnonzero(test))
