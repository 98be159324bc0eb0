"""Adaptive max pooling that keeps only its input and its output for backward.

`torch.compile` sees two opaque operators, `nnunet_xattnres::max_pool` and `nnunet_xattnres::max_pool_backward`. The
sizes of their windows are computed when they run: expressions of symbolic sizes such as s // t and s % t, one in
another for every stage of a network, take the compiler minutes to simplify.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import reduce
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .cpp_library import DTYPES
from .resize import pooled_size

_ADAPTIVE: dict[int, Any] = {2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}

# The longest window along an axis that is pooled on a CPU one element after the other.
_LONGEST_WINDOW = 4


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


@torch.library.custom_op("nnunet_xattnres::max_pool", mutates_args=())
def max_pool(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Adaptive max pooling from (B, C, *S_k) to (B, C, *size), where no axis of `size` is longer than in S_k.

    As in PyTorch, the first maximum of a window receives the gradient. PyTorch's own pooling keeps an int64 index for
    every output, and adds gradients in no fixed order on CUDA. Here nothing is kept but the feature and the result, and
    the gradients are the same in every run. Where windows have equal lengths, Triton on CUDA and C++ on a CPU compute
    both, in one pass each, unless the environment variable XATTNRES_BACKEND selects PyTorch.
    """
    kernels = _pooling_kernels(feature, size)
    if kernels is not None:
        return kernels.max_pool(feature, size)
    if not _pools_by_elements(feature, size):
        return _ADAPTIVE[len(size)](feature, list(size)).contiguous()
    pooled = feature
    # axis by axis from the last: every step makes the input of the next one smaller
    for axis, k in zip(range(-1, -len(size) - 1, -1), reversed(_window(feature, size)), strict=True):
        pooled = reduce(torch.maximum, (_every_kth(pooled, axis, k, offset) for offset in range(k)))
    # the result of an operator is never its argument
    return pooled.clone(memory_format=torch.contiguous_format) if pooled is feature else pooled.contiguous()


@max_pool.register_fake
def _(feature, size):
    return feature.new_empty((*feature.shape[:2], *size))


@torch.library.custom_op("nnunet_xattnres::max_pool_backward", mutates_args=())
def max_pool_backward(grad: Tensor, feature: Tensor, pooled: Tensor) -> Tensor:
    """The gradient of the feature, (B, C, *S_k), from that of the pooled feature, (B, C, *size)."""
    size = tuple(pooled.shape[2:])
    kernels = _pooling_kernels(feature, size)
    if kernels is not None:
        return kernels.max_pool_backward(grad, feature, pooled)
    if _pools_by_elements(feature, size):
        return _gradient_by_elements(grad, feature, pooled)
    return _gradient_by_indices(grad, feature, size)


@max_pool_backward.register_fake
def _(grad, feature, pooled):
    return torch.empty_like(feature, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Sequence[int]], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)


def _autograd_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return max_pool_backward(grad, *ctx.saved_tensors), None


max_pool.register_autograd(_autograd_backward, setup_context=_setup_context)


def _pooling_kernels(feature: Tensor, size: Sequence[int]) -> Any:
    """The module with kernels for these windows, `cpp_pooling` or `triton_pooling`, or None where PyTorch pools."""
    if not _divides(feature, size):
        return None
    # an import of its own, because that module imports this one
    dispatch = import_module(".dispatch", __package__)
    backend = dispatch.resolve_backend(None, feature.device.type)
    # the offsets of the Triton kernels are 32-bit integers
    if (backend == "triton" and feature.numel() < 2**31) or (backend == "cpp" and feature.dtype in DTYPES):
        return import_module(f".{backend}_pooling", __package__)
    return None


def _divides(feature: Tensor, size: Sequence[int]) -> bool:
    """Whether all windows along an axis have the same length, and do not overlap."""
    return all(s % t == 0 for s, t in zip(feature.shape[2:], size, strict=True))


def _pools_by_elements(feature: Tensor, size: Sequence[int]) -> bool:
    """Whether maxima are taken over views of every k-th element: on a CPU, for small windows of equal lengths.

    That takes several operations per element of a window. They are fast on a CPU; on other devices, PyTorch's pooling
    takes fewer.
    """
    return feature.device.type == "cpu" and _divides(feature, size) and max(_window(feature, size)) <= _LONGEST_WINDOW


def _window(feature: Tensor, size: Sequence[int]) -> tuple[int, ...]:
    return tuple(s // t for s, t in zip(feature.shape[2:], size, strict=True))


def _every_kth(feature: Tensor, axis: int, k: int, offset: int) -> Tensor:
    """A view of the elements offset, offset + k, offset + 2k, ... along an axis."""
    return feature if k == 1 else feature.unflatten(axis, (-1, k)).select(axis if axis < 0 else axis + 1, offset)


def _gradient_by_elements(grad: Tensor, feature: Tensor, pooled: Tensor) -> Tensor:
    """The gradient for windows that divide the feature evenly."""
    grad_feature = torch.empty_like(feature, memory_format=torch.contiguous_format)
    window = _window(feature, pooled.shape[2:])
    remaining = grad  # zero where the maximum has already been found
    for offsets in itertools.product(*map(range, window)):
        candidate, target = feature, grad_feature
        for axis, (k, offset) in enumerate(zip(window, offsets, strict=True), start=2):
            candidate, target = _every_kth(candidate, axis, k, offset), _every_kth(target, axis, k, offset)
        found = candidate == pooled
        target.copy_(torch.where(found, remaining, 0))
        remaining = remaining.masked_fill(found, 0)
    return grad_feature


def _gradient_by_indices(grad: Tensor, feature: Tensor, size: tuple[int, ...]) -> Tensor:
    """The gradient for windows of any lengths, from PyTorch's indices of the maxima, which are computed again.

    Windows that do not divide the feature overlap, but only with the next one along an axis. So the windows are taken
    in groups of every second one along every such axis: in a group no two have the same maximum, and no order of
    additions is left open.
    """
    _, indices = _ADAPTIVE[len(size)](feature, list(size), return_indices=True)
    grad_feature = feature.new_zeros(feature.shape)
    flat = grad_feature.flatten(2)
    groups = list(_groups(feature.shape[2:], size))
    for group in groups:
        index, received = indices[group].flatten(2), grad[group].flatten(2)
        flat.scatter_(2, index, received if len(groups) == 1 else received + flat.gather(2, index))
    return grad_feature


def _groups(shape: Sequence[int], size: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Slices of (B, C, *size) in which no two windows overlap."""
    steps = [
        [slice(None)] if s % t == 0 else [slice(0, None, 2), slice(1, None, 2)]
        for s, t in zip(shape, size, strict=True)
    ]
    return ((slice(None), slice(None), *group) for group in itertools.product(*steps))
