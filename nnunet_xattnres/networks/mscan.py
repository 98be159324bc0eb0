"""MSCAN-T, the encoder of SegNeXt (arXiv 2209.08575): stages of multi-scale convolutional attention."""

import re
from collections.abc import Mapping
from itertools import accumulate

import torch
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn

from .checkpointing import run_stage

CHANNELS = (32, 64, 160, 256)
"""Channels of every stage, at strides 4, 8, 16 and 32."""

DEPTHS = (3, 3, 5, 2)
"""Blocks of every stage."""

MLP_RATIOS = (8, 8, 4, 4)
"""The ratio of the hidden channels of the MLPs to the channels of the stage."""

STRIPS = (7, 11, 21)
"""Lengths of the strip convolutions."""


class MSCAN(nn.Module):
    """MSCAN-T (Guo et al., NeurIPS 2022): an image -> the outputs of four stages, at strides 4, 8, 16 and 32.

    Args:
        input_channels: channels of the image.
        drop_path: probability with which the last block is left out for a sample of the training; it rises linearly
            over the blocks from 0.
        checkpoint: compute the blocks again in the backward pass.

    Shapes:
        (B, input_channels, H, W) -> four tensors (B, 32, H/4, W/4), (B, 64, H/8, W/8), (B, 160, H/16, W/16) and
        (B, 256, H/32, W/32), if the sides are multiples of 32.

    Source: arXiv 2209.08575, Sec. 3.1 and Table 2. The initialisation is that of the authors' code.
    """

    def __init__(self, input_channels: int, drop_path: float = 0.1, checkpoint: bool = False):
        super().__init__()
        self.checkpoint = checkpoint
        self.stages = nn.ModuleList()
        rates = [drop_path * n / (sum(DEPTHS) - 1) for n in range(sum(DEPTHS))]
        starts = [0, *accumulate(DEPTHS)]
        for s, channels in enumerate(CHANNELS):
            stage_rates = rates[starts[s] : starts[s + 1]]
            embed = _overlapping_patches(CHANNELS[s - 1], channels) if s else _stem(input_channels, channels)
            self.stages.append(_Stage(embed, channels, MLP_RATIOS[s], stage_rates))
        init_weights(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self.stages:
            x = stage(x, self.checkpoint)
            outputs.append(x)
        return outputs


class _Stage(nn.Module):
    """The convolutions that downsample, the blocks, and a layer normalisation."""

    def __init__(self, embed: nn.Sequential, channels: int, mlp_ratio: int, drop_path: list[float]):
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(Block(channels, mlp_ratio, rate) for rate in drop_path)
        self.norm = LayerNorm2d(channels, eps=1e-5)

    def forward(self, x: Tensor, checkpointed: bool) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = run_stage(block, x, modules=[block], checkpointed=checkpointed)
        # its output has the layout of channels last, of which torch.export cannot tell the order of the strides
        return self.norm(x).contiguous()


class Block(nn.Module):
    """A block of MSCAN: x + scale * attention(BN(x)), then x + scale * MLP(BN(x)); (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: number of channels C.
        mlp_ratio: the ratio of the hidden channels of the MLP to C.
        drop_path: probability with which a branch is left out for a sample in training mode.
    """

    def __init__(self, channels: int, mlp_ratio: int, drop_path: float):
        super().__init__()
        hidden = mlp_ratio * channels
        self.attention_norm = nn.BatchNorm2d(channels)
        self.attention = ConvAttention(channels)
        self.attention_scale = nn.Parameter(torch.full((channels, 1, 1), 1e-2))
        self.mlp_norm = nn.BatchNorm2d(channels)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), nn.GELU(),
            nn.Conv2d(hidden, channels, 1),
        )  # fmt: skip
        self.mlp_scale = nn.Parameter(torch.full((channels, 1, 1), 1e-2))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention_scale * self.attention(self.attention_norm(x)))
        return x + self.drop_path(self.mlp_scale * self.mlp(self.mlp_norm(x)))


class ConvAttention(nn.Module):
    """Multi-scale convolutional attention: x + conv1x1(gate(u) * u), u = GELU(conv1x1(x)); shapes stay.

    The gate is a 5x5 depthwise convolution, to which depthwise strips of lengths 7, 11 and 21 are added, one along each
    axis, and a 1x1 convolution of the sum.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.local = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.strips = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, (1, n), padding=(0, n // 2), groups=channels),
                nn.Conv2d(channels, channels, (n, 1), padding=(n // 2, 0), groups=channels),
            )
            for n in STRIPS
        )
        self.mix = nn.Conv2d(channels, channels, 1)
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = nn.functional.gelu(self.project_in(x))
        local = self.local(u)
        gate = self.mix(sum((strip(local) for strip in self.strips), local))
        return x + self.project_out(gate * u)


def init_weights(module: nn.Module) -> None:
    """Initialise convolutions with N(0, 2 / fan-out), as MSCAN and the decoder of CSAP have it; biases are 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def from_published_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights of MSCAN by the names of this class, without the classification head.

    Args:
        weights: weights as the authors of SegNeXt or OpenMMLab publish them, by their names.

    Returns:
        The weights by the names here. A name that is not one of theirs stays.
    """
    converted = {}
    for name, tensor in weights.items():
        if name.startswith("head."):
            continue
        for pattern, new in _NAMES:
            name = re.sub(pattern, new, name)
        # they have (C,)
        converted[name] = tensor[:, None, None] if name.endswith("_scale") and tensor.ndim == 1 else tensor
    return converted


_NAMES: tuple[tuple[str, str], ...] = (
    # the numbers of the stages begin with 1 there
    *((rf"^patch_embed{s + 1}\.proj\.(\d)", rf"stages.{s}.embed.\1") for s in range(4)),
    *((rf"^patch_embed{s + 1}\.proj\.", f"stages.{s}.embed.0.") for s in range(4)),
    *((rf"^patch_embed{s + 1}\.norm\.", f"stages.{s}.embed.1.") for s in range(4)),
    *((rf"^block{s + 1}\.", f"stages.{s}.blocks.") for s in range(4)),
    *((rf"^norm{s + 1}\.", f"stages.{s}.norm.") for s in range(4)),
    (r"\.norm1\.", ".attention_norm."),
    (r"\.norm2\.", ".mlp_norm."),
    (r"\.layer_scale_1$", ".attention_scale"),
    (r"\.layer_scale_2$", ".mlp_scale"),
    (r"\.attn\.proj_1\.", ".attention.project_in."),
    (r"\.attn\.proj_2\.", ".attention.project_out."),
    (r"\.attn\.spatial_gating_unit\.conv0\.", ".attention.local."),
    (r"\.attn\.spatial_gating_unit\.conv3\.", ".attention.mix."),
    *(
        (rf"\.attn\.spatial_gating_unit\.conv{i}_{j + 1}\.", f".attention.strips.{i}.{j}.")
        for i in range(len(STRIPS))
        for j in range(2)
    ),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.dwconv\.(dwconv\.)?", ".mlp.1."),  # OpenMMLab has the name once
    (r"\.mlp\.fc2\.", ".mlp.3."),
)


def _stem(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1), nn.BatchNorm2d(channels // 2), nn.GELU(),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels),
    )  # fmt: skip


def _overlapping_patches(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels))
