"""A hybrid: states to a spectral dynamical core, through it with a learned closure of columns, and back to states.

Invariant: a step is a function of its window of frames alone. Fresh, what a step says of the states is what the core
says of them. The global mean of surface pressure does not change, and that of column water changes by evaporation less
precipitation, whatever the weights are.

The parts are those of NeuralGCM (Kochkov et al. 2024, doi:10.1038/s41586-024-07744-y; Yuval et al. 2024,
arXiv:2412.11973 for the water), at a size for a laptop:

- The encoder fills the layers that nobody observes. Observed winds and temperatures are interpolated between layers.
  Where a geopotential is observed the wind takes what balances it, and below an observed wind aloft temperatures take
  what balances that. A network of columns adds to them. Temperatures are then shifted so that the geopotential is the
  observed one: a core that begins out of balance answers with gravity waves.
- The core takes `substeps` steps. A closure of columns says tendencies once in `held` of them, which hold in between.
  It does not change surface pressure, so it cannot create mass.
- The decoder reads the layers that are observed. What the core alone makes of the mean state in a step, which is no
  weather but what it lacks, is taken from their change, and a network adds to it.
- In predictions, not in training, states beyond those of training are drawn back, and so are global means: errors too
  small for rollouts of days to show add up in weeks.

The geopotential of the surface, which no data set needs to hold, is what hydrostatic balance leaves of the mean state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from emukit.errors import RecipeError
from emukit.models.closure import ColumnClosure
from emukit.models.heads import soft_clip
from emukit.models.layers import check_sizes, stacked_windows
from emukit.models.spectral_core import (
    GAS,
    GEOPOTENTIAL,
    GRAVITY,
    HOURS,
    REFERENCE,
    SPACINGS,
    SPEED,
    Fields,
    SpectralCore,
    check_extra,
    spacing_of,
)
from emukit.models.unet import UNet

# What a role says of an output: its kind, and for those of a level where that is. Centre and spread stand in for
# statistics where a network is measured before there are any.
LEVELS: dict[str, tuple[float, float]] = {
    "eastward": (0.0, 10.0),
    "northward": (0.0, 10.0),
    "temperature": (260.0, 10.0),
    "geopotential": (55_000.0, 1000.0),
    "humidity": (4e-3, 2e-3),
}
COLUMN: dict[str, tuple[float, float]] = {
    "pressure": (1e5, 500.0),
    "water": (25.0, 5.0),
    "rain": (2.6, 4.0),
    "evaporation": (2.6, 2.0),
}
# A level is that of a layer no farther from it.
NEAR = 0.06
# Sigma of the layers of SPEEDY (Molteni 2003, doi:10.1007/s00382-002-0268-2).
SPEEDY = (0.0, 0.05, 0.14, 0.26, 0.42, 0.6, 0.77, 0.9, 1.0)
# What one unit of a network is of wind (m/s), temperature (K) and the logarithm of humidity, as the encoder adds them;
# and of their tendencies (a day), as the closure says them. They are small, as in NeuralGCM, so that the first steps of
# training do not put the core out of balance.
ADDED = (0.3, 0.2, 0.05)
A_DAY = (1.0, 0.6, 5e-4)
# Geopotential (m2 s-2) that is one unit to a network.
HEIGHTS = 500.0
# Near the equator no wind balances a geopotential: the Coriolis parameter is held from zero by that of 10 degrees.
LEAST_CORIOLIS = float(np.sin(np.deg2rad(10.0)))
# In which departures of cells and of global means fall to 1/e, in days.
RELAXATION_DAYS = (1.0, 5.0)


class Role(NamedTuple):
    """What an output is to the core.

    Attributes:
        name: Of the output.
        kind: Of `LEVELS` or `COLUMN`.
        sigma: Where, of `LEVELS`: pressure over surface pressure; 1 for the temperature near the surface.
    """

    name: str
    kind: str
    sigma: float | None


@dataclass(frozen=True, eq=False)
class Tables:
    """What is made from the data once.

    Attributes:
        core: With the surface of the data.
        outer: Transforms of the data's own grid, to the truncation of the core.
        areas: (Y, 1) weights that sum to one over all cells, float64.
        coriolis: (Y, 1) sine of latitude, which is the Coriolis parameter in units of the core.
        beta: (Y, 1) cosine of latitude, which is its slope.
        standard: (K, 1, 1) temperatures of the standard atmosphere.
        tables: Kind to the (K, n) weights of what is observed of it in each layer.
        surface: (Y, X) geopotential of the surface over `GEOPOTENTIAL`.
    """

    core: SpectralCore
    outer: Any
    areas: Tensor
    coriolis: Tensor
    beta: Tensor
    standard: Tensor
    tables: dict[str, Tensor | None]
    surface: Tensor


def roles_of(table: Mapping[str, str]) -> tuple[Role, ...]:
    """The roles that a table such as ``{u200 = "eastward 0.2", ps = "pressure"}`` says.

    Raises:
        ValueError: A kind that is not known, or a level missing or too much.
    """
    found = []
    for name, text in table.items():
        kind, _, level = text.partition(" ")
        try:
            sigma = float(level) if level else None
        except ValueError:
            sigma = -1.0
        known = kind in LEVELS if sigma is not None and 0 < sigma <= 1 else kind in COLUMN and sigma is None
        if not known:
            levels, whole = " SIGMA, ".join(LEVELS), ", ".join(COLUMN)
            raise ValueError(f"roles.{name} is {text!r}, and must be one of {levels} SIGMA, {whole}")
        found.append(Role(name, kind, sigma))
    return tuple(found)


class Hybrid(nn.Module):
    """States and other frames to the next states, (S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""

    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (ColumnClosure,)
    places: Tensor
    slots: Tensor
    latitudes: Tensor
    hours: Tensor
    center: Tensor
    spread: Tensor
    change: Tensor
    drift: Tensor

    def __init__(
        self,
        *,
        in_channels: int,
        variables: int,
        grid: tuple[int, int],
        history: int,
        roles: Mapping[str, str] | None = None,
        truncation: int = 21,
        boundaries: Sequence[float] = SPEEDY,
        substeps: int = 4,
        held: int = 2,
        hidden: int = 64,
        blocks: int = 2,
        position: int = 8,
        closure: bool = True,
        decoder: Literal["none", "columns", "unet"] = "unet",
        width: int = 28,
        depth: int = 2,
        diffusion_hours: float = 2.0,
        diffusion_order: int = 3,
        divergence_hours: tuple[float, float] = (6.0, 0.5),
        divergence: float = 0.5,
        relaxation: float = 0.0,
        relaxation_days: tuple[float, float] = RELAXATION_DAYS,
    ) -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            variables: V.
            grid: (Y, X).
            history: H, frames of a window.
            roles: Output to what it is to the core: ``eastward``, ``northward``, ``temperature``, ``geopotential`` or
                ``humidity`` with a level from 0 to 1 (pressure over that of the surface), ``pressure`` (of the surface,
                Pa), ``water`` (of the column, kg m-2), ``rain`` and ``evaporation`` (mm/day).
            truncation: Largest wavenumber of the core: 21 for T21.
            boundaries: Sigma between its layers, from 0 to 1; those of SPEEDY by default.
            substeps: Steps of the core in a step of the data.
            held: Of these, through how many one answer of the closure is held.
            hidden: Width of encoder, closure and a decoder of columns.
            blocks: Residual blocks of each.
            position: Learned numbers of each cell that the closure reads.
            closure: Whether there is one.
            decoder: What adds to the change that the core says: nothing, a network of columns, or a U-Net.
            width: Of the U-Net's finest level.
            depth: Its halvings.
            diffusion_hours: In which the smallest scale of the core falls to 1/e.
            diffusion_order: Power of the Laplacian that does it.
            divergence_hours: In which divergence of every scale, and of the smallest one besides, falls to 1/e; 0 for
                never.
            divergence: Share of the divergence of interpolated winds that the core begins with.
            relaxation: Standard deviations from the mean of training beyond which states are drawn back, in
                predictions; 0 for never.
            relaxation_days: In which what lies beyond, and departures of global means from those of training, fall to
                1/e.

        Raises:
            ValueError: A size is out of range, `held` does not divide `substeps`, a role is not known, or a level has
                no layer.
            RecipeError: dinosaur-torch is not installed.
        """
        super().__init__()
        check_extra()
        check_sizes(1, substeps=substeps, held=held, hidden=hidden, blocks=blocks, width=width, depth=depth)
        check_sizes(1, truncation=truncation, diffusion_order=diffusion_order)
        check_sizes(0, position=position)
        if min(*divergence_hours, divergence, diffusion_hours) < 0:
            raise ValueError("diffusion_hours, divergence_hours and divergence must not be negative")
        if relaxation < 0:
            raise ValueError(f"relaxation must be zero or more, not {relaxation:g}")
        if min(relaxation_days) <= 0:
            raise ValueError(f"relaxation_days must be above zero, not {', '.join(f'{d:g}' for d in relaxation_days)}")
        if not relaxation and tuple(relaxation_days) != RELAXATION_DAYS:
            raise ValueError("relaxation_days would do nothing: relaxation is 0, so that nothing is drawn back")
        if substeps % held:
            raise ValueError(f"held must divide substeps {substeps}, not {held}")
        most = min(grid[0] - 2, (grid[1] - 1) // 2)
        if truncation > most:
            raise ValueError(f"truncation must be at most {most} on a grid of {grid[0]} x {grid[1]}, not {truncation}")
        edges = np.asarray(boundaries, np.float64)
        if len(edges) < 3 or edges[0] != 0 or edges[-1] != 1 or not (np.diff(edges) > 0).all():
            raise ValueError(f"boundaries must ascend from 0 to 1, with two layers or more, not {list(boundaries)}")
        self.grid, self.history, self.variables = grid, history, variables
        self.roles = roles_of(roles or {})
        self.settings = (truncation, tuple(float(b) for b in edges), diffusion_hours, diffusion_order)
        self.divergence, self.divergence_hours = divergence, divergence_hours
        self.relaxation, self.relaxation_days = relaxation, relaxation_days
        self.substeps, self.held = substeps, held
        self.sigma = (edges[1:] + edges[:-1]) / 2
        self.layers = layers = len(self.sigma)
        self._levels = [self._layer_of(role) for role in self.roles]
        carried = sum(role.kind not in ("rain", "evaporation") for role in self.roles)
        heights = [self._levels[i] for i in self._of("geopotential")[:1]]
        balanced = len(heights) + any(self._levels[i] < k - 1 for k in heights for i in self._of("eastward"))
        window = history * in_channels
        profile = self.sigma**3
        self.encoder = ColumnClosure(
            window + balanced,
            [ADDED[0]] * 2 * layers + [ADDED[1]] * layers + [ADDED[2]] * layers,
            hidden=hidden,
            blocks=blocks,
        )
        rows = 2 * -(-(3 * truncation + 1) // 4)
        self.position = nn.Parameter(0.1 * torch.randn(position, 2 * rows, rows)) if position and closure else None
        self.closure = (
            ColumnClosure(
                6 * layers + 2 + window + position,
                [A_DAY[0]] * 2 * layers + [A_DAY[1]] * layers + [A_DAY[2] * max(p, 0.01) for p in profile],
                hidden=hidden,
                blocks=blocks,
            )
            if closure
            else None
        )
        told = window + carried + 1
        self.decoder: nn.Module | None = None
        if decoder == "columns":
            self.decoder = ColumnClosure(told, [1.0] * variables, hidden=hidden, blocks=blocks)
        elif decoder == "unet":
            self.decoder = UNet(
                in_channels=told,
                variables=variables,
                grid=grid,
                history=1,
                window="channels",
                width=width,
                depth=depth,
                linear=0,
                local=False,
            )
            for head in self.decoder.branches[0].heads:  # type: ignore[union-attr]
                nn.init.zeros_(head.cells.weight)
                nn.init.zeros_(head.cells.bias)
        number = len(self.roles)
        self.register_buffer("places", torch.arange(number) % variables)
        self.register_buffer("slots", torch.arange(number) % in_channels)
        nodes = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(grid[0])[0]))
        self.register_buffer("latitudes", torch.as_tensor(nodes, dtype=torch.float64))
        self.register_buffer("hours", torch.tensor(6.0, dtype=torch.float64))
        center, spread = torch.zeros(variables, *grid), torch.ones(variables, *grid)
        for role, place in zip(self.roles, range(number), strict=True):
            center[place % variables], spread[place % variables] = (LEVELS | COLUMN)[role.kind]
        self.register_buffer("center", center)
        self.register_buffer("spread", spread)
        self.register_buffer("change", torch.ones(variables))
        self.register_buffer("drift", torch.zeros(variables, *grid))
        self._made: Tables | None = None
        self._channels = in_channels
        self._places, self._slots = [i % variables for i in range(number)], [i % in_channels for i in range(number)]

    def know(
        self,
        *,
        outputs: Sequence[str],
        channels: Sequence[str],
        latitudes: NDArray[np.float64],
        hours: float,
        center: NDArray[np.float64],
        spread: NDArray[np.float64],
        change: NDArray[np.float64],
    ) -> None:
        """Tell it what its frames and fields are; this is kept with the weights.

        Args:
            outputs: Names along the V axis.
            channels: Names of those of a frame; that of a state is ``state:`` and its output.
            latitudes: (Y,) degrees, from south to north.
            hours: Of a step.
            center: (V, Y, X) physical value of a normalised zero.
            spread: (V, Y, X) physical size of a normalised one.
            change: (V,) what one unit of a state's change is, normalised.

        Raises:
            RecipeError: A role is that of no output or of no state, one that the core needs is missing, or the
                latitudes are unknown to it.
        """
        unknown = [role.name for role in self.roles if role.name not in outputs]
        if unknown:
            raise RecipeError(
                "model.roles names what is not an output",
                found=", ".join(unknown),
                expected=f"some of {', '.join(outputs)}",
            )
        states = {name.removeprefix("state:"): i for i, name in enumerate(channels) if name.startswith("state:")}
        idle = [r.name for r in self.roles if r.kind not in ("rain", "evaporation") and r.name not in states]
        if idle:
            raise RecipeError(
                "the core begins from states, and some of its outputs are none",
                found=", ".join(idle),
                hint=f"add them to inputs.states, or leave them out of model.roles: {', '.join(states)} are states",
            )
        winds = [sorted(str(self.roles[i].sigma) for i in self._of(kind)) for kind in ("eastward", "northward")]
        complete = winds[0] == winds[1] and winds[0] and self._of("temperature") and self._of("pressure")
        if not complete:
            raise RecipeError(
                "the core needs eastward and northward wind at the same levels, a temperature and surface pressure",
                found=", ".join(f"{r.name} = {r.kind}" for r in self.roles) or "no roles",
                hint="say in [model.roles] what the outputs are: `emukit models hybrid --toml` has an example",
            )
        spacing_of(latitudes)
        self.places.copy_(torch.tensor([list(outputs).index(r.name) for r in self.roles]))
        self.slots.copy_(torch.tensor([states.get(r.name, -1) for r in self.roles]))
        self.hours.fill_(hours)
        for buffer, values in (
            (self.latitudes, latitudes),
            (self.center, center),
            (self.spread, spread),
            (self.change, np.where(np.asarray(change) > 0, change, 1.0)),
        ):
            buffer.copy_(torch.as_tensor(np.asarray(values)))
        self.drift.zero_()
        self.forget()
        with torch.no_grad():
            begun, _ = self.encode(self.center.new_zeros(1, self.history * self._channels, *self.grid))
            ended = begun
            for _ in range(self.substeps):
                ended = self._ready().core.step(ended)
            before, after = self.decode(begun), self.decode(ended)
            for i, place in enumerate(self._places):
                if i in after:
                    self.drift[place] = (after[i] - before[i])[0]

    def forget(self) -> None:
        """Drop the core, which is made anew from what is known when it is needed."""
        self._made = None
        if self.places.device.type != "meta":
            self._places, self._slots = self.places.tolist(), self.slots.tolist()

    def _apply(self, fn: Any, recurse: bool = True) -> Hybrid:
        # Tables that are no buffers do not move along.
        self.forget()
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes its own core, perhaps on another device.
        return {**self.__dict__, "_made": None}

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self.forget()

    def _of(self, kind: str) -> list[int]:
        """Numbers of the roles of a kind, from the top down."""
        found = [i for i, role in enumerate(self.roles) if role.kind == kind]
        return sorted(found, key=lambda i: self.roles[i].sigma or 0.0)

    def _layer_of(self, role: Role) -> int:
        if role.sigma is None:
            return -1
        if role.kind == "temperature" and role.sigma == 1:
            return self.layers - 1
        layer = int(np.abs(self.sigma - role.sigma).argmin())
        if abs(self.sigma[layer] - role.sigma) > NEAR:
            middles = ", ".join(f"{s:.3g}" for s in self.sigma)
            raise ValueError(f"{role.name} at {role.sigma} has no layer within {NEAR}: there are {middles}")
        return layer

    def _ready(self) -> Tables:
        """The core, and what else depends on the data alone."""
        device = self.center.device
        if self._made is not None:
            return self._made
        from dinosaur_torch.spherical_harmonic import FastSphericalHarmonics, Grid, GridSpec

        truncation, boundaries, diffusion_hours, diffusion_order = self.settings
        unknown = device.type == "meta"
        with torch.inference_mode(False), torch.no_grad():
            spacing = SPACINGS[0] if unknown else spacing_of(self.latitudes.cpu().numpy())
            spec = GridSpec(truncation + 1, truncation + 2, self.grid[1], self.grid[0], spacing)
            core = SpectralCore(
                truncation,
                boundaries,
                (6.0 if unknown else float(self.hours)) / self.substeps,
                diffusion_hours=diffusion_hours,
                diffusion_order=diffusion_order,
                divergence_hours=self.divergence_hours,
                device=device,
            )
            degrees = torch.deg2rad(self.latitudes)[:, None]
            areas = torch.cos(degrees) / (torch.cos(degrees).sum() * self.grid[1])
            self._made = made = Tables(
                core,
                Grid(spec, impl=FastSphericalHarmonics, device=device),
                areas,
                torch.sin(degrees).float(),
                torch.cos(degrees).float(),
                torch.tensor(_standard(self.sigma), dtype=torch.float32, device=device)[:, None, None],
                self._interpolation(device),
                torch.zeros(self.grid, device=device),
            )
            # The surface: what hydrostatic balance leaves of the mean state.
            mean = {i: self.center[p] for i, p in enumerate(self._places)}
            heights, pressures = self._of("geopotential"), self._of("pressure")
            if heights:
                column = self._temperatures({i: m[None] for i, m in mean.items()})
                above = core.geopotential(column)[0, self._levels[heights[0]]]
                made.surface.copy_(mean[heights[0]] / GEOPOTENTIAL - above)
            elif pressures:
                log = torch.log(mean[pressures[0]].clamp(min=1e4) / 101_325.0)
                made.surface.copy_(-GAS * 280.0 / GEOPOTENTIAL * log)
            orography = made.outer.clip_wavenumbers(self._modal(made.surface))
            core.equations.orography.copy_(orography / core.equations.physics_specs.g)
            core.warm()
        return made

    def _interpolation(self, device: torch.device) -> dict[str, Tensor | None]:
        """(K, n) weights of observed winds, and of observed temperatures less the standard ones, in each layer."""
        log = np.log(self.sigma)
        tables: dict[str, Tensor | None] = {}
        for kind in ("eastward", "temperature"):
            at = np.log([self.roles[i].sigma or 1.0 for i in self._of(kind)])
            table = np.stack([np.interp(log, at, row) for row in np.eye(len(at))], 1) if len(at) else None
            if table is not None and kind == "temperature":
                # Above the highest one what it says fades, and is gone at the tropopause.
                fade = np.interp(log, [np.log(0.2), max(at[0], np.log(0.21))], [0.0, 1.0])
                table = table * fade[:, None]
            tables[kind] = None if table is None else torch.tensor(table, dtype=torch.float32, device=device)
        return tables

    def _modal(self, cells: Tensor) -> Tensor:
        """(..., Y, X) to (..., M, L)."""
        modal: Tensor = self._ready().outer.to_modal(cells.transpose(-1, -2))
        return modal

    def _cells(self, modal: Tensor) -> Tensor:
        """(..., M, L) to (..., Y, X)."""
        cells: Tensor = self._ready().outer.to_nodal(modal)
        return cells.transpose(-1, -2)

    def _temperatures(self, observed: Mapping[int, Tensor]) -> Tensor:
        """(B, K, Y, X) temperatures (K) between and beyond the observed ones."""
        known, table = self._of("temperature"), self._ready().tables["temperature"]
        if table is None:
            some = next(iter(observed.values())) if observed else self.center[:1]
            return self._ready().standard + torch.zeros_like(some)[:, None]
        standard = _standard(np.array([self.roles[i].sigma or 1.0 for i in known]))
        anomalies = torch.stack([observed[i] - float(s) for i, s in zip(known, standard, strict=True)], 1)
        return self._ready().standard + torch.einsum("kn,bnyx->bkyx", table, anomalies)

    def _balanced(self, east: Tensor, north: Tensor, temperature: Tensor, log_pressure: Tensor) -> Tensor:
        """(B, Y, X) geopotential that would hold the divergence of a wind at zero, without its global mean.

        That of the divergence equation: its Laplacian is the divergence of (f + vorticity) (v, -u), less the Laplacian
        of kinetic energy, less the divergence of R T grad(ln ps).

        Args:
            east: (B, Y, X) wind in units of the core, and so `north`.
            north: To the north.
            temperature: (B, Y, X) K.
            log_pressure: (B, Y, X) logarithm of surface pressure.
        """
        made = self._ready()
        grid, gas = made.outer, made.core.equations.physics_specs.R
        vorticity, _ = grid.uv_nodal_to_vor_div_modal(east.transpose(-1, -2), north.transpose(-1, -2))
        total = self._ready().coriolis + self._cells(vorticity)
        slopes = grid.cos_lat_grad(self._modal(log_pressure))
        pulls = [gas * temperature * self._cells(slope) / self._ready().beta for slope in slopes]
        forces = (total * north - pulls[0], -total * east - pulls[1])
        _, divergence = grid.uv_nodal_to_vor_div_modal(*(f.transpose(-1, -2) for f in forces))
        kinetic = grid.clip_wavenumbers(self._modal((east**2 + north**2) / 2))
        return self._cells(grid.inverse_laplacian(divergence)) - self._without_mean(self._cells(kinetic))

    def _without_mean(self, fields: Tensor) -> Tensor:
        mean: Tensor = (fields * self._ready().areas.to(fields.dtype)).sum((-2, -1), keepdim=True)
        return fields - mean

    def _geostrophic(self, heights: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Y, X) winds to the east and north that balance geopotentials; they fade towards the equator."""
        slopes = self._ready().outer.cos_lat_grad(self._modal(heights))
        east, north = (self._cells(slope) / self._ready().beta for slope in slopes)
        inverse = self._ready().coriolis / (self._ready().coriolis ** 2 + LEAST_CORIOLIS**2)
        return -north * inverse, east * inverse

    def encode(self, windows: Tensor) -> tuple[Fields, dict[int, Tensor]]:
        """Layers of the core from (B, H C, Y, X) windows, and (B, Y, X) observed values (physical) by role."""
        core, layers = self._ready().core, self.layers
        last = windows[:, -self._channels :]
        anomalies = {
            i: last[:, slot] * self.spread[place]
            for i, (slot, place) in enumerate(zip(self._slots, self._places, strict=True))
            if slot >= 0
        }
        observed = {i: a + self.center[self._places[i]] for i, a in anomalies.items()}
        pressure = torch.full_like(last[:, 0], 1e5)
        for p in self._of("pressure")[:1]:
            pressure = observed[p].clamp(min=1e4)
        log_pressure = torch.log(pressure / 1e5)
        table = self._ready().tables["eastward"]
        winds = [torch.zeros(len(last), layers, *self.grid, device=last.device)] * 2
        if table is not None:
            winds = [
                torch.einsum("kn,bnyx->bkyx", table, torch.stack([observed[i] for i in self._of(kind)], 1)) / SPEED
                for kind in ("eastward", "northward")
            ]
        temperature = self._temperatures(observed) if observed else self._ready().standard + 0 * last[:, :1]
        hints: list[Tensor] = []
        for z in self._of("geopotential")[:1]:
            winds, temperature, hints = self._in_balance(self._levels[z], observed[z], winds, temperature, log_pressure)
        told = torch.cat((windows, *(h[:, None] for h in hints)), 1)
        added = self.encoder(soft_clip(told).movedim(1, -1)).movedim(-1, 1)
        winds = [wind + part / SPEED for wind, part in zip(winds, added.split(layers, 1), strict=False)]
        temperature = temperature + added[:, 2 * layers : 3 * layers]
        for z in self._of("geopotential")[:1]:
            temperature = temperature + self._shift(temperature, self._levels[z], observed[z])
        profile = core.sigma[:, None, None] ** 3 * torch.exp(added[:, 3 * layers :])
        humidity = 2e-3 * profile
        for w in self._of("water")[:1]:
            column = pressure / GRAVITY * (profile * core.thickness[:, None, None]).sum(1)
            humidity = profile * (observed[w].clamp(min=0.0) / column)[:, None]
        vorticity, divergence = self._ready().outer.uv_nodal_to_vor_div_modal(
            *(wind.transpose(-1, -2) for wind in winds)
        )
        clip = self._ready().outer.clip_wavenumbers
        state = Fields(
            vorticity,
            self.divergence * divergence,
            clip(self._modal(temperature - REFERENCE)),
            clip(self._modal(log_pressure))[:, None],
            clip(self._modal(humidity)),
        )
        return state, observed

    def _shift(self, temperature: Tensor, level: int, height: Tensor) -> Tensor:
        """(B, K, Y, X) K by which all layers below a level must shift alike, for it to lie at (B, Y, X) m2 s-2."""
        core = self._ready().core
        missing = height / GEOPOTENTIAL - self._ready().surface - core.geopotential(temperature)[:, level]
        weights = core.equations.geopotential_weights[level]
        below = (torch.arange(self.layers, device=weights.device) >= level).to(weights.dtype)
        shift: Tensor = below[:, None, None] * (missing / (weights * below).sum())[:, None]
        return shift

    def _in_balance(
        self, level: int, height: Tensor, winds: list[Tensor], temperature: Tensor, log_pressure: Tensor
    ) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Winds where a geopotential is observed, and temperatures below where a wind is, from the balance of both.

        Args:
            level: Layer of the observed geopotential.
            height: (B, Y, X) itself, m2 s-2.
            winds: (B, K, Y, X) to the east and north, interpolated.
            temperature: (B, K, Y, X) K, interpolated.
            log_pressure: (B, Y, X) logarithm of surface pressure.

        Returns:
            Winds, temperatures, and (B, Y, X) channels of order one that say what was out of balance.
        """
        core = self._ready().core
        temperature = temperature + self._shift(temperature, level, height)
        balanced = self._balanced(winds[0][:, level], winds[1][:, level], temperature[:, level], log_pressure)
        missing = self._without_mean(height / GEOPOTENTIAL) - balanced
        hints = [missing * (GEOPOTENTIAL / HEIGHTS)]
        table = self._ready().tables["eastward"]
        seen = [self._levels[i] for i in self._of("eastward")]
        if table is not None and level not in seen:
            # What the wind of the level lacks is shared by the layers between it and the next observed ones.
            share = np.interp(np.arange(self.layers), *_tent(level, seen, self.layers))
            weights = torch.tensor(share, dtype=height.dtype, device=height.device)[:, None, None]
            lacks = self._geostrophic(missing)
            winds = [wind + weights * lack[:, None] for wind, lack in zip(winds, lacks, strict=True)]
        above = [k for k in seen if k < level - 1]
        if above:
            top, middle = above[-1], slice(above[-1] + 1, level)
            balanced = self._balanced(winds[0][:, top], winds[1][:, top], temperature[:, top], log_pressure)
            lies = self._ready().surface + core.geopotential(temperature)[:, top]
            missing = balanced - self._without_mean(lies)
            weights = core.equations.geopotential_weights[top]
            between = torch.zeros_like(weights)
            between[middle] = 1.0
            temperature = temperature + between[:, None, None] * (missing / (weights * between).sum())[:, None]
            hints.append(missing * (GEOPOTENTIAL / HEIGHTS))
        return winds, temperature, hints

    def tendencies(self, state: Fields, windows: Tensor) -> Fields:
        """What the closure says of every column of the core, per unit of its time.

        Args:
            state: (B, K, M, L).
            windows: (B, H C, M, L) coefficients of the windows.
        """
        core = self._ready().core
        assert self.closure is not None
        grid, layers = core.grid, self.layers
        wind = grid.vor_div_to_uv_nodal(state.vorticity, state.divergence)
        sigma = core.sigma[:, None, None]
        channels = [
            *(w * (SPEED / 10) for w in wind),
            (grid.to_nodal(state.temperature) + REFERENCE - self._ready().standard) / 10,
            grid.to_nodal(state.humidity) / (0.01 * sigma**3 + 1e-4),
            grid.to_nodal(state.vorticity) * 10,
            grid.to_nodal(state.divergence) * 30,
            grid.to_nodal(state.pressure) * 10,
            grid.to_nodal(core.equations.orography)[None, None].expand(len(windows), -1, -1, -1) * 1e3,
            grid.to_nodal(windows),
        ]
        if self.position is not None:
            channels.append(self.position[None].expand(len(windows), -1, -1, -1))
        said = self.closure(soft_clip(torch.cat(channels, 1)).movedim(1, -1)).movedim(-1, 1) * (HOURS / 24)
        parts = said.split(layers, 1)
        vorticity, divergence = grid.uv_nodal_to_vor_div_modal(parts[0] / SPEED, parts[1] / SPEED)
        temperature, humidity = (grid.clip_wavenumbers(grid.to_modal(p)) for p in parts[2:])
        return Fields(vorticity, divergence, temperature, torch.zeros_like(state.pressure), humidity)

    def advance(self, state: Fields, windows: Tensor) -> tuple[Fields, Tensor]:
        """The state after a step of the data, and the (B, K, M, L) humidity that the closure added in all."""
        made = self._ready()
        gained, held = torch.zeros_like(state.humidity), None
        coefficients = made.outer.clip_wavenumbers(self._modal(windows)) if self.closure is not None else windows
        for step in range(self.substeps):
            if self.closure is not None and step % self.held == 0:
                held = self.tendencies(state, coefficients)
                gained = gained + held.humidity * (self.held * made.core.hours / HOURS)
            state = made.core.step(state, held)
        return state, gained

    def decode(self, state: Fields) -> dict[int, Tensor]:
        """(B, Y, X) physical values of the roles that are states, as the core has them."""
        core = self._ready().core
        out: dict[int, Tensor] = {}
        pressure = 1e5 * torch.exp(self._cells(state.pressure))
        levels = [self._levels[i] for i in self._of("eastward")]
        if levels:
            wind = self._ready().outer.vor_div_to_uv_nodal(state.vorticity[:, levels], state.divergence[:, levels])
            for kind, part in zip(("eastward", "northward"), wind, strict=True):
                for n, i in enumerate(self._of(kind)):
                    out[i] = SPEED * part[:, n].transpose(-1, -2)
        temperature = self._cells(state.temperature) + REFERENCE
        for i in self._of("temperature"):
            out[i] = temperature[:, self._levels[i]]
        if self._of("geopotential"):
            heights = core.geopotential(temperature) + self._ready().surface
            for i in self._of("geopotential"):
                out[i] = GEOPOTENTIAL * heights[:, self._levels[i]]
        if self._of("humidity") or self._of("water"):
            humidity = self._cells(state.humidity)
            for i in self._of("humidity"):
                out[i] = humidity[:, self._levels[i]]
            for i in self._of("water"):
                out[i] = self._column(humidity, pressure)
        for i in self._of("pressure"):
            out[i] = pressure[:, 0]
        return out

    def _column(self, humidity: Tensor, pressure: Tensor) -> Tensor:
        """(B, Y, X) kg m-2 of (B, K, Y, X) humidity under (B, 1, Y, X) surface pressure (Pa)."""
        return (humidity * self._ready().core.thickness[:, None, None]).sum(1) * pressure[:, 0] / GRAVITY

    def forward(self, frames: Tensor) -> Tensor:
        """(S, L+H-1, C, Y, X) -> (S, L, V, Y, X): of states the change, in units of `change`."""
        device = frames.device.type
        with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            windows = stacked_windows(frames.float(), self.history)
            begun, observed = self.encode(windows)
            ended, gained = self.advance(begun, windows)
            before, after = self.decode(begun), self.decode(ended)
            said = windows.new_zeros(len(windows), self.variables, *self.grid)
            places = self._places
            unit = {i: self.spread[places[i]] * self.change[places[i]] for i in after}
            changes = {i: (after[i] - before[i] - self.drift[places[i]]) / unit[i] for i in after}
            source = self._column(self._cells(gained), 1e5 * torch.exp(self._cells(begun.pressure)))
            rate = source * 24 / self.hours.float()
            if self.decoder is not None:
                told = torch.cat((windows, *(changes[i][:, None] for i in sorted(changes)), rate[:, None] / 5), 1)
                if isinstance(self.decoder, ColumnClosure):
                    said = self.decoder(soft_clip(told).movedim(1, -1)).movedim(-1, 1)
                else:
                    said = self.decoder(told[:, None])[:, 0]
            parts = list(said.unbind(1))
            for i, change in changes.items():
                parts[places[i]] = parts[places[i]] + change
            if self.relaxation and not self.training:
                rate = self._relaxed(parts, observed, unit, rate)
            self._budgets(parts, observed, unit, rate)
            out = torch.stack(parts, 1)
        return out.reshape(len(frames), -1, *out.shape[1:])

    def _relaxed(
        self, parts: list[Tensor], observed: Mapping[int, Tensor], unit: Mapping[int, Tensor], rate: Tensor
    ) -> Tensor:
        """Draw states back to those of training, in place of the (B, Y, X) parts; water evaporates or fails to.

        Trajectories of training last days and begin from true states: what a network gets wrong by a little in every
        step they do not show, and in weeks it adds up.

        Args:
            parts: By output.
            observed: States before the step.
            unit: What one unit of a state's change is.
            rate: (B, Y, X) evaporation less precipitation that the closure says, mm/day.

        Returns:
            The rate, with what the water of columns was changed by.
        """
        days = self.hours.float() / 24
        beyond, mean = (1 - torch.exp(-days / time) for time in self.relaxation_days)
        for i in unit:
            place = self._places[i]
            before = observed[i] - self.center[place]
            after = before + parts[place] * unit[i]
            limit = self.relaxation * self.spread[place]
            taken = beyond * (after - after.clamp(-limit, limit))
            taken = taken + mean * self._mean(after - taken).float()[:, None, None]
            parts[place] = parts[place] - taken / unit[i]
            if self.roles[i].kind == "water":
                rate = rate - taken / days
        return rate

    def _budgets(
        self, parts: list[Tensor], observed: Mapping[int, Tensor], unit: Mapping[int, Tensor], rate: Tensor
    ) -> None:
        """Hold mass and water, in place of the (B, Y, X) parts.

        Args:
            parts: By output.
            observed: States before the step.
            unit: What one unit of a state's change is.
            rate: (B, Y, X) evaporation less precipitation that the closure says, mm/day.
        """
        gain: dict[str, Tensor] = {}
        for rain, evaporation in zip(self._of("rain"), self._of("evaporation"), strict=False):
            r, e = self._places[rain], self._places[evaporation]
            # Precipitation is positive, and evaporation what closes the column.
            usual = self.center[r].clamp(min=1e-2)
            falls = F.softplus(torch.log(torch.expm1(usual)) + parts[r])
            # What the decoder says of evaporation is exchanged too, in the same column.
            more = parts[e] * self.spread[e]
            parts[r] = (falls - self.center[r]) / self.spread[r]
            # In the mean state evaporation less precipitation is what winds carry away, which is taken off as drift.
            usually = self.center[e] - self.center[r]
            parts[e] = (falls + usually + rate + more - self.center[e]) / self.spread[e]
            for w in self._of("water"):
                parts[self._places[w]] = parts[self._places[w]] + more * (self.hours.float() / 24) / unit[w]
            gain["water"] = self._mean(usually + rate + more) * self.hours / 24
        for kind in ("pressure", "water"):
            for i in self._of(kind):
                place = self._places[i]
                before = self._mean(observed[i])
                after = observed[i] + parts[place] * unit[i]
                if kind == "water":
                    # There is no less than none, and what is written is what the budget holds of.
                    after = F.relu(after)
                factor = (before + gain.get(kind, torch.zeros_like(before))) / self._mean(after)
                parts[place] = (after.double() * factor[:, None, None] - observed[i].double()).float() / unit[i]

    def _mean(self, fields: Tensor) -> Tensor:
        """(B,) global means of (B, Y, X), in float64."""
        return (fields.double() * self._ready().areas).sum((-2, -1))


def _standard(sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Temperature (K) of the standard atmosphere where pressure is sigma times that at sea level (ISO 2533)."""
    return np.asarray(np.maximum(288.15 * sigma**0.1903, 216.65))


def _tent(level: int, seen: Sequence[int], layers: int) -> tuple[list[float], list[float]]:
    """Layers and weights of a function that is one at a level and falls to zero at the next ones that are seen."""
    above, below = max((k for k in seen if k < level), default=-1), min((k for k in seen if k > level), default=layers)
    return [float(above), float(level), float(below)], [0.0, 1.0, 0.0]
