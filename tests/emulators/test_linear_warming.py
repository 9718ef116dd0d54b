"""A linear emulator that mixes up what the warming does and what a forcing does besides, or that runs away."""

from dataclasses import replace

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.emulators.features import feature
from emukit.emulators.linear import LinearEmulator
from emukit.errors import RecipeError
from emukit.recipes.load import load_recipe
from emukit.runs.evaluate import score_emulator
from tests.coded import warming_archive

WARMING = ("CO2~4", "SO2")


@pytest.fixture(scope="module")
def climate():
    archive = warming_archive()
    return archive, make_split(archive, "k360")


def anchor_options():
    return load_recipe("anchor").options


def training_rows(archive, split, names):
    """Features, calendar month, members and member-mean truth of every training month."""
    x, month, weight, truth = [], [], [], []
    for span in split.train:
        s = archive[span.scenario]
        rows = slice(span.start, span.stop)
        x.append(np.stack([feature(n, s, archive.grid)[rows] for n in names], 1))
        month.append(s.calendar_month[rows])
        weight.append(np.full(len(span), float(len(span.members))))
        truth.append(s.targets[:, rows].astype(np.float64).mean(0))
    return np.concatenate(x), np.concatenate(month), np.concatenate(weight), np.concatenate(truth)


def anomalies(values, month, weight):
    out = np.array(values, np.float64)
    for m in range(12):
        out[month == m] -= np.average(out[month == m], axis=0, weights=weight[month == m])
    return out


def ridge(columns, values, weight, penalty):
    return np.linalg.solve(
        columns.T @ (columns * weight[:, None]) + np.diag(penalty), columns.T @ (values * weight[:, None])
    )


def test_two_steps_against_plain_numpy(climate):
    """The warming is explained first; then cells are regressed on it and on a feature, each with its own penalty."""
    archive, split = climate
    strength = {"tas": {"warming": 2.0, "BC": 30.0}}
    emulator = LinearEmulator.fit(
        archive, split, features=("BC",), warming=WARMING, warming_ridge=5.0, ridge=3.0, harmonics=0, strength=strength
    )
    x, month, weight, truth = training_rows(archive, split, ("BC", *WARMING))
    center = np.average(x, axis=0, weights=weight)
    z = (x - center) / np.sqrt(np.average((x - center) ** 2, axis=0, weights=weight))
    mean = anomalies(archive.grid.mean(truth[:, 0]), month, weight)
    share = ridge(anomalies(z[:, 1:], month, weight), mean[:, None], weight, [5.0, 5.0])[:, 0]
    warming = z[:, 1:] @ share
    columns = np.stack([z[:, 0], warming / np.sqrt(np.average(warming**2, weights=weight))], 1)
    for variable, penalty in ((0, [90.0, 6.0]), (1, [3.0, 3.0])):
        cell = truth[:, variable, 1, 2]
        found = ridge(anomalies(columns, month, weight), anomalies(cell, month, weight)[:, None], weight, penalty)[:, 0]
        fitted = columns @ found
        fitted += np.array([np.average((cell - fitted)[month == m], weights=weight[month == m]) for m in range(12)])[
            month
        ]
        predicted = np.concatenate(
            [emulator.predict_fields(archive[s.scenario], s.start, s.stop)[:, variable, 1, 2] for s in split.train]
        )
        np.testing.assert_allclose(predicted, fitted, atol=2e-3)


def test_penalty_of_one_variable_leaves_the_other_alone(climate):
    archive, split = climate
    plain = LinearEmulator.fit(archive, split, features=("CO2", "SO2"))
    drawn = LinearEmulator.fit(archive, split, features=("CO2", "SO2"), strength={"pr": {"CO2": 1e4}})
    a, b = (e.predict_fields(archive["ssp245"], 0, 181) for e in (plain, drawn))
    np.testing.assert_allclose(a[:, 0], b[:, 0], rtol=1e-6)
    assert np.abs(a[:, 1] - b[:, 1]).max() > 0.05


def test_an_endless_penalty_takes_a_feature_out(climate):
    archive, split = climate
    without = LinearEmulator.fit(archive, split, features=("CO2",))
    drawn = LinearEmulator.fit(
        archive, split, features=("CO2", "SO2"), strength={v: {"SO2": 1e15} for v in ("tas", "pr")}
    )
    a, b = (e.predict_fields(archive["ssp245"], 0, 181) for e in (without, drawn))
    np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("season", ["harmonics", "month"])
