"""Paths that end with another spread than their target: compared with a Gaussian, whose drift is known exactly."""

import pytest
import torch

from emukit.data.sampler import Sample
from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext
from emukit.objectives.base import AddressedNoise
from emukit.objectives.interpolant import SPREAD, Interpolant, Schedule, euler_maruyama, roberts

# x1 given x0 ~ N(MEAN, VARIANCE), whatever the source.
MEAN, VARIANCE, SOURCE = 1.5, 0.49, 0.3
LOSS = CompositeLoss({"tas": {"mse": 1.0}, "pr": {"mse": 1.0}}, ("tas", "pr"), GridContext(torch.full((2, 3), 1 / 6)))


def coefficients(target, noise, t):
    """a, b, b', s and s', again and independently."""
    b, slope = (t, 1.0) if target == "linear" else (t * t, 2 * t)
    return 1 - t, b, slope, noise * (1 - t), -noise


def exact_drift(target="linear", noise=1.0, source=SOURCE):
    def drift(x, t):
        a, b, slope, s, s_slope = coefficients(target, noise, t)
        variance = b * b * VARIANCE + s * s * t
        covariance = b * slope * VARIANCE + s * s_slope * t
        share = covariance / variance if variance > 0 else 0.0
        return -source + slope * MEAN + share * (x - a * source - b * MEAN)

    return drift


def moments(solver, drift, steps, diffusion, change=0.0):
    """Exact mean and variance after the steps of a solver whose drift is affine in x."""
    mean, variance = SOURCE, 0.0

    def one(x, i, number):
        """A single step, from x and a number, by the solver itself."""
        h = 1.0 / steps

        def shifted(y, t):
            return drift(y, i * h + t * h)

        def scaled(y, t):
            return h * shifted(y, t)

        return solver(
            scaled,
            torch.tensor(x, dtype=torch.float64),
            1,
            lambda t: diffusion((i + t) * h) * h**0.5,
            lambda _: torch.tensor(number, dtype=torch.float64),
        )

    for i in range(steps):
        base = float(one(mean, i, 0.0))
        slope = float(one(mean + 1.0, i, 0.0)) - base
        kick = float(one(mean, i, 1.0)) - base
        mean, variance = base, slope**2 * variance + kick**2
    return mean, variance**0.5


@pytest.mark.parametrize(
    ("solver", "target", "steps", "mean", "deviation"),
    [
        (euler_maruyama, "linear", 10, 1.500, 0.711),
        (euler_maruyama, "linear", 60, 1.500, 0.702),
        (euler_maruyama, "linear", 200, 1.500, 0.700),
        (euler_maruyama, "quadratic", 60, 1.468, 0.692),
        (roberts, "quadratic", 60, 1.500, 0.700),
        (roberts, "linear", 10, 1.500, 0.700),
    ],
)
def test_steps_give_the_spread_that_they_give_a_gaussian(solver, target, steps, mean, deviation):
    drift, path = exact_drift(target), Schedule(target)
    found = moments(solver, drift, steps, path.s)
    assert found == (pytest.approx(mean, abs=0.0015), pytest.approx(deviation, abs=0.0015))


def test_a_path_of_single_draws_agrees_with_its_moments():
    g = torch.Generator().manual_seed(0)
    start = torch.full((100_000,), SOURCE)
    drawn = euler_maruyama(
        exact_drift("quadratic"), start, 60, Schedule("quadratic").s, lambda i: torch.randn(start.shape, generator=g)
    )
    mean, deviation = moments(euler_maruyama, exact_drift("quadratic"), 60, Schedule("quadratic").s)
    assert (float(drawn.mean()), float(drawn.std())) == (
        pytest.approx(mean, abs=0.008),
        pytest.approx(deviation, abs=0.006),
    )


