"""What a model version answers that somebody has already imported into Label Studio."""

from coreset_backend.label_studio.annotations import read_result
from coreset_backend.label_studio.answers import StoredPrediction
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.label_config import parse_label_config
from coreset_backend.project import Labels


def scored_answers(
    label_studio: LabelStudio, project_id: int, version: str, *, control: str | None = None
) -> tuple[Labels | None, dict[int, dict[str, float]]]:
    """The classes of the project, and by task those that its newest prediction of the version names, with
    their probability: the score of the region, else that of the prediction.

    Predictions without a score in [0, 1], or without a class of the project, are left out. The classes are
    None where nothing is trained on.
    """
    config = parse_label_config(label_studio.fetch_project(project_id).label_config, control)
    if config.control is None or config.labels is None:
        return None, {}
    found = {}
    for task in label_studio.tasks(project_id, {"fields": "all", "include": "id,predictions"}):
        ours = [each for each in task.predictions if each.model_version == version]
        newest = max(ours, key=lambda each: each.prediction_id, default=None)
        label = read_result(newest.result, config.control).label if newest else None
        score = _score(newest) if newest else None
        if label and score is not None and 0 <= score <= 1:
            found[task.task_id] = dict.fromkeys(label, score)
    return config.labels, found


def _score(prediction: StoredPrediction) -> float | None:
    scores = [region.get("score") for region in prediction.result if region.get("type") == "choices"]
    given = next((each for each in scores if isinstance(each, int | float)), prediction.score)
    return None if given is None else float(given)
