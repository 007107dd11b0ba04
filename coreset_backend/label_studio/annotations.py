"""Annotations of an image -> its agreed classes, or the reason why there are none. Pure."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coreset_backend.foreign_text import one_line
from coreset_backend.label_studio.answers import Annotation, User
from coreset_backend.label_studio.label_config import Condition, Control
from coreset_backend.project import Region

LONGEST = 60
HIDDEN = "is shown only with other answers than those given"
"""The reason for a control that the label config hid as intended; it is not reported as a problem."""


MODEL_LABELS = "finish-"
"""How the versions of labels begin that this backend gave: its model's, and those of copies."""
COPY_LABELS = f"{MODEL_LABELS}copies-"
"""How the versions begin of labels that near-duplicates took from an image that people labelled."""
LABELLED_BY = "labelled_by"
"""The key of a region that names such a version. Label Studio keeps it in predictions, and copies it into the
annotations that it makes of them; what a person saves in the editor lacks it."""
LABELLED_IN_BULK = "labelled_in_bulk"
"""The key of a region that names the write in bulk which made it. Label Studio keeps it; what a person saves
in the editor lacks it, so that an annotation which a person has changed is not this write's any more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The annotators' answer: ``label``, or None and ``why`` there is none (the end of a "because" sentence).

    ``label`` holds class names in the order of the classes; an empty ``label`` is "none of these".
    ``unknown``: the first selected value that the label config does not have, even if it has the others.
    ``votes``: the classes that each annotator chose, where several did. ``annotators``: who they are, in the
    same order; also where one alone answered. ``is_truth``: a ground truth decided.
    """

    label: tuple[str, ...] | None
    why: str = ""
    unknown: str = ""
    votes: tuple[tuple[str, ...], ...] = ()
    is_truth: bool = False
    annotators: tuple[str, ...] = ()


def is_by_model(annotation: Annotation, version: str = MODEL_LABELS) -> bool:
    """Whether this backend wrote the annotation, of that version or any, and no person has changed it."""
    marked = any(str(region.get(LABELLED_BY) or "").startswith(version) for region in annotation.result)
    return marked and not annotation.was_updated and not annotation.ground_truth


def is_in_bulk(annotation: Annotation) -> bool:
    """Whether the annotation was made together with many others, and nobody has answered anew since."""
    return any(region.get(LABELLED_IN_BULK) for region in annotation.result)


def agreed_label(annotations: Sequence[Annotation], control: Control) -> Answer:
    """The agreed classes of the annotations.

    A ground truth that answers this control overrides all others. Otherwise the latest annotation of each
    annotator has one vote. Single choice: the class with the most votes (in a tie, the class of the latest
    annotation). Multiple choice: every class that at least half of them selected; an annotation without a
    choice is a vote for "none of these".
    """
    in_time = sorted(annotations, key=lambda each: (each.updated_at, each.annotation_id))
    truths = [each for each in in_time if each.ground_truth and _speaks(read_result(each.result, control))]
    latest: dict[User, Annotation] = {}  # of each annotator, the newest first
    for each in reversed(truths or in_time):
        latest.setdefault(each.annotator, each)
    answers = [read_result(annotation.result, control) for annotation in latest.values()]
    votes = [answer.label for answer in answers if answer.label is not None]
    voters = [str(who) for who, answer in zip(latest, answers, strict=True) if answer.label is not None]
    unknown = next((answer.unknown for answer in answers if answer.unknown), "")
    if not votes:
        return Answer(None, answers[0].why if answers else "", unknown)
    count = Counter(name for vote in votes for name in vote)
    if control.labels.multiple:
        agreed = tuple(name for name in control.labels.names if 2 * count[name] >= len(votes))
    else:
        agreed = (max((name for vote in votes for name in vote), key=lambda name: count[name]),)
    several = tuple(votes) if len(votes) > 1 else ()
    return Answer(agreed, "", unknown, several, bool(truths), tuple(voters))


def _speaks(answer: Answer) -> bool:
    return answer.label is not None or bool(answer.unknown)


def read_result(result: Sequence[Region], control: Control) -> Answer:
    """The answer of one annotation's or prediction's result."""
    name = control.labels.from_name
    chosen = _chosen(result, name)
    classes = {path: _class_of(path, control) for path in chosen}
    known = set(classes.values()) - {None}
    strange = [path for path in chosen if classes[path] is None and not _is_parent(path, chosen, control)]
    unknown = one_line(" / ".join(strange[0]), most=LONGEST) if strange else ""
    label = tuple(each for each in control.labels.names if each in known)
    if label:
        return Answer(label if control.labels.multiple else label[:1], "", unknown)
    if strange:
        return Answer(None, f"'{unknown}' is not a choice of '{name}'", unknown)
    if not all(_holds(condition, result) for condition in control.shown_when):
        return Answer(None, f"'{name}' {HIDDEN}")
    if not control.labels.multiple:
        return Answer(None, f"nothing is chosen in '{name}'")
    if control.required:
        return Answer(None, f"nothing is chosen in '{name}', which is required")
    return Answer(())


def _chosen(result: Sequence[Region], name: str = "") -> list[tuple[str, ...]]:
    """The selected paths (of one value unless nested) in the control ``name``; in any control if empty."""
    return [
        path
        for region in result
        if region.get("type") == "choices" and (not name or region.get("from_name") == name)
        for value in choices_in(region)
        if (path := tuple(each for each in _listed(value) if isinstance(each, str)))
    ]


def choices_in(region: Region) -> list[object]:
    """The choices of a region as Label Studio writes them: each a value, or a list that is its path."""
    value = region.get("value")
    return _listed(value.get("choices")) if isinstance(value, Mapping) else []


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _class_of(path: tuple[str, ...], control: Control) -> str | None:
    """The class of a selected path, also if it was stored before allowNested was changed, or HTML-escaped."""
    plain = tuple(html.unescape(each) for each in path)
    for known in (path, plain, plain[-1:]):
        if known in control.classes:
            return control.classes[known]
    ends = {name for known, name in control.classes.items() if known[-1:] == plain}
    return ends.pop() if len(ends) == 1 else None


def _is_parent(path: tuple[str, ...], chosen: Sequence[tuple[str, ...]], control: Control) -> bool:
    """Whether ``path`` is only the parent of another selected path: Label Studio stores both."""
    return path in control.parents and any(other[: len(path)] == path != other for other in chosen)


def _holds(condition: Condition, result: Sequence[Region]) -> bool:
    """Whether the annotation's other answers fulfil the condition; False if they cannot tell."""
    if condition.kind == "region-selected":
        return False
    last = {path[-1] for path in _chosen(result, condition.tag)}
    selected = bool(last & condition.values if condition.values else last)
    return selected == (condition.kind == "choice-selected")
