"""Batches whose frames and targets do not belong together."""

import numpy as np
import pytest
import torch

from emukit.data.frames import FrameEncoder, InputSettings, Window
from emukit.data.protocol import make_split
from emukit.data.segments import SegmentSampler, SegmentSettings
from emukit.data.targets import TargetNormalizer, TargetSettings
from emukit.errors import ProtocolError
from tests.coded import SCENARIOS, code, coded_archive


def make_source(members="random", length=7, window=None, protocol="k360", hidden=None):
    archive = coded_archive(hidden=hidden)
    split = make_split(archive, protocol)
    window = window or Window(history=5)
    encoder = FrameEncoder.fit(archive, split.train, InputSettings(window=window))
    normalizer = TargetNormalizer.fit(archive, split.train, {})
    settings = SegmentSettings(length=length, per_batch=3, members=members)
    return archive, split, encoder, normalizer, SegmentSampler(archive, split.train, encoder, normalizer, settings)


def physical(source, encoder, normalizer, archive, segment, batch, i):
    """Frames' month stamps and targets' codes of one segment, back in physical units."""
    mean, std, _ = encoder._statistics["SO2"]
    stamps = batch.frames[i, :, 0, 0, 0].double().numpy() * std + mean
    span = source.spans[segment.span]
    month = archive[span.scenario].calendar_month[segment.start : segment.start + source.settings.length]
    return stamps, normalizer.inverse(batch.targets[i].numpy(), month)


@pytest.mark.parametrize("members", ["random", "all"])
@pytest.mark.parametrize("target_month", ["included", "excluded"])
def test_every_batch_decodes_to_its_own_address(members, target_month):
    window = Window(history=5, target_month=target_month)
    archive, _, encoder, normalizer, source = make_source(members, window=window)
    for segments in source.epoch(0, seed=1):
        batch = source.batch(segments)
        for i, segment in enumerate(segments):
            span = source.spans[segment.span]
            s = SCENARIOS.index(span.scenario)
            stamps, fields = physical(source, encoder, normalizer, archive, segment, batch, i)
            expected = 1000.0 * s + window.frames(segment.start, source.settings.length, 121)
            np.testing.assert_allclose(stamps, expected, atol=0.01)
            for step in range(source.settings.length):
                for v in range(2):
                    key = code(s, segment.member, segment.start + step, v, archive.grid.shape)
                    # The nearest integer: float32 normalisation of codes up to 10^5 errs by hundredths.
                    np.testing.assert_array_equal(np.round(fields[step, v]), key)


def test_mean_target_is_the_mean_of_the_training_members():
    archive, _, encoder, normalizer, source = make_source("mean")
    segments = source.epoch(0, seed=1)[0]
    batch = source.batch(segments)
    _, fields = physical(source, encoder, normalizer, archive, segments[0], batch, 0)
    s = SCENARIOS.index(source.spans[segments[0].span].scenario)
    middle = code(s, 1, segments[0].start, 0, archive.grid.shape)  # codes are linear in the member
    np.testing.assert_array_equal(np.round(fields[0, 0]), middle)


@pytest.mark.parametrize("members", ["mean", "random", "all"])
def test_an_epoch_holds_every_training_month_and_no_other(members):
    _, split, _, _, source = make_source(members, hidden={"ssp126": (30, 40)})
    trained = {(s.scenario, t) for s in split.train for t in range(s.start, s.stop)}
    for epoch in range(5):
        batches = source.epoch(epoch, seed=3)
        assert len(batches) == source.steps_per_epoch
        months = {
            (source.spans[g.span].scenario, t)
            for batch in batches
            for g in batch
            for t in range(g.start, g.start + source.settings.length)
        }
        assert months == trained


def test_order_is_a_function_of_seed_and_epoch_alone():
    source = make_source()[-1]
    assert source.epoch(4, seed=2) == source.epoch(4, seed=2)
    assert source.epoch(4, seed=2) != source.epoch(5, seed=2)
    assert source.epoch(4, seed=2) != source.epoch(4, seed=3)


def test_address_names_the_months_of_a_batch():
    archive, _, _, _, source = make_source("random")
    segment = source.epoch(0, 0)[0][0]
    span = source.spans[segment.span]
    text = source.address([segment])
    assert span.scenario in text
    assert str(archive[span.scenario].months[segment.start]) in text
    assert f"member {segment.member}" in text


def test_segment_longer_than_every_span_is_refused():
    with pytest.raises(ProtocolError, match="no training span is as long"):
        make_source(length=200)


def test_dropped_lead_in_trains_on_no_month_without_history():
    source = make_source(window=Window(history=5, lead_in="drop"))[-1]
    assert min(g.start for b in source.epoch(0, 0) for g in b) == 4


def test_a_hidden_month_never_reaches_a_target():
    archive, _, _, _, source = make_source(hidden={"ssp585": (50, 60)}, members="all")
    for segments in source.epoch(0, seed=1):
        for g in segments:
            span = source.spans[g.span]
            assert not archive[span.scenario].hidden[g.start : g.start + source.settings.length].any()


def test_statistics_see_training_months_only():
    """Mutation of every held-out month and member leaves encoder and normaliser as they were."""
    archive = coded_archive()
    split = make_split(archive, "k360")
    settings = {"tas": TargetSettings(), "pr": TargetSettings(transform="yeo-johnson", scale="global")}
    before = TargetNormalizer.fit(archive, split.train, settings).state()
    frames = FrameEncoder.fit(archive, split.train, InputSettings()).state()
    for spans in split.scored.values():
        for span in spans:
            archive[span.scenario].targets[:, span.start : span.stop] = 1e6
            archive[span.scenario].forcings["CO2"][span.start : span.stop] = 1e6
    after = TargetNormalizer.fit(archive, split.train, settings).state()
    assert before[0] == after[0]
    assert all(np.array_equal(before[1][k], after[1][k]) for k in before[1])
    assert frames[0] == FrameEncoder.fit(archive, split.train, InputSettings()).state()[0]


