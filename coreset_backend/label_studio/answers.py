"""What Label Studio answers, bounded in size and time, and of the shape that the rest relies on.

What is behind LABEL_STUDIO_URL may be broken, hostile, or no Label Studio. Whatever it sends is refused with
what came and what was expected, before anything is made of it.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from coreset_backend.errors import LabelStudioError, Unreachable, UnsupportedLabelConfig
from coreset_backend.redaction import redacted

Json = Any
MOST_TASKS = 1_000_000
MOST_CONFIG = 2_000_000
LONGEST_NAME = 1000
LARGEST_ID = 2**63


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest body of an answer in bytes, and its time: ``seconds``, one more for each ``rate`` bytes."""

    size: int = 256_000_000
    seconds: float = 60.0
    rate: int = 50_000


LIMITS = Limits()


class BoundedBody(httpx.SyncByteStream):
    """The body of an answer; reading it raises Unreachable beyond the limits."""

    def __init__(self, stream: httpx.SyncByteStream, limits: Limits, request: str) -> None:
        self._stream, self._limits, self._request = stream, limits, request

    def __iter__(self) -> Iterator[bytes]:
        limits, started, size = self._limits, time.monotonic(), 0
        for chunk in self._stream:
            size += len(chunk)
            if size > limits.size:
                raise Unreachable(
                    f"The answer to {self._request} is larger than {limits.size:,} bytes and is not read on."
                )
            if time.monotonic() - started > limits.seconds + size / limits.rate:
                raise Unreachable(
                    f"The answer to {self._request} comes too slowly: {size:,} bytes in "
                    f"{time.monotonic() - started:.0f} s. Look at the network and the load of Label Studio."
                )
            yield chunk

    def close(self) -> None:
        self._stream.close()


def bound_body(response: httpx.Response, limits: Limits) -> None:
    """Read the body of the answer within the limits. Raises Unreachable where it is compressed."""
    request = f"{response.request.method} {response.request.url.path}"
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):  # a few bytes may hold gigabytes, and nobody asked for it
        raise Unreachable(
            f"{request} was answered in the encoding {encoding[:40]!r}, which nobody asked for. Have what is "
            "in front of Label Studio heed 'Accept-Encoding: identity'."
        )
    assert isinstance(response.stream, httpx.SyncByteStream)
    response.stream = BoundedBody(response.stream, limits, request)


def unexpected(where: str, came: object, wanted: str) -> LabelStudioError:
    """The error for an answer of another shape."""
    return LabelStudioError(
        f"{where} in Label Studio's answer is {redacted(repr(came)[:200])[:80]}, not {wanted}. Nothing was "
        "changed. Is LABEL_STUDIO_URL the address of a Label Studio, of a release that this backend knows?"
    )


def checked_project(answer: Json, project_id: int) -> Json:
    """The project, with a label config and names that can be worked with.

    Raises LabelStudioError, or UnsupportedLabelConfig for a label config beyond MOST_CONFIG characters.
    """
    if answer["id"] != project_id or isinstance(answer["id"], bool):
        raise unexpected(f"The id of project {project_id}", answer["id"], f"the number {project_id}")
    config = answer["label_config"]
    if not isinstance(config, str):
        raise unexpected("The label config", config, "a text")
    if len(config) > MOST_CONFIG:
        raise UnsupportedLabelConfig(
            f"The label config has {len(config):,} characters; up to {MOST_CONFIG:,} are read. Shorten it in "
            "Label Studio: Settings > Labeling Interface."
        )
    for key in ("model_version", "sampling"):
        value = answer.get(key)
        if not (value is None or (isinstance(value, str) and len(value) <= LONGEST_NAME)):
            raise unexpected(f"'{key}'", value, f"a text of up to {LONGEST_NAME} characters, or null")
    title = answer.get("title")
    return {**answer, "title": title[:LONGEST_NAME] if isinstance(title, str) else ""}


def checked_page(answer: Json) -> tuple[list[Json], int]:
    """The tasks of a page of the Data Manager's list, and how many there are in all."""
    tasks, total = answer["tasks"], answer["total"]
    if not _is_count(total):
        raise unexpected("The number of all tasks", total, "a whole number")
    if not isinstance(tasks, list):
        raise unexpected("The list of tasks", tasks, "a list")
    for task in tasks:
        _check_task(task)
    return tasks, total


def _check_task(task: Json) -> None:
    if not isinstance(task, dict):
        raise unexpected("A task", task, "an object")
    if not (_is_count(task.get("id")) and task["id"] > 0):
        raise unexpected("The id of a task", task.get("id"), "a whole number from 1 on")
    for key, kinds, wanted in (
        ("total_annotations", (int, type(None)), "a whole number"),
        ("predictions_score", (int, float, type(None)), "a number"),
    ):
        if key in task and not isinstance(task[key], kinds):
            raise unexpected(f"'{key}' of task {task['id']}", task[key], wanted)
    for annotation in _objects(task, "annotations", f"task {task['id']}"):
        for region in _objects(annotation, "result", f"an annotation of task {task['id']}"):
            if not isinstance(region.get("value") or {}, dict):
                raise unexpected(f"A region's value in task {task['id']}", region["value"], "an object")
    for prediction in _objects(task, "predictions", f"task {task['id']}"):
        if not _is_count(prediction.get("id")):
            raise unexpected(f"A prediction's id of task {task['id']}", prediction.get("id"), "a number")


def _objects(owner: Json, key: str, name: str) -> list[Json]:
    """The list of objects that the owner has under ``key``; empty where it has none."""
    found = owner.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise unexpected(f"'{key}' of {name}", found, "a list of objects")
    return found


def checked_list(answer: Json, name: str) -> list[Json]:
    """The answer, which is a list of objects."""
    if not isinstance(answer, list) or not all(isinstance(each, dict) for each in answer):
        raise unexpected(f"The list of {name}", answer, "a list of objects")
    return answer


def checked_counts(answer: Json, name: str) -> dict[str, int]:
    """The answer, which is an object of whole numbers."""
    if not isinstance(answer, dict) or not all(_is_count(count) for count in answer.values()):
        raise unexpected(f"The {name}", answer, "an object of whole numbers")
    return answer


def checked_count(value: Json, name: str) -> int:
    if not _is_count(value):
        raise unexpected(f"'{name}'", value, "a whole number")
    return int(value)


def _is_count(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_ID
