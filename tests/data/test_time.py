"""What goes wrong when steps are counted: leap days, calendars, offsets, cards that say one step and mean another."""

import hashlib

import cftime
import numpy as np
import pytest

from emukit.data.card import load_card, parse_card
from emukit.data.time import TimeAxis, step_problem
from emukit.errors import ProtocolError, StoreError
from tests.other_steps import card_text

CALENDARS = ("standard", "noleap", "360_day", "all_leap")
# SHA-256 of what the shipped cards said before there was another step than months: digests of runs are made of them.
DUMPS = {
    "cse151b-2025": "4c89c97f06c29143e3182c61d8a998498c30f82add7592e8eadaef61686db8db",
    "cse151b-k360": "cefd9b2d3052497e6480d52e5512694d7f53a580c5fa858ae8d155ac59fdacd5",
    "demo": "dda73cd9142a1f5e8a97fbbd5c6f10537120c5e88bec999582962fc97a9ce5a1",
}


def axis(step: str, year: int, length: int, calendar: str = "standard", hour: int = 0) -> TimeAxis:
    """An axis from 1 January of a year on."""
    origin = "1970-01-01" if calendar == "standard" else "0000-01-01"
    zero = {} if calendar == "standard" else {"has_year_zero": True}
    first = cftime.datetime(year, 1, 1, hour, calendar=calendar, **zero)
    minutes = cftime.date2num(first, f"minutes since {origin}", calendar=calendar, **zero)
    return TimeAxis(step, int(minutes), length, calendar)


