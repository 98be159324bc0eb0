"""XAttnRes in nnU-Net's U-Nets (Eqs. 10 and 11): parameter names, shapes, the sources of every layer, memory."""

import itertools
import math
from functools import partial

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from support import plans
from support.plans import build
from torch import nn
from torch.utils.checkpoint import checkpoint

from nnunet_xattnres import XAttnRes, history

STOCK = {"PlainConvUNet": PlainConvUNet, "ResidualEncoderUNet": ResidualEncoderUNet}


@pytest.fixture(params=plans.PLANS)
def kind(request):
    return request.param


def image(kind, channels=2, batch=2):
    return torch.randn(batch, channels, *(16,) * plans.PLANS[kind][1])


def test_stock_weights_keep_their_names_and_shapes(kind):
    stock, ours = build(kind, STOCK).state_dict(), build(kind).state_dict()
    assert {k: ours[k].shape for k in stock} == {k: v.shape for k, v in stock.items()}
    assert all(k.startswith("xattnres.") for k in ours.keys() - stock.keys())


def test_without_layers_it_is_the_stock_network(kind):
    stock, ours = build(kind, STOCK), build(kind, encoder=False, decoder=False)
    ours.load_state_dict(stock.state_dict())
    x = image(kind)
    for a, b in zip(stock(x), ours(x), strict=True):
        assert torch.equal(a, b)


def test_outputs_have_the_shapes_of_stock(kind):
    stock, ours = build(kind, STOCK), build(kind)
    x = image(kind)
    assert [o.shape for o in ours(x)] == [o.shape for o in stock(x)]
    stock.decoder.deep_supervision = ours.decoder.deep_supervision = False
    assert ours(x).shape == stock(x).shape


OPTIONS = [
    dict(zip(("skip", "encoder", "decoder", "decoder_input"), values, strict=True))
    for values in itertools.product((True, False), (True, False), (True, False), ("concat", "upsampled"))
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(k for k, v in o.items() if v is True) or "none")
def test_every_parameter_of_every_variant_is_used(options):
    network = build("plain 2d", **options)
    # with a pseudo-query of zeros, the gain has a zero gradient, like an unused parameter
    for name, parameter in network.named_parameters():
        if name.endswith("pseudo_query"):
            nn.init.normal_(parameter)
    sum(o.square().mean() for o in network(image("plain 2d"))).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_strict_loading_without_deep_supervision(kind):
    trained = build(kind)
    restored = build(kind, deep_supervision=False)
    restored.load_state_dict(trained.state_dict(), strict=True)
    x = image(kind)
    assert torch.equal(restored(x), trained(x)[0])


def layers(network):
    return {n: m for n, m in network.named_modules() if isinstance(m, XAttnRes)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # stage: (history widths, x width)
        ({}, {"1": ([4], 8), "2": ([4, 8], 12),
              "3": ([4, 8, 12], 16), "4": ([4, 8, 12, 8], 8)}),
        ({"decoder_input": "upsampled", "encoder": False},
         {"3": ([4, 8, 12], 8), "4": ([4, 8, 12, 8], 4)}),
        ({"skip": False, "encoder": False}, {"3": ([4, 8, 12], 8), "4": ([4, 8, 12, 8], 4)}),
        ({"decoder": False}, {"1": ([4], 8), "2": ([4, 8], 12)}),
    ],
)  # fmt: skip
def test_widths_of_the_layers(kind, options, expected):
    found = layers(build(kind, **options))
    assert {n.removeprefix("xattnres."): (list(m.history_channels), m.channels) for n, m in found.items()} == expected


def test_every_stage_reads_all_earlier_stages_and_its_own_first_block(kind):
    """Recompute the whole forward pass stage by stage from Eqs. 10 and 11."""
    network = build(kind, init="normal").double()
    image_ = image(kind).double()
    outputs = []
    x = network.encoder.stem(image_) if hasattr(network.encoder, "stem") else image_
    for s, stage in enumerate(network.encoder.stages):
        blocks = stage[0].convs if isinstance(stage, nn.Sequential) else stage.blocks
        x = blocks[0](x)
        if s:
            x = network.xattnres[str(s)](outputs[:s], x)
        x = blocks[1:](x)
        outputs.append(x)
    for s in range(2):
        x = torch.cat([network.decoder.transpconvs[s](x), outputs[1 - s]], dim=1)
        x = network.xattnres[str(3 + s)](outputs[: 3 + s], x)
        x = network.decoder.stages[s](x)
        outputs.append(x)
    # the layer of the network takes the parts of the concatenation, so it sums in another order
    torch.testing.assert_close(network(image_)[0], network.decoder.seg_layers[1](x), rtol=1e-10, atol=1e-10)


def test_layers_of_a_network_share_pooled_copies(kind, monkeypatch):
    pooled = []

    def max_pool(features, sizes, original=history.max_pool):
        pooled.extend((feature, tuple(size)) for feature, size in zip(features, sizes, strict=True))
        return original(features, sizes)

    monkeypatch.setattr(history, "max_pool", max_pool)
    build(kind)(image(kind))
    # e_1 for the second and the third stage, e_2 for the third; the decoder uses these copies again
    assert len(pooled) == 3
    assert len({(id(feature), size) for feature, size in pooled}) == 3


