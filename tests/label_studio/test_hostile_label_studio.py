"""A broken or hostile Label Studio: whatever it sends is bounded and said, and what annotators have stays."""

import gzip
import json
import tracemalloc
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest
from fake_label_studio import TOKEN, FakeLabelStudio, choices_config
from label_studio_contract import predictions

from coreset_backend.errors import LabelStudioError, Unreachable, UnsupportedLabelConfig
from coreset_backend.label_studio.answers import LONGEST_NAME
from coreset_backend.label_studio.api import Limits
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.tabs import make_batch_tab
from coreset_backend.label_studio.task_lists import PAGE_SIZE

SMALL = Limits(size=20_000_000)
TASK = {"id": 1, "data": {"image": "/1.png"}}


@pytest.fixture
def client(studio: FakeLabelStudio) -> Iterator[LabelStudio]:
    opened = LabelStudio(studio.url, TOKEN, pauses=(0.01,), limits=SMALL)
    yield opened
    opened.close()


@pytest.fixture
def project(studio: FakeLabelStudio, client: LabelStudio) -> int:
    """A project of four tasks with a batch of two."""
    project_id = studio.create_project(4)
    client.publish(project_id, predictions(list(studio.tasks)[:2], "coreset-1-a", None), None)
    return project_id


def answer(studio: FakeLabelStudio, path: str, body: Any, **options: Any) -> None:
    """Have requests for the path answered with the JSON, or with the bytes as they are."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    studio.fail("answer", path, answer=lambda _query: raw, **options)


def page(*tasks: Any, total: Any = None) -> Any:
    return {"tasks": list(tasks), "total": len(tasks) if total is None else total}


TASK_LISTS: dict[str, tuple[Any, str]] = {
    "an id as text": (page({**TASK, "id": "7"}), "id of a task .* is '7', not a whole number"),
    "a negative id": (page({**TASK, "id": -7}), "is -7, not a whole number"),
    "id zero": (page({**TASK, "id": 0}), "is 0, not a whole number"),
    "an id that is true": (page({**TASK, "id": True}), "is True, not a whole number"),
    "an id with a point": (page({**TASK, "id": 7.5}), "is 7.5, not a whole number"),
    "an id of 300 digits": (page({**TASK, "id": 10**300}), "not a whole number"),
    "no id": (page({"data": {}}), "is None, not a whole number"),
    "a task that is a number": (page(7), "A task .* is 7, not an object"),
    "a task that is null": (page(None), "A task .* is None, not an object"),
    "tasks as an object": ({"tasks": {"1": TASK}, "total": 1}, "list of tasks .* not a list"),
    "a total as text": (page(TASK, total="4"), "number of all tasks .* is '4'"),
    "a negative total": (page(TASK, total=-1), "number of all tasks .* is -1"),
    "annotations as an object": (page({**TASK, "annotations": {"id": 1}}), "'annotations' of task 1"),
    "annotations as numbers": (page({**TASK, "annotations": [1, 2]}), "'annotations' of task 1"),
    "annotations as text": (page({**TASK, "annotations": "1, 2"}), "'annotations' of task 1"),
    "an annotator as a list": (
        page({**TASK, "annotations": [{"id": 1, "completed_by": [1]}]}),
        r"'completed_by' of an annotation of task 1 .* is \[1\], not a user",
    ),
    "an annotation's id as text": (
        page({**TASK, "annotations": [{"id": "x"}]}),
        "The id of an annotation .* is 'x', not a whole number",
    ),
    "half of the JSON": (b'{"tasks": [{"id": 1', "not with the JSON"),
    "a list in lists, 100,000 deep": (b"[" * 100_000, "not with the JSON"),
    "objects in objects, 100,000 deep": (b'{"tasks":' * 100_000, "not with the JSON"),
    "a number of a million digits": (
        b'{"total": ' + b"9" * 1_000_000 + b"}",
        "not with the JSON",
    ),
    "bytes that are no text": (b"\xff\xfe\x00\xd8" * 100, "not with the JSON"),
    "an answer of 25 MB": (
        page({**TASK, "data": {"image": "x" * 25_000_000}}),
        "larger than the limit of 20,000,000",
    ),
}


@pytest.mark.parametrize("case", TASK_LISTS)
def test_a_list_of_another_shape_is_refused_and_changes_nothing(
    studio: FakeLabelStudio, client: LabelStudio, project: int, case: str
) -> None:
    body, words = TASK_LISTS[case]
    before = studio.queue(project)
    answer(studio, "^/api/tasks/", body)
    with pytest.raises(LabelStudioError, match=words) as refusal:
        client.fetch_snapshot(project)
    assert len(str(refusal.value)) < 600
    assert studio.queue(project) == before
    studio.heal()
    assert len(client.fetch_snapshot(project).tasks) == 4


@pytest.mark.parametrize(
    "result", ["cat", 7, {"a": 1}, ["cat"], [None], [["cat"]], [{"value": ["cat"]}], [{"from_name": "x"}]]
)
def test_a_result_of_another_shape_hides_no_other_and_is_no_answer(
    studio: FakeLabelStudio, client: LabelStudio, project: int, result: Any
) -> None:
    """Label Studio's own import lets it through."""
    readable = [{"from_name": "label", "type": "choices", "value": {"choices": ["cat"]}}]
    tasks = [
        {**TASK, "id": number, "annotations": [{"id": number, "completed_by": 1, "result": each}]}
        for number, each in ((1, result), (2, readable))
    ]
    predicted = [{"id": 1, "model_version": "by hand", "result": result}]
    answer(studio, "^/api/tasks/", page({**tasks[0], "predictions": predicted}, tasks[1]))
    odd, other = client.fetch_snapshot(project).tasks
    assert (odd.label, other.label) == (None, ("cat",)) and "nothing is chosen in 'label'" in odd.unread
    assert odd.state == "labeled"
    assert all(isinstance(each, dict) for each in client.fetch_results(project, "by hand", [1])[1])


