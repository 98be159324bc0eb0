"""EMCAD (Rahman et al., CVPR 2024): a PVTv2-B2 encoder and a decoder of multi-scale convolutional attention."""

from collections.abc import Sequence
from itertools import pairwise

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import History
from ..stages import XAttnResStages
from .connections import Connections
from .emcad_blocks import AttentionGate, ChannelAttention, MultiScaleConv, SpatialAttention, UpConv
from .padding import crop, pad_to_multiple

WIDTHS = (64, 128, 320, 512)
"""Width of every encoder stage, at strides 4, 8, 16 and 32."""


class EMCAD(nn.Module):
    """EMCAD with XAttnRes in its decoder stages (arXiv 2604.03297, Sec. 3.3).

    The pool H holds the encoder's e_1..e_4 and the decoder's d_4.. in order. With x_4 = e_4 and x_i = EUCB(d_{i+1}):
    y = XAttnRes(H, x_i), d_4 = MSCAM(y) and, below it, d_i = MSCAM(y + LGAG(y, e_i)). The encoder is meant to start
    from ImageNet weights (`load_imagenet`), so XAttnRes stays out of it.

    Args:
        input_channels: channels of the image; other than 3 are mapped to 3 by a 1x1 convolution.
        num_classes: channels of the logits.
        deep_supervision: return the logits of all four heads.
        skip (option): keep the skip connections, LGAG and the addition; without them d_i = MSCAM(y).
        decoder (option): apply XAttnRes; without it y = x_i.
        init, backend (options): of the layers, see `XAttnRes`.

    Shapes:
        input (B, input_channels, H, W) of any size -> (B, num_classes, H, W), or with deep supervision four such
        tensors, of d_1 first. Sides that 32 does not divide are padded inside.

    Raises:
        ValueError: for an option that does not exist, or an input that is not (B, C, H, W).
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = True,
        **options,
    ):
        super().__init__()
        self.connections = c = Connections.of(options, ("skip", "decoder", "init", "backend"))
        self.stem = nn.Identity()
        if input_channels != 3:
            self.stem = nn.Sequential(nn.Conv2d(input_channels, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
        self.encoder = timm.create_model("pvt_v2_b2", num_classes=0, drop_path_rate=0.1)
        reads = {len(WIDTHS) + s: width for s, width in enumerate(WIDTHS[::-1])} if c.decoder else {}
        xattnres = XAttnResStages([*WIDTHS, *WIDTHS[::-1]], reads, init=c.init, backend=c.backend)
        self.decoder = EMCADDecoder(num_classes, deep_supervision, c.skip, xattnres)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if x.ndim != 4:
            raise ValueError(f"EMCAD: input must be 4-D (B, C, H, W), got shape {tuple(x.shape)}")
        padded = self.stem(pad_to_multiple(x, 32))
        logits = [
            crop(F.interpolate(z, size=padded.shape[2:], mode="bilinear", align_corners=False), x.shape[2:])
            for z in self.decoder(self.encoder.forward_intermediates(padded, intermediates_only=True))
        ]
        return logits if self.decoder.deep_supervision else logits[0]


class EMCADDecoder(nn.Module):
    """EMCAD's decoder: [e_1, ..., e_4] -> the logits of d_1 and, with deep supervision, of d_2, d_3 and d_4."""

    def __init__(self, num_classes: int, deep_supervision: bool, skip: bool, xattnres: XAttnResStages):
        super().__init__()
        widths = WIDTHS[::-1]
        self.deep_supervision = deep_supervision
        self.up = nn.ModuleList(UpConv(i, o) for i, o in pairwise(widths))
        self.gates = nn.ModuleList(AttentionGate(width) for width in widths[1:]) if skip else None
        self.channel_attention = nn.ModuleList(ChannelAttention(width) for width in widths)
        self.spatial_attention = SpatialAttention()  # one for all stages
        self.multi_scale = nn.ModuleList(MultiScaleConv(width) for width in widths)
        # named as in nnU-Net, which then leaves the heads out of -pretrained_weights
        self.seg_layers = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in widths)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.xattnres = xattnres  # comes initialised

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        history = History(features)
        logits = []
        for s, head in enumerate(self.seg_layers):
            x = self.xattnres(history, self.up[s - 1](history[-1]) if s else features[-1])
            if s and self.gates is not None:
                x = x + self.gates[s - 1](x, features[-(s + 1)])
            x = self.spatial_attention(self.channel_attention[s](x))
            history.append(self.multi_scale[s](x))
            if self.deep_supervision or s == len(self.seg_layers) - 1:
                logits.append(head(history[-1]))
        return logits[::-1]
