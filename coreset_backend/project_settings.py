"""The settings of one project, which its lead sets in Label Studio.

The label config (``coreset_batch_size="100"`` on any of its tags) overrides the backend's "extra params" in
Label Studio's form (``{"batch_size": 100}``), and both override the environment.
"""

import logging
from collections.abc import Mapping
from typing import Annotated, TypedDict, TypeVar
from xml.etree import ElementTree

from pydantic import Field, TypeAdapter, ValidationError

from coreset_backend.errors import ConfigError
from coreset_backend.selection import STRATEGIES
from coreset_backend.settings import Settings
from coreset_backend.settings.settings import PREFIX

log = logging.getLogger(__name__)
T = TypeVar("T")
FIELDS = (
    "batch_size",
    "strategy",
    "group_duplicates",
    "outlier_share",
    "holdout",
    "trigger",
    "batch_done",
    "new_labels",
    "control",
    "preannotate",
    "second_opinion",
)
ATTRIBUTE = PREFIX.lower()
LABEL_CONFIG, EXTRA_PARAMS = "label config", "extra params"


class SettingOfProject(TypedDict):
    """A setting as it holds for a project; ``source`` says who set it."""

    name: str
    value: str | int | float | bool | None
    source: str


def _values_of(name: str) -> TypeAdapter[object]:
    """The type of the setting and its bounds."""
    field = Settings.model_fields[name]
    return TypeAdapter(Annotated[field.annotation, Field(), *field.metadata])  # type: ignore[arg-type]


_VALUES = {name: _values_of(name) for name in FIELDS}


def label_config_attributes(label_config: str) -> dict[str, str]:
    """Setting -> value of the ``coreset_`` attributes anywhere in the label config; empty if it
    is not XML.
    """
    try:
        root = ElementTree.fromstring(label_config)
    except ElementTree.ParseError:
        return {}
    found = {}
    for tag in root.iter():
        for name, value in tag.attrib.items():
            if name.startswith(ATTRIBUTE):
                found[name.removeprefix(ATTRIBUTE)] = value
    return found


def project_settings(settings: Settings, extra_params: object, attributes: Mapping[str, str]) -> Settings:
    """``settings`` with the project's own settings on top.

    Raises ConfigError naming the source, the setting, what came and what is known.
    """
    given = {**_checked(extra_params, EXTRA_PARAMS), **_checked(attributes, LABEL_CONFIG)}
    return settings.model_copy(update=given)


def known_settings(given: Mapping[str, T], source: str) -> dict[str, T]:
    """The settings that this release knows, with valid values; the log names the others."""
    known = {}
    for name, value in given.items():
        try:
            _checked({name: value}, source)
        except ConfigError as error:
            log.warning("ignored: %s", error)
        else:
            known[name] = value
    return known


def settings_table(
    settings: Settings, extra_params: object, attributes: Mapping[str, str]
) -> list[SettingOfProject]:
    """``[{name, value, source}]`` of the project's settings."""
    resolved = project_settings(settings, extra_params, attributes)
    sources = {
        **dict.fromkeys(settings.model_fields_set, "environment"),
        **dict.fromkeys(_checked(extra_params, EXTRA_PARAMS), EXTRA_PARAMS),
        **dict.fromkeys(attributes, LABEL_CONFIG),
    }
    return [
        {"name": name, "value": getattr(resolved, name), "source": sources.get(name, "default")}
        for name in FIELDS
    ]


def _printable(text: str, most: int = 100) -> str:
    """The beginning of a typed value, on one line."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(text.split())[:most])


def _checked(given: object, source: str) -> dict[str, object]:
    """The settings given, by name and of the right type."""
    if not isinstance(given, Mapping | None):
        raise ConfigError(f'The {source} must be a JSON object, as in {{"batch_size": 100}}.')
    named = {str(name).removeprefix(ATTRIBUTE): value for name, value in (given or {}).items()}
    if unknown := _printable(", ".join(sorted(set(named) - set(FIELDS)))):
        raise ConfigError(f"Unknown in the {source}: {unknown}. A project can set {', '.join(FIELDS)}.")
    # A path to code is taken from the environment only.
    if (strategy := named.get("strategy")) is not None and str(strategy) not in STRATEGIES:
        raise ConfigError(
            f"There is no strategy {str(strategy)[:40]!r} ({source}). Known are: {', '.join(STRATEGIES)}."
        )
    return {name: _checked_value(name, value, source) for name, value in named.items()}


def _checked_value(name: str, value: object, source: str) -> object:
    try:
        return _VALUES[name].validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{name} in the {source}: {first['msg']} (it is {str(first['input'])[:40]!r})."
        ) from None
