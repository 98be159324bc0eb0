"""Eqs. 4-8 of arXiv 2604.03297 in Triton, without the K+1 values at the size of x.

The features that are interpolated are projected at their own resolution and stored with the channels of a cell next to
each other. Interpolation and weighted sum of a tile of pixels are one product with a banded matrix (`tiles.py`), on
tensor cores, for all features together. As in `torch_backend.py`, the logits of an interpolated feature follow from a
few scalar maps at its own resolution. The projections of all features are one kernel (`triton_projection.py`).

The backward pass computes the gradients of a tile with the same matrix. Every element is written by one program, and
every sum has a fixed order, without atomics, so two runs are bitwise equal. Sums are in float32; there are no kernels
for float64 (`dispatch.py` selects PyTorch for it). Nothing is kept for backward but the arguments.
"""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from . import torch_backend, triton_kernels
from .needed_gradients import NeededGradients
from .tiles import OUTPUTS, Tables, make_tables, three_axes
from .triton_launch import compile_and_call, launch
from .triton_projection import Projections, channel_block, product_constants

# Sizes of blocks. Of the products of tiles: pixels and columns, in half precision and in float32, where they take more
# shared memory, and channels; with 168 registers a thread in half precision, three programs fit into a multiprocessor.
_TILE, _COLUMNS, _TILE_FLOAT32, _COLUMNS_FLOAT32, _CHANNELS = 128, 32, 64, 16, 64
_WARPS, _STAGES, _REGISTERS = 4, 3, 168
# Of the kernels on features of the size of x: pixels, channels, channels for backward, which reads the gradient of the
# output, too, and warps. For at least _MANY pixels, a thread has all channels of its pixels; for fewer, a program has
# more channels at a time. The last is the number of channels that one program differentiates.
_MANY, _PIXELS, _BLOCK, _BLOCK_BACKWARD, _PIXEL_WARPS = 4096, 512, 16, 4, 2
_FEW_PIXELS, _FEW_BLOCK, _FEW_BLOCK_BACKWARD, _FEW_WARPS = 128, 64, 32, 4
_CHANNEL_GROUP = 128
# Of the kernels on cells: cells, and for the maps channels; of the logits of interpolated features: pixels.
_CELLS, _MAP_CHANNELS = 32, 32
_SCORE_PIXELS = 128
# The largest memory in bytes of the gradients of columns, and of all temporary tensors of a group of samples, unless
# one sample needs more; then the columns are computed in parts.
_PARTIAL, _SAMPLES = 384 * 2**20, 768 * 2**20


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
    with torch.cuda.device_of(query):
        return compile_and_call(_forward, sources, x, weights, biases, query, gate, eps)


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
) -> tuple[list[Tensor | None], list[Tensor], list[Tensor | None], list[Tensor | None], Tensor, Tensor | None]:
    """Compute the gradients of sources, x, weights, biases, query and gate; arguments as in `torch_backend.backward`.

    Gradients of x, query and gate are computed whether they are needed or not.
    """
    needed = NeededGradients.all(sources, x, weights, biases, gate) if needed is None else needed
    with torch.cuda.device_of(query):
        return compile_and_call(_backward, grad_out, grad_alpha, sources, x, weights, biases, query, gate, eps, needed)


def _forward(sources, x, weights, biases, query, gate, eps) -> tuple[Tensor, Tensor]:
    """`forward`, called by `compile_and_call`."""
    return _Call(sources, _two_parts(x), weights, biases, query, gate, eps, _tables(sources, x)).forward()


