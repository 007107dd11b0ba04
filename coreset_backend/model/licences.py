"""Under which licence weights are: as their configuration or their model card says."""

from pathlib import Path

from huggingface_hub.repocard import metadata_load

SPELLED = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "cc0-1.0": "CC0-1.0",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
}
PERMISSIVE = ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0")
"""Licences that let everybody use the weights for everything. What has another is used only if named."""
UNKNOWN = "licence unknown"


def spelled(licence: str) -> str:
    """The licence as it is usually written."""
    return SPELLED.get(licence.lower(), licence)


def is_permissive(licence: str) -> bool:
    """Whether everybody may use what has this licence for everything, also for money."""
    return spelled(licence).partition(" ")[0] in PERMISSIVE


def card_licence(card: Path) -> str:
    """The licence that a model card (README.md of the hub) names; empty where there is none."""
    try:
        fields = metadata_load(card) or {}
    except (OSError, ValueError):
        return ""
    licence = str(fields.get("license_name") or fields.get("license") or "")
    return licence[:60] if licence.isprintable() else ""


def in_words(licence: str) -> str:
    """The licence as it stands behind a backbone's name, with a warning where it is not permissive."""
    if not licence:
        return UNKNOWN
    words = f"licence {spelled(licence)}"
    return words if is_permissive(licence) else f"{words}: read it before commercial use"
