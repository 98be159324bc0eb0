"""MSCAN-T: its published size, a block against a literal implementation, and the published names of its parameters."""

import pytest
import torch
import torch.nn.functional as F
from support.csap import published_name
from torch import nn

from nnunet_xattnres.networks.mscan import CHANNELS, DEPTHS, MSCAN, Block, from_published_names


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return MSCAN(3).eval()


def test_published_size(network):
    """4.2 M in Table 4 of SegNeXt, which includes a linear classifier of 1000 classes."""
    encoder = sum(p.numel() for p in network.parameters())
    assert encoder == 3_903_584
    assert round((encoder + 256 * 1000 + 1000) / 1e6, 1) == 4.2


def test_outputs_have_the_strides_4_to_32(network):
    with torch.no_grad():
        outputs = network(torch.randn(1, 3, 64, 96))
    assert [tuple(o.shape) for o in outputs] == [
        (1, c, 64 // s, 96 // s) for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


def test_a_block_computes_the_formulas():
    """Eqs. 1 and 2 of SegNeXt: Att = conv1x1(sum of the scales of the depthwise convolution), out = Att * u."""
    torch.manual_seed(0)
    block = Block(8, 4, 0.5).double().eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 8, 9, 11, dtype=torch.float64)

    def conv(layer, v):
        return F.conv2d(v, layer.weight, layer.bias, padding=[n // 2 for n in layer.kernel_size], groups=layer.groups)

    def gelu(v):
        return v * 0.5 * (1 + torch.erf(v / 2**0.5))

    def norm(layer, v):
        scaled = (v - layer.running_mean.view(-1, 1, 1)) / (layer.running_var.view(-1, 1, 1) + layer.eps).sqrt()
        return scaled * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)

    a, y = block.attention, norm(block.attention_norm, x)
    u = gelu(conv(a.project_in, y))
    local = conv(a.local, u)
    scales = [local, *(conv(vertical, conv(horizontal, local)) for horizontal, vertical in a.strips)]
    x1 = x + block.attention_scale * (y + conv(a.project_out, conv(a.mix, sum(scales)) * u))
    wide, depthwise, _, narrow = block.mlp
    expected = x1 + block.mlp_scale * conv(narrow, gelu(conv(depthwise, conv(wide, norm(block.mlp_norm, x1)))))
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)
    assert [[s.kernel_size for s in strip] for strip in a.strips] == [[(1, n), (n, 1)] for n in (7, 11, 21)]


def test_branches_are_dropped_more_often_in_later_blocks(network):
    rates = [block.drop_path.drop_prob for stage in network.stages for block in stage.blocks]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.1, sum(DEPTHS)))


@pytest.mark.parametrize("openmmlab", [False, True])
def test_published_names(network, openmmlab):
    """Every parameter has a published name of its own, which is mapped back to it; the head is left out."""
    state = network.state_dict()
    published = {published_name(name, openmmlab): tensor for name, tensor in state.items()}
    assert len(published) == len(state)
    converted = from_published_names(published | {"head.weight": torch.zeros(1), "new": torch.zeros(1)})
    assert converted.pop("new").shape == (1,)
    assert converted.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in converted.items())
