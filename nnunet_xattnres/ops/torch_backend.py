"""Eqs. 4-8 of arXiv 2604.03297 in PyTorch, on any device, without the K+1 values at full resolution.

1. A 1x1 convolution commutes with linear interpolation, so features are projected at their own resolution.
2. The logit of an interpolated feature V = U(P) needs no interpolated channels: w.V = U(w.P), and |V|^2 follows from
   the squared norms of P and of its differences (`interpolation.squared_norm_matrix`). Both are scalar maps at the
   resolution of P.
3. A gate g changes only the weights: x + g (sum_n alpha_n V_n - x) is the sum of g alpha_n V_n over the history, plus
   g alpha_x + 1 - g times x.
4. The sum over the K+1 values is accumulated value by value. With the attention known, channels are independent of each
   other: on a CPU a few channels are computed at a time, so that all intermediate results stay in the cache.

Nothing is kept for backward but the arguments: it computes projections, logits and attention again.

In the names of this file, `values` are the K projected features at their own resolution, `current` are the parts of x,
`squared_norm` is |V|^2 and `product` is q.V, with the query q = w * gain.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import resize
from .interpolation import (
    apply_along_axis,
    interpolation_matrix,
    squared_norm_matrix,
    upsample,
    upsample_matrix_axes,
    upsample_transposed,
    upsampled_axes,
)
from .needed_gradients import NeededGradients
from .projection import project, project_backward

# Limits of memory in bytes: of one slab of channels on a CPU, per thread, whose cache has about this size, and of all
# values of a group of samples.
_SLAB = 2**20
_SAMPLES, _SAMPLES_GPU = 64 * 2**20, 512 * 2**20


def forward(
    sources: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    query: Tensor,
    gate: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Compute out (B, C, *S) and alpha (B, K+1, *S) from the arguments of `custom_op.forward`.

    Here `weights` and `biases` have K entries, None for features that are not projected.
    """
    size = tuple(x[0].shape[2:])
    acc_dtype = torch.promote_types(x[0].dtype, torch.float32)
    query = query.to(acc_dtype)
    batch, channels = len(x[0]), query.numel()
    out = x[0].new_empty((batch, channels, *size))
    alpha = x[0].new_empty((batch, len(sources) + 1, *size), dtype=acc_dtype)
    for rows in sample_groups(sources, x, channels, acc_dtype):
        values = _without_infinity(_project(sources, weights, biases, rows, x[0].dtype), size, acc_dtype)
        current = [part[rows].contiguous() for part in x]
        weight = torch.softmax(_scores(values, current, query, size, eps).logits, 1, out=alpha[rows])
        if gate is not None:
            _apply_gate_(weight, gate)
        values = [upsample_matrix_axes(value.to(acc_dtype), size) for value in values]
        for c, part, _ in _slabs(current, acc_dtype):
            total = out[rows, c] if out.dtype == acc_dtype else torch.empty_like(part, dtype=acc_dtype)
            torch.mul(part, weight[:, -1:], out=total)
            for n, value in enumerate(values):
                total.addcmul_(upsample(value[:, c], size), weight[:, n : n + 1])
            if out.dtype != acc_dtype:
                out[rows, c] = total
    return out, alpha


