"""Eqs. 4-8 of arXiv 2604.03297 in plain PyTorch: exact, on any device, a few channels at a time.

1. A 1x1 convolution commutes with linear interpolation, so entries are projected where they are small.
2. The logit of an interpolated entry V = U(P) needs no interpolated channels: w.V = U(w.P), and |V|^2 is made from the
   squares of P and of its differences (`interpolation.energy_matrix`), which are scalar maps at P's resolution.
3. The sum over entries runs through one accumulator. Given the attention, channels do not know of each other: on a CPU
   they are taken a few at a time, so that everything between the entries and the output stays in the cache.

Nothing is kept for backward but the arguments: projections, logits and attention are made again.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .interpolation import (
    apply,
    grown_axes,
    interpolation_matrix,
    squared_norm_matrix,
    upsample,
    upsample_far_axes,
    upsample_transposed,
)
from .projection import project, project_backward

# bytes in hand at a time: of one temporary, on a CPU, and of all entries of a group of samples, on a CPU and elsewhere
_SLAB = 4 * 2**20
_SAMPLES, _SAMPLES_ELSEWHERE = 64 * 2**20, 512 * 2**20


def forward(
    sources: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    query: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Output (B, C, *S) and attention (B, K+1, *S); arguments as in `custom_op.py`."""
    size = tuple(x[0].shape[2:])
    acc_dtype = torch.promote_types(x[0].dtype, torch.float32)
    query = query.to(acc_dtype)
    batch, channels = len(x[0]), query.numel()
    out = x[0].new_empty((batch, channels, *size))
    alpha = x[0].new_empty((batch, len(sources) + 1, *size), dtype=acc_dtype)
    for rows in _samples(sources, x, channels, acc_dtype):
        values = _project(sources, weights, biases, rows, x[0].dtype)
        current = [part[rows].contiguous() for part in x]
        weight = torch.softmax(_scores(values, current, query, size, eps).logits, 1, out=alpha[rows])
        values = [upsample_far_axes(value.to(acc_dtype), size) for value in values]
        for c, part in _slabs(current, acc_dtype):
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
    eps: float,
) -> tuple[list[Tensor], list[Tensor], list[Tensor | None], list[Tensor | None], Tensor]:
    """Gradients of sources, x, weights, biases and query, in their precision or a better one."""
    size = tuple(x[0].shape[2:])
    acc_dtype = torch.promote_types(x[0].dtype, torch.float32)
    query = query.to(acc_dtype)
    channels = query.numel()
    grad_sources = [torch.empty_like(s, memory_format=torch.contiguous_format) for s in sources]
    grad_x = [torch.empty_like(p, memory_format=torch.contiguous_format) for p in x]
    grad_weights = [None if w is None else torch.zeros_like(w, dtype=acc_dtype) for w in weights]
    grad_biases = [None if b is None else torch.zeros_like(b, dtype=acc_dtype) for b in biases]
    grad_query = torch.zeros_like(query)
    for rows in _samples(sources, x, channels, acc_dtype):
        values = _project(sources, weights, biases, rows, x[0].dtype)
        current = [part[rows].contiguous() for part in x]
        scores = _scores(values, current, query, size, eps)
        alpha = scores.logits.softmax(1)
        # Eq. 8
        d_alpha = torch.zeros_like(alpha) if grad_alpha is None else grad_alpha[rows].to(acc_dtype, copy=True)
        far = [upsample_far_axes(value.to(acc_dtype), size) for value in values]
        d_far = [torch.empty_like(v) for v in far]
        d_current = [torch.empty_like(p, dtype=acc_dtype) for p in current]
        for (c, part), (_, d_part) in zip(_slabs(current, acc_dtype), _slabs(d_current, acc_dtype), strict=True):
            grad = torch.zeros_like(part, dtype=acc_dtype) if grad_out is None else grad_out[rows, c].to(acc_dtype)
            product = torch.empty_like(part, dtype=acc_dtype)
            for n, value in enumerate(far):
                torch.mul(grad, upsample(value[:, c], size), out=product)
                d_alpha[:, n] += product.sum(1)
                torch.mul(grad, alpha[:, n : n + 1], out=product)
                d_far[n][:, c] = upsample_transposed(product, value.shape[2:])
            torch.mul(grad, part, out=product)
            d_alpha[:, -1] += product.sum(1)
            torch.mul(grad, alpha[:, -1:], out=d_part)
        d_values = [upsample_transposed(d, v.shape[2:]) for d, v in zip(d_far, values, strict=True)]
        # Eq. 7, then Eq. 6
        d_logits = alpha * (d_alpha - (alpha * d_alpha).sum(1, keepdim=True))
        _scores_backward(d_logits, scores, values, current, d_values, d_current, query, grad_query)
        for part, d_part in zip(grad_x, d_current, strict=True):
            part[rows] = d_part
        for n, (d_value, source) in enumerate(zip(d_values, sources, strict=True)):
            d_source, d_weight, d_bias = project_backward(d_value, source[rows], weights[n])
            grad_sources[n][rows] = d_source
            if weights[n] is not None:
                grad_weights[n] += d_weight
                grad_biases[n] += d_bias
    return grad_sources, grad_x, grad_weights, grad_biases, grad_query


