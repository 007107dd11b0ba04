"""How long a busy server asks to wait: the same for images and for Label Studio's API."""

import email.utils
import time
from datetime import UTC, datetime, timedelta

import pytest

from coreset_backend.network.outbound import retry_after


@pytest.mark.parametrize("seconds", [0, 1, 120])
def test_both_forms_say_the_same(seconds: int) -> None:
    date = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    assert retry_after(f" {seconds} ") == seconds
    assert retry_after(date) == pytest.approx(seconds, abs=30)


def test_a_date_without_a_zone_is_in_utc_wherever_the_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        soon = datetime.now(UTC) + timedelta(seconds=60)
        assert retry_after(soon.strftime("%a, %d %b %Y %H:%M:%S -0000")) == pytest.approx(60, abs=30)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("header", [None, "", "soon", "-1", "1.5", "nan", "inf", "٣", "²", "Mon"])
def test_what_is_neither_form_asks_for_nothing(header: str | None) -> None:
    assert retry_after(header) is None


@pytest.mark.parametrize("header", ["Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -9999"])
def test_a_date_beyond_the_calendar_is_no_error(header: str) -> None:
    assert retry_after(header) is None or isinstance(retry_after(header), float)


def test_a_past_date_asks_for_no_wait_and_a_far_one_for_a_long_one() -> None:
    assert retry_after("Mon, 01 Jan 2001 00:00:00 GMT") == 0
    assert (retry_after("9" * 400) or 0) > 1e9