def test_a_cell_that_a_step_cools_is_not_cooled_on_and_on(season):
    """Every cell warms with CO2; one is cooled by a step as well, and the warming must not be given the blame."""
    archive = warming_archive()
    for scenario in archive.values():
        global_mean = (scenario.forcings["CO2"] - 1500) / 1000
        scenario.targets[:, :, 0] = 280 + global_mean[:, None, None]
        scenario.targets[:, :, 0, 1, 2] -= 3 * feature("step:2022:4", scenario, archive.grid)
    split = make_split(archive, "loso:ssp585")
    options = {"features": ("step:2022:4",), "warming": ("CO2",), "warming_ridge": 0.0, "ridge": 1.0, "season": season}
    options["strength"] = {"tas": {"step:2022:4": 3000.0}}
    free = LinearEmulator.fit(archive, split, **options)
    held = LinearEmulator.fit(archive, split, **options, least_warming=0.75)
    scenario = archive["ssp126"]
    far = replace(scenario, forcings={**scenario.forcings, "CO2": scenario.forcings["CO2"] + 1000})

    def change(emulator):
        return (emulator.predict_fields(far, 0, 12) - emulator.predict_fields(scenario, 0, 12))[:, 0].mean(0)

    # The warming is what CO2 explains of the global mean: a regression on CO2 alone, in all cells.
    globe = archive.grid.mean(change(LinearEmulator.fit(archive, split, features=("CO2",), ridge=0.0, harmonics=0)))
    assert change(free)[1, 2] < 0
    assert change(held)[1, 2] == pytest.approx(0.75 * globe, rel=0.01)
    a, b = (e.predict_fields(scenario, 0, 181) for e in (free, held))
    others = np.ones(archive.grid.shape, bool)
    others[1, 2] = False
    np.testing.assert_array_equal(a[:, 0][:, others], b[:, 0][:, others])
    np.testing.assert_array_equal(a[:, 1], b[:, 1])
    # What the warming may not explain, the step does: in the training years the cell falls as deep.
    before, after = (x[120:132, 0, 1, 2].mean() - x[48:60, 0, 1, 2].mean() for x in (a, b))
    assert after == pytest.approx(before, abs=0.1)


@pytest.mark.parametrize("season", ["harmonics", "month"])
def test_the_least_warming_is_that_of_the_year_not_of_its_warmest_month(season):
    """Two cells warm in January and cool in July: one on the mean over the year too little, one enough."""
    archive = warming_archive()
    cells = {(0, 1): 0.2, (3, 4): 1.2}
    for scenario in archive.values():
        global_mean = (scenario.forcings["CO2"] - 1500) / 1000
        wave = 2.0 * np.cos(2 * np.pi * scenario.calendar_month / 12)
        scenario.targets[:, :, 0] = 280 + global_mean[:, None, None]
        for cell, mean in cells.items():
            scenario.targets[(slice(None), slice(None), 0, *cell)] = 280 + (mean + wave) * global_mean
    split = make_split(archive, "loso:ssp585")
    options = {"features": ("SO2",), "warming": ("CO2",), "warming_ridge": 0.0, "ridge": 1e-3, "season": season}
    held = LinearEmulator.fit(archive, split, **options, least_warming=0.75)
    scenario = archive["ssp126"]
    warmer = replace(scenario, forcings={**scenario.forcings, "CO2": scenario.forcings["CO2"] + 1000})
    change = (held.predict_fields(warmer, 0, 12) - held.predict_fields(scenario, 0, 12))[:, 0]
    globe = archive.grid.mean(change.mean(0))
    assert change[:, 0, 1].max() > 1.5 * globe
    assert change[:, 0, 1].mean() == pytest.approx(0.75 * globe, rel=0.05)
    assert change[:, 3, 4].min() < 0
    assert change[:, 3, 4].mean() == pytest.approx(1.2, rel=0.05)


def test_a_step_is_a_passage_in_time_and_nothing_else(climate):
    archive, _ = climate
    a, b = (feature("step:2020:6", archive[n], archive.grid) for n in ("ssp126", "ssp585"))
    np.testing.assert_array_equal(a, b)
    assert a[60] == pytest.approx(0.5)
    assert (a[24], a[96]) == pytest.approx((0.1192, 0.8808), abs=1e-4)
    assert np.all(np.diff(a) > 0)
    assert 0 < a[0] < a[-1] < 1


def test_forcings_beyond_training_warm_in_proportion(climate):
    archive, split = climate
    emulator = LinearEmulator.fit(archive, split, **anchor_options())
    scenario = archive["ssp585"]

    def global_mean(factor):
        more = replace(scenario, forcings={**scenario.forcings, "CO2": scenario.forcings["CO2"] * factor})
        return archive.grid.mean(emulator.predict_fields(more, 120, 181)[:, 0]).mean()

    one, two, four, eight = (global_mean(f) for f in (1, 2, 4, 8))
    assert four - two == pytest.approx(2 * (two - one), rel=1e-3)
    assert eight - four == pytest.approx(4 * (two - one), rel=1e-3)
    assert two > one


@pytest.mark.parametrize(
    "options",
    [
        {"strength": {"tas": {"SO2~9": 2.0}}},
        {"strength": {"tos": {"CO2": 2.0}}},
        {"strength": {"tas": {"CO2": 0.0}}},
        {"strength": {"tas": {"warming": 2.0}}},
        {"warming": ("CO2", "CO2")},
        {"warming_ridge": -1.0},
        {"least_warming": 0.5},
        {"least_warming": 0.5, "warming": ("CO2",), "features": ()},
        {"features": ("step:2045:0",)},
        {"features": ("step:45:10",)},
    ],
)
def test_options_that_do_nothing_or_cannot_be_are_refused(climate, options):
    with pytest.raises(RecipeError):
        LinearEmulator.fit(*climate, **{"features": ("CO2", "SO2"), **options})


@pytest.mark.real
def test_anchor_answers_an_unseen_scenario_where_the_plain_line_fails(real_archive):
    split = make_split(real_archive, "loso:ssp126")
    scores = {
        name: score_emulator(
            LinearEmulator.fit(real_archive, split, **load_recipe(name).options), real_archive, (split.test,)
        )
        for name in ("linear", "anchor")
    }
    # Measured 0.732 and 0.358 K, 0.333 and 0.145 mm/day.
    assert scores["anchor"]["tas.time_mean_rmse"] < 0.6 * scores["linear"]["tas.time_mean_rmse"]
    assert scores["anchor"]["pr.time_mean_rmse"] < 0.6 * scores["linear"]["pr.time_mean_rmse"]
