"""The probabilities of a version in Label Studio are the scores of the regions that name the classes."""

import contextlib

import pytest
from fake_label_studio import TOKEN, FakeLabelStudio

from coreset_backend.connection.scored_answers import scored_answers
from coreset_backend.label_studio.client import LabelStudio

QUALITY = '<Choices name="quality" toName="image"><Choice value="good"/></Choices>'
CONFIG = (
    '<View><Image name="image" value="$image"/>{quality}<Choices name="cls" toName="image" choice="{choice}">'
    '<Choice value="A"/><Choice value="B"/><Choice value="C"/></Choices></View>'
)
GOOD = ("quality", "good", 0.11)


@pytest.mark.parametrize(
    ("choice", "regions", "own", "expected"),
    [
        ("single", [GOOD, ("cls", "A", 0.97)], 0.5, {"A": 0.97}),  # not the score of another control
        ("single", [GOOD, ("cls", "A", None)], 0.5, {"A": 0.5}),
        ("single", [("cls", "A", "0.97")], 0.5, {"A": 0.5}),
        ("single", [("cls", "A", True)], 0.5, {"A": 0.5}),
        ("single", [("cls", "A", 0.1), ("cls", "C", 0.9)], 0.5, {"C": 0.9}),
        ("multiple", [("cls", "A", 0.95), GOOD, ("cls", "B", 0.55)], 0.5, {"A": 0.95, "B": 0.55}),
        ("multiple", [("cls", "A", 0.95), ("cls", "B", None)], 0.5, {"A": 0.95, "B": 0.5}),
        ("multiple", [("cls", "A", 0.95), ("cls", "B", 95.0)], 0.5, {}),
        ("single", [GOOD, ("cls", "A", None)], None, {}),
        ("single", [GOOD], 0.5, {}),
    ],
)
def test_each_class_has_the_score_of_its_own_region(
    studio: FakeLabelStudio,
    choice: str,
    regions: list[tuple[str, str, object]],
    own: float | None,
    expected: dict[str, float],
) -> None:
    project_id = studio.create_project(1)
    studio.projects[project_id]["label_config"] = CONFIG.format(quality=QUALITY, choice=choice)
    [task] = studio.tasks_of(project_id)
    result = [
        {
            "from_name": name,
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [value]},
            **({} if score is None else {"score": score}),
        }
        for name, value, score in regions
    ]
    prediction = {"id": 1, "task": task["id"], "project": project_id, "model_version": "v", "score": own}
    studio.predictions.append({**prediction, "result": result})
    with contextlib.closing(LabelStudio(studio.url, TOKEN)) as client:
        labels, found = scored_answers(client, project_id, "v", control="cls")
    assert labels and labels.names == ("A", "B", "C")
    assert found == ({task["id"]: expected} if expected else {})
