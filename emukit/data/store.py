"""Opening a data set: a store on disk, or an xarray dataset in memory, becomes a checked `Archive`.

Invariant: there is one way in. Zarr v2 and v3, NetCDF and datasets in memory go through the same checks, and what
comes out has one meaning, or nothing comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.archive import Archive, Months, Scenario
from emukit.data.blocks import Blocks, Region, run
from emukit.data.card import Card, identify_card, load_card
from emukit.data.decode import Axes, Findings, read_axes, read_members, read_months, read_names, role
from emukit.data.grid import Grid
from emukit.errors import StoreError
from emukit.progress import Reporter


def open_store(
    path: str | Path,
    *,
    card: Card | str | None = None,
    convert: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
) -> Archive:
    """Read a store (Zarr v2 or v3, NetCDF) into memory and check it.

    Args:
        path: A Zarr folder or a NetCDF file.
        card: The data card, its name, or the path of its TOML file; recognised from the store when None.
        convert: Variable to the units that the store holds it in, for example ``{"tas": "degC"}``.
        reporter: Where progress is shown.

    Returns:
        The archive: float32 targets (M, T, V, Y, X) and forcing fields (T, Y, X), float64 series (T,).

    Raises:
        StoreError: The store cannot be read, or is ambiguous.
    """
    with open_dataset(path) as ds:
        return archive_from_dataset(ds, source=str(path), card=card, convert=convert, reporter=reporter)


def open_dataset(path: str | Path) -> xr.Dataset:
    """A store as a lazy dataset whose zeros and NaN are what is stored.

    Raises:
        StoreError: There is no readable store at `path`.
    """
    path = Path(path)
    if not path.exists():
        raise StoreError(f"there is no store at {path}", hint="check the path")
    return xr.open_zarr(path, chunks=None, mask_and_scale=False)


def archive_from_dataset(
    ds: xr.Dataset,
    *,
    source: str,
    card: Card | str | None = None,
    convert: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
) -> Archive:
    """A checked archive from a dataset, lazy or in memory; arguments and errors as `open_store`."""
    findings = Findings()
    card = load_card(card) if isinstance(card, str) else card or identify_card(ds)
    layout = read_layout(ds, card, findings)
    findings.check()
    assert layout is not None
    return Loader(ds, card, layout, reporter or Reporter(quiet=True)).archive(source, findings)


@dataclass(frozen=True)
class Layout:
    """What the axes of a store mean."""

    names: tuple[str, ...]
    members: tuple[int, ...]
    months: Months
    grid: Grid
    axes: Mapping[str, Axes | None]


def read_layout(ds: xr.Dataset, card: Card, findings: Findings) -> Layout | None:
    """The meaning of the store's axes, or None with the problems in `findings`."""
    names, months = read_names(ds, findings), read_months(ds, findings)
    missing = [v for v in card.quantities if v not in ds]
    for v in missing:
        findings.refuse(
            f"variable {v} is missing",
            found=f"variables {', '.join(map(str, ds.data_vars))}",
            expected=f"those of card {card.name}: {', '.join(card.quantities)}",
            hint="add it, or name another card with --card",
        )
    members = read_members(ds, findings)
    axes: dict[str, Axes | None] = {}
    grid: Grid | None = None
    for v in card.quantities:
        if v in missing or not {role(d) for d in ds[v].dims} & {"lat", "lon"}:
            axes[v] = None
            continue
        read = read_axes(ds, v, findings)
        if read is None:
            continue
        axes[v] = read[0]
        grid = grid or read[1]
    if findings.problems or names is None or months is None or members is None or grid is None:
        return None
    return Layout(tuple(names), members, months, grid, axes)


class Loader:
    """Reads every block once, into place, and keeps each month's smallest and largest value.

    Attributes:
        low: Target variable to (S, M, T) smallest values in the store's units; `high` the largest. They tell NaN,
            hidden months and units without another pass over the data.
    """

    def __init__(self, ds: xr.Dataset, card: Card, layout: Layout, reporter: Reporter) -> None:
        self.ds, self.card, self.layout, self.reporter = ds, card, layout, reporter
        s, m, t = len(layout.names), len(layout.members), len(layout.months)
        y, x = layout.grid.shape
        self.targets = [np.empty((m, t, len(card.targets), y, x), np.float32) for _ in range(s)]
        self.low = {v: np.empty((s, m, t)) for v in card.targets}
        self.high = {v: np.empty((s, m, t)) for v in card.targets}
        self.forcings: dict[str, NDArray[np.floating]] = {}

    def _read_target(self, blocks: Blocks, v: int, region: Region) -> None:
        block = blocks.read(region)
        if not blocks.has_member:
            block = block[:, :, None]
        t = slice(region.t0, region.t1)
        for i, s in enumerate(range(region.s0, region.s1)):
            for m in range(block.shape[2]):
                part = block[i, :, m]
                self.targets[s][m, t, v] = part
                self.low[blocks.name][s, m, t] = part.min(axis=(-2, -1))
                self.high[blocks.name][s, m, t] = part.max(axis=(-2, -1))

    def _read_field(self, blocks: Blocks, out: NDArray[np.floating], region: Region) -> None:
        out[region.s0 : region.s1, region.t0 : region.t1] = blocks.read(region)

    def archive(self, source: str, findings: Findings) -> Archive:
        """Load, check and put together."""
        layout = self.layout
        s, t = len(layout.names), len(layout.months)
        tasks = []
        for v, name in enumerate(self.card.targets):
            blocks = Blocks(name, self.ds.variables[name], layout.axes[name])
            tasks += [lambda b=blocks, v=v, r=r: self._read_target(b, v, r) for r in blocks.regions(s, t)]
        for name in self.card.forcings:
            blocks = Blocks(name, self.ds.variables[name], layout.axes[name])
            shape = (s, t, *layout.grid.shape) if blocks.axes else (s, t)
            out = np.empty(shape, np.float32 if blocks.axes else np.float64)
            self.forcings[name] = out
            tasks += [lambda b=blocks, o=out, r=r: self._read_field(b, o, r) for r in blocks.regions(s, t)]
        run(tasks)
        zero = np.ones((s, t), bool)
        for v in self.card.targets:
            zero &= ((self.low[v] == 0) & (self.high[v] == 0)).all(axis=1)
        scenarios = {
            name: Scenario(
                name,
                layout.months,
                {k: f[i] for k, f in self.forcings.items()},
                layout.members,
                self.targets[i],
                zero[i],
            )
            for i, name in enumerate(layout.names)
        }
        return Archive(
            self.card,
            source,
            layout.grid,
            tuple(self.card.targets),
            scenarios,
            notes=tuple([*findings.notes, *self.card.oddities]),
        )
