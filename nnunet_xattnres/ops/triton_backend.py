"""Eqs. 4-8 of arXiv 2604.03297 in Triton: one kernel reads the entries and x once and writes the output.

Interpolation, RMS, logits, softmax, sum and the concatenation of x happen in registers; the logits of an interpolated
entry come from a few scalar maps at its own resolution, as in `torch_backend.py`. Projections are matrix
products of PyTorch.

Backward, one kernel does all that happens at full resolution, another folds the interpolated entries' gradients along
rows, and matrix products fold the other axes. Every element is written by one program and every sum has a fixed order:
no atomics, so two runs agree bit by bit. Sums are float32, float64 for float64 input. Nothing is kept for backward but
the arguments.
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

# pixels and channels of a tile; cells and pixels of a step along rows
_PIXELS, _BLOCK, _CELLS, _STEP = 64, 16, 16, 64


def probe_triton(device_type: str) -> str | None:
    """Why these kernels cannot be used on a device, in a few words, or None: found out by using them on an example."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device_type != "cuda" and not interpreted:
        return f"it needs a CUDA device, the tensors are on {device_type}"
    if device_type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability() < (7, 0):
        return f"{torch.cuda.get_device_name()} is too old for it"
    try:
        # as nothing else: neither in a caller's autocast nor, while a network is traced, on tensors without content
        with unset_fake_temporarily(), torch.autocast(device_type, enabled=False):
            error = _difference_to_pytorch(device_type)
    except Exception as error:  # whatever is missing here, a driver, a C compiler, a feature: training goes on
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
    return None if error < 0.02 else f"its results differ from PyTorch's by {error:.1e} of the largest"


def _difference_to_pytorch(device_type: str) -> float:
    """The largest relative difference of a small example's results and gradients to those of `torch_backend.py`."""
    dtype = torch.float16 if device_type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device_type, dtype)

    sources = [draw(2, 6, 4, 6), draw(2, 20, 2, 3), draw(2, 9, 1, 6)]
    x = [draw(2, 8, 4, 6), draw(2, 12, 4, 6)]
    weights, biases = [draw(20, 6) / 3, None, draw(20, 9) / 3], [draw(20), None, draw(20)]
    operands = sources, x, weights, biases, draw(20).float() / 4, 1e-6
    gradients = draw(2, 20, 4, 6), draw(2, 4, 4, 6).float()
    worst = 0.0
    for function, arguments in (("forward", operands), ("backward", (*gradients, *operands))):
        ours, expected = (_flat(getattr(m, function)(*arguments)) for m in (sys.modules[__name__], torch_backend))
        for a, b in zip(ours, expected, strict=True):
            worst = max(worst, ((a - b).abs().max() / b.abs().max()).nan_to_num(torch.inf).item())
    return worst


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
    """Output (B, C, *S) and attention (B, K+1, *S); arguments as in `custom_op.py`."""
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
    """Gradients of sources, x, weights, biases and query, in their precision or a better one."""
    call = _Call(sources, x, weights, biases, query, eps)
    alpha, d_products, d_energies = (call.scalars() for _ in range(3))
    d_buffer = torch.empty_like(call.values)
    values, d_values = call.entries(call.values), call.entries(d_buffer)
    d_parts = [torch.empty_like(p) for p in call.parts]
    d_query = call.query.new_empty((call.batch * call.grid[0], call.channels))
    grad_out, grad_alpha = (g if g is None else g.contiguous() for g in (grad_out, grad_alpha))
    with torch.cuda.device_of(call.values):
        triton_kernels.backward_kernel[call.grid](
            *call.arguments(), alpha if grad_out is None else grad_out, alpha if grad_alpha is None else grad_alpha,
            d_buffer, d_parts[0], d_parts[-1], d_query, alpha, d_products, d_energies,
            GRAD_OUT=grad_out is not None, GRAD_ATTENTION=grad_alpha is not None, **call.constants(),
        )  # fmt: skip
        d_query = d_query.sum(0) + call.fold(grad_out, alpha, d_products, d_energies, values, d_values)
    d_sources, d_weights, d_biases = zip(*map(project_backward, d_values, sources, weights), strict=True)
    # the results of an op may not share memory
    d_sources = [d.clone() if w is None else d for d, w in zip(d_sources, weights, strict=True)]
    if len(d_parts) != len(x):
        d_parts = [d.clone() for d in d_parts[0].split([p.shape[1] for p in x], 1)]
    return d_sources, d_parts, d_weights, d_biases, d_query


