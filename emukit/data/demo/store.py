"""Write the demo climate as a store of the competition's kind.

Invariant: the store is whole or not there; what stands at its path is written over only if it is a demo climate, and
that is asked for.
"""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from emukit.data.card import DIGESTS_ATTRIBUTE, Digests, Published
from emukit.data.demo.climate import CARD, DemoClimate
from emukit.data.demo.emissions import SCENARIOS
from emukit.data.load import digest_of
from emukit.data.zarr_writer import write_zarr
from emukit.outputs import new_output, refuse_taken, zarr_kind
from emukit.progress import Reporter, default_reporter

# Ten years of one member at a time, as fits training on spans of months.
_CHUNK_MONTHS = 120
KIND = zarr_kind(
    "a store of `emukit data demo`", lambda found: found.get("emukit_card") == CARD and "demo_settings" in found
)


def write_demo(
    climate: DemoClimate,
    out: Path | str,
    hidden: bool = True,
    reporter: Reporter | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a Zarr v2 store with consolidated metadata, and with the digests of its values: what changes is noticed.

    Args:
        climate: What to write.
        out: The folder to make.
        hidden: Set the targets of the hidden scenario to zero.
        reporter: Where progress goes; standard error by default.
        overwrite: Whether a demo climate at `out` may be replaced.

    Returns:
        The path written.

    Raises:
        EmukitError: `out` is there already, or cannot be written.
    """
    out = Path(out)
    refuse_taken(out, KIND, overwrite)
    months, cells = min(_CHUNK_MONTHS, climate.months), (climate.lat_cells, climate.lon_cells)
    chunks = {
        **dict.fromkeys(("tas", "pr"), (1, months, 1, *cells)),
        **dict.fromkeys(("SO2", "BC", "rsdt"), (1, months, *cells)),
        **dict.fromkeys(("CO2", "CH4"), (len(SCENARIOS), climate.months)),
    }
    steps = len(SCENARIOS) + 1
    with (
        (reporter or default_reporter()).step("demo climate", steps) as step,
        new_output(out, KIND, overwrite) as temporary,
    ):
        dataset = climate.dataset(hidden, advance=step.advance)
        dataset.attrs[DIGESTS_ATTRIBUTE] = _published(climate, dataset).model_dump_json()
        write_zarr(
            dataset,
            temporary,
            consolidated=True,
            encoding={
                **{name: {"chunks": chunk} for name, chunk in chunks.items()},
                "time": {"units": "days since 2015-01-15", "calendar": "noleap", "dtype": "int64"},
            },
        )
        step.advance(note="written")
    return out


def _published(climate: DemoClimate, dataset: xr.Dataset) -> Published:
    grid = climate.planet.grid
    return Published(
        first_month=str(climate.first_month),
        months=climate.months,
        members=list(range(climate.members)),
        latitudes=(float(grid.lat[0]), float(grid.lat[-1])),
        longitudes=(float(grid.lon[0]), float(grid.lon[-1])),
        cells=grid.shape,
        digests={
            str(v): Digests(
                dtype="<f4" if field.dtype.itemsize == 4 else "<f8",
                scenarios={s: digest_of(field.values[i]) for i, s in enumerate(SCENARIOS)},
            )
            for v, field in dataset.data_vars.items()
        },
    )
