"""The block of MLLA (arXiv 2405.16605), which SEMA calls the "Mamba macro architecture", around SEMA."""

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.regularization import DropPath
from torch import Tensor, nn

from .sema import CONV, HEAD_WIDTH, SEMA, WINDOW
from .windows import to_image, to_tokens


class MLLABlock(nn.Module):
    r"""The block of MLLA with SEMA in place of its attention.

    .. math:: x &\leftarrow x + \text{DWConv}(x) \\
              g, u &= \text{SiLU}(\text{Linear}(\text{LN}(x))),\
                      \text{SiLU}(\text{DWConv}(\text{Linear}(\text{LN}(x)))) \\
              x &\leftarrow x + \text{DropPath}(\text{Linear}(\text{SEMA}(u) \odot g)) \\
              x &\leftarrow x + \text{DWConv}(x) \\
              x &\leftarrow x + \text{DropPath}(\text{MLP}(\text{LN}(x)))

    where DWConv is a depthwise 3x3 convolution with bias. The layout is that of MLLA's public code; SEMA in place of
    its attention is arXiv 2506.08297's. Ours: 3-D, with 3x3x3 convolutions; the initialisation, which is a truncated
    normal distribution of standard deviation 0.02 for linear layers, and PyTorch's for convolutions.

    Args:
        channels: the channels C of input and output.
        dim: the number of spatial axes, 2 or 3.
        window, head_width, scale: as in `SEMA`.
        mlp_ratio: the width of the MLP's hidden layer, as a multiple of C.
        drop_path: the probability with which a sample skips a residual branch in training (stochastic depth).

    Shapes:
        (B, C, *S) -> (B, C, *S), with any spatial size S.

    Raises:
        ValueError: as in `SEMA`.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        window: int = WINDOW,
        head_width: int = HEAD_WIDTH,
        scale: bool = False,
        mlp_ratio: float = 4,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.attention = SEMA(channels, dim, window, head_width, scale)  # the first, because it checks the arguments

        def depthwise() -> nn.Module:
            return CONV[dim](channels, channels, 3, padding=1, groups=channels)

        hidden = int(mlp_ratio * channels)
        self.position1 = depthwise()
        self.norm1 = nn.LayerNorm(channels)
        self.gate = nn.Linear(channels, channels)
        self.input = nn.Linear(channels, channels)
        self.conv = depthwise()
        self.output = nn.Linear(channels, channels)
        self.position2 = depthwise()
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.drop_path = DropPath(drop_path)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all parameters."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.Conv2d | nn.Conv3d):
                module.reset_parameters()

    def count_kept_elements(self, size: Sequence[int]) -> int:
        """Count the elements that the block's convolutions, norms, linear layers and attention write for one sample.

        Args:
            size: the spatial size of the input.
        """
        hidden: Any = self.mlp[0]
        return (14 * self.attention.channels + hidden.out_features) * math.prod(size)

    def forward(self, x: Tensor) -> Tensor:
        # one transposition; the convolutions read the same memory as images with channels last
        x = to_tokens(x).contiguous()
        x = x + _convolve(self.position1, x)
        y = self.norm1(x)
        gate = F.silu(self.gate(y))
        y = F.silu(_convolve(self.conv, self.input(y)))
        x = x + self.drop_path(self.output(self.attention.attend(y) * gate))
        x = x + _convolve(self.position2, x)
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return to_image(x)


def _convolve(conv: nn.Module, tokens: Tensor) -> Tensor:
    """A convolution of an image of tokens, (B, *S, C) -> (B, *S, C)."""
    return to_tokens(conv(to_image(tokens)))
