import gc

import pytest
from click.testing import CliRunner

from coreset_backend.cli.main import main
from coreset_backend.cli.strategies import strategies
from coreset_backend.selection import STRATEGIES


def printed(monkeypatch: pytest.MonkeyPatch, strategy: str) -> str:
    monkeypatch.setenv("CORESET_STRATEGY", strategy)
    result = CliRunner().invoke(strategies)
    assert result.exit_code == 0, result.output
    return result.output


def test_it_names_every_strategy_and_the_one_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, "badge").splitlines()
    assert {line.removesuffix(" (set now)") for line in lines} >= set(STRATEGIES)
    assert [line for line in lines if "set now" in line] == ["badge (set now)"]


def test_a_strategy_of_your_own_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, "mine.module:choose").endswith("It is mine.module:choose now.\n")


def test_garbage_is_collected_again_once_a_command_is_imported() -> None:
    for words in (["strategies"], ["no such command"]):
        CliRunner().invoke(main, words)
        assert gc.isenabled()
