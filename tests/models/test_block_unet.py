"""The U-Net of blocks: its sizes, and that it knows nothing of a block as a whole."""

import pytest
import torch
from torch import nn

from emukit.models.block_unet import BlockUNet


def count(**options):
    with torch.device("meta"):
        network = BlockUNet(in_channels=16, variables=6, uniform=4, **options)
    return sum(p.numel() for p in network.parameters())


def test_default_has_at_most_two_million_parameters():
    assert count() <= 2_000_000


@pytest.mark.parametrize(("size", "published"), [("published-54m", 54.43e6), ("published-92m", 92.14e6)])
def test_presets_have_the_published_number_of_parameters(size, published):
    assert count(**BlockUNet.SIZES[size]) == pytest.approx(published, rel=0.01)


def test_a_block_ends_where_it_was_cut():
    torch.manual_seed(0)
    network = BlockUNet(in_channels=2, variables=1, uniform=0, width=4, depth=1).double()
    nn.init.normal_(network.head.weight)
    fields = torch.randn(1, 1, 2, 40, 40, dtype=torch.double, requires_grad=True)
    network(fields)[0, 0, 0, 0, 0].backward()
    seen = fields.grad.abs().sum((0, 1, 2)) > 0
    assert seen[0, 0]
    # Neither round the globe nor over a pole.
    assert not seen[:, 20:].any()
    assert not seen[20:].any()
    # Nor is there anything beyond the edge but what is at it.
    flat = network(torch.full((1, 1, 2, 8, 8), 3.0, dtype=torch.double) * torch.tensor([1.0, 2.0])[:, None, None])
    torch.testing.assert_close(flat, flat[..., :1, :1].expand_as(flat))


def test_uniform_channels_reach_every_cell():
    torch.manual_seed(0)
    network = BlockUNet(in_channels=4, variables=2, uniform=2, width=4, depth=1)
    nn.init.normal_(network.head.weight)
    fields = torch.randn(1, 1, 4, 8, 8)
    other = fields.clone()
    other[:, :, :2] += 1.0
    assert (network(fields) - network(other)).abs().min() > 0


def test_a_network_without_a_map_is_refused():
    with pytest.raises(ValueError, match="there must be a map"):
        BlockUNet(in_channels=2, variables=1, uniform=2)
