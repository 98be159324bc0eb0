"""EMCAD: its published size, its output against a literal implementation, and the parameters of its XAttnRes layers."""

import pytest
import torch
import torch.nn.functional as F
from support.emcad import build, small_encoder
from torch import nn

from nnunet_xattnres.networks.emcad import EMCAD
from nnunet_xattnres.networks.emcad_blocks import ChannelAttention


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture
def small():
    """A small encoder, for tests in which its size does not matter."""
    with small_encoder():
        yield


def test_published_size():
    """26.76 M: encoder, decoder, heads for one class, and the map from one channel to three."""
    network = EMCAD(1, 1, decoder=False)
    heads = count(network.decoder.seg_layers)
    parts = count(network.encoder), count(network.decoder) - heads, heads, count(network.stem)
    assert parts == (24_849_856, 1_913_515, 1_028, 12)
    assert count(network) == 26_764_411


def test_parameters_of_the_xattnres_layers():
    """Summed by hand: a 1x1 convolution per entry of another width, query and gain. The paper prints 1.33 M."""
    widths = [64, 128, 320, 512, 512, 320, 128]
    added = sum(2 * x + sum(c * x + x for c in widths[: 4 + s] if c != x) for s, x in enumerate((512, 320, 128, 64)))
    assert count(EMCAD(1, 1)) - 26_764_411 == added == 1_001_216


def literal(network, x, skip, xattnres):
    """The forward pass of EMCAD's paper, Sec. 3.1 and 3.2, with XAttnRes before LGAG and MSCAM, in evaluation mode."""
    d = network.decoder

    def conv(layer, v):
        return F.conv2d(v, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2, groups=layer.groups)

    def norm(layer, v):
        shape = (1, -1, 1, 1)
        scale = layer.weight / (layer.running_var + layer.eps).sqrt()
        return v * scale.view(shape) + (layer.bias - layer.running_mean * scale).view(shape)

    def mscam(s, v):
        mlp = d.channel_attention[s].mlp

        def shared(w):
            return conv(mlp[2], conv(mlp[0], w).clamp(min=0))

        v = v * torch.sigmoid(shared(v.mean((2, 3), keepdim=True)) + shared(v.amax((2, 3), keepdim=True)))
        maps = torch.stack([v.mean(1), v.max(1).values], 1)
        v = v * torch.sigmoid(conv(d.spatial_attention.conv, maps))
        block = d.multi_scale[s]
        wide = norm(block.expand[1], conv(block.expand[0], v)).clamp(0, 6)
        mixed = sum(norm(b, conv(c, wide)).clamp(0, 6) for c, b, _ in block.depthwise)
        channels = mixed.shape[1]
        # shuffle in C groups of two: channel 2g + i goes to i * C + g
        order = [2 * g + i for i in range(2) for g in range(channels // 2)]
        return v + norm(block.project[1], conv(block.project[0], mixed[:, order]))

    def eucb(s, v):
        v = v.repeat_interleave(2, 2).repeat_interleave(2, 3)
        _, depthwise, bn, _, last = d.up[s].block
        return conv(last, norm(bn, conv(depthwise, v)).clamp(min=0))

    def lgag(s, g, e):
        gate = d.gates[s]
        both = norm(gate.gate[1], conv(gate.gate[0], g)) + norm(gate.skip[1], conv(gate.skip[0], e))
        _, last, bn, _ = gate.weight
        return e * torch.sigmoid(norm(bn, conv(last, both.clamp(min=0))))

    outputs = list(network.encoder.forward_intermediates(x, intermediates_only=True))
    features, logits = outputs[::-1], []
    for s in range(4):
        v = eucb(s - 1, outputs[-1]) if s else features[0]
        if xattnres:
            v = d.xattnres[str(len(outputs))](outputs, v)
        if s and skip:
            v = v + lgag(s - 1, v, features[s])
        outputs.append(mscam(s, v))
        z = conv(d.seg_layers[s], outputs[-1])
        logits.append(F.interpolate(z, size=x.shape[2:], mode="bilinear", align_corners=False))
    return logits[::-1]


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("xattnres", [True, False])
def test_it_computes_the_formulas(small, skip, xattnres):
    torch.manual_seed(0)
    network = build(3, 2, skip=skip, decoder=xattnres)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for ours, expected in zip(network(x), literal(network, x, skip, xattnres), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_the_finest_head_alone(small):
    network = build(3, 2)
    x = torch.randn(1, 3, 64, 64)
    all_heads = network(x)
    network.decoder.deep_supervision = False
    assert torch.equal(network(x), all_heads[0])


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_and_any_size(small, channels):
    network = build(channels, 4)
    assert isinstance(network.stem, nn.Identity) == (channels == 3)
    x = torch.randn(1, channels, 40, 71)
    padded = F.pad(x, (0, 25, 0, 24), mode="replicate")
    with torch.no_grad():
        for ours, expected in zip(network(x), network(padded), strict=True):
            assert ours.shape == (1, 4, 40, 71)
            assert torch.equal(ours, expected[:, :, :40, :71])


def test_every_parameter_is_used(small):
    network = build(1, 2, init="normal").train()
    # timm drops branches of the encoder at random
    for module in network.modules():
        if type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
    sum(o.square().mean() for o in network(torch.randn(2, 1, 64, 64))).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


def test_initialisation_of_the_decoder():
    network = EMCAD(3, 2)
    for name, module in network.decoder.named_modules():
        if isinstance(module, nn.Conv2d) and not name.startswith("xattnres"):
            if module.weight.numel() > 5000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert module.bias is None or not module.bias.any()
    for layer in network.decoder.xattnres.values():
        assert not layer.pseudo_query.any()
        # the projections have PyTorch's own initialisation, as in every XAttnRes
        assert all(p.bias.any() for p in layer.projections if isinstance(p, nn.Conv2d))


def test_one_spatial_attention_for_all_stages():
    attentions = [m for m in EMCAD(3, 1).modules() if type(m).__name__ == "SpatialAttention"]
    assert len(attentions) == 1


def test_channel_attention_narrows_by_16():
    assert ChannelAttention(64).mlp[0].out_channels == 4


def test_wrong_input(small):
    with pytest.raises(ValueError, match=r"^EMCAD: .*\(B, C, H, W\).*\(1, 3, 8, 8, 8\)"):
        build(3, 1)(torch.zeros(1, 3, 8, 8, 8))


@pytest.mark.slow
def test_it_compiles_to_one_graph(small):
    network, x = build(3, 2), torch.randn(1, 3, 64, 72)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x))


@pytest.mark.parametrize(
    ("options", "facts"),
    [({"encoder": True}, ("encoder", "skip", "decoder", "init", "backend", "gate")),
     ({"decoder": False, "init": "ones"}, ("init", "zero", "normal", "'ones'"))],
)  # fmt: skip
def test_wrong_options(options, facts):
    with pytest.raises(ValueError) as error:
        EMCAD(3, 1, **options)
    assert all(fact in str(error.value) for fact in facts)
