"""Images of tokens, (B, *S, C), and their non-overlapping windows, laid out for `scaled_dot_product_attention`.

Sides that are no multiples of the window are padded at their end, so the last window along an axis holds at least one
token of the image.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.export_backend import is_exporting


def to_tokens(image: Tensor) -> Tensor:
    """(B, C, *S) -> (B, *S, C), a view."""
    return image.permute(0, *range(2, image.ndim), 1)


def to_image(tokens: Tensor) -> Tensor:
    """(B, *S, C) -> (B, C, *S), a view."""
    return tokens.permute(0, tokens.ndim - 1, *range(1, tokens.ndim - 1))


def count_windows(size: Sequence[int], window: Sequence[int]) -> list[int]:
    """The number of windows along each axis."""
    return [(side + w - 1) // w for side, w in zip(size, window, strict=True)]


def pad_tokens(tokens: Tensor, window: Sequence[int]) -> Tensor:
    """Pad (B, *S, C) with zeros at the end of each axis, to multiples of the window."""
    size = tokens.shape[1:-1]
    padding = [n * w - side for n, w, side in zip(count_windows(size, window), window, size, strict=True)]
    return F.pad(tokens, [0, 0, *(n for end in reversed(padding) for n in (0, end))])


def to_windows(tokens: Tensor, window: Sequence[int], heads: int, dtype: torch.dtype | None = None) -> Tensor:
    """Tokens (B, *S, C), with sides that are multiples of the window, -> (B * R, N * heads, L, C / heads).

    N is the number of windows along the last axis, R that along all other axes, L the number of tokens in a window.
    Kernels of `scaled_dot_product_attention` on CUDA take at most 65,535 of each of the first two axes.

    Args:
        dtype: the dtype of the result, by default that of the tokens.
    """
    batch, *size, channels = tokens.shape
    counts = [side // w for side, w in zip(size, window, strict=True)]
    split = [n for pair in zip(counts, window, strict=True) for n in pair]
    view = tokens.reshape(batch, *split, heads, channels // heads).permute(_order(len(size)))
    # one copy also where the dtype changes
    view = view.to(dtype or tokens.dtype, memory_format=torch.contiguous_format)
    return view.reshape(batch * math.prod(counts[:-1]), counts[-1] * heads, math.prod(window), channels // heads)


def from_windows(windows: Tensor, window: Sequence[int], size: Sequence[int], heads: int) -> Tensor:
    """Undo `pad_tokens` and `to_windows`: -> (B, *size, C), a view."""
    counts = count_windows(size, window)
    order = _order(len(size))
    inverse = [order.index(axis) for axis in range(len(order))]
    batch = windows.shape[0] // math.prod(counts[:-1])
    view = windows.reshape(batch, *counts, heads, *window, windows.shape[-1]).permute(inverse)
    tokens = view.flatten(-2).reshape(batch, *(n * w for n, w in zip(counts, window, strict=True)), -1)
    if is_exporting():
        # a slice asks whether a side is not larger, which torch.export cannot prove for sizes that are not known
        for axis, side in enumerate(size, start=1):
            tokens = tokens.index_select(axis, torch.arange(side, device=tokens.device))
        return tokens
    index: tuple[Any, ...] = (slice(None), *map(slice, size))
    return tokens[index]


def real_keys(size: Sequence[int], window: Sequence[int], heads: int, batch: int, device: torch.device) -> Tensor:
    """Whether a key is a token of the image, not padding: (B * R, N * heads, 1, L), as in `to_windows`."""
    real = torch.ones(1, *size, 1, dtype=torch.bool, device=device)
    mask = to_windows(pad_tokens(real, window).expand(batch, *([-1] * len(size)), heads), window, heads)
    return mask.transpose(-1, -2)


def _order(axes: int) -> list[int]:
    """The axes (B, n_1, w_1, ..., n_d, w_d, head, channel) in the order B, n_1, ..., n_d, head, w_1, ..., channel."""
    counts, sides = range(1, 2 * axes + 1, 2), range(2, 2 * axes + 1, 2)
    return [0, *counts, 2 * axes + 1, *sides, 2 * axes + 2]
