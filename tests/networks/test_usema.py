"""USEMA: the stock network with blocks behind stages of its encoder, and with XAttnRes."""

import copy

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from support import plans
from torch import nn

from nnunet_xattnres.attention import SEMA
from nnunet_xattnres.networks.usema import USEMA_UNETS

STOCK = {"PlainConvUNet": PlainConvUNet, "ResidualEncoderUNet": ResidualEncoderUNet}
NO_XATTNRES = {"encoder": False, "decoder": False}
FOUR_STAGES = {
    "n_stages": 4, "features_per_stage": [4, 8, 8, 12], "kernel_sizes": [[3, 3]] * 4,
    "strides": [[1, 1], [2, 2], [2, 2], [2, 1]], "n_conv_per_stage": [1] * 4, "n_conv_per_stage_decoder": [1] * 3,
}  # fmt: skip


def build(kind="plain 2d", classes=USEMA_UNETS, **options):
    torch.manual_seed(0)
    return plans.build(kind, classes, **options)


def image(kind="plain 2d"):
    return torch.randn(2, 2, *(16,) * plans.PLANS[kind][1])


@pytest.fixture(params=plans.PLANS)
def kind(request):
    return request.param


def test_stock_weights_keep_their_names_and_shapes(kind):
    stock, ours = build(kind, STOCK).state_dict(), build(kind).state_dict()
    assert {k: ours[k].shape for k in stock} == {k: v.shape for k, v in stock.items()}
    assert all(k.startswith(("sema.", "xattnres.")) for k in ours.keys() - stock.keys())


@pytest.mark.parametrize(("blocks", "stages"), [("encoder", ["1", "3"]), ("bottleneck", ["3"])])
def test_stages_with_blocks(blocks, stages):
    network = build(blocks=blocks, **FOUR_STAGES)
    assert list(network.sema) == stages
    assert [block.attention.channels for block in network.sema.values()] == {"1": [8, 12], "3": [12]}[stages[0]]


def test_without_xattnres_it_is_the_stock_network_with_blocks_behind_its_stages(kind):
    stock, network = build(kind, STOCK), build(kind, **NO_XATTNRES)
    network.load_state_dict(stock.state_dict(), strict=False)
    for s, block in network.sema.items():
        stock.encoder.stages[int(s)] = nn.Sequential(stock.encoder.stages[int(s)], copy.deepcopy(block))
    x = image(kind)
    for actual, expected in zip(network(x), stock(x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_layers_read_the_outputs_of_the_blocks():
    network = build(**FOUR_STAGES)
    blocks, histories = {}, {}
    for s, block in network.sema.items():
        block.register_forward_hook(lambda module, args, out, s=int(s): blocks.update({s: out}))
    for n, layer in network.xattnres.items():
        layer.register_forward_hook(lambda module, args, out, n=int(n): histories.update({n: list(args[0])}))
    network(image())
    assert sorted(histories) == [1, 2, 3, 4, 5, 6]
    for history in histories.values():
        assert all(torch.equal(history[s], out) for s, out in blocks.items() if s < len(history))


@pytest.mark.parametrize("options", [NO_XATTNRES, {"gate": True}, {"skip": False}, {"skip": False, **NO_XATTNRES}])
def test_every_parameter_is_used(options):
    network = build(**options)
    for name, parameter in network.named_parameters():
        if name.endswith(("pseudo_query", "gate")):
            nn.init.normal_(parameter)
    sum(o.square().mean() for o in network(image())).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_initialisation_is_the_blocks_own_and_stock_elsewhere(kind):
    network = build(kind, features_per_stage=[4, 8, 64])
    of_blocks = set(network.sema.modules())
    for module in network.modules():
        if isinstance(module, nn.Linear):
            assert 0.017 < module.weight.std() < 0.022
            assert not module.bias.any()
        elif isinstance(module, nn.Conv2d | nn.Conv3d) and module.bias is not None:
            assert bool(module.bias.any()) == (module in of_blocks)


def test_vram_estimate_counts_the_blocks(kind):
    network, without = build(kind, deep_supervision=False), plans.build(kind, deep_supervision=False)
    written = []
    for block in network.sema.values():
        block.register_forward_hook(lambda block, args, out: written.append(block.count_kept_elements(out.shape[2:])))
    network(image(kind))
    size = (16,) * plans.PLANS[kind][1]
    assert written
    added = network.compute_conv_feature_map_size(size) - without.compute_conv_feature_map_size(size)
    assert abs(2 * added - sum(written)) <= 1  # nnU-Net counts half of what training keeps


def test_options_reach_the_blocks():
    network = build(window=5, head_width=4, scale=True)
    (attention,) = (module for module in network.modules() if isinstance(module, SEMA))
    assert (attention.window, attention.heads, attention.scale) == (5, 3, True)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"blocks": "decoder"}, ("blocks", "encoder, bottleneck", "'decoder'")),
        ({"head_width": 8}, ("encoder stage 2", "head_width 8", "12 channels")),
        ({"init": "ones"}, ("init", "'ones'")),
    ],
)
def test_unknown_value_of_an_option(options, facts):
    with pytest.raises(ValueError) as error:
        build(**options)
    assert all(fact in str(error.value) for fact in facts) and "\n" not in str(error.value)


def test_it_compiles_to_one_graph():
    torch.compiler.reset()
    network = build(window=3, **NO_XATTNRES)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = image()
    for actual, expected in zip(compiled(x), network(x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["plain 2d", "resenc 3d"])
def test_autocast_of_large_activations_stays_finite(kind, dtype):
    network = build(kind)
    with torch.autocast("cpu", dtype):
        outputs = network(1e3 * image(kind))
        sum(o.float().square().mean() for o in outputs).backward()
    assert all(o.isfinite().all() for o in outputs)
    assert all(p.grad.isfinite().all() for p in network.parameters())