def _samples(sources: Sequence[Tensor], x: Sequence[Tensor], channels: int, acc_dtype: torch.dtype) -> Iterator[slice]:
    """The batch in groups of samples whose entries, projected, take no more than what may be in hand."""
    batch = len(x[0])
    pixels = sum(math.prod(feature.shape[2:]) for feature in (*sources, x[0]))
    budget = _SAMPLES if x[0].device.type == "cpu" else _SAMPLES_ELSEWHERE
    step = max(1, budget // (channels * pixels * acc_dtype.itemsize))
    return (slice(start, min(start + step, batch)) for start in range(0, batch, step))


def _slabs(parts: Sequence[Tensor], acc_dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """The channels of `parts` a few at a time, with where they are in the concatenation."""
    begin = 0
    for part in parts:
        width = part.shape[1]
        step = width
        if part.device.type == "cpu":
            step = min(width, max(1, _SLAB // (part[:, 0].numel() * acc_dtype.itemsize)))
        for start in range(0, width, step):
            stop = min(start + step, width)
            yield slice(begin + start, begin + stop), part[:, start:stop]
        begin += width


def _project(sources, weights, biases, rows: slice, dtype: torch.dtype) -> list[Tensor]:
    """Eqs. 4 and 5 but for the interpolation: the K entries of some samples, at their own resolutions."""
    entries = zip(sources, weights, biases, strict=True)
    return [project(source[rows], weight, bias, dtype) for source, weight, bias in entries]


@dataclass
class _Scores:
    """Eq. 6 for some samples: l = product * rstd, each (B, K+1, *S)."""

    product: Tensor
    rstd: Tensor

    @property
    def logits(self) -> Tensor:
        return self.product * self.rstd


def _scores(values: list[Tensor], current: list[Tensor], query: Tensor, size: tuple[int, ...], eps: float) -> _Scores:
    acc_dtype = query.dtype
    shape = (len(current[0]), len(values) + 1, *size)
    products, energies = query.new_zeros(shape), query.new_zeros(shape)
    for n, value in enumerate(values):
        axes = grown_axes(value.shape, size)
        product = _dot(query, value)
        for axis in axes:
            product = apply(interpolation_matrix(value.shape[axis], size[axis], acc_dtype, value.device), product, axis)
        products[:, n] = product
        energy = 0
        for _, slab in _slabs([value], acc_dtype):
            energy = energy + _lattice(slab.to(acc_dtype), axes).square().sum(1)
        for axis in axes:
            energy = apply(squared_norm_matrix(value.shape[axis], size[axis], acc_dtype, value.device), energy, axis)
        energies[:, n] = energy
    for c, part in _slabs(current, acc_dtype):
        products[:, -1] += _dot(query[c], part)
        energies[:, -1] += part.to(acc_dtype).square().sum(1)
    # rounding may take a sum of squares below zero
    return _Scores(products, energies.clamp_min_(0).div_(query.numel()).add_(eps).rsqrt_())


def _scores_backward(d_logits, scores, values, current, d_values, d_current, query, grad_query) -> None:
    """Adds the logits' share to the gradients of the values, of x and of the query."""
    size = tuple(d_logits.shape[2:])
    acc_dtype = query.dtype
    d_products = d_logits * scores.rstd
    # twice the derivative with respect to the energy: what multiplies the value
    d_energies = d_logits.mul_(scores.product).mul_(scores.rstd.pow(3)).mul_(-1 / query.numel())
    for n, value in enumerate(values):
        axes = grown_axes(value.shape, size)
        d_product, d_energy = d_products[:, n], d_energies[:, n]
        for axis in axes:
            length = value.shape[axis]
            d_product = apply(interpolation_matrix(length, size[axis], acc_dtype, value.device).T, d_product, axis)
            d_energy = apply(squared_norm_matrix(length, size[axis], acc_dtype, value.device).T, d_energy, axis)
        grad_query += dot_backward(d_product, value)
        for c, slab in _slabs([value], acc_dtype):
            lattice = _lattice(slab.to(acc_dtype), axes).mul(d_energy.unsqueeze(1))
            d_slab = _lattice_transposed(lattice, axes, value.shape)
            d_slab.addcmul_(query[c].view(-1, *(1,) * len(size)), d_product.unsqueeze(1))
            d_values[n][:, c] += d_slab
    d_product, d_energy = d_products[:, -1:], d_energies[:, -1:]
    for (c, part), (_, d_part) in zip(_slabs(current, acc_dtype), _slabs(d_current, acc_dtype), strict=True):
        grad_query[c] += dot_backward(d_product[:, 0], part)
        d_part.addcmul_(part.to(acc_dtype), d_energy)
        d_part.addcmul_(query[c].view(-1, *(1,) * len(size)), d_product)


def _dot(query: Tensor, value: Tensor) -> Tensor:
    """q.V (B, *S), as a row times a matrix, which needs no product of V's size."""
    flat = value.flatten(2).to(query.dtype)
    return torch.bmm(query.expand(len(flat), 1, -1), flat).view(len(flat), *value.shape[2:])


def dot_backward(d_product: Tensor, value: Tensor) -> Tensor:
    """The gradient of q (C,)."""
    flat = value.flatten(2).to(d_product.dtype)
    return torch.bmm(flat, d_product.flatten(1).unsqueeze(2)).sum(0).squeeze(1)


def _lattice(value: Tensor, axes: list[int]) -> Tensor:
    """(..., n, ...) -> (..., 2n - 1, ...) along every axis: the values, then their differences."""
    for axis in axes:
        value = torch.cat((value, value.diff(dim=axis)), axis)
    return value


def _lattice_transposed(lattice: Tensor, axes: list[int], shape: tuple[int, ...]) -> Tensor:
    for axis in reversed(axes):
        length = shape[axis]
        difference = lattice.narrow(axis, length, length - 1)
        lattice = lattice.narrow(axis, 0, length).clone()
        lattice.narrow(axis, 1, length - 1).add_(difference)
        lattice.narrow(axis, 0, length - 1).sub_(difference)
    return lattice
