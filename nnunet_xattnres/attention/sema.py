"""SEMA (arXiv 2506.08297): attention inside windows plus the mean of all values, at a cost linear in the pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.autocast import without_autocast
from ..ops.export_backend import is_exporting, static_shape
from .rotary import rotate, rotation_table
from .windows import from_windows, pad_tokens, real_keys, to_image, to_tokens, to_windows

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
WINDOW, HEAD_WIDTH = 7, 32


class SEMA(nn.Module):
    r"""Scalable and efficient Mamba-like attention over the pixels of an image.

    .. math:: \text{SEMA}(Q, K, V)_i = \sum_{j \in w(i)} \text{softmax}_j\big(q_i^\top k_j\big)\, v_j
              + \frac{1}{n} \sum_{j=1}^n v_j + \text{LePE}(V)_i

    for each head, where w(i) is the window with pixel i, and n is the number of pixels. The first two terms are the
    paper's (arXiv 2506.08297), with Q, K and V projected with bias and without 1/sqrt(d). The layer keeps the rest of
    the attention of MLLA (arXiv 2405.16605), whose place it takes: q and k have rotary positions, and LePE is a
    depthwise 3x3 convolution of the values.

    Ours: windows that reach over the edge are filled up with padding, which neither softmax nor mean sees; 3-D; the
    head width; channels that 2 * dim does not divide, of which those that are left over are not rotated; the attention
    is computed in float32 under autocast.

    Args:
        channels: the channels C of input and output.
        dim: the number of spatial axes, 2 or 3.
        window: the side of a window in pixels. A side of the image that is shorter has one window.
        head_width: the channels d of a head. A layer with fewer channels has one head.
        scale: divide the logits by sqrt(d), which is ours.

    Shapes:
        (B, C, *S) -> (B, C, *S), with any spatial size S.

    Attributes:
        qk: the projection to q and k.
        v: the projection to v.
        lepe: the depthwise convolution.

    Raises:
        ValueError: for an invalid argument, such as a head width that does not divide the channels, or channels that
            are odd; for an input of another shape.

    Example:
        >>> import torch
        >>> SEMA(channels=64, dim=2)(torch.randn(1, 64, 20, 30)).shape
        torch.Size([1, 64, 20, 30])
    """

    def __init__(
        self, channels: int, dim: int, window: int = WINDOW, head_width: int = HEAD_WIDTH, scale: bool = False
    ):
        super().__init__()
        if dim not in CONV:
            raise ValueError(f"SEMA: dim must be 2 or 3 (spatial axes), got {dim!r}")
        if min(channels, window, head_width) < 1:
            raise ValueError(
                f"SEMA: channels, window and head_width must be positive, got {channels}, {window} and {head_width}"
            )
        self.channels = channels
        self.dim = dim
        self.window = window
        self.heads = count_heads(channels, head_width)
        self.scale = scale
        self.qk = nn.Linear(channels, 2 * channels)
        self.v = nn.Linear(channels, channels)
        self.lepe = CONV[dim](channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        shape = static_shape(x)
        if len(shape) != self.dim + 2 or shape[1] != self.channels:
            expected = ", ".join(["B", str(self.channels), *"*" * self.dim])
            raise ValueError(f"SEMA: x must have shape ({expected}), got {shape}")
        return to_image(self.attend(to_tokens(x)))

    def attend(self, tokens: Tensor) -> Tensor:
        """The same for an image of tokens, (B, *S, C) -> (B, *S, C), which is not transposed."""
        v = self.v(tokens)
        q, k = self.qk(tokens).chunk(2, -1)
        acc_dtype = torch.promote_types(v.dtype, torch.float32)
        mean = v.mean(tuple(range(1, v.ndim - 1)), keepdim=True, dtype=acc_dtype)
        attended = window_attention(q, k, v, self.window, self.heads, self.scale) + mean
        return attended.to(v.dtype) + to_tokens(self.lepe(to_image(v)))

    def extra_repr(self) -> str:
        return f"channels={self.channels}, dim={self.dim}, window={self.window}, heads={self.heads}, scale={self.scale}"


def count_heads(channels: int, head_width: int) -> int:
    """The number of heads of a layer; one where it has fewer channels than a head.

    Raises:
        ValueError: if the channels cannot be split into heads of whole pairs, which the positions rotate.
    """
    width = min(channels, head_width)
    if width % 2:
        raise ValueError(
            f"SEMA: channels and head_width must be even, because positions rotate pairs of channels, got {channels} "
            f"channels and head_width {head_width}"
        )
    if channels % width:
        raise ValueError(
            f"SEMA: head_width must divide the number of channels, got head_width {head_width} for {channels} channels"
        )
    return channels // width


def window_attention(q: Tensor, k: Tensor, v: Tensor, window: int, heads: int, scale: bool = False) -> Tensor:
    """The first term of SEMA, with rotary positions, in float32 or more: (B, *S, C) -> (B, *S, C).

    Args:
        q, k, v: (B, *S, C).
        window: the side of a window.
        heads: the number of heads.
        scale: divide the logits by the root of the head width.
    """
    size, dtype = v.shape[1:-1], torch.promote_types(v.dtype, torch.float32)
    if is_exporting():
        # the graph serves images of every size; padding does not change the result
        sides, padded = [window] * len(size), True
    else:
        sides = [min(window, side) for side in size]
        padded = any(side % w for side, w in zip(size, sides, strict=True))
    mask = None
    if padded:
        q, k, v = (pad_tokens(x, sides) for x in (q, k, v))
        mask = real_keys(size, sides, heads, v.shape[0], v.device)
    table = rotation_table(sides, static_shape(v)[-1], heads, dtype, v.device)
    with without_autocast(v.device.type):
        q, k = (rotate(to_windows(x, sides, heads, dtype), *table) for x in (q, k))
        v = to_windows(v, sides, heads, dtype)
        out = F.scaled_dot_product_attention(q, k, v, mask, scale=None if scale else 1.0)
    return from_windows(out, sides, size, heads)
