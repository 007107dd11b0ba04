"""Weights from the Hugging Face hub and from addresses: looked up in the caches on disk, or downloaded.

The caches are huggingface_hub's and torch's: HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN, TORCH_HOME and
the variables of proxies hold. A file appears there whole or not at all, whoever else downloads it.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
import torch
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils.tqdm import tqdm

from coreset_backend.arrays import Progress
from coreset_backend.errors import ConfigError, DownloadFailed
from coreset_backend.files import replacing, sha256
from coreset_backend.model.weights import named_hash

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
CONFIGURATION, CARD = "config.json", "README.md"
CONNECT_SECONDS = 3.0
SILENCE_SECONDS = 5.0
"""Without a byte for so long, a download is given up: a dead network often refuses nothing."""
TRIED_SECONDS = 10.0
LONGEST_SECONDS = 600.0
"""A download that will take longer, as its first seconds show, is given up: a round waits for it."""
LEFT_BEHIND_SECONDS = 86_400.0
# The hub's own 10 MB are reported when they are complete, so a slow download would look like a dead one.
constants.DOWNLOAD_CHUNK_SIZE = 262_144
T = TypeVar("T")


def is_offline() -> bool:
    """Whether the environment forbids the hub."""
    return bool(constants.HF_HUB_OFFLINE)


def cached_weights(repository: str, revision: str = "") -> Path | None:
    """The weights of that repository where they are in the cache on this machine; asks nobody."""
    for name in WEIGHT_FILES:
        found = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def download_weights(repository: str, revision: str = "", progress: Progress | None = None) -> Path:
    """The weights of that repository, downloaded with their configuration and card into the same folder.

    ``progress`` gets (bytes so far, bytes in all). Raises DownloadFailed where the network is to blame, and
    ConfigError where the repository, the revision or its files are.
    """
    if is_offline():
        raise DownloadFailed(repository, "HF_HUB_OFFLINE is set")
    try:
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
        download = functools.partial(_snapshot, repository, revision)
        found = _watched(download, progress, repository, folder / "blobs")
    except HFValidationError as error:
        raise ConfigError(f"{repository!r} is no name on the hub; expected was org/name.") from error
    except GatedRepoError as error:
        raise ConfigError(
            f"{repository} is gated: accept its licence at {constants.ENDPOINT}/{repository}, then set "
            "HF_TOKEN to a token of that account."
        ) from error
    except RevisionNotFoundError as error:
        raise ConfigError(f"{repository} has no revision {revision!r} on {constants.ENDPOINT}.") from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"{constants.ENDPOINT} knows no {repository}, or it is private: check the name, or set HF_TOKEN."
        ) from error
    _require_intact(found)
    return found


def _snapshot(repository: str, revision: str, counter: type[tqdm]) -> Path:
    """All that is needed of one revision, whatever is uploaded meanwhile."""
    name, commit = _weights_on_hub(repository, revision)
    for beside in (CONFIGURATION, CARD):
        with contextlib.suppress(EntryNotFoundError):
            hf_hub_download(repository, beside, revision=commit, tqdm_class=counter)
    # Last, since they count as being at hand; by the revision, so that the cache knows where it points.
    return Path(hf_hub_download(repository, name, revision=revision or None, tqdm_class=counter))


def _weights_on_hub(repository: str, revision: str) -> tuple[str, str]:
    """The name of the weights file, and the commit that the revision stands for."""
    for name in WEIGHT_FILES:
        address = hf_hub_url(repository, name, revision=revision or None, endpoint=constants.ENDPOINT)
        try:
            found = get_hf_file_metadata(address, timeout=CONNECT_SECONDS)
        except EntryNotFoundError:
            continue
        return name, found.commit_hash or revision
    raise ConfigError(f"{repository} has no weights of a known name: expected was {', '.join(WEIGHT_FILES)}.")


def _require_intact(path: Path) -> None:
    """Raises DownloadFailed unless the file has the hash that the hub says; then it is removed."""
    if not sha256(path).startswith(named_hash(path)):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise DownloadFailed(path.name, "its SHA-256 is not what the hub says, so it was removed")


# ---------------------------------------------------------------- files that are published at an address


def cached_file(address: str) -> Path:
    """Where torch's cache has, or would have, the file of that address."""
    return Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]


