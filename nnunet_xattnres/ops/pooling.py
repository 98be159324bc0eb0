"""Max pooling for the copies that several stages share: nothing is kept but the feature and its copy."""

import itertools
import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from .resize import downsample

_LARGEST_WINDOW = 27


def pooled_size(shape: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """The size that a feature of a spatial shape is max-pooled to, so that no axis is longer than in `size`."""
    return tuple(min(s, t) for s, t in zip(shape, size, strict=True))


def pool_history(history: Sequence[Tensor], size: tuple[int, ...]) -> list[Tensor]:
    """All features, max-pooled along every axis that is longer than in `size`; a `History` shares its copies."""
    # not isinstance: `History` is built on this package
    if hasattr(history, "pooled"):
        return history.pooled(size)
    targets = [pooled_size(feature.shape[2:], size) for feature in history]
    return [
        feature if tuple(feature.shape[2:]) == target else max_pool(feature, target)
        for feature, target in zip(history, targets, strict=True)
    ]


def max_pool(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, *S_k) -> (B, C, *size), no axis of `size` longer: adaptive max pooling, lean for small whole windows.

    The gradient goes to the first maximum of a window, as everywhere in PyTorch.
    """
    window = tuple(s // t for s, t in zip(feature.shape[2:], size, strict=True))
    divides = all(s % t == 0 for s, t in zip(feature.shape[2:], size, strict=True))
    # backward looks at every place of a window in turn
    if not divides or math.prod(window) > _LARGEST_WINDOW:
        return downsample(feature, size)
    return _MaxPool.apply(feature, window)


class _MaxPool(torch.autograd.Function):
    """Pooling over whole windows (k_1, ..., k_d), without the indices that PyTorch's own keeps."""

    @staticmethod
    def forward(ctx, feature: Tensor, window: tuple[int, ...]) -> Tensor:
        pooled = feature
        # one axis after the other, the last first: each step leaves less to do for the next
        for axis, k in zip(range(-1, -len(window) - 1, -1), reversed(window), strict=True):
            pooled = reduce(torch.maximum, (_every(pooled, axis, k, offset) for offset in range(k)))
        ctx.window = window
        ctx.save_for_backward(feature, pooled)
        return pooled

    @staticmethod
    def backward(ctx, grad: Tensor):
        feature, pooled = ctx.saved_tensors
        out = torch.empty_like(feature)
        left = grad
        for offsets in itertools.product(*map(range, ctx.window)):
            candidate, target = feature, out
            for axis, (k, offset) in enumerate(zip(ctx.window, offsets, strict=True), start=2):
                candidate, target = _every(candidate, axis, k, offset), _every(target, axis, k, offset)
            share = torch.where(candidate == pooled, left, 0)
            target.copy_(share)
            left = left - share
        return out, None


def _every(feature: Tensor, axis: int, step: int, offset: int) -> Tensor:
    """Every `step`-th element along an axis."""
    return feature if step == 1 else feature.unflatten(axis, (-1, step)).select(axis if axis < 0 else axis + 1, offset)
