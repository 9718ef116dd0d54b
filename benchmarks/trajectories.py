"""Trajectories: what a learned closure costs on top of its core, and what rollouts keep for the gradient.

Invariant: weights are fresh, so that a hybrid says what its core says, and a closure of columns what its base says. A
rollout gives the same gradient, whether states between its steps are kept or computed again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import Figure, Work, compare, measure
from benchmarks.child import peak_mb
from emukit.models.hybrid import COLUMN, LEVELS, Hybrid, roles_of

# The grid and truncation of the recipe's data.
SIZE = ("48", "96", "31")
# Steps that are timed together, and of the rollout whose gradient is taken.
STEPS, ROLLOUT = 8, 8
HOURS, YEAR_HOURS = 6.0, 365 * 24
MONTHS, YEARS, CELLS = 1021, 85, (48, 72)
# Single precision adds up in another order.
AGREEMENT = 1e-3


def bench_trajectories(runs: int) -> list[Figure]:
    """Steps of a hybrid against its core alone, gradients of its rollout, and months of a closure of columns."""
    here = __name__
    found = compare("", f"{here}:prepare_steps", f"{here}:prepare_core_steps", SIZE, runs=runs, tolerance=AGREEMENT)
    year = YEAR_HOURS / HOURS * found.value / STEPS
    steps = replace(
        found,
        name=f"steps of {HOURS:g} hours, hybrid, against its core alone: {year:.0f} s a simulated year",
        value=STEPS / found.value,
        reference=STEPS / found.reference,
        unit="steps/s",
    )
    rollout = f"gradient of {ROLLOUT} steps, computed again between them, against all kept"
    gradient = compare(
        rollout, f"{here}:prepare_recomputed", f"{here}:prepare_kept", SIZE, runs=runs, tolerance=AGREEMENT
    )
    ours, plain = (measure(f"{here}:prepare_growth", (*SIZE, again)) for again in ("yes", "no"))
    memory = Figure(
        f"memory of the {gradient.name}",
        ours.answer,
        "MB",
        plain.answer,
        # Growth too small to be seen has no ratio.
        plain.answer / ours.answer if ours.answer > 0 else math.nan,
        ours.peak_mb,
        "",
        within=True,
    )
    cells = tuple(map(str, CELLS))
    name = f"{MONTHS} months, column-closure, against its base alone"
    months = compare(name, f"{here}:prepare_months", f"{here}:prepare_base_months", cells, runs=runs)
    per_year = 1e3 * months.value / (MONTHS / 12)
    return [steps, gradient, memory, replace(months, name=f"{name}: {per_year:.0f} ms a simulated year")]


def prepare_steps(rows: str, columns: str, truncation: str) -> Work:
    """Steps of a whole hybrid from the same states; the answer is how much its core changes geopotential."""
    network, frames = _hybrid(rows, columns, truncation)
    place = next(i for i, role in enumerate(network.roles) if role.kind == "geopotential")
    output = network.places[place]
    unit = network.spread[output] * network.change[output]

    def work() -> float:
        with torch.inference_mode():
            for _ in range(STEPS):
                said = network(frames)
        changed = said[:, 0, output] * unit + network.drift[output]
        return float(changed.double().square().mean().sqrt())

    return work


def prepare_core_steps(rows: str, columns: str, truncation: str) -> Work:
    """As many steps of the core alone, from the state that the hybrid's encoder makes."""
    network, frames = _hybrid(rows, columns, truncation)
    core = network._ready().core
    place = next(i for i, role in enumerate(network.roles) if role.kind == "geopotential")
    with torch.inference_mode():
        initial, _ = network.encode(frames[:, 0])
        before = network.decode(initial)[place]

    def work() -> float:
        with torch.inference_mode():
            for _ in range(STEPS):
                state = initial
                for _ in range(network.substeps):
                    state = core.step(state)
            changed = network.decode(state)[place] - before
        return float(changed.double().square().mean().sqrt())

    return work


def prepare_recomputed(rows: str, columns: str, truncation: str) -> Work:
    """The gradient of a rollout that keeps states between steps alone; the answer is its norm."""
    return _rollout(rows, columns, truncation, again=True)


def prepare_kept(rows: str, columns: str, truncation: str) -> Work:
    """The same gradient, of a rollout that keeps everything."""
    return _rollout(rows, columns, truncation, again=False)


def prepare_growth(rows: str, columns: str, truncation: str, again: str) -> Work:
    """Megabytes by which the process grows while it takes the gradient."""
    gradient = _rollout(rows, columns, truncation, again=again == "yes")

    def work() -> float:
        before = peak_mb()
        gradient()
        return peak_mb() - before

    return work


def prepare_months(rows: str, columns: str) -> Work:
    """A scenario by a closure of columns that is not trained; the answer is the mean square of its fields."""
    closure, scenario = _closure(rows, columns)
    return lambda: _mean_square(closure.predict_fields(scenario, 0, MONTHS))