def test_task_data_of_another_shape_is_an_image_that_cannot_be_read(
    studio: FakeLabelStudio, client: LabelStudio, project: int
) -> None:
    shapes: list[Any] = ["text", ["/1.png"], 7, None, {"image": 7}, {"image": None}, {}]
    tasks = [{"id": number + 1, "data": data} for number, data in enumerate(shapes)]
    answer(studio, "^/api/tasks/", page(*tasks))
    assert [task.uri for task in client.fetch_snapshot(project).tasks] == [None] * len(shapes)


def test_pages_that_repeat_are_left(studio: FakeLabelStudio, client: LabelStudio, project: int) -> None:
    def repeated(_query: Mapping[str, str]) -> bytes:
        return json.dumps(page(TASK, {**TASK, "id": 2}, total=10**12)).encode()

    def full(_query: Mapping[str, str]) -> bytes:
        ids = range(1, PAGE_SIZE + 1)
        return json.dumps(page(*({"id": each} for each in ids), total=PAGE_SIZE + 1)).encode()

    for pages in (repeated, full):
        studio.heal()
        studio.fail("answer", "^/api/tasks/", answer=pages)
        asked = len(studio.asked)
        with pytest.raises(LabelStudioError, match="does not end: page 2 repeats earlier ones"):
            client.fetch_task_ids(project)
        assert len(studio.asked) - asked == 2


@pytest.mark.soak
def test_a_list_that_never_ends_is_left(studio: FakeLabelStudio, client: LabelStudio, project: int) -> None:
    def endless(query: Mapping[str, str]) -> bytes:
        first = 250_000 * int(query["page"])
        tasks = ",".join(f'{{"id":{each}}}' for each in range(first, first + 250_000))
        return f'{{"total":1000000000000,"tasks":[{tasks}]}}'.encode()

    studio.fail("answer", "^/api/tasks/", answer=endless)
    with pytest.raises(LabelStudioError, match="page 41 goes beyond 10,000,000 tasks"):
        client.fetch_task_ids(project)


def test_a_task_twice_counts_once_and_a_total_that_lies_loses_none(
    studio: FakeLabelStudio, client: LabelStudio, project: int
) -> None:
    answer(studio, "^/api/tasks/", page(TASK, TASK, {**TASK, "id": 2}))
    assert [task.task_id for task in client.fetch_snapshot(project).tasks] == [1, 2]
    for total in (0, 1, PAGE_SIZE, 10**9):

        def two_pages(query: Mapping[str, str], said: int = total) -> bytes:
            ids = range(1, PAGE_SIZE + 1) if query["page"] == "1" else range(PAGE_SIZE + 1, PAGE_SIZE + 4)
            shown = ids if int(query["page"]) < 3 else ()
            return json.dumps(page(*({"id": each} for each in shown), total=said)).encode()

        studio.heal()
        studio.fail("answer", "^/api/tasks/", answer=two_pages)
        assert client.fetch_task_ids(project) == set(range(1, PAGE_SIZE + 4))


def project_json(**changes: Any) -> Any:
    return {"id": 1, "title": "x", "label_config": choices_config(("cat", "dog")), **changes}


PROJECTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "another project": ({"id": 99}, LabelStudioError, "is 99, not the number"),
    "an id as text": ({"id": "1"}, LabelStudioError, "is '1', not the number"),
    "a label config as a list": ({"label_config": []}, LabelStudioError, "label config .* not a string"),
    "a label config of 4 MB": (
        {"label_config": choices_config(("cat", "x" * 4_000_000))},
        UnsupportedLabelConfig,
        r"4,000,\d+ characters; the limit is 2,000,000",
    ),
    "3,000 choices": (
        {"label_config": choices_config(tuple(f"c{number}" for number in range(3000)))},
        UnsupportedLabelConfig,
        "3,000 choices; the limit is 2,000",
    ),
    "entities that grow": (
        {
            "label_config": "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>"
            + "".join(f"<!ENTITY {chr(98 + n)} '{('&' + chr(97 + n) + ';') * 10}'>" for n in range(12))
            + "]><View><Image name='image' value='$image'/>&m;</View>"
        },
        UnsupportedLabelConfig,
        "not valid XML",
    ),
    "a version as a number": ({"model_version": 7}, LabelStudioError, "'model_version' .* is 7"),
    "a version of 5 MB": ({"model_version": "x" * 5_000_000}, LabelStudioError, "'model_version'"),
    "a sampling as an object": ({"sampling": {}}, LabelStudioError, "'sampling'"),
}


