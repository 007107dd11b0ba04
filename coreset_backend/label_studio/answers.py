"""Checks every answer of Label Studio: size, time, and the fields that the other modules rely on.

The server at LABEL_STUDIO_URL may be broken, hostile, or not a Label Studio. A wrong answer is refused before
it is used; the error says what came and what was expected.
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
    """Limits of an answer's body: ``size`` bytes, and ``seconds`` plus one second per ``rate`` bytes."""

    size: int = 256_000_000
    seconds: float = 60.0
    rate: int = 50_000


LIMITS = Limits()


class BoundedBody(httpx.SyncByteStream):
    """The body of an answer; reading beyond the limits raises Unreachable."""

    def __init__(self, stream: httpx.SyncByteStream, limits: Limits, request: str) -> None:
        self._stream, self._limits, self._request = stream, limits, request

    def __iter__(self) -> Iterator[bytes]:
        limits, started, size = self._limits, time.monotonic(), 0
        for chunk in self._stream:
            size += len(chunk)
            if size > limits.size:
                raise Unreachable(
                    f"The answer to {self._request} is larger than the limit of {limits.size:,} bytes."
                )
            if time.monotonic() - started > limits.seconds + size / limits.rate:
                raise Unreachable(
                    f"The answer to {self._request} is too slow: {size:,} bytes in "
                    f"{time.monotonic() - started:.0f} s. Check the network and the load of Label Studio."
                )
            yield chunk

    def close(self) -> None:
        self._stream.close()


def bound_body(response: httpx.Response, limits: Limits) -> None:
    """Read the body of the answer within the limits. Raises Unreachable if it is compressed."""
    request = f"{response.request.method} {response.request.url.path}"
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):  # a few bytes may unpack to gigabytes
        raise Unreachable(
            f"{request} was answered in the encoding {encoding[:40]!r}; an unencoded answer was requested. "
            "Make the proxy in front of Label Studio respect 'Accept-Encoding: identity'."
        )
    assert isinstance(response.stream, httpx.SyncByteStream)
    response.stream = BoundedBody(response.stream, limits, request)


def unexpected(where: str, came: object, wanted: str) -> LabelStudioError:
    """The error for an answer in which ``where`` is ``came`` instead of ``wanted``."""
    return LabelStudioError(
        f"{where} in Label Studio's answer is {redacted(repr(came)[:200])[:80]}, not {wanted}. Nothing was "
        "changed. Check that LABEL_STUDIO_URL is the address of a Label Studio of a supported release."
    )


def checked_project(answer: Json, project_id: int) -> Json:
    """The project, with a label config and names of the expected types.

    Raises LabelStudioError, or UnsupportedLabelConfig for a label config beyond MOST_CONFIG characters.
    """
    if answer["id"] != project_id or isinstance(answer["id"], bool):
        raise unexpected(f"The id of project {project_id}", answer["id"], f"the number {project_id}")
    config = answer["label_config"]
    if not isinstance(config, str):
        raise unexpected("The label config", config, "a string")
    if len(config) > MOST_CONFIG:
        raise UnsupportedLabelConfig(
            f"The label config has {len(config):,} characters; the limit is {MOST_CONFIG:,}. Shorten it in "
            "Label Studio: Settings > Labeling Interface."
        )
    for key in ("model_version", "sampling"):
        value = answer.get(key)
        if not (value is None or (isinstance(value, str) and len(value) <= LONGEST_NAME)):
            raise unexpected(f"'{key}'", value, f"a string of up to {LONGEST_NAME} characters, or null")
    title = answer.get("title")
    return {**answer, "title": title[:LONGEST_NAME] if isinstance(title, str) else ""}


def checked_page(answer: Json) -> tuple[list[Json], int]:
    """The tasks on a page of the Data Manager's list, and the number of all tasks."""
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
    """The list of objects under ``key`` of the owner; empty if it has none."""
    found = owner.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise unexpected(f"'{key}' of {name}", found, "a list of objects")
    return found


def checked_list(answer: Json, name: str) -> list[Json]:
    """The answer, checked to be a list of objects."""
    if not isinstance(answer, list) or not all(isinstance(each, dict) for each in answer):
        raise unexpected(f"The list of {name}", answer, "a list of objects")
    return answer


def checked_counts(answer: Json, name: str) -> dict[str, int]:
    """The answer, checked to be an object of whole numbers."""
    if not isinstance(answer, dict) or not all(_is_count(count) for count in answer.values()):
        raise unexpected(f"The {name}", answer, "an object of whole numbers")
    return answer


def checked_count(value: Json, name: str) -> int:
    if not _is_count(value):
        raise unexpected(f"'{name}'", value, "a whole number")
    return int(value)


def _is_count(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_ID