def _backward(
    grad_out, grad_alpha, sources, x, weights, biases, query, gate, eps, needed
) -> tuple[list[Tensor | None], list[Tensor], list[Tensor | None], list[Tensor | None], Tensor, Tensor | None]:
    """`backward`, called by `compile_and_call`."""
    parts, tables = _two_parts(x), _tables(sources, x)
    if grad_out is None:
        grad_out = parts[0].new_zeros((len(parts[0]), query.numel(), *parts[0].shape[2:]))
    grad_out = grad_out.contiguous()
    grad_alpha = None if grad_alpha is None else grad_alpha.contiguous()
    d_sources = torch_backend.empty(sources, needed.sources)
    d_parts = [torch.empty_like(p) for p in parts]
    parameters: list[Tensor | None] = []
    with torch.cuda.device_of(query):
        for rows in _groups(tables, sources, parts, query.numel()):
            call = _Call(
                [s[rows] for s in sources], [p[rows] for p in parts], weights, biases, query, gate, eps, tables,
                needed, [None if d is None else d[rows] for d in d_sources],
            )  # fmt: skip
            gradients = call.backward(
                grad_out[rows], None if grad_alpha is None else grad_alpha[rows], [d[rows] for d in d_parts]
            )
            for total, gradient in zip(parameters, gradients, strict=False):
                if total is not None and gradient is not None:
                    total += gradient
            parameters = parameters or gradients
    # the results of a PyTorch operator must not share memory
    if len(d_parts) != len(x):
        d_parts = [d.clone() for d in d_parts[0].split([p.shape[1] for p in x], 1)]
    d_query, d_gate, *others = parameters
    assert d_query is not None
    return d_sources, d_parts, others[: len(sources)], others[len(sources) :], d_query, d_gate


def _two_parts(x: Sequence[Tensor]) -> list[Tensor]:
    """One or two contiguous tensors whose concatenation is that of `x`."""
    return [p.contiguous() for p in x] if len(x) <= 2 else [torch.cat(list(x), 1)]


def _tables(sources: Sequence[Tensor], x: Sequence[Tensor]) -> Tables:
    """The tables of the kernels."""
    exact = x[0].dtype == torch.float32
    sizes = tuple(three_axes(s.shape[2:]) for s in sources)
    tile, columns = (_TILE_FLOAT32, _COLUMNS_FLOAT32) if exact else (_TILE, _COLUMNS)
    return make_tables(sizes, three_axes(x[0].shape[2:]), tile, columns, x[0].device)


