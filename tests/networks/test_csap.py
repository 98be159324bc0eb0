"""CSAP: its output against a literal implementation, its parameters, its gradients and half precision."""

import pytest
import torch
import torch.nn.functional as F
from support.csap import build, small_encoder, without_dropout
from torch import nn

from nnunet_xattnres import CSAP
from nnunet_xattnres.attention import propagation_reference


@pytest.fixture
def small():
    """A small network, for tests in which its size does not matter."""
    torch.manual_seed(0)
    with small_encoder():
        yield


def literal(network, x, xattnres):
    """The decoder of the docstring, for which the attention itself is upsampled."""
    d = network.decoder
    features = network.encoder(x)
    history, grid, attention = list(features), features[3].shape[2:], None

    def norm(layer, v):  # over the channels
        return F.layer_norm(v.movedim(1, 3), v.shape[1:2], layer.weight, layer.bias, 1e-5).movedim(3, 1)

    for s, ratio in enumerate((2, 4, 8)):
        v = features[3 - s]
        if xattnres:
            v = d.xattnres[str(4 + s)](history, v)
        block = d.blocks[s]
        y = norm(block.attention_norm, v)
        pooled = y.unflatten(3, (-1, ratio)).mean(4).unflatten(2, (-1, ratio)).mean(3)
        tokens = F.gelu(block.tokens.norm(block.tokens.linear(pooled.flatten(2).movedim(1, 2))))
        if s == 0:
            query, key = y.flatten(2).movedim(1, 2) @ block.attention_map.query.weight.T, tokens
            attention = propagation_reference.attention_map(query, key @ block.attention_map.key.weight.T, 8)
        p = block.propagation
        v = v + propagation_reference.propagate_attention(
            attention, tokens @ p.value.weight.T, p.project.weight, p.project.bias, grid, v.shape[2:]
        )
        wide, _, narrow = block.mlp
        v = v + narrow(F.gelu(wide(norm(block.mlp_norm, v))))
        history.append(v)
    finest = [F.interpolate(v, size=features[1].shape[2:], mode="bilinear") for v in history[4:]]
    conv, bn, *_ = d.fuse
    logits = d.seg_layers[0](bn(conv(torch.cat(finest, 1))).clamp(min=0))
    return F.interpolate(logits, scale_factor=8, mode="bilinear")


@pytest.mark.parametrize("xattnres", [True, False])
def test_it_computes_the_formulas(small, xattnres):
    network, x = build(3, 2, decoder=xattnres).double(), torch.randn(2, 3, 128, 64).double()
    with torch.no_grad():
        torch.testing.assert_close(network(x), literal(network, x, xattnres), rtol=1e-8, atol=1e-8)


def test_parameters():
    """Summed by hand: the decoder of the paper's network, and a projection per entry of another width for XAttnRes."""
    channels = (256, 160, 64)
    by_hand = 0
    for c in channels:
        tokens, propagation, mlp = c * c + c + 2 * c, 2 * c * c + c, 2 * (2 * c * c) + 3 * c
        by_hand += tokens + propagation + mlp + 2 * 2 * c
    by_hand += 2 * 256**2 + sum(channels) * 128 + 2 * 128 + 128 * 7 + 7  # query and key, fuse, classifier
    count = {
        decoder: sum(p.numel() for p in CSAP(3, 7, decoder=decoder).decoder.parameters()) for decoder in (False, True)
    }
    assert count[False] == by_hand
    widths = [32, 64, 160, 256, 256, 160]
    added = sum(2 * x + sum(c * x + x for c in widths[: 4 + s] if c != x) for s, x in enumerate(channels))
    assert count[True] - count[False] == added


@pytest.mark.parametrize("shape", [(1, 33, 40), (2, 64, 100), (5, 96, 32)])
def test_any_number_of_channels_and_any_size(small, shape):
    """A grid of 1 or 3 pixels at stride 32 is padded to even numbers before it is pooled."""
    channels, *size = shape
    network, x = build(channels, 4), torch.randn(1, *shape)
    padded = F.pad(x, [n for side in reversed(size) for n in (0, -side % 32)], mode="replicate")
    with torch.no_grad():
        logits = network(x)
        assert logits.shape == (1, 4, *size)
        assert torch.equal(logits, network(padded)[:, :, : size[0], : size[1]])


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16], ids=str)
def test_every_parameter_is_used_and_large_images_stay_finite(small, dtype):
    network = without_dropout(build(1, 2))
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        logits = network(1e3 * torch.randn(2, 1, 128, 64))
        logits.float().square().mean().backward()
    assert logits.isfinite().all()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    if dtype is None:
        # a convolution before a batch normalisation needs no bias, but MSCAN has it
        unused = [n for n, p in network.named_parameters() if not p.grad.any()]
        assert unused == []


def test_initialisation():
    network = CSAP(3, 2)
    for name, module in network.named_modules():
        if name.startswith("decoder.xattnres"):
            continue
        if name == "decoder.seg_layers.0":
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.2)
        elif isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_out = module.weight.numel() / module.in_channels
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            assert not module.bias.any()
    assert all(not layer.pseudo_query.any() for layer in network.decoder.xattnres.values())


def test_it_compiles_to_one_graph(small):
    network, x = build(3, 2, decoder=False), torch.randn(1, 3, 64, 72)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "facts"),
    [({"skip": False}, ("skip", "decoder", "init", "backend", "gate", "checkpoint")),
     ({"init": "ones"}, ("init", "zero", "normal", "'ones'")),
     ({"deep_supervision": True}, ("one segmentation head", "deep_supervision=False"))],
)  # fmt: skip
def test_wrong_options(options, facts):
    with pytest.raises(ValueError) as error:
        CSAP(3, 1, **options)
    assert all(fact in str(error.value) for fact in facts)


def test_wrong_input(small):
    with pytest.raises(ValueError, match=r"^CSAP: .*\(B, C, H, W\).*\(1, 3, 8, 8, 8\)"):
        build(3, 1)(torch.zeros(1, 3, 8, 8, 8))
