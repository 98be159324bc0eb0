"""EMCAD for tests: with a small encoder, and with parameters that differ from their initial values."""

import contextlib
from unittest import mock

import timm
import torch
from torch import nn

from nnunet_xattnres.networks import emcad

_CHANNELS = (16, 32, 80, 128)
_create_model = timm.create_model


def small_encoder() -> contextlib.AbstractContextManager:
    """A context in which timm's pvt_v2_b2 and EMCAD have a quarter of the channels, and the encoder 5 of 16 blocks."""
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(timm, "create_model", _create_small))
    stack.enter_context(mock.patch.object(emcad, "CHANNELS", _CHANNELS))
    return stack


def _create_small(name: str, **options) -> nn.Module:
    if name.split(".")[0] == "pvt_v2_b2":
        options |= {"depths": (1, 1, 2, 1), "embed_dims": _CHANNELS, "mlp_ratios": (2, 2, 2, 2)}
    return _create_model(name, **options)


def build(input_channels: int, num_classes: int, **options) -> emcad.EMCAD:
    """EMCAD in evaluation mode with random running statistics and an attention far from uniform."""
    network = emcad.EMCAD(input_channels, num_classes, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.05, 0.2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    for module in network.decoder.xattnres.values():
        nn.init.normal_(module.pseudo_query)
    with torch.no_grad():
        network.decoder.spatial_attention.conv.weight *= 10
    return network.eval()
