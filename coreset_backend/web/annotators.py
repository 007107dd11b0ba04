"""The card on the annotators' answers: how many are wrong, what is asked again, and who agrees how often.

Names are shown only where the page needs a login: without one, whoever reaches the port would read them.
"""

from dataclasses import dataclass

from coreset_backend.backend import Backend
from coreset_backend.store.record import AnnotatorAgreement, SecondOpinion
from coreset_backend.store.saved_round import StoredRound


@dataclass(frozen=True, slots=True)
class AnnotatorsCard:
    """``rate`` of wrong answers, by estimate, with a ``sentence``; the tasks ``asked`` for once more.

    ``people``: how many have labelled; ``annotators``: those people, empty where no login is set.
    """

    rate: float | None
    sentence: str
    asked: tuple[SecondOpinion, ...]
    people: int
    annotators: tuple[AnnotatorAgreement, ...]


def annotators_card(backend: Backend, stored: StoredRound | None) -> AnnotatorsCard | None:
    """The card of the newest round; None while one person alone has labelled and nothing is known."""
    if stored is None:
        return None
    errors = stored.record.label_errors
    if errors.rate is None and len(errors.annotators) < 2:
        return None
    shown = errors.annotators if backend.basic_auth else ()
    return AnnotatorsCard(errors.rate, errors.sentence, errors.asked, len(errors.annotators), shown)
