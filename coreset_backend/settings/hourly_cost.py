"""What an hour of labelling costs, as a person wrote it: ``25``, ``25 EUR``, ``$ 25.50``. Pure: no I/O."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

WRITTEN = re.compile(r"(?P<before>[^\d.,]*?)\s*(?P<amount>\d[\d.,]*)\s*(?P<after>\D*)")
LONGEST_CURRENCY = 20
MOST = 1e9
EXPECTED = "write a number from 0 on and, if you like, a currency, as in 25 or 25.50 EUR"


@dataclass(frozen=True, slots=True)
class HourlyCost:
    """``amount`` of the ``currency`` for an hour of work; the currency is free text, "" for none."""

    amount: float
    currency: str

    def of(self, seconds: float) -> float:
        """The cost of so many seconds."""
        return seconds / 3600 * self.amount


def read_hourly_cost(written: str) -> HourlyCost:
    """The cost from a number and at most one currency before or after it; else ValueError that says why."""
    found = WRITTEN.fullmatch(written.strip())
    if found is None:
        raise ValueError(f"'{written}' is not an hourly cost: {EXPECTED}")
    before, digits, after = found["before"].strip(), found["amount"], found["after"].strip()
    if before[-1:] in ("-", "\N{MINUS SIGN}"):
        raise ValueError(f"'{written}' is negative: {EXPECTED}")
    if before and after:
        raise ValueError(f"'{written}' has text on both sides of the number: {EXPECTED}")
    if not re.fullmatch(r"\d+([.,]\d{1,2})?", digits):
        raise ValueError(
            f"'{digits}' is ambiguous: write two decimals at most and no marks in thousands, as in 1250.50"
        )
    amount, currency = float(digits.replace(",", ".")), before or after
    if amount > MOST:
        raise ValueError(f"'{digits}' is more than {MOST:,.0f} an hour: {EXPECTED}")
    if len(currency) > LONGEST_CURRENCY or not all(map(_may_be_in_a_currency, currency)):
        raise ValueError(
            f"'{currency}' is not a currency: write a symbol or at most {LONGEST_CURRENCY} letters, as in EUR"
        )
    return HourlyCost(amount, currency)


def _may_be_in_a_currency(character: str) -> bool:
    category = unicodedata.category(character)
    return character in " ." or category == "Sc" or category.startswith("L")


def _checked(written: str) -> str:
    read_hourly_cost(written)
    return written


WrittenCost = Annotated[str, AfterValidator(_checked)]
"""A setting that `read_hourly_cost` reads."""
