"""Eqs. 4-8 of arXiv 2604.03297, exactly, without ever building the K+1 values at full resolution.

1. A 1x1 convolution commutes with linear interpolation, so entries are projected where they are small.
2. The logit of an interpolated entry V = U(P) needs no interpolated channels: w.V = U(w.P), and |V|^2 is made from
   2^d scalar maps of P, because along one axis |(1-a)u + av|^2 = (1-a)|u|^2 + a|v|^2 - a(1-a)|v-u|^2.
3. The sum over entries runs through one accumulator; the backward pass interpolates every entry again.

Kept for backward: each projected entry at its own resolution, x, and the K+1 weights of a pixel.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .reference import xattnres as _specification
from .resize import downsample, upsample


def xattnres(
    history: Sequence[Tensor],
    x: Tensor,
    projections: Sequence[Callable[[Tensor], Tensor]],
    pseudo_query: Tensor,
    norm_weight: Tensor,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    size = tuple(x.shape[2:])
    values = [project(downsample(h, size)) for h, project in zip(history, projections, strict=True)] + [x]
    alpha = _attention(values, size, pseudo_query, norm_weight, eps)
    return _WeightedSum.apply(alpha, size, *values), alpha


xattnres.__doc__ = _specification.__doc__


def _attention(values: list[Tensor], size: tuple[int, ...], pseudo_query: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Eqs. 6 and 7 for entries at their own resolutions: alpha (B, K+1, *S), in float32 or better."""
    exact = _exact(values[-1])
    device = values[-1].device.type
    # autocast would send the products over the channels through half precision, where they overflow; MPS has none
    with nullcontext() if device == "mps" else torch.autocast(device, enabled=False):
        query = pseudo_query.to(exact) * gain.to(exact)
        # the logits are cheap to make twice; what they keep for backward is not
        logits = [
            checkpoint(_logit, v, query, size, eps, use_reentrant=False, preserve_rng_state=False) for v in values
        ]
        return torch.stack(logits, 1).softmax(1)


def _exact(x: Tensor) -> torch.dtype:
    """The precision to accumulate in: float32 or better."""
    return torch.promote_types(x.dtype, torch.float32)


def _logit(value: Tensor, query: Tensor, size: tuple[int, ...], eps: float) -> Tensor:
    """Eq. 6 for V = U(P), computed from P (B, C, *S_k): (B, *size)."""
    value = value.to(query.dtype)
    axes = [axis for axis, length in enumerate(size, start=2) if value.shape[axis] != length]
    # a batched row times matrix: no temporary of the value's size, unlike an elementwise product
    product = torch.bmm(query.expand(len(value), 1, -1), value.flatten(2)).view(len(value), *value.shape[2:])
    energies = [value]
    for axis in axes:
        energies += [energy.diff(dim=axis) for energy in energies]
    energies = [energy.square().sum(1) for energy in energies]

    for axis in reversed(axes):
        low, fraction = _taps(value.shape[axis], size[axis - 2], value)
        fraction = fraction.view(-1, *(1,) * (value.ndim - axis - 1))
        product = _interpolate(product, axis - 1, low, fraction)
        half = len(energies) // 2
        energies = [
            _interpolate(energy, axis - 1, low, fraction) - _bend(difference, axis - 1, low, fraction)
            for energy, difference in zip(energies[:half], energies[half:], strict=True)
        ]
    (energy,) = energies
    # rounding may take a sum of squares below zero
    return product * torch.rsqrt(energy.clamp_min(0) / query.numel() + eps)


def _taps(length: int, target: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Where linear interpolation reads: the lower neighbour, and how far it is to the upper one; both (target,)."""
    position = (torch.arange(target, device=like.device, dtype=like.dtype) + 0.5) * (length / target) - 0.5
    position = position.clamp(0, length - 1)
    low = position.floor().clamp(max=max(length - 2, 0))
    return low.long(), position - low


def _interpolate(values: Tensor, axis: int, low: Tensor, fraction: Tensor) -> Tensor:
    """(1-a) u + a v between the neighbours u and v along one axis."""
    high = (low + 1).clamp(max=values.shape[axis] - 1)
    return torch.lerp(values.index_select(axis, low), values.index_select(axis, high), fraction)


def _bend(differences: Tensor, axis: int, low: Tensor, fraction: Tensor) -> Tensor | float:
    """a (1-a) |v-u|^2: what the squared length of an interpolated vector lacks."""
    if differences.shape[axis] == 0:  # one voxel along this axis: nothing to interpolate between
        return 0.0
    return differences.index_select(axis, low) * (fraction * (1 - fraction))


class _WeightedSum(torch.autograd.Function):
    """Eq. 8 through one accumulator: alpha (B, K+1, *S), K+1 values at their own resolutions -> (B, C, *S)."""

    @staticmethod
    def forward(ctx, alpha: Tensor, size: tuple[int, ...], *values: Tensor) -> Tensor:
        ctx.save_for_backward(alpha, *values)
        ctx.size = size
        *history, x = values
        out = alpha[:, -1:] * x
        for n, value in enumerate(history):
            out.addcmul_(alpha[:, n : n + 1], upsample(value, size).to(out.dtype))
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        alpha, *values = ctx.saved_tensors
        grad = grad.to(alpha.dtype).contiguous()
        grad_alpha = torch.empty_like(alpha)
        grad_values = []
        for n, value in enumerate(values):
            grad_alpha[:, n] = (grad * upsample(value, ctx.size)).sum(1)
            grad_values.append(_upsample_adjoint(alpha[:, n : n + 1] * grad, value))
        return grad_alpha, None, *grad_values


def _upsample_adjoint(grad: Tensor, value: Tensor) -> Tensor:
    """The transpose of `upsample`: (B, C, *size) -> the shape and dtype of `value`."""
    size = tuple(grad.shape[2:])
    if tuple(value.shape[2:]) != size:
        transpose = (
            torch.ops.aten.upsample_bilinear2d_backward
            if len(size) == 2
            else torch.ops.aten.upsample_trilinear3d_backward
        )
        grad = transpose(grad, size, tuple(value.shape), False)
    return grad.to(value.dtype)
