"""The U-Net of the XAttnRes paper: five stages, max pooling, double convolutions, bilinear upsampling."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import History
from .connections import Connections
from .padding import crop, pad_to_multiple

WIDTHS = (18, 36, 72, 144, 144)
"""Width of every encoder stage."""

DECODER_WIDTHS = (72, 36, 18, 18)
"""Width of every decoder stage, deepest first."""


class PaperUNet(nn.Module):
    """The paper's own 2-D U-Net, of 1.06 M parameters, with any connections between its stages.

    Encoder (Eq. 10): e_i = conv(XAttnRes(H, maxpool(e_{i-1}))). Decoder (Eq. 11):
    d_j = conv(XAttnRes(H, [up(d_{j-1}); e_match])), where conv is twice a 3x3 convolution with batch normalisation and
    ReLU, and up is bilinear by a factor of 2 (align_corners=True). In the second encoder stage the pool holds e_1
    alone, and pooled it is x itself, so the layer there changes nothing.

    Args:
        input_channels, num_classes: channels of the image and of the logits.
        deep_supervision: only False; the paper's U-Net has one head.
        options: keywords of `Connections`; without any, the paper's "both".

    Shapes:
        input (B, input_channels, H, W) of any size -> (B, num_classes, H, W). Sides that 16 does not divide are padded
        inside.

    Raises:
        ValueError: for an option that does not exist, for deep supervision, or an input that is not (B, C, H, W).

    Source: arXiv 2604.03297, Sec. 3.3 and Table 2, which gives its size and not its widths; these reproduce the size.
    """

    def __init__(self, input_channels: int, num_classes: int, deep_supervision: bool = False, **options):
        super().__init__()
        if deep_supervision:
            raise ValueError("PaperUNet has one segmentation head: build it with deep_supervision=False")
        self.connections = Connections.of(options)
        self.encoder = nn.ModuleList(
            _double_conv(i, o) for i, o in zip((input_channels, *WIDTHS[:-1]), WIDTHS, strict=True)
        )
        up = (WIDTHS[-1], *DECODER_WIDTHS[:-1])
        skips = WIDTHS[-2::-1] if self.connections.skip else (0,) * len(up)
        stages = nn.ModuleList(_double_conv(u + s, o) for u, s, o in zip(up, skips, DECODER_WIDTHS, strict=True))
        # named as in nnU-Net, which then leaves the head out of -pretrained_weights
        heads = nn.ModuleList([nn.Conv2d(DECODER_WIDTHS[-1], num_classes, 1)])
        self.decoder = nn.ModuleDict({"stages": stages, "seg_layers": heads})
        self.xattnres = self.connections.layers(WIDTHS, WIDTHS[:-1], DECODER_WIDTHS, up, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"PaperUNet: input must be 4-D (B, C, H, W), got shape {tuple(x.shape)}")
        size = x.shape[2:]
        history = History([self.encoder[0](pad_to_multiple(x, 16))])
        for stage in self.encoder[1:]:
            history.append(stage(self.xattnres(history, F.max_pool2d(history[-1], 2))))
        for stage, skip in zip(self.decoder["stages"], history[-2::-1], strict=True):
            up = F.interpolate(history[-1], scale_factor=2, mode="bilinear", align_corners=True)
            history.append(stage(self.connections.join(self.xattnres, history, up, skip)))
        (head,) = self.decoder["seg_layers"]
        return crop(head(history[-1]), size)


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    layers = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
