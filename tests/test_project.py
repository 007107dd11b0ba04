from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from coreset_backend.label_studio.answers import Project, read_task
from coreset_backend.label_studio.payloads import parse_snapshot, prediction_json
from coreset_backend.project import Labels, Prediction, Task, class_targets

CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="label" toName="image"><Choice value="cat"/><Choice value="dog" alias="d"/></Choices></View>"""
LABELS = Labels("label", "image", ("cat", "d"), multiple=False)


def annotation(*choices: str, by: int = 1, at: str = "2026-01-01", **more: Any) -> Any:
    region = {
        "from_name": "label",
        "to_name": "image",
        "type": "choices",
        "value": {"choices": list(choices)},
    }
    return {"result": [region] if choices else [], "completed_by": by, "updated_at": at, **more}


def snapshot_of(*tasks: Any) -> Any:
    project = Project(7, CONFIG, title="Pets", model_version="")
    return parse_snapshot(project, map(read_task, tasks), datetime.now(UTC))


def test_snapshot_sorts_tasks_and_counts_one_listed_twice_once() -> None:
    pool = {"id": 9, "data": {"image": "/b.png"}}
    labeled = {"id": 3, "data": {"image": "/a.png"}, "annotations": [annotation("cat")]}
    skipped = {"id": 5, "data": {"$undefined$": "/c.png"}, "annotations": [annotation(was_cancelled=True)]}
    snapshot = snapshot_of(pool, {**labeled, "annotations": []}, labeled, skipped, pool)
    assert snapshot.task_ids.tolist() == [3, 5, 9]
    assert [task.state for task in snapshot.tasks] == ["labeled", "skipped", "pool"]
    assert [task.task_id for task in snapshot.tasks if task.state == "labeled"] == [3]
    assert snapshot.tasks[1].uri == "/c.png"


def test_an_empty_submit_is_labeled_without_a_label_and_a_task_without_image_has_no_uri() -> None:
    snapshot = snapshot_of({"id": 1, "data": {"image": None}, "annotations": [annotation()]})
    assert snapshot.tasks == (Task(1, None, "labeled", None, "nothing is chosen in 'label'"),)


def test_a_snapshot_says_which_answers_cannot_be_trained_on_and_why() -> None:
    answers = (["kitty"], ["kitty"], ["cat"], [], ["a"], ["b"], ["c"], ["e"], ["f"])
    tasks = [
        {"id": number, "data": {"image": "/a"}, "annotations": [annotation(*chosen)]}
        for number, chosen in enumerate(answers, 1)
    ]
    tasks.append({"id": 99, "data": {"image": "/a"}, "annotations": [annotation("x", was_cancelled=True)]})
    remarks = snapshot_of(*tasks).remarks
    assert remarks[0] == (
        "2 annotated tasks hold no answer that can be trained on, because 'kitty' is not a choice of 'label'."
    )
    assert remarks[1] == (
        "1 annotated task holds no answer that can be trained on, because nothing is chosen in 'label'."
    )
    assert remarks[5] == "2 annotated tasks hold no answer that can be trained on, for other reasons."
    assert 'add alias="kitty" to the new <Choice>' in remarks[6]
    assert len(remarks) == 7
    assert snapshot_of(tasks[2]).remarks == ()


def test_values_lost_beside_known_ones_are_told_too() -> None:
    multiple = CONFIG.replace('toName="image"', 'toName="image" choice="multiple"')
    task = {"id": 1, "data": {"image": "/a"}, "annotations": [annotation("cat", "kitty")]}
    tasks = [read_task(task), read_task({**task, "id": 2})]
    snapshot = parse_snapshot(Project(7, multiple), tasks, datetime.now(UTC))
    assert snapshot.tasks[0].label == ("cat",)
    assert snapshot.remarks[0].startswith(
        "2 annotated tasks hold choices that the label config does not have"
    )


def test_choices_from_the_data_of_tasks_are_told_with_the_tasks_that_have_answers() -> None:
    dynamic = CONFIG.replace('<Choice value="cat"/><Choice value="dog" alias="d"/>', "").replace(
        'toName="image"', 'toName="image" value="$options"'
    )
    task = {"id": 1, "data": {"image": "/a", "options": []}, "annotations": [annotation("cat")]}
    snapshot = parse_snapshot(Project(7, dynamic), [read_task(task)], datetime.now(UTC))
    assert snapshot.labels is None
    assert "because the choices of 'label' come from each task's data ($options)" in snapshot.remarks[0]


def test_fingerprint_changes_with_a_label_and_not_with_the_time() -> None:
    task = {"id": 1, "data": {"image": "/a"}}
    assert snapshot_of(task).fingerprint() == snapshot_of(task).fingerprint()
    labeled = {**task, "annotations": [annotation("cat")]}
    assert snapshot_of(task).fingerprint() != snapshot_of(labeled).fingerprint()


def test_only_the_measured_time_of_people_is_read() -> None:
    by_model = annotation("cat", lead_time=8.0)
    by_model["result"][0]["labelled_by"] = "finish-1-now"
    created = "2026-01-02T03:04:05.678Z"
    answers = [
        annotation("cat", by=4, lead_time=6.5, created_at=created),
        annotation(was_cancelled=True, by=5, lead_time=2, created_at=created),
        annotation("cat", lead_time=3.5, created_at=created, import_id=77),
        annotation("cat", lead_time=3.0, created_at="yesterday"),
        annotation("cat", by=6, lead_time=4.0, created_at=created.rstrip("Z")),
        by_model,
        annotation("cat", created_at=created),
    ]
    (task,) = snapshot_of({"id": 1, "data": {"image": "/a"}, "annotations": answers}).tasks
    at = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC).timestamp()
    assert [(each.annotator, each.seconds, each.at) for each in task.timed] == [
        (4, 6.5, at),
        (5, 2.0, at),
        (1, 3.5, None),
        (1, 3.0, None),
        (6, 4.0, at),
    ]


@pytest.mark.parametrize("lead_time", [None, 0, -3.0, True, "6.5", [6], float("nan"), float("inf"), 1e300])
def test_a_time_that_cannot_be_is_none_and_the_label_counts(lead_time: object) -> None:
    answers = [annotation("cat", lead_time=lead_time)]
    (task,) = snapshot_of({"id": 1, "data": {"image": "/a"}, "annotations": answers}).tasks
    assert task.timed == () and task.label == ("cat",)


def test_times_start_no_round() -> None:
    plain, timed = (
        snapshot_of({"id": 1, "data": {"image": "/a"}, "annotations": [annotation("cat", **more)]})
        for more in ({}, {"lead_time": 5.0})
    )
    assert plain.fingerprint() == timed.fingerprint()


def test_class_targets_are_one_hot_by_class_index() -> None:
    tasks = [Task(1, "/a", "labeled", ("d",)), Task(2, "/b", "labeled", ("cat",))]
    assert class_targets(tasks, LABELS).tolist() == [[0, 1], [1, 0]]
    assert class_targets(tasks, LABELS).dtype == np.float32


def test_prediction_json_keeps_order_and_confidence_apart() -> None:
    body = prediction_json(Prediction(4, 0.25, "coreset-1", ("cat",), 0.9), LABELS)
    assert body["score"] == 0.25
    assert body["result"][0]["score"] == 0.9
    assert body["result"][0]["value"] == {"choices": ["cat"]}
    assert prediction_json(Prediction(4, 0.25, "coreset-1"), LABELS)["result"] == []


def test_predictions_take_the_shape_of_the_answers() -> None:
    nested = Labels("label", "image", ("warm / red", "cool"), True, (("warm", "red"), ("cool",)))
    body = prediction_json(Prediction(4, 0.25, "coreset-1", ("warm / red", "cool"), 0.9), nested)
    assert body["result"][0]["value"] == {"choices": [["warm", "red"], ["cool"]]}
    assert prediction_json(Prediction(4, 0.25, "coreset-1", (), 0.9), nested)["result"] == []
