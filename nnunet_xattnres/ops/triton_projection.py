"""The 1x1 convolutions of all features of a history in one Triton kernel, and their gradients in three.

One launch for all features, because most of them are small: a matrix product of its own for each would take longer to
start than to compute. The features lie anywhere in memory, so a table holds their addresses. Features of the size of x
are projected to (B, C, pixels), those that are interpolated to (B, cells, C), as in `triton_kernels.py`.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .needed_gradients import NeededGradients
from .tiles import Tables
from .triton_launch import launch

# Sizes of blocks: pixels, channels, and the depth of a step of a product; for the gradients of weights, whose sum over
# pixels is long, the depth is larger in half precision.
_PIXELS, _CHANNELS, _DEPTH, _LONG_DEPTH = 128, 64, 32, 64
# The most parts into which the sum over pixels is split for the gradient of one weight.
_SPLITS = 256

# The integers per feature in the tables: addresses of source, weight, bias and their gradients; C_k, pixels, whether it
# has the size of x, and its index among the features of this size or its first cell.
ADDRESSES = tl.constexpr(6)
SHAPE = tl.constexpr(4)

TRITON_DTYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


def product_constants(dtype: torch.dtype) -> dict[str, Any]:
    """The compile-time arguments of all kernels with products of `dtype`: dtype of the operands, and precision."""
    exact = dtype == torch.float32
    # the products of Triton's interpreter are wrong in bfloat16
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and dtype == torch.bfloat16
    return {
        "OPERAND": TRITON_DTYPES[torch.float32 if interpreted else dtype],
        "PRECISION": ("ieee" if torch.version.hip else "tf32x3") if exact else "tf32",
    }


def channel_block(channels: int, largest: int) -> int:
    """The number of channels in a block: a power of two, 16 at least, as products need."""
    return min(largest, max(16, triton.next_power_of_2(channels)))


@triton.jit
def _address(addresses, feature, index: tl.constexpr, dtype: tl.constexpr):
    return tl.multiple_of(tl.load(addresses + feature * ADDRESSES + index).to(tl.pointer_type(dtype)), 16)


@triton.jit
def _shape(shapes, feature, ALIGNED: tl.constexpr):
    """C_k, pixels, whether the feature has the size of x, and its index or first cell."""
    width, pixels = tl.load(shapes + feature * SHAPE), tl.load(shapes + feature * SHAPE + 1)
    if ALIGNED:
        width, pixels = tl.multiple_of(width, 8), tl.multiple_of(pixels, 8)
    return width, pixels, tl.load(shapes + feature * SHAPE + 2), tl.load(shapes + feature * SHAPE + 3)


@triton.jit
def _block_of_program(blocks, PIXELS: tl.constexpr):
    """The feature and the pixels of a program."""
    row = blocks + 2 * tl.program_id(0)
    return tl.load(row), tl.multiple_of(tl.load(row + 1), PIXELS) + tl.arange(0, PIXELS)


@triton.jit(do_not_specialize=["num_cells", "batch"])
def project_kernel(
    values, full, addresses, shapes, blocks, channels, num_cells, batch,
    DTYPE: tl.constexpr, OPERAND: tl.constexpr, WEIGHT: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Project a block of pixels of one feature, or copy it. Grid: (blocks of pixels of all features, channels, B)."""
    feature, p = _block_of_program(blocks, PIXELS)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    b = tl.program_id(2).to(tl.int64)
    width, pixels, is_full, index = _shape(shapes, feature, ALIGNED)
    source = _address(addresses, feature, 0, DTYPE) + b * width * pixels
    weight = _address(addresses, feature, 1, WEIGHT)
    mask = (c < channels)[:, None] & (p < pixels)[None]
    if tl.load(addresses + feature * ADDRESSES + 1) != 0:
        tile = tl.zeros((BLOCK, PIXELS), tl.float32)
        for begin in range(0, width, DEPTH):
            k = begin + tl.arange(0, DEPTH)
            w = tl.load(
                weight + c[:, None] * width + k[None], mask=(c < channels)[:, None] & (k < width)[None], other=0
            )
            s = tl.load(source + k[:, None] * pixels + p[None], mask=(k < width)[:, None] & (p < pixels)[None], other=0)
            w = w.to(DTYPE).to(OPERAND)
            tile = tl.dot(w, s.to(OPERAND), tile, input_precision=PRECISION)
        bias = _address(addresses, feature, 2, WEIGHT)
        tile += tl.load(bias + c, mask=c < channels, other=0).to(DTYPE).to(tl.float32)[:, None]
    else:
        tile = tl.load(source + c[:, None] * pixels + p[None], mask=mask, other=0).to(tl.float32)
    if is_full != 0:
        out = full + (index * batch + b) * channels * pixels
        tl.store(out + c[:, None] * pixels + p[None], tile.to(DTYPE), mask=mask)
    else:
        out = values + (b * num_cells + index) * channels
        tl.store(out + p[:, None] * channels + c[None], tl.trans(tile.to(DTYPE)), mask=tl.trans(mask))


