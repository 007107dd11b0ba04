"""Images that a person marked as "more like these" or "fewer like these", for the next selections.

MODEL_DIR/projects/<id>/examples.json
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from coreset_backend.errors import CorruptFile, ProjectError
from coreset_backend.store.record import Example, as_saved
from coreset_backend.store.storage import Kept
from coreset_backend.store.store import Store

MORE, FEWER = 4.0, 0.25
"""Images like a marked one count four times, or a quarter."""
MOST_EXAMPLES = 200


@dataclass(frozen=True, slots=True)
class Examples:
    """The marked images; ``remark``: why they cannot be read, "" if they can."""

    examples: tuple[Example, ...] = ()
    remark: str = ""


EXAMPLES = TypeAdapter(Examples)


def read_examples(store: Store, project_id: int) -> tuple[Example, ...]:
    """The marked images of the project, the latest last. Raises CorruptFile where the file is damaged."""
    kept = _kept(store, project_id)
    try:
        saved = kept.read_as(EXAMPLES)
        return () if saved is None else saved.examples
    except ValueError as error:
        raise CorruptFile(kept, str(error)) from None


def shown_examples(store: Store, project_id: int) -> Examples:
    """The same for the page; what is wrong with the file is the remark."""
    try:
        return Examples(read_examples(store, project_id))
    except CorruptFile as error:
        return Examples(remark=f"{error}. Delete examples.json in the project's folder below MODEL_DIR.")


def mark_examples(
    store: Store, project_id: int, task_ids: Sequence[int], weight: float | None
) -> tuple[Example, ...]:
    """Give the images this weight, or none; returns all marked images.

    Raises ProjectError beyond MOST_EXAMPLES, CorruptFile and Unwritable.
    """
    marked = tuple(dict.fromkeys(task_ids))
    kept = tuple(each for each in read_examples(store, project_id) if each.task_id not in set(marked))
    if weight is not None:
        kept += tuple(Example(task_id, weight) for task_id in marked)
    if len(kept) > MOST_EXAMPLES:
        raise ProjectError(
            f"{len(kept):,} images would be marked as examples; up to {MOST_EXAMPLES} can be. Remove "
            "some, or mark fewer at once: one stands for all that look like it."
        )
    _kept(store, project_id).write(as_saved(EXAMPLES, Examples(kept)))
    return kept


def examples_words(examples: Sequence[Example]) -> str:
    """How many images are marked, as in 3 “more like these” and 1 “fewer like these”."""
    more = sum(each.weight > 1 for each in examples)
    counts = ((more, "more like these"), (len(examples) - more, "fewer like these"))
    return " and ".join(f"{count} “{words}”" for count, words in counts if count)


def _kept(store: Store, project_id: int) -> Kept:
    return store.kept(project_id, "examples.json")
