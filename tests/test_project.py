from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from coreset_backend.errors import UnsupportedLabelConfig
from coreset_backend.project import (
    Labels,
    Prediction,
    Task,
    agreed_label,
    class_targets,
    parse_label_config,
    parse_snapshot,
    prediction_json,
)

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


def test_label_config_names_the_image_and_the_choices_in_order() -> None:
    config = parse_label_config(CONFIG)
    assert config.image_key == "image"
    assert config.labels == LABELS


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("<View>", "no XML"),
        ('<View><Text name="t" value="$text"/></View>', "no <Image"),
        ('<View><Image name="i" value="https://example.com/a.png"/></View>', "no <Image"),
    ],
)
def test_label_config_without_an_image_is_refused_with_the_fix(config: str, complaint: str) -> None:
    with pytest.raises(UnsupportedLabelConfig, match=complaint):
        parse_label_config(config)


def test_boxes_only_is_selection_only() -> None:
    boxes = '<RectangleLabels name="b" toName="i"><Label value="a"/></RectangleLabels>'
    config = f'<View><Image name="i" value="$x"/>{boxes}</View>'
    assert parse_label_config(config).labels is None


def test_choices_on_regions_are_not_labels_of_the_image() -> None:
    assert (
        parse_label_config(CONFIG.replace('toName="image"', 'toName="image" perRegion="true"')).labels is None
    )


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([annotation("cat")], ("cat",)),
        ([annotation()], None),
        ([annotation("unicorn")], None),
        ([annotation("cat", by=1), annotation("d", by=2), annotation("d", by=3)], ("d",)),
        ([annotation("cat", by=1, at="1"), annotation("d", by=2, at="2")], ("d",)),
        ([annotation("cat", by=1, at="1"), annotation("d", by=1, at="2")], ("d",)),
        ([annotation("cat", ground_truth=True), annotation("d", by=2), annotation("d", by=3)], ("cat",)),
    ],
)
def test_the_annotators_agree_on_one_class(annotations: list[Any], expected: tuple[str, ...] | None) -> None:
    assert agreed_label(annotations, LABELS) == expected


def test_multiple_choice_keeps_what_half_of_the_annotators_named() -> None:
    labels = Labels("label", "image", ("a", "b", "c"), multiple=True)
    votes = [annotation("a", "b", by=1), annotation("b", "c", by=2), annotation("b", by=3)]
    assert agreed_label(votes, labels) == ("b",)
    assert agreed_label(votes[:2], labels) == ("a", "b", "c")


def test_other_controls_of_the_same_annotation_are_ignored() -> None:
    box = {"from_name": "box", "type": "rectanglelabels", "value": {"rectanglelabels": ["cat"]}}
    assert agreed_label([{"result": [box], "completed_by": 1}], LABELS) is None


def snapshot_of(*tasks: Any) -> Any:
    project = {"id": 7, "title": "Pets", "label_config": CONFIG, "model_version": ""}
    return parse_snapshot(project, tasks, datetime.now(UTC))


def test_snapshot_sorts_tasks_and_counts_one_listed_twice_once() -> None:
    pool = {"id": 9, "data": {"image": "/b.png"}}
    labeled = {"id": 3, "data": {"image": "/a.png"}, "annotations": [annotation("cat")]}
    skipped = {"id": 5, "data": {"$undefined$": "/c.png"}, "annotations": [annotation(was_cancelled=True)]}
    snapshot = snapshot_of(pool, {**labeled, "annotations": []}, labeled, skipped, pool)
    assert snapshot.task_ids.tolist() == [3, 5, 9]
    assert [task.state for task in snapshot.tasks] == ["labeled", "skipped", "pool"]
    assert snapshot.rows_in("labeled").tolist() == [0]
    assert snapshot.tasks[1].uri == "/c.png"


def test_an_empty_submit_is_labeled_without_a_label_and_a_task_without_image_has_no_uri() -> None:
    snapshot = snapshot_of({"id": 1, "data": {"image": None}, "annotations": [annotation()]})
    assert snapshot.tasks == (Task(1, None, "labeled", None),)


def test_fingerprint_changes_with_a_label_and_not_with_the_time() -> None:
    task = {"id": 1, "data": {"image": "/a"}}
    assert snapshot_of(task).fingerprint() == snapshot_of(task).fingerprint()
    labeled = {**task, "annotations": [annotation("cat")]}
    assert snapshot_of(task).fingerprint() != snapshot_of(labeled).fingerprint()


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