def download_file(address: str, progress: Progress | None = None) -> Path:
    """The file of that address in torch's cache; raises DownloadFailed."""
    path = cached_file(address)
    if is_offline():
        raise DownloadFailed(path.name, "HF_HUB_OFFLINE is set")
    path.parent.mkdir(parents=True, exist_ok=True)
    return _watched(functools.partial(_fetched, address, path), progress, address, path.parent)


def _fetched(address: str, path: Path, counter: type[tqdm]) -> Path:
    with replacing(path, suffix=".incomplete") as partial:  # as the hub calls its own
        with partial.open("wb") as file:
            http_get(address, file, tqdm_class=counter)
        if not sha256(partial).startswith(named_hash(path)):
            raise DownloadFailed(path.name, "its SHA-256 is not that of its name")
    return path


# ---------------------------------------------------------------- a download that nobody waits for too long


class _Transfer:
    """How far a download in another thread is, and whether anybody still waits for it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.written = folder, 0
        self.done = self.total = 0
        self.started = self.heard = time.monotonic()
        self.is_given_up = False

    def add(self, count: float) -> None:
        if self.is_given_up:
            raise OSError("the download was given up")
        self.done += int(count)
        self.heard = time.monotonic()

    def why_to_give_up(self) -> str:
        """Empty while it may go on."""
        now = time.monotonic()
        if (written := self._on_disk()) != self.written:  # another worker may be downloading the same
            self.written, self.heard = written, now
        if now > self.heard + SILENCE_SECONDS:
            return f"no answer for {SILENCE_SECONDS:.0f} s"
        seconds = now - self.started
        if self.done and seconds > TRIED_SECONDS:
            left = (self.total - self.done) / self.done * seconds
            if left > LONGEST_SECONDS:
                return f"at this speed it takes {left / 60:.0f} min more"
        return ""

    def _on_disk(self) -> int:
        """Bytes of the unfinished files."""
        total = 0
        for path in self.folder.glob("*.incomplete"):
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total


def _watched(download: Callable[[type[tqdm]], T], progress: Progress | None, what: str, folder: Path) -> T:
    """What ``download`` gives, in a thread of its own; raises DownloadFailed where it stands still.

    ``folder``: where unfinished files grow. The thread may hang in a name lookup, which knows no limit: then
    it is left behind.
    """
    transfer, ended = _Transfer(folder), threading.Event()
    _remove_left_behind(folder)
    found: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            found.append(download(_counter(transfer)))
        except Exception as error:  # noqa: BLE001  # raised again where somebody waits
            failed.append(error)
        ended.set()

    threading.Thread(target=run, name="download", daemon=True).start()
    try:
        while not ended.wait(0.1):
            if progress and transfer.total:
                progress(transfer.done, transfer.total)
            if why := transfer.why_to_give_up():
                raise DownloadFailed(what, why)
    finally:
        transfer.is_given_up = True
    if failed:
        _raise_failure(failed[0], what)
    if progress and transfer.total:
        progress(transfer.total, transfer.total)
    return found[0]


def _remove_left_behind(folder: Path) -> None:
    """Remove unfinished files of processes that were killed long ago."""
    for path in folder.glob("*.incomplete"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - LEFT_BEHIND_SECONDS:
                path.unlink()


def _raise_failure(error: Exception, what: str) -> None:
    """The network's failures as DownloadFailed, everything else as it is."""
    known = (ConfigError, DownloadFailed, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError)
    if isinstance(error, known) or not isinstance(error, httpx.HTTPError | OSError | ValueError):
        raise error
    raise DownloadFailed(what, " ".join(str(error).split())[:200] or type(error).__name__) from error


def _counter(transfer: _Transfer) -> type[tqdm]:
    """What the hub's downloads report their bytes to; it draws nothing."""

    class Counter(tqdm):
        def __init__(
            self, *given: object, total: float | None = None, initial: float = 0, **named: object
        ) -> None:
            super().__init__(*given, **{**named, "disable": True})  # type: ignore[no-untyped-call]
            transfer.total += int(total or 0)
            transfer.add(initial)

        def update(self, n: float | None = 1) -> bool | None:
            transfer.add(n or 0)
            return None

    return Counter
