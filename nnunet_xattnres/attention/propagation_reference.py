"""The formulas of `propagation.py` literally: one head at a time, and the attention itself is upsampled."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.resize import LINEAR


def attention_map(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """As `propagation.attention_map`."""
    d = query.shape[2] // heads
    maps = []
    for q, k in zip(query.split(d, 2), key.split(d, 2), strict=True):
        products = torch.einsum("bnc,bmc->bnm", q, k) / math.sqrt(d)
        maps.append(products.exp() / products.exp().sum(2, keepdim=True))
    return torch.stack(maps, 1)


def propagate_attention(
    attention: Tensor,
    values: Tensor,
    weight: Tensor,
    bias: Tensor,
    grid: Sequence[int],
    size: Sequence[int] | None = None,
) -> Tensor:
    """As `propagation.propagate_attention`, but A becomes a map of `size` for every head and token, then weights V."""
    batch, heads, _, tokens = attention.shape
    size = grid if size is None else size
    maps = attention.transpose(2, 3).reshape(batch, heads * tokens, *grid)
    maps = F.interpolate(maps, size=tuple(size), mode=LINEAR[len(grid)], align_corners=False)
    maps = maps.reshape(batch, heads, tokens, -1)
    d = values.shape[2] // heads
    out = torch.cat([torch.einsum("bmn,bmc->bnc", maps[:, h], v) for h, v in enumerate(values.split(d, 2))], 2)
    out = torch.einsum("bnc,oc->bno", out, weight) + bias
    return out.transpose(1, 2).reshape(batch, -1, *size)
