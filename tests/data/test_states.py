"""A state of another step, or of a scored span; a change in other units than it is undone in; a channel in no place."""

import numpy as np
import pytest
import torch

from emukit.data.frames import FrameEncoder, InputSettings, Window
from emukit.data.protocol import make_split
from emukit.data.segments import Segment, SegmentSettings
from emukit.data.states import RolloutSampler, States, cut
from emukit.data.targets import TargetNormalizer, TargetSettings
from emukit.errors import ProtocolError, RecipeError
from tests.forecasts import sequence

ARCHIVE = sequence(members=2)
SPLIT = make_split(ARCHIVE, "forecast")


def inputs(history=2, states=("z500", "tas")):
    return InputSettings(forcings=(), states=states, window=Window(history=history), seasonal=(), statics=("lat",))


def sampler(history=2, length=3, per_batch=4, states=("z500", "tas")):
    settings = SegmentSettings(length=length, per_batch=per_batch, members="all")
    encoder = FrameEncoder.fit(ARCHIVE, SPLIT.train, inputs(history, states))
    normalizer = TargetNormalizer.fit(ARCHIVE, SPLIT.train, {})
    return RolloutSampler(ARCHIVE, SPLIT.train, encoder, normalizer, settings), normalizer


def test_a_sample_holds_the_true_states_of_the_step_before_and_what_changes_of_them():
    source, normalizer = sampler()
    sample = source.batch([Segment(0, 1, 7), Segment(0, 0, 20)])
    scenario = ARCHIVE["control"]
    fields = normalizer.forward(scenario.targets[1], scenario.time.season)
    # Two of the time of the day, two of the latitude, and the states.
    assert sample.frames.shape == (2, 4, 6, 4, 6)
    assert source.frame == (6, 4, 6)
    # Of the targets 7, 8, 9 with a history of two, frames are of the steps 6 to 9, and states of the steps 5 to 8.
    for i, step in enumerate(range(6, 10)):
        np.testing.assert_array_equal(sample.frames[0, i, -2], fields[step - 1, 1])
        np.testing.assert_array_equal(sample.frames[0, i, -1], fields[step - 1, 0])
    scale = sample.named["scale"][0].numpy()
    assert scale[2] == 0
    for i, step in enumerate(range(7, 10)):
        for v in (0, 1):
            expected = (fields[step, v] - fields[step - 1, v]) / scale[v]
            np.testing.assert_allclose(sample.targets[0, i, v], expected, atol=1e-5)
        np.testing.assert_array_equal(sample.targets[0, i, 2], fields[step, 2])
    assert sample.named["states"][0].tolist() == [1, 0]
    np.testing.assert_array_equal(
        sample.frames[1, 0, -1], normalizer.forward(scenario.targets[0], scenario.time.season)[18, 0]
    )


def test_scale_is_the_standard_deviation_of_training_changes():
    source, normalizer = sampler()
    (span,) = SPLIT.train
    scenario = ARCHIVE["control"]
    fields = normalizer.forward(
        scenario.targets[:, : span.stop].reshape(-1, 3, 4, 6), np.tile(scenario.time.season[: span.stop], 2)
    )
    change = np.diff(fields.reshape(2, span.stop, 3, 4, 6), axis=1)
    expected = np.sqrt(ARCHIVE.grid.mean(change**2).mean((0, 1)))
    np.testing.assert_allclose(source.states.scale, [expected[0], expected[1], 0], rtol=1e-5)


def test_what_is_said_of_a_step_is_undone_exactly():
    source, normalizer = sampler()
    scenario = ARCHIVE["control"]
    fields = torch.from_numpy(normalizer.forward(scenario.targets[0], scenario.time.season))
    said = source.states.targets(fields[None, 1:], fields[None, :-1])
    for t in range(5):
        after = source.states.after(fields[None, t], said[:, t])
        np.testing.assert_allclose(after[0], fields[t + 1], atol=1e-5)
    again = States.from_plain(source.states.plain())
    assert again.places == (1, 0)
    np.testing.assert_array_equal(again.scale, source.states.scale)


