"""Connections of a U-Net: the channels of every stage's layer, and the input of the convolutions of a decoder stage."""

import re

import pytest
import torch

from nnunet_xattnres.networks.connections import OPTIONS, Connections

ENCODER, DECODER = [4, 8, 16], [6, 5]
UPSAMPLED = [16, 6]  # the decoder need not mirror the encoder
HISTORY = [torch.randn(1, c, s, s) for c, s in ((4, 8), (8, 4), (16, 2))]


def build_layers(connections):
    return connections.build_layers(ENCODER, ENCODER[:-1], DECODER, UPSAMPLED, dim=2)


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({}, {1: 4, 2: 8, 3: 24, 4: 10}),
        ({"skip": False}, {1: 4, 2: 8, 3: 16, 4: 6}),
        ({"decoder_input": "upsampled"}, {1: 4, 2: 8, 3: 16, 4: 6}),
        ({"encoder": False}, {3: 24, 4: 10}),
        ({"decoder": False}, {1: 4, 2: 8}),
        ({"encoder": False, "decoder": False}, {}),
    ],
)
def test_channels_of_the_layers(options, channels):
    assert {int(n): layer.channels for n, layer in build_layers(Connections(**options)).items()} == channels


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize(
    ("options", "order"),
    [({}, "concatenate, attend"), ({"decoder_input": "upsampled"}, "attend, concatenate"), ({"skip": False}, "attend")],
)
def test_merge_skip(options, order, decoder):
    connections = Connections(decoder=decoder, init="normal", backend="torch", **options)
    layers = build_layers(connections)
    upsampled, skip = torch.randn(1, 16, 4, 4), HISTORY[1]

    def attend(x):
        return layers["3"](HISTORY, x) if decoder else x

    if order == "concatenate, attend":
        expected = attend(torch.cat([upsampled, skip], 1))
    elif order == "attend, concatenate":
        expected = torch.cat([attend(upsampled), skip], 1)
    else:
        expected = attend(upsampled)
    torch.testing.assert_close(connections.merge_skip(layers, HISTORY, upsampled, skip), expected)


def test_option_names():
    assert OPTIONS == ("skip", "encoder", "decoder", "decoder_input", "init", "backend", "gate", "checkpoint")


def test_from_options():
    options = {"skip": False, "decoder": False, "init": "normal"}
    assert Connections.from_options(options) == Connections(**options)
    assert Connections.from_options(options, ("skip", "decoder", "init")) == Connections(**options)


@pytest.mark.parametrize(
    ("allowed", "named"), [(None, {"skips", *OPTIONS}), (("decoder", "init"), {"skips", "skip", "decoder", "init"})]
)
def test_unknown_options(allowed, named):
    """The error names the option and the options that there are, in one line."""
    with pytest.raises(ValueError) as error:
        Connections.from_options({"skips": False} | ({} if allowed is None else {"skip": True}), allowed)
    assert set(re.findall(r"\w+", str(error.value))) >= named
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("decoder_input", "skip", ["concat", "upsampled"]),
        ("init", "ones", ["zero", "normal", "kaiming_uniform", "xavier_uniform"]),
        ("backend", "cudnn", ["auto", "cpp", "reference", "torch", "triton"]),
    ],
)
def test_unknown_values(option, value, allowed):
    """The error names the option, the value and the values that there are, in one line."""
    with pytest.raises(ValueError) as error:
        Connections(**{option: value})
    assert set(re.findall(r"\w+", str(error.value))) >= {option, value, *allowed}
    assert "\n" not in str(error.value)
