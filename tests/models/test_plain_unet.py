"""The textbook U-Net: another network than the guide's, one that stumbles over odd sides, or has a seam."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emukit.errors import RecipeError
from emukit.models.plain_unet import PlainUNet
from emukit.models.registry import build_network, count_parameters
from emukit.recipes.load import load_recipe


def test_it_has_another_size_than_the_guides() -> None:
    """7,742,849 parameters for 65 channels in and out, on the grid at which the guide's own script fails."""
    assert (
        count_parameters("plain-unet", in_channels=65, variables=65, grid=(181, 360), history=1, options={})
        == 7_742_849
    )


def test_the_recipe_is_not_the_network_of_the_guide() -> None:
    recipe = load_recipe("plain-unet", None, ())
    assert (recipe.options["width"], recipe.options["depth"], recipe.inputs.window.history) == (64, 3, 1)
    assert recipe.training.optimizer.weight_decay == 1e-5


def padded(fields: Tensor) -> Tensor:
    """One cell on every side, from the definition: round the circle, and over the pole on the other meridian."""
    half = fields.shape[-1] // 2
    south, north = fields[..., :1, :].roll(half, -1), fields[..., -1:, :].roll(half, -1)
    return F.pad(torch.cat((south, fields, north), -2), (1, 1, 0, 0), mode="circular")


def test_it_is_another_function_than_its_layers_say() -> None:
    """One halving of an even grid, in evaluation, written out."""
    torch.manual_seed(0)
    network = PlainUNet(in_channels=3, variables=2, grid=(4, 8), history=2, width=4, depth=1).double().eval()
    frames = torch.randn(1, 3, 3, 4, 8, dtype=torch.float64)
    for norm in [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)

    def block(module: torch.nn.Module, fields: Tensor) -> Tensor:
        for convolution, norm in zip(module.convolutions, module.norms, strict=True):
            fields = F.conv2d(padded(fields), convolution.weight, convolution.bias)
            scaled = (fields - norm.running_mean[:, None, None]) / torch.sqrt(norm.running_var + norm.eps)[
                :, None, None
            ]
            fields = torch.relu(scaled * norm.weight[:, None, None] + norm.bias[:, None, None])
        return fields

    # The frames of the second window, channel by channel.
    top = block(network.down[0], frames[:, 1:].flatten(1, 2))
    low = block(network.down[1], top.unfold(-2, 2, 2).unfold(-2, 2, 2).amax((-2, -1)))
    rise = network.rise[0]
    fine = torch.zeros(1, 4, 4, 8, dtype=torch.float64)
    for dy in range(2):
        for dx in range(2):
            fine[..., dy::2, dx::2] = torch.einsum("bcyx,co->boyx", low, rise.weight[:, :, dy, dx])
    joined = block(network.up[0], torch.cat((top, fine + rise.bias[:, None, None]), 1))
    torch.testing.assert_close(network(frames)[:, 1], network.head(joined))


@pytest.mark.parametrize("grid", [(181, 360), (9, 15), (2, 2)])
def test_odd_sides_are_refused_or_change_shape(grid: tuple[int, int]) -> None:
    depth = 3 if min(grid) > 4 else 1
    network = PlainUNet(in_channels=2, variables=1, grid=grid, history=1, width=2, depth=depth).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 2, *grid)).shape == (1, 1, 1, *grid)


def test_it_has_a_seam_at_the_dateline() -> None:
    torch.manual_seed(0)
    network = PlainUNet(in_channels=2, variables=1, grid=(9, 16), history=1, width=4, depth=2).double().eval()
    frames = torch.randn(1, 1, 2, 9, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(frames.roll(4, -1)), network(frames).roll(4, -1))


def test_a_bias_that_normalisation_takes_away_wanders() -> None:
    """Its gradient would be rounding, which AdamW scales up to whole steps."""
    torch.manual_seed(0)
    network = PlainUNet(in_channels=2, variables=1, grid=(8, 8), history=1, width=4, depth=2)
    network(torch.randn(2, 1, 2, 8, 8)).square().mean().backward()
    for name, parameter in network.named_parameters():
        taken = name.endswith("bias") and (".convolutions." in name or name.startswith("rise"))
        assert (float(parameter.grad.abs().max()) == 0.0) == taken, name


def test_a_grid_of_too_few_cells_is_halved() -> None:
    with pytest.raises(RecipeError, match="cannot build plain-unet"):
        build_network("plain-unet", in_channels=2, variables=1, grid=(4, 72), history=1, options={})
