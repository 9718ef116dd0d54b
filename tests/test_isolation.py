"""Tests that need a network, or other tests before them."""

import socket
from types import SimpleNamespace

import pytest

from tests import conftest


def test_a_test_may_reach_beyond_this_machine():
    # An address for documentation, and a name: neither is asked for.
    for call in (
        lambda: socket.create_connection(("198.51.100.7", 9), 1),
        lambda: socket.getaddrinfo("example.org", 80),
    ):
        with pytest.raises(OSError, match="a test reaches for"):
            call()
    assert conftest.reached == ["198.51.100.7", "example.org"]
    conftest.reached.clear()


def test_tests_run_in_one_order_alone(pytestconfig):
    """CI must find those that need others before them: it runs in another order every time, and prints the seed."""
    assert pytestconfig.pluginmanager.hasplugin("randomly"), "pip install -c constraints.txt -e '.[dev]'"
    assert "randomly" not in pytestconfig.getini("addopts")


def test_a_long_group_is_begun_last_or_a_test_is_lost():
    class Item(SimpleNamespace):
        __hash__ = object.__hash__

        def get_closest_marker(self, name):
            return SimpleNamespace(args=(self.group,)) if self.group else None

    made = [Item(name=n, group=g) for n, g in (("a", ""), ("b", "x"), ("c", "y"), ("d", ""), ("e", "x"), ("f", ""))]
    for items, order in ((made, "beacdf"), (made[1:], "bedcf"), (made[1:3], "bc"), (made[:1], "a"), ([], "")):
        chosen = [*items]
        conftest.pytest_collection_modifyitems(chosen)
        assert "".join(item.name for item in chosen) == order
