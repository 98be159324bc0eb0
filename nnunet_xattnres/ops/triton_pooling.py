"""Max pooling with windows of equal lengths, and its gradient, in Triton and in one pass each.

The windows are those of `pooling.py`: they divide the feature evenly, so every element of the feature is in one window.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import three_axes
from .triton_launch import Launch, as_operand, memory_of

# The number of windows that a program computes.
_WINDOWS = 1024


@triton.jit
def _load_and_widen(pointer, mask):
    """The values in a dtype in which they can be compared."""
    value = tl.load(pointer, mask=mask, other=0)
    if value.dtype != tl.float64:
        value = value.to(tl.float32)
    return value


@triton.jit
def _first_element(j, size_y, size_x, window_z, window_y, window_x, pooled_y, pooled_x):
    """The first element of window j. Features and windows follow each other in memory, so z counts those of all."""
    x, y, z = j % pooled_x, j // pooled_x % pooled_y, j // (pooled_x * pooled_y)
    return ((z * window_z) * size_y + y * window_y) * size_x + x * window_x


@triton.jit(do_not_specialize=["count", "window_z", "window_y", "window_x", "pooled_y"])
def max_pool_kernel(
    feature, pooled, count, size_y, size_x, window_z, window_y, window_x, pooled_y, pooled_x,
    WINDOWS: tl.constexpr,
):  # fmt: skip
    """The maxima of some windows; NaN where one of the values is NaN. Grid: (blocks of windows,)."""
    j = tl.program_id(0) * WINDOWS + tl.arange(0, WINDOWS)
    inside = j < count
    first = feature + _first_element(j, size_y, size_x, window_z, window_y, window_x, pooled_y, pooled_x)
    maximum = _load_and_widen(first, inside)
    for dz in range(window_z):
        for dy in range(window_y):
            for dx in range(window_x):
                value = _load_and_widen(first + (dz * size_y + dy) * size_x + dx, inside)
                maximum = tl.maximum(maximum, value, propagate_nan=tl.PropagateNan.ALL)
    tl.store(pooled + j, maximum.to(pooled.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count", "window_z", "window_y", "window_x", "pooled_y"])
def max_pool_backward_kernel(
    grad, feature, pooled, d_feature, count, size_y, size_x, window_z, window_y, window_x, pooled_y, pooled_x,
    WINDOWS: tl.constexpr,
):  # fmt: skip
    """The gradients of the elements of some windows: all of it for the first maximum. Grid: (blocks of windows,)."""
    j = tl.program_id(0) * WINDOWS + tl.arange(0, WINDOWS)
    inside = j < count
    first = _first_element(j, size_y, size_x, window_z, window_y, window_x, pooled_y, pooled_x)
    maximum = _load_and_widen(pooled + j, inside)
    gradient = tl.load(grad + j, mask=inside, other=0)
    found = j < 0
    for dz in range(window_z):
        for dy in range(window_y):
            for dx in range(window_x):
                element = first + (dz * size_y + dy) * size_x + dx
                value = _load_and_widen(feature + element, inside)
                # NaN is the maximum of its window and unequal to itself
                is_maximum = ((value == maximum) | (value != value)) & (found == 0)
                tl.store(d_feature + element, tl.where(is_maximum, gradient, 0), mask=inside)
                found = found | is_maximum


def max_pool(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Max-pool (B, C, *S_k) to (B, C, *size); arguments as in `pooling.max_pool`."""
    feature = as_operand(feature)
    pooled = feature.new_empty((*feature.shape[:2], *size))
    if pooled.numel():
        with torch.cuda.device_of(feature):
            _launch(max_pool_kernel, feature.shape, pooled.shape, feature.dtype, feature.device, _WINDOWS)(
                memory_of(feature), memory_of(pooled)
            )
    return pooled


def max_pool_backward(grad: Tensor, feature: Tensor, pooled: Tensor) -> Tensor:
    """The gradient of the feature; arguments as in `pooling.max_pool_backward`."""
    operands = [as_operand(tensor) for tensor in (grad, feature, pooled)]
    d_feature = torch.empty_like(feature, memory_format=torch.contiguous_format)
    if pooled.numel():
        with torch.cuda.device_of(feature):
            _launch(max_pool_backward_kernel, feature.shape, pooled.shape, feature.dtype, feature.device, _WINDOWS)(
                *[memory_of(tensor) for tensor in operands], memory_of(d_feature)
            )
    return d_feature


@lru_cache(maxsize=512)
def _launch(
    kernel: Any, shape: torch.Size, pooled: torch.Size, dtype: torch.dtype, device: torch.device, windows: int
) -> Launch:
    """The launch of a kernel for tensors of these shapes, of this dtype and on this device.

    A program computes `windows` windows. The numbers are those of all windows, height and width of the feature, depth,
    height and width of a window, and height and width of the result.
    """
    size, target = three_axes(shape[2:]), three_axes(pooled[2:])
    window = [s // t for s, t in zip(size, target, strict=True)]
    return Launch(
        kernel, (triton.cdiv(pooled.numel(), windows),), [dtype] * (2 if kernel is max_pool_kernel else 4),
        pooled.numel(), *size[1:], *window, *target[1:],
        WINDOWS=windows,
    )  # fmt: skip
