"""Seams, walls, and a recurrence that is not PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from emukit.models.layers import GlobeConv2d, SqueezeExcitation, WindowGRU
from emukit.sphere import WHOLE, half_turn


def coded(rows: int, columns: int) -> torch.Tensor:
    """(Y, X) fields whose values spell their own cell, row * 100 + column."""
    return torch.arange(rows)[:, None] * 100.0 + torch.arange(columns)


def test_padding_continues_over_the_pole_on_the_opposite_meridian() -> None:
    padded = WHOLE.pad(coded(4, 6), 1)
    # Beyond row 0 lies row 0 itself, half a circle on; then one more column each way, round the circle.
    assert padded[0].tolist() == [2, 3, 4, 5, 0, 1, 2, 3]
    assert padded[-1].tolist() == [302, 303, 304, 305, 300, 301, 302, 303]
    assert padded[1].tolist() == [5, 0, 1, 2, 3, 4, 5, 0]


def test_two_rows_over_the_pole_come_in_mirrored_order() -> None:
    padded = WHOLE.pad(coded(4, 6), 2)
    assert padded[:3, 2].tolist() == [103, 3, 0]
    assert padded[-3:, 2].tolist() == [300, 303, 203]


def test_replicate_repeats_the_last_row_without_turning_it() -> None:
    padded = WHOLE.pad(coded(4, 6), 2, "replicate")
    assert padded[0, 2:-2].tolist() == padded[1, 2:-2].tolist() == [0, 1, 2, 3, 4, 5]
    assert padded[-1, 2:-2].tolist() == [300, 301, 302, 303, 304, 305]


def test_half_a_turn_of_an_odd_circle_is_symmetric() -> None:
    fields = torch.tensor([[1.0, 0, 0, 0, 0]])
    assert half_turn(fields).tolist() == [[0, 0, 0.5, 0.5, 0]]


@pytest.mark.parametrize("poles", ["reflect", "replicate"])
@pytest.mark.parametrize("columns", [8, 7])
def test_a_convolution_has_no_seam_at_the_dateline(poles: str, columns: int) -> None:
    torch.manual_seed(0)
    layer = GlobeConv2d(2, 3, poles=poles)  # type: ignore[arg-type]
    fields = torch.randn(1, 2, 5, columns)
    for shift in range(columns):
        torch.testing.assert_close(layer(fields.roll(shift, -1)), layer(fields).roll(shift, -1))


def test_a_stencil_at_the_pole_reads_across_it() -> None:
    layer = GlobeConv2d(1, 1)
    nn.init.zeros_(layer.conv.weight)
    nn.init.zeros_(layer.conv.bias)
    with torch.no_grad():
        layer.conv.weight[0, 0, 0, 1] = 1.0  # the neighbour one row before
    out = layer(coded(4, 6)[None, None])[0, 0]
    assert out[0].tolist() == [3, 4, 5, 0, 1, 2]
    assert out[1].tolist() == [0, 1, 2, 3, 4, 5]


def test_an_even_stencil_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        GlobeConv2d(1, 1, kernel=4)


def test_halving_averages_and_keeps_an_odd_edge_unmixed_with_zeros() -> None:
    out = WHOLE.downsample(coded(3, 5)[None, None])[0, 0]
    assert out.tolist() == [[50.5, 52.5, 54.0], [200.5, 202.5, 204.0]]


def test_halving_commutes_with_rolls_by_two() -> None:
    fields = torch.randn(1, 2, 4, 12)
    torch.testing.assert_close(WHOLE.downsample(fields.roll(2, -1)), WHOLE.downsample(fields).roll(1, -1))


def test_squeeze_excitation_scales_channels_by_numbers_of_their_own() -> None:
    torch.manual_seed(0)
    layer = SqueezeExcitation(32, 16)
    fields = torch.randn(2, 32, 3, 4)
    ratio = layer(fields) / fields
    torch.testing.assert_close(ratio, ratio[..., :1, :1].expand_as(ratio))
    mean = fields.mean((-2, -1))
    hidden = torch.clamp(mean @ layer.squeeze.weight.T + layer.squeeze.bias, min=0)
    expected = 1 / (1 + torch.exp(-(hidden @ layer.excite.weight.T + layer.excite.bias)))
    torch.testing.assert_close(ratio[..., 0, 0], expected)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_window_gru_is_pytorchs_gru_on_every_window(layers: int) -> None:
    torch.manual_seed(0)
    ours = WindowGRU(5, 4, 3, layers=layers).eval()
    theirs = nn.GRU(5, 4, layers, batch_first=True)
    names = {"weight_ih": ours.input.weight, "weight_hh": ours.recurrent.weight}
    names |= {"bias_ih": ours.input.bias, "bias_hh": ours.recurrent.bias}
    state = {f"{name}_l0": value for name, value in names.items()}
    if ours.upper is not None:
        for name, value in ours.upper.state_dict().items():
            stem, _, level = name.rpartition("_l")
            state[f"{stem}_l{int(level) + 1}"] = value
    theirs.load_state_dict(state)
    frames = torch.randn(2, 6, 5)
    out = ours(frames)
    assert out.shape == (2, 4, 4)
    for month in range(4):
        torch.testing.assert_close(out[:, month], theirs(frames[:, month : month + 3])[0][:, -1])


def test_dropout_between_recurrences_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    layer = WindowGRU(5, 16, 3, layers=2, dropout=0.5)
    frames = torch.randn(1, 4, 5)
    assert not torch.equal(layer(frames), layer(frames))
    layer.eval()
    assert torch.equal(layer(frames), layer(frames))


def test_input_projection_is_computed_once_per_frame() -> None:
    layer = WindowGRU(5, 4, 12)
    seen: list[int] = []
    layer.input.register_forward_hook(lambda module, args, out: seen.append(out.shape[:-1].numel()))
    layer(torch.randn(2, 35, 5))
    assert seen == [2 * 35]