def prepare_base_months(rows: str, columns: str) -> Work:
    """The same scenario by the energy balance under it."""
    closure, scenario = _closure(rows, columns)
    return lambda: _mean_square(closure.bases[0].predict_fields(scenario, 0, MONTHS))


def _mean_square(fields: NDArray[np.float32]) -> float:
    return float(np.square(fields, dtype=np.float64).mean())


def _hybrid(rows: str, columns: str, truncation: str) -> tuple[Hybrid, torch.Tensor]:
    """The recipe's network with fresh weights on a made-up mean state, and (1, 1, C, Y, X) frames of anomalies."""
    from emukit.models.registry import build_network
    from emukit.recipes.load import load_recipe

    torch.set_num_threads(1)
    recipe: Any = load_recipe("hybrid", None, (f"model.truncation={truncation}",))
    roles = roles_of(recipe.options["roles"])
    states = recipe.inputs.states
    channels = ("sin_local_hour", "cos_local_hour", *(f"state:{name}" for name in states))
    Y, X = int(rows), int(columns)
    torch.manual_seed(0)
    network = build_network(
        "hybrid", in_channels=len(channels), variables=len(roles), grid=(Y, X), history=1, options=recipe.options
    )
    assert isinstance(network, Hybrid)
    latitudes = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(Y)[0]))
    lat, lon = np.deg2rad(latitudes)[:, None], 2 * np.pi * np.arange(X) / X
    usual = LEVELS | COLUMN
    center = np.stack([np.full((Y, X), usual[role.kind][0]) for role in roles])
    spread = np.stack([np.full((Y, X), usual[role.kind][1]) for role in roles])
    for i, role in enumerate(roles):
        if role.kind == "temperature":
            center[i] += 15 * np.cos(lat) ** 2 - 10 + 20 * ((role.sigma or 1.0) - 0.5)
        if role.kind == "eastward":
            center[i] += 20 * np.sin(2 * lat) ** 2
    network.know(
        outputs=[role.name for role in roles],
        channels=channels,
        latitudes=latitudes,
        hours=HOURS,
        center=center,
        spread=spread,
        change=np.array([0.5 if role.name in states else 0.0 for role in roles]),
    )
    waves = [np.cos(lat) ** k * np.cos(k * lon + i) for i in range(len(channels)) for k in range(1, 5)]
    fields = 0.2 * np.stack(waves).reshape(len(channels), 4, Y, X).sum(1)
    return network, torch.tensor(fields[None, None], dtype=torch.float32)


def _rollout(rows: str, columns: str, truncation: str, *, again: bool) -> Work:
    from emukit.data.sampler import Sample
    from emukit.losses.composite import CompositeLoss
    from emukit.losses.grid_context import GridContext
    from emukit.objectives.rollout import Rollout

    network, frames = _hybrid(rows, columns, truncation)
    names = tuple(role.name for role in network.roles)
    areas = network._ready().areas.expand(-1, int(columns)).float()
    loss = CompositeLoss({name: {"mse": 1.0} for name in names}, names, GridContext(areas))
    objective = Rollout(loss, lengths=(ROLLOUT,), boundaries=(), checkpoint=again)
    states = torch.tensor([p for p, c in zip(network._places, network._slots, strict=True) if c >= 0])
    scale = torch.zeros(1, len(names))
    scale[:, states] = network.change[states]
    sample = Sample(
        frames.expand(-1, ROLLOUT, -1, -1, -1).clone(),
        torch.zeros(1, ROLLOUT, len(names), *network.grid),
        {"states": states[None], "scale": scale},
    )

    def work() -> float:
        objective.loss(network, sample)[0].backward()  # type: ignore[no-untyped-call]
        squares = [p.grad.double().square().sum() for p in network.parameters() if p.grad is not None]
        return math.sqrt(float(torch.stack(squares).sum()))

    return work


def _closure(rows: str, columns: str) -> tuple[Any, Any]:
    """A closure of columns with fresh weights on an energy balance of given parameters, and a made-up scenario."""
    from benchmarks.networks import Job, made_up_archive
    from emukit.data.protocol import make_split
    from emukit.emulators.column_closure import ColumnClosureEmulator, Columns
    from emukit.emulators.energy_balance import EnergyBalanceEmulator

    torch.set_num_threads(1)
    archive = made_up_archive(Job("none", grid=(int(rows), int(columns)), years=YEARS))
    base = EnergyBalanceEmulator.fit(archive, make_split(archive, "k360"), calibration="given")
    options: dict[str, Any] = {"substeps": 4, "held": 4, "hidden": 32, "blocks": 1, "position": 8, "noise": 4}
    options |= {"memory": 2.0, "diffusion": 0.1}
    spread = np.stack([np.full(archive.grid.shape, 1.5), np.full(archive.grid.shape, 0.8)])
    torch.manual_seed(0)
    network = Columns(archive.grid.weights, spread, archive.grid.lat, **options)
    emulator = ColumnClosureEmulator(archive.domain, (base,), network, options, 288.0, seed=0)
    return emulator, archive["ssp126"]
