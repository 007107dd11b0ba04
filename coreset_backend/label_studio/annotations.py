"""Annotations of an image -> its agreed classes, or the reason why there are none. Pure."""

import html
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from coreset_backend.foreign_text import one_line
from coreset_backend.label_studio.answers import Annotation
from coreset_backend.label_studio.label_config import WHEN_ANY_CHOSE, Condition, Control, composed
from coreset_backend.project import Region

LONGEST = 60
HIDDEN = "is shown only with other answers than those given"
"""The reason for a control that the label config hid as intended; it is not reported as a problem."""
CHOICES, TAXONOMY = "choices", "taxonomy"
"""The types of the answers that decide what else is shown."""

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
    annotator has one vote; of deleted users, who cannot be told apart, each annotation has. Single choice:
    the class with the most votes (in a tie, the class of the latest annotation). Multiple choice: every class
    that at least half of them selected; an annotation without a choice is a vote for "none of these".
    """
    in_time = sorted(annotations, key=lambda each: (each.updated_at, each.annotation_id))
    truths = [each for each in in_time if each.ground_truth and _speaks(read_result(each.result, control))]
    latest: dict[object, Annotation] = {}  # of each annotator, the newest first
    for each in reversed(truths or in_time):
        latest.setdefault(each.voter, each)
    answers = [read_result(annotation.result, control) for annotation in latest.values()]
    votes = [answer.label for answer in answers if answer.label is not None]
    voters = [
        str(each.annotator)
        for each, answer in zip(latest.values(), answers, strict=True)
        if answer.label is not None
    ]
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
    """The answer of one annotation's or prediction's result.

    Something that Label Studio's editor could not show as chosen is no answer, not even "none of these".
    """
    name = control.labels.from_name
    given = [region for region in result if region.get("from_name") == name]
    if why := next((why for region in given if (why := _why_unreadable(region, name))), ""):
        return Answer(None, why)
    chosen = _chosen(given)
    classes = {path: _class_of(path, control) for path in chosen}
    known = set(classes.values()) - {None}
    strange = [path for path in chosen if classes[path] is None and not _is_parent(path, chosen, control)]
    unknown = one_line(" / ".join(strange[0]), most=LONGEST) if strange else ""
    label = tuple(each for each in control.labels.names if each in known)
    if label:
        return Answer(label if control.labels.multiple else label[:1], "", unknown)
    if strange:
        return Answer(None, f"'{unknown}' is not a choice of '{name}'", unknown)
    why = _why_nothing_is_no_answer(result, control)
    return Answer(None, why) if why else Answer(())


def _why_unreadable(region: Region, name: str) -> str:
    """Why the region, which answers the control ``name``, is no answer of a <Choices>; empty if it is one."""
    kind = region.get("type")
    if kind != CHOICES:
        if kind is None:
            return f"the answer to '{name}' has no type, which must be '{CHOICES}'"
        return f"the type of the answer to '{name}' is {_shown(kind)}, and must be '{CHOICES}'"
    values = choices_in(region)
    if values == [None]:
        return f"nothing is chosen in '{name}': its answer has no '{CHOICES}'"
    for each in (each for value in values for each in _listed(value)):
        if isinstance(each, int | float) and not isinstance(each, bool):
            return (
                f"{_shown(each)} is a number, while the choices of '{name}' are texts, as in '{_shown(each)}'"
            )
        if not isinstance(each, str):
            return f"{_shown(each)} is no choice of '{name}', whose choices are texts"
    return ""


def _shown(value: object) -> str:
    """A value of JSON in a sentence."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return one_line(f"'{value}'" if isinstance(value, str) else json.dumps(value), most=LONGEST)


def _why_nothing_is_no_answer(result: Sequence[Region], control: Control) -> str:
    """Why an annotation that chooses nothing in the control is no answer; empty if it is "none of these"."""
    name = control.labels.from_name
    nothing = f"nothing is chosen in '{name}'"
    answered = [region.get("from_name") for region in result if region.get("type") != "relation"]
    strange = [each for each in answered if control.controls and each not in control.controls]
    if strange:
        to = f"is to {_shown(strange[0])}, which the label config does not have"
        return f"{nothing}, and an answer {to if strange[0] else 'names no control'}"
    if not _is_asked(control, result):
        return f"'{name}' {HIDDEN}"
    if not control.labels.multiple:
        return nothing
    return f"{nothing}, which is required" if control.required else ""


def _chosen(result: Sequence[Region], kinds: Collection[str] = (CHOICES,)) -> list[tuple[str, ...]]:
    """The selected paths, of one value unless nested, in the answers of these types."""
    return [
        path
        for region in result
        if (kind := region.get("type")) in kinds
        for value in choices_in(region, str(kind))
        if (path := tuple(each for each in _listed(value) if isinstance(each, str)))
    ]


def choices_in(region: Region, kind: str = CHOICES) -> list[object]:
    """The choices of a region as Label Studio writes them: each a value, or a list that is its path."""
    value = region.get("value")
    return _listed(value.get(kind) if isinstance(value, Mapping) else None)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _class_of(path: tuple[str, ...], control: Control) -> str | None:
    """The class of a selected path, also if it was stored before allowNested was changed, HTML-escaped, or in
    another form of Unicode."""
    plain = tuple(html.unescape(each) for each in path)
    same = composed(plain)
    for known in (path, plain, same, plain[-1:], same[-1:]):
        if known in control.classes:
            return control.classes[known]
    ends = {name for known, name in control.classes.items() if known[-1:] == same}
    return ends.pop() if len(ends) == 1 else None


def _is_parent(path: tuple[str, ...], chosen: Sequence[tuple[str, ...]], control: Control) -> bool:
    """Whether ``path`` is only the parent of another selected path: Label Studio stores both."""
    return path in control.parents and any(other[: len(path)] == path != other for other in chosen)


def _is_asked(control: Control, result: Sequence[Region]) -> bool:
    """Whether the editor showed the control, and would have saved what is chosen there; False if the
    annotation's other answers cannot tell."""
    shown = all(_shows(condition, result) for condition in control.shown_when)
    return shown and all(_saves(condition, result) for condition in control.saved_when)


def _shows(condition: Condition, result: Sequence[Region]) -> bool:
    """As ``isVisible`` of the editor: without a control it asks whether any <Choices> is answered."""
    if condition.kind == "region-selected":
        return False
    if condition.kind == WHEN_ANY_CHOSE:
        return any(path[0] in condition.values for path in _chosen(result) if len(path) == 1)
    if condition.tag:
        return _saves(condition, result)
    return bool(_chosen(result)) == (condition.kind == "choice-selected")


def _saves(condition: Condition, result: Sequence[Region]) -> bool:
    """As ``canBeSubmitted`` of the editor: without a control it asks for the values in any of them."""
    asked = [region for region in result if not condition.tag or region.get("from_name") == condition.tag]
    last = {path[-1] for path in _chosen(asked, (CHOICES, TAXONOMY))}
    selected = bool(last & condition.values if condition.values else last)
    return selected == (condition.kind == "choice-selected")
