"""The Triton kernels of one layer for inputs of given shapes, with everything about them that does not change.

Only tensors are new in every call. So the sizes of grids and blocks, the tables and the compiled kernels are found once
for every combination of shapes, and the CPU, which starts more than twenty kernels for a layer and a training step,
does not delay the GPU in deep stages, where a kernel takes a few microseconds.
"""

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_kernels
from .needed_gradients import NeededGradients
from .tiles import OUTPUTS, CellReaders, make_tables, three_axes
from .triton_launch import ALIGNMENT, Launch, Memory, as_operand, as_result, compile_launches, copy_results, memory_of
from .triton_projection import ProjectionKernels, Projections, channel_block, parameter_dtype, product_constants
from .triton_workspace import Specification, Workspace


class BlockSizes(NamedTuple):
    """Sizes of the blocks that programs compute.

    Attributes:
        tile, columns: pixels and columns of the products of tiles in half precision; in 2-D, the forward pass has twice
            as many columns at a time.
        tile_float32, columns_float32: the same in float32, where they take more shared memory, and where the forward
            pass has as many columns.
        channels: channels of the kernels on tiles and on cells.
        warps, stages, registers: of the kernels on tiles; with 168 registers a thread in half precision, three programs
            fit into a multiprocessor.
        many: for at least this number of pixels, a thread of the kernels on features of the size of x has all channels
            of its pixels; for fewer, they are spread over threads, because there would be too few programs.
        pixels, block, block_backward, pixel_warps: of these kernels for many pixels, pixels, channels, channels for
            backward, which reads the gradient of the output, too, and warps.
        few_pixels, few_block, few_warps: for few pixels, pixels, channels and warps of the gradients of these features.
        score_pixels, score_block, score_block_backward: for few pixels, pixels, channels, and channels for backward of
            their scores.
        channel_group: the channels that one program differentiates, rounded up to whole blocks.
        attention_pixels: pixels of the kernels of the attention and of its gradient, which read the scalars of a pixel
            twice: few enough that those of all programs that run at the same time stay in the cache.
        cells, map_channels: cells of the kernels on cells, and channels of that of the maps.
        sum_cells: in the sum of columns, cells that few tiles read.
        few_cells, tiles: the same for cells that many tiles read, and tiles at a time.
        partial: the largest memory in bytes of the gradients of columns of a group of samples.
        part: if those of one sample take more than `partial`, they are computed in parts of at most this many bytes, or
            `partial` if that is less.
        samples: the largest memory in bytes of the large temporary tensors of a group of samples, unless one takes
            more.
    """

    tile: int = 128
    columns: int = 32
    tile_float32: int = 64
    columns_float32: int = 16
    channels: int = 64
    warps: int = 4
    stages: int = 3
    registers: int = 168
    many: int = 8192
    pixels: int = 512
    block: int = 16
    block_backward: int = 4
    pixel_warps: int = 2
    few_pixels: int = 128
    few_block: int = 32
    few_warps: int = 4
    score_pixels: int = 32
    score_block: int = 128
    score_block_backward: int = 64
    channel_group: int = 128
    attention_pixels: int = 128
    cells: int = 32
    map_channels: int = 32
    sum_cells: int = 16
    few_cells: int = 1
    tiles: int = 32
    partial: int = 384 * 2**20
    part: int = 256 * 2**20
    samples: int = 832 * 2**20


_FLOAT, _INT = torch.float32, torch.int32

# The registers of a multiprocessor of NVIDIA's GPUs, and the threads of a warp.
_REGISTERS, _WARP = 65536, 32