@pytest.mark.parametrize("case", PROJECTS)
def test_a_project_of_another_shape_is_refused(
    studio: FakeLabelStudio, client: LabelStudio, project: int, case: str
) -> None:
    changes, kind, words = PROJECTS[case]
    answer(studio, r"^/api/projects/\d+/$", {**project_json(id=project), **changes})
    with pytest.raises(kind, match=words) as refusal:
        client.fetch_snapshot(project)
    assert len(str(refusal.value)) < 600


def test_a_title_is_cut_or_left_out(studio: FakeLabelStudio, client: LabelStudio, project: int) -> None:
    titles: list[Any] = ["x" * 5_000_000, ["x"], None, 7]
    for title in titles:
        studio.heal()
        answer(studio, r"^/api/projects/\d+/$", project_json(id=project, title=title))
        shown = client.fetch_snapshot(project).title
        assert shown.startswith("xxx") and len(shown) <= LONGEST_NAME if title == titles[0] else not shown


def test_other_answers_of_another_shape_are_refused(
    studio: FakeLabelStudio, client: LabelStudio, project: int
) -> None:
    for path, body, ask in (
        ("/api/ml", {"results": []}, client.backends),
        ("/api/webhooks", [1, 2], client.webhooks),
        ("/api/webhooks", [{"url": "http://x"}], client.webhooks),
        ("/api/webhooks", [{"id": 1, "headers": ["x"]}], client.webhooks),
        ("/api/dm/views", {"id": 1}, partial(make_batch_tab, client)),
        ("/api/dm/views", [{"id": 1, "data": "x"}], partial(make_batch_tab, client)),
        (r"^/api/projects/\d+/$", project_json(id=project, task_number="4"), client.fetch_project),
        ("model-versions", ["coreset-1"], client.model_versions),
        ("model-versions", {"coreset-1": "4"}, client.model_versions),
        ("/api/tasks/", page({"id": 1, "predictions_score": "0.5"}), client.fetch_waiting),
        ("/api/tasks/", page({"id": 1, "total_annotations": "1"}), client.fetch_annotated),
    ):
        studio.heal()
        answer(studio, path, body)
        with pytest.raises(LabelStudioError, match="in Label Studio's answer is"):
            ask(project)
    studio.heal()
    answer(studio, "import/predictions", {"created": "4"})
    with pytest.raises(LabelStudioError, match="'created'"):
        client.publish(project, predictions(list(studio.tasks), "coreset-2-b", None), None)


def test_a_compressed_bomb_is_not_unpacked(
    studio: FakeLabelStudio, client: LabelStudio, project: int
) -> None:
    bomb = gzip.compress(b"[" + b" " * 100_000_000 + b"]", 9)
    answer(studio, "^/api/tasks/", bomb, headers={"Content-Encoding": "gzip"})
    tracemalloc.start()
    with pytest.raises(Unreachable, match="in the encoding 'gzip'; an unencoded answer was requested"):
        client.fetch_snapshot(project)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_body_that_drips_is_left(studio: FakeLabelStudio, project: int) -> None:
    hasty = LabelStudio(studio.url, TOKEN, pauses=(0.01,), limits=Limits(seconds=0.5))
    studio.fail("drip", "^/api/tasks/")
    with pytest.raises(Unreachable, match="is too slow: "):
        hasty.fetch_snapshot(project)
    hasty.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(
    studio: FakeLabelStudio, client: LabelStudio, project: int, status: int
) -> None:
    studio.fail(status, "^/api/tasks/", headers={"Location": f"{studio.url}/api/tasks/?again"})
    asked = len(studio.asked)
    with pytest.raises(Unreachable, match=f"was answered with {status}"):
        client.fetch_snapshot(project)
    assert len(studio.asked) - asked == 2


@pytest.mark.parametrize("token", [7, None, "", "é", "x" * 20_000, ["x"]])
def test_an_access_token_that_is_none_is_said(studio: FakeLabelStudio, token: Any) -> None:
    claims = "eyJ0b2tlbl90eXBlIjogInJlZnJlc2gifQ"  # {"token_type": "refresh"}
    opened = LabelStudio(studio.url, f"a.{claims}.b", pauses=())
    answer(studio, "token/refresh", {"access": token})
    with pytest.raises(Unreachable, match="something that is not an access token"):
        opened.whoami()
    opened.close()
