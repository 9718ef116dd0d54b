"""ConvLSTM, U-Net and the starter's CNN: seams at the dateline, walls at the poles, windows computed twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emukit.errors import RecipeError
from emukit.models.heads import CellHead, LinearResponse, downsampled_grids, soft_clip
from emukit.models.registry import build_network, count_parameters
from emukit.models.unet import ResidualBlock
from emukit.sphere import WHOLE

MAPS = ("convlstm", "unet")
SMALL: dict[str, dict[str, Any]] = {
    "convlstm": {"width": 4, "hidden": 4, "linear": 4},
    "unet": {"width": 4, "depth": 1, "features": 4, "hidden": 8, "linear": 4},
}
WINDOWS = [("convlstm", {}), ("unet", {"window": "film"}), ("unet", {"window": "channels"})]


def small(name: str, *, grid: tuple[int, int] = (8, 12), history: int = 4, **options: Any) -> Any:
    torch.manual_seed(0)
    chosen = SMALL.get(name, {}) | options
    return build_network(name, in_channels=3, variables=2, grid=grid, history=history, options=chosen)


@pytest.mark.parametrize(("name", "options"), WINDOWS)
@pytest.mark.parametrize("poles", ["reflect", "replicate"])
def test_without_weights_of_cells_and_regions_the_network_has_no_seam(
    name: str, options: dict[str, Any], poles: str
) -> None:
    network = small(name, grid=(8, 16), local=False, linear=0, poles=poles, **options).double().eval()
    frames = torch.randn(1, 6, 3, 8, 16, dtype=torch.float64)
    before = network(frames)
    for cells in (4, 8, 12):
        torch.testing.assert_close(network(frames.roll(cells, -1)), before.roll(cells, -1))


@pytest.mark.parametrize(("name", "options"), WINDOWS)
def test_the_gates_of_the_linear_path_do_not_see_longitude(name: str, options: dict[str, Any]) -> None:
    network = small(name, grid=(8, 16), local=False, **options).double().eval()
    seen: list[Tensor] = []
    network.branches[0].response.register_forward_hook(lambda module, args, out: seen.append(args[1]))
    frames = torch.randn(1, 6, 3, 8, 16, dtype=torch.float64)
    network(frames)
    network(frames.roll(4, -1))
    torch.testing.assert_close(seen[0], seen[1])


@pytest.mark.parametrize("poles", ["reflect", "replicate"])
def test_one_block_does_not_carry_the_north_to_the_south(poles: str) -> None:
    torch.manual_seed(0)
    block = ResidualBlock(3, 4, state=2, dropout=0.0, poles=poles)  # type: ignore[arg-type]
    block.norms = nn.ModuleList((nn.Identity(), nn.Identity()))  # a group's mean is of the whole globe, by design
    fields, state = torch.randn(1, 3, 12, 8), torch.randn(1, 2)
    changed = fields.clone()
    changed[:, :, -1] += 1
    difference = (block(changed, state) - block(fields, state)).abs().amax((0, 1, 3))
    assert torch.equal(difference[:-3], torch.zeros(9))  # two stencils of three
    assert (difference[-3:] > 0).all()


def test_enlarging_is_linear_between_centres_across_the_dateline_and_the_pole() -> None:
    coarse = torch.tensor([[0.0, 4, 8, 4], [8, 0, 0, 0]])[None, None]
    fine = WHOLE.upsample(coarse, (4, 8))[0, 0]
    # Row 0 lies a quarter of a coarse cell beyond its centre; past the pole comes the same row, half a circle on.
    along = torch.tensor([1.0, 1, 3, 5, 7, 7, 5, 3])
    assert torch.allclose(fine[0], 0.75 * along + 0.25 * along.roll(4))
    assert torch.allclose(fine[1, :2], 0.75 * along[:2] + 0.25 * torch.tensor([6.0, 6.0]))


@pytest.mark.parametrize("grid", [(6, 8), (7, 8), (5, 9)])
def test_enlarging_undoes_the_shape_of_halving_and_keeps_a_constant(grid: tuple[int, int]) -> None:
    fields = torch.full((1, 2, *grid), 3.0)
    out = WHOLE.upsample(WHOLE.downsample(fields), grid)
    torch.testing.assert_close(out, fields)


def test_enlarging_rolls_with_the_coarse_cells() -> None:
    coarse = torch.randn(1, 2, 4, 6)
    torch.testing.assert_close(WHOLE.upsample(coarse.roll(1, -1), (8, 12)), WHOLE.upsample(coarse, (8, 12)).roll(2, -1))


def test_halvings_beyond_a_single_cell_are_refused() -> None:
    assert downsampled_grids((6, 9), 2) == [(6, 9), (3, 5), (2, 3)]
    assert downsampled_grids((1, 1), 0) == [(1, 1)]
    with pytest.raises(ValueError, match="cannot be halved 4 times"):
        downsampled_grids((8, 12), 4)


def test_squashing_bounds_what_is_far_and_keeps_what_is_near() -> None:
    out = soft_clip(torch.tensor([-100.0, -0.01, 0.01, 100.0]))
    torch.testing.assert_close(out, torch.tensor([-3.0, -0.01, 0.01, 3.0]), rtol=0, atol=1e-6)


def test_a_cells_head_reads_its_own_cell_with_its_own_weights() -> None:
    head = CellHead(2, (3, 4))
    maps = torch.randn(5, 2, 3, 4)
    out = head(maps)
    for y in range(3):
        for x in range(4):
            expected = maps[:, :, y, x] @ head.weight[:, y, x] + head.bias[y, x]
            torch.testing.assert_close(out[:, y, x], expected)


def test_the_linear_response_is_linear_in_exactly_the_windows_mean() -> None:
    torch.manual_seed(0)
    response = LinearResponse(2, 3, 5, pool=(1, 2), history=3)
    frames, state = torch.randn(1, 4, 2, 2, 4), torch.randn(1, 2, 3)
    out = response(frames, state)
    assert out.shape == (1, 2, response.numbers)
    for month in range(2):
        mean = frames[0, month : month + 3].mean(0)
        regions = torch.stack((mean[..., :2].mean((-2, -1)), mean[..., 2:].mean((-2, -1))), -1).flatten()
        linear = response.patterns.weight @ regions + response.patterns.bias
        gates = response.gates.weight @ state[0, month] + response.gates.bias
        torch.testing.assert_close(out[0, month], torch.cat((state[0, month], linear, linear * gates)))


@pytest.mark.parametrize(("name", "options"), WINDOWS)
def test_a_uniform_forcing_reaches_the_prediction(name: str, options: dict[str, Any]) -> None:
    # CO2 is the same in every cell: a normalisation over cells would erase it.
    network = small(name, linear=0, **options).eval()
    frames = torch.zeros(1, 4, 3, 8, 12)
    frames[:, :, 1] = 1.0
    assert (network(2 * frames) - network(frames)).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "options"), WINDOWS)
def test_far_beyond_training_only_the_linear_path_still_answers(name: str, options: dict[str, Any]) -> None:
    frames = torch.zeros(1, 4, 3, 8, 12)
    frames[:, :, 1] = 1.0
    without = small(name, linear=0, **options).eval()
    torch.testing.assert_close(without(40 * frames), without(80 * frames), rtol=0, atol=1e-4)
    both = small(name, **options).eval()
    step = both(80 * frames) - both(40 * frames)
    assert step.abs().max() > 1.0
    torch.testing.assert_close(both(120 * frames) - both(80 * frames), step, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", MAPS)
def test_separate_trunks_share_no_weight(name: str) -> None:
    network = small(name, trunks="separate")
    for variable in range(2):
        network.zero_grad(set_to_none=True)
        network(torch.randn(1, 6, 3, 8, 12))[:, :, variable].sum().backward()
        used = [any(p.grad is not None and p.grad.any() for p in branch.parameters()) for branch in network.branches]
        assert used == [variable == 0, variable == 1]


@pytest.mark.parametrize("name", MAPS)
def test_a_shared_trunk_runs_once(name: str) -> None:
    network = small(name)
    assert len(network.branches) == 1
    assert len(network.branches[0].heads) == 2


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_convlstm_is_a_plain_convlstm_on_every_window(layers: int) -> None:
    history, months = 4, 3
    network = small("convlstm", layers=layers, history=history).eval()
    branch = network.branches[0]
    frames = torch.randn(2, months + history - 1, 3, 8, 12)
    shared = branch.states(frames).reshape(2, months, 4, 2, 3)
    for month in range(months):
        hidden: list[Tensor | None] = [None] * layers
        memory = [torch.zeros(2, 4, 2, 3) for _ in range(layers)]
        for step in range(history):
            given = branch.encoder(frames[:, month + step])
            for i, cell in enumerate(branch.cells):
                gates = branch.inputs[i](given)
                if hidden[i] is not None:
                    term = cell.recurrent(hidden[i])
                    grouped = term.reshape(2, 4, -1)  # one group a gate: its four channels and all cells
                    spread = grouped.var(-1, unbiased=False, keepdim=True)
                    normed = ((grouped - grouped.mean(-1, keepdim=True)) / (spread + 1e-5).sqrt()).reshape(term.shape)
                    gates = gates + normed * cell.norm.weight[:, None, None] + cell.norm.bias[:, None, None]
                a, f, o, n = gates[:, :4], gates[:, 4:8], gates[:, 8:12], gates[:, 12:]
                memory[i] = memory[i] / (1 + (-f).exp()) + n.tanh() / (1 + (-a).exp())
                given = memory[i].tanh() / (1 + (-o).exp())
                hidden[i] = given
        torch.testing.assert_close(shared[:, month], given, rtol=1e-5, atol=1e-6)


def test_convlstm_projects_each_frame_once_and_pays_a_window_its_recurrence_alone() -> None:
    network = small("convlstm", history=4, layers=2)
    counts: dict[tuple[int, str], list[int]] = {}
    for i in range(2):
        parts = {"input": network.branches[0].inputs[i], "recurrent": network.branches[0].cells[i].recurrent}
        for part, module in parts.items():
            counts[i, part] = []
            module.register_forward_hook(lambda m, args, out, key=(i, part): counts[key].append(len(out)))
    network(torch.randn(2, 8, 3, 8, 12))
    assert counts[0, "input"] == [2 * 8]
    assert counts[0, "recurrent"] == counts[1, "recurrent"] == [2 * 5] * 3  # the first step has no past
    assert counts[1, "input"] == [2 * 5] * 4


@pytest.mark.parametrize("layers", [1, 2])
def test_checkpointing_changes_no_gradient(layers: int) -> None:
    frames = torch.randn(1, 7, 3, 8, 12)
    results = []
    for checkpoint in (False, True):
        network = small("convlstm", layers=layers, checkpoint=checkpoint)
        cell, calls = network.branches[0].cells[0], []
        # Before the call: a checkpoint computes a step again no further than the gradient needs.
        cell.register_forward_pre_hook(lambda module, args, calls=calls: calls.append(1))
        out = network(frames)
        forward = len(calls)
        out.square().sum().backward()
        results.append((out, [p.grad for p in network.parameters()], len(calls) - forward))
    (a, before, _), (b, after, again) = results
    assert results[0][2] == 0
    assert again == 4  # every step's gates were computed again
    assert torch.equal(a, b)
    for x, y in zip(before, after, strict=True):
        torch.testing.assert_close(x, y)


def test_unet_film_runs_its_pyramid_once_for_each_target_month() -> None:
    for window in ("film", "channels"):
        network = small("unet", window=window)
        counts: list[int] = []
        network.branches[0].pyramid.register_forward_hook(
            lambda module, args, out, counts=counts: counts.append(len(out))
        )
        network(torch.randn(2, 8, 3, 8, 12))
        assert counts == [2 * 5]


def test_unet_film_shows_the_target_months_own_frame() -> None:
    network = small("unet", linear=0).eval()
    branch = network.branches[0]
    frames = torch.randn(1, 6, 3, 8, 12)
    maps, state = branch.maps(frames)
    for month in range(3):
        last = branch.encoder(frames[:, month + 3])
        torch.testing.assert_close(maps[month : month + 1], branch.pyramid(last, state[:, month]))


def test_unet_channels_stack_the_windows_frames_in_their_order() -> None:
    network = small("unet", window="channels", linear=0).eval()
    branch = network.branches[0]
    frames = torch.randn(1, 6, 3, 8, 12)
    maps, _ = branch.maps(frames)
    own = branch.encoder(frames[0])
    for month in range(3):
        weight = branch.stack.weight[:, :, 0, 0].reshape(4, 4, 4)  # out, frame, channel
        stacked = torch.einsum("ofc,fcyx->oyx", weight, own[month : month + 4]) + branch.stack.bias[:, None, None]
        torch.testing.assert_close(maps[month], branch.pyramid(stacked[None], None)[0])


def test_unet_scales_and_shifts_after_the_norm() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, state=2, dropout=0.0, poles="reflect")
    fields, state = torch.randn(2, 8, 4, 6), torch.randn(2, 2)
    numbers = block.film.weight @ state.T + block.film.bias[:, None]  # (16, B)
    inner = F.group_norm(block.convolutions[0](F.gelu(F.group_norm(fields, 4))), 4)
    inner = inner * (1 + numbers[:8].T[..., None, None]) + numbers[8:].T[..., None, None]
    torch.testing.assert_close(block(fields, state), fields + block.convolutions[1](F.gelu(inner)))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("coarsen", [0, 1])
def test_unet_takes_any_depth_the_grid_allows(depth: int, coarsen: int) -> None:
    network = small("unet", depth=depth, coarsen=coarsen, grid=(11, 13))
    assert network(torch.randn(1, 4, 3, 11, 13)).shape == (1, 1, 2, 11, 13)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"depth": 4}),
        ("unet", {"depth": 3, "coarsen": 1}),
        ("unet", {"depth": 0}),
        ("unet", {"linear": -1}),
        ("convlstm", {"stages": 4}),
        ("convlstm", {"layers": 4}),
        ("convlstm", {"layers": 0}),
        ("convlstm", {"hidden": 0}),
        ("simple-cnn", {"depth": 0}),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(name: str, options: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="cannot build"):
        small(name, **options)


def count(name: str, channels: int = 13, history: int = 12, **options: Any) -> int:
    return count_parameters(name, in_channels=channels, variables=2, grid=(48, 72), history=history, options=options)


def test_the_starters_network_has_the_starters_size() -> None:
    def conv(a: int, b: int, kernel: int) -> int:
        return a * b * kernel**2 + b + 2 * b  # weights, bias, batch norm

    expected = conv(5, 64, 3) + conv(512, 256, 3) + 256 * 2 + 2
    for a, b in ((64, 128), (128, 256), (256, 512), (512, 512)):
        expected += conv(a, b, 3) + conv(b, b, 3) + (conv(a, b, 1) if a != b else 0)
    assert count("simple-cnn", 5, 1) == expected == 10_730_626


def test_the_starters_padding_is_zero_and_its_dropout_drops_channels() -> None:
    network = small("simple-cnn", width=4, depth=1, dropout=0.5)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert all(m.padding == (1, 1) and m.padding_mode == "zeros" for m in convolutions)
    assert isinstance(network.head[0], nn.Dropout2d)


@pytest.mark.parametrize("name", MAPS)
def test_defaults_are_small_and_the_large_size_is_large(name: str) -> None:
    network = type(small(name))
    assert 200_000 < count(name) < 5_000_000
    assert 10_000_000 < count(name, **network.SIZES["large"]) < 100_000_000


@pytest.mark.parametrize("name", [*SMALL, "simple-cnn"])
def test_half_and_double_precision_give_the_same_climate(name: str) -> None:
    chosen = {} if name in SMALL else {"width": 4, "depth": 2}
    network = small(name, **chosen).eval()
    frames = torch.randn(1, 6, 3, 8, 12)
    single = network(frames)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(frames)
    torch.testing.assert_close(half.float(), single, rtol=0, atol=0.05)
    half.float().square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    double = network.double()(frames.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)
