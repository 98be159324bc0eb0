"""Rotary positions of the tokens of a window (MLLA, arXiv 2405.16605; RoPE, arXiv 2104.09864).

A product of two rotated vectors depends on the difference of their positions alone, so inside a window the position in
the window gives the same attention as the position in the image. One small table serves all windows and all sizes.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def rotation_table(
    window: Sequence[int], channels: int, heads: int, dtype: torch.dtype, device: torch.device, base: float = 10000.0
) -> tuple[Tensor, Tensor]:
    """The cosine and the signed sine by which `rotate` turns channels 2j and 2j + 1, of shape (heads, L, C / heads).

    Each axis has floor(C / (2 axes)) frequencies, over all C channels before they are split into heads; channels that
    are left over are not turned.
    """
    axes = len(window)
    frequencies = channels // (2 * axes)
    speed = base ** (-torch.arange(frequencies, dtype=dtype, device=device) / max(frequencies, 1))
    sides = [torch.arange(side, dtype=dtype, device=device) for side in window]
    positions = torch.stack(torch.meshgrid(sides, indexing="ij"), -1)
    angles = (positions[..., None] * speed).flatten(-2)  # (*window, axes * F)
    angles = F.pad(angles, [0, channels // 2 - axes * frequencies])
    cos, sin = angles.cos(), angles.sin()
    tables = torch.stack([cos, cos], -1), torch.stack([-sin, sin], -1)
    cos, sin = (table.flatten(-2).reshape(math.prod(window), heads, -1).transpose(0, 1) for table in tables)
    return cos.contiguous(), sin.contiguous()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn windows (B * R, N * heads, L, d) by the tables of `rotation_table`."""
    by_head = x.unflatten(1, (-1, cos.shape[0]))
    swapped = by_head.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(by_head * cos, swapped, sin).flatten(1, 2)