def test_the_upsampled_reading_concatenates_the_skip_afterwards():
    network = build("plain 2d", decoder_input="upsampled", encoder=False)
    seen = {}
    network.decoder.stages[0].register_forward_pre_hook(lambda module, args: seen.update(stage=args[0]))
    network.xattnres["3"].register_forward_hook(lambda module, args, out: seen.update(layer=out, history=args[0]))
    network(image("plain 2d"))
    assert torch.equal(seen["stage"], torch.cat([seen["layer"], seen["history"][1]], 1))


def test_without_skips_the_first_stage_reaches_the_decoder_through_the_layers_alone():
    network = build("plain 2d", skip=False, encoder=False)
    for stage in network.decoder.stages:
        assert stage.convs[0].conv.in_channels == stage.output_channels
    # detach the path through the encoder, then the path through the layers as well: no gradient must remain
    network.encoder.stages[1][0].convs[0].register_forward_pre_hook(lambda block, args: (args[0].detach(),))
    for detached in (False, True):
        first_stage = []
        network.encoder.stages[0][0].convs[-1].register_forward_hook(lambda block, args, out: first_stage.append(out))  # noqa: B023
        if detached:
            for layer in network.xattnres.values():
                layer.register_forward_pre_hook(lambda layer, args: ([args[0][0].detach(), *args[0][1:]], *args[1:]))
        output = network(image("plain 2d"))[0].square().mean()
        (gradient,) = torch.autograd.grad(output, first_stage[0], allow_unused=True)
        assert (gradient is None or not gradient.any()) == detached


def test_he_initialisation_leaves_the_pseudo_queries_alone(kind):
    for layer in layers(build(kind)).values():
        assert not layer.pseudo_query.any()
        assert (layer.norm_weight == 1).all()


def test_init_reaches_every_layer(kind):
    for layer in layers(build(kind, init="xavier_uniform")).values():
        assert layer.pseudo_query.all()


@pytest.mark.parametrize("backend", [None, "reference", "torch"])
def test_backend_reaches_every_layer(kind, backend):
    assert {layer.backend for layer in layers(build(kind, backend=backend)).values()} == {backend}


def test_backends_agree(kind):
    network, reference = (build(kind, backend=backend, init="normal").double() for backend in ("torch", "reference"))
    reference.load_state_dict(network.state_dict())
    x = image(kind).double()
    for ours, expected in zip(network(x), reference(x), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def kept_elements(network, image):
    """The elements of the features that a forward pass keeps for backward, per sample."""
    kept = {}

    def keep(tensor):
        if tensor.ndim == image.ndim and len(tensor) == len(image):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(image)
    return sum(tensor[0].numel() for tensor in kept.values())


@pytest.mark.parametrize(
    "options", [{}, {"skip": False}, {"decoder_input": "upsampled"}, {"encoder": False}, {"decoder": False}]
)
def test_vram_estimate_counts_what_training_keeps_for_the_layers(kind, options):
    network = build(kind, deep_supervision=False, **options)
    plain = build(kind, deep_supervision=False, **{**options, "encoder": False, "decoder": False})
    stock = build(kind, STOCK, deep_supervision=False)
    # a batch size that no other tensor has for its first axis
    x = image(kind, batch=5)
    kept = kept_elements(network, x) - kept_elements(plain, x)
    size = (16,) * plans.PLANS[kind][1]
    # the temporary tensors of the last layer count as much as its x
    last = layers(network).get("xattnres.4")
    temporary = 0 if last is None else last.channels * math.prod(size)
    added = network.compute_conv_feature_map_size(size) - stock.compute_conv_feature_map_size(size)
    assert added == (kept + temporary) // 2


def test_any_number_of_input_channels(kind):
    assert build(kind, input_channels=5)(image(kind, 5))[0].shape[1] == 3


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 2, 16, 16, 16)])
def test_input_of_the_wrong_dimension(shape):
    with pytest.raises(ValueError) as error:
        build("plain 2d")(torch.zeros(shape))
    message = str(error.value)
    assert all(fact in message for fact in ("XAttnResUNet", "4-D", str(shape))) and "\n" not in message


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"decoder_input": "skip"}, ("decoder_input", "concat", "upsampled", "'skip'")),
        ({"init": "ones", "encoder": False, "decoder": False}, ("init", "zero", "normal", "'ones'")),
        ({"backend": "cudnn", "encoder": False, "decoder": False}, ("backend", "auto", "'cudnn'")),
    ],
)
def test_unknown_value_of_an_option(options, facts):
    with pytest.raises(ValueError) as error:
        build("plain 2d", **options)
    assert all(fact in str(error.value) for fact in facts)


def test_compiles_to_one_graph():
    network = build("plain 2d")
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = image("plain 2d")
    for a, b in zip(compiled(x), network(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    network.decoder.deep_supervision = False  # as nnU-Net does before it validates
    torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-4)


def test_the_decoder_under_activation_checkpointing():
    network, x = build("plain 2d").double(), image("plain 2d").double()
    results = []
    for decode in (network._decode, partial(checkpoint, network._decode, use_reentrant=False)):
        network.zero_grad()
        outputs = decode(network._encode(x))
        sum(output.square().sum() for output in outputs).backward()
        results.append([*outputs, *(parameter.grad for parameter in network.parameters())])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_of_large_activations_stays_finite(kind, dtype):
    network = build(kind)
    with torch.autocast("cpu", dtype):
        outputs = network(1e3 * image(kind))
        sum(o.float().square().mean() for o in outputs).backward()
    assert all(o.isfinite().all() for o in outputs)
    assert all(p.grad.isfinite().all() for p in network.parameters())
