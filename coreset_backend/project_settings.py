"""The settings of one project, which its lead sets in Label Studio without touching the server.

What the label config says (``coreset_batch_size="100"`` on any of its tags) goes before the backend's
"extra params" in Label Studio's form (``{"batch_size": 100}``), and that before the environment.
"""

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from pydantic import ConfigDict, ValidationError, create_model

from coreset_backend.errors import ConfigError
from coreset_backend.selection import STRATEGIES
from coreset_backend.settings import PREFIX, Settings

Json = Any
FIELDS = ("batch_size", "strategy", "holdout", "batch_done", "new_labels", "preannotate")
ATTRIBUTE = PREFIX.lower()
LABEL_CONFIG, EXTRA_PARAMS = "label config", "extra params"

_Given: Any = create_model(
    "_Given",
    __config__=ConfigDict(populate_by_name=True),
    **{name: (Settings.model_fields[name].annotation, Settings.model_fields[name]) for name in FIELDS},  # type: ignore[call-overload]
)


def label_config_attributes(label_config: str) -> dict[str, str]:
    """Setting -> value of the ``coreset_`` attributes anywhere in the label config; empty if it is no XML."""
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


def project_settings(settings: Settings, extra_params: Json, attributes: Mapping[str, str]) -> Settings:
    """``settings`` with what the project's lead set on top.

    Raises ConfigError naming the source, the setting, what came and what is known.
    """
    given = {**_checked(extra_params, EXTRA_PARAMS), **_checked(attributes, LABEL_CONFIG)}
    return settings.model_copy(update=given)


def settings_table(settings: Settings, extra_params: Json, attributes: Mapping[str, str]) -> list[Json]:
    """``[{name, value, source}]`` of the settings that a project can set, as they hold for it."""
    resolved = project_settings(settings, extra_params, attributes)
    extra = _checked(extra_params, EXTRA_PARAMS)
    return [
        {
            "name": name,
            "value": getattr(resolved, name),
            "source": LABEL_CONFIG
            if name in attributes
            else EXTRA_PARAMS
            if name in extra
            else "environment"
            if name in settings.model_fields_set
            else "default",
        }
        for name in FIELDS
    ]


def _checked(given: Json, source: str) -> dict[str, Any]:
    """The settings given, by name and of the right type."""
    if not isinstance(given, Mapping | None):
        raise ConfigError(f'The {source} must be a JSON object, as in {{"batch_size": 100}}.')
    named = {str(name).removeprefix(ATTRIBUTE): value for name, value in (given or {}).items()}
    if unknown := sorted(set(named) - set(FIELDS)):
        raise ConfigError(
            f"Unknown in the {source}: {', '.join(unknown)[:100]}. A project can set {', '.join(FIELDS)}."
        )
    # A path to code is taken from the environment only.
    if (strategy := named.get("strategy")) is not None and str(strategy) not in STRATEGIES:
        raise ConfigError(
            f"There is no strategy {str(strategy)[:40]!r} ({source}). Known are: {', '.join(STRATEGIES)}."
        )
    try:
        checked = _Given(**named)
    except ValidationError as error:
        first = error.errors()[0]
        name = "new_labels" if first["loc"][0] not in FIELDS else first["loc"][0]
        raise ConfigError(
            f"{name} in the {source}: {first['msg']} (it is {str(first['input'])[:40]!r})."
        ) from None
    return {name: getattr(checked, name) for name in named}
