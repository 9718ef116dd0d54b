"""What every network owes the training loop, and what each promises of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn

from emukit.errors import RecipeError
from emukit.models.closure import ColumnClosure
from emukit.models.cnn_gru import CNNGRU, FrameFeatures
from emukit.models.dit import LevelBlock
from emukit.models.hybrid import Hybrid
from emukit.models.registry import NETWORKS, build_network, count_parameters

SMALL: dict[str, dict[str, Any]] = {
    "cnn-gru": {"width": 4, "stages": 2, "features": 8, "hidden": 8, "linear": 4},
    "cnn-gru-published": {"width": 2, "hidden": 8},
    "convlstm": {"width": 4, "hidden": 4, "linear": 4},
    "unet": {"width": 4, "depth": 1, "features": 4, "hidden": 8, "linear": 4},
    "simple-cnn": {"width": 4, "depth": 2},
    "transformer": {"patch_rows": 2, "patch_columns": 3, "dim": 16, "heads": 2, "frame_blocks": 1, "linear": 4},
    "dit": {"patch_rows": 2, "patch_columns": 3, "dim": 16, "heads": 2, "blocks": 1},
    "denoising-unet": {"width": 4, "depth": 1, "hidden": 8},
    "local-cnn": {"width": 4},
    "hybrid": {"truncation": 3, "substeps": 2, "held": 1, "hidden": 8, "blocks": 1, "width": 4, "depth": 1},
}

# Networks that have a head, or a whole branch, for each variable, and nothing else that one variable alone would use.
HEADS: dict[str, Callable[[Any], Iterable[nn.Module]]] = {
    "cnn-gru": lambda network: network.heads,
    "cnn-gru-published": lambda network: network.branches,
    "convlstm": lambda network: network.branches[0].heads,
    "unet": lambda network: network.branches[0].heads,
    "transformer": lambda network: network.heads,
}

# Convolutional networks that encode a frame once and not once for each window it stands in.
SHARING = ("cnn-gru", "cnn-gru-published", "convlstm", "unet")


def small(name: str, *, grid: tuple[int, int] = (8, 12), history: int = 4, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    chosen = SMALL.get(name, {}) | options
    network = build_network(name, in_channels=3, variables=2, grid=grid, history=history, options=chosen)
    for module in network.modules():
        if isinstance(module, LevelBlock):
            # It begins as the identity; what it does shows after some training.
            nn.init.normal_(module.modulation.weight, std=0.5)
        if isinstance(module, ColumnClosure):
            # It says nothing yet.
            nn.init.normal_(module.decode.weight, std=0.5)
    if isinstance(network, Hybrid):
        for head in network.decoder.branches[0].heads:
            nn.init.normal_(head.cells.weight, std=0.5)
    return network


@pytest.mark.parametrize("name", NETWORKS.built_in)
@pytest.mark.parametrize("grid", [(8, 12), (7, 11), (24, 36)])
@pytest.mark.parametrize("history", [1, 5])
def test_shapes_on_any_grid_and_history(name: str, grid: tuple[int, int], history: int) -> None:
    network = small(name, grid=grid, history=history)
    out = network(torch.randn(2, 3 + history - 1, 3, *grid))
    assert out.shape == (2, 3, 2, *grid)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", NETWORKS.built_in)
def test_a_month_changes_with_frames_of_its_window_and_no_other(name: str) -> None:
    history, months = 4, 3
    network = small(name, history=history).eval()
    frames = torch.randn(1, months + history - 1, 3, 8, 12)
    before = network(frames)
    for frame in range(frames.shape[1]):
        changed = frames.clone()
        changed[:, frame] += torch.randn(3, 8, 12)
        after = network(changed)
        for month in range(months):
            inside = month <= frame < month + history
            same = torch.equal(before[:, month], after[:, month])
            assert same is not inside, f"frame {frame}, month {month}"


@pytest.mark.parametrize("name", NETWORKS.built_in)
def test_a_prediction_does_not_depend_on_the_months_beside_it(name: str) -> None:
    network = small(name).eval()
    frames = torch.randn(2, 9, 3, 8, 12)
    whole = network(frames)
    for month in range(6):
        torch.testing.assert_close(network(frames[:, month : month + 4])[:, 0], whole[:, month])


@pytest.mark.parametrize("name", NETWORKS.built_in)
def test_segments_of_a_batch_do_not_mix(name: str) -> None:
    network = small(name).eval()
    frames = torch.randn(2, 6, 3, 8, 12)
    torch.testing.assert_close(network(frames)[1:], network(frames[1:]))


@pytest.mark.parametrize("name", NETWORKS.built_in)
def test_every_weight_learns(name: str) -> None:
    network = small(name)
    network(torch.randn(2, 8, 3, 8, 12)).square().sum().backward()
    for label, parameter in network.named_parameters():
        assert parameter.grad is not None, label
        assert torch.isfinite(parameter.grad).all(), label


@pytest.mark.parametrize("name", HEADS)
def test_variables_have_heads_of_their_own(name: str) -> None:
    network = small(name)
    heads = HEADS[name](network)
    for variable in range(2):
        network.zero_grad(set_to_none=True)
        network(torch.randn(1, 6, 3, 8, 12))[:, :, variable].sum().backward()
        used = [any(p.grad is not None and p.grad.any() for p in head.parameters()) for head in heads]
        assert used == [variable == 0, variable == 1]


@pytest.mark.parametrize("poles", ["reflect", "replicate"])
def test_the_encoders_maps_roll_with_the_frames(poles: str) -> None:
    torch.manual_seed(0)
    encoder = FrameFeatures(3, width=4, stages=2, pool=(2, 3), features=8, poles=poles)  # type: ignore[arg-type]
    fields = torch.randn(2, 3, 8, 24)
    maps = encoder.maps(fields)
    assert maps.shape == (2, 8, 2, 6)
    for turns in range(6):
        torch.testing.assert_close(encoder.maps(fields.roll(4 * turns, -1)), maps.roll(turns, -1))


@pytest.mark.parametrize("name", SHARING)
def test_a_frame_is_encoded_once(name: str) -> None:
    network = small(name)
    counts: list[int] = []
    for label, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and "encoder" in label:
            module.register_forward_hook(lambda m, args, out: counts.append(len(out)))
    network(torch.randn(2, 8, 3, 8, 12))
    assert set(counts) == {2 * 8}


def test_without_the_recurrence_the_network_is_linear_in_the_windows_forcing() -> None:
    network = small("cnn-gru").eval()
    assert isinstance(network, CNNGRU)
    with torch.no_grad():
        for head in network.heads:
            head.weight[:, : network.gates.in_features] = 0.0  # the state itself is not read
        network.gates.weight.zero_()  # and the gates are constant
    a, b = torch.randn(2, 1, 6, 3, 8, 12)
    middle = network(0.5 * a + 0.5 * b)
    torch.testing.assert_close(middle, 0.5 * network(a) + 0.5 * network(b))


def test_the_linear_path_reads_the_mean_of_exactly_the_window() -> None:
    network = small("cnn-gru", history=4)
    frames = torch.arange(7.0)[None, :, None, None, None].expand(1, 7, 3, 8, 12)
    # Frames 0..3, 1..4, 2..5, 3..6.
    assert network._window_mean(frames)[0, :, 0].tolist() == [1.5, 2.5, 3.5, 4.5]


def test_far_beyond_training_only_the_linear_path_still_answers() -> None:
    frames = torch.zeros(1, 4, 3, 8, 12)
    frames[:, :, 1] = 1.0
    without = small("cnn-gru", linear=0).eval()
    torch.testing.assert_close(without(40 * frames), without(80 * frames), rtol=0, atol=1e-4)
    both = small("cnn-gru").eval()
    step = both(80 * frames) - both(40 * frames)
    assert step.abs().max() > 1.0
    torch.testing.assert_close(both(120 * frames) - both(80 * frames), step, rtol=1e-3, atol=1e-3)


def test_the_linear_path_can_be_left_out() -> None:
    network = small("cnn-gru", linear=0)
    assert not any(n.startswith(("patterns", "gates")) for n, _ in network.named_parameters())
    assert network(torch.randn(1, 5, 3, 8, 12)).shape == (1, 2, 2, 8, 12)


def test_a_uniform_forcing_reaches_the_prediction() -> None:
    # CO2 is the same in every cell: a normalisation over cells would erase it.
    network = small("cnn-gru", linear=0).eval()
    frames = torch.zeros(1, 4, 3, 8, 12)
    frames[:, :, 1] = 1.0
    assert (network(2 * frames) - network(frames)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "grid"), [({"width": 0}, (8, 12)), ({"linear": -1}, (8, 12)), ({"stages": 5}, (8, 12))]
)
def test_sizes_that_cannot_be_built_are_refused(options: dict[str, int], grid: tuple[int, int]) -> None:
    with pytest.raises(RecipeError, match="cannot build"):
        small("cnn-gru", grid=grid, **options)


def count(name: str, channels: int, **options: Any) -> int:
    return count_parameters(name, in_channels=channels, variables=2, grid=(48, 72), history=12, options=options)


@pytest.mark.parametrize(("width", "parameters"), [(32, 352_878_672), (16, 182_810_024), (8, 97_824_852)])
def test_the_published_network_has_the_published_size(width: int, parameters: int) -> None:
    assert count("cnn-gru-published", 6, width=width) == parameters


def test_the_published_default_is_the_published_width() -> None:
    assert count("cnn-gru-published", 6) == 352_878_672


def test_the_default_network_is_small() -> None:
    assert 1_000_000 < count("cnn-gru", 13) < 5_000_000
