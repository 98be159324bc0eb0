"""CSAP's idea in nnU-Net's U-Nets: the formulas, stock names and weights, all plans, memory."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from support import plans
from torch import nn

from nnunet_xattnres.attention import propagation_reference
from nnunet_xattnres.networks.csap_planned import CSAP_PLANNED_UNETS, PropagatedAttention

STOCK = {"PlainConvUNet": PlainConvUNet, "ResidualEncoderUNet": ResidualEncoderUNet}
OFF = {"encoder": False, "decoder": False}


@pytest.fixture(params=plans.PLANS)
def kind(request):
    return request.param


def build(kind, **options):
    """A network whose attention is far from uniform, and whose layers attend."""
    torch.manual_seed(0)
    network = plans.build(kind, CSAP_PLANNED_UNETS, **options)
    for name, parameter in network.named_parameters():
        if name.startswith("csap.") or name.endswith("pseudo_query"):
            nn.init.normal_(parameter, std=0.3)
    return network


def image(kind):
    return torch.randn(2, 2, *(16,) * plans.PLANS[kind][1], generator=torch.Generator().manual_seed(0))


def test_stock_weights_keep_their_names_and_initialisation(kind):
    torch.manual_seed(0)
    stock = plans.build(kind, STOCK).state_dict()
    torch.manual_seed(0)
    ours = plans.build(kind, CSAP_PLANNED_UNETS).state_dict()
    assert {k: ours[k].shape for k in stock} == {k: v.shape for k, v in stock.items()}
    assert {k.split(".")[0] for k in ours.keys() - stock.keys()} == {"csap", "xattnres"}


def test_nnunets_initialisation_leaves_the_attention_alone(kind):
    for name, parameter in plans.build(kind, CSAP_PLANNED_UNETS).csap.named_parameters():
        if parameter.ndim == 2:
            assert 0.01 < parameter.std() < 0.03, name
        else:
            assert (parameter == (1 if name.endswith("norm.weight") else 0)).all(), name


def test_without_attention_it_is_the_stock_network(kind):
    stock, ours = plans.build(kind, STOCK), build(kind, **OFF)
    ours.load_state_dict(stock.state_dict(), strict=False)
    for layer in ours.csap.propagations:
        nn.init.zeros_(layer.project.weight)
        nn.init.zeros_(layer.project.bias)
    for a, b in zip(stock(image(kind)), ours(image(kind)), strict=True):
        assert torch.equal(a, b)


def test_it_computes_the_formulas(kind):
    """The forward pass stage by stage, in which the attention itself is upsampled, with XAttnRes."""
    network, x = build(kind).double(), image(kind).double()
    csap, outputs = network.csap, list(network._encode(x))
    e = outputs[-1]
    grid, heads = e.shape[2:], 4
    attention = None
    for s in range(3):
        if s == 0:
            y = pooled = e
        else:
            y = torch.cat([network.decoder.transpconvs[s - 1](outputs[-1]), outputs[2 - s]], 1)
            y = network.decoder.stages[s - 1](network.xattnres[str(2 + s)](outputs, y))
            pooled = nn.functional.adaptive_avg_pool3d(y.unsqueeze(2) if y.ndim == 4 else y, (1, *grid)[-3:])
        tokens = csap.tokens[s]
        z = nn.functional.gelu(tokens.norm(tokens.linear(pooled.flatten(2).movedim(1, 2))))
        if s == 0:
            query = csap.norm(e.flatten(2).movedim(1, 2)) @ csap.attention_map.query.weight.T
            attention = propagation_reference.attention_map(query, z @ csap.attention_map.key.weight.T, heads)
            outputs.pop()
        p = csap.propagations[s]
        outputs.append(
            y
            + propagation_reference.propagate_attention(
                attention, z @ p.value.weight.T, p.project.weight, p.project.bias, grid, y.shape[2:]
            )
        )
    expected = network.decoder.seg_layers[1](outputs[-1])
    torch.testing.assert_close(network(x)[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, OFF, {"skip": False}, {"decoder_input": "upsampled"}], ids=str)
def test_every_parameter_is_used(options):
    network = build("plain 2d", **options)
    sum(o.square().mean() for o in network(image("plain 2d"))).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_strict_loading_without_deep_supervision(kind):
    trained, restored = build(kind), build(kind, deep_supervision=False)
    restored.load_state_dict(trained.state_dict(), strict=True)
    assert torch.equal(restored(image(kind)), trained(image(kind))[0])


@pytest.mark.parametrize(
    ("channels", "heads"), [([32, 64, 320], 8), ([4, 8, 12], 4), ([24, 48, 96], 8), ([30, 60], 6), ([7, 14], 7)]
)
def test_heads_divide_the_channels_of_all_stages(channels, heads):
    attention = PropagatedAttention(channels, [(1, 1), *[(2, 2)] * (len(channels) - 1)])
    assert attention.heads == heads


def test_vram_estimate_counts_what_training_keeps(kind):
    """Half the attention, values and outputs of the stages, counted during a forward pass."""
    network, stock = build(kind, deep_supervision=False, **OFF), plans.build(kind, STOCK, deep_supervision=False)
    elements = []
    csap = network.csap
    for layer in [csap.attention_map, *(p.value for p in csap.propagations)]:
        layer.register_forward_hook(lambda layer, args, out: elements.append(out[0].numel()))
    decode, run = type(network)._decode, type(network)._run_decoder_stage

    def run_decoder_stage(s, history, *args):
        if s == 0:
            elements.append(history[2][0].numel())
        out = run(network, s, history, *args)
        elements.append(out[0].numel())
        return out

    network._run_decoder_stage = run_decoder_stage
    decode(network, network._encode(image(kind)))
    size = (16,) * plans.PLANS[kind][1]
    added = network.compute_conv_feature_map_size(size) - stock.compute_conv_feature_map_size(size)
    assert added == sum(elements) // 2


def test_it_compiles_to_one_graph():
    network, x = build("plain 2d", **OFF), image("plain 2d")
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    for a, b in zip(compiled(x), network(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_of_large_activations_stays_finite(kind, dtype):
    network = build(kind)
    with torch.autocast("cpu", dtype):
        outputs = network(1e3 * image(kind))
        sum(o.float().square().mean() for o in outputs).backward()
    assert all(o.isfinite().all() for o in outputs)
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_input_of_the_wrong_dimension():
    with pytest.raises(ValueError, match=r"^CSAPPlannedUNet: .*4-D"):
        build("plain 2d")(torch.zeros(2, 16, 16))