@lru_cache(maxsize=1024)
def _table(
    batch: int,
    channels: int,
    sizes: tuple[tuple[int, ...], ...],
    low: int,
    order: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """What the kernels know of each entry, see `triton_kernels.py`; it depends on shapes only, so it is kept."""
    rows, begin, maps = [], 0, 0
    for i, n in enumerate(order):
        pixels = math.prod(sizes[n])
        rows.append([begin, maps, *_three(sizes[n]), n])
        begin += batch * channels * pixels
        maps += batch * 9 * pixels * (i < low)
    return torch.tensor(rows, dtype=torch.int64).to(device)


class _Call:
    """The arguments as the kernels take them: entries projected into one buffer, scalar maps made."""

    def __init__(self, sources, x, weights, biases, query, eps):
        dtype, device = x[0].dtype, x[0].device
        # the kernels read x from two places at most
        self.parts = [p.contiguous() for p in x] if len(x) <= 2 else [torch.cat(list(x), 1)]
        self.acc_dtype = torch.promote_types(dtype, torch.float32)
        self.query = query.to(self.acc_dtype).contiguous()
        self.eps = eps
        self.size = tuple(x[0].shape[2:])
        self.batch, self.channels = len(x[0]), query.numel()
        if 3 * self.channels * math.prod(self.size) >= 2**31:
            raise NotImplementedError(
                f"{self.channels} channels of {self.size} voxels are beyond the 32-bit offsets of Triton's kernels"
            )
        self.sizes = tuple(tuple(s.shape[2:]) for s in sources)
        grown = [n for n, size in enumerate(self.sizes) if size != self.size]
        # those of one resolution side by side, the finest first
        grown.sort(key=lambda n: (-math.prod(self.sizes[n]), self.sizes[n]))
        self.low = len(grown)
        self.order = (*grown, *(n for n, size in enumerate(self.sizes) if size == self.size))
        self.axes = 0
        for n in grown:
            self.axes |= _bits(self.sizes[n], self.size)
        self.grid = (triton.cdiv(math.prod(self.size), _PIXELS), self.batch)
        self.values = x[0].new_empty(self.batch * self.channels * sum(map(math.prod, self.sizes)))
        for entry, source, weight, bias in zip(self.entries(self.values), sources, weights, biases, strict=True):
            project(source, weight, bias, dtype, out=entry)
        self.table = _table(self.batch, self.channels, self.sizes, self.low, self.order, device)
        pixels = [math.prod(self.sizes[n]) for n in grown]
        self.maps = self.query.new_empty(max(1, self.batch * 9 * sum(pixels)))
        if grown:
            constants = self.constants()
            del constants["WIDTH"], constants["ENTRIES"]
            with torch.cuda.device_of(self.values):
                triton_kernels.maps_kernel[triton.cdiv(max(pixels), _PIXELS), self.batch, self.low](
                    self.values, self.query, self.maps, self.table, **constants
                )

    def entries(self, buffer: Tensor) -> list[Tensor]:
        """The entries (B, C, *S_n) in a buffer, in the history's order."""
        entries: dict[int, Tensor] = {}
        begin = 0
        for n in self.order:
            shape = (self.batch, self.channels, *self.sizes[n])
            entries[n] = buffer[begin : begin + math.prod(shape)].view(shape)
            begin += math.prod(shape)
        return [entries[n] for n in range(len(self.order))]

    def scalars(self) -> Tensor:
        """Room for a scalar for every entry, x included, and pixel: (B, K+1, *S)."""
        return self.query.new_empty((self.batch, len(self.order) + 1, *self.size))

    def arguments(self) -> tuple:
        return (
            self.values, self.maps, self.parts[0], self.parts[-1], self.query, self.table,
            self.low, len(self.order), *_three(self.size), self.eps,
        )  # fmt: skip

    def constants(self) -> dict:
        return {
            "CHANNELS": self.channels,
            "WIDTH": self.parts[0].shape[1],
            "AXES": self.axes,
            "ENTRIES": triton.next_power_of_2(len(self.order) + 1),
            "PIXELS": _PIXELS,
            "BLOCK": _BLOCK,
            "ACC": tl.float64 if self.acc_dtype == torch.float64 else tl.float32,
        }

    def fold(self, grad_out, alpha, d_products, d_energies, values, d_values) -> Tensor:
        """Writes `d_values` of the interpolated entries; returns the query's gradient from them."""
        d_query = torch.zeros_like(self.query)
        if not self.low:
            return d_query
        constants = {name: self.constants()[name] for name in ("CHANNELS", "PIXELS", "BLOCK", "ACC")}
        for batch in self._batches():
            folded = self._fold_rows(grad_out, alpha, [n for members in batch for n in members])
            for members in batch:
                size = self.sizes[members[0]]
                axes = upsampled_axes(size, self.size)
                # what is a scalar map folds for all entries of one resolution together; not by an index of `members`,
                # which would be copied to the device
                by_product, by_pair = (torch.stack([d[:, n] for n in members], 1) for d in (d_products, d_energies))
                for axis in axes:
                    growth = size[axis], self.size[axis], self.acc_dtype, self.query.device
                    by_product = apply_along_axis(interpolation_matrix(*growth).T, by_product, axis)
                    by_pair = apply_along_axis(pair_matrix(*growth), by_pair, axis)
                grid = triton.cdiv(math.prod(size), _PIXELS), triton.cdiv(self.channels, _BLOCK), self.batch
                for m, n in enumerate(members):
                    gradient, product = folded.pop(n), by_product[:, m].contiguous()
                    for axis in axes:
                        if axis != -1:
                            growth = size[axis], self.size[axis], self.acc_dtype, self.query.device
                            gradient = apply_along_axis(interpolation_matrix(*growth).T, gradient, axis)
                    triton_kernels.finish_kernel[grid](
                        values[n], gradient, product, by_pair[:, m].contiguous(), self.query, d_values[n],
                        *_three(size), AXES=_bits(size, self.size), **constants,
                    )  # fmt: skip
                    d_query += torch_backend.dot_backward(product, values[n])
        return d_query

    def _batches(self) -> list[list[list[int]]]:
        """The interpolated entries by resolution, in batches that fold to half a full-resolution feature or to one."""
        grown = self.order[: self.low]
        groups = [list(group) for _, group in itertools.groupby(grown, key=lambda n: self.sizes[n])]
        batches: list[list[list[int]]] = []
        room = 0.0
        for group in groups:
            share = len(group) * self.sizes[group[0]][-1] / self.size[-1]
            if share > room:
                batches.append([])
                room = 0.5
            batches[-1].append(group)
            room -= share
        return batches

    def _fold_rows(self, grad_out: Tensor | None, alpha: Tensor, entries: list[int]) -> dict[int, Tensor]:
        """alpha_n grad (B, C, *S), for consecutive entries of the table, folded along its rows: (B, C, ..., W_n)."""
        shapes = [(self.batch, self.channels, *self.size[:-1], self.sizes[n][-1]) for n in entries]
        counts = [math.prod(shape) for shape in shapes]
        # no gradient at all comes by way of the output
        folded = self.query.new_zeros(sum(counts)) if grad_out is None else self.query.new_empty(sum(counts))
        if grad_out is not None:
            rows = math.prod(self.size[:-1])
            first = self.order.index(entries[0])
            # float32 to the last bits also for half-precision gradients: their weights are not
            precision = "ieee" if grad_out.dtype == self.acc_dtype or torch.version.hip else "tf32x3"
            triton_kernels.rows_kernel[rows, triton.cdiv(self.channels, _BLOCK), self.batch](
                grad_out, alpha, folded, self.table, first, first + len(entries), len(self.order), rows, self.size[-1],
                CHANNELS=self.channels, BLOCK=_BLOCK, CELLS=_CELLS, STEP=_STEP, PRECISION=precision,
                ACC=self.constants()["ACC"],
            )  # fmt: skip
        parts = zip(entries, folded.split(counts), shapes, strict=True)
        return {n: part.view(shape) for n, part, shape in parts}


def _three(size: Sequence[int]) -> tuple[int, int, int]:
    return (1,) * (3 - len(size)) + tuple(size)


def _bits(size: Sequence[int], full: Sequence[int]) -> int:
    """The axes that grow: 1 width, 2 height, 4 depth."""
    return sum(1 << axis for axis, (s, t) in enumerate(zip(reversed(size), reversed(full), strict=True)) if s != t)
