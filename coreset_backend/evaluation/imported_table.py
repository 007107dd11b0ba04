"""A CSV file of predictions -> the probability of each class by task, checked line by line.

Either a column for each class, or the columns `class` and `probability`; and one that names the task: `task`
with its number, or `image` with the address or the file name of its image.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from coreset_backend.errors import ImportRefused
from coreset_backend.project import Labels, Task

TASK_COLUMNS = ("task", "task_id", "id")
IMAGE_COLUMNS = ("image", "file", "uri")
CLASS, PROBABILITY = "class", "probability"
SUM_ERROR = 0.02
"""Probabilities that are written with few digits may miss 1 by this much."""
MOST_ERRORS = 5
UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts in front of the name of an uploaded file."""
ByClass = dict[int, tuple[float, ...]]


def read_table(text: str, labels: Labels, tasks: Sequence[Task]) -> ByClass:
    """By task, the probability of each class in the order of ``labels``. Raises ImportRefused that names the
    lines that are wrong, and then takes nothing.

    In single choice what is missing to 1 is spread over the classes that a line does not name.
    """
    reader = csv.reader(io.StringIO(text, newline=""), dialect=_dialect(text))
    try:
        table = _Table([name.strip() for name in next(reader, [])], labels, tasks)
        for line in reader:
            if any(cell.strip() for cell in line):
                table.take(reader.line_num, line)
    except csv.Error as error:
        raise ImportRefused(f"Line {reader.line_num} is no CSV ({error}). Nothing is imported.") from None
    if table.errors:
        more = f" And {len(table.errors) - MOST_ERRORS:,} more." if len(table.errors) > MOST_ERRORS else ""
        raise ImportRefused(f"Nothing is imported. {' '.join(table.errors[:MOST_ERRORS])}{more}")
    if not table.found:
        raise ImportRefused("The file has no line with a prediction, so nothing is imported.")
    return whole_probabilities(table.found, labels)


def whole_probabilities(found: Mapping[int, Mapping[str, float]], labels: Labels) -> ByClass:
    """By task, ascending, the probability of every class, from those of some classes."""
    return {task_id: _whole(found[task_id], labels) for task_id in sorted(found)}


def _dialect(text: str) -> type[csv.Dialect]:
    first = text.partition("\n")[0]

    class Found(csv.excel):
        delimiter = max(",;\t", key=first.count)

    return Found


def _column(header: Sequence[str], names: Iterable[str]) -> int | None:
    lower = [name.lower() for name in header]
    return next((lower.index(name) for name in names if name in lower), None)


class _Table:
    """The predictions read so far, and what is wrong with the other lines."""

    def __init__(self, header: Sequence[str], labels: Labels, tasks: Sequence[Task]) -> None:
        self.labels, self.header = labels, header
        self.found: dict[int, dict[str, float]] = {}
        self.errors: list[str] = []
        self.task, self.image = _column(header, TASK_COLUMNS), _column(header, IMAGE_COLUMNS)
        self.named, self.odds = _column(header, [CLASS]), _column(header, [PROBABILITY])
        self.classes = {place: name for place, name in enumerate(header) if name in labels.names}
        self._require_columns()
        self.task_ids = {task.task_id for task in tasks}
        self.images = _Images.of(tasks) if self.task is None else _Images()

    def _require_columns(self) -> None:
        if self.task is None and self.image is None:
            raise ImportRefused(
                f"The file has the columns {_listed(self.header)}, none of which names the task: name one "
                "'task' (its number) or 'image' (its address or file name)."
            )
        if self.named is not None and self.odds is not None:
            self.classes = {}
            return
        others = {self.task, self.image}
        strange = [name for place, name in enumerate(self.header) if place not in {*others, *self.classes}]
        if strange or not self.classes:
            raise ImportRefused(
                f"The columns {_listed(strange or self.header)} are no classes of the project. Expected are "
                f"'class' and 'probability', or a column for each class: {_listed(self.labels.names)}."
            )

    def take(self, number: int, line: Sequence[str]) -> None:
        """Add the predictions of a line, or say what is wrong with it."""
        try:
            if len(line) != len(self.header):
                raise ValueError(f"it has {len(line)} cells, the header {len(self.header)}")
            cells = [cell.strip() for cell in line]
            task_id = self._task_id(cells)
            known = self.found.get(task_id, {})
            given = self._given(cells)
            if self.classes and known:
                raise ValueError(f"task {task_id} has a line already")
            if twice := sorted(known.keys() & given.keys()):
                raise ValueError(f"task {task_id} has a probability of '{twice[0]}' already")
            self.found[task_id] = self._fitting(task_id, {**known, **given})
        except ValueError as error:
            self.errors.append(f"Line {number}: {error}.")

    def _fitting(self, task_id: int, given: dict[str, float]) -> dict[str, float]:
        """Raises ValueError where the probabilities of a single choice cannot add up to 1."""
        total, is_whole = sum(given.values()), len(given) == len(self.labels.names)
        if not self.labels.multiple and (total > 1 + SUM_ERROR or (is_whole and total < 1 - SUM_ERROR)):
            raise ValueError(f"the probabilities of task {task_id} add up to {total:.3g}, not to 1")
        return given

    def _task_id(self, cells: Sequence[str]) -> int:
        if self.task is None:
            assert self.image is not None
            return self.images.task_of(cells[self.image])
        text = cells[self.task]
        if not (text.isascii() and text.isdecimal() and int(text) in self.task_ids):
            raise ValueError(f"the project has no task '{text[:40]}'")
        return int(text)

    def _given(self, cells: Sequence[str]) -> dict[str, float]:
        if self.classes:
            return {name: _share(cells[place]) for place, name in self.classes.items()}
        assert self.named is not None and self.odds is not None
        name = cells[self.named]
        if name not in self.labels.names:
            raise ValueError(
                f"'{name[:40]}' is no class of the project, which has {_listed(self.labels.names)}"
            )
        return {name: _share(cells[self.odds])}


@dataclass(frozen=True, slots=True)
class _Images:
    """Tasks by the address and by the file name of their image."""

    by_name: Mapping[str, set[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> "_Images":
        by_name: dict[str, set[int]] = {}
        for task in tasks:
            name = re.split(r"[/\\=]", task.uri or "")[-1]
            for each in {task.uri or "", name, UPLOADED.sub("", name)} - {""}:
                by_name.setdefault(each, set()).add(task.task_id)
        return cls(by_name)

    def task_of(self, image: str) -> int:
        found = self.by_name.get(image) or self.by_name.get(re.split(r"[/\\]", image)[-1]) or set()
        if not found:
            raise ValueError(f"no task shows the image '{image[:80]}'")
        if len(found) > 1:
            raise ValueError(f"{len(found)} tasks show an image '{image[:80]}'; name the task by its number")
        return next(iter(found))


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"'{text[:40]}' is no probability from 0 to 1") from None
    if not 0 <= value <= 1:
        raise ValueError(f"'{text[:40]}' is no probability from 0 to 1")
    return value


def _whole(given: Mapping[str, float], labels: Labels) -> tuple[float, ...]:
    """The probability of every class; in single choice they add up to 1."""
    if labels.multiple:
        return tuple(given.get(name, 0.0) for name in labels.names)
    rest = max(1 - sum(given.values()), 0) / max(len(labels.names) - len(given), 1)
    odds = [given.get(name, rest) for name in labels.names]
    total = sum(odds)
    return tuple(each / total if total else 1 / len(odds) for each in odds)


def _listed(names: Iterable[str]) -> str:
    shown = [f"'{name[:40]}'" for name in names]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8:,} more" if len(shown) > 8 else "")
