"""Eqs. 4-8 of arXiv 2604.03297 in Triton: one kernel reads all features and x once and writes the output.

Interpolation, RMSNorm, logits, softmax, sum and the concatenation of x are computed in registers. As in
`torch_backend.py`, the logits of an interpolated feature follow from a few scalar maps at its own resolution.
Projections are matrix products of PyTorch.

In backward, one kernel computes everything at full resolution, another one the transpose of the interpolation along
rows, and matrix products the transpose along the other axes. Every element is written by one program and every sum has
a fixed order, without atomics, so two runs are bitwise equal. Sums are in float32, or float64 for float64 inputs.
Nothing is kept for backward but the arguments.

As in `triton_kernels.py`, the K features of the history are called entries.
"""

import itertools
import math
import os
import sys
from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from . import torch_backend, triton_kernels
from .interpolation import apply_along_axis, interpolation_matrix, pair_matrix, upsampled_axes
from .projection import project, project_backward

# Sizes of tiles: pixels and channels; for the transpose along rows, elements at the lower and at the full resolution.
_PIXELS, _BLOCK, _CELLS, _STEP = 64, 16, 16, 64


def probe_triton(device_type: str) -> str | None:
    """Why these kernels cannot be used on a device, in a few words, or None if a small example works."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device_type != "cuda" and not interpreted:
        return f"it needs a CUDA device, the tensors are on {device_type}"
    if device_type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability() < (7, 0):
        return f"it needs compute capability 7.0 or higher, {torch.cuda.get_device_name()} has less"
    try:
        # the caller may be under autocast, or may be traced with fake tensors, which have no values
        with unset_fake_temporarily(), torch.autocast(device_type, enabled=False):
            difference = _difference_to_pytorch(device_type)
    except Exception as error:  # a missing driver, C compiler or GPU feature must not end the training
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
    return None if difference < 0.02 else f"its results differ from PyTorch's by {difference:.1e} of the largest value"


def _difference_to_pytorch(device_type: str) -> float:
    """The largest difference to `torch_backend.py` in the results and gradients of a small example.

    It is relative to the largest value of each tensor.
    """
    dtype = torch.float16 if device_type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device_type, dtype)

    sources = [draw(2, 6, 4, 6), draw(2, 20, 2, 3), draw(2, 9, 1, 6)]
    x = [draw(2, 8, 4, 6), draw(2, 12, 4, 6)]
    weights, biases = [draw(20, 6) / 3, None, draw(20, 9) / 3], [draw(20), None, draw(20)]
    operands = sources, x, weights, biases, draw(20).float() / 4, 1e-6
    gradients = draw(2, 20, 4, 6), draw(2, 4, 4, 6).float()
    largest = 0.0
    for function, arguments in (("forward", operands), ("backward", (*gradients, *operands))):
        actual, expected = (_flat(getattr(m, function)(*arguments)) for m in (sys.modules[__name__], torch_backend))
        for a, e in zip(actual, expected, strict=True):
            largest = max(largest, ((a - e).abs().max() / e.abs().max()).nan_to_num(torch.inf).item())
    return largest


def _flat(results) -> list[Tensor]:
    if isinstance(results, torch.Tensor):
        return [results.float()]
    return [tensor for result in results if result is not None for tensor in _flat(result)]


def forward(
    sources: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    query: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Compute out (B, C, *S) and alpha (B, K+1, *S); arguments as in `torch_backend.forward`."""
    call = _Call(sources, x, weights, biases, query, eps)
    out = call.parts[0].new_empty((call.batch, call.channels, *call.size))
    alpha = call.scalars()
    with torch.cuda.device_of(out):
        triton_kernels.forward_kernel[call.grid](*call.arguments(), out, alpha, **call.constants())
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
    """Compute the gradients of sources, x, weights, biases and query; arguments as in `torch_backend.backward`."""
    call = _Call(sources, x, weights, biases, query, eps)
    alpha, d_products, d_squared_norms = (call.scalars() for _ in range(3))
    d_buffer = torch.empty_like(call.values)
    values, d_values = call.entries(call.values), call.entries(d_buffer)
    d_parts = [torch.empty_like(p) for p in call.parts]
    d_query = call.query.new_empty((call.batch * call.grid[0], call.channels))
    grad_out, grad_alpha = (g if g is None else g.contiguous() for g in (grad_out, grad_alpha))
    with torch.cuda.device_of(call.values):
        triton_kernels.backward_kernel[call.grid](
            *call.arguments(), alpha if grad_out is None else grad_out, alpha if grad_alpha is None else grad_alpha,
            d_buffer, d_parts[0], d_parts[-1], d_query, alpha, d_products, d_squared_norms,
            GRAD_OUT=grad_out is not None, GRAD_ATTENTION=grad_alpha is not None, **call.constants(),
        )  # fmt: skip
        d_query = d_query.sum(0) + call.interpolated_backward(
            grad_out, alpha, d_products, d_squared_norms, values, d_values
        )
    d_sources, d_weights, d_biases = map(list, zip(*map(project_backward, d_values, sources, weights), strict=True))
    # the results of a PyTorch operator must not share memory
    d_sources = [d.clone() if w is None else d for d, w in zip(d_sources, weights, strict=True)]
    if len(d_parts) != len(x):
        d_parts = [d.clone() for d in d_parts[0].split([p.shape[1] for p in x], 1)]
    return d_sources, d_parts, d_weights, d_biases, d_query


