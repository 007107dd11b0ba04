"""The value of a setting as a person wrote it: cleaned, or refused with the reason. Pure: no I/O."""

import codecs
import unicodedata

# Characters that editors and copying leave around a value, besides the white space that `strip` removes.
INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060\x00"
QUOTATION_MARKS = (('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u2018", "\u2019"))


def clean(value: str) -> str:
    """The value without surrounding white space, line ends, a BOM and a pair of quotation marks."""
    bare = value.strip().strip(INVISIBLE).strip()
    for opening, closing in QUOTATION_MARKS:
        inside = bare[1:-1]
        if len(bare) > 1 and bare[0] == opening and bare[-1] == closing and opening not in inside:
            return inside.strip()
    return bare


def refuse_control_characters(value: str) -> None:
    """Raises ValueError that names the first control character and its place."""
    for place, character in enumerate(value, 1):
        if unicodedata.category(character) in ("Cc", "Zl", "Zp"):
            what = (
                "a line break"
                if character in "\r\n\x85\u2028\u2029"
                else f"the control character {character!r}"
            )
            raise ValueError(f"character {place} of {len(value)} is {what}; write one value on one line")


def refuse_unsendable(value: str) -> None:
    """Raises ValueError that names the first character that an HTTP header cannot have, and its place."""
    for place, character in enumerate(value, 1):
        if not "!" <= character <= "~":
            name = unicodedata.name(character, "unknown").lower()
            raise ValueError(
                f"character {place} of {len(value)} is '{name}', which cannot be sent; copy the value again, "
                "without spaces, accents or words around it"
            )


def decoded(content: bytes) -> str:
    """The text of a file; PowerShell's ``>`` writes UTF-16."""
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf16 else "utf-8-sig")
