"""Resize (Eq. 4): adaptive max pooling where the target is smaller, linear interpolation where it is larger."""

import torch.nn.functional as F
from torch import Tensor

_POOL = {2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}


def downsample(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """Max-pool every axis of (B, C, *S_k) that is longer than `size`; the other axes stay as they are."""
    shape = tuple(feature.shape[2:])
    pooled = tuple(min(s, t) for s, t in zip(shape, size, strict=True))
    return feature if pooled == shape else _POOL[len(size)](feature, pooled)


def upsample(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """Interpolate (B, C, *S_k) linearly to `size`, corners not aligned."""
    if tuple(feature.shape[2:]) == tuple(size):
        return feature
    return F.interpolate(feature, size, mode=_LINEAR[len(size)], align_corners=False)


def resize(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize(h, (H', W')) of Eq. 4: (B, C, *S_k) -> (B, C, *size).

    An axis that shrinks is pooled, an axis that grows is interpolated; a feature that does both is pooled first.
    """
    return upsample(downsample(feature, size), size)
