"""Options of the CNN-GRU, and the default that they must leave alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from emukit.models.cnn_gru import CNNGRU
from emukit.models.layers import AttentionPooling, WindowGRU
from emukit.models.registry import build_network

SMALL: dict[str, Any] = {"width": 4, "stages": 2, "features": 8, "hidden": 8, "linear": 4}


def small(**options: Any) -> CNNGRU:
    torch.manual_seed(0)
    network = build_network("cnn-gru", in_channels=3, variables=2, grid=(8, 12), history=4, options=SMALL | options)
    assert isinstance(network, CNNGRU)
    return network


def test_the_default_draws_the_weights_and_gives_the_numbers_it_always_gave() -> None:
    network = small()
    names = "encoder.stages.0.conv encoder.stages.1.conv encoder.project recurrence.input recurrence.recurrent"
    names += " patterns gates heads.0 heads.1"
    assert list(network.state_dict()) == [f"{n}.{part}" for n in names.split() for part in ("weight", "bias")]
    out = network(torch.sin(torch.arange(6 * 3 * 8 * 12.0)).reshape(1, 6, 3, 8, 12) * 2).double()
    # Computed with the network as it was before it had these options.
    assert out.sum().item() == pytest.approx(-1.26910160, abs=1e-4)
    assert out.square().sum().item() == pytest.approx(20.6480008, rel=1e-5)
    expected = [-0.0792437, -0.1767532, -0.0840613, -0.1769007, -0.0070191, -0.0633078]
    assert out[0, :, :, 2, 7].flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
def test_every_state_of_the_window_gru_is_pytorchs(layers: int) -> None:
    torch.manual_seed(0)
    ours = WindowGRU(5, 4, 3, layers=layers).eval()
    frames = torch.randn(2, 6, 5)
    every = ours(frames, every=True)
    assert every.shape == (2, 4, 3, 4)
    assert torch.equal(every[:, :, -1], ours(frames))
    if layers == 1:
        theirs = nn.GRU(5, 4, batch_first=True)
        parts = (ours.input.weight, ours.recurrent.weight, ours.input.bias, ours.recurrent.bias)
        theirs.load_state_dict(dict(zip(theirs.state_dict(), parts, strict=True)))
        for month in range(4):
            torch.testing.assert_close(every[:, month], theirs(frames[:, month : month + 3])[0])
    else:
        shorter = WindowGRU(5, 4, 2, layers=layers).eval()
        shorter.load_state_dict(ours.state_dict())
        torch.testing.assert_close(every[:, :, 1], shorter(frames[:, :-1]))


def test_pooling_is_a_mean_weighted_by_scores() -> None:
    torch.manual_seed(0)
    pooling = AttentionPooling(4)
    states = torch.randn(2, 5, 3, 4)
    inner = torch.tanh(states @ pooling.inner.weight.T + pooling.inner.bias)
    scores = torch.exp((inner * pooling.score.weight[0]).sum(-1))
    expected = sum(states[:, :, i] * (scores[:, :, i] / scores.sum(-1))[..., None] for i in range(3))
    torch.testing.assert_close(pooling(states), expected)


def test_pooling_reads_every_state_of_the_window() -> None:
    network = small(attention=True)
    read: list[torch.Tensor] = []
    assert network.pooling is not None
    network.pooling.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    out = network(torch.randn(1, 6, 3, 8, 12))
    share = torch.autograd.grad(out.square().sum(), read[0])[0].abs().sum(-1)
    assert share.shape == (1, 3, 4)
    # The loss depends on each state directly, as a term of the mean, not through later ones.
    assert (share > 0).all()


def test_squeeze_excitation_acts_on_the_last_maps() -> None:
    plain, excited = small().encoder, small(squeeze_excitation=True).encoder
    excited.load_state_dict(plain.state_dict(), strict=False)
    fields = torch.randn(2, 3, 8, 12)
    ratio = excited.maps(fields) / plain.maps(fields)
    torch.testing.assert_close(ratio, ratio[..., :1, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)
    assert ratio.std() > 0


def test_separate_trunks_share_nothing() -> None:
    network = small(trunks="separate", attention=True, squeeze_excitation=True)
    heads = {id(p) for p in network.heads.parameters()}
    others = {id(p) for p in network.others.parameters()}
    for variable in range(2):
        network.zero_grad(set_to_none=True)
        network(torch.randn(1, 6, 3, 8, 12))[:, :, variable].square().sum().backward()
        touched = {id(p) for p in network.parameters() if p.grad is not None and p.grad.any()} - heads
        assert touched
        assert touched <= others if variable else touched.isdisjoint(others)


def test_options_leave_a_month_to_its_window() -> None:
    network = small(trunks="separate", attention=True, squeeze_excitation=True).eval()
    frames = torch.randn(1, 6, 3, 8, 12)
    before = network(frames)
    for frame in range(6):
        changed = frames.clone()
        changed[:, frame] += torch.randn(3, 8, 12)
        after = network(changed)
        for month in range(3):
            for variable in range(2):
                same = torch.equal(before[:, month, variable], after[:, month, variable])
                assert same is not (month <= frame < month + 4)
