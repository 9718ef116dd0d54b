"""A six-hourly sequence without forcings whose next state is known: each field moves a cell to the east."""

import numpy as np

from emukit.data.archive import Archive, Scenario
from emukit.data.card import parse_card
from emukit.data.time import TimeAxis
from tests.coded import small_grid

VARIABLES = ("tas", "z500", "pr")
STEPS = 72


def card():
    """tas and z500 are states of the sequence, pr follows from tas."""
    target = {"range": [-1e6, 1e6], "largest": [0.0, 1e6], "what": "made up"}
    units = {"tas": "K", "z500": "m2 s-2", "pr": "mm/day"}
    return parse_card(
        {
            "name": "sequence",
            "title": "a sequence",
            "source": "made up",
            "licence": "Apache-2.0",
            "time": "6h",
            "scenarios": ["control"],
            "default_protocol": "forecast",
            "targets": {v: {**target, "units": u} for v, u in units.items()},
            "protocols": {
                "forecast": {
                    "train": ["control"],
                    "validation": [{"scenario": "control", "steps": [-32, -16]}],
                    "test": [{"scenario": "control", "steps": [-16, 0]}],
                }
            },
            "loso": {"validation_steps": 16, "test_steps": 16},
        },
        "the test's card",
    )


def sequence(steps=STEPS, members=1, seed=0):
    """The archive: (M, T, V, Y, X), smooth noise that moves, a little of it made anew in every step."""
    grid, rng = small_grid(), np.random.default_rng(seed)
    fields = np.zeros((members, steps, 3, *grid.shape), np.float32)
    state = rng.normal(size=(members, 2, *grid.shape))
    for t in range(steps):
        state = 0.95 * np.roll(state, 1, -1) + 0.1 * rng.normal(size=state.shape)
        fields[:, t, 0] = 280 + 5 * state[:, 0]
        fields[:, t, 1] = 55_000 + 500 * state[:, 1]
        fields[:, t, 2] = np.maximum(2 + state[:, 0], 0)
    time = TimeAxis("6h", 6 * 60 * 4, steps)
    scenario = Scenario("control", time, {}, tuple(range(members)), fields, np.zeros(steps, bool))
    return Archive(card(), "a sequence", grid, VARIABLES, {"control": scenario})
