"""Options that cannot be built, that hang while they are, or that do nothing unnoticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from emukit.errors import RecipeError
from emukit.models.heads import downsampled_grids
from emukit.models.registry import NETWORKS, count_parameters
from emukit.recipes.load import load_recipe
from emukit.recipes.schema import recipe_class
from tests.models.test_networks import small

# Smallest value of every option that is a size.
SIZES: dict[str, dict[str, int]] = {
    "cnn-gru": dict.fromkeys(("width", "stages", "pool_rows", "pool_columns", "features", "hidden"), 1) | {"linear": 0},
    "cnn-gru-published": dict.fromkeys(("width", "hidden", "layers"), 1),
    "convlstm": dict.fromkeys(("width", "stages", "hidden", "bands", "pool_rows", "pool_columns", "layers"), 1)
    | {"linear": 0},
    "unet": dict.fromkeys(("width", "depth", "features", "hidden", "bands", "pool_rows", "pool_columns"), 1)
    | {"linear": 0, "coarsen": 0},
    "simple-cnn": dict.fromkeys(("width", "depth"), 1),
    "transformer": dict.fromkeys(
        ("patch_rows", "patch_columns", "dim", "heads", "frame_blocks", "month_blocks", "mlp_ratio"), 1
    )
    | {"linear": 0},
    "dit": dict.fromkeys(("patch_rows", "patch_columns", "dim", "heads", "blocks", "mlp_ratio"), 1),
    "denoising-unet": dict.fromkeys(("width", "depth", "hidden"), 1),
    "local-cnn": dict.fromkeys(("width", "blocks"), 1),
}
SIZE_CASES = [(name, option, least) for name, sizes in SIZES.items() for option, least in sizes.items()]
HUGE = 10**14


WHOLE = [
    (name, option)
    for name in NETWORKS.built_in
    for option, field in recipe_class(name).model_fields["model"].annotation.model_fields.items()  # type: ignore[union-attr]
    if field.annotation is int
]


@pytest.mark.parametrize(("name", "option"), WHOLE)
def test_a_negative_size_of_any_network_is_refused_and_not_built(name: str, option: str) -> None:
    """Of a network that is new here, too: its options are those of its signature."""
    with pytest.raises(RecipeError, match=f"cannot build {name}"):
        small(name, **{option: -2})


@pytest.mark.parametrize(("name", "option", "least"), SIZE_CASES)
def test_a_size_too_small_is_named_with_its_value_and_no_other_is(name: str, option: str, least: int) -> None:
    for value in (least - 1, -2):
        with pytest.raises(RecipeError) as caught:
            small(name, **{option: value})
        assert caught.value.found.startswith(f"{option} must be ")
        assert caught.value.found.endswith(f", not {value}")
    smallest = {"dim": 8} if option == "dim" else {option: least}  # dim: four features for each of two heads
    with torch.device("meta"):
        small(name, **smallest)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("cnn-gru", "stages"),
        ("cnn-gru-published", "layers"),
        ("convlstm", "stages"),
        ("unet", "depth"),
        ("unet", "coarsen"),
        ("simple-cnn", "depth"),
        ("transformer", "frame_blocks"),
        ("transformer", "month_blocks"),
    ],
)
def test_huge_numbers_of_layers_are_refused_at_once(name: str, option: str) -> None:
    with pytest.raises(RecipeError, match=f"cannot be halved 10000000000|{option} must be from 1 to"):
        count_parameters(name, in_channels=3, variables=2, grid=(48, 72), history=2, options={option: HUGE})


@pytest.mark.parametrize(("cells", "most"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (48, 6)])
def test_a_grid_is_halved_as_long_as_there_are_two_cells(cells: int, most: int) -> None:
    sides = downsampled_grids((cells, 72), most)
    assert min(side[0] for side in sides[:-1] or [(2, 2)]) >= 2
    with pytest.raises(ValueError, match=f"cannot be halved {most + 1} times"):
        downsampled_grids((cells, 72), most + 1)


@pytest.mark.parametrize("name", NETWORKS.built_in)
@pytest.mark.parametrize("months", [1, 3])
def test_windows_of_one_frame_leave_no_weight_unused(name: str, months: int) -> None:
    """Processes that train together wait forever, or fail, for gradients that never come."""
    choices: dict[str, list[dict[str, Any]]] = {
        "cnn-gru": [{}, {"linear": 0}, {"attention": True, "squeeze_excitation": True, "trunks": "separate"}],
        "cnn-gru-published": [{}, {"layers": 1}, {"layers": 3}],
        "convlstm": [{}, {"linear": 0, "local": False}, {"layers": 3, "trunks": "separate"}, {"checkpoint": True}],
        "unet": [{}, {"linear": 0}, {"window": "channels"}, {"window": "channels", "linear": 0, "coarsen": 0}],
        "simple-cnn": [{}],
        "transformer": [{}, {"linear": 0, "positions": "learned"}, {"trunks": "separate", "checkpoint": True}],
    }
    for options in choices.get(name, [{}]):
        network = small(name, history=1, **options).train()
        network(torch.randn(2, months, 3, 8, 12)).square().sum().backward()
        unused = [label for label, parameter in network.named_parameters() if parameter.grad is None]
        assert unused == [], options


def test_a_convlstm_over_single_frames_counts_no_recurrence() -> None:
    def count(history: int) -> int:
        options = {"width": 4, "hidden": 4, "linear": 4}
        return count_parameters("convlstm", in_channels=3, variables=2, grid=(8, 12), history=history, options=options)

    recurrent = (4 * 9 + 1) * 16 + 2 * 16  # a 3 x 3 stencil from 4 to 16 channels, and scale and shift of its norm
    assert count(2) - count(1) == recurrent
    assert count(3) == count(2)


# Where dropout acts: nothing but these modules is left to drop in each case.
PLACES: list[tuple[str, dict[str, Any], str]] = [
    ("cnn-gru", {}, "dropout"),
    ("cnn-gru", {"trunks": "separate"}, "others.0.dropout"),
    ("cnn-gru-published", {}, "branches.0.head.4"),
    ("cnn-gru-published", {}, "branches.1.head.4"),
    ("convlstm", {}, "branches.0.dropout"),
    ("convlstm", {"trunks": "separate"}, "branches.1.dropout"),
    ("unet", {}, "branches.0.pyramid.down.0.dropout"),
    ("unet", {}, "branches.0.pyramid.bottom.dropout"),
    ("unet", {}, "branches.0.pyramid.up.0.dropout"),
    ("simple-cnn", {}, "head.0"),
    ("transformer", {}, "branches.0.trunk.frames.0.dropout"),
    ("transformer", {}, "branches.0.trunk.times.0.dropout"),
    ("transformer", {}, "branches.0.trunk.months.0.dropout"),
]


@pytest.mark.parametrize(("name", "options", "place"), PLACES)
def test_dropout_acts_in_every_place_while_training_and_never_after(
    name: str, options: dict[str, Any], place: str
) -> None:
    network = small(name, dropout=0.9, **options).train()
    others = 0
    for label, module in network.named_modules():
        if hasattr(module, "upper"):
            module.dropout = 0.0  # the recurrence has a rate, and no module
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            assert module.p == 0.9
            others += label != place
            module.p = 0.9 if label == place else 0.0
    frames = torch.randn(2, 6, 3, 8, 12)
    once, again = network(frames), network(frames)
    assert (once - again).abs().max() > 1e-6
    assert others == len({p for n, o, p in PLACES if n == name and _listed(network, p)}) - 1
    network.eval()
    assert torch.equal(network(frames), network(frames))


def _listed(network: nn.Module, place: str) -> bool:
    return place in dict(network.named_modules())


@pytest.mark.parametrize("each", ["space", "each"])
def test_both_updates_of_a_frame_block_are_dropped(each: str) -> None:
    block: Any = small("transformer", dropout=0.9).branches[0].trunk.frames[0]  # type: ignore[index, union-attr]
    for attribute in {"space", "each"} - {each}:
        for parameter in getattr(block, attribute).parameters():
            nn.init.zeros_(parameter)  # the other update is nothing, dropped or not
    maps = torch.randn(1, 8, 16)
    assert not torch.equal(block(maps, None), block(maps, None))


def test_dropout_between_the_published_recurrences_acts() -> None:
    network = small("cnn-gru-published", dropout=0.9).train()
    recurrence: Any = network.branches[0].recurrence  # type: ignore[index, union-attr]
    features = torch.randn(1, 6, recurrence.input.in_features)
    assert not torch.equal(recurrence(features), recurrence(features))


@pytest.mark.parametrize("name", [n for n in NETWORKS.built_in if "dropout" in load_recipe(n).options])
def test_dropout_of_any_network_acts_while_training_and_never_after(name: str) -> None:
    frames, network = torch.randn(2, 6, 3, 8, 12), small(name, dropout=0.9).train()
    assert not torch.equal(network(frames), network(frames))
    network.eval()
    assert torch.equal(network(frames), network(frames))


def test_a_network_too_large_to_count_is_no_traceback() -> None:
    with pytest.raises(RecipeError, match="cannot build cnn-gru"):
        small("cnn-gru", width=1_000_000_000)


def test_a_network_too_large_to_allocate_is_told_in_bytes() -> None:
    with pytest.raises(RecipeError) as caught:
        small("cnn-gru", hidden=2_000_000, linear=0, features=8, width=4)
    weights = 4 * (3 * 2_000_000 * (2_000_000 + 1) + 3 * 2_000_000 * (8 + 1))
    found = int(caught.value.found.split()[0].replace(",", ""))
    assert weights < found < 1.01 * weights
    assert "bytes of weights" in caught.value.found
