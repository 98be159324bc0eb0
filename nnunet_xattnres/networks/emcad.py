"""EMCAD (Rahman et al., CVPR 2024): a PVTv2-B2 encoder and a decoder of multi-scale convolutional attention."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from ..history import History
from ..stages import XAttnResStages
from .checkpointing import run_stage
from .connections import Connections
from .emcad_blocks import AttentionGate, ChannelAttention, MultiScaleConv, SpatialAttention, UpConv
from .padding import crop, pad_to_multiple

CHANNELS = (64, 128, 320, 512)
"""Channels of every encoder stage, at strides 4, 8, 16 and 32."""


class EMCAD(nn.Module):
    r"""EMCAD (arXiv 2405.06880) with XAttnRes in its decoder stages (arXiv 2604.03297, Sec. 3.3).

    .. math:: y_i = \text{XAttnRes}(H, x_i), \quad x_4 = e_4, \quad x_i = \text{EUCB}(d_{i+1}), \quad
              d_4 = \text{MSCAM}(y_4), \quad d_i = \text{MSCAM}(y_i + \text{LGAG}(y_i, e_i))

    The history H holds the encoder's e_1, ..., e_4, then the decoder's d_4, d_3, d_2. XAttnRes is not applied in the
    encoder, which starts from ImageNet weights (`load_imagenet`).

    Args:
        input_channels: channels of the image; a 1x1 convolution maps any number but 3 to 3.
        num_classes: channels of the logits.
        deep_supervision: return the logits of all four heads.
        skip: keep the skip connections, LGAG and the addition; without them d_i = MSCAM(y_i).
        decoder: apply XAttnRes; without it y_i = x_i.
        init: initialisation of the pseudo-queries, see `XAttnRes`.
        backend: the implementation that computes the layers, see `XAttnRes`.
        gate: give every layer a gate, with which the network starts as the one without layers, see `XAttnRes`.
        checkpoint: keep less for the backward pass, which computes the blocks of the encoder and the decoder stages but
            the last again, see `Connections`.

    Shapes:
        input (B, input_channels, H, W) -> (B, num_classes, H, W), or with deep supervision four such tensors, that of
        d_1 first. Images whose sides are not multiples of 32 are padded, and the logits cropped.

    Raises:
        ValueError: if an option is unknown, or an input is not (B, C, H, W).
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = True,
        **options,
    ):
        super().__init__()
        allowed = ("skip", "decoder", "init", "backend", "gate", "checkpoint")
        self.connections = c = Connections.from_options(options, allowed)
        self.stem: nn.Module = nn.Identity()
        if input_channels != 3:
            self.stem = nn.Sequential(nn.Conv2d(input_channels, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
        self.checkpoint = c.uses_checkpoints()
        encoder: Any = timm.create_model("pvt_v2_b2", num_classes=0, drop_path_rate=0.1)
        encoder.set_grad_checkpointing(self.checkpoint)
        self.encoder: Any = encoder
        decoder_channels = CHANNELS[::-1]
        query_channels = dict(enumerate(decoder_channels, len(CHANNELS))) if c.decoder else {}
        xattnres = XAttnResStages(
            [*CHANNELS, *decoder_channels], query_channels, init=c.init, backend=c.backend, gate=c.gate
        )
        self.decoder = EMCADDecoder(num_classes, deep_supervision, c.skip, xattnres, self.checkpoint)

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
    """EMCAD's decoder with XAttnRes: [e_1, ..., e_4] -> logits of d_1 and, with deep supervision, of d_2, d_3, d_4.

    Args:
        num_classes: channels of the logits.
        deep_supervision: return the logits of all stages.
        skip: build the gates (LGAG) and add their output.
        xattnres: the XAttnRes layers of encoder and decoder.
        checkpoint: compute the stages but the last again in the backward pass.
    """

    def __init__(
        self, num_classes: int, deep_supervision: bool, skip: bool, xattnres: XAttnResStages, checkpoint: bool = False
    ):
        super().__init__()
        channels = CHANNELS[::-1]
        self.deep_supervision = deep_supervision
        self.checkpoint = checkpoint
        self.up = nn.ModuleList(UpConv(i, o) for i, o in pairwise(channels))
        self.gates = nn.ModuleList(AttentionGate(c) for c in channels[1:]) if skip else None
        self.channel_attention = nn.ModuleList(ChannelAttention(c) for c in channels)
        self.spatial_attention = SpatialAttention()  # shared by all stages
        self.multi_scale = nn.ModuleList(MultiScaleConv(c) for c in channels)
        # nnU-Net's -pretrained_weights leaves out parameters of this name
        self.seg_layers = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.xattnres = xattnres  # after the loop: the layers have an initialisation of their own

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        history = History(features)
        logits = []
        last = len(self.seg_layers) - 1
        for s, head in enumerate(self.seg_layers):
            # the backward pass begins with the last stage: to compute it again would not lower the peak of memory
            checkpointed = self.checkpoint and s != last
            modules = [self.multi_scale[s], *([self.up[s - 1]] if s else [])]
            if s and self.gates is not None:
                modules.append(self.gates[s - 1])
            x = run_stage(self._run_stage, s, history, history[-1], modules=modules, checkpointed=checkpointed)
            history.append(x)
            if self.deep_supervision or s == last:
                logits.append(head(x))
        return logits[::-1]

    def _run_stage(self, s: int, history: History, x: Tensor) -> Tensor:
        """The output of stage s, from the history and the output x of the stage before it."""
        # the history holds the outputs of later stages when the stage runs again
        history = history.first(len(CHANNELS) + s)
        x = self.xattnres(history, self.up[s - 1](x) if s else x)
        if s and self.gates is not None:
            x = x + self.gates[s - 1](x, history[len(CHANNELS) - 1 - s])
        return self.multi_scale[s](self.spatial_attention(self.channel_attention[s](x)))