@triton.jit
def _load_gradient(
    d_values, d_full, c, p, pixels, index, b, channels, num_cells, batch, FULL: tl.constexpr,
):  # fmt: skip
    """The gradient of a projected feature, (channels c, pixels p)."""
    mask = (c < channels)[:, None] & (p < pixels)[None]
    if FULL:
        start = d_full + (index * batch + b) * channels * pixels
        d = tl.load(start + c[:, None] * pixels + p[None], mask=mask, other=0)
    else:
        start = d_values + (b * num_cells + index) * channels
        d = tl.trans(tl.load(start + p[:, None] * channels + c[None], mask=tl.trans(mask), other=0))
    return d


@triton.jit
def _source_gradient(
    d_values, d_full, weight, k, p, width, pixels, index, b, channels, num_cells, batch,
    FULL: tl.constexpr, DTYPE: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The transposed weight times the gradient of the projected feature, (channels k, pixels p)."""
    tile = tl.zeros((BLOCK, PIXELS), tl.float32)
    for begin in range(0, channels, DEPTH):
        c = begin + tl.arange(0, DEPTH)
        mask = (k < width)[:, None] & (c < channels)[None]
        w = tl.load(weight + c[None] * width + k[:, None], mask=mask, other=0).to(DTYPE).to(OPERAND)
        d = _load_gradient(d_values, d_full, c, p, pixels, index, b, channels, num_cells, batch, FULL)
        tile = tl.dot(w, d.to(OPERAND), tile, input_precision=PRECISION)
    return tile


@triton.jit(do_not_specialize=["num_cells", "batch"])
def source_gradient_kernel(
    d_values, d_full, addresses, shapes, blocks, channels, num_cells, batch,
    DTYPE: tl.constexpr, OPERAND: tl.constexpr, WEIGHT: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The gradient of a block of pixels and channels of one feature. Grid: (blocks of all features, B)."""
    row = blocks + 3 * tl.program_id(0)
    feature = tl.load(row)
    p = tl.multiple_of(tl.load(row + 1), PIXELS) + tl.arange(0, PIXELS)
    k = tl.multiple_of(tl.load(row + 2), BLOCK) + tl.arange(0, BLOCK)
    b = tl.program_id(1).to(tl.int64)
    width, pixels, is_full, index = _shape(shapes, feature, ALIGNED)
    weight = _address(addresses, feature, 1, WEIGHT)
    # a loop for each place of the gradient: loads in branches of one loop would not be pipelined
    if tl.load(addresses + feature * ADDRESSES + 1) != 0:
        if is_full != 0:
            tile = _source_gradient(
                d_values, d_full, weight, k, p, width, pixels, index, b, channels, num_cells, batch,
                True, DTYPE, OPERAND, PRECISION, PIXELS, BLOCK, DEPTH,
            )  # fmt: skip
        else:
            tile = _source_gradient(
                d_values, d_full, weight, k, p, width, pixels, index, b, channels, num_cells, batch,
                False, DTYPE, OPERAND, PRECISION, PIXELS, BLOCK, DEPTH,
            )  # fmt: skip
    elif is_full != 0:
        tile = _load_gradient(d_values, d_full, k, p, pixels, index, b, channels, num_cells, batch, True)
        tile = tile.to(tl.float32)
    else:
        tile = _load_gradient(d_values, d_full, k, p, pixels, index, b, channels, num_cells, batch, False)
        tile = tile.to(tl.float32)
    d_source = _address(addresses, feature, 3, DTYPE) + b * width * pixels
    mask = (k < width)[:, None] & (p < pixels)[None]
    tl.store(d_source + k[:, None] * pixels + p[None], tile.to(DTYPE), mask=mask)


@triton.jit
def _weight_gradient(
    d_values, d_full, source, c, k, first_step, end_step, width, pixels, index, channels, num_cells, batch,
    FULL: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The sums of some steps for the gradients of a block of a weight, (c, k), and of its bias, (c,)."""
    tile = tl.zeros((BLOCK, BLOCK), tl.float32)
    bias = tl.zeros((BLOCK, DEPTH), tl.float32)
    steps = tl.cdiv(pixels, DEPTH)
    for step in range(first_step, end_step):
        b = (step // steps).to(tl.int64)
        p = tl.multiple_of(step % steps * DEPTH, DEPTH) + tl.arange(0, DEPTH)
        d = _load_gradient(d_values, d_full, c, p, pixels, index, b, channels, num_cells, batch, FULL)
        mask = (k < width)[:, None] & (p < pixels)[None]
        s = tl.load(source + b * width * pixels + k[:, None] * pixels + p[None], mask=mask, other=0)
        tile = tl.dot(d.to(OPERAND), tl.trans(s.to(OPERAND)), tile, input_precision=PRECISION)
        bias += d.to(tl.float32)
    return tile, tl.sum(bias, 1)


@triton.jit(do_not_specialize=["num_cells", "batch"])
def weight_gradient_kernel(
    d_values, d_full, partial, addresses, shapes, products, channels, num_cells, batch,
    DTYPE: tl.constexpr, OPERAND: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A part of the sum over samples and pixels for a block of the gradients of a weight and its bias.

    `partial` is (programs, BLOCK, BLOCK + 1), with the bias in the last column. Grid: (programs,).
    """
    row = products + tl.program_id(0) * 5
    feature, first_channel, first_source = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    first_step, end_step = tl.load(row + 3), tl.load(row + 4)
    width, pixels, is_full, index = _shape(shapes, feature, ALIGNED)
    source = _address(addresses, feature, 0, DTYPE)
    c = tl.multiple_of(first_channel, BLOCK) + tl.arange(0, BLOCK)
    k = tl.multiple_of(first_source, BLOCK) + tl.arange(0, BLOCK)
    if is_full != 0:
        tile, bias = _weight_gradient(
            d_values, d_full, source, c, k, first_step, end_step, width, pixels, index, channels, num_cells, batch,
            True, OPERAND, PRECISION, BLOCK, DEPTH,
        )  # fmt: skip
    else:
        tile, bias = _weight_gradient(
            d_values, d_full, source, c, k, first_step, end_step, width, pixels, index, channels, num_cells, batch,
            False, OPERAND, PRECISION, BLOCK, DEPTH,
        )  # fmt: skip
    partial += tl.program_id(0).to(tl.int64) * BLOCK * (BLOCK + 1)
    i = tl.arange(0, BLOCK)
    tl.store(partial + i[:, None] * BLOCK + i[None], tile)
    tl.store(partial + BLOCK * BLOCK + i, bias)


@triton.jit
def sum_parts_kernel(
    partial, addresses, shapes, sums, channels, WEIGHT: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    """The sum of the parts of a block of the gradients of a weight and its bias. Grid: (blocks, BLOCK / ROWS)."""
    row = sums + tl.program_id(0) * 5
    feature, first, end = tl.load(row), tl.load(row + 3), tl.load(row + 4)
    width = tl.load(shapes + feature * SHAPE)
    i, j = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    c, k = tl.load(row + 1) + i, tl.load(row + 2) + j
    tile = tl.zeros((ROWS, BLOCK), tl.float32)
    bias = tl.zeros((ROWS,), tl.float32)
    partial += first.to(tl.int64) * BLOCK * (BLOCK + 1)
    for _ in range(first, end):
        tile += tl.load(partial + i[:, None] * BLOCK + j[None])
        bias += tl.load(partial + BLOCK * BLOCK + i)
        partial += BLOCK * (BLOCK + 1)
    d_weight = _address(addresses, feature, 4, tl.float32)
    tl.store(d_weight + c[:, None] * width + k[None], tile, mask=(c < channels)[:, None] & (k < width)[None])
    if tl.load(row + 2) == 0:
        tl.store(_address(addresses, feature, 5, tl.float32) + c, bias, mask=c < channels)


@dataclass(frozen=True)
class _Plan:
    """What the kernels must know about the shapes and about the gradients that are needed, on the device.

    Attributes:
        shapes: (features, SHAPE).
        blocks: (blocks of pixels, 2), the feature and the first pixel.
        source_blocks: (blocks of pixels and channels, 3): the feature, the first pixel and the first channel.
        products: (parts, 5): feature, first channel, first channel of the source, first and last step of the sum.
        sums: (blocks of weights, 5): the same, then the first and the last part.
    """

    shapes: Tensor
    blocks: Tensor
    source_blocks: Tensor
    products: Tensor
    sums: Tensor


@lru_cache(maxsize=256)
def _plan(
    widths: tuple[int, ...],
    pixels: tuple[int, ...],
    places: tuple[tuple[bool, int], ...],
    needs_sources: tuple[bool, ...],
    needs_weights: tuple[bool, ...],
    batch: int,
    channels: int,
    block: int,
    depth: int,
    device: torch.device,
) -> _Plan:
    blocks: list[tuple[int, int]] = []
    source_blocks: list[tuple[int, int, int]] = []
    products: list[tuple[int, ...]] = []
    sums: list[tuple[int, ...]] = []
    for n, (width, count) in enumerate(zip(widths, pixels, strict=True)):
        blocks += [(n, start) for start in range(0, count, _PIXELS)]
        if needs_sources[n]:
            source_blocks += [(n, p, k) for p in range(0, count, _PIXELS) for k in range(0, width, block)]
        if needs_weights[n]:
            steps = batch * -(-count // depth)
            step = max(16, -(-steps // _SPLITS))
            for c in range(0, channels, block):
                for k in range(0, width, block):
                    parts = [(n, c, k, start, min(start + step, steps)) for start in range(0, steps, step)]
                    sums.append((n, c, k, len(products), len(products) + len(parts)))
                    products += parts
    shapes = [(width, count, *map(int, place)) for width, count, place in zip(widths, pixels, places, strict=True)]
    tables = shapes, blocks, source_blocks, products, sums
    return _Plan(*(torch.tensor(table, dtype=torch.int32).to(device) for table in tables))


class Projections:
    """The projections of the features of one call.

    Args:
        sources: K features (B, C_k, *S_k).
        weights, biases: K tensors (C, C_k) and (C,), or None for the identity.
        channels: C.
        tables: which features are interpolated, and their cells.
        dtype: the dtype of the projected features.
        needed: which gradients `backward` computes; None for none.
        d_sources: where it writes the gradients of the sources, K tensors, or None where they are not needed.
    """

    def __init__(
        self,
        sources: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        biases: Sequence[Tensor | None],
        channels: int,
        tables: Tables,
        dtype: torch.dtype,
        needed: NeededGradients | None = None,
        d_sources: Sequence[Tensor | None] = (),
    ):
        self.sources = [source.to(dtype).contiguous() for source in sources]
        parameters = [t for pair in zip(weights, biases, strict=True) for t in pair if t is not None]
        # parameters of several dtypes are rare; the kernels take one
        weight_dtype = parameters[0].dtype if len({t.dtype for t in parameters}) == 1 else torch.float32
        self.weights = [None if t is None else t.to(weight_dtype).contiguous() for t in weights]
        self.biases = [None if t is None else t.to(weight_dtype).contiguous() for t in biases]
        self.channels, self.dtype, self.batch = channels, dtype, len(sources[0])
        self.num_cells = tables.num_cells
        self.block = channel_block(channels, _CHANNELS)
        widths = tuple(source.shape[1] for source in sources)
        pixels = tuple(math.prod(source.shape[2:]) for source in sources)
        full = iter(range(len(sources)))
        places = tuple(
            (False, tables.cells[n]) if n in tables.cells else (True, next(full)) for n in range(len(sources))
        )
        needs_sources = needs_weights = (False,) * len(sources)
        if needed is not None:
            needs_sources = tuple(needed.sources)
            needs_weights = tuple(w or b for w, b in zip(needed.weights, needed.biases, strict=True))
        self.d_sources = list(d_sources) or [None] * len(sources)
        # in the dtype of the kernels
        self.written = [
            d if d is None or d.dtype == dtype else torch.empty_like(d, dtype=dtype) for d in self.d_sources
        ]
        self.d_weights, self.d_biases = (
            [
                torch.empty_like(t, dtype=torch.float32) if t is not None and need else None
                for t, need in zip(parameters, needs_weights, strict=True)
            ]
            for parameters in (self.weights, self.biases)
        )
        self.addresses = self._make_addresses()
        self.depth_of_weights = _DEPTH if dtype == torch.float32 else _LONG_DEPTH
        self.plan = _plan(
            widths, pixels, places, needs_sources, needs_weights, self.batch, channels, self.block,
            self.depth_of_weights, sources[0].device,
        )  # fmt: skip
        self.constants: dict[str, Any] = {
            "DTYPE": TRITON_DTYPES[dtype],
            "ALIGNED": all(n % 8 == 0 for n in (*widths, *pixels)),
            **product_constants(dtype),
            "DEPTH": _DEPTH,
        }
        self.weight_dtype = TRITON_DTYPES[weight_dtype]

    def _make_addresses(self) -> Tensor:
        lists = [self.sources, self.weights, self.biases, self.written, self.d_weights, self.d_biases]
        rows = [[0 if t is None else t.data_ptr() for t in row] for row in zip(*lists, strict=True)]
        return torch.tensor(rows, dtype=torch.int64).to(self.sources[0].device, non_blocking=True)

    def project(self, values: Tensor, full: Tensor) -> None:
        """Project all features: the interpolated ones to `values` (B, cells, C), the others to `full` (F, B, C, *S)."""
        grid = len(self.plan.blocks), triton.cdiv(self.channels, self.block), self.batch
        launch(
            project_kernel, grid,
            values, full, self.addresses, self.plan.shapes, self.plan.blocks, self.channels, self.num_cells,
            self.batch, WEIGHT=self.weight_dtype, PIXELS=_PIXELS, BLOCK=self.block, **self.constants,
        )  # fmt: skip

    def backward(self, d_values: Tensor, d_full: Tensor) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """The gradients of weights and biases from those of the projected features; writes those of the sources."""
        addresses, plan = self.addresses, self.plan
        arguments = self.channels, self.num_cells, self.batch
        if len(plan.source_blocks):
            launch(
                source_gradient_kernel, (len(plan.source_blocks), self.batch),
                d_values, d_full, addresses, plan.shapes, plan.source_blocks, *arguments,
                WEIGHT=self.weight_dtype, PIXELS=_PIXELS, BLOCK=self.block, **self.constants,
            )  # fmt: skip
        if len(plan.products):
            partial = d_values.new_empty(len(plan.products), self.block, self.block + 1, dtype=torch.float32)
            launch(
                weight_gradient_kernel, (len(plan.products),),
                d_values, d_full, partial, addresses, plan.shapes, plan.products, *arguments, BLOCK=self.block,
                **{**self.constants, "DEPTH": self.depth_of_weights},
            )  # fmt: skip
            launch(
                sum_parts_kernel, (len(plan.sums), self.block // 16),
                partial, addresses, plan.shapes, plan.sums, self.channels, WEIGHT=self.weight_dtype, BLOCK=self.block,
                ROWS=16,
            )  # fmt: skip
        for d_source, gradient in zip(self.d_sources, self.written, strict=True):
            if d_source is not None and gradient is not None and gradient is not d_source:
                d_source.copy_(gradient)
        return self.d_weights, self.d_biases
