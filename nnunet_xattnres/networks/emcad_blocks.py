"""The 2-D blocks of EMCAD's decoder, implemented from its paper (Rahman et al., CVPR 2024, Sec. 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """CAB: x * sigmoid(f(avgpool(x)) + f(maxpool(x))) with f(v) = W2 ReLU(W1 v); (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // reduction, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))
        return x * pooled.sigmoid()


class SpatialAttention(nn.Module):
    """SAB: x * sigmoid(conv7x7[mean_c(x); max_c(x)]); (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


class MultiScaleConv(nn.Module):
    """MSCB: x + project(shuffle(sum_k depthwise_kxk(expand(x)))), k = 1, 3, 5; (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, kernel_sizes: tuple[int, ...] = (1, 3, 5), expansion: int = 2):
        super().__init__()
        self.groups = channels
        inner = channels * expansion
        self.expand = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(inplace=True)
        )
        self.depthwise = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inner, inner, k, padding=k // 2, groups=inner, bias=False),
                nn.BatchNorm2d(inner),
                nn.ReLU6(inplace=True),
            )
            for k in kernel_sizes
        )
        self.project = nn.Sequential(nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        expanded = self.expand(x)
        mixed = sum(depthwise(expanded) for depthwise in self.depthwise)
        # F.channel_shuffle, for which ONNX has no operator
        shuffled = mixed.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        return x + self.project(shuffled)


class UpConv(nn.Module):
    """EUCB: conv1x1(ReLU(BN(depthwise3x3(nearest x2)))); (B, C, H, W) -> (B, C', 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.block = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class AttentionGate(nn.Module):
    """LGAG: skip * sigmoid(BN(conv1x1(ReLU(GC(g) + GC(skip))))), where GC is a grouped 3x3 convolution with batch norm.

    Shapes:
        gating signal g (B, C, H, W), skip feature (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.gate, self.skip = (
            nn.Sequential(nn.Conv2d(channels, inner, 3, padding=1, groups=inner), nn.BatchNorm2d(inner))
            for _ in range(2)
        )
        self.weight = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(inner, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, g: Tensor, skip: Tensor) -> Tensor:
        return skip * self.weight(self.gate(g) + self.skip(skip))
