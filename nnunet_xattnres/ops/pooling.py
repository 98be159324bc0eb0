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
from .operator_library import define_operator, not_differentiable
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
    longer = [k for k, target in enumerate(targets) if tuple(history[k].shape[2:]) != target]
    pooled = dict(zip(longer, max_pool([history[k] for k in longer], [targets[k] for k in longer]), strict=True))
    return [pooled.get(k, feature) for k, feature in enumerate(history)]


def max_pool(features: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Adaptive max pooling of features (B, C, *S_k) to (B, C, *size), where no axis of a size is longer than in S_k.

    As in PyTorch, the first maximum of a window receives the gradient. PyTorch's own pooling keeps an int64 index for
    every output, and adds gradients in no fixed order on CUDA. Here nothing is kept but the features and the results,
    and the gradients are the same in every run. Where windows have equal lengths, Triton on CUDA and C++ on a CPU
    compute both, in one pass each, unless the environment variable XATTNRES_BACKEND selects PyTorch.

    Args:
        features: the features.
        sizes: a spatial size for each.
    """
    pooled = list(features)
    # apart, because all results of an operator require a gradient if one of its arguments does
    for requires_grad in (False, True):
        group = [k for k, feature in enumerate(features) if feature.requires_grad == requires_grad]
        if group:
            results = _operator([features[k] for k in group], [n for k in group for n in sizes[k]])
            for k, result in zip(group, results, strict=True):
                pooled[k] = result
    return pooled


def _max_pool(features: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """One operator for all features, because to call one takes the CPU longer than to pool a small feature."""
    backend = _backend(features[0].device.type)
    return [_pool(feature, size, backend) for feature, size in zip(features, _split(features, sizes), strict=True)]


def _max_pool_fake(features, sizes):
    return [f.new_empty((*f.shape[:2], *size)) for f, size in zip(features, _split(features, sizes), strict=True)]


def _max_pool_backward(grads: Sequence[Tensor], features: Sequence[Tensor], pooled: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of features, (B, C, *S_k), from those of the pooled features."""
    backend = _backend(features[0].device.type)
    return [_gradient(*tensors, backend) for tensors in zip(grads, features, pooled, strict=True)]


def _max_pool_backward_fake(grads, features, pooled):
    return [torch.empty_like(feature, memory_format=torch.contiguous_format) for feature in features]


def _setup_context(ctx: Any, inputs: tuple[Sequence[Tensor], Sequence[int]], output: Sequence[Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[0], *output)


def _autograd_backward(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[list[Tensor | None], None]:
    saved = ctx.saved_tensors
    features, pooled = saved[: len(grads)], saved[len(grads) :]
    needed = [k for k, grad in enumerate(grads) if grad is not None and ctx.needs_input_grad[0][k]]
    d_features: list[Tensor | None] = [None] * len(grads)
    if needed:
        with torch.no_grad():
            gradients = _operator_backward(*([tensors[k] for k in needed] for tensors in (grads, features, pooled)))
        for k, gradient in zip(needed, not_differentiable(gradients), strict=True):
            d_features[k] = gradient
    return d_features, None


_operator_backward = define_operator(_max_pool_backward, _max_pool_backward_fake)
_operator = define_operator(_max_pool, _max_pool_fake, _autograd_backward, _setup_context)


def _split(features: Sequence[Tensor], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """A size for every feature."""
    axes = len(sizes) // len(features)
    return [tuple(sizes[k : k + axes]) for k in range(0, len(sizes), axes)]


def _pool(feature: Tensor, size: tuple[int, ...], backend: str) -> Tensor:
    kernels = _pooling_kernels(feature, size, backend)
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


def _gradient(grad: Tensor, feature: Tensor, pooled: Tensor, backend: str) -> Tensor:
    size = tuple(pooled.shape[2:])
    kernels = _pooling_kernels(feature, size, backend)
    if kernels is not None:
        return kernels.max_pool_backward(grad, feature, pooled)
    if _pools_by_elements(feature, size):
        return _gradient_by_elements(grad, feature, pooled)
    return _gradient_by_indices(grad, feature, size)


def _backend(device_type: str) -> str:
    """The backend that is selected for a device."""
    # an import of its own, because that module imports this one
    return import_module(".dispatch", __package__).resolve_backend(None, device_type)


def _pooling_kernels(feature: Tensor, size: Sequence[int], backend: str) -> Any:
    """The module with kernels for these windows, `cpp_pooling` or `triton_pooling`, or None where PyTorch pools."""
    # the offsets of the Triton kernels are 32-bit integers
    supports = (backend == "triton" and feature.numel() < 2**31) or (backend == "cpp" and feature.dtype in DTYPES)
    return import_module(f".{backend}_pooling", __package__) if supports and _divides(feature, size) else None


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
