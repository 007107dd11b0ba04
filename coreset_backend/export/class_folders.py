"""Names of classes -> names of folders that every file system takes, no two of them alike."""

import re
import unicodedata
from collections.abc import Sequence

LONGEST = 100
"""Bytes: file systems take 255, and some programs add to a name."""
# What Windows forbids in a name, and what a terminal or a browser obeys.
_FORBIDDEN = re.compile(
    r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff'
    "\ud800-\udfff]+"
)
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")


def class_folders(names: Sequence[str]) -> dict[str, str]:
    """Class -> folder. Names that differ in capitals or accents' spelling only get a number behind them."""
    taken: set[str] = set()
    return {name: _free(_safe(name), taken) for name in names}


def _safe(name: str) -> str:
    """The name without what a file system or a command could take for something else."""
    plain = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", name))
    plain = re.sub(r"^[.\-~ ]+", "_", plain.strip())
    plain = re.sub(r"[\s_]*_[\s_]*", "_", " ".join(plain.split())).rstrip(". ")
    short = plain.encode()[:LONGEST].decode(errors="ignore").rstrip(". ")
    return f"{short}_" if not short or _RESERVED.fullmatch(short) else short


def _free(folder: str, taken: set[str]) -> str:
    """The folder, with a number if another has its name where capitals do not count; notes it as taken."""
    number, free = 2, folder
    while _folded(free) in taken:
        free, number = f"{folder}-{number}", number + 1
    taken.add(_folded(free))
    return free


def _folded(folder: str) -> str:
    return unicodedata.normalize("NFKC", folder).casefold()
