import pytest

from coreset_backend.errors import ConfigError
from coreset_backend.settings import read_settings
from coreset_backend.settings.hourly_cost import HourlyCost, read_hourly_cost


@pytest.mark.parametrize(
    ("written", "amount", "currency"),
    [
        ("25", 25.0, ""),
        ("25 EUR", 25.0, "EUR"),
        (" 25.5EUR ", 25.5, "EUR"),
        ("€ 25,50", 25.5, "€"),
        ("$25", 25.0, "$"),
        ("0 CHF", 0.0, "CHF"),
        ("1250.50 Kč", 1250.5, "Kč"),
        ("3 US dollars", 3.0, "US dollars"),
    ],
)
def test_a_number_with_or_without_a_currency(written: str, amount: float, currency: str) -> None:
    cost = read_hourly_cost(written)
    assert cost == HourlyCost(amount, currency)
    assert cost.of(1800) == amount / 2


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("-3", "is negative"),
        ("EUR -3", "is negative"),
        ("EUR", "is not an hourly cost: write a number from 0 on"),
        ("nan", "is not an hourly cost"),
        ("inf EUR", "is not an hourly cost"),
        ("1e5", "is not an hourly cost"),
        ("25 EUR 30", "is not an hourly cost"),
        ("about 25 EUR", "text on both sides"),
        ("1,000 EUR", "'1,000' is ambiguous"),
        ("1.000,50", "is ambiguous"),
        ("9999999999", "more than 1,000,000,000 an hour"),
        ("25 EUR/h", "'EUR/h' is not a currency"),
        ("25 %", "'%' is not a currency"),
        ("25 " + "E" * 21, "is not a currency"),
    ],
)
def test_anything_else_is_refused_with_what_is_expected(
    written: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORESET_HOURLY_COST", written)
    with pytest.raises(ConfigError, match="CORESET_HOURLY_COST") as error:
        read_settings()
    assert told in str(error.value)


def test_the_setting_is_read_and_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORESET_HOURLY_COST", '"25 EUR"')
    assert read_settings().hourly_cost == "25 EUR"
    monkeypatch.setenv("CORESET_HOURLY_COST", "")
    assert read_settings().hourly_cost is None
