"""The U-Net of the XAttnRes paper: five stages, max pooling, double convolutions, bilinear upsampling."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..history import History
from .checkpointing import run_stage
from .connections import Connections
from .padding import crop, pad_to_multiple

ENCODER_CHANNELS = (18, 36, 72, 144, 144)
"""Channels of every encoder stage."""

DECODER_CHANNELS = (72, 36, 18, 18)
"""Channels of every decoder stage, deepest first."""


class PaperUNet(nn.Module):
    r"""The paper's own 2-D U-Net, of 1.06 M parameters without XAttnRes and 1.28 M with it.

    .. math:: e_i = \text{conv}\big(\text{XAttnRes}(H, \text{maxpool}(e_{i-1}))\big), \quad
              d_j = \text{conv}\big(\text{XAttnRes}(H, [\text{up}(d_{j-1}); e_\text{match}])\big)

    (Eqs. 10 and 11), where conv is two 3x3 convolutions, each with batch normalisation and ReLU, and up is bilinear
    interpolation by a factor of 2 (align_corners=True). In the second encoder stage the history holds e_1 alone, whose
    max-pooled copy equals x, so the layer of that stage changes nothing.

    Args:
        input_channels: channels of the image.
        num_classes: channels of the logits.
        deep_supervision: must be False, as the network has one segmentation head.
        options: options of `Connections`; by default the paper's "both", XAttnRes in all stages and skip connections.

    Shapes:
        input (B, input_channels, H, W) -> (B, num_classes, H, W). Images whose sides are not multiples of 16 are
        padded, and the logits cropped.

    Raises:
        ValueError: if an option is unknown, `deep_supervision` is True, or an input is not (B, C, H, W).

    Source: arXiv 2604.03297, Sec. 3.3 and Table 2. The paper gives the number of parameters but no widths; these widths
    reproduce the number.

    Example:
        >>> import torch
        >>> network = PaperUNet(input_channels=1, num_classes=2, skip=False)
        >>> network(torch.zeros(1, 1, 32, 40)).shape
        torch.Size([1, 2, 32, 40])
    """

    def __init__(self, input_channels: int, num_classes: int, deep_supervision: bool = False, **options):
        super().__init__()
        if deep_supervision:
            raise ValueError("PaperUNet has one segmentation head: build it with deep_supervision=False")
        self.connections = Connections.from_options(options)
        self.checkpoint = self.connections.uses_checkpoints()
        self.encoder = nn.ModuleList(
            _double_conv(i, o) for i, o in zip((input_channels, *ENCODER_CHANNELS[:-1]), ENCODER_CHANNELS, strict=True)
        )
        upsampled = (ENCODER_CHANNELS[-1], *DECODER_CHANNELS[:-1])
        skips = ENCODER_CHANNELS[-2::-1] if self.connections.skip else (0,) * len(upsampled)
        stages = nn.ModuleList(
            _double_conv(u + s, o) for u, s, o in zip(upsampled, skips, DECODER_CHANNELS, strict=True)
        )
        # nnU-Net's -pretrained_weights leaves out parameters of this name
        heads = nn.ModuleList([nn.Conv2d(DECODER_CHANNELS[-1], num_classes, 1)])
        self.decoder: Any = nn.ModuleDict({"stages": stages, "seg_layers": heads})
        self.xattnres = self.connections.build_layers(
            ENCODER_CHANNELS, ENCODER_CHANNELS[:-1], DECODER_CHANNELS, upsampled, dim=2
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"PaperUNet: input must be 4-D (B, C, H, W), got shape {tuple(x.shape)}")
        size = x.shape[2:]
        first, x = self.encoder[0], pad_to_multiple(x, 16)
        history = History([run_stage(first, x, modules=[first], checkpointed=self.checkpoint)])
        for stage in self.encoder[1:]:
            history.append(stage(self.xattnres(history, F.max_pool2d(history[-1], 2))))
        stages = self.decoder["stages"]
        for s, stage in enumerate(stages):
            # the backward pass begins with the last stage: to compute it again would not lower the peak of memory
            checkpointed = self.checkpoint and s < len(stages) - 1
            x = run_stage(self._run_decoder_stage, s, history, history[-1], modules=[stage], checkpointed=checkpointed)
            history.append(x)
        (head,) = self.decoder["seg_layers"]
        return crop(head(history[-1]), size)

    def _run_decoder_stage(self, s: int, history: History, x: Tensor) -> Tensor:
        """The output of decoder stage s, from the history and the output x of the stage before it."""
        # the history holds the outputs of later stages when the stage runs again
        history = history.first(len(self.encoder) + s)
        upsampled = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        skip = history[len(self.encoder) - 2 - s]
        return self.decoder["stages"][s](self.connections.merge_skip(self.xattnres, history, upsampled, skip))


def _double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
