"""Seams in the positions, months that see too much, and work done twice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from emukit.errors import RecipeError
from emukit.models.registry import build_network, count_parameters
from emukit.models.transformer import (
    PatchHead,
    SpaceAttention,
    TimeAttention,
    Transformer,
    patch_centres,
    rotate,
    space_turn,
    time_turn,
)
from emukit.sphere import WHOLE

SMALL: dict[str, Any] = {"patch_rows": 2, "patch_columns": 3, "dim": 16, "heads": 2, "frame_blocks": 1, "linear": 4}


def small(*, grid: tuple[int, int] = (8, 12), history: int = 4, **options: Any) -> Transformer:
    torch.manual_seed(0)
    network = build_network(
        "transformer", in_channels=3, variables=2, grid=grid, history=history, options=SMALL | options
    )
    assert isinstance(network, Transformer)
    return network


def test_the_product_of_rotated_vectors_depends_on_the_difference_of_longitudes_modulo_the_circle() -> None:
    tiles, patch = (4, 6), (2, 3)
    turn = space_turn(*patch_centres(tiles, patch, (8, 18)), 8, tiles)
    torch.manual_seed(0)
    query, key = torch.randn(2, 16)
    products = (rotate(query.expand(24, -1), turn) @ rotate(key.expand(24, -1), turn).T).reshape(4, 6, 4, 6)
    for shift in range(6):
        rolled = products.roll((shift, shift), (1, 3))
        torch.testing.assert_close(rolled, products, rtol=1e-4, atol=1e-4)
    # And it does depend on that difference, and on the one of latitudes.
    assert products[0, 0, 0].std() > 0.1
    assert products[0, 0, :, 0].std() > 0.1


def test_patches_lie_where_their_cells_lie() -> None:
    polar, longitude = patch_centres((3, 4), (3, 3), (7, 11))
    # Seven rows and one of padding at each pole; cell i spans i/7 to (i+1)/7 of the half circle.
    torch.testing.assert_close(polar[::4], torch.tensor([0.5, 3.5, 6.5]) * math.pi / 7)
    torch.testing.assert_close(longitude[:4], torch.tensor([1.5, 4.5, 7.5, 10.5]) * 2 * math.pi / 11)


@pytest.mark.parametrize("columns", [12, 11])
@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_the_trunk_rolls_with_the_frames_when_positions_are_rotary(positions: str, columns: int) -> None:
    trunk = small(grid=(7, columns), positions=positions).branches[0].trunk.eval()
    assert isinstance(trunk, nn.Module)
    frames = torch.randn(2, 6, 3, 7, columns)
    patches = trunk(frames).reshape(2, 3, 4, 4, 16)
    same = []
    for turns in (1, 2, 3):
        rolled = trunk(frames.roll(3 * turns, -1)).reshape(2, 3, 4, 4, 16)
        same.append(torch.allclose(rolled, patches.roll(turns, 3), rtol=1e-4, atol=1e-5))
    # Eleven columns are not a whole number of patches: the last patch overlaps the first, and turning moves the cut.
    assert same == [positions == "rotary" and columns == 12] * 3


def test_space_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    layer = SpaceAttention(8, 2).double()
    maps = torch.randn(2, 5, 8, dtype=torch.float64)
    turn = time_turn(5, 2, 3, maps)
    parts = (maps @ layer.project.weight.T + layer.project.bias).split(8, -1)
    read = []
    for head in range(2):
        query, key, value = (p[..., 4 * head : 4 * head + 4] for p in parts)
        scores = rotate(query, turn) @ rotate(key, turn).transpose(1, 2) / 2
        read.append(torch.softmax(scores, -1) @ value)
    torch.testing.assert_close(layer(maps, turn), layer.out(torch.cat(read, -1)))


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("history", [1, 4])
def test_time_attention_is_a_loop_over_months_windows_and_patches(segments: int, history: int) -> None:
    torch.manual_seed(0)
    layer = TimeAttention(8, 2, history).double()
    months = torch.randn(segments, 5, 3, 8, dtype=torch.float64)
    frames = torch.randn(segments, 5 + history - 1, 3, 8, dtype=torch.float64)
    out = layer(months, frames)
    key, value = layer.remember(frames).chunk(2, -1)
    # Ages count back from the month itself, so only differences of positions may matter: place the window anywhere.
    turn = time_turn(history + 7, 2, history, months)
    here = (turn[0][7:], turn[1][7:])
    for month in range(5):
        window = slice(month, month + history)
        for patch in range(3):
            read = []
            for head in range(2):
                part = slice(4 * head, 4 * head + 4)
                query = rotate(layer.query(months)[:, month, patch, None, part], (here[0][-1:], here[1][-1:]))
                scores = query @ rotate(key[:, window, patch, part], here).transpose(1, 2) / 2
                read.append(torch.softmax(scores, -1) @ value[:, window, patch, part])
            expected = layer.out(torch.cat(read, -1))[:, 0]
            torch.testing.assert_close(out[:, month, patch], expected)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_segment_is_its_windows_one_by_one(positions: str) -> None:
    network = small(grid=(16, 24), history=12, month_blocks=2, positions=positions).eval()
    frames = torch.randn(2, 31, 3, 16, 24)
    with torch.no_grad():
        whole = network(frames)
        for month in range(20):
            alone = network(frames[:, month : month + 12])[:, 0]
            torch.testing.assert_close(alone, whole[:, month], rtol=1e-5, atol=1e-5)


def test_a_month_starts_as_the_last_frame_of_its_window() -> None:
    network = small(linear=0).eval()
    with torch.no_grad():
        for parameter in network.branches[0].trunk.times[0].time.out.parameters():
            parameter.zero_()  # nothing is read from the other frames
    frames = torch.randn(1, 6, 3, 8, 12)
    for frame in range(6):
        changed = frames.clone()
        changed[:, frame] += 1.0
        moved = (network(changed) != network(frames)).flatten(2).any(-1)[0].tolist()
        assert moved == [month + 3 == frame for month in range(3)]


def test_the_order_of_a_window_matters() -> None:
    network = small().eval()
    frames = torch.randn(1, 4, 3, 8, 12)
    swapped = frames[:, [1, 0, 2, 3]]
    without_linear = small(linear=0).eval()
    assert (without_linear(swapped) - without_linear(frames)).abs().max() > 1e-4
    assert (network(swapped) - network(frames)).abs().max() > 1e-4


def test_frame_blocks_and_projections_run_once_per_frame() -> None:
    network = small()
    trunk = network.branches[0].trunk
    seen: dict[str, int] = {}

    def count(label: str, width: int) -> Any:
        def hook(module: nn.Module, args: Any, out: torch.Tensor) -> None:
            seen[label] = seen.get(label, 0) + out.numel() // width

        return hook

    trunk.embed.register_forward_hook(count("embedded", 16))
    trunk.frames[0].register_forward_hook(count("block", 16))
    trunk.times[0].time.remember.register_forward_hook(count("remembered", 32))
    network(torch.randn(2, 9, 3, 8, 12))
    assert seen == dict.fromkeys(("embedded", "block", "remembered"), 2 * 9 * 16)


def test_separate_trunks_share_nothing_and_shared_ones_are_shared() -> None:
    for trunks, count in (("shared", 1), ("separate", 2)):
        network = small(trunks=trunks)
        assert len(network.branches) == count
        for variable in range(2):
            network.zero_grad(set_to_none=True)
            network(torch.randn(1, 6, 3, 8, 12))[:, :, variable].sum().backward()
            touched = [any(p.grad is not None and p.grad.any() for p in b.parameters()) for b in network.branches]
            assert touched == [v == variable or count == 1 for v in range(count)]


def test_recomputed_activations_give_the_same_gradients() -> None:
    frames = torch.randn(1, 6, 3, 8, 12)
    gradients = []
    for recompute in (False, True):
        network = small(checkpoint=recompute, dropout=0.2)
        blocks = list[int]()
        network.branches[0].trunk.frames[0].register_forward_pre_hook(lambda m, a, b=blocks: b.append(1))
        torch.manual_seed(1)
        network(frames).square().sum().backward()
        assert len(blocks) == 1 + recompute
        gradients.append([p.grad for p in network.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_padding_goes_over_the_poles_and_round_the_circle() -> None:
    fields = torch.arange(5)[:, None] * 100.0 + torch.arange(8)
    padded = WHOLE.to_tiles(fields, (8, 3))
    assert padded.shape == (8, 9)
    # Three rows: one before the first, two after the last, mirrored and half a circle on; one column round the circle.
    assert padded[:, 0].tolist() == [4, 0, 100, 200, 300, 400, 404, 304]
    assert padded[:, -1].tolist() == padded[:, 0].tolist()


def test_cells_come_back_where_their_patches_were_cut() -> None:
    grid, patch = (7, 11), (3, 3)
    head = PatchHead(9, grid, patch)
    fields = torch.arange(7)[:, None] * 100.0 + torch.arange(11)
    cut = WHOLE.to_tiles(fields, patch).reshape(3, 3, 4, 3).transpose(1, 2).reshape(1, 1, 12, 9)
    with torch.no_grad():
        head.bias.zero_()
        head.weight.copy_(torch.eye(9).expand(12, 9, 9))
    assert torch.equal(head(cut)[0, 0], fields)


def test_every_cell_has_weights_of_its_own() -> None:
    head = PatchHead(4, (4, 6), (2, 3))
    fields = head(torch.ones(1, 1, 4, 4))
    assert len(fields.unique()) == 24


def test_a_forcing_that_is_the_same_everywhere_survives_the_norms() -> None:
    network = small(linear=0).eval()
    frames = torch.randn(1, 4, 3, 8, 12)
    outs = []
    for co2 in (0.0, 0.5, 1.0):
        frames[:, :, 1] = co2
        outs.append(network(frames))
    assert (outs[1] - outs[0]).abs().mean() > 1e-3
    assert (outs[2] - outs[1]).abs().mean() > 1e-3


def test_far_beyond_training_only_the_linear_path_still_answers() -> None:
    frames = torch.zeros(1, 4, 3, 8, 12)
    frames[:, :, 1] = 1.0
    without = small(linear=0).eval()
    torch.testing.assert_close(without(40 * frames), without(80 * frames), rtol=0, atol=1e-4)
    both = small().eval()
    step = both(80 * frames) - both(40 * frames)
    assert step.abs().max() > 1.0
    torch.testing.assert_close(both(120 * frames) - both(80 * frames), step, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    frames = torch.randn(1, 6, 3, 8, 12)
    network = small().eval()
    expected = network(frames)
    if dtype == torch.float64:
        out = network.double()(frames.double())
        torch.testing.assert_close(out.float(), expected, rtol=1e-4, atol=1e-4)
    else:
        with torch.autocast("cpu", dtype):
            out = network(frames)
        torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    "options", [{"dim": 20}, {"patch_rows": 9}, {"patch_columns": 13}, {"heads": 0}, {"linear": -1}, {"mlp_ratio": 0}]
)
def test_sizes_that_cannot_be_built_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="cannot build"):
        small(**options)


def test_the_large_size_is_that_of_vit_large() -> None:
    count = count_parameters(
        "transformer",
        in_channels=13,
        variables=2,
        grid=(48, 72),
        history=12,
        options=Transformer.SIZES["large"],
    )
    assert 290_000_000 < count < 320_000_000
