"""CSAP for tests: a small one, with parameters that differ from their initial values, and published weights."""

import contextlib
import re
from unittest import mock

import torch
from torch import Tensor, nn

from nnunet_xattnres.networks import csap, mscan

_CHANNELS = (8, 16, 40, 64)


def small_encoder() -> contextlib.AbstractContextManager:
    """A context in which CSAP has a quarter of the channels, and its encoder 5 of 13 blocks."""
    stack = contextlib.ExitStack()
    for module in (mscan, csap):
        stack.enter_context(mock.patch.object(module, "CHANNELS", _CHANNELS))
    stack.enter_context(mock.patch.object(mscan, "DEPTHS", (1, 1, 2, 1)))
    return stack


def build(input_channels: int, num_classes: int, **options) -> csap.CSAP:
    """CSAP in evaluation mode with random running statistics and an attention far from uniform."""
    network = csap.CSAP(input_channels, num_classes, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 5, 20)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.3)
    for name, parameter in network.named_parameters():
        if name.endswith("pseudo_query"):
            nn.init.normal_(parameter)
        if name.endswith(("norm.weight", "norm.bias")):
            nn.init.uniform_(parameter, 0.5, 1.5)
        if name.endswith("_scale"):
            nn.init.constant_(parameter, 0.1)
    return network.eval()


def without_dropout(network: nn.Module) -> nn.Module:
    """The network in training mode, without branches and channels that are dropped at random."""
    for module in network.train().modules():
        if type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return network


PARTS = {
    "attention.project_in": "attn.proj_1",
    "attention.local": "attn.spatial_gating_unit.conv0",
    "attention.strips.0.0": "attn.spatial_gating_unit.conv0_1",
    "attention.strips.0.1": "attn.spatial_gating_unit.conv0_2",
    "attention.strips.1.0": "attn.spatial_gating_unit.conv1_1",
    "attention.strips.1.1": "attn.spatial_gating_unit.conv1_2",
    "attention.strips.2.0": "attn.spatial_gating_unit.conv2_1",
    "attention.strips.2.1": "attn.spatial_gating_unit.conv2_2",
    "attention.mix": "attn.spatial_gating_unit.conv3",
    "attention.project_out": "attn.proj_2",
    "attention_norm": "norm1",
    "mlp_norm": "norm2",
    "attention_scale": "layer_scale_1",
    "mlp_scale": "layer_scale_2",
    "mlp.0": "mlp.fc1",
    "mlp.1": "mlp.dwconv.dwconv",
    "mlp.3": "mlp.fc2",
}
"""The authors' names of the parts of a block, by ours."""


def published_name(name: str, openmmlab: bool = False) -> str:
    """The name of a tensor of MSCAN as the authors of SegNeXt, or OpenMMLab, have it."""
    stage, part = re.fullmatch(r"stages\.(\d)\.(.*)", name).groups()
    stage = int(stage) + 1
    if part.startswith("norm."):
        return f"norm{stage}.{part.removeprefix('norm.')}"
    if part.startswith("embed."):
        layer, tensor = re.fullmatch(r"embed\.(\d)\.(.*)", part).groups()
        name = f"proj.{layer}" if stage == 1 else {"0": "proj", "1": "norm"}[layer]
        return f"patch_embed{stage}.{name}.{tensor}"
    block, part = re.fullmatch(r"blocks\.(\d)\.(.*)", part).groups()
    (ours,) = (p for p in PARTS if part == p or part.startswith(f"{p}."))
    theirs = PARTS[ours].replace("dwconv.dwconv", "dwconv" if openmmlab else "dwconv.dwconv")
    return f"block{stage}.{block}.{theirs}{part.removeprefix(ours)}"


def published_weights(encoder: nn.Module) -> dict[str, Tensor]:
    """Random weights for an encoder with a classification head, as the authors publish them."""
    weights = {published_name(name): torch.randn(t.shape).to(t.dtype) for name, t in encoder.state_dict().items()}
    # theirs are vectors
    weights = {name: t.flatten() if "layer_scale" in name else t for name, t in weights.items()}
    return weights | {"head.weight": torch.randn(1000, 256), "head.bias": torch.randn(1000)}
