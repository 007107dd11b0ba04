"""The images that a task shows: a value of the label config, filled in with the task's data. Pure.

Follows ``parseValue`` of Label Studio's editor (1.23.2) and lodash's ``get``.
"""

import re
from collections.abc import Mapping

VARIABLE = re.compile(r"\$[\w\[\].{}]+", re.ASCII)


def image_uris(image: str, data: object) -> list[str]:
    """The addresses that ``image`` yields for a task's data, as in Label Studio's editor.

    Several if the data contain a list; none if a variable is missing.
    """
    if not isinstance(data, Mapping):
        return []
    name = image.removeprefix("$")
    if image.startswith("$") and (name in data or VARIABLE.fullmatch(image)):
        found = _value_at(name, data)
        every = found if isinstance(found, list) else [found]
        return [each for each in every if isinstance(each, str) and each]
    parts = [_as_text(_value_at(variable[1:], data)) for variable in VARIABLE.findall(image)]
    filled = iter(parts)
    return [] if "" in parts else [VARIABLE.sub(lambda _: next(filled), image)]


def _value_at(name: str, data: Mapping[str, object]) -> object:
    """The value at the key ``name`` if there is one, else at the path ``a.b[0].c``, like lodash's ``get``."""
    if name in data:
        return data[name]
    found: object = data
    for key in re.findall(r"[^.\[\]]+", name):
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, list) and key.isdecimal():
            found = found[int(key)] if int(key) < len(found) else None
        else:
            found = None
    # Label Studio's name for data that were imported before the config had a variable.
    return data.get("$undefined$") if found is None else found


def _as_text(value: object) -> str:
    """The value as part of an address; empty if it cannot be one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
