"""Networks that ignore their noise or mix it between months, seams at the dateline, blocks that begin wild."""

import pytest
import torch
from torch import nn

from emukit.models.dit import DiT, LevelBlock
from emukit.models.registry import NETWORKS
from tests.models.test_networks import small

LEVELS = [name for name in NETWORKS.built_in if getattr(NETWORKS.load(name), "takes_level", False)]


def test_networks_that_take_a_level_are_known():
    assert LEVELS == ["dit", "denoising-unet"]


@pytest.mark.parametrize("name", LEVELS)
def test_a_month_answers_to_its_own_noise_and_level_and_no_other(name):
    network = small(name).eval()
    frames, noisy, level = torch.randn(2, 6, 3, 8, 12), torch.randn(2, 3, 2, 8, 12), torch.rand(2, 3)
    before = network(frames, noisy, level)
    other_noise, other_level = noisy.clone(), level.clone()
    other_noise[1, 2, 0, 4, 5] += 1
    other_level[0, 1] += 0.3
    for after, where in ((network(frames, other_noise, level), (1, 2)), (network(frames, noisy, other_level), (0, 1))):
        changed = (after != before).flatten(2).any(-1)
        assert changed.nonzero().tolist() == [list(where)]


@pytest.mark.parametrize("name", LEVELS)
def test_without_noise_the_network_is_asked_with_zeros(name):
    network, frames = small(name).eval(), torch.randn(1, 5, 3, 8, 12)
    asked = network(frames, torch.zeros(1, 2, 2, 8, 12), torch.zeros(1, 2))
    torch.testing.assert_close(network(frames), asked)


@pytest.mark.parametrize(("name", "turns"), [("dit", 3), ("denoising-unet", 2), ("local-cnn", 1)])
def test_without_cells_of_their_own_fields_roll_with_what_was_given(name, turns):
    network = small(name, local=False).eval()
    given = [torch.randn(1, 5, 3, 8, 12)]
    if name in LEVELS:
        given.append(torch.randn(1, 2, 2, 8, 12))
    level = [torch.rand(1, 2)] if name in LEVELS else []
    before = network(*given, *level)
    rolled = network(*(field.roll(turns, -1) for field in given), *level)
    torch.testing.assert_close(rolled, before.roll(turns, -1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(rolled, before)


@pytest.mark.parametrize("name", ["dit", "denoising-unet", "local-cnn"])
def test_cells_of_their_own_can_tell_longitudes_apart(name):
    network, frames = small(name).eval(), torch.randn(1, 4, 3, 8, 12)
    assert not torch.allclose(network(frames.roll(6, -1)), network(frames).roll(6, -1))


@pytest.mark.parametrize("name", [*LEVELS, "local-cnn"])
def test_a_fresh_network_adds_next_to_nothing_to_what_is_known_without_it(name):
    """It would otherwise begin with a third of the variance of its targets in noise of its own."""
    context = {"in_channels": 3, "variables": 2, "grid": (8, 12), "history": 1}
    sizes = {"patch_rows": 2, "patch_columns": 3} if name == "dit" else {}
    network = NETWORKS.load(name)(**context, **sizes).eval()
    noisy = (torch.randn(8, 1, 2, 8, 12), torch.rand(8, 1)) if name in LEVELS else ()
    with torch.no_grad():
        said = network(torch.randn(8, 1, 3, 8, 12), *noisy)
    assert 0 < said.square().mean() < 0.02


def test_blocks_of_a_diffusion_transformer_begin_as_the_identity():
    block, patches = LevelBlock(16, 2, 4, 0.0), torch.randn(3, 6, 16)
    turn = (torch.ones(6, 4), torch.zeros(6, 4))
    assert torch.equal(block(patches, torch.randn(3, 16), turn), patches)
    nn.init.normal_(block.modulation.weight)
    assert not torch.equal(block(patches, torch.randn(3, 16), turn), patches)


def test_a_patch_attends_to_the_other_side_of_the_globe():
    network = small("dit", local=False).eval()
    frames = torch.randn(1, 4, 3, 8, 12)
    changed = frames.clone()
    changed[..., 0, 0] += 5
    assert (network(changed) - network(frames))[..., 6:, 6:].abs().min() > 0


def test_a_cell_of_the_local_network_sees_few_cells():
    """One block: three convolutions of one cell each way; norms are over the map, which one cell alone moves little."""
    network = small("local-cnn", grid=(12, 24))
    for block in network.blocks:
        block.norms = nn.ModuleList(nn.Identity() for _ in block.norms)
    frames = torch.randn(1, 4, 3, 12, 24)
    changed = frames.clone()
    changed[..., 6, 10] += 5
    moved = (network(changed) - network(frames)).abs().amax((0, 1, 2)) > 0
    rows, columns = moved.nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 9, 7, 13)


def test_a_diffusion_transformer_counts_what_it_should():
    """By hand: 2 patches of 1 cell, D 8, one head, one block, C 3, H 1, V 2, rows with positions of their own."""
    network = DiT(
        in_channels=3,
        variables=2,
        grid=(1, 2),
        history=1,
        patch_rows=1,
        patch_columns=1,
        dim=8,
        heads=1,
        blocks=1,
        mlp_ratio=2,
        local=False,
    )
    embeddings = (3 * 8 + 8) + 2 * 8 + (32 * 8 + 8) + (8 * 8 + 8) + 8
    block = (8 * 24 + 24) + (8 * 8 + 8) + (8 * 16 + 16 + 16 * 8 + 8) + (8 * 48 + 48)
    assert sum(p.numel() for p in network.parameters()) == embeddings + block + (8 * 16 + 16) + 2 * (8 + 1)
