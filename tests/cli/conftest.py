"""The command line as a function, and a small demo store for it."""

from __future__ import annotations

import sys
from typing import NamedTuple

import pytest

from emukit.cli import main

# A network small enough for a test, everything else as users have it.
TINY = [
    "--set=model.hidden=8",
    "--set=model.features=6",
    "--set=model.width=4",
    "--set=model.stages=1",
    "--set=model.pool_rows=1",
    "--set=model.pool_columns=2",
    "--set=training.epochs=2",
    "--set=inputs.window.history=3",
]


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def emukit(monkeypatch, capsys, tmp_path):
    """Call the command line in an empty folder, without any store named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMUKIT_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["emukit", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def linear_run(demo_store, tmp_path_factory):
    """A finished run on the demo store."""
    from emukit.data.store import open_store
    from emukit.progress import Reporter
    from emukit.recipes.load import load_recipe
    from emukit.runs.run import train_run

    folder = tmp_path_factory.mktemp("runs") / "linear"
    train_run(open_store(demo_store), load_recipe("linear"), folder, reporter=Reporter(quiet=True))
    return folder
