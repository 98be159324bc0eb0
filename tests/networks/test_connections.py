"""Connections of a U-Net: which stages get a layer of which width, and what a decoder stage then computes on."""

import pytest
import torch

from nnunet_xattnres.networks.connections import OPTIONS, Connections

ENCODER, DECODER = [4, 8, 16], [6, 5]
UP = [16, 6]  # the decoder's own widths need not mirror the encoder's
POOL = [torch.randn(1, c, s, s) for c, s in ((4, 8), (8, 4), (16, 2))]


def layers(connections):
    return connections.layers(ENCODER, ENCODER[:-1], DECODER, UP, dim=2)


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({}, {1: 4, 2: 8, 3: 24, 4: 10}),
        ({"skip": False}, {1: 4, 2: 8, 3: 16, 4: 6}),
        ({"decoder_input": "upsampled"}, {1: 4, 2: 8, 3: 16, 4: 6}),
        ({"encoder": False}, {3: 24, 4: 10}),
        ({"decoder": False}, {1: 4, 2: 8}),
        ({"encoder": False, "decoder": False}, {}),
    ],
)
def test_widths(options, widths):
    assert {int(n): layer.channels for n, layer in layers(Connections(**options)).items()} == widths


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize(
    ("options", "order"),
    [({}, "concat, read"), ({"decoder_input": "upsampled"}, "read, concat"), ({"skip": False}, "read")],
)
def test_join(options, order, decoder):
    connections = Connections(decoder=decoder, init="normal", backend="torch", **options)
    stages = layers(connections)
    up, skip = torch.randn(1, 16, 4, 4), POOL[1]

    def read(x):
        return stages["3"](POOL, x) if decoder else x

    if order == "concat, read":
        expected = read(torch.cat([up, skip], 1))
    elif order == "read, concat":
        expected = torch.cat([read(up), skip], 1)
    else:
        expected = read(up)
    torch.testing.assert_close(connections.join(stages, POOL, up, skip), expected)


def test_names_of_the_options():
    assert OPTIONS == ("skip", "encoder", "decoder", "decoder_input", "init", "backend")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"decoder_input": "skip"}, "decoder_input must be one of concat, upsampled, got 'skip'"),
        ({"init": "ones"}, "init must be one of zero, normal, kaiming_uniform, xavier_uniform, got 'ones'"),
        ({"backend": "cudnn"}, "backend must be one of auto, reference, torch, triton, got 'cudnn'"),
    ],
)
def test_values_that_do_not_exist(option, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Connections(**option)
