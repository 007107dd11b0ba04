"""A CSV file of predictions -> the probability of each class by task, checked line by line.

Either a column for each class, or the columns `class` and `probability`; and one that names the task: `task`
with its number, or `image` with the address or the file name of its image.
"""

import csv
import io
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

from coreset_backend.errors import ImportRefused
from coreset_backend.project import Labels, Task

TASK_COLUMNS = ("task", "task_id", "id")
IMAGE_COLUMNS = ("image", "file", "uri")
CLASS, PROBABILITY = "class", "probability"
SUM_ERROR = 0.02
"""The probabilities of a task may miss 1 by this much, or by more if their rounding explains it."""
MOST_BEYOND = 1e-6
"""A probability may lie this far below 0 or above 1: what 32-bit arithmetic leaves."""
MOST_ERRORS = 5
UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts in front of the name of an uploaded file."""
NOT_STORED = re.compile(r"[^-\w.]")
"""What Label Studio drops from the name of an uploaded file; a blank becomes an underscore."""
ByClass = dict[int, tuple[float, ...]]


def read_table(text: str, labels: Labels, tasks: Sequence[Task]) -> ByClass:
    """By task, the probability of each class in the order of ``labels``. Raises ImportRefused that names the
    lines that are wrong, and then takes nothing.

    In single choice what is missing to 1 is spread over the classes that a line does not name.
    """
    classes = _by_spelling(labels)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, classes))
    try:
        table = _Table(next(reader, []), labels, classes, tasks)
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


def _by_spelling(labels: Labels) -> dict[str, str]:
    """The classes by their names, and by these in the spelling of `_plain` where no other class has it."""
    return {_plain(name): name for name in labels.names} | {name: name for name in labels.names}


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _delimiter(text: str, classes: Mapping[str, str]) -> str:
    """The separator under which the header has the most names that mean something here."""
    lines = io.StringIO(text, newline="")

    def meaning(delimiter: str) -> tuple[int, int]:
        lines.seek(0)
        try:
            header = [_plain(name) for name in next(csv.reader(lines, delimiter=delimiter), [])]
        except csv.Error:
            return 0, 0
        named = (*TASK_COLUMNS, *IMAGE_COLUMNS, CLASS, PROBABILITY)
        return sum(name in classes or name.lower() in named for name in header), len(header)

    return max(",;\t", key=meaning)


def _column(header: Sequence[str], names: Iterable[str], classes: Collection[int] = ()) -> int | None:
    """The place of the first of ``names``; one that is also a class only if there is no other."""
    lower = [name.lower() for name in header]
    places = [place for name in names for place, found in enumerate(lower) if found == name]
    return min(places, key=lambda place: place in classes, default=None)


class _Table:
    """The predictions read so far, and what is wrong with the other lines."""

    def __init__(
        self, header: Sequence[str], labels: Labels, by_spelling: Mapping[str, str], tasks: Sequence[Task]
    ) -> None:
        self.labels, self.by_spelling = labels, by_spelling
        self.header = [name.strip() for name in header]
        self.found: dict[int, dict[str, float]] = {}
        self.errors: list[str] = []
        self.classes = {place: name for place, text in enumerate(header) if (name := self._class(text))}
        key = _column(self.header, (*TASK_COLUMNS, *IMAGE_COLUMNS), self.classes)
        self.task = None if key is None or self.header[key].lower() in IMAGE_COLUMNS else key
        self.image = key if self.task is None else _column(self.header, IMAGE_COLUMNS, self.classes)
        self.classes = {place: name for place, name in self.classes.items() if place != key}
        self.named, self.odds = _column(self.header, [CLASS]), _column(self.header, [PROBABILITY])
        self._require_columns()
        self.task_ids = {task.task_id for task in tasks}
        self.images = _Images.of(tasks) if self.task is None else _Images()

    def _class(self, text: str) -> str | None:
        return self.by_spelling.get(text) or self.by_spelling.get(_plain(text))

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
        if twice := [name for name, columns in Counter(self.classes.values()).items() if columns > 1]:
            raise ImportRefused(f"The classes {_listed(twice)} have several columns; leave one of each.")

    def take(self, number: int, line: Sequence[str]) -> None:
        """Add the predictions of a line, or say what is wrong with it."""
        try:
            if len(line) != len(self.header):
                raise ValueError(f"it has {len(line)} cells, the header {len(self.header)}")
            cells = [cell.strip() for cell in line]
            task_id = self._task_id(cells)
            known = self.found.get(task_id, {})
            given = self._given(line)
            if self.classes and known:
                raise ValueError(f"task {task_id} has a line already")
            if twice := sorted(known.keys() & given.keys()):
                raise ValueError(f"task {task_id} has a probability of '{twice[0]}' already")
            self.found[task_id] = self._fitting(task_id, {**known, **given})
        except ValueError as error:
            self.errors.append(f"Line {number}: {error}.")

    def _fitting(self, task_id: int, given: dict[str, float]) -> dict[str, float]:
        """Raises ValueError where the probabilities of a single choice cannot add up to 1."""
        if not self.labels.multiple and not _may_be_one(given, len(given) == len(self.labels.names)):
            total = sum(given.values())
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

    def _given(self, line: Sequence[str]) -> dict[str, float]:
        if self.classes:
            return {name: _share(line[place]) for place, name in self.classes.items()}
        assert self.named is not None and self.odds is not None
        name = self._class(line[self.named])
        if name is None:
            raise ValueError(
                f"'{line[self.named].strip()[:40]}' is no class of the project, "
                f"which has {_listed(self.labels.names)}"
            )
        return {name: _share(line[self.odds])}


@dataclass(frozen=True, slots=True)
class _Images:
    """Tasks by the address and by the file name of their image; uploads also by the name that Label Studio
    made of the file's."""

    by_name: Mapping[str, set[int]] = field(default_factory=dict)
    uploads: Mapping[str, set[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> "_Images":
        by_name: dict[str, set[int]] = {}
        uploads: dict[str, set[int]] = {}
        for task in tasks:
            for name in _spellings(task.uri or ""):
                by_name.setdefault(name, set()).add(task.task_id)
                if UPLOADED.match(name):
                    by_name.setdefault(UPLOADED.sub("", name), set()).add(task.task_id)
                    uploads.setdefault(UPLOADED.sub("", name), set()).add(task.task_id)
        return cls(by_name, uploads)

    def task_of(self, image: str) -> int:
        found = next((self.by_name[name] for name in _spellings(image) if name in self.by_name), set())
        found = found or self.uploads.get(NOT_STORED.sub("", _file_name(image).replace(" ", "_")), set())
        if not found:
            raise ValueError(f"no task shows the image '{image[:80]}'")
        if len(found) > 1:
            raise ValueError(f"{len(found)} tasks show an image '{image[:80]}'; name the task by its number")
        return next(iter(found))


def _spellings(address: str) -> list[str]:
    """The address, the names of its file with its folder, and those without, all in Unicode's form NFC.

    Addresses of the web and of Label Studio are read without their query, percent-encoded as they are and
    decoded; the query names the file if it is a local file of Label Studio, or may do so at its end.
    """
    places = [address]
    if address.lower().startswith(("http://", "https://", "/")):
        path, _, query = address.partition("#")[0].partition("?")
        is_local = path.rstrip("/").endswith("/data/local-files")
        decoded = parse_qs(query).get("d", [""])[0] if is_local else unquote(path)
        at_end = query.rpartition("=")[2]
        places = [path, decoded, at_end, unquote(at_end)]
    names = [address, *places, *(_file_name(each, 2) for each in places), *map(_file_name, places)]
    return [name for name in dict.fromkeys(unicodedata.normalize("NFC", each) for each in names) if name]


def _file_name(path: str, parts: int = 1) -> str:
    return "" if path.startswith("data:") else "/".join(re.split(r"[/\\]", path)[-parts:])


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -MOST_BEYOND <= value <= 1 + MOST_BEYOND:
        raise ValueError(f"'{text.strip()[:40]}' is no probability from 0 to 1")
    return min(max(value, 0.0), 1.0)


def _may_be_one(given: Mapping[str, float], is_whole: bool) -> bool:
    """Whether the probabilities of one image can be right: unrounded, all its classes add up to 1.

    ``is_whole``: whether every class has one.
    """
    odds, total = list(given.values()), sum(given.values())
    if 1 - SUM_ERROR <= total <= 1 + SUM_ERROR or (total < 1 and not is_whole):
        return True
    digits = next((digits for digits in (2, 3, 4) if all(round(each, digits) == each for each in odds)), 9)
    changed = len(odds) if total < 1 else sum(each > 0 for each in odds)  # a zero was not rounded up
    return abs(total - 1) <= changed * 0.5 * 0.1**digits


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
