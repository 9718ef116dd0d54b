"""Ensembles whose weights come from the wrong months, or that are not an average at all."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.emulators.base import Emulator
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.ensemble import Ensemble, simplex_weights
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.runs.run import train_run
from tests.coded import warming_archive


class Fixed(Emulator):
    """Predicts given fields, scenario by scenario."""

    kind = "fixed"

    def __init__(self, domain, fields):
        super().__init__(domain)
        self.fields = fields

    def predict_fields(self, scenario, start, stop):
        return self.fields[scenario.name][start:stop]

    def state(self):
        raise NotImplementedError

    @classmethod
    def from_state(cls, domain, meta, arrays):
        raise NotImplementedError


@pytest.fixture(scope="module")
def archive():
    return warming_archive()


def noise(archive, seed, sizes=(1.0, 1.0)):
    """(T, V, Y, X) errors of a base for every scenario."""
    rng = np.random.default_rng(seed)
    sizes = np.array(sizes)[:, None, None]
    return {n: (rng.normal(size=s.targets.shape[1:]) * sizes).astype(np.float32) for n, s in archive.items()}


def base(archive, seed, sizes=(1.0, 1.0)):
    """The truth of member 0, and errors of its own."""
    errors = noise(archive, seed, sizes)
    return Fixed(archive.domain, {n: s.targets[0] + errors[n] for n, s in archive.items()})


def test_equal_weights_are_the_mean_and_rain_is_not_negative(archive):
    bases = [base(archive, i, (1.0, 20.0)) for i in range(3)]
    ensemble = Ensemble.fit(archive, make_split(archive, "k360"), bases, ())
    said = ensemble.predict_fields(archive["ssp370"], 5, 30)
    mean = np.mean([b.fields["ssp370"][5:30] for b in bases], 0)
    assert (mean[:, 1] < 0).any()
    np.testing.assert_allclose(said[:, 0], mean[:, 0], rtol=1e-6)
    np.testing.assert_allclose(said[:, 1], np.maximum(mean[:, 1], 0), atol=1e-5)
    np.testing.assert_array_equal(said[3:7], ensemble.predict_fields(archive["ssp370"], 8, 12))


def test_validation_weights_find_the_mixture_of_each_variable(archive):
    """The truth is a mixture of two bases, another for tas than for pr, and a third is of no use."""
    a, b = noise(archive, 0, (2.0, 2.0)), noise(archive, 1, (2.0, 2.0))
    shares = np.array([[0.3, 0.7], [0.8, 0.2]])
    offsets = {n: shares[:, 0, None, None] * a[n] + shares[:, 1, None, None] * b[n] for n in archive}
    bases = [Fixed(archive.domain, {n: s.targets[0] + (e[n] - offsets[n]) for n, s in archive.items()}) for e in (a, b)]
    bases.append(base(archive, 2, (30.0, 30.0)))
    ensemble = Ensemble.fit(archive, make_split(archive, "k360"), bases, (), weights="validation")
    np.testing.assert_allclose(ensemble.weights, [[0.3, 0.7, 0.0], [0.8, 0.2, 0.0]], atol=2e-3)
    scenario = archive["ssp585"]
    truth = np.maximum(scenario.targets[0, 60:70], [[[[-np.inf]], [[0.0]]]])
    np.testing.assert_allclose(ensemble.predict_fields(scenario, 60, 70), truth, atol=0.25)


def test_weights_are_the_best_on_the_simplex():
    """Against every point of a fine grid, also where the best lies on an edge or a corner."""
    rng = np.random.default_rng(0)
    grid = [np.array([i, j, 50 - i - j]) / 50 for i, j in product(range(51), repeat=2) if i + j <= 50]
    corners = 0
    for _ in range(40):
        errors = rng.normal(size=(3, 6)) * rng.uniform(0.2, 3.0, (3, 1)) + rng.normal(size=6)
        form = 1e4 * errors @ errors.T
        found = simplex_weights(form)
        assert found.min() >= 0
        assert found.sum() == pytest.approx(1.0, abs=1e-12)
        corners += (found == 0).any()
        assert found @ form @ found <= min(w @ form @ w for w in grid) * (1 + 1e-9)
    assert 5 < corners < 40


def test_bases_that_say_the_same_and_a_perfect_one_are_no_trouble():
    np.testing.assert_allclose(simplex_weights(np.full((3, 3), 2.0)).sum(), 1.0)
    np.testing.assert_allclose(simplex_weights(np.zeros((2, 2))), [0.5, 0.5])
    np.testing.assert_allclose(simplex_weights(np.diag([0.0, 3.0])), [1.0, 0.0], atol=1e-12)


def test_weights_are_of_validation_months_alone(archive):
    """Every other target is scrambled, the test's among them: nothing that is fitted may notice."""
    split = make_split(archive, "k360")
    bases = [base(archive, i, (1.0 + i, 3.0 - i)) for i in range(3)]
    before = Ensemble.fit(archive, split, bases, (), weights="validation").weights
    span = split.validation[0]
    rng = np.random.default_rng(5)

    def scrambled(inside):
        scenarios = {}
        for name, scenario in archive.items():
            targets = rng.normal(size=scenario.targets.shape).astype(np.float32)
            if name == span.scenario:
                kept = (span.members[0], slice(span.start, span.stop))
                if inside:
                    targets, held = scenario.targets.copy(), targets
                    targets[kept] = held[kept]
                else:
                    targets[kept] = scenario.targets[kept]
            scenarios[name] = replace(scenario, targets=targets)
        return replace(archive, scenarios=scenarios)

    np.testing.assert_array_equal(
        Ensemble.fit(scrambled(False), split, bases, (), weights="validation").weights, before
    )
    assert not np.allclose(Ensemble.fit(scrambled(True), split, bases, (), weights="validation").weights, before)
    # Alike for all, they do not look at any target.
    equal = Ensemble.fit(scrambled(True), split, bases, ()).weights
    np.testing.assert_array_equal(equal, np.full((2, 3), 1 / 3))


