"""The errors of this package, as one tree.

CoresetError
├─ ConfigError             a setting, strategy or backbone that is unknown or malformed
├─ ProjectError            the project does not allow a round as it is
│  ├─ UnsupportedLabelConfig   no <Image> whose images can be read
│  ├─ TooFewLabels             fewer labels or classes than a fit needs
│  ├─ EmptyPool                the project has no tasks
│  └─ BulkError                labels in bulk that cannot be written or undone as asked
├─ LabelStudioError        Label Studio does not answer, or refuses
│  ├─ Unreachable              no answer, or none in time
│  ├─ Unauthorized             the token is missing, revoked or of a disabled kind
│  ├─ Rejected                 an answer with an error status
│  └─ ProjectGone              the project does not exist there
├─ ImageError              one image cannot be used; becomes an ImageFailure of its task
│  └─ TooManyImageFailures     so many that the rest of the pool is too small to select from
├─ ModelError              the model cannot be trained or used
│  ├─ NotFinite                training or embedding gave NaN or infinity
│  ├─ OutOfMemory              even one image does not fit
│  └─ DownloadFailed           weights could not be downloaded, and may be later
├─ ExportError             the folder of an export cannot be written, or would lose something
├─ ClusterError            the cluster that embeds the images cannot be reached, or was lost
├─ QueueError              Redis, which carries requests and progress, does not answer
├─ TakenOver               another process has taken over the project's lease
└─ StoreError              something on disk cannot be used
   ├─ RoundNotFound            no such round
   ├─ Unwritable               no room, or no permission to write
   ├─ StorageError             the bucket of the store does not answer, or refuses
   └─ CorruptFile              a file is missing, altered or malformed
      └─ CorruptRound              it is a file of a round

A message says what came, what was expected and what to do. ``ValueError`` is kept for programmer
mistakes in pure functions.
"""

import errno
from collections.abc import Iterable
from pathlib import Path

from coreset_backend.foreign_text import one_line
from coreset_backend.redaction import redacted

NO_MEMORY = (
    "out of memory",
    "ALLOC_FAILED",
    "can't allocate memory",
    "Cannot allocate memory",
    "could not create a primitive",
    "could not create a memory object",
    "bad_alloc",
    "can't start new thread",
    "failed to map segment from shared object",
)
"""How a GPU, its libraries, torch's allocator, oneDNN, Python and the loader report that memory ran out."""


class CoresetError(Exception):
    """The base of all errors that this package raises on purpose.

    The message and the ``lines`` below it contain no secret, and each is one line.
    """

    def __init__(self, message: str = "", *, lines: Iterable[str] = ()) -> None:
        super().__init__("\n".join(one_line(redacted(line)) for line in (message, *lines)))


class ConfigError(CoresetError):
    """A setting, strategy or backbone that is unknown or malformed."""


class ProjectError(CoresetError):
    """The Label Studio project does not allow a round as it is."""


class UnsupportedLabelConfig(ProjectError):
    """The label config has no <Image> whose images can be read."""


class TooFewLabels(ProjectError):
    """Fewer labels than a fit needs: there are ``have``, it needs ``need``."""

    def __init__(self, have: int, need: int) -> None:
        super().__init__(
            f"{have} labelled images, but a fit needs at least {need}. Label more and start again."
        )
        self.have, self.need = have, need


class EmptyPool(ProjectError):
    """The project has no tasks."""


class FinishError(ProjectError):
    """The model's labels cannot be proposed, accepted or removed now."""


class BulkError(ProjectError):
    """Labels in bulk cannot be written or undone as a person asked."""


class ImportRefused(ProjectError):
    """Predictions that cannot be imported."""


class LabelStudioError(CoresetError):
    """Label Studio does not answer, or refuses."""


class Unreachable(LabelStudioError):
    """Label Studio gave no answer, or none in time."""


class Unauthorized(LabelStudioError):
    """The token is missing, revoked or of a kind that the organisation has disabled."""


class Rejected(LabelStudioError):
    """Label Studio answered with an error: ``status`` and the first 200 characters of ``body``."""

    def __init__(self, status: int, body: str, request: str = "") -> None:
        shown = redacted(body[:10_000])[
            :200
        ]  # redacted before it is cut: half a secret would not be recognized
        super().__init__(f"Label Studio answered {status} to {request or 'a request'}: {shown}")
        self.status, self.body = status, shown


class ProjectGone(Rejected):
    """Label Studio has no project of that number, or the token's user may not see it."""


class ImageError(CoresetError):
    """One image cannot be fetched or decoded; the round continues without it."""


class TooManyImageFailures(ImageError):
    """Too many images failed, so the round stopped; ``share``: the failed share, in [0, 1]."""

    def __init__(self, share: float, example: str) -> None:
        super().__init__(
            f"{share:.0%} of the images could not be read, so nothing was selected. "
            f"The first reason was: {example}"
        )
        self.share = share


class ModelError(CoresetError):
    """The model cannot be trained or used."""


class NotFinite(ModelError):
    """Training or embedding gave NaN or infinity."""


class OutOfMemory(ModelError):
    """Even one image at a time does not fit into memory."""


class DownloadFailed(ModelError):
    """The weights of ``what`` could not be downloaded; ``why`` says what the network or the hub did."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(
            f"The weights of {what} could not be downloaded ({why}). It is tried again later. Without a "
            "network: download them on another machine and see 'Other weights' in docs/deploy.md, or set "
            "CORESET_BACKBONE=auto, which needs no download."
        )
        self.why = why


class ExportError(CoresetError):
    """The folder of an export cannot be written, or something in it would be lost."""


class ClusterError(CoresetError):
    """The cluster that embeds the images cannot be reached, or was lost; it may be back later."""


class QueueError(CoresetError):
    """Redis, which carries requests and progress, does not answer."""


class TakenOver(CoresetError):
    """The lease expired while this process was stopped, and another process has the project."""


class StoreError(CoresetError):
    """Something on disk cannot be used."""


class RoundNotFound(StoreError):
    """No round of that version is in the store."""


class Unwritable(StoreError):
    """The file or folder ``path`` could not be written: no room, or no permission."""

    def __init__(self, path: Path, why: OSError) -> None:
        super().__init__(
            f"{path.name} could not be saved below {path.parent.absolute()}: {why.strerror or why}. "
            "Free disk space there, or give this process permission to write."
        )


class StorageError(StoreError):
    """The store's bucket does not answer, or refuses. ``fix``: what to do; ``said``: the reason it gave."""

    def __init__(self, place: str, fix: str, said: str) -> None:
        reason = said.partition("Debug source:")[0].strip()
        super().__init__(f"{place} cannot be used. {fix} The reason was: {reason[:400]}")


class CorruptFile(StoreError):
    """The file or folder ``path`` is missing, incomplete, altered or malformed; ``why`` says which."""

    words = "{path} cannot be used: {why}."

    def __init__(self, path: object, why: str) -> None:
        super().__init__(self.words.format(path=path, why=why))
        self.why = why


class CorruptRound(CorruptFile):
    """A file of the round at ``path`` is missing, incomplete, altered or malformed."""

    words = "The round at {path} cannot be used: {why}. Start a new round."


def memory_ran_out(error: Exception) -> bool:
    """Whether the error says that memory ran out; it need not be a MemoryError."""
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or any(words in str(error) for words in NO_MEMORY)
    )
