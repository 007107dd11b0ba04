"""The tasks of a project with their labels, and where each label comes from: a person, a copy, the model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from coreset_backend.errors import FinishError
from coreset_backend.finish.proposal import NONE
from coreset_backend.finish.session import FinishState, Kind, Session, read_proposal, read_session
from coreset_backend.project import Snapshot, Task
from coreset_backend.redaction import redacted
from coreset_backend.store.store import Store

LONGEST_ADDRESS = 2000


class Source(StrEnum):
    PERSON = "person"
    COPY = "copy"
    MODEL = "model"


SOURCES = {Kind.COPIES: Source.COPY, Kind.MODEL: Source.MODEL}
NAMES = {Source.COPY: "copies", Source.MODEL: "the model"}


class Status(StrEnum):
    """What a task has; every task has one of them."""

    LABELED = "labelled"
    SKIPPED = "skipped"
    UNREAD = "unread"
    """A person has answered, but not what can be read as a class; ``note`` says why."""
    UNLABELED = "unlabelled"


@dataclass(frozen=True, slots=True)
class LabeledTask:
    """A line of the dataset; docs/export.md describes each field.

    ``label``: class names, empty for "none of these"; None without a label. ``confidence``: the model's, for
    its own labels. ``wrong_at_most``: of the labels of this source, at most that share is wrong, with the
    probability ``bound_confidence``. ``agreement``: share of the annotators who gave this very label.
    """

    task_id: int
    image: str
    status: Status
    label: tuple[str, ...] | None = None
    source: Source | None = None
    confidence: float | None = None
    wrong_at_most: float | None = None
    bound_confidence: float | None = None
    annotators: int = 0
    agreement: float | None = None
    ground_truth: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class WrittenLabel:
    """A label that no person gave the task itself."""

    label: tuple[str, ...]
    source: Source
    confidence: float | None
    wrong_at_most: float
    bound_confidence: float


def written_labels(
    store: Store, project_id: int, names: tuple[str, ...]
) -> tuple[dict[int, WrittenLabel], list[str]]:
    """Task id -> the label that the finish wrote there; and remarks on those that are left out.

    ``names``: the classes of the project today.
    """
    known: dict[int, WrittenLabel] = {}
    remarks = []
    for kind, source in SOURCES.items():
        try:
            session = read_session(store, project_id, kind)
            if session is None or session.state is FinishState.AUDITING:
                continue
            if session.state is not FinishState.WRITTEN:
                remarks.append(
                    f"Labels of {NAMES[source]} are left out: they are not written whole ({session.state})."
                )
                continue
            written = dict(_labels_of(store, project_id, session, source))
        except FinishError as error:
            remarks.append(f"No label of {NAMES[source]} is exported. {error}")
            continue
        of_today = {task_id: each for task_id, each in written.items() if set(each.label) <= set(names)}
        if left_out := len(written) - len(of_today):
            remarks.append(
                f"{left_out:,} labels of {NAMES[source]} are left out: the label config lacks their class."
            )
        known |= of_today
    return known, remarks


def _labels_of(
    store: Store, project_id: int, session: Session, source: Source
) -> Iterator[tuple[int, WrittenLabel]]:
    proposal, accepted = read_proposal(store, project_id, session.kind), frozenset(session.accepted)
    bounds = {group.name: group for group in session.audited}
    for row, task_id in enumerate(proposal.task_ids):
        if task_id not in accepted:
            continue
        label = proposal.named(row)
        group = bounds.get((" + ".join(label) or NONE) if session.per_class else "")
        wrong = min(group.most_wrong / group.by_model, 1.0) if group and group.by_model else 1.0
        confidence = 1 - proposal.doubts[row] if source is Source.MODEL else None
        yield task_id, WrittenLabel(label, source, confidence, wrong, session.confidence)


def labeled_tasks(snapshot: Snapshot, written: Mapping[int, WrittenLabel]) -> Iterator[LabeledTask]:
    """A line for each task of the project, in the order of their ids; a person's label before any other."""
    for task in snapshot.tasks:
        other = written.get(task.task_id)
        if task.state in ("labeled", "skipped"):
            yield _by_person(task)
        elif other:
            yield LabeledTask(
                task.task_id,
                shown_address(task.uri),
                Status.LABELED,
                other.label,
                other.source,
                other.confidence,
                other.wrong_at_most,
                other.bound_confidence,
            )
        else:
            note = "annotated by a model that this backend does not know" if task.state == "model" else ""
            yield LabeledTask(task.task_id, shown_address(task.uri), Status.UNLABELED, note=note)


def _by_person(task: Task) -> LabeledTask:
    image = shown_address(task.uri)
    if task.state == "skipped":
        return LabeledTask(task.task_id, image, Status.SKIPPED)
    if task.label is None:
        return LabeledTask(task.task_id, image, Status.UNREAD, note=task.unread)
    votes = task.votes or (task.label,)
    return LabeledTask(
        task.task_id,
        image,
        Status.LABELED,
        task.label,
        Source.PERSON,
        annotators=len(votes),
        agreement=sum(set(vote) == set(task.label) for vote in votes) / len(votes),
        ground_truth=task.is_truth,
        note=f"'{task.unknown}' is not a choice" if task.unknown else "",
    )


def shown_address(uri: str | None) -> str:
    """The address as in Label Studio, without passwords and signatures, and without an embedded image."""
    if not uri:
        return ""
    if uri[:5].lower() == "data:":
        return f"data:{uri[5:60].partition(',')[0]},… ({len(uri)} characters)"
    return redacted(uri)[:LONGEST_ADDRESS]
