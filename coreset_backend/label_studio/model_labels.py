"""Labels by this backend's model in Label Studio: predictions of a version of their own, and annotations."""

from collections.abc import Callable, Collection, Sequence

from coreset_backend.errors import Rejected
from coreset_backend.label_studio.annotations import is_by_model
from coreset_backend.label_studio.answers import Annotation
from coreset_backend.label_studio.api import PATIENT
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.filters import all_of
from coreset_backend.label_studio.tabs import find_tabs, make_tab

TAB = "Labelled by the model"
AT_ONCE = 100
VERSIONS = "filter:tasks:predictions_model_versions"


def show_model_labels(label_studio: LabelStudio, project_id: int, versions: Sequence[str]) -> None:
    """Make the tab of the tasks that have a label of one of the versions, or point it at those.

    Without versions delete it, unless somebody has changed what it filters by.
    """
    if versions:
        shown = all_of({"filter": VERSIONS, "operator": "contains", "type": "List", "value": [*versions]})
        make_tab(label_studio, project_id, TAB, shown)
        return
    tab = find_tabs(label_studio, project_id).get(TAB)
    if tab and VERSIONS in str(tab.filters):
        label_studio.request("DELETE", f"/api/dm/views/{tab.tab_id}/")


def annotate_as_predicted(
    label_studio: LabelStudio, project_id: int, version: str, task_ids: Sequence[int]
) -> None:
    """Make annotations, by the token's user, of the version's predictions on tasks without an annotation.

    Each hundred is looked at right before it is written; where a person was faster still, the model's is
    deleted again. Safe to repeat: Label Studio makes no second annotation of a prediction.
    """
    for start in range(0, len(task_ids), AT_ONCE):
        annotated = label_studio.fetch_annotated(project_id)
        some = [task_id for task_id in task_ids[start : start + AT_ONCE] if task_id not in annotated]
        if some:
            _make_annotations(label_studio, project_id, version, some)
    made = annotated_by_model(label_studio, project_id, version)
    overtaken = [task_id for task_id, by_person_too in made.items() if by_person_too]
    delete_by_model(label_studio, project_id, version, overtaken)


def _make_annotations(
    label_studio: LabelStudio, project_id: int, version: str, task_ids: Sequence[int]
) -> None:
    label_studio.request(
        "POST",
        "/api/dm/actions/",
        params={"id": "predictions_to_annotations", "project": project_id},
        json={
            "project": project_id,
            "model_version": version,
            "selectedItems": {"all": False, "included": list(task_ids)},
        },
        timeout=PATIENT,
    )


def annotated_by_model(label_studio: LabelStudio, project_id: int, version: str) -> dict[int, bool]:
    """The tasks that have an annotation by the model -> whether a person has annotated them too."""
    return {
        task.task_id: not all(is_by_model(each) for each in task.annotations)
        for task in label_studio.annotated_tasks(project_id)
        if any(is_by_model(each, version) for each in task.annotations)
    }


def delete_by_model(label_studio: LabelStudio, project_id: int, version: str, task_ids: Sequence[int]) -> int:
    """Delete the version's annotations on the tasks that no person has changed; how many."""
    return delete_chosen(label_studio, project_id, task_ids, lambda each: is_by_model(each, version))


def delete_chosen(
    label_studio: LabelStudio,
    project_id: int,
    task_ids: Sequence[int],
    is_ours: Callable[[Annotation], bool],
) -> int:
    """Delete those annotations of the tasks that ``is_ours`` chooses; how many.

    Thousands take minutes, in which people work on: each task is read right before, so that an annotation
    which a person has changed by then stays.
    """
    count = 0
    for task_id in task_ids:
        tasks = label_studio.annotated_tasks(project_id, [task_id])
        found = [each for task in tasks if task.task_id == task_id for each in task.annotations]
        ours = [each.annotation_id for each in found if is_ours(each)]
        delete_annotations(label_studio, ours)
        count += len(ours)
    return count


def delete_annotations(label_studio: LabelStudio, annotation_ids: Collection[int]) -> None:
    """Delete the annotations, those that are gone already excepted."""
    for annotation_id in annotation_ids:
        try:
            label_studio.request("DELETE", f"/api/annotations/{annotation_id}/", timeout=PATIENT)
        except Rejected as error:
            if error.status != 404:
                raise
