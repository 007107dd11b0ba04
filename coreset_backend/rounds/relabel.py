"""Which labels one more annotator is asked for.

A label is asked for again where the answer is expected to raise the probability that it is right the most:
the value of information, as in ActiveLab (Goh and Mueller 2023, arXiv 2301.11856). The hold-out is left
alone: it measures the model, so the model has no say in its labels.
"""

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from coreset_backend.rounds.consensus import LEAST_LABELS, NOISY, annotator_agreement
from coreset_backend.rounds.label_errors import JudgedLabels
from coreset_backend.settings import Settings
from coreset_backend.store.record import LabelErrors, SecondOpinion

SHARE = 0.4
"""Of a batch, at most. Fewer are asked for where fewer labels are doubtful."""
LEAST_GAIN = 0.05
MOST_ANNOTATORS = 3

Numbers = NDArray[np.float64]


def label_errors(
    settings: Settings, judged: JudgedLabels, holdout: Collection[int], names: Mapping[str, str]
) -> LabelErrors:
    """What is known of errors in the labels, and the tasks that one more annotator is asked for.

    ``names``: of annotators, by their ids. None is asked for while one person alone has labelled, since Label
    Studio shows nobody a task twice.
    """
    annotators = annotator_agreement(judged.tasks, names)
    if len(judged.tasks) < LEAST_LABELS:
        return LabelErrors(annotators=annotators)
    rate = judged.rate_of_wrong_answers
    estimate = f"An estimated {100 * rate:.0f} % of the annotators' answers are wrong"
    if why := _why_none(settings, rate, len(annotators)):
        return LabelErrors(rate, (), annotators, f"{estimate}. {why}")
    asked = _asked(judged, holdout, round(SHARE * settings.batch_size))
    if not asked:
        return LabelErrors(rate, (), annotators, f"{estimate}, but no label is doubtful enough to ask again.")
    tasks = "1 labelled task comes" if len(asked) == 1 else f"{len(asked)} labelled tasks come"
    words = f"{estimate}: {tasks} first in the queue of annotators who have not answered yet."
    return LabelErrors(rate, asked, annotators, words)


def _why_none(settings: Settings, rate: float, annotators: int) -> str:
    """Why no second opinion is asked for, as a sentence; "" if one is."""
    if rate < NOISY:
        return f"From {100 * NOISY:.0f} % on, a second annotator is asked for doubtful labels."
    if settings.second_opinion == "off":
        return "Second opinions would help, but second_opinion is off."
    if annotators < 2:
        return "A second person could correct them: Label Studio shows nobody a task twice."
    return ""


def _asked(judged: JudgedLabels, holdout: Collection[int], count: int) -> tuple[SecondOpinion, ...]:
    """At most ``count`` tasks, that with the largest gain first."""
    gain = expected_gain(judged)
    may_be_asked = [
        not task.is_truth and 0 < len(task.annotators) < MOST_ANNOTATORS and task.task_id not in holdout
        for task in judged.tasks
    ]
    gain[~np.array(may_be_asked, dtype=bool)] = 0
    rows = np.argsort(-gain, kind="stable")[:count]
    return tuple(
        SecondOpinion(
            judged.tasks[row].task_id, len(judged.tasks[row].annotators), round(float(gain[row]), 4)
        )
        for row in rows
        if gain[row] >= LEAST_GAIN
    )


def expected_gain(judged: JudgedLabels) -> Numbers:
    """float64[l]: by how much one more answer raises the probability that the label is right, on average.

    The label changes where the answer is another class that is then more probable. With an error rate e,
    evenly on the other K - 1 classes, the class k is the answer and right with p_k (1 - e), and the answer
    while the given class g is right with p_g e / (K - 1). In multiple choice each class is a choice of its
    own between two, and the gains add up to at most 1.
    """
    error, named = judged.quality.error_rate, judged.given.targets > 0
    p = judged.quality.probabilities.astype(np.float64)
    if judged.given.multiple:
        given = np.where(named, p, 1 - p)
        gains = (1 - given) * (1 - error) - given * error
        return np.asarray(np.maximum(gains, 0).sum(1).clip(max=1))
    given = p[named][:, None]
    gains = p * (1 - error) - given * error / max(p.shape[1] - 1, 1)
    return np.asarray(np.where(named, 0, np.maximum(gains, 0)).sum(1))
