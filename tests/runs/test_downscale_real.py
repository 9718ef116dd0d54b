"""Downscaling of real data on grids and steps that are odd, each from its card's page to scores."""

import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import xarray as xr

from emukit.data.coarsen import in_context
from emukit.data.store import open_store
from emukit.files import shipped
from emukit.progress import Reporter
from emukit.recipes.downscale import load_downscale
from emukit.runs.downscale import train_downscaler
from emukit.runs.downscaled_file import downscale_file

pytestmark = pytest.mark.real

QUIET = Reporter(quiet=True)
TINY = [
    "blocks.times=2",
    "blocks.per_time=1",
    "overlap=4",
    "model.width=4",
    "model.depth=1",
    "training.epochs=1",
    "training.optimizer.warmup_steps=1",
    "training.average.kind=none",
]


def prepared(card, source, folder):
    """The file that the Python of a card's page makes of the data."""
    if not source.exists():
        pytest.skip(f"no {source.name} next to the store")
    page = shipped("data_cards", f"{card}.md").read_text(encoding="utf-8")
    code = textwrap.dedent(next(b for b in re.findall(r"(?:^    .*\n|^\n)+", page, re.M) if "import" in b))
    (folder / source.name).symlink_to(source)
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    return next(path for path in folder.glob("*.nc") if not path.is_symlink())


def scored(archive, settings, folder):
    run = train_downscaler(archive, load_downscale(None, [*TINY, *settings]), folder, reporter=QUIET)
    found = run.record["scores"]["validation"]
    assert all(np.isfinite(found["network"][f"{v}.mae"]) for v in archive.variables)
    return run, found


def test_a_week_of_era5_with_points_at_the_poles_is_downscaled(real_data, tmp_path):
    week_file = prepared("era5-1deg-week", real_data / "era5-1deg-week.zarr", tmp_path)
    archive = open_store(week_file, card="era5-1deg-week")
    assert archive.grid.shape == (181, 360)
    assert archive.grid.lat[-1] == 90
    week = archive["analysis"]
    assert (len(week), len(week.members)) == (7, 3)
    settings = ["coarse=46,90", "blocks.size=48,72", "conditions.width=1", "conditions.residual=in-sample"]
    run, found = scored(archive, settings, tmp_path / "run")
    # Pressure at sea level is smooth: even bilinear interpolation of four degrees knows it.
    assert found["bilinear"]["msl.nmae"] < 2e-3
    assert found["bilinear"]["msl.nmae"] < found["bilinear"]["tp.nmae"] / 100
    one = run.downscaler()
    coarse = in_context(one.coarsening.down(week.truth(0, 6, 7)), one.context)
    fields = one.fields(coarse, week.time[6:7])
    assert fields.shape == (1, 5, 181, 360)
    assert (fields[:, archive.variables.index("tp")] >= 0).all()
    # A region over the dateline and up to the pole is a part of the globe.
    rows, columns = np.arange(150, 181), np.arange(340, 380) % 360
    np.testing.assert_allclose(
        one.fields(coarse, week.time[6:7], rows, columns), fields[..., rows, :][..., columns], rtol=1e-5, atol=1e-6
    )


def test_a_seasonal_ensemble_in_which_no_month_is_there_twice_is_downscaled(real_data, tmp_path):
    season = prepared("glosea4-seasonal", real_data / "glosea4_ensemble_ts_monthly.nc", tmp_path)
    archive = open_store(season, card="glosea4-seasonal")
    forecast = archive["forecast"]
    assert (archive.grid.shape, len(forecast), len(forecast.members)) == ((145, 192), 6, 13)
    assert forecast.time.text(0) == "2011-08"
    settings = ["coarse=36,48", "blocks.size=48,64", "conditions.width=3", "blocks.share=0.2"]
    run, found = scored(archive, settings, tmp_path / "run")
    assert 0.1 < found["bilinear"]["ts.mae"] < 3
    # Training knows no December.
    assert found["bilinear + residual's monthly climatology"]["ts.mae"] != found["bilinear"]["ts.mae"]
    one = run.downscaler()
    truth = forecast.truth(4, 5, 6)
    fields = one.fields(in_context(one.coarsening.down(truth), one.context), forecast.time[5:6])
    assert np.abs(fields - truth).mean() < 5


def test_six_hourly_fields_of_a_gcm_are_downscaled_to_a_store(real_data, tmp_path):
    source = real_data / "jcm_speedy_t31_6hourly_90d.nc"
    if not source.exists():
        pytest.skip(f"no {source.name} next to the store")
    with xr.open_dataset(source) as ds:
        ds[["t2m", "pr", "ps"]].to_netcdf(tmp_path / "three.nc")
    card = shipped("data_cards", "speedy-6h.toml").read_text(encoding="utf-8")
    kept = [p for p in re.split(r"(?m)^(?=\[)", card) if not p.startswith("[targets.") or p[9:].split("]")[0] in KEPT]
    (tmp_path / "three.toml").write_text("".join(kept))
    archive = open_store(tmp_path / "three.nc", card=str(tmp_path / "three.toml"))
    settings = ["coarse=12,24", "blocks.size=24,32", "blocks.share=0.2", "conditions.width=1", "conditions.penalty=0.1"]
    run, found = scored(archive, settings, tmp_path / "run")
    one = run.downscaler()
    # The time of the day and of the year are told, and seasons are those of the hours of a month.
    assert one.frames.uniform == 4
    assert (one.context, one.frames.channels.count("coarse t2m -1")) == (1, 1)
    assert archive.time.seasons == 48
    # Surface pressure is mountains: what the pass leaves is the same at every step.
    assert found["bilinear + residual's monthly climatology"]["ps.mae"] < 0.1 * found["bilinear"]["ps.mae"]
    assert json.loads((run.folder / "downscale.json").read_text())["state"] == "finished"
    control = archive["control"]
    fine = xr.Dataset(
        {
            v.name: (("time", "y", "x"), control.truth(0, 355, 360)[:, i], {"units": v.units})
            for i, v in enumerate(archive.domain.described)
        },
        coords={"time": control.time[355:360].cf_time("standard"), "y": archive.grid.lat, "x": archive.grid.lon},
    )
    fine.to_netcdf(tmp_path / "last.nc")
    assert downscale_file(one, tmp_path / "last.nc", tmp_path / "fine.zarr", reporter=QUIET) == 5
    with xr.open_zarr(tmp_path / "fine.zarr") as written:
        shown = in_context(one.coarsening.down(control.truth(0, 355, 360)), one.context)
        expected = one.fields(shown, control.time[355:360])
        np.testing.assert_allclose(written.t2m.values, expected[:, archive.variables.index("t2m")], rtol=1e-6)


KEPT = ("t2m", "pr", "ps")
