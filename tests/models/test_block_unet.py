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