def _groups(tables: Tables, sources: Sequence[Tensor], parts: Sequence[Tensor], channels: int) -> Iterator[slice]:
    """Groups of samples, equal but for the last, whose temporary tensors stay below the limit of memory."""
    batch, pixels = len(parts[0]), math.prod(parts[0].shape[2:])
    num_full = len(sources) - len(tables.cells)
    scalars = (3 + triton.cdiv(channels, _CHANNELS)) * 4 * (len(sources) + 1) * pixels
    features = channels * (num_full * pixels + 2 * tables.num_cells) * parts[0].element_size()
    columns = min(_PARTIAL, 4 * channels * math.prod(tables.tiles) * tables.num_columns)
    step = min(_SAMPLES // (scalars + features + columns), _PARTIAL // max(1, columns))
    step = triton.cdiv(batch, triton.cdiv(batch, max(1, step)))
    return (slice(start, min(start + step, batch)) for start in range(0, batch, step))


class _Columns(NamedTuple):
    """The gradients of the columns of some tiles, which are summed for every cell (`tiles.py`).

    Attributes:
        gradients: (B, columns of these tiles, C).
        sums: the sums over the tiles before these, (B, cells, C), or empty if there are none.
        first_tile: the first of these tiles.
    """

    gradients: Tensor
    sums: Tensor
    first_tile: int


class _Call:
    """The arguments in the layout of the kernels, for some samples.

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
        parts: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        biases: Sequence[Tensor | None],
        query: Tensor,
        gate: Tensor | None,
        eps: float,
        tables: Tables,
        needed: NeededGradients | None = None,
        d_sources: Sequence[Tensor | None] = (),
    ):
        self.dtype = parts[0].dtype
        self.parts = parts
        self.query = query.float().contiguous()
        self.gate = None if gate is None else gate.float()
        self.eps = eps
        self.spatial = tuple(parts[0].shape[2:])
        self.size = three_axes(self.spatial)
        self.batch, self.channels = len(parts[0]), query.numel()
        self.tables = tables
        largest = max(2 * self.channels * max(math.prod(self.size), tables.num_cells), 12 * tables.num_cells)
        if largest >= 2**31:
            raise NotImplementedError(
                f"{self.channels} channels of {self.spatial} voxels need offsets that are too large for the Triton "
                "kernels"
            )
        self.num_interpolated = len(tables.cells)
        self.num_values = len(sources) + 1
        self.values = parts[0].new_empty(self.batch, tables.num_cells, self.channels)
        self.full = parts[0].new_empty(len(sources) - self.num_interpolated, self.batch, self.channels, *self.spatial)
        self.projections = Projections(sources, weights, biases, self.channels, tables, self.dtype, needed, d_sources)
        self.projections.project(self.values, self.full)
        self.maps = self.query.new_empty(self.batch, tables.num_cells, 8 if self.dim == 2 else 12)
        if self.num_interpolated:
            launch(
                triton_kernels.maps_kernel, (triton.cdiv(tables.num_cells, _CELLS), self.batch),
                self.values, self.query, self.maps, tables.features, tables.feature_of_cell,
                tables.num_cells, self.channels, DIM=self.dim, CELLS=_CELLS, BLOCK=min(self.block, _MAP_CHANNELS),
            )  # fmt: skip

    @property
    def dim(self) -> int:
        """The number of spatial axes."""
        return len(self.spatial)

    @property
    def block(self) -> int:
        """The number of channels in a block."""
        return channel_block(self.channels, _CHANNELS)

    @property
    def channel_blocks(self) -> int:
        """The number of blocks of channels."""
        return triton.cdiv(self.channels, self.block)

    @property
    def pixel_blocks(self) -> int:
        """The number of blocks of pixels."""
        return triton.cdiv(math.prod(self.size), self._pixel_sizes()[0])

    def _pixel_sizes(self, backward: bool = False) -> tuple[int, int, int]:
        """Pixels, channels and warps of the kernels on features of the size of x."""
        if math.prod(self.size) >= _MANY:
            return _PIXELS, _BLOCK_BACKWARD if backward else _BLOCK, _PIXEL_WARPS
        return _FEW_PIXELS, _FEW_BLOCK_BACKWARD if backward else _FEW_BLOCK, _FEW_WARPS

    def forward(self) -> tuple[Tensor, Tensor]:
        """Compute out and the attention."""
        out = self.parts[0].new_empty((self.batch, self.channels, *self.spatial))
        logits, attention = self._scalars(), self._scalars()
        self._compute_scores(logits)
        self._compute_attention(attention, logits)
        launch(
            triton_kernels.weighted_sum_kernel, (math.prod(self.tables.tiles), self.channel_blocks, self.batch),
            self.values, self.full, *self._first_and_second(self.parts), attention, out, self.tables.columns,
            self.tables.weights, self.tables.full, self.channels, self.parts[0].shape[1], self.tables.num_columns,
            len(self.full), self.num_values, self.tables.num_cells, *self.size, *self.tables.tiles, self.batch,
            **self._tile_constants(),
        )  # fmt: skip
        return out, attention

    def backward(self, grad_out: Tensor, grad_alpha: Tensor | None, d_parts: list[Tensor]) -> list[Tensor | None]:
        """Write the gradients of x, and those of the sources where the projections have been told to.

        Returns:
            the gradients of query and gate, then those of all weights, then those of all biases.
        """
        products, rstd, attention = self._scalars(), self._scalars(), self._scalars()
        d_alpha = self.query.new_empty(self.channel_blocks, *products.shape)
        self._compute_scores(products, rstd, d_alpha, grad_out)
        self._compute_attention(attention, products, rstd)
        d_values = torch.empty_like(self.values)
        # what every program contributes to the gradient of the query: those on pixels, and the two groups on cells
        programs = self.batch * self.pixel_blocks * (1 + len(self.full)), *(self.batch * n for n in self._cell_blocks())
        d_query = self.query.new_empty(sum(programs), self.channels)
        of_pixels, *of_cells = d_query.split(programs)
        columns = self._sum_backward(grad_out, attention, d_alpha, d_values, of_cells)
        d_gate = self._scores_backward(products, rstd, attention, d_alpha, grad_alpha, grad_out, d_parts, of_pixels)
        if self.num_interpolated:
            d_maps = self._transpose_maps(products, rstd)
            self._values_backward(columns, d_maps, d_values, of_cells)
        # the gradients of the features of the size of x have replaced these
        d_full = self.full
        del products, rstd, attention, d_alpha, columns
        d_weights, d_biases = self.projections.backward(d_values, d_full)
        return [d_query.sum(0), d_gate, *d_weights, *d_biases]

    def _scalars(self) -> Tensor:
        """An uninitialised tensor for one scalar per value and pixel, (B, K+1, *S)."""
        return self.query.new_empty((self.batch, self.num_values, *self.spatial))

    def _first_and_second(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The two parts of x; the second is not read if there is one part only."""
        return parts[0], parts[-1]

    def _compute_scores(
        self,
        products: Tensor,
        rstd: Tensor | None = None,
        d_alpha: Tensor | None = None,
        grad_out: Tensor | None = None,
    ) -> None:
        """Compute the logits; for backward, their factors, and the gradient of alpha for features of the size of x."""
        tables, backward = self.tables, rstd is not None
        pixels, block, warps = self._pixel_sizes(backward)
        rstd, d_alpha = products if rstd is None else rstd, products if d_alpha is None else d_alpha
        if self.num_interpolated:
            launch(
                triton_kernels.interpolated_scores_kernel,
                (triton.cdiv(math.prod(self.size), _SCORE_PIXELS), self.batch),
                self.maps, products, rstd, tables.features, self.channels, self.num_interpolated, self.num_values,
                tables.num_cells, *self.size, self.eps, BACKWARD=backward, DIM=self.dim, PIXELS=_SCORE_PIXELS,
            )  # fmt: skip
        launch(
            triton_kernels.full_scores_kernel, (self.pixel_blocks, 1 + len(self.full), self.batch),
            self.full, *self._first_and_second(self.parts), self.query,
            self.parts[0] if grad_out is None else grad_out, products, rstd, d_alpha, tables.full,
            self.channels, self.parts[0].shape[1], self.num_values, math.prod(self.size), self.eps, self.batch,
            BACKWARD=backward, PIXELS=pixels, BLOCK=block, num_warps=warps,
        )  # fmt: skip

    def _compute_attention(self, attention: Tensor, products: Tensor, rstd: Tensor | None = None) -> None:
        """Compute the attention; for backward, that without the gate."""
        pixels, _, warps = self._pixel_sizes()
        launch(
            triton_kernels.attention_kernel, (self.pixel_blocks, self.batch),
            products, products if rstd is None else rstd, products if self.gate is None else self.gate, attention,
            self.num_values, math.prod(self.size), BACKWARD=rstd is not None,
            GATED=self.gate is not None and rstd is None, PIXELS=pixels, num_warps=warps,
        )  # fmt: skip

    def _tile_constants(self) -> dict[str, Any]:
        """The compile-time arguments of the kernels on tiles."""
        exact = self.dtype == torch.float32
        return {
            "DIM": self.dim,
            **dict(zip(("TILE_Z", "TILE_Y", "TILE_X"), self.tables.tile, strict=True)),
            "VALUES": max(16, triton.next_power_of_2(self.num_values)),
            "BLOCK": self.block,
            "COLUMNS": _COLUMNS_FLOAT32 if exact else _COLUMNS,
            **product_constants(self.dtype),
            "PICK": tl.float32 if exact else tl.float16,
            "num_warps": _WARPS,
            "num_stages": 1 if exact else _STAGES,
            **({} if exact or torch.version.hip else {"maxnreg": _REGISTERS}),
        }

    def _sum_backward(
        self, grad_out: Tensor, attention: Tensor, d_alpha: Tensor, d_values: Tensor, d_query: Sequence[Tensor]
    ) -> _Columns:
        """Compute the gradients of Eq. 8 of the attention and of the columns, some tiles at a time.

        Returns:
            the columns of the last tiles.
        """
        tables = self.tables
        tiles = math.prod(tables.tiles)
        of_tile = 4 * self.batch * tables.num_columns * self.channels
        step = min(tiles, max(1, _PARTIAL // max(1, of_tile)))
        partial = self.query.new_empty(self.batch, step, tables.num_columns, self.channels)
        sums = self.query.new_zeros(self.values.shape if step < tiles else 0)
        for start in range(0, tiles if self.num_interpolated else 0, step):
            number = min(step, tiles - start)
            launch(
                triton_kernels.sum_backward_kernel, (number, self.channel_blocks, self.batch),
                self.values, attention, attention if self.gate is None else self.gate, grad_out, d_alpha, partial,
                tables.columns, tables.weights, tables.is_interpolated, self.channels, tables.num_columns,
                self.num_values, tables.num_cells, *self.size, *tables.tiles, start,
                GATED=self.gate is not None, **self._tile_constants(),
            )  # fmt: skip
            if start + number < tiles:
                self._values_backward(_Columns(partial, sums, start), sums, d_values, d_query)
        return _Columns(partial, sums, start if self.num_interpolated else 0)

    def _scores_backward(
        self,
        products: Tensor,
        rstd: Tensor,
        attention: Tensor,
        d_alpha: Tensor,
        grad_alpha: Tensor | None,
        grad_out: Tensor,
        d_parts: list[Tensor],
        d_query: Tensor,
    ) -> Tensor | None:
        """Replace the factors of the logits and the features of the size of x by their gradients.

        Returns:
            the gradient of the gate.
        """
        pixels, block, warps = self._pixel_sizes(backward=True)
        width, gate = self.parts[0].shape[1], attention if self.gate is None else self.gate
        d_gate = self.query.new_empty(self.batch * self.pixel_blocks)
        launch(
            triton_kernels.scores_backward_kernel, (self.pixel_blocks, self.batch),
            products, rstd, attention, gate, d_alpha, d_alpha if grad_alpha is None else grad_alpha, d_gate,
            self.tables.is_interpolated, self.channels, self.num_values, self.channel_blocks, math.prod(self.size),
            GRAD_ATTENTION=grad_alpha is not None, GATED=self.gate is not None, PIXELS=pixels, num_warps=warps,
        )  # fmt: skip
        groups = [triton.cdiv(n, _CHANNEL_GROUP) for n in (width, self.channels - width, self.channels)]
        launch(
            triton_kernels.full_backward_kernel,
            (self.pixel_blocks, groups[0] + groups[1] + len(self.full) * groups[2], self.batch),
            self.full, *self._first_and_second(self.parts), self.query, products, rstd, attention, gate, grad_out,
            self.full, *self._first_and_second(d_parts), d_query, self.tables.full, self.channels, width,
            len(self.full), self.num_values, math.prod(self.size), self.batch, GATED=self.gate is not None,
            PIXELS=pixels, BLOCK=block, CHANNELS=_CHANNEL_GROUP, num_warps=warps,
        )  # fmt: skip
        return None if self.gate is None else d_gate.sum().view_as(self.gate)

    def _transpose_maps(self, d_products: Tensor, d_squared_norms: Tensor) -> Tensor:
        """The transpose of the interpolation of the scalar maps, (B, 1 + 4 or 8, cells)."""
        tables = self.tables
        maps, total = d_products, 0
        for axis in range(self.dim):
            before, total_before = maps, total
            total = tables.totals[axis]
            maps = self.query.new_empty(self.batch, 1 + 2 * 2**axis, total)
            launch(
                triton_kernels.transpose_maps_kernel, (len(tables.transposes[axis]), self.batch),
                d_products, d_squared_norms, before, maps, tables.features, tables.transposes[axis], *self.size,
                total_before, total, self.num_values, AXIS=2**axis, OUTPUTS=OUTPUTS, WINDOW=8,
            )  # fmt: skip
        return maps

    def _cell_blocks(self) -> list[int]:
        """The number of blocks of cells in each of the two groups of `_values_backward`."""
        return [triton.cdiv(end - first, cells) for first, end, cells, _ in self._cell_groups()]

    def _cell_groups(self) -> tuple[tuple[int, int, int, int], ...]:
        """First cell, end, cells of a program, tiles at a time: for cells that few tiles read, and for the others."""
        few, number = self.tables.num_few, self.tables.num_cells
        return (0, few, _CELLS, 1), (few, number, 2, 16)

    def _values_backward(self, columns: _Columns, d_maps: Tensor, d_values: Tensor, d_query: Sequence[Tensor]) -> None:
        """Add the columns of some tiles to the sums; for the last tiles, write the gradients of the features."""
        tables = self.tables
        partial, sums, first_tile = columns
        number = min(partial.shape[1], math.prod(tables.tiles) - first_tile)
        is_last = first_tile + number == math.prod(tables.tiles)
        for (first, end, cells, items), blocks, of_group in zip(
            self._cell_groups(), self._cell_blocks(), d_query, strict=True
        ):
            if blocks:
                launch(
                    triton_kernels.values_backward_kernel, (blocks, self.channel_blocks, self.batch),
                    partial, sums, self.values, d_maps, self.query, d_values, of_group,
                    tables.features, tables.feature_of_cell, tables.readers, tables.reader_range,
                    self.channels, tables.num_cells, first_tile * tables.num_columns, number * tables.num_columns,
                    math.prod(tables.tiles) * tables.num_columns, first, end, int(is_last),
                    DIM=self.dim, CELLS=cells, ITEMS=items, BLOCK=self.block,
                )  # fmt: skip
