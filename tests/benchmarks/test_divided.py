"""A divided globe that is timed while it computes something else."""

from __future__ import annotations

import math

import pytest

from benchmarks import divided


@pytest.mark.slow
def test_two_processes_are_timed_for_another_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """`compare` refuses answers that differ; a share is one of the whole time."""
    monkeypatch.setattr(divided, "GRIDS", ((12, 16),))
    monkeypatch.setattr(divided, "DIVISIONS", ((1, 2),))
    step, share, kept, peak = divided.bench_divided(1)
    assert step.value > 0
    assert step.reference > 0
    assert 0 < share.value < 100
    assert math.isnan(share.ratio)
    # On a globe this small a halo is no small part of what is kept.
    assert kept.reference / 2 < kept.value < kept.reference
    assert peak.value > 0
