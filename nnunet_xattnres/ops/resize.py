"""Resize of Eq. 4: adaptive max pooling along axes that shrink, linear interpolation along axes that grow."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

_POOL = {2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""PyTorch's names of linear interpolation, by the number of spatial axes."""


def pooled_size(shape: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """The spatial size after pooling a feature of size `shape` so that no axis is longer than in `size`."""
    # not min: with symbolic sizes, torch.compile would nest one minimum in another for every stage of a network
    return tuple(s if s < t else t for s, t in zip(shape, size, strict=True))


def downsample(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """Max-pool (B, C, *S_k) along every axis that is longer than in `size`."""
    target = pooled_size(feature.shape[2:], size)
    return feature if target == tuple(feature.shape[2:]) else _POOL[len(size)](feature, target)


def upsample(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """Interpolate (B, C, *S_k) linearly to (B, C, *size), with align_corners=False."""
    if tuple(feature.shape[2:]) == tuple(size):
        return feature
    return F.interpolate(feature, size, mode=LINEAR[len(size)], align_corners=False)


def resize(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize (B, C, *S_k) to (B, C, *size): first pool the axes that shrink, then interpolate those that grow."""
    return upsample(downsample(feature, size), size)
