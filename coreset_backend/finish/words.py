"""A finish in words: how far it is, and what a person can do next."""

from coreset_backend.finish.session import Audited, FinishState, Kind, Session


def sentence(session: Session, planned: bool) -> str:
    """The state of the finish and what to do next; ``planned``: it has not begun, and would be so."""
    copies = session.kind is Kind.COPIES
    if session.remark:
        return session.remark
    if session.state is FinishState.WRITING:
        whose = "Labels of originals are" if copies else "The model's labels are"
        return f"{whose} being written on {len(session.accepted):,} images."
    if session.state is FinishState.UNDOING:
        return (
            "What the copies took is being removed." if copies else "What the finish wrote is being removed."
        )
    if session.state is FinishState.WRITTEN:
        how = "have the label of their original" if copies else "are labelled by the model"
        return f"{session.written:,} images {how}.{_refused(session.refused)} {_bounds(session)}"
    if planned:
        return f"{_plan_of_copies(session) if copies else _plan_of_model(session)} {_bounds(session)}"
    return f"{_bounds(session)} {_next(session)}".strip()


def _refused(count: int) -> str:
    """The labels that Label Studio did not accept; "" without any."""
    if not count:
        return ""
    images = "1 image has" if count == 1 else f"{count:,} images have"
    return f" {images} no label, because Label Studio did not accept it; people are asked instead."


def _plan_of_model(session: Session) -> str:
    each = " of each class" if session.per_class else ""
    return (
        f"The model of round {session.round} would propose labels for {_images(session):,} images. People "
        f"would check at most {session.most:,}{each}, first in the queue, without seeing its answer."
    )


def _plan_of_copies(session: Session) -> str:
    left_out = left_out_words(session.contradicted)
    return (
        f"{_images(session):,} unlabelled images are near-duplicates of images that people labelled, and "
        f"would take their label.{left_out} People would check at most {session.most:,} of them, first in "
        "the queue, without seeing that label; once enough of them are right, the others are labelled."
    )


def left_out_words(contradicted: int) -> str:
    """The groups of near-duplicates that are not followed; "" without any."""
    if not contradicted:
        return ""
    groups = "1 group is" if contradicted == 1 else f"{contradicted:,} groups are"
    return f" {groups} left out, because people's labels there contradict each other."


def _images(session: Session) -> int:
    return sum(group.images for group in session.audited)


def _bounds(session: Session) -> str:
    return " ".join(_bound(session, group) for group in session.audited) or "There is nothing to check."


def _bound(session: Session, group: Audited) -> str:
    """What is known of a group of answers, in one sentence."""
    name = f"{group.name}: " if group.name else ""
    if not group.set_size:
        if group.needed is None:
            more = "the audit allows no more checks than are left"
        else:
            more = f"about {group.needed:,} more checks are needed"
        return f"{name}Too little is known of {group.images:,} images: {more}."
    return (
        f"{name}By {group.checked:,} checked answers {group.set_size:,} of {group.images:,} images can be "
        f"finished: at most {group.most_wrong:,} of them get a wrong label "
        f"({group.most_wrong / group.set_size:.1%}), at {session.confidence:.0%} confidence. "
        f"{_share_of_labels(session, group)}"
    )


def _share_of_labels(session: Session, group: Audited) -> str:
    """The same count as a share of the labels that no person gives, which may all be among the wrong ones."""
    one, many = (
        ("a copied label", "copied labels")
        if session.kind is Kind.COPIES
        else ("the model's label", "labels by the model")
    )
    if not group.by_model:
        return f"None of them would have {one}."
    share = min(group.most_wrong / group.by_model, 1)
    return f"They are up to {share:.1%} of the {group.by_model:,} {many}."


def _next(session: Session) -> str:
    if session.asked:
        return f"{len(session.asked):,} answers to check are first in the queue."
    return "No more answers are to be checked."
