"""Realisations that a fair score punishes, noise that depends on what was asked, options that do nothing."""

import numpy as np
import pytest
import torch

from emukit.data.sampler import Sample
from emukit.emulators.registry import load_emulator
from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext
from emukit.objectives.base import Objective
from emukit.objectives.crps import Crps, fair_crps
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.runs.run import train_run
from tests.coded import warming_archive

SPACE = GridContext(torch.full((2, 3), 1 / 6))
LOSS = CompositeLoss({"tas": {"mse": 1.0}, "pr": {"mse": 1.0}}, ("tas", "pr"), SPACE)
SETTINGS = (
    "objective.name=crps",
    "training.segments.members=all",
    "training.segments.length=12",
    "training.epochs=2",
    "inputs.window.history=3",
    "model.width=2",
    "model.hidden=4",
    "model.features=3",
    "model.stages=1",
    "model.pool_rows=1",
    "model.pool_columns=2",
    "training.optimizer.warmup_steps=0",
)


def test_fair_crps_is_the_double_sum_of_its_definition():
    x, y = torch.randn(5, 7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    plain = [
        sum(abs(a - t) for a in column) / 5 - sum(abs(a - b) for a in column for b in column) / (2 * 5 * 4)
        for column, t in zip(x.T.tolist(), y.tolist(), strict=True)
    ]
    torch.testing.assert_close(fair_crps(x, y), torch.tensor(plain, dtype=torch.float64))
    torch.testing.assert_close(fair_crps(x[[3, 1, 4, 0, 2]], y), fair_crps(x, y))
    torch.testing.assert_close(fair_crps(x[:1], y), (x[0] - y).abs())


def test_expected_score_of_two_realisations_is_that_of_their_distribution():
    """Of x, y ~ N(0, 1) it is 1 / sqrt(pi); of a distribution of another spread, more."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 400_000, generator=g), torch.randn(400_000, generator=g)
    values = {s: float(fair_crps(s * x, y).mean()) for s in (0.5, 0.9, 1.0, 1.1, 2.0)}
    assert values[1.0] == pytest.approx(1 / np.pi**0.5, abs=0.003)
    assert values[0.5] > values[0.9] > values[1.0] < values[1.1] < values[2.0]


def test_step_asks_the_network_with_other_noise_for_each_realisation():
    objective = Crps(LOSS, realisations=3, noise=2)
    seen = []

    def forward(frames):
        seen.append(frames)
        return frames[:, 1:, -2:]

    sample = Sample(torch.randn(4, 6, 5, 2, 3), torch.randn(4, 5, 2, 2, 3))
    torch.manual_seed(1)
    total, terms = objective.loss(forward, sample)
    assert objective.passes == len(seen) == 3
    assert all(f.shape == (4, 6, 5 + objective.noise_channels, 2, 3) for f in seen)
    assert all(torch.equal(f[:, :, :5], sample.frames) for f in seen)
    assert not torch.equal(seen[0][:, :, 5:], seen[1][:, :, 5:])
    score = fair_crps(torch.stack([f[:, 1:, -2:] for f in seen]), sample.targets)
    torch.testing.assert_close(total, score.mean())
    assert set(terms) == {"tas.crps", "pr.crps"}
    torch.testing.assert_close(terms["pr.crps"], score[:, :, 1].mean())


def test_gradient_spreads_realisations_that_are_all_alike():
    """A network that ignores its noise is pulled towards using it: the derivative by the noise's weight is negative."""
    objective = Crps(LOSS)
    weight = torch.tensor(0.01, requires_grad=True)

    def forward(frames):
        return weight * frames[:, :, -2:]

    torch.manual_seed(0)
    total, _ = objective.loss(forward, Sample(torch.zeros(64, 4, 1, 2, 3), torch.randn(64, 4, 2, 2, 3)))
    total.backward()
    assert weight.grad < -0.05


@pytest.mark.parametrize("options", [{"realisations": 1}, {"noise": 0}, {"regional": -1.0}])
def test_objective_without_noise_or_pairs_is_refused(options):
    with pytest.raises(RecipeError, match=f"objective.{next(iter(options))} is out of range"):
        Crps(None, **options)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("objective.name=crps", "training.segments.members=mean"), "learns from single runs"),
        (("objective.name=crps", "training.segments.members=all", "loss.warmup_epochs=1"), "are of regression"),
        (("objective.name=crsp",), "unknown objective 'crsp'"),
        (("objective.noise=3",), "noise"),
        (("objective.name=crps", "training.segments.members=all", "objective.nois=3"), "nois"),
    ],
)
def test_objective_that_cannot_be_is_refused_with_the_recipe(settings, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe("cnn-gru", assignments=settings)


def test_regression_is_no_part_of_what_a_recipe_was_known_by():
    assert load_recipe("cnn-gru").digest == load_recipe("cnn-gru", assignments=("objective=regression",)).digest
    other = load_recipe("cnn-gru", assignments=("training.segments.members=all",))
    crps = [load_recipe("cnn-gru", assignments=(*SETTINGS[:2], f"objective.noise={n}")).digest for n in (4, 5)]
    assert len({other.digest, *crps}) == 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    archive = warming_archive(months=121)
    recipe = load_recipe("cnn-gru", assignments=SETTINGS)
    folder = tmp_path_factory.mktemp("crps") / "run"
    run, _ = train_run(archive, recipe, folder, protocol="k360", seed=3, reporter=Reporter(quiet=True))
    return archive, run, folder


def test_saved_network_draws_the_same_realisations(trained):
    archive, run, folder = trained
    emulator, again = run.emulator(archive), load_emulator(folder)
    assert emulator.draws
    scenario = archive["ssp245"]
    whole = emulator.predict_members(scenario, 0, 100, 3)
    np.testing.assert_array_equal(again.predict_members(scenario, 0, 100, 3), whole)
    np.testing.assert_array_equal(emulator.predict_fields(scenario, 0, 100), whole[0])
    # Whichever months are asked for, and in whatever blocks.
    part = again.member(2).predict_fields(scenario, 57, 75)
    np.testing.assert_allclose(part, whole[2, 57:75], rtol=1e-5)
    assert np.abs(whole[1] - whole[2]).mean() > 0


def test_other_seed_draws_other_realisations(trained):
    archive, run, _ = trained
    emulator, other = run.emulator(archive), run.emulator(archive)
    other.seed = 4
    a, b = (e.member(1).predict_fields(archive["ssp245"], 3, 9) for e in (emulator, other))
    assert not np.array_equal(a, b)


def test_objective_of_a_plug_in_takes_part():
    """What the trainer asks of an objective is its base class: the default way to be asked is one pass."""

    class Plain(Objective):
        def loss(self, forward, sample, *, ramp=1.0, mean=None):
            return (forward(sample.frames) - sample.targets).square().mean(), {}

    frames = torch.randn(1, 3, 2, 2, 3)
    answer = Plain(None).predict(lambda f: 2 * f, frames, lambda channels: pytest.fail("no noise is needed"))
    torch.testing.assert_close(answer, 2 * frames)
    assert (Plain.draws, Plain(None).noise_channels, Plain(None).passes) == (False, 0, 1)


def test_score_of_area_means_is_that_of_the_mean_of_each_region():
    """By hand, with weights that differ: the globe's mean of each variable, in units of its root mean square."""
    weights = torch.tensor([[1.0, 2, 3], [4, 5, 6]]) / 21
    loss = CompositeLoss({"tas": {"mse": 1.0}, "pr": {"mse": 1.0}}, ("tas", "pr"), GridContext(weights))
    drawn, sample = torch.randn(2, 3, 4, 2, 2, 3), Sample(torch.zeros(3, 4, 1, 2, 3), torch.randn(3, 4, 2, 2, 3))
    answers = iter([*drawn, *drawn])
    plain, _ = Crps(loss).loss(lambda frames: next(answers), sample)
    total, terms = Crps(loss, regional=0.5).loss(lambda frames: next(answers), sample)
    globe = (drawn * weights).sum((-1, -2))
    truth = (sample.targets * weights).sum((-1, -2))
    by_variable = [
        fair_crps(globe[..., v], truth[..., v]).mean() / truth[..., v].square().mean().sqrt() for v in (0, 1)
    ]
    torch.testing.assert_close(terms["globe.crps"], torch.stack(by_variable).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(total, plain + 0.5 * (terms["globe.crps"] + terms["regions.crps"]) / 2)


def test_cells_that_vary_together_are_told_from_cells_that_do_not():
    """The targets of all cells are alike: only the score of area means sees that realisations are not."""
    torch.manual_seed(0)
    sample = Sample(torch.zeros(4000, 4, 1, 2, 3), torch.randn(4000, 4, 2, 1, 1).expand(-1, -1, -1, 2, 3))

    def apart(frames):
        return torch.randn(4000, 4, 2, 2, 3)

    def together(frames):
        return torch.randn(4000, 4, 2, 1, 1).expand(-1, -1, -1, 2, 3)

    by_cell = [float(Crps(LOSS).loss(f, sample)[0]) for f in (apart, together)]
    by_region = [float(Crps(LOSS, regional=1.0).loss(f, sample)[0]) for f in (apart, together)]
    assert by_cell[0] == pytest.approx(by_cell[1], abs=0.02)
    # Of the globe alone it is 0.632 against 0.564, and that counts by half.
    assert by_region[0] > by_region[1] + 0.02


def test_score_of_cells_alone_has_no_other_terms():
    sample = Sample(torch.zeros(1, 2, 1, 2, 3), torch.zeros(1, 2, 2, 2, 3))
    _, terms = Crps(LOSS).loss(lambda frames: torch.randn(1, 2, 2, 2, 3), sample)
    assert set(terms) == {"tas.crps", "pr.crps"}
