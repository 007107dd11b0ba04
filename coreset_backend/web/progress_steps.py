"""The progress of a project as the pages show it: with the phases of a round as steps."""

from typing import Any

from coreset_backend.backend import Backend
from coreset_backend.errors import CoresetError, QueueError
from coreset_backend.jobs.states import Phase
from coreset_backend.jobs.status import standing
from coreset_backend.store.saved_round import StoredRound

Json = Any


def progress(backend: Backend, project_id: int, newest: StoredRound | None) -> Json:
    """:func:`coreset_backend.jobs.status.standing` with ``steps``; ``unknown`` without Redis."""
    try:
        known = standing(backend, project_id, newest)
    except QueueError as error:
        return unknown(error)
    return known | {"steps": steps(known)}


def unknown(error: CoresetError) -> Json:
    """The progress of a project of which nothing can be read."""
    return {"state": "unknown", "sentence": str(error), "steps": [], "startable": True}


def steps(known: Json) -> list[Json]:
    """The phases in order, each done, current or still to come."""
    phases: list[str] = list(Phase)
    phase = known.get("phase") if known["state"] == "running" else None
    if phase and phase not in phases:
        phases.insert(0, phase)
    place = phases.index(phase) if phase else -1
    return [
        {
            "phase": name,
            "name": name.words if isinstance(name, Phase) else name.capitalize(),
            "status": "done" if number < place else "current" if number == place else "pending",
        }
        for number, name in enumerate(phases)
    ]
