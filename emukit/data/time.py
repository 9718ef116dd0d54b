"""The time axis of a data set: its step, its calendar, and what everything else needs to know of both.

Invariant: step i + 1 follows step i. Months and years are calendar-free: whatever calendar a store uses, March follows
February. Days and hours are counted in the store's calendar, so that a step is at most one of them.

A position on the axis is an integer; what a position means (its year, its place in the year and in the day, its text)
is computed for the whole axis at once, never step by step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emukit.errors import ProtocolError

Months = NDArray[np.datetime64]
Index = NDArray[np.int64]

DAY_MINUTES = 24 * 60
# Days of January .. December in the calendars whose years are all alike.
MONTH_LENGTHS = {
    "noleap": (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31),
    "all_leap": (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31),
    "360_day": (30,) * 12,
}
# CF names of one calendar. `standard` differs from the proleptic one before 1582-10-15 alone.
SAME = {
    "365_day": "noleap",
    "366_day": "all_leap",
    "gregorian": "standard",
    "proleptic_gregorian": "standard",
}
# What a card may say of its steps.
STEP = re.compile(r"month|year|day|([1-9][0-9]*)h")
STEPS = "month, day, year, or hours that divide a day, such as 6h"
# Noon of the fifteenth stands for a month, as in the competition's store; the middle of the year for a year.
MONTH_DAY, YEAR_MONTH = 15, 7


def step_problem(step: str) -> str:
    """What is wrong with the name of a step; empty where nothing is."""
    match = STEP.fullmatch(step)
    if match is None or (match[1] and (int(match[1]) >= 24 or 24 % int(match[1]))):
        return f"must be {STEPS}, not {step!r}"
    return ""


def in_words(step: str) -> str:
    """The steps of a time axis for people: ``months``, ``days``, ``steps of 6 h``."""
    return f"{step}s" if step in ("month", "year", "day") else f"steps of {step.removesuffix('h')} h"


@dataclass(frozen=True)
class TimeAxis:
    """Consecutive steps of one length.

    Attributes:
        step: ``month``, ``year``, ``day``, or a number of hours that divides a day (``6h``).
        first: The first step. Months since 1970-01, years since year 0, or for days and hours the minutes from the
            calendar's origin (1970-01-01 where years differ in length, else the beginning of year 0) to the stamp of
            the first step.
        length: T, the number of steps.
        calendar: ``standard``, ``noleap``, ``360_day`` or ``all_leap``; of days and hours alone.
    """

    step: str
    first: int
    length: int
    calendar: str = "standard"

    @classmethod
    def monthly(cls, months: Months) -> TimeAxis:
        """The axis of (T,) consecutive `datetime64[M]`."""
        return cls("month", int(months[0].astype("datetime64[M]").astype(np.int64)), len(months))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, part: slice) -> TimeAxis:
        """The axis of some consecutive steps."""
        start, stop, _ = part.indices(self.length)
        first = self.first + start * (self.minutes or 1)
        return replace(self, first=first, length=max(stop - start, 0))

    def later(self, steps: int) -> TimeAxis:
        """The axis whose every step is so many steps later, or earlier where `steps` is negative."""
        return replace(self, first=self.first + steps * (self.minutes or 1))

    @property
    def is_monthly(self) -> bool:
        """Whether its steps are months."""
        return self.step == "month"

    @property
    def minutes(self) -> int:
        """Length of a step of days or hours; zero of months and years, which differ in length."""
        return {"month": 0, "year": 0, "day": DAY_MINUTES}.get(self.step) or self._hours * 60

    @property
    def per_day(self) -> int:
        """Steps of a day; 1 where steps are a day or longer."""
        return 24 // self._hours if self._hours else 1

    @property
    def per_year(self) -> int:
        """Steps of a year: 12 months, 1 year, 365 days, 1460 of 6 hours; 29 February is not counted."""
        return {"month": 12, "year": 1}.get(self.step) or self.days_of_year * self.per_day

    @property
    def days_of_year(self) -> int:
        """Days of a year, without 29 February in the standard calendar."""
        return sum(MONTH_LENGTHS.get(self.calendar, MONTH_LENGTHS["noleap"]))

    @property
    def unit(self) -> str:
        """What one step is called."""
        return self.step if not self._hours else "step"

    def same_steps(self, other: TimeAxis) -> bool:
        """Whether another axis counts the same steps: of days and hours, in the same calendar."""
        return self.step == other.step and (not self.minutes or self.calendar == other.calendar)

    def describe(self) -> str:
        """Its steps and, where it matters, their calendar, for people."""
        return in_words(self.step) + (f", calendar {self.calendar}" if self.minutes else "")

    @property
    def months(self) -> Months:
        """(T,) `datetime64[M]` of an axis of months.

        Raises:
            ProtocolError: Its steps are not months.
        """
        if not self.is_monthly:
            raise ProtocolError(
                "this works on months alone",
                found=self.describe(),
                expected='a data set whose card says time = "month"',
                hint="average the data to months first, or choose another model",
            )
        return (self.first + np.arange(self.length)).astype("datetime64[M]")

    @cached_property
    def year(self) -> Index:
        """(T,) the year in which each step lies."""
        return self._parts[0]

    @cached_property
    def month(self) -> Index:
        """(T,) the calendar month in which each step lies, January 0; 0 throughout of years."""
        return self._parts[1]

    @cached_property
    def day_of_year(self) -> Index:
        """(T,) the day of the year of days and hours, 1 January 0.

        In the standard calendar 29 February counts as the day before it, so that a date has one position in all years.
        """
        return self._parts[2]

    @cached_property
    def step_of_day(self) -> Index:
        """(T,) which step of its day each one is; 0 throughout where steps are a day or longer."""
        if self.per_day == 1:
            return np.zeros(self.length, np.int64)
        return np.asarray(self._stamps % DAY_MINUTES // self.minutes)

    @cached_property
    def phase(self) -> Index:
        """(T,) position in the year, 0 to `per_year` - 1."""
        if not self.minutes:
            return self.month
        return self.day_of_year * self.per_day + self.step_of_day

    @property
    def seasons(self) -> int:
        """How many groups of steps have a climate of their own: see `season`."""
        return 1 if self.step == "year" else 12 * self.per_day

    @cached_property
    def season(self) -> Index:
        """(T,) the group whose climate a step shares, 0 to `seasons` - 1.

        Months: the calendar month. Years: all one group. Days: the calendar month too, as some decades hold too few
        1 Januaries for 365 climates that are not noise. Hours: the calendar month and the time of the day.
        """
        return self.month * self.per_day + self.step_of_day

    def position(self, text: str) -> int:
        """The position of a step such as ``2060-02`` (a month), ``2060`` (a year), ``2060-02-01`` or ``2060-02-01T06``.

        It may lie outside of the axis: below zero, or at its length or beyond it.

        Raises:
            ProtocolError: The text is not such a step.
        """
        forms = {"year": r"(\d{1,4})", "month": r"(\d{1,4})-(\d\d)", "day": r"(\d{1,4})-(\d\d)-(\d\d)"}
        form = forms.get(self.step, r"(\d{1,4})-(\d\d)-(\d\d)T(\d\d)(?::?(\d\d))?")
        match = re.fullmatch(form, text.strip())
        minute = self._minute(*(int(part or 0) for part in match.groups())) if match else None
        if minute is None:
            raise ProtocolError(f"{text!r} is no {self._form}", expected=f"{self._form}, such as {self.text(0)}")
        # A stamp may stand anywhere in its step; steps begin at midnight.
        scale = self.minutes or 1
        return minute // scale - self.first // scale

    def text(self, i: int) -> str:
        """Step i for people: ``2060-02``, ``2060``, ``2060-02-01``, ``2060-02-01T06:00``; -1 is the last."""
        i = range(self.length)[i]
        if not self.minutes:
            year, month = divmod(self.first + i, 12) if self.is_monthly else (self.first + i - 1970, 0)
            return f"{year + 1970:04d}" + (f"-{month + 1:02d}" if self.is_monthly else "")
        year, month, day, minute = self._date(self.first + i * self.minutes)
        of_day = f"T{minute // 60:02d}:{minute % 60:02d}" if self._hours else ""
        return f"{year:04d}-{month + 1:02d}-{day + 1:02d}{of_day}"

    def texts(self) -> list[str]:
        """All steps for people."""
        if not self.minutes:
            pairs = zip(self.year.tolist(), (self.month + 1).tolist(), strict=True)
            return [f"{y:04d}-{m:02d}" if self.is_monthly else f"{y:04d}" for y, m in pairs]
        stamps = self.cf_time()
        return [t.strftime("%Y-%m-%dT%H:%M" if self._hours else "%Y-%m-%d") for t in stamps]

    def month_days(self, calendar: str) -> NDArray[np.float64]:
        """(T,) days of the month in which each step lies, of the mean month of a year, in a calendar of CF."""
        lengths = np.array(MONTH_LENGTHS.get(SAME.get(calendar, calendar), MONTH_LENGTHS["noleap"]), np.float64)
        leap = _leap_years(self.year, calendar)
        if self.step != "year":
            return np.asarray(lengths[self.month] + (leap & (self.month == 1)))
        return np.asarray((lengths.sum() + leap) / 12)

    def decimal_years(self) -> NDArray[np.float64]:
        """(T,) the beginning of each step as a year with its fraction."""
        return np.asarray(self.year + self.phase / self.per_year, np.float64)

    def cf_time(self, calendar: str = "noleap") -> NDArray[Any]:
        """(T,) cftime dates: of days and hours the stamps, of months the 15th, of years 1 July.

        Args:
            calendar: Of months and years, which have none; days and hours keep theirs.
        """
        import cftime

        if self.minutes:
            units = "minutes since " + ("1970-01-01" if self.calendar == "standard" else "0000-01-01")
            own: dict[str, Any] = {"calendar": self.calendar}
            if self.calendar != "standard":
                own["has_year_zero"] = True
            return np.asarray(cftime.num2date(self._stamps, units, **own))
        month, day = (None, MONTH_DAY) if self.is_monthly else (YEAR_MONTH, 1)
        kind = _date_class(calendar)
        parts = zip(self.year.tolist(), (self.month + 1).tolist(), strict=True)
        return np.array([kind(y, month or m, day) for y, m in parts], object)

    @property
    def _hours(self) -> int:
        match = STEP.fullmatch(self.step)
        return int(match[1]) if match and match[1] else 0

    @property
    def _form(self) -> str:
        return {"year": "year", "month": "month", "day": "day"}.get(self.step, "date and hour")

    @cached_property
    def _stamps(self) -> Index:
        return self.first + self.minutes * np.arange(self.length, dtype=np.int64)

    @cached_property
    def _parts(self) -> tuple[Index, Index, Index]:
        """(T,) year, month (January 0) and day of the year of every step."""
        i = np.arange(self.length, dtype=np.int64)
        zero = np.zeros_like(i)
        if self.is_monthly:
            months = self.first + i
            return months // 12 + 1970, months % 12, zero
        if self.step == "year":
            return self.first + i, zero, zero
        return split_days(self._stamps // DAY_MINUTES, self.calendar)

    def _date(self, minute: int) -> tuple[int, int, int, int]:
        """Year, month (January 0), day of the month (0) and minute of the day."""
        number, of_day = divmod(minute, DAY_MINUTES)
        if self.calendar == "standard":
            date = np.datetime64(number, "D")
            month = date.astype("datetime64[M]")
            year, month_of_year = divmod(int(month.astype(np.int64)), 12)
            return year + 1970, month_of_year, int((date - month.astype("datetime64[D]")).astype(np.int64)), of_day
        year, month_of_year, day = (int(a[0]) for a in split_days(np.array([number]), self.calendar))
        return year, month_of_year, day - int(_starts(self.calendar)[month_of_year]), of_day

    def _minute(self, year: int, month: int = 1, day: int = 1, hour: int = 0, minute: int = 0) -> int | None:
        """A date in the measure of `first`; None where there is no such date."""
        if self.step == "year":
            return year
        if not 1 <= month <= 12:
            return None
        if self.is_monthly:
            return (year - 1970) * 12 + month - 1
        if hour > 23 or minute > 59 or day < 1:
            return None
        if self.calendar == "standard":
            begin = np.datetime64(f"{year:04d}-{month:02d}", "M")
            first, last = ((begin + n).astype("datetime64[D]").astype(np.int64) for n in (0, 1))
            number = int(first) + day - 1
            if number >= last:
                return None
        else:
            if day > MONTH_LENGTHS[self.calendar][month - 1]:
                return None
            number = year * self.days_of_year + int(_starts(self.calendar)[month - 1]) + day - 1
        return number * DAY_MINUTES + hour * 60 + minute


def split_days(days: Index, calendar: str) -> tuple[Index, Index, Index]:
    """Year, month (January 0) and day of the year (1 January 0) of days counted from a calendar's origin."""
    if calendar != "standard":
        year, day = np.divmod(days, sum(MONTH_LENGTHS[calendar]))
        return year, np.searchsorted(_starts(calendar), day, side="right") - 1, day
    date = days.astype("datetime64[D]")
    months = date.astype("datetime64[M]").astype(np.int64)
    year, month = months // 12, months % 12
    begin = year.astype("datetime64[Y]").astype("datetime64[D]")
    day = (date - begin).astype(np.int64)
    # From 29 February on a leap year is a day ahead.
    return year + 1970, month, day - (_leap_years(year + 1970, calendar) & (day >= 59))


@lru_cache
def _starts(calendar: str) -> Index:
    """(12,) the days of the year on which months begin."""
    return np.cumsum([0, *MONTH_LENGTHS[calendar][:-1]], dtype=np.int64)


def _leap_years(year: Index, calendar: str) -> NDArray[np.bool_]:
    if SAME.get(calendar, calendar) in MONTH_LENGTHS:
        return np.zeros(year.shape, bool)
    by_four = year % 4 == 0
    return by_four if calendar == "julian" else np.asarray(by_four & ((year % 100 != 0) | (year % 400 == 0)))


def _date_class(calendar: str) -> Any:
    import cftime

    kinds: dict[str, Any] = {
        "noleap": cftime.DatetimeNoLeap,
        "360_day": cftime.Datetime360Day,
        "all_leap": cftime.DatetimeAllLeap,
        "julian": cftime.DatetimeJulian,
    }
    return kinds.get(SAME.get(calendar, calendar), cftime.DatetimeProlepticGregorian)
