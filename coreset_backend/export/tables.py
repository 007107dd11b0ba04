"""The dataset as tables: a line for each task of the project, in CSV and in JSON lines."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from coreset_backend.export.labels import LabeledTask
from coreset_backend.files import saving
from coreset_backend.foreign_text import fit_cell, one_line

COLUMNS = (
    *("task_id", "image", "file", "status", "label", "source", "confidence", "wrong_at_most"),
    *("bound_confidence", "annotators", "agreement", "ground_truth", "note"),
)
Cell = str | int | float | bool | list[str] | None


def write_tables(
    folder: Path,
    tasks: Iterable[LabeledTask],
    *,
    multiple: bool,
    files: Mapping[int, str],
    unreadable: Mapping[int, str],
) -> None:
    """Write labels.csv and labels.jsonl; raises Unwritable.

    ``files``: task id -> its image's file. ``unreadable``: task id -> why its image could not be read.
    """
    csv_path, lines_path = folder / "labels.csv", folder / "labels.jsonl"
    with saving(folder), csv_path.open("w", newline="") as table, lines_path.open("w") as lines:
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for fields in _lines(tasks, multiple, files, unreadable):
            writer.writerow({name: _cell(value) for name, value in fields.items()})
            lines.write(json.dumps(fields) + "\n")


def _lines(
    tasks: Iterable[LabeledTask], multiple: bool, files: Mapping[int, str], unreadable: Mapping[int, str]
) -> Iterator[dict[str, Cell]]:
    for task in tasks:
        yield {
            "task_id": task.task_id,
            "image": task.image,
            "file": files.get(task.task_id),
            "status": str(task.status),
            "label": _label(task.label, multiple),
            "source": None if task.source is None else str(task.source),
            "confidence": _rounded(task.confidence),
            "wrong_at_most": _rounded(task.wrong_at_most),
            "bound_confidence": task.bound_confidence,
            "annotators": task.annotators,
            "agreement": _rounded(task.agreement),
            "ground_truth": task.ground_truth,
            "note": task.note or unreadable.get(task.task_id, ""),
        }


def _label(label: tuple[str, ...] | None, multiple: bool) -> list[str] | str | None:
    if label is None or multiple:
        return None if label is None else list(label)
    return label[0] if label else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _cell(value: Cell) -> str | int | float:
    """The value as a cell that no spreadsheet reads as a formula; a list as JSON."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case list():
            return fit_cell(json.dumps(value))
        case str():
            return fit_cell(one_line(value))
        case _:
            return value
