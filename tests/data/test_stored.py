"""Targets on disk that are not those in memory, read over and over, or read whole."""

import shutil

import netCDF4
import numpy as np
import pytest
import xarray as xr

from emukit.competitions.climx.score import derive_indices, thresholds_of_archive
from emukit.competitions.registry import competition_of
from emukit.data import daily_archive
from emukit.data.daily import DailyStore
from emukit.data.opening import open_data
from emukit.data.split import Span, Split, is_hidden
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.climx_baselines import ClimxPatternScaling
from emukit.emulators.delta_change import DeltaChange
from emukit.emulators.features import feature
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.typical_year import TypicalYear
from emukit.errors import EmukitError, ProtocolError, RecipeError
from emukit.progress import silent_reporter
from emukit.recipes.fitting import fit_recipe
from emukit.recipes.load import load_recipe
from emukit.runs.evaluate import detail_tables, score_emulator, score_members
from emukit.studies.bootstrap import year_moments

FEATURES = ("log:CO2_LBC", "SO2", "BC_AX@northern")


@pytest.fixture(scope="module")
def banded(climx_folder, tmp_path_factory):
    """The same files with all days of a row in one chunk."""
    place = tmp_path_factory.mktemp("banded") / "lite"
    shutil.copytree(climx_folder[0], place)
    for path in place.glob("*train*.nc"):
        with xr.open_dataset(path, decode_times=False) as ds:
            ds.load()
        days = ds.sizes["time"]
        encoding = {
            v: {"zlib": True, "complevel": 1, "chunksizes": (1, days, 1, 6)} for v in ds if "time" in ds[v].dims
        }
        path.unlink()
        ds.to_netcdf(path, encoding=encoding)
    return place


@pytest.fixture(scope="module")
def held(climx_folder):
    return open_data(str(climx_folder[0]))


@pytest.fixture
def on_disk(monkeypatch):
    """Opens a folder as one that does not fit into memory."""
    monkeypatch.setattr(daily_archive, "MOST_BYTES", 0)
    return lambda folder: open_data(str(folder))


@pytest.fixture
def narrow(monkeypatch):
    """A block holds all days of one row of 54 years, and not of two."""
    monkeypatch.setattr(daily_archive, "BLOCK_BYTES", 54 * 365 * 6 * 4 + 100)


def split_of(archive):
    spans = {name: Span(name, 0, len(archive[name]), (0,)) for name in ("historical", "ssp126", "ssp370")}
    return Split("own", (spans["historical"], spans["ssp126"]), {"validation": (spans["ssp370"],)})


def test_values_on_disk_are_those_in_memory(climx_folder, held, on_disk):
    archive = on_disk(climx_folder[0])
    assert archive.on_disk
    assert not held.on_disk
    assert (archive.variables, list(archive), archive.notes) == (held.variables, list(held), held.notes)
    for name, scenario in held.items():
        other = archive[name]
        assert other.targets is None
        assert other.time == scenario.time
        assert is_hidden(archive, Span(name, 0, 10, (0,))) == is_hidden(held, Span(name, 0, 10, (0,)))
        for f in FEATURES:
            np.testing.assert_array_equal(feature(f, other, archive.grid), feature(f, scenario, held.grid))
        if name == "ssp245":
            with pytest.raises(ProtocolError, match="not known"):
                other.truth(0, 0, 10)
            continue
        last = len(scenario)
        for start, stop in ((0, 365), (300, 800), (last - 400, last)):
            np.testing.assert_array_equal(other.truth(0, start, stop), scenario.truth(0, start, stop))
            rows = slice(1, 3)
            np.testing.assert_array_equal(
                other.values(2, 0, start, stop, rows), scenario.truth(0, start, stop)[:, 2, rows]
            )
    with pytest.raises(ProtocolError, match="member 3"):
        archive["ssp126"].truth(3, 0, 10)
    with pytest.raises(EmukitError, match="do not fit into memory"):
        np.asarray(archive["ssp126"].forcings["SO2"])
    kept = archive["ssp370"]
    del archive, other, scenario
    # Its files stay open for as long as anybody can read them.
    assert kept.truth(0, 0, 5).shape == (5, 7, 4, 6)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["years", "bands"])
