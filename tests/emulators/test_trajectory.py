"""A trajectory that depends on its company, forgets where it began, or begins where nobody knows the state."""

import numpy as np
import pytest
import torch
from torch import nn

from emukit.data.frames import FrameEncoder, InputSettings, Window
from emukit.data.protocol import make_split
from emukit.data.states import States, normalised_bounds
from emukit.data.targets import TargetNormalizer, TargetSettings
from emukit.emulators.registry import load_emulator
from emukit.emulators.trajectory import Persistence, TrajectoryNetwork
from emukit.errors import ProtocolError
from emukit.models.registry import build_network
from tests.forecasts import sequence

ARCHIVE = sequence()
SPLIT = make_split(ARCHIVE, "forecast")
CONTROL = ARCHIVE["control"]
OPTIONS = {"width": 4, "depth": 1, "coarsen": 0, "linear": 0, "window": "channels", "local": False}


class Moved(nn.Module):
    """Says that every field moves a cell to the east, as it does in the sequence; no state stays as it is."""

    def __init__(self, states, history=1):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(states.scale[:2], dtype=torch.float32), requires_grad=False)
        self.history = history

    def forward(self, frames):
        last = frames[:, -1, -2:]
        change = (torch.roll(last, 1, -1) - last) / self.scale[:, None, None]
        return torch.cat((change, last[:, :1]), 1)[:, None]


def emulator(history=1, moved=False, **more):
    window = Window(history=history)
    inputs = InputSettings(forcings=(), states=("tas", "z500"), window=window, seasonal=(), statics=(), **more)
    encoder = FrameEncoder.fit(ARCHIVE, SPLIT.train, inputs)
    # Moved fields are the same in units of every cell only where all cells have the same.
    normalizer = TargetNormalizer.fit(ARCHIVE, SPLIT.train, {})
    states = States.fit(ARCHIVE, SPLIT.train, normalizer, inputs.states)
    torch.manual_seed(3)
    network = build_network(
        "unet", in_channels=len(encoder.channels), variables=3, grid=(4, 6), history=history, options=OPTIONS
    )
    network = Moved(states, history) if moved else network
    return TrajectoryNetwork(ARCHIVE.domain, "unet", OPTIONS, network, encoder, normalizer, states=states)


