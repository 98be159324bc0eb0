"""Eqs. 4-8 of arXiv 2604.03297 in Triton, without the K+1 values at the size of x.

The features that are interpolated are projected at their own resolution and stored with the channels of a cell next to
each other. Interpolation and weighted sum of a tile of pixels are one product with a banded matrix (`tiles.py`), on
tensor cores, for all features together. As in `torch_backend.py`, the logits of an interpolated feature follow from a
few scalar maps at its own resolution. The projections of all features are one kernel (`triton_projection.py`).

The backward pass computes the gradients of a tile with the same matrix. Every element is written by one program, and
every sum has a fixed order, without atomics, so two runs are bitwise equal. Sums are in float32; float64 inputs are
left to the PyTorch backend. Nothing is kept for backward but the arguments.
"""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from . import torch_backend, triton_kernels
from .needs import Needs
from .tiles import make_tables
from .triton_projection import Projections, channel_block, product_constants

# Sizes of blocks. Of the products of tiles: pixels and columns, in half precision and in float32, where they take more
# shared memory, and channels. Of the kernels on scalars and single features: pixels, channels, cells, and results of
# the transpose of the maps.
_TILE, _COLUMNS, _TILE_FLOAT32, _COLUMNS_FLOAT32, _CHANNELS = 128, 32, 64, 16, 64
_PIXELS, _BLOCK, _CELLS, _OUTPUTS = 128, 32, 32, 64
_WARPS, _STAGES = 4, 3
# The largest memory of the gradients of columns, in bytes, unless one sample needs more.
_PARTIAL = 512 * 2**20


