"""A person's labels in bulk: annotations by the token's user, each marked with the write that made it."""

from collections.abc import Sequence

from coreset_backend.errors import Rejected
from coreset_backend.label_studio.annotations import LABELLED_IN_BULK, is_by_model
from coreset_backend.label_studio.answers import Annotation
from coreset_backend.label_studio.api import PATIENT
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.filters import in_addresses
from coreset_backend.label_studio.model_labels import delete_chosen
from coreset_backend.project import Labels

CORRECTION = "/correction"
"""The end of the mark of an annotation that was made a ground truth, to count instead of other people's."""


def write_label(
    label_studio: LabelStudio,
    task_id: int,
    labels: Labels,
    names: Sequence[str],
    version: str,
    *,
    corrects: bool,
) -> bool:
    """Annotate the task with the classes ``names``; False if it no longer exists.

    ``corrects``: as a ground truth, which counts instead of what others have answered.
    """
    region = {
        "from_name": labels.from_name,
        "to_name": labels.to_name,
        "type": "choices",
        "value": {"choices": [labels.value_of(name) for name in names]},
        LABELLED_IN_BULK: version + CORRECTION if corrects else version,
    }
    body = {"result": [region], "ground_truth": corrects}
    try:
        label_studio.request("POST", f"/api/tasks/{task_id}/annotations/", json=body, timeout=PATIENT)
    except Rejected as error:
        if error.status != 404:
            raise
        return False
    return True


def annotations_among(
    label_studio: LabelStudio, project_id: int, task_ids: Sequence[int]
) -> dict[int, Sequence[Annotation]]:
    """Task id -> annotations and skips by people; tasks without any are absent."""
    found: dict[int, Sequence[Annotation]] = {}
    for some in in_addresses(task_ids):
        for task in label_studio.annotated_tasks(project_id, some):
            if by_people := [each for each in task.annotations if not is_by_model(each)]:
                found[task.task_id] = by_people
    return found


def is_of_write(annotation: Annotation, version: str) -> bool:
    """Whether that write made the annotation, and no person has changed it since."""
    marks = {str(region.get(LABELLED_IN_BULK) or "") for region in annotation.result}
    return (version + CORRECTION if annotation.ground_truth else version) in marks


def delete_write(label_studio: LabelStudio, project_id: int, version: str, task_ids: Sequence[int]) -> int:
    """Delete the annotations of the write on these tasks that nobody has changed; how many."""
    found = annotations_among(label_studio, project_id, task_ids)
    made = [each for each, answers in found.items() if any(is_of_write(one, version) for one in answers)]
    return delete_chosen(label_studio, project_id, made, lambda each: is_of_write(each, version))