def test_every_stretch_of_the_training_is_in_every_epoch_and_none_reaches_beyond():
    source, _ = sampler(history=2, length=3, per_batch=7)
    (span,) = SPLIT.train
    first, second = ([a for batch in source.epoch(e, 5) for a in batch] for e in (0, 1))
    assert sorted(first) == sorted(second) == [Segment(0, m, t) for m in (0, 1) for t in range(2, span.stop - 2)]
    assert first != second
    assert source.steps_per_epoch == len(source.epoch(0, 5)) == -(-len(first) // 7)
    assert source.epoch(1, 5) == source.epoch(1, 5)
    settings = SegmentSettings(length=3, per_batch=7, members="all")
    assert cut(ARCHIVE, SPLIT.train, inputs(), settings).steps() == source.steps_per_epoch


def test_states_of_scored_steps_are_never_read():
    """A training span after a scored one begins with its own states, not with those that are scored."""
    from emukit.data.split import Span

    spans = [Span("control", 40, 60, (0,))]
    settings = SegmentSettings(length=3, per_batch=4, members="all")
    addresses = cut(ARCHIVE, spans, inputs(history=4), settings)
    assert min(s.start for batch in addresses.epoch(0, 0) for s in batch) == 44


def test_what_is_no_state_is_refused_by_name():
    with pytest.raises(RecipeError, match="names huss"):
        sampler(states=("huss",))
    encoder = FrameEncoder.fit(ARCHIVE, SPLIT.train, inputs())
    seasonal = TargetNormalizer.fit(ARCHIVE, SPLIT.train, {"tas": TargetSettings(climatology="cell-month")})
    settings = SegmentSettings(length=1, per_batch=4, members="all")
    with pytest.raises(RecipeError, match="jump from one season"):
        RolloutSampler(ARCHIVE, SPLIT.train, encoder, seasonal, settings)
    with pytest.raises(ProtocolError, match="holds a stretch"):
        sampler(length=39)
    assert sampler(length=38)[0].steps_per_epoch == 1
    with pytest.raises(ValueError, match="needs a forcing, or a state"):
        InputSettings(forcings=())
    with pytest.raises(ValueError, match="conserved names pr"):
        InputSettings(forcings=(), states=("tas",), conserved={"pr": "add"})


def test_recipes_without_states_are_what_they_were():
    assert "states" not in InputSettings().model_dump()
    assert inputs().model_dump()["states"] == ("z500", "tas")
    assert "conserved" not in inputs().model_dump()
    assert "bounded" not in inputs().model_dump()


def test_frames_leave_room_for_states_and_keep_their_statics():
    encoder = FrameEncoder.fit(ARCHIVE, SPLIT.train, inputs())
    assert encoder.channels[-2:] == ("state:z500", "state:tas")
    encoded = encoder.encode(ARCHIVE["control"])
    out = torch.full((3, len(encoder.channels), 4, 6), 7.0)
    encoder.gather(encoded, torch.arange(3), out=out)
    run = encoder.gather_run(encoded, 0, torch.full_like(out, 7.0))
    torch.testing.assert_close(out, run)
    assert (out[:, -2:] == 0).all()
    np.testing.assert_array_equal(out[0, -2 - len(encoded.statics) : -2], encoded.statics)


def conserving(how, **targets):
    settings = inputs().model_copy(update={"conserved": how})
    encoder = FrameEncoder.fit(ARCHIVE, SPLIT.train, settings)
    normalizer = TargetNormalizer.fit(ARCHIVE, SPLIT.train, {n: TargetSettings(**t) for n, t in targets.items()})
    return RolloutSampler(ARCHIVE, SPLIT.train, encoder, normalizer, SegmentSettings(length=3, per_batch=4))


def test_an_output_whose_mean_is_not_conserved_may_be_normalised_by_season():
    other = next(name for name in ARCHIVE.variables if name not in inputs().states)
    source = conserving({"tas": "add"}, **{other: {"climatology": "cell-month"}})
    assert "held" in source.batch([Segment(0, 0, 7)]).named


def test_what_is_to_be_done_about_a_mean_that_cannot_be_conserved_is_what_helps():
    with pytest.raises(RecipeError, match="not normalised by a line") as caught:
        conserving({"tas": "add"}, tas={"transform": "yeo-johnson"})
    assert caught.value.hint == "--set targets.tas.transform=none"
    normalizer = TargetNormalizer.fit(ARCHIVE, SPLIT.train, {"tas": TargetSettings(climatology="cell-month")})
    with pytest.raises(RecipeError) as caught:
        normalizer.line()
    assert caught.value.hint == "--set targets.tas.climatology=cell"


def test_conserved_without_a_state_says_that_there_are_none():
    with pytest.raises(ValueError, match="conserved names tas: there are no states"):
        InputSettings(conserved={"tas": "add"})