def backward(
    grad_out: Tensor | None,
    grad_alpha: Tensor | None,
    sources: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    query: Tensor,
    gate: Tensor | None,
    eps: float,
    needed: NeededGradients | None = None,
    overwrite: bool = False,
) -> tuple[
    list[Tensor | None], list[Tensor | None], list[Tensor | None], list[Tensor | None], Tensor | None, Tensor | None
]:
    """Compute the gradients of sources, x, weights, biases, query and gate, in the same or a higher precision.

    Args:
        grad_out, grad_alpha: the gradients of the results of `forward`; one of them may be None for zero.
        needed: which gradients are needed, None for all. The others are None, and not computed.
        overwrite: whether the first part of x may be overwritten, by its gradient.
    """
    needed = NeededGradients.all(sources, x, weights, biases, gate) if needed is None else needed
    size = tuple(x[0].shape[2:])
    acc_dtype = torch.promote_types(x[0].dtype, torch.float32)
    query = query.to(acc_dtype)
    channels = query.numel()
    grad_sources, grad_x = empty(sources, needed.sources), gradients_of_x(x, needed.x, overwrite)
    grad_weights, grad_biases = zeros(weights, needed.weights, acc_dtype), zeros(biases, needed.biases, acc_dtype)
    grad_query, grad_gate = zeros([query, gate], [needed.query, needed.gate], acc_dtype)
    for rows in sample_groups(sources, x, channels, acc_dtype):
        values = _project(sources, weights, biases, rows, x[0].dtype)
        current = [part[rows].contiguous() for part in x]
        scores = _scores(values, current, query, size, eps)
        alpha = scores.logits.softmax(1)
        summed = alpha if gate is None else _apply_gate_(alpha.clone(), gate)
        # Eq. 8
        d_summed = torch.zeros_like(alpha) if grad_alpha is None else grad_alpha[rows].to(acc_dtype, copy=True)
        partial = [upsample_matrix_axes(value.to(acc_dtype), size) for value in values]
        d_partial = empty(partial, [needed.value(n) for n in range(len(sources))])
        d_current = empty(current, needed.x, acc_dtype)
        for c, part, d_part in _slabs(current, acc_dtype, d_current):
            grad = torch.zeros_like(part, dtype=acc_dtype) if grad_out is None else grad_out[rows, c].to(acc_dtype)
            product = torch.empty_like(part, dtype=acc_dtype)
            for n, (value, d_value) in enumerate(zip(partial, d_partial, strict=True)):
                torch.mul(grad, upsample(value[:, c], size), out=product)
                d_summed[:, n] += product.sum(1)
                if d_value is not None:
                    torch.mul(grad, summed[:, n : n + 1], out=product)
                    d_value[:, c] = upsample_transposed(product, value.shape[2:])
            torch.mul(grad, part, out=product)
            d_summed[:, -1] += product.sum(1)
            if d_part is not None:
                torch.mul(grad, summed[:, -1:], out=d_part)
        d_values = [
            None if d is None else upsample_transposed(d, v.shape[2:]) for d, v in zip(d_partial, values, strict=True)
        ]
        mean = (alpha * d_summed).sum(1, keepdim=True)
        if grad_gate is not None:
            grad_gate += (mean - d_summed[:, -1:]).sum()
        # Eq. 7, then Eq. 6
        d_logits = alpha * (d_summed - mean)
        if gate is not None:
            d_logits *= gate.to(acc_dtype)
        _scores_backward(d_logits, scores, values, current, d_values, d_current, query, grad_query)
        for total, d_part in zip(grad_x, d_current, strict=True):
            if total is not None and d_part is not None:
                total[rows] = d_part
        for n, (d_value, source) in enumerate(zip(d_values, sources, strict=True)):
            if d_value is None:
                continue
            d_source, d_weight, d_bias = project_backward(
                d_value, source[rows], weights[n], needed.sources[n], needed.weights[n], needed.biases[n]
            )
            grad_source = grad_sources[n]
            if grad_source is not None and d_source is not None:
                grad_source[rows] = d_source
            for total, gradient in ((grad_weights[n], d_weight), (grad_biases[n], d_bias)):
                if total is not None and gradient is not None:
                    total += gradient
    return grad_sources, grad_x, grad_weights, grad_biases, grad_query, grad_gate


def empty(tensors: Sequence[Tensor], needed: Sequence[bool], dtype: torch.dtype | None = None) -> list[Tensor | None]:
    """Contiguous tensors for the gradients that are needed, else None."""
    return [
        torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format) if need else None
        for tensor, need in zip(tensors, needed, strict=True)
    ]


def gradients_of_x(x: Sequence[Tensor], needed: Sequence[bool], overwrite: bool) -> list[Tensor | None]:
    """As `empty`; with `overwrite`, the gradient of the first part takes its place in memory if it is contiguous."""
    if not (overwrite and needed[0] and x[0].is_contiguous()):
        return empty(x, needed)
    return [x[0], *empty(x[1:], needed[1:])]


def zeros(tensors: Sequence[Tensor | None], needed: Sequence[bool], dtype: torch.dtype) -> list[Tensor | None]:
    """Zeros to which the gradients that are needed are added, else None."""
    return [
        torch.zeros_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
        if need and tensor is not None
        else None
        for tensor, need in zip(tensors, needed, strict=True)
    ]