def test_spread_is_that_of_the_bases(archive):
    bases = [base(archive, i) for i in range(3)]
    spread = Ensemble(archive.domain, bases).spread(archive["ssp126"], 10, 40)
    fields = np.stack([b.fields["ssp126"][10:40] for b in bases]).astype(np.float64)
    weights = np.cos(np.deg2rad(archive.grid.lat))[:, None].repeat(6, 1)
    weights /= weights.sum()
    for i, name in enumerate(("tas", "pr")):
        of_mean = np.sqrt((fields[:, :, i].mean(1).var(0, ddof=1) * weights).sum())
        of_months = np.sqrt((fields[:, :, i].var(0, ddof=1).mean(0) * weights).sum())
        np.testing.assert_allclose(spread[name], (of_mean, of_months), rtol=1e-6)
    assert Ensemble(archive.domain, bases[:1]).spread(archive["ssp126"], 10, 40)["tas"] == (0.0, 0.0)


def test_saved_ensemble_predicts_the_same(archive, tmp_path):
    split = make_split(archive, "k360")
    bases = [LinearEmulator.fit(archive, split), ClimatologyEmulator.fit(archive, split)]
    ensemble = Ensemble(archive.domain, bases, np.array([[0.9, 0.1], [0.25, 0.75]]))
    ensemble.save(tmp_path / "e")
    again = load_emulator(tmp_path / "e")
    np.testing.assert_array_equal(
        again.predict_fields(archive["ssp245"], 0, 181), ensemble.predict_fields(archive["ssp245"], 0, 181)
    )


def test_run_says_weights_and_spread(archive, tmp_path):
    recipe = tmp_path / "two.toml"
    recipe.write_text('model.weights = "validation"\n[[bases]]\nrecipe = "linear"\n[[bases]]\nrecipe = "climatology"\n')
    said = []

    class Listening(Reporter):
        def say(self, text):
            said.append(text)

    run, _ = train_run(
        archive, load_recipe("ensemble", recipe), tmp_path / "run", protocol="k360", reporter=Listening(quiet=True)
    )
    findings = run.record.findings
    assert len(findings) == 3
    weights = np.array([[float(x) for x in line.split()[2:]] for line in findings[:2]])
    emulator = load_emulator(run.folder)
    np.testing.assert_allclose(weights, emulator.weights, atol=6e-4)
    # Linear is what this climate is.
    assert weights[0, 0] > 0.9
    assert "over 2 bases of the time mean, ssp370 2023-02..2025-01: tas" in findings[2]
    assert {f"ensemble: {line}" for line in findings} <= set(said)
