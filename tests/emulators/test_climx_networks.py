"""Published networks that are not what was published: other inputs, another graph, cells that are all alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from emukit.data.opening import open_data
from emukit.data.split import Span, Split
from emukit.emulators import climx_networks
from emukit.emulators.climx_networks import ClimxGraphNetwork, ClimxNetwork, GraphNetwork
from emukit.emulators.registry import load_emulator
from emukit.errors import ProtocolError, RecipeError


@pytest.fixture(scope="module")
def archive(climx_folder):
    return open_data(str(climx_folder[0]))


@pytest.fixture(scope="module")
def split(archive):
    spans = {n: Span(n, 0, len(archive[n]), (0,)) for n in ("historical", "ssp126", "ssp370", "ssp585")}
    train = (spans["historical"], spans["ssp126"], spans["ssp585"])
    return Split("own", train, {"validation": (spans["ssp370"],)})


@pytest.fixture(scope="module")
def fitted(archive, split):
    return ClimxNetwork.fit(archive, split, epochs=1, seed=3)


def test_inputs_are_the_22_that_were_published(archive):
    """Of one cell, by numpy's own interpolation: five concentrations, five emissions in three parts, the season."""
    scenario, cell = archive["ssp585"], 7
    found = climx_networks._Forcings(scenario).days(0, 365, np.array([cell]))[:, 0]
    assert found.shape == (365, 22)
    days = np.arange(365)
    gases = [n for n, f in scenario.forcings.items() if f.ndim == 1]
    maps = [n for n, f in scenario.forcings.items() if f.ndim == 3]
    assert (len(gases), len(maps)) == (5, 5)
    lengths = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
    fifteenth = np.cumsum(lengths) - lengths + 14
    inside = slice(14, 334 + 14)
    for i, name in enumerate(maps):
        monthly = scenario.forcings[name][fifteenth].reshape(12, -1)[:, cell].astype(float)
        x = np.interp(days, fifteenth, monthly)
        log = np.sign(x) * np.log10(np.abs(x) + 1e-6)
        np.testing.assert_allclose(found[inside, 5 + i], np.where(x > 0, log, 0)[inside], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(found[inside, 10 + i], np.where(x < 0, log, 0)[inside], rtol=1e-6, err_msg=name)
        np.testing.assert_array_equal(found[inside, 15 + i], (x == 0)[inside], err_msg=name)
        # Before the first 15th the line goes on.
        slope = (monthly[1] - monthly[0]) / 31
        if monthly[0] - 14 * slope > 0:
            assert 10 ** found[0, 5 + i] == pytest.approx(monthly[0] - 14 * slope, rel=1e-5), name
    np.testing.assert_allclose(found[:, 20], np.sin(2 * np.pi * (days + 1) / 365.25), atol=1e-6)
    yearly = scenario.forcings[gases[0]][[0, 365]]
    assert found[182, 0] == pytest.approx(yearly[0])
    assert found[0, 0] == pytest.approx(yearly[0] - 182 / 365 * (yearly[1] - yearly[0]))


def test_emissions_below_zero_and_of_zero_are_inputs_of_their_own(archive):
    scenario = archive["ssp585"]
    maps = [n for n, f in scenario.forcings.items() if f.ndim == 3]
    first = np.full_like(scenario.forcings[maps[0]], -1e5)
    changed = {**scenario.forcings, maps[0]: first, maps[1]: np.zeros_like(first)}
    found = climx_networks._Forcings(replace(scenario, forcings=changed)).days(0, 3, np.array([0]))[0, 0]
    assert found[5:7].tolist() == [0, 0]
    assert found[10] == pytest.approx(-5)
    assert found[15:17].tolist() == [0, 1]


def test_network_learns_the_training_days_and_each_cell(archive, split, fitted):
    """Nearer to the days that it was trained on than the climatology that it departs from, and cells are told apart."""
    scenario = archive["ssp585"]
    truth = scenario.truth(0, 0, 730)
    said = fitted.predict_fields(scenario, 0, 730)
    shares = climx_networks.spline_of_months("first")[scenario.time.day_of_year[:730]]
    climatology = np.tensordot(shares, fitted._arrays["means"], 1)
    tas = archive.variables.index("tas")
    error, before = (((f[:, tas] - truth[:, tas]) ** 2).mean() for f in (said, climatology))
    assert error < 0.95 * before
    inputs = torch.zeros(1, 2, 22)
    a, b = fitted._network(inputs, torch.tensor([0, 1]))[0]
    assert not torch.allclose(a, b)
    assert (said[:, archive.variables.index("pr")] >= 0).all()


def test_seed_decides_and_the_historical_run_trains_nothing_but_the_climatology(archive, split, fitted):
    scenario = archive["ssp370"]
    again = ClimxNetwork.fit(archive, split, epochs=1, seed=3).predict_fields(scenario, 0, 40)
    other = ClimxNetwork.fit(archive, split, epochs=1, seed=4).predict_fields(scenario, 0, 40)
    said = fitted.predict_fields(scenario, 0, 40)
    np.testing.assert_array_equal(again, said)
    assert not np.allclose(other, said)
    with pytest.raises(ProtocolError, match="scenarios after the historical run"):
        ClimxNetwork.fit(archive, Split("own", split.train[:1], {}))
    with pytest.raises(ProtocolError, match="no day of which trains"):
        ClimxNetwork.fit(archive, Split("own", split.train[1:], {}))
    with pytest.raises(RecipeError, match="epochs"):
        ClimxNetwork.fit(archive, split, epochs=0)


def test_graph_convolution_is_that_of_a_dense_matrix():
    cells, edges = 6, np.array([[0, 0, 3, 5], [1, 2, 1, 0]])
    torch.manual_seed(0)
    network = GraphNetwork(cells, 4, 2, edges)
    matrix = np.eye(cells)
    for a, b in edges.T:
        matrix[b, a] += 1
    root = np.sqrt(matrix.sum(1))
    matrix = matrix / root[:, None] / root[None]
    h = x = np.random.default_rng(0).standard_normal((3, cells, 4))
    for i, layer in enumerate(network.layers):
        h = matrix @ h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        h = np.maximum(h, 0) if i < 2 else h
    found = network(torch.from_numpy(x.astype(np.float32)), torch.arange(cells)).detach().numpy()
    np.testing.assert_allclose(found, h, atol=1e-5)


def test_saved_networks_predict_the_same_and_refuse_other_forcings(archive, split, fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(climx_networks, "EDGE", 0.2)
    graph = ClimxGraphNetwork.fit(archive, split, epochs=1)
    assert graph._arrays["edges"].shape[1] > 3
    scenario = archive["ssp245"]
    for emulator in (fitted, graph):
        emulator.save(tmp_path / emulator.kind)
        loaded = load_emulator(tmp_path / emulator.kind)
        said = emulator.predict_fields(scenario, 300, 400)
        np.testing.assert_array_equal(loaded.predict_fields(scenario, 300, 400), said)
        # A day is the same whatever is asked for beside it.
        np.testing.assert_allclose(emulator.predict_fields(scenario, 350, 352), said[50:52], rtol=1e-5, atol=1e-7)
    fewer = dict(list(scenario.forcings.items())[1:])
    with pytest.raises(ProtocolError, match="other forcings"):
        fitted.predict_fields(replace(scenario, forcings=fewer), 0, 5)
