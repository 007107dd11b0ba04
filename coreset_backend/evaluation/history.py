"""What a project's rounds have measured, pruned ones included, as the API answers it."""

from collections.abc import Sequence
from typing import Any

from coreset_backend.evaluation.learning_curve import Point
from coreset_backend.evaluation.stop_advice import stop_advice
from coreset_backend.store.store import Round, Store

Json = Any


def project_history(store: Store, project_id: int) -> Json:
    """``{project, title, rounds, advice}``; ``rounds`` are :func:`history_line`, the oldest first.

    ``advice`` is that of ``stop_advice``, None before a first round.
    """
    records = store.history(project_id)
    return {
        "project": project_id,
        "title": records[-1].title if records else "",
        "rounds": [history_line(record) for record in records],
        "advice": advice(records) if records else None,
    }


def advice(records: Sequence[Round]) -> Json:
    """When to stop, from the records of all rounds, oldest first; at least one.

    Rounds of another label config measured something else and are left out.
    """
    newest = records[-1]
    alike = [record for record in records if record.labels == newest.labels]
    points = [
        Point(record.counts.get("labeled", 0), accuracy["value"], accuracy["n"])
        for record in alike
        if record.evaluation and (accuracy := record.evaluation.get("accuracy"))
    ]
    radii = [
        (record.radius_before, record.radius_after)
        for record in records
        if record.radius_before is not None and record.radius_after is not None
    ]
    return stop_advice(points, max(newest.counts.get("selected", 0), 1), radii)


def history_line(record: Round) -> Json:
    """A point of the learning curve:

    ``number``, ``taken_at`` (ISO 8601, UTC), ``strategy``, ``backbone``, ``model_version``;
    ``labels``: tasks that somebody had annotated, ``trained``: those of them that the model was fitted on,
    ``selected``: tasks in the batch that it then chose;
    ``accuracy``, ``macro_f1``: ``{value, low, high, n}`` on the hold-out, shares in [0, 1] with their 95 %
    interval and the number of images, None without a model or a hold-out;
    ``gain``: alike in [-1, 1], the accuracy minus that of the round before on the same images, or None;
    ``per_class``: ``[{name, n, precision, recall, f1}]``, the figures None where ``n`` images cannot tell;
    ``radius_before``, ``radius_after``: the covering radius before and after the batch, in the space of this
    round's embeddings; None without a label. Compare the two of one round, not those of different rounds;
    ``random_slice``: None, or ``{tasks, pool_accuracy, picked_accuracy}``: how many tasks of this batch were
    sampled at random, and how accurate the previous model's predictions were on its own batch: on the tasks
    sampled at random (an unbiased estimate for the pool) and on those that the strategy picked, each
    ``{value, low, high, n}`` or None. A strategy works where its picks are harder than the pool.
    """
    training, figures = record.training or {}, record.evaluation or {}
    return {
        "number": record.number,
        "taken_at": record.taken_at,
        "strategy": record.strategy,
        "backbone": record.backbone,
        "model_version": record.model_version,
        "labels": record.counts.get("labeled", 0),
        "trained": training.get("n_train", 0),
        "selected": record.counts.get("selected", 0),
        "accuracy": figures.get("accuracy"),
        "macro_f1": figures.get("macro_f1"),
        "gain": figures.get("gain"),
        "per_class": figures.get("per_class", []),
        "radius_before": record.radius_before,
        "radius_after": record.radius_after,
        "random_slice": slice_line(record),
    }


def slice_line(record: Round) -> Json:
    """The ``random_slice`` of :func:`history_line`."""
    if not record.random_slice and not record.batch_figures:
        return None
    figures = record.batch_figures or {}
    return {
        "tasks": len(record.random_slice),
        "pool_accuracy": figures.get("pool"),
        "picked_accuracy": figures.get("picks"),
    }
