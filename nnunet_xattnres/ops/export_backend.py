"""Eqs. 4-8 of arXiv 2604.03297 in operations that other runtimes have, for a graph that is traced or exported.

The operators of `custom_op.py` and `pooling.py` exist only where this package is imported. So `torch.jit.trace`,
`torch.export` and `torch.onnx.export` get convolutions, max pooling, interpolation and softmax instead. Nothing depends
on the size of the image but the ratios of the features' sizes, so that the graph can run on images of other sizes.
"""

import operator
import warnings
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import conv1x1
from .resize import LINEAR, pooled_size

_POOL: dict[int, Any] = {2: F.max_pool2d, 3: F.max_pool3d}


def is_exporting() -> bool:
    """Whether PyTorch records a graph that leaves this process: by torch.jit.trace, torch.export or torch.onnx.export.

    torch.compile is not meant: its code runs in this process, with the operators of this package.
    """
    # not torch.compiler.is_exporting(), which is also true where torch.compile of PyTorch 2.7 compiles
    return torch.compiler._is_exporting_flag or torch.jit.is_tracing()


def static_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape for decisions in Python, which a graph does not record.

    While torch.jit.trace runs, the numbers in `tensor.shape` are tensors, and it warns of every decision that depends
    on them.
    """
    if not torch.jit.is_tracing():
        return tuple(tensor.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return tuple(int(length) for length in tensor.shape)


def xattnres(
    history: Sequence[Tensor],
    x: Tensor | Sequence[Tensor],
    projections: Sequence[tuple[Tensor, Tensor] | None],
    pseudo_query: Tensor,
    norm_weight: Tensor,
    eps: float = 1e-6,
    gate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `reference.xattnres`, but with features that are projected before they are interpolated (the two commute)."""
    x = x if isinstance(x, Tensor) else torch.cat(list(x), 1)
    acc_dtype = torch.promote_types(x.dtype, torch.float32)
    query = (pseudo_query.to(acc_dtype) * norm_weight.to(acc_dtype)).view(1, -1, *(1,) * (x.ndim - 2))

    # Eqs. 4 and 5
    values = [
        _upsample(conv1x1(_max_pool(history[k], x), projection), x).to(acc_dtype)
        for k, projection in enumerate(projections)
    ]
    values.append(x.to(acc_dtype))

    # Eqs. 6 and 7
    # not a convolution, which autocast would compute in half precision
    logits = [(v * query).sum(1, keepdim=True) * torch.rsqrt(v.square().mean(1, keepdim=True) + eps) for v in values]
    alpha = torch.cat(logits, 1).softmax(1)
    if gate is not None:
        g = gate.to(acc_dtype).view(())
        alpha = torch.cat([g * alpha[:, :-1], g * alpha[:, -1:] + (1 - g)], 1)

    # Eq. 8
    out = reduce(operator.add, (v * alpha[:, n : n + 1] for n, v in enumerate(values)))
    return out.to(x.dtype), alpha


def _max_pool(feature: Tensor, x: Tensor) -> Tensor:
    """Max-pool along every axis that is longer than in x."""
    shape = static_shape(feature)[2:]
    target = pooled_size(shape, static_shape(x)[2:])
    window = [int(s // t) if s % t == 0 else 1 for s, t in zip(shape, target, strict=True)]
    if any(k > 1 for k in window):
        feature = _POOL[len(window)](feature, window)
    for axis, (s, t) in enumerate(zip(shape, target, strict=True), start=2):
        if s % t:
            feature = _adaptive_max_pool(feature, axis, x.shape[axis])
    return feature


def _adaptive_max_pool(feature: Tensor, axis: int, target: int) -> Tensor:
    """Adaptive max pooling along an axis whose length `target` does not divide, for which ONNX has no operator."""
    length = feature.shape[axis]
    first = torch.arange(target, device=feature.device) * length // target
    last = (torch.arange(1, target + 1, device=feature.device) * length - 1) // target
    offsets = torch.arange(length // target + 2, device=feature.device)
    # the windows differ in length: the shorter ones read their last element again
    index = torch.minimum(first[:, None] + offsets, last[:, None])
    windows = feature.index_select(axis, index.flatten())
    return windows.unflatten(axis, index.shape).amax(axis + 1)


def _upsample(value: Tensor, x: Tensor) -> Tensor:
    """Interpolate to the size of x, which a graph reads from x when it runs."""
    if static_shape(value)[2:] == static_shape(x)[2:]:
        return value
    return F.interpolate(value, x.shape[2:], mode=LINEAR[x.ndim - 2], align_corners=False)
