"""Makes foreign text (addresses, titles, answers of servers) safe for a log line, a terminal, a CSV cell."""

import re

LONGEST = 2000
# Line breaks of every kind, terminal controls, marks that reorder or hide text, and surrogates, which UTF-8
# cannot encode. The joiners of Persian and emoji (U+200C, U+200D) stay.
_FORGING = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
# What a spreadsheet may read as a formula: at the beginning of a cell, also after spaces, and inside a cell
# if it splits at semicolons, tabs or bars instead of commas.
_FORMULA = re.compile("(^|[;,|\t\r\n])(?=[\\s\u200b\ufeff\0]*[=+\\-@\uff0b\uff0d\uff1d\uff20]|[\t\r\n])")


def one_line(text: str, most: int = LONGEST) -> str:
    """``text`` as one line of at most ``most`` characters; everything that could forge a line is escaped."""
    line = _FORGING.sub(lambda found: found[0].encode("unicode_escape").decode(), text[: most + 1])
    return line if len(line) <= most else f"{line[: most - 1]}…"


def fit_cell(text: str) -> str:
    """``text`` for a CSV cell, with an apostrophe before everything that could start a formula."""
    return _FORMULA.sub(r"\1'", text)
