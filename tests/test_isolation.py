"""Tests that need a network, or other tests before them."""

import socket

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