@pytest.mark.parametrize("target", ["linear", "quadratic"])
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.5])
def test_any_diffusion_leads_to_the_same_spread(target, factor):
    path, drift = Schedule(target, 0.7), exact_drift(target, 0.7)

    def diffusion(t):
        return (factor if t >= SPREAD else 1.0) * path.s(t)

    corrected = path.corrected(drift, torch.tensor(SOURCE, dtype=torch.float64), diffusion)
    found = [moments(euler_maruyama, corrected, n, diffusion) for n in (100, 400)]
    assert found[1] == (pytest.approx(MEAN, abs=0.012), pytest.approx(0.7, abs=0.006))
    # It gets there with more steps.
    assert abs(found[1][1] - 0.7) < abs(found[0][1] - 0.7) + 1e-4
    plain = [moments(euler_maruyama, drift, 400, diffusion)[1]]
    assert abs(plain[0] - 0.7) > 0.03


def network_of(objective, source=0.0):
    """The network that makes the preconditioned drift exact for a Gaussian."""
    target, noise = objective.schedule.target, objective.schedule.noise
    drift = exact_drift(target, noise, source)

    def forward(frames, scaled, times):
        (t,) = {float(x) for x in times.flatten()}
        a, b, slope, s, _ = coefficients(target, noise, t)
        size = (slope**2 + noise**2 * t) ** 0.5
        if size == 0:
            return torch.zeros_like(scaled)
        return (drift(scaled * (a**2 + b**2 + s**2 * t) ** 0.5, t) + source) / size

    return forward


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target": "quadratic", "steps": 30},
        {"solver": "euler", "steps": 60, "noise": 0.5},
        {"solver": "euler", "steps": 100, "diffusion": 0.5},
    ],
)
@pytest.mark.parametrize("source", [None, 0.8])
def test_realisations_of_an_exact_network_have_its_distribution(options, source):
    objective, samples = Interpolant(None, **options), 200
    noise = AddressedNoise(1, range(samples), [range(2)] * samples, (2, 2, 2, 3))
    begin = None if source is None else torch.full((samples, 2, 2, 2, 3), source)
    drawn = objective.predict(network_of(objective, source or 0.0), torch.zeros(samples, 2, 1, 2, 3), noise, begin)
    assert drawn.shape == (samples, 2, 2, 2, 3)
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.04)
    assert float(drawn.std()) == pytest.approx(0.7, abs=0.025)


def test_loss_is_the_error_of_the_drift():
    """Of zeros for a network, the drift is -x0; by hand, from the same numbers."""
    objective = Interpolant(LOSS, target="quadratic", noise=0.6)
    x0, x1 = torch.randn(2, 3, 4, 2, 2, 3)
    torch.manual_seed(3)
    sample = Sample(torch.zeros(3, 4, 1, 2, 3), x1, {"source": x0})
    seen = {}

    def forward(frames, along, times):
        seen.update(along=along, times=times)
        return torch.zeros_like(along)

    total, terms = objective.loss(forward, sample)
    torch.manual_seed(3)
    times = torch.rand(3, 4)
    t = times[..., None, None, None]
    w = t.sqrt() * torch.randn_like(x1)
    torch.testing.assert_close(total, ((2 * t * x1 - 0.6 * w) ** 2).mean())
    torch.testing.assert_close(terms["tas.drift"], ((2 * t * x1 - 0.6 * w) ** 2)[:, :, 0].mean())
    variance = (1 - t) ** 2 + t**4 + 0.36 * (1 - t) ** 2 * t
    torch.testing.assert_close(seen["along"], ((1 - t) * x0 + t**2 * x1 + 0.6 * (1 - t) * w) / variance.sqrt())
    assert torch.equal(seen["times"], times)


