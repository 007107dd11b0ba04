"""Annotations of an image -> the classes that annotators agree upon, or the reason for none. Pure."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coreset_backend.foreign_text import one_line
from coreset_backend.label_studio.label_config import Condition, Control

Json = Any
LONGEST = 60
HIDDEN = "is shown only with other answers than those given"
"""What a label config is made for, so no problem."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What annotators said: ``label``, or None and ``why`` there is none, to follow "because".

    ``label`` holds class names in the order of the classes; the empty one is "none of these".
    ``unknown``: the first value that the label config does not have, also beside others that it has.
    """

    label: tuple[str, ...] | None
    why: str = ""
    unknown: str = ""


def agreed_label(annotations: Sequence[Json], control: Control) -> Answer:
    """The classes that the annotators agree upon.

    A ground truth wins, if it says anything of this control. Otherwise each annotator's latest annotation has
    one vote: single choice takes the most votes (of equals, the latest annotation's), multiple choice every
    class that at least half named. In multiple choice an annotation without a choice is a vote for none.
    """
    in_time = sorted(annotations, key=_age)
    truths = [each for each in in_time if each.get("ground_truth") and _speaks(_read(each, control))]
    latest = {_annotator(each): each for each in truths or in_time}
    answers = [_read(annotation, control) for annotation in latest.values()]
    votes = [answer.label for answer in answers if answer.label is not None]
    unknown = next((answer.unknown for answer in answers if answer.unknown), "")
    if not votes:
        return Answer(None, answers[-1].why if answers else "", unknown)
    count = Counter(name for vote in votes for name in vote)
    if control.labels.multiple:
        agreed = tuple(name for name in control.labels.names if 2 * count[name] >= len(votes))
    else:
        latest_first = [name for vote in reversed(votes) for name in vote]
        agreed = (max(latest_first, key=lambda name: count[name]),)
    return Answer(agreed, "", unknown)


def _age(annotation: Json) -> tuple[str, int]:
    return str(annotation.get("updated_at") or ""), int(annotation.get("id") or 0)


def _annotator(annotation: Json) -> Json:
    by = annotation.get("completed_by")
    return by.get("id") if isinstance(by, Mapping) else by


def _speaks(answer: Answer) -> bool:
    return answer.label is not None or bool(answer.unknown)


def _read(annotation: Json, control: Control) -> Answer:
    """One annotation's answer."""
    name, results = control.labels.from_name, annotation.get("result") or []
    chosen = _chosen(results, name)
    classes = {path: _class_of(path, control) for path in chosen}
    known = set(classes.values()) - {None}
    strange = [path for path in chosen if classes[path] is None and not _is_parent(path, chosen, control)]
    unknown = one_line(" / ".join(strange[0]), most=LONGEST) if strange else ""
    label = tuple(each for each in control.labels.names if each in known)
    if label:
        return Answer(label if control.labels.multiple else label[:1], "", unknown)
    if strange:
        return Answer(None, f"'{unknown}' is not among the choices of '{name}'", unknown)
    if not all(_holds(condition, results) for condition in control.shown_when):
        return Answer(None, f"'{name}' {HIDDEN}")
    if not control.labels.multiple:
        return Answer(None, f"nothing is chosen in '{name}'")
    if control.required:
        return Answer(None, f"nothing is chosen in '{name}', which is required")
    return Answer(())


def _chosen(results: Sequence[Json], name: str = "") -> list[tuple[str, ...]]:
    """What is chosen in the control ``name`` (empty: in any): paths, or one value each."""
    return [
        path
        for region in results
        if isinstance(region, Mapping) and region.get("type") == "choices"
        if not name or region.get("from_name") == name
        for value in _listed(_choices(region.get("value")))
        if (path := tuple(each for each in _listed(value) if isinstance(each, str)))
    ]


def _choices(value: Json) -> Json:
    return value.get("choices") if isinstance(value, Mapping) else None


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [value]


def _class_of(path: tuple[str, ...], control: Control) -> str | None:
    """The class; also of an answer given before allowNested was switched on or off, or escaped for HTML."""
    plain = tuple(html.unescape(each) for each in path)
    for known in (path, plain, plain[-1:]):
        if known in control.classes:
            return control.classes[known]
    ends = {name for known, name in control.classes.items() if known[-1:] == plain}
    return ends.pop() if len(ends) == 1 else None


def _is_parent(path: tuple[str, ...], chosen: Sequence[tuple[str, ...]], control: Control) -> bool:
    """Whether it only leads to another that is chosen: Label Studio lists parents beside their children."""
    return path in control.parents and any(other[: len(path)] == path != other for other in chosen)


def _holds(condition: Condition, results: Sequence[Json]) -> bool:
    """Whether the other answers of an annotation let the tag be shown; False where they cannot tell."""
    if condition.kind == "region-selected":
        return False
    last = {path[-1] for path in _chosen(results, condition.tag)}
    selected = bool(last & condition.values if condition.values else last)
    return selected == (condition.kind == "choice-selected")