def test_every_step_is_from_the_states_of_the_step_before():
    found = emulator(moved=True)
    season = CONTROL.time.season
    state = found.normalizer.forward(CONTROL.targets[0, 9:10], season[9:10])[0]
    trajectory = found.predict_fields(CONTROL, 10, 14)
    for step in range(4):
        pr = state[0]
        state = np.roll(state, 1, -1)
        expected = found.normalizer.inverse(np.stack([state[0], state[1], pr])[None], season[10 + step : 11 + step])[0]
        np.testing.assert_allclose(trajectory[step, :2], expected[:2], rtol=1e-5)
        np.testing.assert_allclose(trajectory[step, 2], expected[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("history", [1, 3])
def test_trajectories_do_not_depend_on_their_company_nor_on_how_far_they_go(history):
    found = emulator(history)
    together = found.forecast(CONTROL, [5, 9, 30], 6)
    for i, start in enumerate((5, 9, 30)):
        np.testing.assert_allclose(
            found.predict_fields(CONTROL, start, start + 4), together[i, :4], rtol=1e-4, atol=1e-3
        )
    assert found.first_month == history


def test_a_trajectory_is_continued_from_its_own_fields():
    found = emulator(history=2)
    whole = found.predict_fields(CONTROL, 20, 30)
    again = found.starting_from(whole[2:4]).predict_fields(CONTROL, 24, 30)
    np.testing.assert_allclose(again, whole[4:], rtol=1e-4, atol=1e-2)
    # And not from what the scenario has there.
    assert np.abs(found.predict_fields(CONTROL, 24, 30) - again).max() > 0.1
    assert found.beginning is None
    with pytest.raises(ProtocolError, match="beginning"):
        found.starting_from(whole[:1])
    with pytest.raises(ProtocolError, match="not finite"):
        found.starting_from(np.full_like(whole[:2], np.nan))


def test_a_beginning_that_nobody_knows_is_refused():
    found = emulator(history=2)
    with pytest.raises(ProtocolError, match="are not known") as refused:
        found.predict_fields(CONTROL, 1, 5)
    assert "2000" in str(refused.value) or "1970" in str(refused.value)
    hidden = sequence()["control"]
    hidden.hidden[10:12] = True
    with pytest.raises(ProtocolError, match="are not known"):
        found.predict_fields(hidden, 12, 14)
    own = found.starting_from(CONTROL.targets[0, 10:12])
    np.testing.assert_allclose(own.predict_fields(hidden, 12, 14), found.predict_fields(CONTROL, 12, 14), rtol=1e-6)
    assert own.first_month == 0


def test_saved_trajectories_are_those_that_were_trained(tmp_path):
    found = emulator(history=2)
    found.save(tmp_path / "emulator")
    again = load_emulator(tmp_path)
    assert type(again) is TrajectoryNetwork
    assert again.from_beginning
    np.testing.assert_array_equal(again.predict_fields(CONTROL, 20, 26), found.predict_fields(CONTROL, 20, 26))
    Persistence.fit(ARCHIVE, SPLIT).save(tmp_path / "still")
    still = load_emulator(tmp_path / "still")
    np.testing.assert_array_equal(still.predict_fields(CONTROL, 20, 26), CONTROL.targets[0, [19] * 6])
    np.testing.assert_array_equal(still.forecast(CONTROL, [3, 7], 2)[1], CONTROL.targets[0, [6, 6]])


def no_colder_than(found, lower=281.0):
    """The card gives no bounds here, so that one is made up, which every step breaks."""
    described = found.domain.card.targets["tas"]
    bounded = described.model_copy(update={"bounds": described.bounds.model_copy(update={"lower": lower})})
    card = found.domain.card.model_copy(update={"targets": {**found.domain.card.targets, "tas": bounded}})
    found.domain = found.domain.__class__(card, found.domain.grid, found.domain.variables, found.domain.time)


def test_bounded_states_are_fed_back_as_they_are_written():
    free, cut = emulator(moved=True), emulator(moved=True, bounded=True)
    for found in (free, cut):
        no_colder_than(found)
    whole = cut.predict_fields(CONTROL, 10, 16)
    assert whole[:, 0].min() == pytest.approx(281.0)
    # What moves on is what was cut.
    season = CONTROL.time.season[10:16]
    moved = np.roll(cut.normalizer.forward(whole, season), 1, -1)
    expected = np.maximum(cut.normalizer.inverse(moved[:-1], season[1:])[:, 0], 281.0)
    np.testing.assert_allclose(whole[1:, 0], expected, atol=1e-3)
    again = cut.starting_from(whole[2:3]).predict_fields(CONTROL, 13, 16)
    np.testing.assert_allclose(again, whole[3:], atol=1e-3)
    # What is no state follows from the state before: rain is that of temperatures that were cut.
    apart = free.predict_fields(CONTROL, 10, 16)
    np.testing.assert_array_equal(apart[0], whole[0])
    assert np.abs(apart[1, 2] - whole[1, 2]).max() > 0.1


def test_outputs_that_are_not_states_keep_the_bounds_of_their_own_season():
    """Their normalised zero is another in every season, and that of the first would be too much rain in others."""
    fitted = emulator(bounded=True)
    seasonal = TargetNormalizer.fit(ARCHIVE, SPLIT.train, {"pr": TargetSettings(climatology="cell-month")})
    pr = ARCHIVE.variables.index("pr")
    assert ARCHIVE.domain.described[pr].bounds.lower == 0.0
    lower, upper = normalised_bounds(fitted.domain, seasonal, fitted.states)
    assert torch.isinf(lower[pr]).all()
    assert torch.isinf(upper[pr]).all()
    no_colder_than(fitted)
    lower, _ = normalised_bounds(fitted.domain, seasonal, fitted.states)
    assert torch.isfinite(lower[0]).all()


def test_rain_below_zero_is_clipped_in_what_is_written_alone():
    found = emulator(moved=True)
    free = found.predict_fields(CONTROL, 10, 16)
    no_colder_than(found)
    cut = found.predict_fields(CONTROL, 10, 16)
    np.testing.assert_array_equal(cut[:, 0], np.maximum(free[:, 0], 281.0))
    np.testing.assert_array_equal(cut[:, 1:], free[:, 1:])


def test_a_trajectory_keeps_the_means_that_it_began_with(tmp_path):
    how = {"tas": "add", "z500": "multiply"}
    free, held = emulator(), emulator(conserved=how)
    held.save(tmp_path / "emulator")
    found = load_emulator(tmp_path).forecast(CONTROL, [10, 30], 12)
    begun = CONTROL.targets[0, [9, 29]]
    expected = ARCHIVE.grid.mean(begun)[:, None, :2]
    np.testing.assert_allclose(ARCHIVE.grid.mean(found)[:, :, :2], np.repeat(expected, 12, 1), rtol=1e-6)
    drifted = ARCHIVE.grid.mean(free.forecast(CONTROL, [10, 30], 12))[:, :, :2]
    assert (np.abs(drifted[:, -1] / expected[:, 0] - 1) > 1e-5).all()
    # What is no state is left alone, and a first step is what was said but for its mean.
    one, other = (e.predict_fields(CONTROL, 10, 11)[0] for e in (free, held))
    np.testing.assert_array_equal(one[2], other[2])
    np.testing.assert_allclose(np.ptp(other[0] - one[0]), 0, atol=1e-3)
    np.testing.assert_allclose(np.ptp(other[1] / one[1]), 0, atol=1e-6)


def test_means_hold_where_bounds_cut():
    cut, both = emulator(moved=True, bounded=True), emulator(moved=True, bounded=True, conserved={"tas": "add"})
    for found in (cut, both):
        no_colder_than(found)
        # What is written is cut once more, which is not looked at here.
        found.clip_to_bounds = lambda fields: None
    begun = ARCHIVE.grid.mean(CONTROL.targets[0, 9:10])[:, 0]
    means = [ARCHIVE.grid.mean(found.predict_fields(CONTROL, 10, 14))[:, 0] for found in (cut, both)]
    np.testing.assert_allclose(means[1], begun.repeat(4), rtol=1e-6)
    assert means[0].min() > begun + 0.1
