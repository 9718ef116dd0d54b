"""Tests that need a network, or other tests before them."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import conftest

ROOT = Path(__file__).parents[1]


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


def test_a_long_module_is_begun_last_or_a_test_is_lost():
    def item(name, long):
        return SimpleNamespace(
            name=name, get_closest_marker=lambda marker: "mark" if marker == "long" and long else None
        )

    items = [item("a", False), item("b", True), item("c", False), item("d", True), item("e", False)]
    conftest.pytest_collection_modifyitems(items)
    assert "".join(item.name for item in items) == "bdace"


MODULE = """
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def made():
    Path(__file__).with_suffix(f".{os.getpid()}").touch()


@pytest.mark.parametrize("number", range(12))
def test_one(made, number): ...
"""


@pytest.mark.slow
def test_what_a_module_makes_once_is_made_by_every_worker(tmp_path):
    """As `make test` divides tests: a grouping that a plug-in ignores is not seen in any result."""
    divide = re.search(r"^DIVIDE = (.+)$", (ROOT / "Makefile").read_text(), re.M)
    for name in ("test_a", "test_b", "test_c"):
        (tmp_path / f"{name}.py").write_text(MODULE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "xdist.plugin", *divide[1].split()]
    # Other plug-ins take seconds to import.
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "36 passed" in done.stdout, done.stdout + done.stderr
    makers = [p for p in tmp_path.iterdir() if p.suffix.removeprefix(".").isdigit()]
    assert sorted(p.stem for p in makers) == ["test_a", "test_b", "test_c"]
    assert len({p.suffix for p in makers}) == 2