@pytest.mark.parametrize("calendar", CALENDARS)
@pytest.mark.parametrize(("step", "length"), [("day", 2000), ("6h", 3000), ("3h", 900)])
def test_dates_are_those_of_the_calendar(step, length, calendar):
    ours = axis(step, 2015, length, calendar)
    dates = [
        cftime.datetime(2015, 1, 1, calendar=calendar) + np.timedelta64(ours.minutes * i, "m").item()
        for i in range(length)
    ]
    np.testing.assert_array_equal(ours.year, [d.year for d in dates])
    np.testing.assert_array_equal(ours.month, [d.month - 1 for d in dates])
    np.testing.assert_array_equal(
        ours.step_of_day, [(d.hour * 60) // ours.minutes if step != "day" else 0 for d in dates]
    )
    form = "%Y-%m-%d" if step == "day" else "%Y-%m-%dT%H:%M"
    assert ours.texts() == [d.strftime(form) for d in dates]
    assert [ours.text(i) for i in (0, 59, 424, -1)] == [dates[i].strftime(form) for i in (0, 59, 424, -1)]
    assert [ours.position(ours.text(i)) for i in (0, 59, 424, length - 1)] == [0, 59, 424, length - 1]
    written = ours.cf_time()
    assert [(d.year, d.month, d.day, d.hour) for d in written] == [(d.year, d.month, d.day, d.hour) for d in dates]
    assert written[0].calendar == calendar


@pytest.mark.parametrize(
    ("step", "calendar", "year"),
    [
        ("month", "noleap", 12),
        ("year", "noleap", 1),
        ("day", "noleap", 365),
        ("day", "standard", 365),
        ("day", "360_day", 360),
        ("day", "all_leap", 366),
        ("6h", "noleap", 1460),
        ("1h", "360_day", 8640),
    ],
)
def test_a_date_has_one_position_in_every_year(step, calendar, year):
    ours = axis(step, 2015, 12 * year, calendar) if step not in ("month", "year") else TimeAxis(step, 540, 100)
    assert ours.per_year == year
    assert ours.phase.min() == 0
    assert ours.phase.max() == year - 1
    of_date = {}
    for text, phase in zip(ours.texts(), ours.phase.tolist(), strict=True):
        assert of_date.setdefault(text[4:], phase) == phase


def test_leap_day_is_in_the_place_of_the_day_before_it():
    ours = axis("day", 2016, 366)
    assert ours.text(59) == "2016-02-29"
    assert ours.day_of_year[58:61].tolist() == [58, 58, 59]
    assert ours.month[58:61].tolist() == [1, 1, 2]


def test_seasons_are_months_and_times_of_the_day():
    assert TimeAxis("year", 1990, 5).season.tolist() == [0] * 5
    assert TimeAxis("month", 545, 4).season.tolist() == [5, 6, 7, 8]
    assert axis("day", 2015, 60, "noleap").season.tolist() == [0] * 31 + [1] * 28 + [2]
    hours = axis("6h", 2015, 4 * 32, "noleap")
    assert hours.seasons == 48
    assert hours.season.tolist() == [0, 1, 2, 3] * 31 + [4, 5, 6, 7]


@pytest.mark.parametrize(
    "whole", [TimeAxis("month", 545, 40), TimeAxis("year", 1990, 40), axis("6h", 2015, 400, "noleap")]
)
def test_a_part_of_an_axis_keeps_its_dates(whole):
    part = whole[7:20]
    assert len(part) == 13
    assert part.texts() == whole.texts()[7:20]
    np.testing.assert_array_equal(part.season, whole.season[7:20])
    assert part.position(whole.text(0)) == -7


@pytest.mark.parametrize(
    "whole", [TimeAxis("month", 545, 40), TimeAxis("year", 1990, 40), axis("6h", 2015, 400, "noleap")]
)
def test_a_later_axis_has_the_dates_that_many_steps_on(whole):
    assert whole.later(3)[:20].texts() == whole.texts()[3:23]
    assert whole.later(-1)[1:].texts() == whole.texts()[:-1]
    np.testing.assert_array_equal(whole.later(2)[:20].season, whole.season[2:22])


def test_stamps_within_a_step_are_its_address():
    noon = axis("day", 2015, 10, "noleap", hour=12)
    assert noon.position("2015-01-03") == 2
    assert str(noon.cf_time()[2]) == "2015-01-03 12:00:00"
    middle = axis("6h", 2015, 10, "noleap", hour=3)
    assert middle.step_of_day.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert middle.position("2015-01-01T03:00") == middle.position("2015-01-01T00") == 0


@pytest.mark.parametrize(
    ("ours", "text"),
    [
        (axis("day", 2015, 9, "noleap"), "2016-02-29"),
        (axis("day", 2015, 9, "360_day"), "2015-01-31"),
        (axis("day", 2015, 9), "2015-02-29"),
        (axis("day", 2015, 9), "2015-01"),
        (TimeAxis("month", 540, 9), "2015-13"),
        (TimeAxis("year", 2015, 9), "2015-01"),
        (axis("6h", 2015, 9), "2015-01-01"),
        (axis("6h", 2015, 9), "2015-01-01T24"),
    ],
)
def test_a_date_that_is_none_is_refused(ours, text):
    with pytest.raises(ProtocolError, match="is no"):
        ours.position(text)


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day", "all_leap", "julian"])
def test_lengths_of_months_and_years_are_the_calendars(calendar):
    months, years = TimeAxis("month", -240, 2000), TimeAxis("year", 1890, 250)
    lengths = [cftime.datetime(int(y), m % 12 + 1, 1, calendar=calendar).daysinmonth for m, y in enumerate(months.year)]
    np.testing.assert_array_equal(months.month_days(calendar), lengths)
    days = [sum(cftime.datetime(int(y), m, 1, calendar=calendar).daysinmonth for m in range(1, 13)) for y in years.year]
    np.testing.assert_allclose(years.month_days(calendar), np.array(days) / 12)
    assert axis("day", 2015, 32, "noleap").month_days("noleap").tolist() == [31] * 31 + [28]


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard"])
def test_a_month_is_written_as_its_15th_and_a_year_as_1_july(calendar):
    months = TimeAxis("month", (2014 - 1970) * 12 + 11, 3).cf_time(calendar)
    assert [(d.year, d.month, d.day) for d in months] == [(2014, 12, 15), (2015, 1, 15), (2015, 2, 15)]
    years = TimeAxis("year", 1999, 2).cf_time(calendar)
    assert [(d.year, d.month, d.day) for d in years] == [(1999, 7, 1), (2000, 7, 1)]
    assert {d.calendar for d in (*months, *years)} == {"proleptic_gregorian" if calendar == "standard" else calendar}


def test_decimal_years_are_the_beginnings_of_steps():
    """The horizontal axis of series: a step of another length would be drawn elsewhere."""
    months = TimeAxis("month", (2015 - 1970) * 12 + 3, 13).decimal_years()
    np.testing.assert_allclose(months, 2015.25 + np.arange(13) / 12)
    np.testing.assert_array_equal(TimeAxis("year", 1850, 3).decimal_years(), [1850.0, 1851.0, 1852.0])
    days = axis("day", 2015, 366, "noleap").decimal_years()
    np.testing.assert_allclose(days, [*(2015 + np.arange(365) / 365), 2016.0])
    hours = axis("6h", 2015, 1461, "noleap").decimal_years()
    np.testing.assert_allclose(hours, [*(2015 + np.arange(1460) / 1460), 2016.0])


def test_an_axis_cannot_be_changed_in_place():
    with pytest.raises(AttributeError, match="cannot assign"):
        axis("day", 2015, 3).first = 0


def test_months_alone_have_calendar_months():
    with pytest.raises(ProtocolError, match="works on months alone") as refused:
        _ = axis("day", 2015, 9, "noleap").months
    assert "days, calendar noleap" in refused.value.found


@pytest.mark.parametrize("step", ["7h", "24h", "0h", "48h", "week", "6 h", "06h", ""])
def test_a_step_that_does_not_divide_a_day_is_refused(step):
    assert step_problem(step)
    with pytest.raises(StoreError, match="1 mistake") as refused:
        parse_card({**settings("day"), "time": step}, "mine")
    assert "month, day, year, or hours that divide a day" in refused.value.found


def settings(step: str, replace: tuple[str, str] = ("", "")) -> dict:
    import tomllib

    return tomllib.loads(card_text(step, ["ssp126", "ssp585"], 30).replace(*replace))


def test_months_in_a_card_of_days_are_refused_by_place():
    with pytest.raises(StoreError) as refused:
        parse_card(settings("day", ("steps = [-60, -30]", "months = [-60, -30]")), "mine")
    assert "protocols.late.validation.0.months: this card counts days, so write steps" in refused.value.found
    with pytest.raises(StoreError) as refused:
        parse_card(settings("6h", ("test_steps", "test_months")), "mine")
    assert "loso.test_months: this card counts steps of 6 h, so write test_steps" in refused.value.found


def test_a_card_of_months_may_say_steps_and_not_both():
    card = parse_card(settings("month"), "mine")
    assert card.protocols["late"].validation[0].offsets == (-60, -30)
    assert (card.loso.validation, card.loso.test) == (30, 30)
    both = ("steps = [-60, -30]", "steps = [-60, -30], months = [-60, -30]")
    for wrong in (both, ("steps = [-60, -30]", 'what = "no"'), ("test_steps", "test_stride")):
        with pytest.raises(StoreError):
            parse_card(settings("month", wrong), "mine")


@pytest.mark.parametrize("step", ["month", "year", "day", "6h"])
def test_a_dumped_card_is_the_card(step):
    card = parse_card(settings(step), "mine")
    assert parse_card(card.model_dump(mode="json"), "again") == card


@pytest.mark.parametrize("name", ["cse151b-2025", "cse151b-k360", "demo"])
def test_shipped_cards_decide_as_before_there_were_other_steps(name):
    assert hashlib.sha256(load_card(name).deciding.encode()).hexdigest() == DUMPS[name]