def _apply_gate_(alpha: Tensor, gate: Tensor) -> Tensor:
    """Change alpha (B, K+1, *S) in place to g alpha, plus 1 - g for x, so that it still sums to one."""
    gate = gate.to(alpha.dtype).view(())
    alpha *= gate
    alpha[:, -1] += 1 - gate
    return alpha


def sample_groups(
    sources: Sequence[Tensor], x: Sequence[Tensor], channels: int, acc_dtype: torch.dtype
) -> Iterator[slice]:
    """Groups of samples whose projected features stay below the limit of memory."""
    batch = len(x[0])
    pixels = sum(math.prod(feature.shape[2:]) for feature in (*sources, x[0]))
    limit = _SAMPLES if x[0].device.type == "cpu" else _SAMPLES_GPU
    step = max(1, limit // (channels * pixels * acc_dtype.itemsize))
    return (slice(start, min(start + step, batch)) for start in range(0, batch, step))


def _slabs(
    parts: Sequence[Tensor], acc_dtype: torch.dtype, gradients: Sequence[Tensor | None] | None = None
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Slabs of a few channels of `parts`, each with the slice of its channels in the concatenation of the parts.

    The third is the same slab of the part's gradient, None where it has none. On devices other than a CPU, a part is
    one slab.
    """
    offset = 0
    for part, gradient in zip(parts, gradients or [None] * len(parts), strict=True):
        channels = part.shape[1]
        step = channels
        if part.device.type == "cpu":
            limit = _SLAB * torch.get_num_threads()
            step = min(channels, max(1, limit // (part[:, 0].numel() * acc_dtype.itemsize)))
        for start in range(0, channels, step):
            stop = min(start + step, channels)
            slab = part[:, start:stop], None if gradient is None else gradient[:, start:stop]
            yield slice(offset + start, offset + stop), *slab
        offset += channels


def _project(sources, weights, biases, rows: slice, dtype: torch.dtype) -> list[Tensor]:
    """The K projected features of some samples at their own resolutions: Eqs. 4 and 5 without the interpolation."""
    arguments = zip(sources, weights, biases, strict=True)
    return [project(source[rows], weight, bias, dtype) for source, weight, bias in arguments]


def _without_infinity(values: list[Tensor], size: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Interpolate values with NaN or infinite elements to `size`, pixel by pixel.

    In a product with a matrix of interpolation, they would make everything NaN: zero times infinity is NaN.
    """
    # one number for all values, because a GPU is waited for; a sum that overflows only takes the longer way
    if torch.stack([value.sum(dtype=dtype) for value in values]).isfinite().all():
        return values
    return [value if value.isfinite().all() else resize.upsample(value.to(dtype), size) for value in values]


@dataclass
class _Scores:
    """The factors of the logits of Eq. 6, q.V and 1 / RMS(V), each (B, K+1, *S)."""

    product: Tensor
    rstd: Tensor

    @property
    def logits(self) -> Tensor:
        return self.product * self.rstd


def _scores(values: list[Tensor], current: list[Tensor], query: Tensor, size: tuple[int, ...], eps: float) -> _Scores:
    acc_dtype, device = query.dtype, query.device
    shape = (len(current[0]), len(values) + 1, *size)
    products, squared_norms = query.new_zeros(shape), query.new_zeros(shape)
    for n, value in enumerate(values):
        axes = upsampled_axes(value.shape, size)
        product = _dot(query, value)
        squared_norm = query.new_zeros(())
        for _, slab, _ in _slabs([value], acc_dtype):
            squared_norm = squared_norm + _squared_norms(slab.to(acc_dtype), axes)
        for axis in axes:
            u = interpolation_matrix(value.shape[axis], size[axis], acc_dtype, device)
            product = apply_along_axis(u, product, axis)
            u = squared_norm_matrix(value.shape[axis], size[axis], acc_dtype, device)
            squared_norm = apply_along_axis(u, squared_norm, axis)
        products[:, n] = product
        squared_norms[:, n] = squared_norm
    for c, part, _ in _slabs(current, acc_dtype):
        products[:, -1] += _dot(query[c], part)
        squared_norms[:, -1] += part.to(acc_dtype).square().sum(1)
    # rounding may make a squared norm negative
    return _Scores(products, squared_norms.clamp_min_(0).div_(query.numel()).add_(eps).rsqrt_())


def _scores_backward(
    d_logits: Tensor,
    scores: _Scores,
    values: list[Tensor],
    current: list[Tensor],
    d_values: list[Tensor | None],
    d_current: list[Tensor | None],
    query: Tensor,
    grad_query: Tensor | None,
) -> None:
    """Add what the gradient of the logits contributes to `d_values`, `d_current` and `grad_query`, except to None.

    `d_logits` is overwritten.
    """
    size = tuple(d_logits.shape[2:])
    acc_dtype, device = query.dtype, query.device
    d_products = d_logits * scores.rstd
    # twice the gradient of |V|^2, which is the factor of V in the gradient of V
    d_squared_norms = d_logits.mul_(scores.product).mul_(scores.rstd.pow(3)).mul_(-1 / query.numel())
    for n, (value, d_value) in enumerate(zip(values, d_values, strict=True)):
        axes = upsampled_axes(value.shape, size)
        d_product, d_squared_norm = d_products[:, n], d_squared_norms[:, n]
        for axis in axes:
            u = interpolation_matrix(value.shape[axis], size[axis], acc_dtype, device)
            d_product = apply_along_axis(u.T, d_product, axis)
        if grad_query is not None:
            grad_query += dot_backward(d_product, value)
        if d_value is None:
            continue
        for axis in axes:
            u = squared_norm_matrix(value.shape[axis], size[axis], acc_dtype, device)
            d_squared_norm = apply_along_axis(u.T, d_squared_norm, axis)
        for c, slab, d_slab in _slabs([value], acc_dtype, [d_value]):
            assert d_slab is not None
            _add_squared_norms_gradient_(d_slab, slab.to(acc_dtype), d_squared_norm, axes)
            d_slab.addcmul_(query[c].view(-1, *(1,) * len(size)), d_product.unsqueeze(1))
    d_product, d_squared_norm = d_products[:, -1:], d_squared_norms[:, -1:]
    for c, part, d_part in _slabs(current, acc_dtype, d_current):
        if grad_query is not None:
            grad_query[c] += dot_backward(d_product[:, 0], part)
        if d_part is not None:
            d_part.addcmul_(part.to(acc_dtype), d_squared_norm)
            d_part.addcmul_(query[c].view(-1, *(1,) * len(size)), d_product)


def _dot(query: Tensor, value: Tensor) -> Tensor:
    """q.V, (B, *S), as a matrix product, which allocates nothing of the size of V."""
    flat = value.flatten(2).to(query.dtype)
    return torch.bmm(query.expand(len(flat), 1, -1), flat).view(len(flat), *value.shape[2:])


def dot_backward(d_product: Tensor, value: Tensor) -> Tensor:
    """The gradient of q, (C,), from the gradient of q.V."""
    flat = value.flatten(2).to(d_product.dtype)
    return torch.bmm(flat, d_product.flatten(1).unsqueeze(2)).sum(0).squeeze(1)


def _squared_norms(value: Tensor, axes: list[int]) -> Tensor:
    """|V|^2 over the channels, (B, *S), followed along every axis by that of the differences of neighbours.

    n elements become 2n - 1, as `interpolation.squared_norm_matrix` takes them.
    """
    if not axes:
        return value.square().sum(1)
    axis, *others = axes
    return torch.cat((_squared_norms(value, others), _squared_norms(value.diff(dim=axis), others)), axis)


def _add_squared_norms_gradient_(grad: Tensor, value: Tensor, factors: Tensor, axes: list[int]) -> None:
    """Add the gradient of `value` to `grad`; `factors` is twice the gradient of `_squared_norms(value, axes)`."""
    if not axes:
        grad.addcmul_(value, factors.unsqueeze(1))
        return
    axis, *others = axes
    length = value.shape[axis]
    _add_squared_norms_gradient_(grad, value, factors.narrow(axis, 0, length), others)
    differences = value.diff(dim=axis)
    d_differences = torch.zeros_like(differences)
    _add_squared_norms_gradient_(d_differences, differences, factors.narrow(axis, length, length - 1), others)
    grad.narrow(axis, 1, length - 1).add_(d_differences)
    grad.narrow(axis, 0, length - 1).sub_(d_differences)
