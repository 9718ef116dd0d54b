"""A calibration that does not find what made its data, on generated runs and on those of real climate models."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from emukit.errors import RecipeError
from emukit.physics.calibration import Calibration, Observed, calibrate
from emukit.physics.energy_balance import CO2_1850, EnergyBalance, ch4_forcing, co2_forcing

GUESS = Calibration(EnergyBalance.of(1.0, (7.0, 80.0), (0.7,), 1.2), torch.ones(1, dtype=torch.float64))
TRUTH = Calibration(EnergyBalance.of(0.8, (9.0, 60.0), (0.6,), 1.4), torch.tensor([0.9], dtype=torch.float64))
SUDDEN = np.full((1, 150), co2_forcing(np.array(4 * CO2_1850)))
SLOW = np.asarray(co2_forcing(CO2_1850 * 1.01 ** np.arange(140)))[None]
EXPERIMENTS = ("abrupt-4xCO2", "1pctCO2", "piControl")


def generated(noise=0.0, seed=0, **more):
    course, rng = TRUTH.run(SUDDEN), np.random.default_rng(seed)
    surface, flux = (x.numpy() + noise * rng.normal(size=150) for x in (course.surface, course.flux))
    return Observed(SUDDEN, surface, flux, **more)


def test_known_parameters_are_recovered():
    found = calibrate([generated()], GUESS)
    np.testing.assert_allclose(found.logs(), TRUTH.logs(), atol=1e-6)
    assert found.rms < 1e-6


def test_noise_is_not_fitted_and_its_size_is_said():
    found = calibrate([generated(0.1)], GUESS)
    assert float(found.run(SLOW).surface[-1]) == pytest.approx(float(TRUTH.run(SLOW).surface[-1]), abs=0.1)
    assert found.rms == pytest.approx(0.1, abs=0.02)


def test_a_level_that_is_not_known_is_found_with_what_came_before():
    """Two kinds of forcing, years that are not seen, and a past that has warmed already."""
    truth = Calibration(TRUTH.balance, torch.tensor([0.9, 1.6], dtype=torch.float64))
    rng = np.random.default_rng(1)
    runs = []
    for end in (3.0, 5.0):
        forcing = np.stack([np.linspace(2.0, end, 85), rng.normal(size=85).cumsum() * 0.1 + 0.4])
        surface = truth.run(forcing, 1.0, 1 / 50).surface.numpy() + 287.0
        surface[:10] = np.nan
        runs.append(Observed(forcing, surface[:70], growth=1 / 50, skipped=10, surface_error=0.01))
    guess = Calibration(GUESS.balance, torch.ones(2, dtype=torch.float64))
    found = calibrate(runs, guess, [0.5] * 7, fit_level=True)
    assert found.rms < 0.005
    assert found.level == pytest.approx(287.0, abs=0.1)
    np.testing.assert_allclose(found.factors, truth.factors, rtol=0.1)


def test_a_narrow_prior_holds_and_a_wide_one_lets_go():
    runs = [generated(0.1, surface_error=0.1, flux_error=0.1)]
    narrow, wide = (calibrate(runs, GUESS, [s] * 6) for s in (1e-4, 10.0))
    np.testing.assert_allclose(narrow.logs(), GUESS.logs(), atol=1e-3)
    np.testing.assert_allclose(wide.logs(), calibrate(runs, GUESS).logs(), atol=1e-3)


def test_first_years_that_are_skipped_do_not_matter():
    wrong = generated(skipped=5)
    wrong.surface[:5] += 3.0
    np.testing.assert_allclose(calibrate([wrong], GUESS).logs(), TRUTH.logs(), atol=1e-6)


def test_plain_numbers_are_all_of_it():
    again = Calibration.of(TRUTH.numbers)
    assert again.numbers == TRUTH.numbers
    np.testing.assert_array_equal(again.run(SLOW).surface, TRUTH.run(SLOW).surface)


def test_runs_that_are_not_numbers_are_refused():
    with pytest.raises((RecipeError, ValueError)):
        calibrate([Observed(SUDDEN, np.full(150, np.nan), np.zeros(150))], GUESS)


@pytest.fixture(scope="module")
def models(real_store) -> dict[str, dict[str, tuple]]:
    """Annual global tas and flux of 34 climate models, above their control, with the spread of the control."""
    import xarray as xr

    files = {e: Path(real_store).parent / f"cmip6_global_annual_{e}.nc" for e in EXPERIMENTS}
    missing = [str(f) for f in files.values() if not f.exists()]
    if missing:
        pytest.skip(f"NOT TESTED ON REAL CLIMATE MODELS: no {', '.join(missing)}")
    runs = {e: xr.open_dataset(f).load() for e, f in files.items()}
    found = {}
    for name in runs["piControl"].model.values:
        series = {}
        for e, ds in runs.items():
            values = [ds[v].sel(model=name).values.astype(float) for v in ("tas", "rtnt")]
            series[e] = [v[np.isfinite(v)] for v in values]
        control = series["piControl"]
        found[str(name)] = {
            e: tuple(v[:150] - c.mean() for v, c in zip(series[e], control, strict=True)) for e in EXPERIMENTS[:2]
        } | {"spread": tuple(c.std() for c in control)}
    return found


def test_models_fitted_to_a_sudden_forcing_predict_a_slow_one(models):
    """34 models fitted on 4xCO2 alone: rms error of their 1pctCO2, of which .10 K is the models' own variability."""
    errors = {}
    for name, runs in models.items():
        surface, flux = runs["abrupt-4xCO2"]
        fitted = calibrate([Observed(SUDDEN, surface, flux, *runs["spread"])], GUESS)
        slow = runs["1pctCO2"][0][:140]
        errors[name] = float(np.sqrt(np.mean((fitted.run(SLOW).surface.numpy()[: len(slow)] - slow) ** 2)))
    assert len(errors) == 34
    assert np.median(list(errors.values())) < 0.155
    assert sum(e < 0.25 for e in errors.values()) >= 28


