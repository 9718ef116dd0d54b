"""A spectral dynamical core: the dry primitive equations on the globe, through which gradients pass.

Invariant: a step is a function of the state and of the tendencies that are held through it alone. Without tendencies it
is the step of dinosaur-torch, bit for bit. The mean of the logarithm of surface pressure changes by what the equations
say and by nothing else: diffusion leaves the largest scale alone.

The equations, transforms and the time scheme are those of dinosaur-torch (Apache-2.0), the PyTorch version of the core
under NeuralGCM (Kochkov et al. 2024, doi:10.1038/s41586-024-07744-y), which the extra ``core`` installs. Lengths are in
radii of the Earth, times in units of 1 / (2 Omega), temperatures in K.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emukit.distribution import install_hint
from emukit.errors import RecipeError

# Of the Earth: radius (m), rotation (1/s), gravity (m s-2); gas constant of dry air (J kg-1 K-1), R / cp.
RADIUS, OMEGA, GRAVITY, GAS, KAPPA = 6.37122e6, 7.292e-5, 9.80616, 1004.0 * 2 / 7, 2 / 7
# What one unit of the core is in m s-1, in m2 s-2, and in hours.
SPEED = RADIUS * 2 * OMEGA
GEOPOTENTIAL = SPEED**2
HOURS = 1 / (2 * OMEGA * 3600)
# The temperature that the implicit terms are linear about; a high one keeps them stable (Simmons et al. 1978).
REFERENCE = 288.0

# A wind has no direction in a row on a pole: the transforms of winds divide by the cosine of latitude.
Spacing = Literal["gauss", "equiangular"]
SPACINGS: tuple[Spacing, ...] = ("gauss", "equiangular")


class Fields(NamedTuple):
    """A state, or a tendency, on K layers: modal coefficients, (..., K, M, L); of surface pressure (..., 1, M, L).

    Attributes:
        vorticity: Of the wind.
        divergence: Of the wind.
        temperature: In K, less `REFERENCE`.
        pressure: Logarithm of surface pressure over 1000 hPa.
        humidity: Specific, kg/kg; it is carried and does not act.
    """

    vorticity: Tensor
    divergence: Tensor
    temperature: Tensor
    pressure: Tensor
    humidity: Tensor


def check_extra() -> None:
    """Refuse to go on without dinosaur-torch.

    Raises:
        RecipeError: It is not installed.
    """
    if importlib.util.find_spec("dinosaur_torch") is None:
        raise RecipeError(
            "the dynamical core is not installed",
            found="no package dinosaur_torch",
            expected="the extra core",
            hint=install_hint("core"),
        )


def spacing_of(latitudes: NDArray[np.float64]) -> Spacing:
    """How rows of a grid are spaced.

    Args:
        latitudes: (Y,) degrees, from south to north.

    Raises:
        RecipeError: In no way that has exact weights.
    """
    from dinosaur_torch.spherical_harmonic import get_latitude_nodes

    for spacing in SPACINGS:
        nodes = np.rad2deg(np.arcsin(np.clip(get_latitude_nodes(len(latitudes), spacing)[0], -1, 1)))
        # Coordinates are often written in float32.
        if np.allclose(nodes, latitudes, atol=1e-3):
            return spacing
    raise RecipeError(
        "the dynamical core does not know the latitudes of the grid",
        found=f"{len(latitudes)} rows from {latitudes[0]:.3f} to {latitudes[-1]:.3f}",
        expected="Gaussian latitudes, or the middles of evenly spaced bands, without a row on a pole",
        hint="interpolate the data to a Gaussian grid",
    )


class SpectralCore(nn.Module):
    """Steps of the primitive equations in sigma coordinates, with diffusion and held tendencies.

    Attributes:
        sigma: (K,) middles of the layers, from the top down.
        thickness: (K,) of the layers; they sum to one.
    """

    sigma: Tensor
    thickness: Tensor
    damping: Tensor
    calming: Tensor

    def __init__(
        self,
        truncation: int,
        boundaries: Sequence[float],
        hours: float,
        *,
        orography: Tensor | None = None,
        diffusion_hours: float = 2.0,
        diffusion_order: int = 3,
        divergence_hours: tuple[float, float] = (0.0, 0.0),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Make its tables.

        Args:
            truncation: Largest wavenumber, such as 21 for T21; products of two fields are exact on its grid.
            boundaries: Sigma between the layers, from 0 to 1.
            hours: Of a step.
            orography: (M, L) modal surface geopotential over `GEOPOTENTIAL`; flat when None.
            diffusion_hours: In which the smallest scale falls to 1/e; 0 for none.
            diffusion_order: Power of the Laplacian that does it.
            divergence_hours: In which divergence of every scale, and of the smallest one besides by a Laplacian, falls
                to 1/e; 0 for none. It damps gravity waves, of which a state that is out of balance is full.
            dtype: Of all tables and states.
            device: Where they are.

        Raises:
            RecipeError: dinosaur-torch is not installed.
        """
        super().__init__()
        check_extra()
        from dinosaur_torch import coordinate_systems, primitive_equations, sigma_coordinates, units
        from dinosaur_torch.spherical_harmonic import FastSphericalHarmonics, Grid, GridSpec

        rows = 2 * -(-(3 * truncation + 1) // 4)
        self.truncation, self.hours = truncation, hours
        spec = GridSpec(truncation + 1, truncation + 2, 2 * rows, rows)
        self.grid = Grid(spec, impl=FastSphericalHarmonics, device=device, dtype=dtype)
        layers = sigma_coordinates.SigmaCoordinates(np.asarray(boundaries, np.float64))
        levels = sigma_coordinates.SigmaLevels(layers, device=device, dtype=dtype)
        coords = coordinate_systems.CoordinateSystem(self.grid, levels)
        constants = units.SimUnits.from_si()
        flat = torch.zeros(self.grid.modal_shape, dtype=dtype, device=device)
        height = flat if orography is None else orography.to(flat) / constants.g
        self.equations = primitive_equations.PrimitiveEquations(
            np.full(layers.layers, REFERENCE), height, coords, constants
        )
        for name, values in (("sigma", layers.centers), ("thickness", layers.layer_thickness)):
            self.register_buffer(name, torch.as_tensor(values, dtype=dtype, device=device), persistent=False)
        # Each coefficient falls by exp(-step / time (l (l + 1) / largest) ** order).
        eigenvalues = spec.laplacian_eigenvalues / spec.laplacian_eigenvalues[-2]
        rate = hours / diffusion_hours * eigenvalues**diffusion_order if diffusion_hours else 0 * eigenvalues
        every, smallest = (hours / h if h else 0.0 for h in divergence_hours)
        calm = rate + every + smallest * eigenvalues
        for name, values in (("damping", np.exp(-rate)), ("calming", np.exp(-calm))):
            self.register_buffer(name, torch.as_tensor(values, dtype=dtype, device=device), persistent=False)

    @property
    def layers(self) -> int:
        """K."""
        return len(self.sigma)

    @property
    def modal(self) -> tuple[int, int]:
        """(M, L) of a field of coefficients."""
        shape: tuple[int, int] = self.grid.modal_shape
        return shape

    @property
    def cells(self) -> tuple[int, int]:
        """(longitudes, latitudes) of the grid on which products are taken."""
        shape: tuple[int, int] = self.grid.nodal_shape
        return shape

    def geopotential(self, temperature: Tensor, axis: int = -3) -> Tensor:
        """Height of the layers above the surface, over `GEOPOTENTIAL`.

        Args:
            temperature: (..., K, *, *) full temperature in K, layers along `axis`.
            axis: Of the layers.
        """
        weights: Tensor = self.equations.geopotential_weights
        heights: Tensor = torch.tensordot(temperature.movedim(axis, -1), weights, ([-1], [1]))
        return heights.movedim(-1, axis)

    def step(self, state: Fields, held: Fields | None = None) -> Fields:
        """The state after one step of the SIL3 scheme (Whitaker and Kar 2013, doi:10.1175/MWR-D-13-00132.1).

        Args:
            state: Before.
            held: Tendencies that are the same at every stage, per unit of time; none when None.
        """
        from dinosaur_torch.time_integration import ImplicitExplicitODE, imex_rk_sil3

        def explicit(now: Any) -> Any:
            found = self.equations.explicit_terms(now)
            return found if held is None else _add(found, _plain(held))

        equations = ImplicitExplicitODE.from_functions(
            explicit, self.equations.implicit_terms, self.equations.implicit_inverse
        )
        after = _fields(imex_rk_sil3(equations, self.hours / HOURS)(_plain(state)))
        keep = self.damping
        return Fields(
            after.vorticity * keep,
            after.divergence * self.calming,
            after.temperature * keep,
            after.pressure,
            after.humidity * keep,
        )

    def warm(self) -> None:
        """Make the tables of the implicit step, outside of any mode in which gradients could not pass them later."""
        with torch.inference_mode(False), torch.no_grad():
            one = torch.zeros(self.layers, *self.modal, dtype=self.sigma.dtype, device=self.sigma.device)
            self.step(Fields(one, one, one, one[:1], one))

    def _apply(self, fn: Any, recurse: bool = True) -> SpectralCore:
        # The package keeps the tables of the implicit step in a dictionary, which does not move along.
        self.equations._implicit_inverse_parts.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]


def _plain(fields: Fields) -> Any:
    from dinosaur_torch.primitive_equations import State

    return State(
        fields.vorticity, fields.divergence, fields.temperature, fields.pressure, {"humidity": fields.humidity}
    )


def _fields(state: Any) -> Fields:
    return Fields(
        state.vorticity,
        state.divergence,
        state.temperature_variation,
        state.log_surface_pressure,
        state.tracers["humidity"],
    )


def _add(a: Any, b: Any) -> Any:
    from dinosaur_torch.pytree import tree_map

    return tree_map(torch.add, a, b)
