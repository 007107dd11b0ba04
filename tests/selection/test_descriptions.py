"""Every strategy is described and drawn; the pictures are what the strategies select today."""

import strategy_pictures

from coreset_backend.selection import STRATEGIES
from coreset_backend.selection.descriptions import DESCRIPTIONS


def test_every_strategy_is_described() -> None:
    assert set(DESCRIPTIONS) == set(STRATEGIES)


def test_the_pictures_are_those_of_today() -> None:
    for name, drawing in strategy_pictures.pictures().items():
        found = strategy_pictures.path_of(name).read_text()
        assert found == drawing, f"{name}: run `python tests/support/strategy_pictures.py`"


def test_the_page_is_that_of_today() -> None:
    document = strategy_pictures.DOCUMENT.read_text()
    assert strategy_pictures.with_sections(document) == document