def test_cesm2_warms_in_its_scenarios_as_its_idealised_run_says(models, real_store, real_archive):
    """None of its months in scenarios is fitted. Aerosols force -1.37 W m-2 in 2014, within what Smith et al. (2020,
    doi:10.5194/acp-20-9591-2020) found in CMIP6; methane 1.65 times its own forcing, for ozone and water vapour."""
    import pandas as pd
    import xarray as xr

    table = Path(real_store).parent / "ssp-forcing-annual.csv"
    if not table.exists():
        pytest.skip(f"NOT TESTED ON REAL SCENARIOS: no {table}")
    runs = models["CESM2"]
    fitted = calibrate([Observed(SUDDEN, *runs["abrupt-4xCO2"], *runs["spread"])], GUESS)
    full = Calibration(fitted.balance, torch.cat([fitted.factors, torch.tensor([1.65, 1.37], dtype=torch.float64)]))
    with xr.open_dataset(Path(real_store).parent / "cmip6_global_annual_piControl.nc") as control:
        level = float(control.tas.sel(model="CESM2").mean())
    known, errors = pd.read_csv(table), {}
    for name in ("ssp126", "ssp370", "ssp585"):
        rows = known[(known.ssp == name) & (known.year < 2100)]
        sulphur, then = rows.so2_mt_yr.to_numpy(), rows.so2_mt_yr[rows.year == 2014].item()
        terms = [
            co2_forcing(rows.co2_ppm.to_numpy()),
            ch4_forcing(rows.ch4_ppb.to_numpy()),
            -(sulphur - sulphur[0]) / (then - sulphur[0]),
        ]
        warming = full.run(np.stack(terms)).surface.numpy()[rows.year.to_numpy() >= 2015]
        scenario = real_archive[name]
        visible = int((~scenario.hidden).sum()) // 12 * 12
        means = [real_archive.grid.mean(scenario.truth(m, 0, visible)[:, 0]) for m in scenario.members]
        truth = np.mean(means, 0).reshape(-1, 12).mean(1)
        errors[name] = float(np.sqrt(np.mean((level + warming[: len(truth)] - truth) ** 2)))
    assert max(errors.values()) < 0.2, errors


def test_the_recipe_of_the_page_finds_what_the_page_says_of_cesm2(models, real_store, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "physics.md").read_text()
    blocks = [part.split("```")[0] for part in page.split("```python\n")[1:]]
    (recipe,) = [b for b in blocks if "abrupt-4xCO2" in b and "import" in b]
    for experiment in ("abrupt-4xCO2", "piControl"):
        (tmp_path / f"{experiment}.nc").symlink_to(Path(real_store).parent / f"cmip6_global_annual_{experiment}.nc")
    monkeypatch.chdir(tmp_path)
    exec(recipe, {})
    said = capsys.readouterr().out
    (line,) = [line for line in page.splitlines() if "model.calibration=given" in line and "train" in line]
    numbers = [[float(n) for n in re.findall(r"[0-9]+\.[0-9]+", text)] for text in (said, line.split("aerosol")[0])]
    assert "model.capacity=[" in said
    np.testing.assert_allclose(*numbers, rtol=2e-3)