def test_emulators_on_disk_are_those_in_memory(layout, climx_folder, banded, held, on_disk, narrow):
    archive = on_disk(banded if layout == "bands" else climx_folder[0])
    assert len(archive.bands) == (4 if layout == "bands" else 1)
    thresholds, other = thresholds_of_archive(archive), thresholds_of_archive(held)
    np.testing.assert_array_equal(thresholds.pr, other.pr)
    np.testing.assert_array_equal(thresholds.tasmin, other.tasmin)
    split = split_of(held)
    kinds = [
        (TypicalYear, {"features": FEATURES, "ridge": 1.0}),
        (DeltaChange, {"features": FEATURES, "ridge": 1.0, "years": 3, "seed": 1}),
    ]
    for kind, options in kinds:
        one, two = (kind.fit(a, split, **options) for a in (held, archive))
        for name, array in one.state()[1].items():
            np.testing.assert_array_equal(two.state()[1][name], array, err_msg=name)
        there = (archive["ssp126"], 0, 700)
        np.testing.assert_array_equal(two.predict_fields(*there), one.predict_fields(held["ssp126"], 0, 700))
        spans = split.scored["validation"]
        score = score_emulator(one, held, spans)
        assert score_emulator(two, archive, spans).value == pytest.approx(score.value, abs=1e-9)
        assert score_members(two, archive, spans)[0].value == pytest.approx(score.value, abs=1e-9)
    one, two = (ClimxPatternScaling.fit(a, split) for a in (held, archive))
    for name, array in one.state()[1].items():
        # The global mean is summed band by band.
        np.testing.assert_allclose(two.state()[1][name], array, rtol=2e-5, atol=1e-9, err_msg=name)
    one, two = (ClimatologyEmulator.fit(a, split) for a in (held, archive))
    np.testing.assert_allclose(two.state()[1]["mean"], one.state()[1]["mean"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["years", "bands"])
@pytest.mark.parametrize(
    "options",
    [
        {"features": FEATURES},
        {"features": ("SO2",), "warming": ("log:CO2_LBC",), "strength": {"pr": {"SO2": 30.0}}, "smoothing": 0.3},
    ],
    ids=["features", "warming"],
)
def test_lines_fitted_to_targets_on_disk_are_those_in_memory(
    layout, options, climx_folder, banded, held, on_disk, narrow
):
    archive, split = on_disk(banded if layout == "bands" else climx_folder[0]), split_of(held)
    one, two = (LinearEmulator.fit(a, split, ridge=3.0, **options).state()[1] for a in (held, archive))
    for name in ("center", "scale"):
        np.testing.assert_array_equal(two[name], one[name])
    for v, variable in enumerate(held.variables):
        for name in ("intercept", "response"):
            of_one, of_two = one[name][..., v, :, :], two[name][..., v, :, :]
            np.testing.assert_allclose(of_two, of_one, rtol=0, atol=2e-6 * np.abs(of_one).max(), err_msg=variable)


def test_a_bound_that_fits_cells_twice_is_refused_of_targets_on_disk(climx_folder, on_disk):
    archive = on_disk(climx_folder[0])
    options = {"features": ("SO2",), "warming": ("log:CO2_LBC",), "least_warming": 0.5}
    with pytest.raises(RecipeError, match="in memory"):
        LinearEmulator.fit(archive, split_of(archive), **options)


@pytest.mark.parametrize("layout", ["years", "bands"])
def test_a_pass_reads_every_chunk_once_and_never_a_scenario(layout, climx_folder, banded, on_disk, narrow, monkeypatch):
    """Days times rows that are read for each variable, in chunks: as many as there are, and few at a time."""
    archive = on_disk(banded if layout == "bands" else climx_folder[0])
    read, largest = {}, 0
    plain = DailyStore.read

    def counted(self, variable, start, stop, rows=slice(None)):
        nonlocal largest
        values = plain(self, variable, start, stop, rows)
        read[variable] = read.get(variable, 0) + values.size
        largest = max(largest, values.size)
        return values

    monkeypatch.setattr(DailyStore, "read", counted)
    split = split_of(archive)
    TypicalYear.fit(archive, split, features=("log:CO2_LBC",), ridge=1.0)
    days = sum(len(s) for s in split.train)
    cells = archive.grid.weights.size
    # Chunks of a year are read again for the year of the template; global means take one more pass over tas.
    assert read["psl"] <= (days + 365) * cells
    assert read["tas"] <= (2 * days + 365) * cells
    assert largest <= (54 * 365 * 6 if layout == "bands" else 365 * cells)


def test_indices_of_years_one_by_one_are_those_of_all(held):
    scenario = held["ssp370"]
    fields = scenario.truth(0, 0, len(scenario))
    whole = derive_indices(held, "ssp370", 0, len(scenario))
    wanted = whole(fields)
    np.testing.assert_array_equal(whole(fields), wanted)  # from the beginning again
    single = derive_indices(held, "ssp370", 0, len(scenario))
    years = [single(fields[a : a + 365]) for a in range(0, len(scenario), 365)]
    np.testing.assert_array_equal(np.concatenate(years), wanted)
    with pytest.raises(ValueError, match="not whole years"):
        single(fields[:300])


@pytest.mark.slow
def test_digest_of_files_follows_their_bytes(climx_folder, on_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("EMUKIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "lite"
    shutil.copytree(climx_folder[0], folder)
    first = on_disk(folder).digest
    with monkeypatch.context() as m:
        m.setattr(daily_archive, "sha256", lambda path: pytest.fail("read again"))
        assert on_disk(folder).digest == first
    with netCDF4.Dataset(folder / "climx_demo_ssp370_train.nc", "a") as ds:
        ds["tas"][0, 5, 1, 1] += 1
    assert on_disk(folder).digest != first


def test_what_trains_in_memory_is_refused_before_it_begins(climx_folder, on_disk):
    archive = on_disk(climx_folder[0])
    for name in ("cnn-gru", "climx-nn", "best-fast"):
        with pytest.raises(EmukitError, match=r"trains in memory|does not know"):
            fit_recipe(load_recipe(name), archive, split_of(archive), silent_reporter())
    for name in ("typical-year", "linear"):
        fit_recipe(load_recipe(name), archive, split_of(archive), silent_reporter())


def test_more_years_to_draw_from_than_fit(held, monkeypatch):
    from emukit.emulators import delta_change

    monkeypatch.setattr(delta_change, "host_free", lambda: 2 * 4 * 365 * 7 * 24 / 0.8 + 1)
    with pytest.raises(RecipeError, match="do not fit into memory") as e:
        DeltaChange.fit(held, split_of(held), years=3, features=("log:CO2_LBC",))
    assert "model.years=2" in str(e.value)


def test_a_score_and_what_is_told_of_it_read_and_predict_each_year_once(climx_folder, on_disk, monkeypatch):
    """Three passes over 56 years of the full grid took most of an hour."""
    archive = on_disk(climx_folder[0])
    split = split_of(archive)
    emulator = ClimatologyEmulator.fit(archive, split)
    thresholds_of_archive(archive)
    (span,) = split.scored["validation"]
    read, predicted = [], []
    plain, predict = DailyStore.read, emulator.predict_fields
    monkeypatch.setattr(
        DailyStore, "read", lambda self, variable, *where: read.append(variable) or plain(self, variable, *where)
    )
    monkeypatch.setattr(emulator, "predict_fields", lambda s, a, b: predicted.append(a) or predict(s, a, b))
    first = score_members(emulator, archive, (span,))[0].value
    assert score_emulator(emulator, archive, (span,), keep=True).value == first
    ((_, table), *_) = detail_tables(emulator, archive, (span,))
    assert float(table.rows[0][1]) == pytest.approx(first, abs=1e-4)
    years = len(archive[span.scenario].pieces(span.start, span.stop))
    (sums,) = year_moments(emulator, archive, [span], competition_of(archive))
    assert len(sums) == years
    assert {name: read.count(name) for name in archive.variables} == dict.fromkeys(archive.variables, years)
    assert len(predicted) == years
    # Of another emulator and another span it is another answer.
    other = ClimatologyEmulator.fit(archive, split, years=2)
    assert score_emulator(other, archive, (span,), keep=True).value != first
    assert score_emulator(emulator, archive, (span,), keep=True).value == first


def test_weights_of_one_epoch_are_scored_by_the_fields_of_another(climx_folder, on_disk, monkeypatch):
    """What validates asks one emulator again and again, which predicts something else each time."""
    archive = on_disk(climx_folder[0])
    split = split_of(archive)
    emulator, other = ClimatologyEmulator.fit(archive, split), ClimatologyEmulator.fit(archive, split, years=2)
    spans = split.scored["validation"]
    first, second = (score_emulator(e, archive, spans).value for e in (emulator, other))
    assert first != second
    # Kept of what a command scored before.
    assert score_members(emulator, archive, spans)[0].value == first
    monkeypatch.setattr(emulator, "predict_fields", other.predict_fields)
    assert score_emulator(emulator, archive, spans).value == second


def test_maps_of_months_are_held_once_and_read_as_those_of_every_day(climx_folder, held):
    from emukit.data.daily_folder import open_folder

    scenario = held["ssp370"]
    stepped = scenario.forcings["SO2"]
    with open_folder(climx_folder[0]) as folder:
        maps = folder.forcing("ssp370", "SO2").read().astype(np.float32)
    month = 12 * (scenario.time.year - scenario.time.year[0]) + scenario.time.month
    plain = maps[month]
    assert stepped.nbytes == maps.nbytes < plain.nbytes / 20
    assert (len(stepped), stepped.shape, stepped.ndim) == (len(plain), plain.shape, 3)
    np.testing.assert_array_equal(np.asarray(stepped), plain)
    for index in (40, slice(20, 90), np.array([3, 400]), (slice(20, 90), slice(1, 3)), (slice(None), 2, 3), (...,)):
        np.testing.assert_array_equal(stepped[index], plain[index])
    weights = held.grid.weights
    np.testing.assert_allclose(stepped.area_mean(weights), (plain * weights).sum((1, 2)), rtol=1e-6)
