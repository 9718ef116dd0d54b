"""Batch normalisation over processes that is not the batch normalisation of the whole batch."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from emukit.parallel.comm import Comm
from emukit.parallel.distributed import GlobalBatchNorm2d, replicated, synchronise


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that hold the same: every sum over them is twice one's own."""
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, group=None: tensor.mul_(2))


def layers() -> tuple[nn.Sequential, nn.Sequential]:
    """The same network with PyTorch's layer and with ours."""
    plain, ours = (nn.Sequential(nn.BatchNorm2d(3)) for _ in range(2))
    for network in (plain, ours):
        torch.manual_seed(1)
        nn.init.uniform_(network[0].weight)
        nn.init.uniform_(network[0].bias)
    assert synchronise(ours, Comm(0, 2))
    assert isinstance(ours[0], GlobalBatchNorm2d)
    return plain, ours


def fields(dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(2)
    return (torch.randn(2, 3, 2, 2) * 2 + 5).to(dtype)


@pytest.mark.usefixtures("doubled")
def test_a_batch_that_both_processes_hold_counts_twice_in_the_unbiased_variance() -> None:
    """Of eight values the unbiased variance is 8/7 of the biased one; of sixteen it would be 16/15."""
    plain, ours = layers()
    with replicated(ours, 2):
        for _ in range(3):
            torch.testing.assert_close(ours(fields()), plain(fields()))
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], expected)
    assert ours[0].copies == 1


@pytest.mark.usefixtures("doubled")
def test_a_batch_dealt_out_is_not_the_whole_one() -> None:
    """Two processes that by chance hold the same halves of a batch of twice as many."""
    plain, ours = layers()
    torch.testing.assert_close(ours(fields()), plain(torch.cat([fields()] * 2))[:2])
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], expected)


@pytest.mark.usefixtures("doubled")
def test_the_gradient_is_that_of_a_batch_of_ones_own() -> None:
    """Each process hands on the gradient of the sum of all processes' losses by what it holds."""
    plain, ours = layers()
    torch.manual_seed(3)
    weights = torch.randn(2, 3, 2, 2)
    mine, whole = fields().requires_grad_(), torch.cat([fields()] * 2).requires_grad_()
    (ours(mine) * weights).sum().backward()
    (plain(whole) * torch.cat([weights] * 2)).sum().backward()
    torch.testing.assert_close(mine.grad, whole.grad[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("doubled")
def test_half_precision_is_rounded_before_the_difference_from_the_mean_is_taken() -> None:
    """Fields far from zero: what is rounded too early is wrong by much more than the last bit."""
    plain, ours = layers()
    far = fields(torch.bfloat16) + 50
    found = ours(far)
    assert found.dtype == torch.bfloat16
    expected = plain(torch.cat([far] * 2).float())[:2]
    torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=2**-8)


def test_running_statistics_are_used_in_evaluation_without_asking_others() -> None:
    plain, ours = layers()
    torch.testing.assert_close(ours.eval()(fields()), plain.eval()(fields()))
