"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_store() -> Path:
    """The real competition store named by EMUKIT_REAL_STORE; the test is skipped where there is none."""
    path = os.environ.get("EMUKIT_REAL_STORE")
    if not path:
        pytest.skip("EMUKIT_REAL_STORE is not set: tests on the real store do not run")
    return Path(path)