@pytest.mark.parametrize("options", [{}, {"target": "quadratic", "noise": 0.6}])
def test_nothing_learned_of_a_gaussian_is_its_exact_drift(options):
    """Whatever the source is, a network of zeros draws unit variance, and its loss is what chance leaves of a path."""
    objective, zeros = Interpolant(LOSS, gaussian=True, steps=20, **options), lambda frames, x, t: torch.zeros_like(x)
    target, noise = objective.schedule.target, objective.schedule.noise
    samples = 2000
    numbers = AddressedNoise(1, range(samples), [range(2)] * samples, (2, 2, 2, 3))
    begin = torch.full((samples, 2, 2, 2, 3), 5.0)
    drawn = objective.predict(zeros, torch.zeros(samples, 2, 1, 2, 3), numbers, begin)
    assert float(drawn.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(drawn.std()) == pytest.approx(1.0, abs=0.01)
    # The loss of many paths, and the mean over times of what is left by hand.
    torch.manual_seed(0)
    sample = Sample(torch.zeros(20000, 1, 1, 2, 3), torch.randn(20000, 1, 2, 2, 3))
    sample.named["source"] = torch.randn(20000, 1, 2, 2, 3)
    found, _ = objective.loss(zeros, sample)
    left = []
    for t in ((i + 0.5) / 1000 for i in range(1000)):
        _, b, slope, s, s_slope = coefficients(target, noise, t)
        covariance = b * slope + s * s_slope * t
        left.append(slope**2 + s_slope**2 * t - covariance**2 / (b * b + s * s * t))
    assert float(found) == pytest.approx(sum(left) / 1000, rel=0.01)


def test_a_path_of_next_to_no_noise_begins_at_a_number():
    objective = Interpolant(LOSS, gaussian=True, noise=1e-30, steps=2)
    noise = AddressedNoise(1, [0], [[0]], (1, 2, 2, 3))
    drawn = objective.predict(lambda frames, x, t: torch.zeros_like(x), torch.zeros(1, 1, 1, 2, 3), noise)
    assert drawn.isfinite().all()


def test_network_of_the_path_without_its_source_is_asked_in_unit_variance():
    """Also at the beginning, where the path has no spread."""
    objective, seen = Interpolant(None, gaussian=True), []

    def forward(frames, x, times):
        seen.append((float(times.flatten()[0]), x))
        return torch.zeros_like(x)

    numbers = AddressedNoise(1, range(500), [range(1)] * 500, (1, 2, 2, 3))
    objective.predict(forward, torch.zeros(500, 1, 1, 2, 3), numbers, torch.full((500, 1, 2, 2, 3), 5.0))
    assert seen[0][0] == 0
    assert not seen[0][1].any()
    assert [float(x.std()) for _, x in seen[1:]] == pytest.approx([1.0] * (len(seen) - 1), abs=0.25)


def test_drift_of_the_conditional_mean_has_the_smallest_loss():
    """The drift of a Gaussian is fitted by least squares at a time: slope and offset are those of the exact one."""
    g = torch.Generator().manual_seed(0)
    t, n = 0.4, 400_000
    x1 = MEAN + VARIANCE**0.5 * torch.randn(n, generator=g)
    a, b, slope, s, s_slope = coefficients("linear", 1.0, t)
    w = t**0.5 * torch.randn(n, generator=g)
    along, wanted = a * SOURCE + b * x1 + s * w, -SOURCE + slope * x1 + s_slope * w
    found = torch.linalg.lstsq(torch.stack((along, torch.ones(n)), 1), wanted).solution
    drift = exact_drift()
    assert float(found[0]) == pytest.approx(drift(1.0, t) - drift(0.0, t), abs=0.01)
    assert float(found[1]) == pytest.approx(drift(0.0, t), abs=0.01)


def test_each_step_draws_other_numbers_and_the_same_again():
    objective, drawn = Interpolant(None, solver="euler", steps=3), []

    class Noise:
        def answer(self, draw):
            drawn.append(draw)
            return torch.zeros(1, 1, 2, 2, 3)

    objective.predict(
        lambda frames, x, t: torch.zeros_like(x), torch.zeros(1, 1, 1, 2, 3), Noise(), torch.zeros(1, 1, 2, 2, 3)
    )
    assert drawn == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps is out of range"),
        ({"noise": 0.0}, "noise is out of range"),
        ({"diffusion": 0.5}, "with the solver roberts"),
        ({"diffusion": -1.0, "solver": "euler"}, "diffusion cannot be"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, said):
    with pytest.raises(RecipeError) as caught:
        Interpolant(None, **options)
    assert said in f"{caught.value.what} {caught.value.found}"
