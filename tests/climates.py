"""Stores of other variables than the competition's, made from the demo climate, with cards that say what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from emukit.config import toml_value
from emukit.data.archive import Archive
from emukit.data.card import ATTRIBUTE, DIGESTS_ATTRIBUTE, load_card
from emukit.data.store import open_store

MONTHS = 481
SCENARIOS = ("ssp126", "ssp370", "ssp585")
HUSS = {"units": "kg kg-1", "range": [0.0, 0.05], "largest": [1e-3, 0.05], "what": "humidity near the surface"}


class Climate(NamedTuple):
    """A store, its card, and how a command is told of both."""

    store: Path
    card: Path

    @property
    def words(self) -> tuple[str, ...]:
        return ("--data", str(self.store), "--card", str(self.card))

    def open(self) -> Archive:
        return open_store(self.store, card=str(self.card))


def climate_of(demo_store: Path, folder: Path, targets: tuple[str, ...], **more: str) -> Climate:
    """Some of tas, pr and huss over forty years of three scenarios, nothing hidden.

    Args:
        demo_store: The demo climate on a few cells.
        folder: Where the store and the card are written.
        targets: What is predicted.
        more: Further lines of the tables of targets in the card.
    """
    with xr.open_zarr(demo_store) as whole:
        ds = whole.sel(ssp=list(SCENARIOS)).isel(time=slice(0, MONTHS)).load()
    # Three quarters of what saturated air holds at 1000 hPa (Bolton 1980).
    celsius = ds.tas - 273.15
    ds["huss"] = (0.622 * 0.75 * 6.112 * np.exp(17.67 * celsius / (celsius + 243.5)) / 1000.0).astype(np.float32)
    ds["huss"].attrs = {"units": "kg kg-1"}
    forcings = [n for n in load_card("demo").forcings if n in ds]
    ds = ds[[*targets, *forcings]].drop_encoding()
    ds.attrs = {k: v for k, v in ds.attrs.items() if k not in (ATTRIBUTE, DIGESTS_ATTRIBUTE)}
    store, card = folder / "store.zarr", folder / "card.toml"
    ds.to_zarr(store, zarr_format=2, mode="w")
    known = load_card("demo").model_dump(mode="json")
    tables = {v: known["targets"].get(v, HUSS) for v in targets}
    lines = [
        'name = "other"',
        'title = "Other variables"',
        'source = "the demo climate"',
        'licence = "none"',
        f"scenarios = {toml_value(SCENARIOS)}",
        'default_protocol = "p"',
    ]
    for v, table in tables.items():
        told = {k: table[k] for k in ("units", "range", "largest", "what")}
        lines += [f"[targets.{v}]", *(f"{k} = {toml_value(x)}" for k, x in told.items()), *more.get(v, "").splitlines()]
    for f in forcings:
        told = {k: known["forcings"][f][k] for k in ("kind", "units", "range", "largest", "what")}
        lines += [f"[forcings.{f}]", *(f"{k} = {toml_value(x)}" for k, x in told.items())]
    lines += [
        "[protocols.p]",
        f"train = {toml_value(SCENARIOS)}",
        'validation = [{ scenario = "ssp370", months = [-120, 0] }]',
        'test = [{ scenario = "ssp585", months = [-60, 0] }]',
        "[loso]\nvalidation_months = 60\ntest_months = 120",
    ]
    card.write_text("\n".join(lines) + "\n")
    return Climate(store, card)