@lru_cache(maxsize=1024)
def _table(
    batch: int,
    channels: int,
    sizes: tuple[tuple[int, ...], ...],
    num_interpolated: int,
    order: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """The table of entries that `triton_kernels.py` describes; it is cached because it depends on shapes only."""
    rows, offset, maps_offset = [], 0, 0
    for i, n in enumerate(order):
        pixels = math.prod(sizes[n])
        rows.append([offset, maps_offset, *_three_axes(sizes[n]), n])
        offset += batch * channels * pixels
        maps_offset += batch * 9 * pixels * (i < num_interpolated)
    return torch.tensor(rows, dtype=torch.int64).to(device)


class _Call:
    """The arguments in the layout of the kernels: projected entries in one buffer, and their scalar maps.

    Attributes:
        parts: one or two tensors whose concatenation is x.
        sizes: the spatial size of every entry, in the order of the history.
        order: the indices of the entries in the order of the buffer, the interpolated ones first.
        num_interpolated: the number of interpolated entries.
        axes: the bits of the axes along which any entry is interpolated.
        values: the buffer.
        maps: the scalar maps of the interpolated entries.
    """

    def __init__(
        self,
        sources: Sequence[Tensor],
        x: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        biases: Sequence[Tensor | None],
        query: Tensor,
        eps: float,
    ):
        dtype, device = x[0].dtype, x[0].device
        self.parts = [p.contiguous() for p in x] if len(x) <= 2 else [torch.cat(list(x), 1)]
        self.acc_dtype = torch.promote_types(dtype, torch.float32)
        self.query = query.to(self.acc_dtype).contiguous()
        self.eps = eps
        self.size = tuple(x[0].shape[2:])
        self.batch, self.channels = len(x[0]), query.numel()
        if 3 * self.channels * math.prod(self.size) >= 2**31:
            raise NotImplementedError(
                f"{self.channels} channels of {self.size} voxels need offsets that are too large for the Triton kernels"
            )
        self.sizes = tuple(tuple(s.shape[2:]) for s in sources)
        interpolated = [n for n, size in enumerate(self.sizes) if size != self.size]
        # entries of the same resolution next to each other, the highest resolution first
        interpolated.sort(key=lambda n: (-math.prod(self.sizes[n]), self.sizes[n]))
        self.num_interpolated = len(interpolated)
        self.order = (*interpolated, *(n for n, size in enumerate(self.sizes) if size == self.size))
        self.axes = 0
        for n in interpolated:
            self.axes |= _axes_bits(self.sizes[n], self.size)
        self.grid = (triton.cdiv(math.prod(self.size), _PIXELS), self.batch)
        self.values = x[0].new_empty(self.batch * self.channels * sum(map(math.prod, self.sizes)))
        for entry, source, weight, bias in zip(self.entries(self.values), sources, weights, biases, strict=True):
            project(source, weight, bias, dtype, out=entry)
        self.table = _table(self.batch, self.channels, self.sizes, self.num_interpolated, self.order, device)
        pixels = [math.prod(self.sizes[n]) for n in interpolated]
        self.maps = self.query.new_empty(max(1, self.batch * 9 * sum(pixels)))
        if interpolated:
            constants = self.constants()
            del constants["WIDTH"], constants["ENTRIES"]
            with torch.cuda.device_of(self.values):
                triton_kernels.maps_kernel[triton.cdiv(max(pixels), _PIXELS), self.batch, self.num_interpolated](
                    self.values, self.query, self.maps, self.table, **constants
                )

    def entries(self, buffer: Tensor) -> list[Tensor]:
        """Views of the entries (B, C, *S_n) in a buffer, in the order of the history."""
        entries: dict[int, Tensor] = {}
        offset = 0
        for n in self.order:
            shape = (self.batch, self.channels, *self.sizes[n])
            entries[n] = buffer[offset : offset + math.prod(shape)].view(shape)
            offset += math.prod(shape)
        return [entries[n] for n in range(len(self.order))]

    def scalars(self) -> Tensor:
        """An uninitialised tensor for one scalar per value and pixel, (B, K+1, *S)."""
        return self.query.new_empty((self.batch, len(self.order) + 1, *self.size))

    def arguments(self) -> tuple:
        """The leading arguments of `forward_kernel` and `backward_kernel`."""
        return (
            self.values, self.maps, self.parts[0], self.parts[-1], self.query, self.table,
            self.num_interpolated, len(self.order), *_three_axes(self.size), self.eps,
        )  # fmt: skip

    def constants(self) -> dict:
        """The compile-time arguments of `forward_kernel` and `backward_kernel`."""
        return {
            "CHANNELS": self.channels,
            "WIDTH": self.parts[0].shape[1],
            "AXES": self.axes,
            "ENTRIES": triton.next_power_of_2(len(self.order) + 1),
            "PIXELS": _PIXELS,
            "BLOCK": _BLOCK,
            "ACC": tl.float64 if self.acc_dtype == torch.float64 else tl.float32,
        }

    def interpolated_backward(
        self,
        grad_out: Tensor | None,
        alpha: Tensor,
        d_products: Tensor,
        d_squared_norms: Tensor,
        values: list[Tensor],
        d_values: list[Tensor],
    ) -> Tensor:
        """Write the gradients of the interpolated entries to `d_values`.

        Returns:
            what these entries contribute to the gradient of the query, (C,).
        """
        d_query = torch.zeros_like(self.query)
        if not self.num_interpolated:
            return d_query
        constants = {name: self.constants()[name] for name in ("CHANNELS", "PIXELS", "BLOCK", "ACC")}
        for groups in self._batches():
            row_gradients = self._rows_backward(grad_out, alpha, [n for group in groups for n in group])
            for group in groups:
                size = self.sizes[group[0]]
                axes = upsampled_axes(size, self.size)
                # The transpose of all scalar maps of a resolution together. They are stacked, because indexing with the
                # list `group` would copy it to the device.
                d_product, d_pairs = (torch.stack([d[:, n] for n in group], 1) for d in (d_products, d_squared_norms))
                for axis in axes:
                    lengths = size[axis], self.size[axis], self.acc_dtype, self.query.device
                    d_product = apply_along_axis(interpolation_matrix(*lengths).T, d_product, axis)
                    d_pairs = apply_along_axis(pair_matrix(*lengths), d_pairs, axis)
                grid = triton.cdiv(math.prod(size), _PIXELS), triton.cdiv(self.channels, _BLOCK), self.batch
                for i, n in enumerate(group):
                    gradient, d_product_n = row_gradients.pop(n), d_product[:, i].contiguous()
                    for axis in axes:
                        if axis != -1:
                            lengths = size[axis], self.size[axis], self.acc_dtype, self.query.device
                            gradient = apply_along_axis(interpolation_matrix(*lengths).T, gradient, axis)
                    triton_kernels.finish_kernel[grid](
                        values[n], gradient, d_product_n, d_pairs[:, i].contiguous(), self.query, d_values[n],
                        *_three_axes(size), AXES=_axes_bits(size, self.size), **constants,
                    )  # fmt: skip
                    d_query += torch_backend.dot_backward(d_product_n, values[n])
        return d_query

    def _batches(self) -> list[list[list[int]]]:
        """Batches of groups of interpolated entries of the same resolution.

        The results of `_rows_backward` for a batch take at most half of the memory of a full-resolution feature, unless
        the batch has only one group.
        """
        interpolated = self.order[: self.num_interpolated]
        groups = [list(group) for _, group in itertools.groupby(interpolated, key=lambda n: self.sizes[n])]
        batches: list[list[list[int]]] = []
        remaining = 0.0
        for group in groups:
            needed = len(group) * self.sizes[group[0]][-1] / self.size[-1]
            if needed > remaining:
                batches.append([])
                remaining = 0.5
            batches[-1].append(group)
            remaining -= needed
        return batches

    def _rows_backward(self, grad_out: Tensor | None, alpha: Tensor, entries: list[int]) -> dict[int, Tensor]:
        """The transpose of the interpolation along rows of alpha_n grad (B, C, *S), which is (B, C, ..., W_n).

        Args:
            entries: consecutive entries of the table.
        """
        shapes = [(self.batch, self.channels, *self.size[:-1], self.sizes[n][-1]) for n in entries]
        counts = [math.prod(shape) for shape in shapes]
        # without a gradient of the output, Eq. 8 contributes nothing
        row_gradients = self.query.new_zeros(sum(counts)) if grad_out is None else self.query.new_empty(sum(counts))
        if grad_out is not None:
            rows = math.prod(self.size[:-1])
            first = self.order.index(entries[0])
            # gradients in half precision have float32 weights, which tf32 would round
            precision = "ieee" if grad_out.dtype == self.acc_dtype or torch.version.hip else "tf32x3"
            triton_kernels.rows_kernel[rows, triton.cdiv(self.channels, _BLOCK), self.batch](
                grad_out, alpha, row_gradients, self.table, first, first + len(entries), len(self.order), rows,
                self.size[-1],
                CHANNELS=self.channels, BLOCK=_BLOCK, CELLS=_CELLS, STEP=_STEP, PRECISION=precision,
                ACC=self.constants()["ACC"],
            )  # fmt: skip
        parts = zip(entries, row_gradients.split(counts), shapes, strict=True)
        return {n: part.view(shape) for n, part, shape in parts}


def _three_axes(size: Sequence[int]) -> tuple[int, int, int]:
    """(D, H, W), where D is 1 in 2-D."""
    depth, height, width = (1,) * (3 - len(size)) + tuple(size)
    return depth, height, width


def _axes_bits(size: Sequence[int], full: Sequence[int]) -> int:
    """The axes that are interpolated, as bits: 1 is the width, 2 the height, 4 the depth."""
    return sum(1 << axis for axis, (s, t) in enumerate(zip(reversed(size), reversed(full), strict=True)) if s != t)
