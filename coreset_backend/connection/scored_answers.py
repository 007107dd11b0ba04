"""What a model version answers that somebody has already imported into Label Studio."""

import math

from coreset_backend.label_studio.annotations import read_result
from coreset_backend.label_studio.answers import StoredPrediction
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.label_config import Control, parse_label_config
from coreset_backend.project import Labels


def scored_answers(
    label_studio: LabelStudio, project_id: int, version: str, *, control: str | None = None
) -> tuple[Labels | None, dict[int, dict[str, float]]]:
    """The classes of the project, and by task those that its newest prediction of the version names, with
    their probability: the score of the region that names the class, else that of the prediction.

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
        if newest and (scores := _scores(newest, config.control)):
            found[task.task_id] = scores
    return config.labels, found


def _scores(prediction: StoredPrediction, control: Control) -> dict[str, float]:
    """The classes that the prediction names in the control, each with its score; in single choice the class
    with the highest. Empty if a score is missing or not in [0, 1].
    """
    found: dict[str, float] = {}
    for region in prediction.result:
        for name in read_result([region], control).label or ():
            found.setdefault(name, _first_number(region.get("score"), prediction.score))
    if not all(0 <= score <= 1 for score in found.values()):
        return {}
    if control.labels.multiple or not found:
        return found
    likeliest = max(found, key=found.__getitem__)
    return {likeliest: found[likeliest]}


def _first_number(*values: object) -> float:
    numbers = (each for each in values if isinstance(each, int | float) and not isinstance(each, bool))
    return float(next(numbers, math.nan))
