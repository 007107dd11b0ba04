"""Who labels the tasks of a project: the same counts on the page, in the status, the API and the metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

from coreset_backend.finish.session import Kind, Session, readable_sessions
from coreset_backend.reports import Count
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Every task of a project is counted once.

    ``audit``: people are asked to check it next; ``left``: it has no label, or was skipped.
    """

    by_people: Count = 0
    by_copies: Count = 0
    by_model: Count = 0
    audit: Count = 0
    left: Count = 0

    @property
    def tasks(self) -> int:
        return self.by_people + self.by_copies + self.by_model + self.audit + self.left


def tally(store: Store, project_id: int, newest: StoredRound | None) -> Tally:
    """Who labels the tasks, counted at the last look at a finish, or without one by the ``newest`` round."""
    return tally_of(readable_sessions(store, project_id), newest)


def tally_of(sessions: Sequence[Session], newest: StoredRound | None) -> Tally:
    """The same with those finishes."""
    last = max(sessions, key=lambda each: each.looked, default=None)
    if last is not None and last.looked:
        tasks, people = last.tasks, last.people
    else:
        counts = newest.record.counts if newest else {}
        tasks, people = sum(counts.values()), counts.get("labeled", 0)
    written = {each.kind: each.written for each in sessions}
    copies, model = written.get(Kind.COPIES, 0), written.get(Kind.MODEL, 0)
    audit = sum(len(each.asked) for each in sessions)
    left = tasks - people - copies - model - audit
    return Tally(by_people=people, by_copies=copies, by_model=model, audit=audit, left=max(left, 0))
