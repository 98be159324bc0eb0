"""Max pooling with windows of equal lengths, and its gradient, on a CPU, by the kernels in `cpp_pooling.cpp`.

The windows are those of `pooling.py`: they divide the feature evenly, so every element of the feature is in one window.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from .cpp_library import call, pointer
from .tiles import three_axes


class _Pooling(ctypes.Structure):
    """The structure of cpp_pooling.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("feature", "pooled", "grad", "grad_feature")),
        ("images", ctypes.c_int64),
        ("size", ctypes.c_int64 * 3),
        ("window", ctypes.c_int64 * 3),
        ("threads", ctypes.c_int64),
    )


def max_pool(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Max pooling from (B, C, *S_k) to (B, C, *size), contiguous, where S_k is a multiple of `size`."""
    pooled = feature.new_empty((*feature.shape[:2], *size))
    _run("max_pool", feature, pooled)
    return pooled


def max_pool_backward(grad: Tensor, feature: Tensor, pooled: Tensor) -> Tensor:
    """The gradient of the feature, contiguous: all of a window's gradient for its first maximum."""
    grad_feature = torch.empty_like(feature, memory_format=torch.contiguous_format)
    _run("max_pool_backward", feature, pooled.contiguous(), grad.contiguous(), grad_feature)
    return grad_feature


def _run(
    function: str, feature: Tensor, pooled: Tensor, grad: Tensor | None = None, grad_feature: Tensor | None = None
) -> None:
    feature, size = feature.contiguous(), three_axes(pooled.shape[2:])
    window = tuple(s // t for s, t in zip(three_axes(feature.shape[2:]), size, strict=True))
    arguments = _Pooling(
        pointer(feature), pointer(pooled), pointer(grad), pointer(grad_feature), len(feature) * feature.shape[1], size,
        window, torch.get_num_threads(),
    )  # fmt: skip
    call(function, feature.dtype, arguments)
