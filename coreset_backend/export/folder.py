"""The folder of an export: written beside its place and moved there when it is whole.

    PLACE                 appears at the end, in one step
    .NAME.part            what is being written; images in it are kept when an export is started again
    .NAME.old             the export before, until the new one has its place

An export may replace an earlier one of the same project whose files are as they were written. Anything else
that is not empty stays as it is, and the export is refused.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from coreset_backend.errors import ExportError
from coreset_backend.files import flush, saving, sha256, write_atomically

MARK = "export.json"
CHECKSUMS = "SHA256SUMS"
FORMAT = 1
MOST_NAMED = 3


@contextlib.contextmanager
def drafted_folder(place: Path, project_id: int) -> Iterator[Path]:
    """A folder whose contents become those of ``place`` when the block ends without an error.

    It has the files that a killed export of the project left in it. Raises ExportError where ``place`` holds
    something else than an unchanged export of the project, and Unwritable.
    """
    place = place.resolve()
    if place in (Path.cwd(), Path(place.root)):
        raise ExportError(f"{place} cannot be replaced while it is in use. Name a folder inside it.")
    partial, old = place.with_name(f".{place.name}.part"), place.with_name(f".{place.name}.old")
    with saving(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        _put_back(place, old)
        require_replaceable(place, project_id)
        partial.mkdir(exist_ok=True)
    with _locked(partial):
        _claim(partial, project_id)
        try:
            yield partial
        except BaseException:
            _drop_if_bare(partial)
            raise
        require_replaceable(place, project_id)
        with saving(place):
            _write_checksums(partial)
            os.sync()
            _swap(partial, place, old)


def _put_back(place: Path, old: Path) -> None:
    """Complete or undo the last steps of an export that was killed in them."""
    if not old.exists():
        return
    if marked_project(old) is None:
        raise ExportError(f"{old} is in the way and is no export. Move it, or name another folder.")
    if place.exists():
        shutil.rmtree(old)
    else:
        old.rename(place)


def require_replaceable(place: Path, project_id: int) -> None:
    """Raises ExportError unless ``place`` is free, an empty folder, or an unchanged export of the project."""
    if not place.exists() and not place.is_symlink():
        return
    if not place.is_dir():
        raise ExportError(f"{place} is a file. Name a folder that does not exist yet.")
    with saving(place):
        if not any(place.iterdir()):
            return
    exported = marked_project(place)
    if exported is None:
        raise ExportError(
            f"{place} is not empty and holds no export, so nothing is written. Name another folder."
        )
    if exported != project_id:
        raise ExportError(
            f"{place} holds an export of project {exported}, not of {project_id}. Name another folder."
        )
    if changed := list(_changed(place)):
        named = ", ".join(changed[:MOST_NAMED])
        more = f" and {len(changed) - MOST_NAMED:,} more" if len(changed) > MOST_NAMED else ""
        raise ExportError(
            f"{place} holds files that were added or changed since its export: {named}{more}. They would be "
            "lost. Name another folder, or move them away."
        )


def marked_project(folder: Path) -> int | None:
    """The project of which the folder holds an export; None if it holds none."""
    try:
        mark = json.loads((folder / MARK).read_bytes())
        project_id = mark["project"] if mark["export_format"] == FORMAT else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return project_id if isinstance(project_id, int) else None


def mark_folder(folder: Path, project_id: int, **told: object) -> None:
    """Write the file that says what the folder holds; raises Unwritable."""
    fields = {"export_format": FORMAT, "project": project_id, **told}
    write_atomically(folder / MARK, (json.dumps(fields, indent=2) + "\n").encode())


def _changed(folder: Path) -> Iterator[str]:
    """The names of files that the list of checksums lacks or has otherwise."""
    try:
        lines = (folder / CHECKSUMS).read_text().splitlines()
    except (OSError, ValueError):
        yield CHECKSUMS
        return
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for path in _files_in(folder):
        name = path.relative_to(folder).as_posix()
        if name == CHECKSUMS:
            continue
        if path.is_symlink() or listed.get(name) != sha256(path):
            yield name


def _write_checksums(folder: Path) -> None:
    paths = [path for path in _files_in(folder) if path.name != CHECKSUMS]
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    (folder / CHECKSUMS).write_text("".join(lines))


def _files_in(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder; raises ExportError if another export does."""
    with saving(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExportError(
                f"Another export is writing {folder}. Wait for it, or name another folder."
            ) from None
        yield
    finally:
        os.close(descriptor)


def _claim(partial: Path, project_id: int) -> None:
    """Mark the folder as that of an unfinished export; raises ExportError if it is something else."""
    with saving(partial):
        is_empty = not any(partial.iterdir())
    if not is_empty and marked_project(partial) != project_id:
        raise ExportError(
            f"{partial} is no unfinished export of project {project_id}. Delete it, or name another folder."
        )
    mark_folder(partial, project_id)


def _drop_if_bare(partial: Path) -> None:
    """Remove what a failed export left, unless the next one would go on with it."""
    if all(path.name == MARK for path in _files_in(partial)):
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, place: Path, old: Path) -> None:
    if marked_project(place) is not None:
        place.rename(old)
    elif place.exists():
        place.rmdir()  # an empty folder
    partial.rename(place)
    flush(place.parent)
    if old.exists():
        shutil.rmtree(old)
