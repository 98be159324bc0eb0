r"""Attention that is computed once, at the deepest stage, and propagated to the others (CSAP, arXiv 2604.05431).

.. math:: A = \text{softmax}(Q K^\top / \sqrt d), \quad \text{out}_i = \text{Up}(A) \, V_i W_i + b_i

The deepest stage has N query tokens, and the features of all stages are pooled to one grid of M tokens, so that the map
A, of shape N x M in every head, can weight the values V_i of every stage. Up is linear interpolation, whose weights sum
to one for every pixel. It acts on pixels, and the matrices act on channels, so they commute, and

.. math:: \text{Up}(A) \, V_i W_i + b_i = \text{Up}(A V_i W_i + b_i),

which is computed here: the products are those of the coarse grid. `propagation_reference.py` has the left side.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.autocast import without_autocast
from ..ops.resize import LINEAR


def to_tokens(x: Tensor) -> Tensor:
    """The pixels of a feature as tokens: (B, C, *S) -> (B, N, C), where N is the number of pixels."""
    return x.flatten(2).transpose(1, 2)


def attention_map(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """The weights A = softmax(Q K^T / sqrt(d)) of every head, in float32, or in float64 for inputs in float64.

    Args:
        query: (B, N, C).
        key: (B, M, C).
        heads: number of heads, each with d = C / heads channels.

    Returns:
        (B, heads, N, M), whose rows sum to one.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, key = (x.to(dtype).unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key))
    with without_autocast(query.device.type):
        return (query * query.shape[-1] ** -0.5 @ key.transpose(2, 3)).softmax(3)


def propagate_attention(
    attention: Tensor,
    values: Tensor,
    weight: Tensor,
    bias: Tensor,
    grid: Sequence[int],
    size: Sequence[int] | None = None,
) -> Tensor:
    """Apply the attention of the deepest stage to the values of another: Up(A) V W + b, computed as Up(A V W + b).

    Args:
        attention: the weights A, (B, heads, N, M).
        values: V, (B, M, C); a head has C / heads channels.
        weight: W transposed, (C, C), as in `nn.Linear`.
        bias: b, (C,).
        grid: spatial size of the deepest stage, N pixels.
        size: spatial size of the stage with the values; None if it is the deepest.

    Returns:
        (B, C, *size).
    """
    values = values.unflatten(2, (attention.shape[1], -1)).transpose(1, 2)
    out = (attention.to(values.dtype) @ values).transpose(1, 2).flatten(2)
    out = F.linear(out, weight, bias).transpose(1, 2).unflatten(2, tuple(grid))
    if size is None:
        return out
    return F.interpolate(out, size=tuple(size), mode=LINEAR[len(grid)], align_corners=False)


class PooledTokens(nn.Module):
    """Tokens of a pooled feature, from which keys and values are made: GELU(LayerNorm(W x + b)).

    Args:
        channels: number of channels C.

    Shapes:
        (B, C, *grid) -> (B, M, C).
    """

    def __init__(self, channels: int):
        super().__init__()
        # linear layers, because nnU-Net initialises convolutions anew
        self.linear = _linear(channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.linear(to_tokens(x))))


class AttentionMap(nn.Module):
    """The attention of the deepest stage, softmax(Q K^T / sqrt(d)), where Q = W_q x and K = W_k y, without biases.

    Args:
        channels: channels C of both inputs.
        heads: number of heads.

    Shapes:
        x (B, N, C), y (B, M, C) -> (B, heads, N, M), in float32 inside autocast.

    Raises:
        ValueError: if `heads` does not divide `channels`.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        _check_heads(self, channels, heads)
        self.heads = heads
        self.query, self.key = (_linear(channels, bias=False) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return attention_map(self.query(x), self.key(y), self.heads)


class AttentionPropagation(nn.Module):
    """What a stage receives from the attention of the deepest stage: Up(A) V W + b, where V = W_v y.

    Args:
        channels: channels C of the stage.
        heads: number of heads of the attention.

    Shapes:
        A (B, heads, N, M), y (B, M, C) -> (B, C, *size), or (B, C, *grid) without a size.

    Raises:
        ValueError: if `heads` does not divide `channels`.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        _check_heads(self, channels, heads)
        self.value = _linear(channels, bias=False)
        self.project = _linear(channels)

    def forward(self, attention: Tensor, y: Tensor, grid: Sequence[int], size: Sequence[int] | None = None) -> Tensor:
        """Arguments as in `propagate_attention`, and y, the pooled tokens of the stage."""
        return propagate_attention(attention, self.value(y), self.project.weight, self.project.bias, grid, size)


def _linear(channels: int, bias: bool = True) -> nn.Linear:
    linear = nn.Linear(channels, channels, bias)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def _check_heads(module: nn.Module, channels: int, heads: int) -> None:
    if channels % heads:
        raise ValueError(
            f"{type(module).__name__}: the number of heads must divide the channels, got {heads} heads and {channels} "
            "channels"
        )
