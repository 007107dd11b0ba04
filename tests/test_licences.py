"""docs/licences.md lists every package that is installed with us, under a licence that is allowed."""

import re

import licences
import pytest

DOCUMENT = licences.DOCUMENT.read_text()


def listed() -> dict[str, str]:
    """Package -> licence, as the document says."""
    rows = re.findall(r"^\| (.+) \| (.+) \|$", DOCUMENT.partition(licences.END)[0], re.MULTILINE)
    return {name: licence for licence, names in rows[1:] for name in names.split(", ")}


def test_the_list_names_only_what_the_lock_does() -> None:
    assert set(listed()) <= licences.required()


def test_every_installed_package_has_the_licence_that_the_list_says() -> None:
    said = listed()
    for name, licence in licences.installed():
        assert said.get(name) == licence, f"{name}: run `make licences`"


def test_every_licence_in_the_list_is_allowed() -> None:
    refused = {name: licence for name, licence in listed().items() if not licences.allowed(licence)}
    assert not refused


@pytest.mark.parametrize("licence", ["GPL-3.0-only", "MIT AND AGPL-3.0-only", "UNKNOWN", "CC-BY-NC-4.0", ""])
def test_a_licence_that_is_not_in_the_lists_is_refused(licence: str) -> None:
    assert not licences.allowed(licence)


@pytest.mark.parametrize("licence", ["MIT OR GPL-2.0-only", "(MIT AND Zlib)", "MPL-2.0 AND MIT"])
def test_one_allowed_choice_is_enough_and_all_terms_of_it_must_be(licence: str) -> None:
    assert licences.allowed(licence)
