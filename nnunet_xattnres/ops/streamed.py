"""Eqs. 4-8 of arXiv 2604.03297, exactly, holding one full-resolution value at a time instead of all K+1.

1. A 1x1 convolution commutes with linear interpolation, so entries are projected where they are small.
2. The logit of an interpolated entry V = U(P) needs no interpolated channels: w.V = U(w.P), and |V|^2 is made from
   2^d scalar maps of P, because along one axis |(1-a)u + av|^2 = (1-a)|u|^2 + a|v|^2 - a(1-a)|v-u|^2.
3. The sum over entries runs through one accumulator; the backward pass interpolates every entry again.

Kept for backward: every entry at its own resolution (pooled, with the pooling's indices, and projected), x, and the
K+1 weights of a pixel.
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
    values = _align(history, x, projections)
    alpha = _weights(values, pseudo_query, norm_weight, eps)
    return _WeightedSum.apply(alpha, *values), alpha


xattnres.__doc__ = _specification.__doc__


def attention(
    history: Sequence[Tensor],
    x: Tensor,
    projections: Sequence[Callable[[Tensor], Tensor]],
    pseudo_query: Tensor,
    norm_weight: Tensor,
    eps: float = 1e-6,
) -> Tensor:
    """The second result of `xattnres` alone: alpha (B, K+1, *S), without the sum (Eq. 7)."""
    return _weights(_align(history, x, projections), pseudo_query, norm_weight, eps)


def _align(history: Sequence[Tensor], x: Tensor, projections: Sequence[Callable[[Tensor], Tensor]]) -> list[Tensor]:
    """Eqs. 4 and 5 but for the interpolation: K entries of C channels, none larger than x, and x itself."""
    size = tuple(x.shape[2:])
    return [project(downsample(h, size)) for h, project in zip(history, projections, strict=True)] + [x]


def _weights(values: list[Tensor], pseudo_query: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Eqs. 6 and 7 for entries at their own resolutions: alpha (B, K+1, *S), in float32 or better."""
    *_, x = values
    exact = torch.promote_types(x.dtype, torch.float32)
    device = x.device.type
    # autocast would send the products over the channels through half precision, where they overflow
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        query = pseudo_query.to(exact) * gain.to(exact)
        # the logits are cheap to make twice; what they keep for backward is not
        logits = [
            checkpoint(_logit, v, query, tuple(x.shape[2:]), eps, use_reentrant=False, preserve_rng_state=False)
            for v in values
        ]
        return torch.stack(logits, 1).softmax(1)


def _logit(value: Tensor, query: Tensor, size: tuple[int, ...], eps: float) -> Tensor:
    """Eq. 6 for V = U(P), computed from P (B, C, *S_k): (B, *size)."""
    value = value.to(query.dtype)
    grown = [axis for axis, length in enumerate(size) if value.shape[axis + 2] != length]
    # w.P by a batched row times matrix, which needs no product of P's size
    product = torch.bmm(query.expand(len(value), 1, -1), value.flatten(2)).view(len(value), *value.shape[2:])
    for axis in grown:
        product = _interpolate(product, axis, *_taps(product, axis, size))
    # rounding may take a sum of squares below zero
    energy = _energy(value, grown, size).clamp_min(0)
    return product * torch.rsqrt(energy / query.numel() + eps)


def _energy(value: Tensor, grown: list[int], size: tuple[int, ...]) -> Tensor:
    """|U(P)|^2 over the channels, U interpolating the axes `grown`: P (B, C, *S_k) -> (B, *) of `size` along them."""
    if not grown:
        return value.square().sum(1)
    *others, axis = grown
    energy = _energy(value, others, size)
    low, fraction = _taps(energy, axis, size)
    interpolated = _interpolate(energy, axis, low, fraction)
    if value.shape[axis + 2] == 1:
        return interpolated
    # a (1-a) |v-u|^2: what the squared length of an interpolated vector lacks
    difference = _energy(value.diff(dim=axis + 2), others, size)
    return interpolated - difference.index_select(axis + 1, low) * (fraction * (1 - fraction))


def _taps(maps: Tensor, axis: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Where interpolation reads along one axis of (B, *): the lower neighbour, and how far it is to the upper one.

    Both have `size[axis]` elements; the second is shaped to broadcast along its axis.
    """
    length, target = maps.shape[axis + 1], size[axis]
    position = (torch.arange(target, device=maps.device, dtype=maps.dtype) + 0.5) * (length / target) - 0.5
    position = position.clamp(0, length - 1)
    low = position.floor().clamp(max=max(length - 2, 0))
    return low.long(), (position - low).view(-1, *(1,) * (len(size) - 1 - axis))


def _interpolate(maps: Tensor, axis: int, low: Tensor, fraction: Tensor) -> Tensor:
    """(1-a) u + a v between the neighbours u and v along one axis of (B, *)."""
    high = (low + 1).clamp(max=maps.shape[axis + 1] - 1)
    return torch.lerp(maps.index_select(axis + 1, low), maps.index_select(axis + 1, high), fraction)


class _WeightedSum(torch.autograd.Function):
    """Eq. 8 through one accumulator: alpha (B, K+1, *S), K+1 values at their own resolutions -> (B, C, *S)."""

    @staticmethod
    def forward(ctx, alpha: Tensor, *values: Tensor) -> Tensor:
        ctx.save_for_backward(alpha, *values)
        *history, x = values
        size = tuple(x.shape[2:])
        out = alpha[:, -1:] * x
        for n, value in enumerate(history):
            out.addcmul_(alpha[:, n : n + 1], upsample(value, size).to(out.dtype))
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        alpha, *values = ctx.saved_tensors
        grad = grad.to(alpha.dtype).contiguous()
        size = tuple(grad.shape[2:])
        grad_alpha = torch.empty_like(alpha)
        grad_values = []
        for n, value in enumerate(values):
            grad_alpha[:, n] = (grad * upsample(value, size)).sum(1)
            grad_values.append(_upsample_adjoint(alpha[:, n : n + 1] * grad, value))
        return grad_alpha, *grad_values


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
