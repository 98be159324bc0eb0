"""Adaptive max pooling that keeps only its input and its output for backward."""

import itertools
import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from .resize import downsample, pooled_size

# The largest window, in elements, that `_MaxPool` handles; its time grows with the elements of the window.
_LARGEST_WINDOW = 27


def pool_history(history: Sequence[Tensor], size: tuple[int, ...]) -> list[Tensor]:
    """All features, max-pooled along every axis that is longer than in `size`; a `History` shares its copies."""
    # `History` is recognised by its method, because its module imports this one
    if hasattr(history, "pooled"):
        return history.pooled(size)
    targets = [pooled_size(feature.shape[2:], size) for feature in history]
    return [
        feature if tuple(feature.shape[2:]) == target else max_pool(feature, target)
        for feature, target in zip(history, targets, strict=True)
    ]


def max_pool(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """Adaptive max pooling from (B, C, *S_k) to (B, C, *size), where no axis of `size` is longer than in S_k.

    As in PyTorch, the first maximum of a window receives the gradient. PyTorch's own pooling keeps an int64 index for
    every output; small windows that divide the feature evenly are pooled here without them.
    """
    window = tuple(s // t for s, t in zip(feature.shape[2:], size, strict=True))
    divisible = all(s % t == 0 for s, t in zip(feature.shape[2:], size, strict=True))
    if not divisible or math.prod(window) > _LARGEST_WINDOW:
        return downsample(feature, size)
    return _MaxPool.apply(feature, window)


class _MaxPool(torch.autograd.Function):
    """Max pooling with windows (k_1, ..., k_d) that divide the feature evenly."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, window: tuple[int, ...]) -> Tensor:
        pooled = feature
        # axis by axis from the last: every step makes the input of the next one smaller
        for axis, k in zip(range(-1, -len(window) - 1, -1), reversed(window), strict=True):
            pooled = reduce(torch.maximum, (_every_kth(pooled, axis, k, offset) for offset in range(k)))
        ctx.window = window
        ctx.save_for_backward(feature, pooled)
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        feature, pooled = ctx.saved_tensors
        grad_feature = torch.empty_like(feature)
        remaining = grad  # zero where the maximum has already been found
        for offsets in itertools.product(*map(range, ctx.window)):
            candidate, target = feature, grad_feature
            for axis, (k, offset) in enumerate(zip(ctx.window, offsets, strict=True), start=2):
                candidate, target = _every_kth(candidate, axis, k, offset), _every_kth(target, axis, k, offset)
            received = torch.where(candidate == pooled, remaining, 0)
            target.copy_(received)
            remaining = remaining - received
        return grad_feature, None


def _every_kth(feature: Tensor, axis: int, k: int, offset: int) -> Tensor:
    """A view of the elements offset, offset + k, offset + 2k, ... along an axis."""
    return feature if k == 1 else feature.unflatten(axis, (-1, k)).select(axis if axis < 0 else axis + 1, offset)