def test_forcings_are_normalised_by_all_training_spans_together():
    """Against plain numpy; scenarios differ by thousands, so that any one of them has another mean."""
    archive = coded_archive()
    split = make_split(archive, "k360")
    encoder = FrameEncoder.fit(archive, split.train, InputSettings())
    at = {c: i for i, c in enumerate(encoder.channels)}
    frames = {n: encoder.gather(encoder.encode(s), torch.arange(len(s))).numpy() for n, s in archive.items()}
    for name in ("CO2", "SO2"):
        held = [archive[s.scenario].forcings[name][s.start : s.stop] for s in split.train]
        known = np.concatenate([np.asarray(h, np.float64).ravel() for h in held])
        for scenario, own in frames.items():
            values = np.asarray(archive[scenario].forcings[name], np.float64)
            wanted = (values - known.mean()) / known.std()
            wanted = wanted if wanted.ndim == 3 else wanted[:, None, None]
            np.testing.assert_allclose(own[:, at[name]], np.broadcast_to(wanted, own[:, 0].shape), rtol=1e-5, atol=1e-5)


def test_frames_hold_season_and_place():
    archive = coded_archive()
    split = make_split(archive, "k360")
    settings = InputSettings(seasonal=("month", "month-latitude", "published"), statics=("lat", "lon"))
    encoder = FrameEncoder.fit(archive, split.train, settings)
    encoded = encoder.encode(archive["ssp126"])
    frames = encoder.gather(encoded, torch.arange(24)).numpy()
    at = {c: i for i, c in enumerate(encoder.channels)}
    assert frames.shape == (24, len(encoder.channels), *archive.grid.shape)
    north, south = -1, 0
    lat = np.deg2rad(archive.grid.lat)
    january, july = 0, 6
    # The published encoding as FORMATS gives it: sign(lat) cos(lat) cos(2 pi (month - 1) / 12), months from 1.
    for month in range(1, 13):
        wanted = np.sign(lat) * np.cos(lat) * np.cos(2 * np.pi * (month - 1) / 12)
        np.testing.assert_allclose(frames[month - 1, at["published_season"], :, 0], wanted, atol=1e-6)
    for season in ("cos_month_lat", "published_season"):
        assert frames[january, at[season], north, 0] > 0 > frames[january, at[season], south, 0]
        assert frames[july, at[season], north, 0] < 0 < frames[july, at[season], south, 0]
    np.testing.assert_allclose(frames[0, at["sin_lat"], :, 2], np.sin(lat), atol=1e-6)
    np.testing.assert_allclose(frames[0, at["cos_lon"], 1], np.cos(np.deg2rad(archive.grid.lon)), atol=1e-6)
    np.testing.assert_array_equal(frames[0, at["sin_month"]], frames[12, at["sin_month"]])


def test_static_file_joins_the_frames_or_is_refused(tmp_path):
    import xarray as xr

    from emukit.errors import RecipeError

    archive = coded_archive()
    split = make_split(archive, "k360")
    land = np.arange(24.0).reshape(4, 6)
    grid = {"y": archive.grid.lat, "x": archive.grid.lon}
    xr.Dataset({"land": (("y", "x"), land)}, grid).to_netcdf(tmp_path / "land.nc")
    settings = InputSettings(statics=("lat", "land"), static_file=str(tmp_path / "land.nc"))
    encoder = FrameEncoder.fit(archive, split.train, settings)
    assert encoder.channels[-1] == "land"
    field = encoder.gather(encoder.encode(archive["ssp126"]), torch.arange(2))[1, -1].numpy()
    assert np.corrcoef(field.ravel(), land.ravel())[0, 1] == pytest.approx(1.0)
    assert archive.grid.mean(field) == pytest.approx(0.0, abs=1e-6)
    ds = xr.Dataset({"land": (("y", "x"), land)}, grid)
    # The same field in other orders is the same field: joined by its coordinates, not by position.
    for same in (
        ds.isel(y=slice(None, None, -1)),
        ds.assign_coords(x=(ds.x + 180) % 360 - 180).sortby("x"),
        ds.rename(y="latitude", x="longitude").transpose("longitude", "latitude"),
    ):
        same.to_netcdf(tmp_path / "same.nc")
        other = FrameEncoder.fit(
            archive, split.train, settings.model_copy(update={"static_file": str(tmp_path / "same.nc")})
        )
        np.testing.assert_array_equal(
            other.gather(other.encode(archive["ssp126"]), torch.arange(2))[1, -1].numpy(), field
        )
        (tmp_path / "same.nc").unlink()
    for wrong_ds, words in (
        (None, "cannot read"),
        (ds.assign_coords(y=ds.y + 1), "degrees off"),
        (ds.assign_coords(x=ds.x + 1), "degrees off"),
        (ds.drop_vars("x"), "x has no one-dimensional coordinate"),
        (ds.isel(x=slice(None, None, -1)), "x is not a regular"),
        (ds.isel(x=slice(None, None, 2)), "another grid"),
        (ds.rename(y="row"), "no field of latitude"),
        (ds.where(ds.land > 3), "not finite"),
    ):
        path = tmp_path / "wrong.nc"
        path.unlink(missing_ok=True)
        if wrong_ds is not None:
            wrong_ds.to_netcdf(path)
        wrong = InputSettings(statics=("land",), static_file=str(path))
        with pytest.raises(RecipeError, match=words):
            FrameEncoder.fit(archive, split.train, wrong)
