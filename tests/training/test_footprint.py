"""Costs that are not those of training, and measurements that leave traces in it."""

import copy
import time

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from emukit.models.registry import build_network
from emukit.training import footprint
from emukit.training.footprint import Affine, State, flop_counter, forward_rate, measure
from tests.models.test_networks import small

HISTORY, LENGTH = 3, 12


class Plain(nn.Module):
    """One linear map of each frame and a tanh: costs that can be counted by hand."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(5, 7, bias=False)
        self.norm = nn.BatchNorm1d(7)

    def forward(self, frames):
        y = torch.tanh(self.map(frames.flatten(2)))  # (S, T, 7)
        return self.norm(y.flatten(0, 1)).reshape(y.shape)[:, HISTORY - 1 :]


class Deep(nn.Module):
    """Four steps whose results are all kept, or computed again."""

    def __init__(self, keep):
        super().__init__()
        self.map = nn.Linear(5, 7)
        self.keep = keep

    def forward(self, frames):
        x = frames.flatten(2)
        return (self._steps(x) if self.keep else checkpoint(self._steps, x, use_reentrant=False))[:, HISTORY - 1 :]

    def _steps(self, x):
        return torch.tanh(torch.tanh(torch.tanh(self.map(x))))


def cnn_gru(**options):
    sizes = {"hidden": 8, "features": 6, "width": 4, "stages": 1, "pool_rows": 1, "pool_columns": 2, **options}
    return build_network("cnn-gru", in_channels=5, variables=2, grid=(8, 12), history=HISTORY, options=sizes)


def test_activations_are_those_that_can_be_counted_by_hand():
    """Per frame the tanh's output, of which BatchNorm keeps the same storage; per cell the square keeps its input."""
    cost = measure(Plain(), (5, 1, 1), HISTORY, LENGTH, "fp32")
    for s, months in ((1, 12), (4, 12), (4, 5)):
        frames = s * (months + HISTORY - 1)
        batchnorm = 2 * 7 * 4  # mean and inverse deviation, whatever the batch
        expected = frames * 7 * 4 + frames * 7 * 4 + batchnorm
        assert cost.activations.at(s, months) == pytest.approx(expected, abs=batchnorm)
        # Forward and the weight's gradient; the input needs none. 2 operations a multiplication and addition.
        assert cost.flops.at(s, months) == 2 * frames * 5 * 7 * 2


def test_extrapolation_meets_what_a_full_batch_keeps():
    network = cnn_gru()
    cost = measure(network, (5, 8, 12), HISTORY, 24, "fp32")
    kept = {}
    frames = torch.randn(5, 24 + HISTORY - 1, 5, 8, 12)
    own = {p.data_ptr() for p in (*network.parameters(), frames)}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = network(frames).square().mean()
    wanted = sum(n for p, n in kept.items() if p not in own)
    assert cost.activations.at(5, 24) == pytest.approx(wanted, rel=0.02)
    del loss


def test_checkpointing_and_half_precision_show():
    kept, again = (measure(Deep(keep), (5, 1, 1), HISTORY, LENGTH, "fp32").activations.at(9, 12) for keep in (1, 0))
    assert again < 0.5 * kept
    full, half = (measure(cnn_gru(), (5, 8, 12), HISTORY, LENGTH, p).activations.at(9, 12) for p in ("fp32", "bf16"))
    assert half < 0.8 * full


def test_measuring_leaves_no_trace():
    network = nn.Sequential(Plain(), nn.Dropout(0.5)).eval()
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    measure(network, (5, 1, 1), HISTORY, LENGTH, "fp32")
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in network.parameters())
    assert not network.training


def test_state_is_counted_without_the_network():
    with torch.device("meta"):
        network = Plain()
    state = State.of(network, averaged=True)
    parameters = 5 * 7 + 7 + 7
    buffers = 4 * (7 + 7) + 8
    assert state.parameters == parameters
    assert state.weights == state.average == 4 * parameters + buffers
    assert state.gradients == 4 * parameters
    assert state.optimizer == 8 * parameters
    assert State.of(network, averaged=False).total == state.total - state.average
    moments = torch.optim.AdamW(Plain().parameters())
    for p in moments.param_groups[0]["params"]:
        p.grad = torch.zeros_like(p)
    moments.step()
    held = sum(v.nbytes for s in moments.state.values() for k, v in s.items() if k != "step")
    assert state.optimizer == held


def test_three_amounts_give_the_whole():
    cost = Affine.through(lambda s, m: 100 + s * (30 + 7 * m), 50)
    assert cost.at(8, 50) == 100 + 8 * (30 + 7 * 50)
    assert Affine.through(lambda s, m: 100 + 37 * s, 1).at(5, 1) == 100 + 37 * 5


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(32, 96)

    def forward(self, frames):
        query, key, value = self.map(frames).reshape(2, 16, 3, 4, 8).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(query, key, value)


def test_attention_counts_on_a_cpu():
    with flop_counter() as counter:
        total = Attention()(torch.randn(2, 16, 32)).sum()
    forward = 2 * 32 * 32 * 96 + 2 * (2 * 4) * 2 * 16 * 16 * 8
    assert counter.get_total_flops() == forward
    with flop_counter() as counter:
        total = Attention()(torch.randn(2, 16, 32)).sum()
        total.backward()
    # The map's input needs no gradient; attention's three do, at twice the forward pass.
    assert counter.get_total_flops() == 2 * 2 * 32 * 32 * 96 + 3 * 2 * (2 * 4) * 2 * 16 * 16 * 8 == 589_824


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cnn-gru", {}),
        ("convlstm", {}),
        ("convlstm", {"checkpoint": True}),
        ("transformer", {}),
        ("transformer", {"checkpoint": True}),
        ("transformer", {"checkpoint": True, "positions": "learned"}),
        ("unet", {}),
    ],
)
def test_counting_without_storage_finds_what_computing_does(name, options, monkeypatch):
    network = small(name, grid=(8, 12), history=HISTORY, **options)
    computed = measure(network, (3, 8, 12), HISTORY, LENGTH, "fp32")
    monkeypatch.setattr(footprint, "MOST_FLOPS", 0.0)
    counted = measure(network, (3, 8, 12), HISTORY, LENGTH, "fp32")
    assert (counted.activations, counted.flops) == (computed.activations, computed.flops)
    assert computed.flops_per_second > 0
    assert counted.flops_per_second is None


def test_activations_that_are_computed_again_are_not_kept():
    kept, again = (
        measure(small("transformer", grid=(8, 12), history=HISTORY, checkpoint=c), (3, 8, 12), HISTORY, LENGTH, "fp32")
        for c in (False, True)
    )
    assert again.activations.at(1, LENGTH) < 0.7 * kept.activations.at(1, LENGTH)
    assert again.flops.at(1, LENGTH) > kept.flops.at(1, LENGTH)


def test_a_forward_pass_is_broken_off_in_time():
    network = nn.Sequential(*(nn.Linear(5, 5) for _ in range(50)))
    assert forward_rate(network, (1, 1, 5), 1, "fp32", 10.0) > 0
    network[0].register_forward_hook(lambda *_: time.sleep(0.05))
    network[1].register_forward_hook(lambda *_: pytest.fail("went on"))
    assert forward_rate(network, (1, 1, 5), 1, "fp32", 0.01) > 0
    assert not any(len(module._forward_hooks) for module in network[2:])