def _multiprocessors(device: torch.device) -> int:
    """The number of multiprocessors of a GPU, or as many as an H100 has."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


class LayerShapes(NamedTuple):
    """What of the arguments of a call decides how it is computed.

    Attributes:
        sources: (C_k, *S_k) of every feature.
        widths: the channels of the one or two parts of x.
        size: the spatial size of x.
        batch, channels: B and C.
        dtype, weight_dtype: the dtypes of the features, and of the weights and biases.
        is_gated: whether there is a gate.
        eps: added to the mean square under the root of RMSNorm.
        of_sources, of_weights: for backward, whether the gradients of a feature, and of its weight and bias are needed.
        device: where the tensors are.
    """

    sources: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...]
    size: tuple[int, ...]
    batch: int
    channels: int
    dtype: torch.dtype
    weight_dtype: torch.dtype
    is_gated: bool
    eps: float
    of_sources: tuple[bool, ...]
    of_weights: tuple[bool, ...]
    device: torch.device

    @classmethod
    def of(
        cls,
        sources: Sequence[Tensor],
        parts: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        biases: Sequence[Tensor | None],
        query: Tensor,
        gate: Tensor | None,
        eps: float,
        needed: NeededGradients | None = None,
    ) -> "LayerShapes":
        """The shapes of the arguments of `triton_backend.forward`, or with `needed` of `backward`."""
        x = parts[0]
        of_sources = of_weights = (False,) * len(sources)
        if needed is not None:
            of_sources = tuple(needed.sources)
            of_weights = tuple([w or b for w, b in zip(needed.weights, needed.biases, strict=True)])
        return cls(
            tuple([source.shape[1:] for source in sources]), tuple([part.shape[1] for part in parts]),
            x.shape[2:], x.shape[0], query.shape[0], x.dtype, parameter_dtype([*weights, *biases]),
            gate is not None, eps, of_sources, of_weights, x.device,
        )  # fmt: skip


@lru_cache(maxsize=256)
def layer_kernels(shapes: LayerShapes, sizes: BlockSizes) -> "LayerKernels":
    """The kernels for inputs of these shapes."""
    return LayerKernels(shapes, sizes)


class _Inputs:
    """The arguments of one call in the layout of the kernels.

    Attributes:
        first, second: one or two parts whose concatenation is x. The second is not read if there is one part only.
        query: in float32.
        gate: in float32; without a gate, a tensor that is not read.
    """

    def __init__(self, parts: Sequence[Tensor], query: Tensor, gate: Tensor | None):
        self._parts = [as_operand(part) for part in parts]
        self._query = as_operand(query, torch.float32)
        self._gate = self._query if gate is None else as_operand(gate, torch.float32)
        self.first: Memory = memory_of(self._parts[0])
        self.second: Memory = memory_of(self._parts[-1])
        self.query: Memory = memory_of(self._query)
        self.gate: Memory = memory_of(self._gate)


class _TableMemory(NamedTuple):
    """The memory of the tables that the kernels read, under their names in `tiles.Tables`."""

    columns: Memory
    weights: Memory
    features: Memory
    feature_of_cell: Memory
    readers: Memory
    full: Memory
    is_interpolated: Memory


class LayerKernels:
    """The kernels of a layer for inputs of given shapes.

    Args:
        shapes: of the inputs.
        sizes: of the blocks that programs compute.

    Raises:
        NotImplementedError: for inputs that are too large for the kernels.
    """

    def __init__(self, shapes: LayerShapes, sizes: BlockSizes):
        self.shapes, self.sizes = shapes, sizes
        exact = shapes.dtype == torch.float32
        self._dim = len(shapes.size)
        self._size = three_axes(shapes.size)
        self._pixels = math.prod(self._size)
        tile, columns = (sizes.tile_float32, sizes.columns_float32) if exact else (sizes.tile, sizes.columns)
        self.tables = make_tables(
            tuple([three_axes(s[1:]) for s in shapes.sources]), self._size, tile, columns, shapes.device,
            half=not exact,
        )  # fmt: skip
        tables = self.tables
        # the kernels load two numbers in half precision as one
        weights = tables.weights.flatten()
        self._weights = weights.view(torch.int32) if weights.dtype == torch.float16 else weights
        self._table_memory = _TableMemory(
            *(memory_of(t) for t in (tables.columns, self._weights, tables.features, tables.feature_of_cell)),
            *(memory_of(t) for t in (tables.readers, tables.full, tables.is_interpolated)),
        )
        largest = max(
            2 * shapes.channels * max(self._pixels, tables.num_cells), (len(shapes.sources) + 1) * self._pixels,
            *(2 * math.prod(source) for source in shapes.sources),
            shapes.channels * sum(source[0] for source in shapes.sources),
            *(table.numel() for table in (tables.columns, tables.weights, tables.readers)),
            12 * tables.num_cells, *((1 + 2 * 2**axis) * total for axis, total in enumerate(tables.totals)),
            math.prod(tables.tiles) * tables.num_columns,
            # positions of pixels among the cells, as numerators of fractions
            2 * max(self._size) ** 2,
        )  # fmt: skip
        if largest >= 2**31:
            raise NotImplementedError(
                f"{shapes.channels} channels of {shapes.size} voxels need offsets that are too large for the Triton "
                "kernels"
            )
        self._num_interpolated = len(tables.cells)
        self._num_full = len(shapes.sources) - self._num_interpolated
        self._num_values = len(shapes.sources) + 1
        self._num_tiles = math.prod(tables.tiles)
        self._block = channel_block(shapes.channels, sizes.channels)
        self._channel_blocks = triton.cdiv(shapes.channels, self._block)
        self._is_many = self._pixels >= sizes.many
        # the compile-time arguments of the gradients of x and of the features of its size
        self._pixel_constants = (
            {"PIXELS": sizes.pixels, "BLOCK": sizes.block_backward, "num_warps": sizes.pixel_warps}
            if self._is_many
            else {"PIXELS": sizes.few_pixels, "BLOCK": sizes.few_block, "num_warps": sizes.few_warps}
        )
        self._pixel_blocks = triton.cdiv(self._pixels, self._pixel_constants["PIXELS"])
        self._attention_blocks = triton.cdiv(self._pixels, sizes.attention_pixels)
        self._cell_blocks = triton.cdiv(tables.num_cells, sizes.cells)
        self._tile_constants: dict[str, Any] = {
            "DIM": self._dim,
            **dict(zip(("TILE_Y", "TILE_X"), tables.tile, strict=True)),
            "VALUES": max(16, triton.next_power_of_2(self._num_values)),
            "BLOCK": self._block,
            "COLUMNS": columns,
            **product_constants(shapes.dtype),
            "PICK": tl.float32 if exact else tl.float16,
            "num_warps": sizes.warps,
            "num_stages": 1 if exact else sizes.stages,
            **({} if exact or torch.version.hip else {"maxnreg": sizes.registers}),
        }
        self.projections = ProjectionKernels(
            [s[0] for s in shapes.sources], [math.prod(s[1:]) for s in shapes.sources], tables.cells, tables.num_cells,
            shapes.of_sources, shapes.of_weights, shapes.batch, shapes.channels, shapes.dtype, shapes.weight_dtype,
            shapes.device,
        )  # fmt: skip
        dtype = shapes.dtype
        self._maps = Launch(
            triton_kernels.maps_kernel, (self._cell_blocks, shapes.batch),
            (dtype, _FLOAT, _FLOAT, _INT, _INT), tables.num_cells, shapes.channels,
            DIM=self._dim, CELLS=sizes.cells, BLOCK=min(self._block, sizes.map_channels),
        )  # fmt: skip
        self._full_scores, self._full_scores_backward = (self._make_full_scores(b) for b in (False, True))
        self._attention, self._attention_backward = (
            Launch(
                triton_kernels.attention_kernel, (self._attention_blocks, shapes.batch), (*[_FLOAT] * 5, _INT, _INT),
                shapes.channels, self._num_interpolated, self._num_values, tables.num_cells, *self._size, shapes.eps,
                BACKWARD=backward, GATED=shapes.is_gated and not backward, DIM=self._dim,
                PIXELS=sizes.attention_pixels,
            )
            for backward in (False, True)
        )  # fmt: skip
        # more would not fit into the registers
        forward_columns = columns if exact or self._dim == 3 else 2 * columns
        self._weighted_sum = Launch(
            triton_kernels.weighted_sum_kernel, (self._num_tiles, self._channel_blocks, shapes.batch),
            (*[dtype] * 4, _FLOAT, dtype, _INT, self._weights.dtype, _INT),
            shapes.channels, shapes.widths[0], triton.cdiv(tables.num_columns, forward_columns) * forward_columns,
            tables.table_columns, self._num_full, self._num_values, tables.num_cells, *self._size, *tables.tiles[1:],
            shapes.batch, **{**self._tile_constants, "COLUMNS": forward_columns},
        )  # fmt: skip

    def _make_full_scores(self, backward: bool) -> Launch:
        """The logits of x and of the features of its size, or what the backward pass needs of them."""
        shapes, sizes = self.shapes, self.sizes
        if self._is_many:
            pixels, block, warps = sizes.pixels, sizes.block_backward if backward else sizes.block, sizes.pixel_warps
        else:
            block = sizes.score_block_backward if backward else sizes.score_block
            pixels, warps = sizes.score_pixels, sizes.few_warps
        return Launch(
            triton_kernels.full_scores_kernel,
            (triton.cdiv(self._pixels, pixels) * (1 + self._num_full), shapes.batch),
            (*[shapes.dtype] * 3, _FLOAT, shapes.dtype, *[_FLOAT] * 3, _INT),
            shapes.channels, shapes.widths[0], self._num_full, self._num_values, self._pixels, shapes.eps, shapes.batch,
            BACKWARD=backward, SPREAD=not self._is_many, PIXELS=pixels, BLOCK=block, num_warps=warps,
        )  # fmt: skip

    @cached_property
    def samples_at_a_time(self) -> int:
        """The number of samples whose temporary tensors stay below the limit of memory, in groups of equal sizes."""
        shapes, tables, sizes = self.shapes, self.tables, self.sizes
        scalars = (3 + triton.cdiv(shapes.channels, sizes.channels)) * 4 * self._num_values * self._pixels
        features = shapes.channels * (self._num_full * self._pixels + tables.num_cells) * shapes.dtype.itemsize
        sums = 4 * shapes.channels * tables.num_cells
        columns = 4 * shapes.channels * self._num_tiles * tables.num_columns
        samples = min(sizes.samples // (scalars + features + sums + columns), sizes.partial // max(1, columns))
        return triton.cdiv(shapes.batch, triton.cdiv(shapes.batch, max(1, samples)))

    def forward(
        self,
        sources: Sequence[Tensor],
        parts: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        biases: Sequence[Tensor | None],
        query: Tensor,
        gate: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Compute out and the attention."""
        compile_launches(self._forward_launches)
        tables, shapes = self._table_memory, self.shapes
        projections = Projections(self.projections, sources, weights, biases)
        inputs = _Inputs(parts, query, gate)
        out = parts[0].new_empty((shapes.batch, shapes.channels, *shapes.size))
        attention = out.new_empty((shapes.batch, self._num_values, *shapes.size), dtype=_FLOAT)
        result, alpha = memory_of(out), memory_of(attention)
        temporary = self._forward_workspace.allocate()
        self._project(projections, inputs, temporary)
        # first the logits, which the attention replaces
        self._full_scores(
            temporary.full, inputs.first, inputs.second, inputs.query, result, alpha, alpha, alpha, tables.full
        )
        self._attention(alpha, alpha, inputs.gate, alpha, temporary.maps, tables.features, tables.full)
        self._weighted_sum(
            temporary.values, temporary.full, inputs.first, inputs.second, alpha, result, tables.columns,
            tables.weights, tables.full,
        )  # fmt: skip
        return out, attention

    def backward(
        self,
        grad_out: Tensor,
        grad_alpha: Tensor | None,
        sources: Sequence[Tensor],
        parts: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        biases: Sequence[Tensor | None],
        query: Tensor,
        gate: Tensor | None,
        d_sources: Sequence[Tensor | None],
        d_parts: Sequence[Tensor],
    ) -> list[Tensor | None]:
        """Write the gradients of the sources and of x.

        Returns:
            the gradients of query and gate, then those of all weights, then those of all biases.
        """
        scores_backward = self._scores_backward[grad_alpha is not None]
        compile_launches([*self._backward_launches, scores_backward])
        shapes, tables = self.shapes, self._table_memory
        projections = Projections(self.projections, sources, weights, biases, shapes.of_weights, d_sources)
        inputs = _Inputs(parts, query, gate)
        of_out = as_operand(grad_out)
        of_attention = None if grad_alpha is None else as_operand(grad_alpha)
        written = [as_result(d) for d in d_parts]
        gradient = memory_of(of_out)
        temporary = self._backward_workspace.allocate()
        full, products, rstd = temporary.full, temporary.products, temporary.rstd
        attention, d_alpha = temporary.attention, temporary.d_alpha
        self._project(projections, inputs, temporary)
        self._full_scores_backward(
            full, inputs.first, inputs.second, inputs.query, gradient, products, rstd, d_alpha, tables.full
        )
        self._attention_backward(products, rstd, inputs.gate, attention, temporary.maps, tables.features, tables.full)
        # what every program contributes to the gradient of the query: those on pixels, and those on cells
        d_query, of_pixels, of_cells = self._allocate_d_query(query)
        self._differentiate_sum(inputs, temporary, gradient)
        # they replace the factors of the logits, and the features of the size of x, by their gradients
        d_gate = None if gate is None else query.new_empty(shapes.batch * self._attention_blocks, dtype=_FLOAT)
        scores_backward(
            products, rstd, attention, inputs.gate, d_alpha,
            d_alpha if of_attention is None else memory_of(of_attention),
            d_alpha if d_gate is None else memory_of(d_gate), tables.is_interpolated,
        )  # fmt: skip
        self._full_backward(
            full, inputs.first, inputs.second, inputs.query, products, rstd, attention, inputs.gate, gradient,
            full, memory_of(written[0]), memory_of(written[-1]), of_pixels, tables.full,
        )  # fmt: skip
        if self._num_interpolated:
            d_maps = self._transpose_interpolation(temporary)
            self._values_backward(
                temporary.sums, temporary.values, d_maps, inputs.query, temporary.d_values, of_cells, tables.features,
                tables.feature_of_cell,
            )  # fmt: skip
        projections.backward(temporary.rounded, temporary.d_values, full, temporary.partial)
        copy_results(written, d_parts)
        d_gate = None if d_gate is None or gate is None else d_gate.sum().view_as(gate)
        return [d_query.sum(0), d_gate, *projections.d_weights, *projections.d_biases]

    @cached_property
    def _forward_launches(self) -> list[Launch]:
        maps = [self._maps] if self._num_interpolated else []
        return [*self.projections.forward_launches, *maps, self._full_scores, self._attention, self._weighted_sum]

    @cached_property
    def _backward_launches(self) -> list[Launch]:
        """All but those of `_scores_backward`."""
        of_interpolated: list[Launch] = []
        if self._num_interpolated:
            of_interpolated = [
                self._maps, *self._sum_backward, *(launch for launch, _ in self._sum_columns),
                *self._transpose_maps, self._values_backward,
            ]  # fmt: skip
        return [
            *self.projections.backward_launches, self._full_scores_backward, self._attention_backward,
            *of_interpolated, self._full_backward,
        ]  # fmt: skip

    def _project(self, projections: Projections, inputs: _Inputs, temporary: SimpleNamespace) -> None:
        """Project all features, and compute the scalar maps of those that are interpolated."""
        projections.project(temporary.rounded, temporary.values, temporary.full)
        if self._num_interpolated:
            self._maps(
                temporary.values,
                inputs.query,
                temporary.maps,
                self._table_memory.features,
                self._table_memory.feature_of_cell,
            )

    @cached_property
    def _projected(self) -> Specification:
        """The features in the layout of the kernels.

        rounded: all weights, in the dtype of the features.
        values: the projected features that are interpolated, (B, cells, C).
        full: the projected features of the size of x, (features, B, C, *S).
        maps: the scalar maps of the interpolated features, (B, cells, 8), or (B, cells, 12) in 3-D.
        """
        shapes, cells = self.shapes, self.tables.num_cells
        return {
            "rounded": ((self.projections.rounded_size,), shapes.dtype),
            "values": ((shapes.batch, cells, shapes.channels), shapes.dtype),
            "full": ((self._num_full, shapes.batch, shapes.channels, *shapes.size), shapes.dtype),
            "maps": ((shapes.batch, cells, 8 if self._dim == 2 else 12), _FLOAT),
        }

    @cached_property
    def _forward_workspace(self) -> Workspace:
        return Workspace(self.shapes.device, self._projected)

    @cached_property
    def _backward_workspace(self) -> Workspace:
        """The temporary tensors of the backward pass.

        The last to read the columns of the tiles are `_sum_columns`, and `_transpose_maps` are the first to write the
        tensors that have the same memory.
        """
        shapes, tables = self.shapes, self.tables
        projected = self._projected
        scalars = (shapes.batch, self._num_values, *shapes.size), _FLOAT
        of_cells = shapes.batch, tables.num_cells, shapes.channels
        tiles = self._tiles_at_a_time if self._num_interpolated else 0
        transposed = {
            f"transposed_{axis}": ((shapes.batch, 1 + 2 * 2**axis, tables.totals[axis]), _FLOAT)
            for axis in range(self._dim)
        }
        return Workspace(
            shapes.device,
            {
                "rounded": projected["rounded"], "values": projected["values"], "full": projected["full"],
                "products": scalars, "rstd": scalars, "attention": scalars,
                "d_alpha": ((self._channel_blocks, *scalars[0]), _FLOAT),
                "maps": projected["maps"], "sums": (of_cells, _FLOAT),
            },
            {"columns": ((shapes.batch, tiles, tables.num_columns, shapes.channels), _FLOAT)},
            {
                "d_values": (of_cells, shapes.dtype), **transposed,
                "partial": (self.projections.partial_shape, _FLOAT),
            },
        )  # fmt: skip

    def _allocate_d_query(self, query: Tensor) -> tuple[Tensor, Memory, Memory]:
        """What the programs on pixels and those on cells contribute to the gradient of the query.

        Returns:
            all of it, (programs, C), and the memory of the two parts.
        """
        shapes = self.shapes
        of_pixels = shapes.batch * self._pixel_blocks * (1 + self._num_full)
        # a number of rows that makes the second part aligned for any number of channels
        rows = ALIGNMENT // _FLOAT.itemsize
        before = of_pixels + (-of_pixels % rows if shapes.channels % rows else 0)
        d_query = query.new_empty((before + shapes.batch * self._cell_blocks, shapes.channels), dtype=_FLOAT)
        if before > of_pixels:
            d_query[of_pixels:before] = 0
        return d_query, memory_of(d_query), memory_of(d_query[before:])

    @cached_property
    def _tiles_at_a_time(self) -> int:
        """The number of tiles whose gradients of columns stay below the limits of memory."""
        of_tile = 4 * self.shapes.batch * self.tables.num_columns * self.shapes.channels
        if of_tile * self._num_tiles <= self.sizes.partial:
            return self._num_tiles
        step = max(1, min(self.sizes.partial, self.sizes.part) // of_tile)
        # as many programs as run at the same time, or a multiple: then no multiprocessor waits for others at the end
        programs = _REGISTERS // (self.sizes.registers * self.sizes.warps * _WARP)
        at_once = max(1, programs * _multiprocessors(self.shapes.device) // self._channel_blocks)
        return step - step % at_once if step > at_once else step

    @cached_property
    def _sum_backward(self) -> list[Launch]:
        """The gradients of Eq. 8, one launch for the tiles of each part."""
        shapes, tables, dtype = self.shapes, self.tables, self.shapes.dtype
        return [
            Launch(
                triton_kernels.sum_backward_kernel, (number, self._channel_blocks, shapes.batch),
                (dtype, _FLOAT, _FLOAT, dtype, _FLOAT, _FLOAT, _INT, self._weights.dtype, _INT),
                shapes.channels, tables.num_columns, tables.table_columns, self._num_values, tables.num_cells,
                *self._size, *tables.tiles[1:], first_tile, GATED=shapes.is_gated, **self._tile_constants,
            )
            for first_tile, number in self._parts_of_tiles()
        ]  # fmt: skip

    @cached_property
    def _sum_columns(self) -> list[tuple[Launch, Tensor]]:
        """The sums of the columns of every cell, one launch for the tiles of each part, with its table of blocks.

        A part launches no programs for cells that its tiles do not read, and looks at no other readers of a cell.
        """
        shapes, tables, sizes = self.shapes, self.tables, self.sizes
        rows, few = tables.num_columns, tables.num_few
        starts = [*range(0, few, sizes.sum_cells), *range(few, tables.num_cells, sizes.few_cells)]
        readers = CellReaders(tables, starts)
        launches, is_new = [], np.ones(len(starts), int)
        for first_tile, number in self._parts_of_tiles():
            blocks = readers.between(first_tile * rows, (first_tile + number) * rows)
            table = np.insert(blocks, 1, is_new[blocks[:, 0]], 1)
            is_new[blocks[:, 0]] = 0
            # the longest loops first, for which the GPU would otherwise wait at the end
            items = np.where(table[:, 0] < triton.cdiv(few, sizes.sum_cells), 1, sizes.tiles)
            table = table[np.argsort(-((table[:, 3] - table[:, 2] + items - 1) // items), kind="stable")]
            launch = Launch(
                triton_kernels.sum_columns_kernel, (len(blocks), self._channel_blocks, shapes.batch),
                (_FLOAT, _FLOAT, *[_INT] * 4),
                shapes.channels, tables.num_cells, first_tile * rows, number * rows, few,
                rows * math.prod(tables.tiles[1:]), self._size[0], DIM=self._dim,
                CELLS=sizes.sum_cells, FEW_CELLS=sizes.few_cells, ITEMS=sizes.tiles, BLOCK=self._block,
            )  # fmt: skip
            launches.append((launch, torch.tensor(table, dtype=torch.int32).to(shapes.device)))
        assert not is_new.any(), "no tile reads some of the cells"
        return launches

    @cached_property
    def _values_backward(self) -> Launch:
        """The gradients of the interpolated features."""
        shapes, tables = self.shapes, self.tables
        return Launch(
            triton_kernels.values_backward_kernel, (self._cell_blocks, self._channel_blocks, shapes.batch),
            (_FLOAT, shapes.dtype, _FLOAT, _FLOAT, shapes.dtype, _FLOAT, _INT, _INT),
            shapes.channels, tables.num_cells, DIM=self._dim, CELLS=self.sizes.cells, BLOCK=self._block,
        )  # fmt: skip

    def _parts_of_tiles(self) -> list[tuple[int, int]]:
        """The first tile and the number of tiles of every part."""
        step = self._tiles_at_a_time
        return [(first, min(step, self._num_tiles - first)) for first in range(0, self._num_tiles, step)]

    @cached_property
    def _scores_backward(self) -> dict[bool, Launch]:
        """The gradients of Eqs. 6 and 7, by whether the attention has a gradient of its own."""
        return {
            of_attention: Launch(
                triton_kernels.scores_backward_kernel, (self._attention_blocks, self.shapes.batch),
                (*[_FLOAT] * 7, _INT),
                self.shapes.channels, self._num_values, self._channel_blocks, self._pixels,
                GRAD_ATTENTION=of_attention, GATED=self.shapes.is_gated, PIXELS=self.sizes.attention_pixels,
            )
            for of_attention in (False, True)
        }  # fmt: skip

    @cached_property
    def _full_backward(self) -> Launch:
        """The gradients of x and of the features of its size."""
        shapes, dtype, block = self.shapes, self.shapes.dtype, self._pixel_constants["BLOCK"]
        # whole blocks: two programs must not have the same channels, whose values one would replace before the other
        group = triton.cdiv(self.sizes.channel_group, block) * block
        width = shapes.widths[0]
        groups = [triton.cdiv(n, group) for n in (width, shapes.channels - width, shapes.channels)]
        return Launch(
            triton_kernels.full_backward_kernel,
            (self._pixel_blocks * (groups[0] + groups[1] + self._num_full * groups[2]), shapes.batch),
            (*[dtype] * 3, *[_FLOAT] * 5, *[dtype] * 4, _FLOAT, _INT),
            shapes.channels, width, self._num_full, self._num_values, self._pixels, shapes.batch,
            GATED=shapes.is_gated, CHANNELS=group, **self._pixel_constants,
        )  # fmt: skip

    @cached_property
    def _transpose_maps(self) -> list[Launch]:
        """The transpose of the interpolation of the scalar maps, one launch for every axis, along the width first."""
        totals = self.tables.totals
        return [
            Launch(
                triton_kernels.transpose_maps_kernel, (len(self.tables.transposes[axis]), self.shapes.batch),
                (*[_FLOAT] * 4, _INT, _INT),
                *self._size, totals[axis - 1] if axis else 0, totals[axis], self._num_values,
                AXIS=2**axis, OUTPUTS=OUTPUTS, WINDOW=8,
            )
            for axis in range(self._dim)
        ]  # fmt: skip

    def _differentiate_sum(self, inputs: _Inputs, temporary: SimpleNamespace, gradient: Memory) -> None:
        """Compute the gradients of Eq. 8 of the attention and of the interpolated features, some tiles at a time."""
        if not self._num_interpolated:
            return
        tables, columns = self._table_memory, temporary.columns
        for differentiate, (sum_columns, blocks) in zip(self._sum_backward, self._sum_columns, strict=True):
            differentiate(
                temporary.values, temporary.attention, inputs.gate, gradient, temporary.d_alpha, columns,
                tables.columns, tables.weights, tables.is_interpolated,
            )  # fmt: skip
            sum_columns(
                columns, temporary.sums, memory_of(blocks), tables.features, tables.feature_of_cell, tables.readers
            )

    def _transpose_interpolation(self, temporary: SimpleNamespace) -> Memory:
        """The transpose of the interpolation of the scalar maps, (B, 1 + 4 or 8, cells)."""
        products, squared_norms = temporary.products, temporary.rstd
        before = products
        # in 2-D there are tables for three axes, too
        for axis, (launch, blocks) in enumerate(zip(self._transpose_maps, self.tables.transposes, strict=False)):
            after = getattr(temporary, f"transposed_{axis}")
            launch(products, squared_norms, before, after, self._table_memory.features, memory_of(blocks))
            before = after
        return before
