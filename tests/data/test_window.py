"""Windows that see the wrong months: one month early, across a scenario's start, or the future."""

import numpy as np
import pytest

from emukit.data.frames import Window
from emukit.errors import ProtocolError


def seen(window, target, months=60):
    return window.frames(target, 1, months).tolist()


def test_included_window_ends_with_the_target_month():
    assert seen(Window(history=3), 10) == [8, 9, 10]


def test_excluded_window_ends_with_the_month_before():
    assert seen(Window(history=3, target_month="excluded"), 10) == [7, 8, 9]


def test_segment_gives_every_target_its_own_window():
    window = Window(history=4)
    index = window.frames(20, 5, 60)
    assert len(index) == 5 + 4 - 1
    for i in range(5):
        assert index[i : i + 4].tolist() == seen(window, 20 + i)


def test_repeated_year_keeps_the_calendar_month_before_the_start():
    window = Window(history=15)
    for target in range(15):
        index = window.frames(target, 1, 60)
        wanted = np.arange(target - 14, target + 1)
        assert (index % 12 == wanted % 12).all()
        assert (index[wanted >= 0] == wanted[wanted >= 0]).all()
        assert (index < 12)[wanted < 0].all()


def test_repeated_month_holds_the_first_frame():
    assert seen(Window(history=4, lead_in="repeat-month"), 1) == [0, 0, 0, 1]


def test_dropped_lead_in_refuses_instead_of_inventing():
    window = Window(history=12, lead_in="drop", target_month="excluded")
    assert window.first_target == 12
    assert seen(window, 12) == list(range(12))
    with pytest.raises(ProtocolError, match="start at month 12"):
        window.frames(11, 1, 60)


def test_window_longer_than_the_scenario_is_refused():
    with pytest.raises(ProtocolError, match="longer than the scenario"):
        Window(history=61).frames(59, 1, 60)


def test_months_outside_the_scenario_are_no_silent_wrap():
    with pytest.raises(ValueError, match="outside"):
        Window(history=3).frames(58, 3, 60)