def probe_triton(device_type: str) -> str | None:
    """Why these kernels cannot be used on a device, in a few words, or None if a small example works."""
    if device_type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
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
    operands = sources, x, weights, biases, draw(20).float() / 4, None, 1e-6
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
    gate: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Compute out (B, C, *S) and alpha (B, K+1, *S); arguments as in `torch_backend.forward`."""
    _refuse_gate(gate)
    call = _Call(sources, x, weights, biases, query, eps)
    out = call.parts[0].new_empty((call.batch, call.channels, *call.spatial))
    alpha, logits = call.scalars(call.batch), call.scalars(call.batch)
    with torch.cuda.device_of(out):
        call.compute_scores(logits, logits, slice(None), logits=True)
        triton_kernels.weighted_sum_kernel[call.tile_grid(call.batch)](
            call.values, call.full, *call.parts_of(slice(None)), logits, out, alpha, call.tables.columns,
            call.tables.weights, call.tables.full, *call.tile_arguments(), **call.tile_constants(),
        )  # fmt: skip
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
    needs: Needs | None = None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor | None], list[Tensor | None], Tensor, Tensor | None]:
    """Compute the gradients of sources, x, weights, biases, query and gate; arguments as in `torch_backend.backward`.

    Gradients that are not in `needs` are computed, too.
    """
    _refuse_gate(gate)
    call = _Call(sources, x, weights, biases, query, eps)
    if grad_out is None:
        grad_out = call.parts[0].new_zeros((call.batch, call.channels, *call.spatial))
    grad_out = grad_out.contiguous()
    grad_alpha = None if grad_alpha is None else grad_alpha.contiguous()
    d_values, d_full = torch.empty_like(call.values), torch.empty_like(call.full)
    d_parts = [torch.empty_like(part) for part in call.parts]
    with torch.cuda.device_of(grad_out):
        d_query = torch.zeros_like(call.query)
        for rows in call.samples():
            d_query += call.backward_of_samples(rows, grad_out, grad_alpha, d_values, d_full, d_parts)
        d_sources, d_weights, d_biases = call.projections.backward(d_values, d_full)
    # the results of a PyTorch operator must not share memory
    if len(d_parts) != len(x):
        d_parts = [d.clone() for d in d_parts[0].split([p.shape[1] for p in x], 1)]
    return d_sources, d_parts, d_weights, d_biases, d_query, None


def _refuse_gate(gate: Tensor | None) -> None:
    if gate is not None:
        raise NotImplementedError("the Triton kernels do not have the gate yet")


class _Call:
    """The arguments in the layout of the kernels.

    Attributes:
        parts: one or two tensors whose concatenation is x.
        spatial: the spatial size of x.
        size: the same as (depth, height, width).
        values: the projected features that are interpolated, (B, cells, C).
        full: the projected features of the size of x, (features, B, C, *S).
        maps: the scalar maps of the interpolated features, (B, cells, 8), or (B, cells, 12) in 3-D.
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
        self.dtype = x[0].dtype
        if self.dtype == torch.float64:
            raise NotImplementedError("the Triton kernels do not compute in float64")
        self.parts = [p.contiguous() for p in x] if len(x) <= 2 else [torch.cat(list(x), 1)]
        self.query = query.float().contiguous()
        self.eps = eps
        self.spatial = tuple(x[0].shape[2:])
        self.size = _three_axes(self.spatial)
        self.batch, self.channels = len(x[0]), query.numel()
        sizes = tuple(_three_axes(s.shape[2:]) for s in sources)
        self.tables = make_tables(
            sizes, self.size, _TILE_FLOAT32 if self.dtype == torch.float32 else _TILE, self.columns, query.device
        )
        largest = max(2 * self.channels * max(math.prod(self.size), self.tables.num_cells), 12 * self.tables.num_cells)
        if largest >= 2**31:
            raise NotImplementedError(
                f"{self.channels} channels of {self.spatial} voxels need offsets that are too large for the Triton "
                "kernels"
            )
        self.num_interpolated = len(self.tables.cells)
        self.values = x[0].new_empty(self.batch, self.tables.num_cells, self.channels)
        self.full = x[0].new_empty(len(sources) - self.num_interpolated, self.batch, self.channels, *self.spatial)
        self.projections = Projections(sources, weights, biases, self.channels, self.tables, self.dtype)
        with torch.cuda.device_of(self.values):
            self.projections.project(self.values, self.full)
        self.maps = self.query.new_empty(self.batch, self.tables.num_cells, 8 if self.dim == 2 else 12)
        if self.num_interpolated:
            with torch.cuda.device_of(self.values):
                triton_kernels.maps_kernel[triton.cdiv(self.tables.num_cells, _CELLS), self.batch](
                    self.values, self.query, self.maps, self.tables.features, self.tables.feature_of_cell,
                    self.tables.num_cells, self.channels, DIM=self.dim, CELLS=_CELLS, BLOCK=self.block,
                )  # fmt: skip

    @property
    def dim(self) -> int:
        """The number of spatial axes."""
        return len(self.spatial)

    @property
    def columns(self) -> int:
        """The number of columns in a block."""
        return _COLUMNS_FLOAT32 if self.dtype == torch.float32 else _COLUMNS

    @property
    def block(self) -> int:
        """The number of channels in a block."""
        return channel_block(self.channels, _CHANNELS)

    def scalars(self, samples: int) -> Tensor:
        """An uninitialised tensor for one scalar per value and pixel of some samples, (samples, K+1, *S)."""
        return self.query.new_empty((samples, self.num_values, *self.spatial))

    @property
    def num_values(self) -> int:
        """K+1."""
        return self.num_interpolated + len(self.full) + 1

    def samples(self) -> Iterator[slice]:
        """Groups of samples whose gradients of columns stay below the limit of memory."""
        needed = 4 * math.prod(self.tables.tiles) * self.tables.num_columns * self.channels
        step = min(self.batch, max(1, _PARTIAL // max(1, needed)))
        return (slice(start, min(start + step, self.batch)) for start in range(0, self.batch, step))

    def parts_of(self, rows: slice, parts: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The two parts of x of some samples; the second is not read if there is one part only."""
        parts = self.parts if parts is None else parts
        return parts[0][rows], parts[-1][rows]

    def compute_scores(self, products: Tensor, rstd: Tensor, rows: slice, logits: bool) -> None:
        """Compute the factors of the logits of some samples, or their product, `logits`, in place of the first."""
        tables = self.tables
        triton_kernels.scores_kernel[triton.cdiv(math.prod(self.size), _PIXELS), 2 + len(self.full), len(products)](
            self.full[:, rows], *self.parts_of(rows), self.query, self.maps[rows], products, rstd, tables.features,
            tables.full, self.channels, self.parts[0].shape[1], self.num_interpolated, self.num_values,
            tables.num_cells, *self.size, self.eps, self.batch,
            LOGITS=logits, DIM=self.dim, PIXELS=_PIXELS, BLOCK=_BLOCK,
        )  # fmt: skip

    def tile_grid(self, samples: int) -> tuple[int, int, int]:
        """The grid of the kernels on tiles."""
        return math.prod(self.tables.tiles), triton.cdiv(self.channels, self.block), samples

    def tile_arguments(self) -> tuple[int, ...]:
        """The last arguments of the kernels on tiles."""
        return (
            self.channels, self.parts[0].shape[1], self.tables.num_columns, len(self.full), self.num_values,
            self.tables.num_cells, *self.size, *self.tables.tiles, self.batch,
        )  # fmt: skip

    def tile_constants(self) -> dict[str, Any]:
        """The compile-time arguments of the kernels on tiles."""
        exact = self.dtype == torch.float32
        return {
            "DIM": self.dim,
            **dict(zip(("TILE_Z", "TILE_Y", "TILE_X"), self.tables.tile, strict=True)),
            "VALUES": max(16, triton.next_power_of_2(self.num_values)),
            "BLOCK": self.block,
            "COLUMNS": self.columns,
            **product_constants(self.dtype),
            "PICK": tl.float32 if exact else tl.float16,
            "num_warps": _WARPS,
            "num_stages": 1 if exact else _STAGES,
        }

    def backward_of_samples(
        self,
        rows: slice,
        grad_out: Tensor,
        grad_alpha: Tensor | None,
        d_values: Tensor,
        d_full: Tensor,
        d_parts: list[Tensor],
    ) -> Tensor:
        """Write the gradients of the projected features and of x for some samples.

        Returns:
            what these samples contribute to the gradient of the query, (C,).
        """
        tables, grad_out = self.tables, grad_out[rows]
        samples = len(grad_out)
        grid, blocks = self.tile_grid(samples), triton.cdiv(math.prod(self.size), _PIXELS)
        products, rstd = self.scalars(samples), self.scalars(samples)
        self.compute_scores(products, rstd, rows, logits=False)
        d_alpha = self.query.new_empty(grid[1], *products.shape)
        partial = self.query.new_empty(samples, grid[0], tables.num_columns, self.channels)
        triton_kernels.sum_backward_kernel[grid](
            self.values[rows], self.full[:, rows], *self.parts_of(rows), products, rstd, grad_out, d_alpha, partial,
            tables.columns, tables.weights, tables.full, *self.tile_arguments(), **self.tile_constants(),
        )  # fmt: skip
        d_query = self.query.new_empty(samples * blocks * (1 + len(self.full)), self.channels)
        triton_kernels.scores_backward_kernel[blocks, samples](
            self.full[:, rows], *self.parts_of(rows), self.query, products, rstd, d_alpha,
            d_alpha if grad_alpha is None else grad_alpha[rows], grad_out,
            d_full[:, rows], *self.parts_of(rows, d_parts), d_query, tables.full,
            self.channels, self.parts[0].shape[1], len(self.full), self.num_values, grid[1], math.prod(self.size),
            self.batch, GRAD_ATTENTION=grad_alpha is not None, PIXELS=_PIXELS,
            VALUES=max(16, triton.next_power_of_2(self.num_values)), BLOCK=_BLOCK,
        )  # fmt: skip
        d_query = d_query.view(-1, 1 + len(self.full), self.channels).sum((0, 1))
        if self.num_interpolated:
            d_maps = self._transpose_maps(products, rstd)
            d_query += self._values_backward(rows, partial, d_maps, d_values)
        return d_query

    def _transpose_maps(self, d_products: Tensor, d_squared_norms: Tensor) -> Tensor:
        """The transpose of the interpolation of the scalar maps, (samples, 1 + 4 or 8, cells)."""
        tables, samples = self.tables, len(d_products)
        maps, total = d_products, 0
        for axis in range(self.dim):
            before, total_before = maps, total
            total = tables.totals[axis]
            maps = self.query.new_empty(samples, 1 + 2 * 2**axis, total)
            grid = triton.cdiv(tables.largest[axis], _OUTPUTS), self.num_interpolated, samples
            triton_kernels.transpose_maps_kernel[grid](
                d_products, d_squared_norms, before, maps, tables.features, *self.size, total_before, total,
                self.num_values, AXIS=2**axis, OUTPUTS=_OUTPUTS, WINDOW=8,
            )  # fmt: skip
        return maps

    def _values_backward(self, rows: slice, partial: Tensor, d_maps: Tensor, d_values: Tensor) -> Tensor:
        tables, samples = self.tables, len(d_maps)
        d_query = torch.zeros_like(self.query)
        groups = (0, tables.num_few, _CELLS, 1), (tables.num_few, tables.num_cells, 2, 16)
        for first, end, cells, items in groups:
            if first == end:
                continue
            grid = triton.cdiv(end - first, cells), triton.cdiv(self.channels, self.block), samples
            d_query_of_blocks = self.query.new_empty(samples * grid[0], self.channels)
            triton_kernels.values_backward_kernel[grid](
                partial, self.values[rows], d_maps, self.query, d_values[rows], d_query_of_blocks,
                tables.features, tables.feature_of_cell, tables.readers,
                self.channels, tables.num_columns, tables.num_cells, math.prod(tables.tiles), first, end,
                DIM=self.dim, CELLS=cells, ITEMS=items, BLOCK=self.block,
            )  # fmt: skip
            d_query += d_query_of_blocks.sum(0)
        return d_query


def _three_axes(size: Sequence[int]) -> tuple[int, int, int]:
    """(D, H, W), where D is 1 in 2-D."""
    depth, height, width = (1,) * (3 - len(size)) + tuple(size)
    return depth, height, width
