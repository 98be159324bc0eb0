"""Weights of a stock network in networks with XAttnRes: what is carried over, and where the network starts as stock."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from support.plans import PLANS, build

from nnunet_xattnres.training.warm_start import carry_over, logits_difference

STOCK = {"PlainConvUNet": PlainConvUNet, "ResidualEncoderUNet": ResidualEncoderUNet}


def stock(kind, **options):
    torch.manual_seed(1)
    network = build(kind, STOCK, deep_supervision=False, **options)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def image(kind):
    return torch.randn(2, 2, *(16,) * PLANS[kind][1])


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("kind", PLANS)
def test_the_gated_network_starts_as_the_stock_network(kind, prefix):
    trained, network = stock(kind), build(kind, deep_supervision=False, gate=True)
    initial = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    warm = carry_over({prefix + name: tensor for name, tensor in trained.state_dict().items()}, network)
    assert all(torch.equal(tensor, initial[name]) for name, tensor in network.state_dict().items())
    assert not warm.other_shape and not warm.unused
    assert {name.split(".")[0] for name in warm.initial} == {"xattnres"}
    assert len(warm.carried) == len(list(trained.parameters()))
    network.load_state_dict(warm.weights)
    x = image(kind)
    assert logits_difference(trained, network, x) == 0
    assert torch.equal(trained.eval()(x), network.eval()(x))


def test_other_routings_do_not():
    trained, network = stock("plain 2d"), build("plain 2d", deep_supervision=False)
    network.load_state_dict(carry_over(trained.state_dict(), network).weights)
    assert logits_difference(trained, network, image("plain 2d")) > 1e-3


def test_what_cannot_be_carried_over():
    """Without skip connections, other classes and channels: every tensor is in one of the lists."""
    trained = stock("plain 2d", input_channels=1)
    network = build("plain 2d", deep_supervision=False, skip=False)
    weights = trained.state_dict() | {"surplus.weight": torch.zeros(1), "decoder.seg_layers.0.weight": torch.zeros(9)}
    warm = carry_over(weights, network)
    assert {name.rpartition(".")[0] for name in warm.other_shape} == {
        "encoder.stages.0.0.convs.0.conv", "decoder.stages.0.convs.0.conv", "decoder.stages.1.convs.0.conv",
        "decoder.seg_layers.0",
    }  # fmt: skip
    assert warm.other_shape["decoder.seg_layers.0.weight"][0] == (9,)
    assert warm.unused == ["surplus.weight"]
    parameters = {name for name, _ in network.named_parameters()}
    assert sorted([*warm.carried, *warm.initial, *warm.other_shape]) == sorted(parameters)
    for name, tensor in network.state_dict().items():
        fits = name in weights and weights[name].shape == tensor.shape
        assert torch.equal(warm.weights[name], weights[name] if fits else tensor)


def test_values_that_are_not_finite_are_no_equal_start():
    trained, network = stock("plain 2d"), build("plain 2d", deep_supervision=False, gate=True)
    weights = {name: torch.full_like(tensor, float("nan")) for name, tensor in trained.state_dict().items()}
    network.load_state_dict(carry_over(weights, network).weights)
    assert logits_difference(trained, network, image("plain 2d")) == float("inf")
