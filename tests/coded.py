"""Archives in memory for tests: coded ones, whose values spell their own address, and small smooth climates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from emukit.competitions.cse151b import UNITS, cse151b
from emukit.data.archive import Archive, Scenario
from emukit.data.card import Card, parse_card
from emukit.data.grid import Grid
from emukit.data.time import TimeAxis
from emukit.metrics import Moments, Score

VARIABLES = ("tas", "pr")
SCENARIOS = ("ssp126", "ssp245", "ssp370", "ssp585")


def score_moments(moments: Moments, weights: NDArray[np.floating], variables: Sequence[str] = ("tas", "pr")) -> Score:
    """The score of the shipped competition."""
    return cse151b().score(moments, weights, variables)


def limit_score(runs: Sequence[NDArray[np.floating]], weights: NDArray[np.floating]) -> Score:
    """The limit of the shipped competition, of runs with tas and pr."""
    limit = cse151b().limit(runs, weights, ("tas", "pr"))
    assert limit is not None
    return limit


def changed(score: Score, change: Callable[[str, float], float]) -> Score:
    """A score with each number, by its key, put in another's place."""
    return replace(score, numbers={key: change(key, value) for key, value in score.numbers.items()})


def small_grid(lat_cells: int = 4, lon_cells: int = 6) -> Grid:
    """A global grid of a few cells."""
    lat = -90 + 180 / lat_cells * (np.arange(lat_cells) + 0.5)
    return Grid(lat, 360 / lon_cells * (np.arange(lon_cells) + 0.5))


def small_card(validation: int = 12, test: int = 36) -> Card:
    """The competition's protocols, with shorter held-out spans."""
    held = {"scenario": "ssp370", "member": 0}
    quantity = {"units": "1", "range": [-1e9, 1e9], "largest": [-1e9, 1e9], "what": "coded"}
    targets = {v: {**quantity, "units": UNITS[v]} for v in VARIABLES}
    settings = {
        "name": "coded",
        "title": "Coded",
        "source": "tests",
        "licence": "none",
        "scenarios": list(SCENARIOS),
        "targets": targets,
        "competition": "cse151b",
        "forcings": dict.fromkeys(("CO2", "CH4", "SO2", "BC", "rsdt"), quantity),
        "default_protocol": "official",
        "protocols": {
            "official": {
                "train": ["ssp126", "ssp370", "ssp585"],
                "validation": [{**held, "months": [-validation, 0]}],
                "test": [{"scenario": "ssp245", "member": 0, "months": [-test, 0]}],
            },
            "k360": {
                "train": ["ssp126", "ssp370", "ssp585"],
                "validation": [{**held, "months": [-test - validation, -test]}],
                "test": [{**held, "months": [-test, 0]}],
            },
        },
        "loso": {"validation_months": validation, "test_months": test},
    }
    return parse_card(settings, "tests")


def code(scenario: int, member: int, month: int, variable: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """(Y, X) values that spell scenario, member, month, variable and cell; exact in float32 (below 2^24)."""
    cells = shape[0] * shape[1]
    first = (((scenario * 3 + member) * 240 + month) * 2 + variable) * cells
    assert first + cells < 2**24
    return (first + np.arange(cells)).reshape(shape).astype(np.float32)


def monthly(months: int) -> TimeAxis:
    """So many months from January 2015 on."""
    return TimeAxis("month", 45 * 12, months)


def coded_archive(months: int = 121, members: int = 3, hidden: dict[str, tuple[int, int]] | None = None) -> Archive:
    """Targets spell their address; forcing fields spell scenario and month; hidden months are zero."""
    grid = small_grid()
    scenarios = {}
    for s, name in enumerate(SCENARIOS):
        targets = np.stack(
            [
                np.stack([np.stack([code(s, m, t, v, grid.shape) for v in range(2)]) for t in range(months)])
                for m in range(members)
            ]
        )
        mask = np.zeros(months, bool)
        if hidden and name in hidden:
            mask[slice(*hidden[name])] = True
            targets[:, mask] = 0
        stamp = 1000.0 * s + np.arange(months)
        field = np.broadcast_to(stamp[:, None, None], (months, *grid.shape)).astype(np.float32)
        forcings = {"CO2": stamp, "CH4": -stamp, "SO2": field, "BC": field + 0.5, "rsdt": field * 2}
        scenarios[name] = Scenario(name, monthly(months), forcings, tuple(range(members)), targets, mask)
    return Archive(small_card(), "coded", grid, VARIABLES, scenarios)


def warming_archive(months: int = 181, members: int = 3, noise: float = 0.3, seed: int = 0) -> Archive:
    """A climate that is exactly linear in CO2 and SO2 by cell and season, plus noise."""
    grid = small_grid()
    rng = np.random.default_rng(seed)
    season = np.cos(2 * np.pi * np.arange(12) / 12)[:, None, None, None]
    base = rng.normal(size=(1, 2, *grid.shape)) + season * rng.normal(size=(1, 2, *grid.shape))
    base = base * [[[[8.0]], [[0.5]]]] + np.array([280.0, 6.0])[None, :, None, None]
    response = rng.uniform(0.5, 1.5, size=(2, 2, *grid.shape)) * [[[[1.0]], [[0.2]]]] * (1 + 0.3 * season[:, None])
    scenarios = {}
    t = np.arange(months)
    for s, name in enumerate(SCENARIOS):
        co2 = 1500.0 + (s + 1) * t * 5.0 + 2.0 * s * (t / 20.0) ** 2
        sulphur = (1.0 + s) * np.exp(-t / (60.0 + 20 * s))
        drivers = np.stack([(co2 - 1500.0) / 2000.0, sulphur], 1)
        forced = base[t % 12] + np.einsum("tf,tfvyx->tvyx", drivers, response[t % 12])
        weather = noise * rng.normal(size=(members, months, 2, *grid.shape)) * [[[[1.0]], [[0.2]]]]
        field = np.broadcast_to(sulphur[:, None, None], (months, *grid.shape)).astype(np.float32)
        sun = 300 + 100 * np.cos(2 * np.pi * t / 12)[:, None, None] * np.sin(np.deg2rad(grid.lat))[:, None]
        sun = np.broadcast_to(sun, (months, *grid.shape)).astype(np.float32)
        forcings = {"CO2": co2, "CH4": 0.3 + 0.1 * sulphur, "SO2": field, "BC": field * 0.5, "rsdt": sun}
        targets = (forced[None] + weather).astype(np.float32)
        mask = np.zeros(months, bool)
        scenarios[name] = Scenario(name, monthly(months), forcings, tuple(range(members)), targets, mask)
    return Archive(small_card(24, 60), "warming", grid, VARIABLES, scenarios)
