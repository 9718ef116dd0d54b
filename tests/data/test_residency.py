"""Data that is put where it does not fit, and batches that depend on where it lives."""

import threading

import pytest
import torch

from emukit.data import segments as module
from emukit.data.frames import FrameEncoder, InputSettings, Window
from emukit.data.protocol import make_split
from emukit.data.residency import free_memory, host_free, place
from emukit.data.segments import Segment, SegmentSampler, SegmentSettings
from emukit.data.targets import TargetNormalizer
from emukit.errors import EmukitError
from tests.coded import coded_archive


def make_source(
    monkeypatch=None, *, free=None, residency="auto", members="random", device="cpu", seasonal=None, **window
):
    archive = coded_archive()
    split = make_split(archive, "k360")
    inputs = InputSettings(window=Window(history=15, **window), **({} if seasonal is None else {"seasonal": seasonal}))
    encoder = FrameEncoder.fit(archive, split.train, inputs)
    normalizer = TargetNormalizer.fit(archive, split.train, {})
    if free is not None:
        monkeypatch.setattr(module, "free_memory", lambda device: free)
    settings = SegmentSettings(length=7, per_batch=3, members=members, residency=residency)
    return SegmentSampler(archive, split.train, encoder, normalizer, settings, device)


def streamed_twin(source):
    """The same source, streaming as on a GPU."""
    twin = object.__new__(SegmentSampler)
    twin.__dict__ = {**source.__dict__, "_ahead": module.OrderedDict()}
    twin._reader = module.ThreadPoolExecutor(1)
    return twin


@pytest.mark.parametrize(
    ("wanted", "needed", "free", "device", "place_"),
    [
        ("auto", 50, 100, "cuda", "device"),
        ("auto", 51, 100, "cuda", "host"),
        ("device", 100, 100, "cuda", "device"),
        ("host", 1, 100, "cuda", "host"),
        ("auto", 500, 100, "cpu", "device"),  # one memory: there is nothing to choose
    ],
)
def test_data_is_put_where_it_fits(wanted, needed, free, device, place_):
    assert place(wanted, needed, free, device) == place_


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_data_forced_onto_a_full_device_is_refused_with_both_numbers(device):
    with pytest.raises(EmukitError) as error:
        place("device", 1_000_001, 1_000_000, device)
    assert "1,000,001 bytes needed" in error.value.found
    assert "1,000,000 bytes free" in error.value.found
    assert ("host" in error.value.hint) == (device == "cuda")


def test_the_size_is_known_before_the_arrays_are_made(monkeypatch):
    for members in ("random", "mean"):
        source = make_source(members=members)
        arrays = [t for e in source._encoded.values() for t in vars(e).values() if isinstance(t, torch.Tensor)]
        assert source.resident_bytes == sum(t.nbytes for t in (*arrays, *source._targets))
    monkeypatch.setattr(FrameEncoder, "encode", lambda *a: pytest.fail("made before it was known to fit"))
    with pytest.raises(EmukitError, match="does not fit"):
        make_source(monkeypatch, free=source.resident_bytes - 1, residency="device")


def test_a_cgroup_that_allows_less_than_the_machine_counts(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    assert host_free(tmp_path) == 4_096_000
    two = tmp_path / "sys/fs/cgroup/job"
    two.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/job\n")
    (two / "memory.max").write_text("max\n")
    (two / "memory.current").write_text("700\n")
    assert host_free(tmp_path) == 4_096_000
    (two / "memory.max").write_text("1000\n")
    (two / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    assert host_free(tmp_path) == 500
    one = tmp_path / "sys/fs/cgroup/memory"
    one.mkdir()
    (one / "memory.limit_in_bytes").write_text("900")
    (one / "memory.usage_in_bytes").write_text("850")
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/elsewhere\n3:cpu:/\n")
    assert host_free(tmp_path) == 50


def test_this_machine_has_memory():
    assert 1e6 < free_memory(torch.device("cpu")) < 1e15


@pytest.mark.parametrize("window", [{}, {"lead_in": "repeat-month"}, {"target_month": "excluded"}])
def test_streamed_batches_equal_resident_ones_bit_for_bit(window):
    source = make_source(**window)
    twin = streamed_twin(source)
    batches = source.epoch(0, seed=5)
    for now, then in zip(batches, [*batches[1:], []], strict=True):
        for months in (None, slice(2, 5)):
            if then:
                twin.prefetch(then, months)
            a, b = source.batch(now, months), twin.batch(now, months)
            assert torch.equal(a.frames, b.frames)
            assert torch.equal(a.targets, b.targets)


@pytest.mark.parametrize(("lead_in", "seasonal"), [("repeat-year", None), ("repeat-month", None), ("repeat-year", ())])
def test_frames_read_as_runs_are_those_read_by_index(lead_in, seasonal):
    """Every start, so that seasons, lead-ins and lengths off a whole year all meet."""
    source = make_source(lead_in=lead_in, seasonal=seasonal)
    encoder, encoded = source._encoder, source._encoded["ssp126"]
    span = next(i for i, s in enumerate(source.spans) if s.scenario == "ssp126")
    for start in range(0, 114):
        index = torch.from_numpy(source.window.frames(start, 7, len(encoded)))
        assert torch.equal(source.batch([Segment(span, 0, start)]).frames[0], encoder.gather(encoded, index))


def test_the_next_batch_is_read_while_this_one_is_used(monkeypatch):
    twin = streamed_twin(make_source())
    readers = []
    read = SegmentSampler._read
    monkeypatch.setattr(
        SegmentSampler,
        "_read",
        lambda self, key: (readers.append((threading.current_thread(), key)), read(self, key))[1],
    )
    first, second, third = twin.epoch(0, 0)[:3]
    twin.prefetch(second)
    twin.batch(second)
    assert [k[0] for _, k in readers] == [tuple(second)]  # read once, ahead
    assert all(t is not threading.main_thread() for t, _ in readers)
    for batch in (first, second, third):
        twin.prefetch(batch)
    assert len(twin._ahead) == 2  # never more than the one under way and the next
    twin.batch(first)


def test_a_batch_that_cannot_be_read_fails_where_it_is_used():
    twin = streamed_twin(make_source())
    twin.prefetch([Segment(99, 0, 0)])
    with pytest.raises(IndexError):
        twin.batch([Segment(99, 0, 0)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_batches_from_either_memory():
    on_cpu = make_source()
    sources = [make_source(residency=r, device="cuda") for r in ("device", "host")]
    batches = on_cpu.epoch(0, seed=5)
    for now, then in zip(batches, [*batches[1:], batches[0]], strict=True):
        wanted = on_cpu.batch(now)
        for source in sources:
            source.prefetch(then)
            got = source.batch(now)
            assert got.frames.is_cuda
            assert torch.equal(got.frames.cpu(), wanted.frames)
            assert torch.equal(got.targets.cpu(), wanted.targets)
