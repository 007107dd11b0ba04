"""The people of a Label Studio, by their ids."""

import logging

from coreset_backend.errors import LabelStudioError
from coreset_backend.label_studio.answers import read_people
from coreset_backend.label_studio.client import LabelStudio

log = logging.getLogger(__name__)


def fetch_people(label_studio: LabelStudio) -> dict[str, str]:
    """User id -> e-mail address; empty where Label Studio does not tell the token's user."""
    try:
        return read_people(label_studio.request("GET", "/api/users/"))
    except LabelStudioError as error:
        log.warning("the annotators are shown by their ids: %s", error)
        return {}
