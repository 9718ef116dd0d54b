"""Networks that are called as published and are not: each against a forward written down a second time, plainly.

Every window is computed by itself from its own frames, layer by layer as the publications tell it; in the CNNs nothing
of ours but the weights is used. Layers are matched by the order in which they stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emukit.models.registry import build_network, count_parameters
from emukit.recipes.fitting import fit_variables
from emukit.recipes.load import load_recipe
from emukit.sphere import WHOLE
from tests.coded import warming_archive

# An odd side, and sides that differ: a stride or a reshape in the wrong place shows.
GRID, CHANNELS, HISTORY, MONTHS = (7, 10), 6, 5, 3
OPTIONS: dict[str, dict[str, Any]] = {
    "cnn-gru-published": {"width": 8, "hidden": 8},
    "simple-cnn": {"width": 4},
}


def built(name: str, history: int, **options: Any) -> nn.Module:
    """A network in double precision, whose normalisations have scales, shifts and statistics like no other's."""
    torch.manual_seed(0)
    chosen = OPTIONS[name] | options
    network = build_network(
        name, in_channels=CHANNELS, variables=2, grid=GRID, history=history, options=chosen
    ).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def normalised_conv(layers: Iterator[nn.Module], fields: Tensor, padding: int, stride: int = 1) -> Tensor:
    """The next convolution and the batch normalisation after it, in evaluation."""
    conv, norm = next(layers), next(layers)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    out = F.conv2d(fields, conv.weight, conv.bias, stride, padding)
    scale = norm.weight / torch.sqrt(norm.running_var + 1e-5)
    return (out - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def layers_of(network: nn.Module, *kinds: type[nn.Module]) -> Iterator[Any]:
    return iter([m for m in network.modules() if isinstance(m, kinds)])


def third_place_branch(branch: nn.Module, window: Tensor, width: int, hidden: int) -> Tensor:
    """One variable from one window: (H, C, Y, X) -> (Y, X)."""
    convolutions = layers_of(branch, nn.Conv2d, nn.BatchNorm2d)
    linears, norms = layers_of(branch, nn.Linear), layers_of(branch, nn.LayerNorm)
    maps = window
    for channels, stride in ((width, 1), (2 * width, 1), (2 * width, 2), (4 * width, 1)):
        maps = torch.relu(normalised_conv(convolutions, maps, 1, stride))
        assert maps.shape[1] == channels
    squeeze, excite = next(linears), next(linears)
    assert squeeze.out_features == 4 * width // 16 == 2
    means = maps.sum((2, 3)) / (maps.shape[2] * maps.shape[3])
    inner = torch.relu(means @ squeeze.weight.T + squeeze.bias)
    maps = maps * torch.sigmoid(inner @ excite.weight.T + excite.bias)[:, :, None, None]

    gru = nn.GRU(maps[0].numel(), hidden, 2, batch_first=True).double()
    given, recurrent, upper = next(linears), next(linears), next(layers_of(branch, nn.GRU))
    lower = (given.weight, recurrent.weight, given.bias, recurrent.bias)
    gru.load_state_dict(dict(zip(gru.state_dict(), (*lower, *upper.state_dict().values()), strict=True)))
    last = gru(maps.reshape(1, len(window), -1))[0][0, -1]

    first, second = next(norms), next(norms)
    widen, project = next(linears), next(linears)
    assert (widen.out_features, next(linears, None)) == (1024, None)
    last = F.layer_norm(last, (hidden,), first.weight, first.bias)
    last = F.layer_norm(widen.weight @ last + widen.bias, (1024,), second.weight, second.bias)
    return (project.weight @ torch.relu(last) + project.bias).reshape(GRID)


def test_the_third_place_is_another_network() -> None:
    network = built("cnn-gru-published", HISTORY)
    frames = torch.randn(2, MONTHS + HISTORY - 1, CHANNELS, *GRID, dtype=torch.float64)
    out = network(frames)
    assert isinstance(network.branches, nn.ModuleList)
    for segment in range(2):
        for month in range(MONTHS):
            window = frames[segment, month : month + HISTORY]
            for variable, branch in enumerate(network.branches):
                expected = third_place_branch(branch, window, 8, 8)
                torch.testing.assert_close(out[segment, month, variable], expected, rtol=1e-9, atol=1e-9)


def test_the_third_place_drops_elsewhere() -> None:
    """Dropped for certain: of the head only the last bias is left, of the upper recurrence its response to nothing."""
    network: Any = built("cnn-gru-published", HISTORY, dropout=1.0).train()
    read: list[Tensor] = []
    for branch in network.branches:
        branch.recurrence.upper.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    out = network(torch.randn(2, HISTORY, CHANNELS, *GRID, dtype=torch.float64))
    assert len(read) == 2
    assert not any(states.any() for states in read)
    for variable, branch in enumerate(network.branches):
        torch.testing.assert_close(out[0, 0, variable], branch.head[-1].bias.reshape(GRID))
    assert {m.p for m in built("cnn-gru-published", HISTORY).modules() if isinstance(m, nn.Dropout)} == {0.2}
    assert network.branches[0].recurrence.dropout == 1.0


def starter(network: nn.Module, fields: Tensor, width: int) -> Tensor:
    """One month of the starter kit: (1, C, Y, X) -> (V, Y, X)."""
    layers = layers_of(network, nn.Conv2d, nn.BatchNorm2d)
    fields = torch.relu(normalised_conv(layers, fields, 1))
    for channels in (2 * width, 4 * width, 8 * width, 8 * width):
        inner = normalised_conv(layers, torch.relu(normalised_conv(layers, fields, 1)), 1)
        # No convolution in a skip between as many channels.
        skip = fields if fields.shape[1] == channels else normalised_conv(layers, fields, 0)
        fields = torch.relu(inner + skip)
    fields = torch.relu(normalised_conv(layers, fields, 1))
    assert fields.shape[1] == 4 * width
    last = next(layers)
    assert next(layers, None) is None
    return F.conv2d(fields, last.weight, last.bias)[0]


def test_the_starters_network_is_another_one() -> None:
    network = built("simple-cnn", 1)
    frames = torch.randn(2, MONTHS, CHANNELS, *GRID, dtype=torch.float64)
    out = network(frames)
    for segment in range(2):
        for month in range(MONTHS):
            expected = starter(network, frames[segment, month][None], 4)
            torch.testing.assert_close(out[segment, month], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OPTIONS)
def test_biases_that_normalisation_takes_away_drift_by_rounding_noise(name: str) -> None:
    network = built(name, 2).float().train()
    network(torch.randn(2, MONTHS + 1, CHANNELS, *GRID)).square().sum().backward()
    modules = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    before_norm = [a for a, b in pairwise(modules) if isinstance(b, nn.BatchNorm2d)]
    assert len(before_norm) == sum(isinstance(m, nn.BatchNorm2d) for m in modules) > 0
    idle = {id(conv.bias) for conv in before_norm}
    for label, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.any() == (id(parameter) not in idle), label


# What is said of each in the publications, as far as it is a number of the recipe's.
FACTS: dict[str, dict[str, Any]] = {
    "cnn-gru-published": {
        "inputs.window.history": 12,
        "inputs.window.target_month": "excluded",
        "inputs.seasonal": ["published"],
        "inputs.statics": [],
        "model.width": 32,
        "model.hidden": 512,
        "model.layers": 2,
        "model.dropout": 0.2,
        "loss.tas": {"l1": 1.0, "gabor": 0.5, "hessian": 0.2, "polar": 0.3},
        "loss.pr": {"dice": 0.5, "mse": 0.5},
        "training.epochs": 100,
        "training.precision": "fp32",
        "training.segments.length": 1,
        "training.segments.per_batch": 32,
        "training.optimizer.learning_rate": 1e-4,
        "training.optimizer.final_learning_rate": 1e-6,
        "training.optimizer.warmup_steps": 0,
        "training.optimizer.weight_decay": 1e-2,
    },
    "simple-cnn": {
        "inputs.window.history": 1,
        "inputs.seasonal": [],
        "inputs.statics": [],
        "model.width": 64,
        "model.depth": 4,
        "model.dropout": 0.1,
        "loss.tas": {"mse": 1.0},
        "loss.pr": {"mse": 1.0},
        "training.epochs": 10,
        "training.segments.length": 1,
        "training.segments.per_batch": 64,
        "training.optimizer.learning_rate": 1e-3,
        "training.optimizer.final_learning_rate": 1e-3,
        "training.optimizer.weight_decay": 0.0,
    },
    "unet-published": {
        "inputs.window.history": 1,
        "inputs.seasonal": [],
        "inputs.statics": ["lat", "lon"],
        "model.window": "channels",
        "model.depth": 2,
        "model.coarsen": 0,
        "model.linear": 0,
        "model.local": False,
        "model.trunks": "shared",
        "model.dropout": 0.2,
        "loss.area_weighted": False,
        "loss.tas": {"mse": 1.0},
        "loss.pr": {"mse": 1.0},
        "training.epochs": 175,
        "training.patience": 20,
        "training.segments.length": 1,
        "training.segments.per_batch": 64,
        "training.optimizer.warmup_steps": 0,
        "training.optimizer.weight_decay": 0.0,
    },
    "vit-published": {
        "model.patch_rows": 4,
        "model.patch_columns": 4,
        "model.trunks": "shared",
        "model.positions": "learned",
        "loss.tas": {"rmse": 0.05, "time_mean": 0.5, "time_std": 0.5},
        "loss.pr": {"rmse": 0.05, "time_mean": 0.5, "time_std": 0.375},
        "loss.warmup_epochs": 10,
        "loss.ramp_epochs": 10,
        "training.segments.length": 120,
        "training.segments.per_batch": 1,
    },
}
FORCINGS = ["CO2", "SO2", "CH4", "BC", "rsdt"]


@pytest.mark.parametrize("name", FACTS)
def test_a_recipe_says_otherwise_than_the_publication(name: str) -> None:
    recipe = fit_variables(load_recipe(name), warming_archive()).model_dump(mode="json")
    found: dict[str, Any] = {}
    for key in FACTS[name]:
        value: Any = recipe
        for part in key.split("."):
            value = value[part]
        found[key] = {k: v for k, v in value.items() if v} if isinstance(value, dict) else value
    assert found == FACTS[name]
    assert sorted(recipe["inputs"]["forcings"]) == sorted(FORCINGS)


def test_the_published_unet_skips_elsewhere_or_below_full_resolution() -> None:
    """Its blocks are ours; where they stand is published: two levels, the upper one as fine as the grid, one trunk."""
    grid = (8, 12)
    options = load_recipe("unet-published").options | {"width": 4}
    torch.manual_seed(0)
    network: Any = build_network("unet", in_channels=7, variables=2, grid=grid, history=1, options=options)
    (branch,) = network.double().eval().branches
    frames = torch.randn(2, MONTHS, 7, *grid, dtype=torch.float64)
    out = network(frames)
    (first,) = branch.encoder.stages
    (upper, lower), bottom, (from_lower, from_upper) = (
        getattr(branch.pyramid, part) for part in ("down", "bottom", "up")
    )
    assert {b.dropout.p for b in (upper, lower, bottom, from_lower, from_upper)} == {0.2}
    for segment in range(2):
        for month in range(MONTHS):
            maps = branch.stack(F.gelu(first(3 * torch.tanh(frames[segment, month][None] / 3))))
            fine = upper(maps, None)
            half = lower(F.avg_pool2d(fine, 2), None)
            quarter = bottom(F.avg_pool2d(half, 2), None)
            assert [fine.shape[1:], half.shape[1:], quarter.shape[1:]] == [(4, 8, 12), (8, 4, 6), (16, 2, 3)]
            risen = from_lower(torch.cat((WHOLE.upsample(quarter, (4, 6)), half), 1), None)
            risen = from_upper(torch.cat((WHOLE.upsample(risen, grid), fine), 1), None)
            for variable, head in enumerate(branch.heads):
                expected = head.cells(risen)[0, 0]
                torch.testing.assert_close(out[segment, month, variable], expected, rtol=1e-9, atol=1e-9)


def test_the_published_vit_has_another_size() -> None:
    options = load_recipe("vit-published").options
    count = count_parameters("transformer", in_channels=8, variables=2, grid=(48, 72), history=12, options=options)
    assert 305e6 < count < 315e6
