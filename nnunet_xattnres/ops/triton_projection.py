"""The 1x1 convolutions of all features of a history in Triton: two kernels, and three for their gradients.

One launch is for all features, because most of them are small: a matrix product of its own for each would take longer
to start than to compute. The weights are rounded to the dtype of the features first, because many programs read each of
them, and the products wait for the second-level cache more than for anything else. The features lie anywhere in memory,
so a table holds their addresses. Features of the size of x are projected to (B, C, pixels), those that are interpolated
to (B, cells, C), as in `triton_kernels.py`.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_launch import ALIGNMENT, Launch, Memory, as_operand, as_result, copy_results, is_interpreted, memory_of

# Sizes of blocks: pixels, channels in half precision and in float32, and the depth of a step of a product. With more
# channels, the features are read less often.
_PIXELS, _CHANNELS, _CHANNELS_FLOAT32, _DEPTH = 128, 128, 64, 32
# Blocks of at most this many channels have half the warps, and in half precision a larger depth where they sum over
# pixels, which are many.
_FEW_CHANNELS, _LONG_DEPTH = 64, 64
# The elements of a weight that a program rounds.
_ROUNDED = 2048
# The elements of a weight that a program of the last sum has, and the parts of which it has all but one loaded ahead.
_SUMMED, _PARTS = 1024, 8
# The tables of addresses that are kept for every combination of shapes.
_ADDRESS_TABLES = 16
# The most parts into which the sum over pixels is split for the gradient of one weight, and the number of elements of
# all parts that is enough for a GPU: more would only be more to store and to sum.
_SPLITS, _ENOUGH_ELEMENTS = 256, 2**23

# The integers per feature in the tables: addresses of source, weight, bias and their gradients; C_k, pixels, whether it
# has the size of x, its index among the features of this size or its first cell, and the first element of its rounded
# weight.
ADDRESSES = tl.constexpr(6)
SHAPE = tl.constexpr(5)
# The bytes of which all addresses in the tables are multiples.
MULTIPLE = tl.constexpr(ALIGNMENT)

TRITON_DTYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


def product_constants(dtype: torch.dtype) -> dict[str, Any]:
    """The compile-time arguments of all kernels with products of `dtype`: dtype of the operands, and precision."""
    exact = dtype == torch.float32
    # the products of Triton's interpreter are wrong in bfloat16
    interpreted = is_interpreted() and dtype == torch.bfloat16
    return {
        "OPERAND": TRITON_DTYPES[torch.float32 if interpreted else dtype],
        "PRECISION": ("ieee" if torch.version.hip else "tf32x3") if exact else "tf32",
    }


def channel_block(channels: int, largest: int) -> int:
    """The number of channels in a block: a power of two, 16 at least, as products need."""
    return min(largest, max(16, triton.next_power_of_2(channels)))


@triton.jit
def _address(addresses, feature, index: tl.constexpr, dtype: tl.constexpr):
    address = tl.load(addresses + feature * ADDRESSES + index).to(tl.pointer_type(dtype))
    return tl.multiple_of(address, MULTIPLE)


@triton.jit
def _is_projected(addresses, feature):
    """Whether the feature has a weight; others are copied."""
    return tl.load(addresses + feature * ADDRESSES + 1) != 0


@triton.jit
def _shape(shapes, feature, ALIGNED: tl.constexpr):
    """C_k, pixels, whether the feature has the size of x, and its index or first cell; not the start of its weight."""
    width, pixels = tl.load(shapes + feature * SHAPE), tl.load(shapes + feature * SHAPE + 1)
    if ALIGNED:
        width, pixels = tl.multiple_of(width, 8), tl.multiple_of(pixels, 8)
    return width, pixels, tl.load(shapes + feature * SHAPE + 2), tl.load(shapes + feature * SHAPE + 3)


@triton.jit
def _start_of_weight(shapes, feature, ALIGNED: tl.constexpr):
    """The first element of a weight among all rounded ones."""
    start = tl.load(shapes + feature * SHAPE + 4)
    return tl.multiple_of(start, 8) if ALIGNED else start


@triton.jit
def _feature_and_pixels(blocks, block, PIXELS: tl.constexpr):
    """The feature and the pixels of a block of pixels."""
    row = blocks + 2 * block
    return tl.load(row), tl.multiple_of(tl.load(row + 1), PIXELS) + tl.arange(0, PIXELS)


@triton.jit
def round_weights_kernel(
    rounded, addresses, shapes, channels,
    DTYPE: tl.constexpr, WEIGHT: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Round a part of a weight to the dtype of the features. Grid: (parts of the largest weight, features)."""
    feature = tl.program_id(1)
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    if _is_projected(addresses, feature):
        mask = i < channels * tl.load(shapes + feature * SHAPE)
        weight = tl.load(_address(addresses, feature, 1, WEIGHT) + i, mask=mask)
        tl.store(rounded + _start_of_weight(shapes, feature, ALIGNED) + i, weight.to(DTYPE), mask=mask)


@triton.jit(do_not_specialize=["num_cells", "batch"])
def project_kernel(
    rounded, values, full, addresses, shapes, blocks, channels, num_cells, batch,
    DTYPE: tl.constexpr, OPERAND: tl.constexpr, WEIGHT: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Project a block of pixels of one feature, or copy it. Grid: (blocks of pixels of all features x channels, B).

    The blocks of channels of the same pixels follow each other, so that the feature is read from the cache.
    """
    channel_blocks = tl.cdiv(channels, BLOCK)
    feature, p = _feature_and_pixels(blocks, tl.program_id(0) // channel_blocks, PIXELS)
    c = tl.program_id(0) % channel_blocks * BLOCK + tl.arange(0, BLOCK)
    b = tl.program_id(1).to(tl.int64)
    width, pixels, is_full, index = _shape(shapes, feature, ALIGNED)
    source = _address(addresses, feature, 0, DTYPE) + b * width * pixels
    weight = rounded + _start_of_weight(shapes, feature, ALIGNED)
    mask = (c < channels)[:, None] & (p < pixels)[None]
    if _is_projected(addresses, feature):
        tile = tl.zeros((BLOCK, PIXELS), tl.float32)
        for begin in range(0, width, DEPTH):
            k = begin + tl.arange(0, DEPTH)
            w = tl.load(
                weight + c[:, None] * width + k[None], mask=(c < channels)[:, None] & (k < width)[None], other=0
            )
            s = tl.load(source + k[:, None] * pixels + p[None], mask=(k < width)[:, None] & (p < pixels)[None], other=0)
            tile = tl.dot(w.to(OPERAND), s.to(OPERAND), tile, input_precision=PRECISION)
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
    FULL: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The transposed weight times the gradient of the projected feature, (channels k, pixels p)."""
    tile = tl.zeros((BLOCK, PIXELS), tl.float32)
    for begin in range(0, channels, DEPTH):
        c = begin + tl.arange(0, DEPTH)
        mask = (k < width)[:, None] & (c < channels)[None]
        w = tl.load(weight + c[None] * width + k[:, None], mask=mask, other=0).to(OPERAND)
        d = _load_gradient(d_values, d_full, c, p, pixels, index, b, channels, num_cells, batch, FULL)
        tile = tl.dot(w, d.to(OPERAND), tile, input_precision=PRECISION)
    return tile


@triton.jit(do_not_specialize=["num_cells", "batch"])
def source_gradient_kernel(
    rounded, d_values, d_full, addresses, shapes, blocks, channels, num_cells, batch,
    DTYPE: tl.constexpr, OPERAND: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The gradient of a block of pixels and channels of one feature. Grid: (blocks of all features, B)."""
    row = blocks + 3 * tl.program_id(0)
    feature = tl.load(row)
    p = tl.multiple_of(tl.load(row + 1), PIXELS) + tl.arange(0, PIXELS)
    k = tl.multiple_of(tl.load(row + 2), BLOCK) + tl.arange(0, BLOCK)
    b = tl.program_id(1).to(tl.int64)
    width, pixels, is_full, index = _shape(shapes, feature, ALIGNED)
    weight = rounded + _start_of_weight(shapes, feature, ALIGNED)
    # a loop for each place of the gradient: loads in branches of one loop would not be pipelined
    if _is_projected(addresses, feature):
        if is_full != 0:
            tile = _source_gradient(
                d_values, d_full, weight, k, p, width, pixels, index, b, channels, num_cells, batch,
                True, OPERAND, PRECISION, PIXELS, BLOCK, DEPTH,
            )  # fmt: skip
        else:
            tile = _source_gradient(
                d_values, d_full, weight, k, p, width, pixels, index, b, channels, num_cells, batch,
                False, OPERAND, PRECISION, PIXELS, BLOCK, DEPTH,
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
    partial, addresses, shapes, sums, channels,
    WEIGHT: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The sum of the parts of a block of the gradients of a weight and its bias. Grid: (blocks, BLOCK / ROWS).

    `sums` has the feature, the first channels c and k of the block, its first part, the distance to the next one, and
    the number of parts. PARTS - 1 of them are loaded ahead, because to load one takes longer than to add it.
    """
    row = sums + tl.program_id(0) * 6
    feature, first, distance, count = tl.load(row), tl.load(row + 3), tl.load(row + 4), tl.load(row + 5)
    width = tl.load(shapes + feature * SHAPE)
    i, j = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    c, k = tl.load(row + 1) + i, tl.load(row + 2) + j
    tile = tl.zeros((ROWS, BLOCK), tl.float32)
    bias = tl.zeros((ROWS,), tl.float32)
    partial += first.to(tl.int64) * BLOCK * (BLOCK + 1)
    step = distance.to(tl.int64) * BLOCK * (BLOCK + 1)
    for part in tl.range(0, count, num_stages=PARTS):
        block = partial + part * step
        tile += tl.load(block + i[:, None] * BLOCK + j[None])
        bias += tl.load(block + BLOCK * BLOCK + i)
    d_weight = _address(addresses, feature, 4, tl.float32)
    tl.store(d_weight + c[:, None] * width + k[None], tile, mask=(c < channels)[:, None] & (k < width)[None])
    if tl.load(row + 2) == 0:
        tl.store(_address(addresses, feature, 5, tl.float32) + c, bias, mask=c < channels)


class ProjectionKernels:
    """The kernels for the projections of features of given shapes.

    Args:
        widths: C_k of every feature.
        pixels: the pixels of every feature.
        cells: the first cell of every feature that is interpolated, by its index.
        num_cells: the cells of all features together.
        of_sources, of_weights: whether the gradients of a feature, and of its weight and bias are needed.
        batch, channels: B and C.
        dtype, weight_dtype: the dtypes of the features, and of the weights and biases.
        device: where the features are.
        splits: the most parts into which the sum over pixels is split for the gradient of one weight.

    Attributes:
        forward_launches, backward_launches: what has to be compiled.
        rounded_size: the number of elements of all weights, which are rounded to the dtype of the features.
        partial_shape: the shape of the temporary tensor of `backward`, in float32.
    """

    def __init__(
        self,
        widths: Sequence[int],
        pixels: Sequence[int],
        cells: Mapping[int, int],
        num_cells: int,
        of_sources: Sequence[bool],
        of_weights: Sequence[bool],
        batch: int,
        channels: int,
        dtype: torch.dtype,
        weight_dtype: torch.dtype,
        device: torch.device,
        splits: int = _SPLITS,
    ):
        exact = dtype == torch.float32
        block = channel_block(channels, _CHANNELS_FLOAT32 if exact else _CHANNELS)
        has_few_channels = block <= _FEW_CHANNELS
        depth = _LONG_DEPTH if has_few_channels and not exact else _DEPTH
        enough_parts = _ENOUGH_ELEMENTS // max(block, _FEW_CHANNELS) ** 2
        # per program: a feature and a pixel; these and a channel; a part of a sum over pixels, and the parts of a sum
        blocks: list[tuple[int, int]] = []
        source_blocks: list[tuple[int, int, int]] = []
        products: list[tuple[int, ...]] = []
        sums: list[tuple[int, ...]] = []
        # what every weight of a feature needs: the blocks of its gradient, and the steps of the sum over pixels
        corners = [[(c, k) for c in range(0, channels, block) for k in range(0, width, block)] for width in widths]
        steps = [batch * -(-count // depth) for count in pixels]
        all_steps = sum(len(c) * s for c, s, needed in zip(corners, steps, of_weights, strict=True) if needed)
        for n, (width, count) in enumerate(zip(widths, pixels, strict=True)):
            blocks += [(n, start) for start in range(0, count, _PIXELS)]
            if of_sources[n]:
                source_blocks += [(n, p, k) for p in range(0, count, _PIXELS) for k in range(0, width, block)]
            if of_weights[n]:
                step = max(16, -(-steps[n] // splits), all_steps // enough_parts)
                starts, here = range(0, steps[n], step), corners[n]
                sums += [(n, *corner, len(products) + i, len(here), len(starts)) for i, corner in enumerate(here)]
                # all blocks of a weight for the same pixels follow each other, so that these are read from the cache
                products += [(n, *corner, start, min(start + step, steps[n])) for start in starts for corner in here]
        full = iter(range(len(widths)))
        places = [(0, cells[n]) if n in cells else (1, next(full)) for n in range(len(widths))]
        starts = np.cumsum([0, *(channels * width for width in widths)]).tolist()
        self.rounded_size = starts.pop()
        shapes = [(*row, *place, start) for *row, place, start in zip(widths, pixels, places, starts, strict=True)]
        self._tables = [
            torch.tensor(table, dtype=torch.int32).to(device)
            for table in (shapes, blocks, source_blocks, products, sums)
        ]
        self._table_memory = [memory_of(table) for table in self._tables]
        self.dtype, self.weight_dtype = dtype, weight_dtype
        self._device = device
        self._copy_addresses = lru_cache(_ADDRESS_TABLES)(self._copy_addresses_to_device)
        self.partial_shape = len(products), block, block + 1
        constants: dict[str, Any] = {
            "DTYPE": TRITON_DTYPES[dtype],
            "ALIGNED": all(n % 8 == 0 for n in (*widths, *pixels)),
            "BLOCK": block,
            "num_warps": 4 if has_few_channels else 8,
            **product_constants(dtype),
        }
        weight = {"WEIGHT": TRITON_DTYPES[weight_dtype]}
        numbers = channels, num_cells, batch
        inputs = *[dtype] * 3, torch.int64, *[torch.int32] * 2
        self._round_weights = Launch(
            round_weights_kernel, (triton.cdiv(channels * max(widths, default=1), _ROUNDED), len(widths)),
            (dtype, torch.int64, torch.int32), channels,
            DTYPE=constants["DTYPE"], ALIGNED=constants["ALIGNED"], SIZE=_ROUNDED, **weight,
        )  # fmt: skip
        self._project = Launch(
            project_kernel, (len(blocks) * triton.cdiv(channels, block), batch), inputs, *numbers,
            PIXELS=_PIXELS, DEPTH=_DEPTH, **weight, **constants,
        )  # fmt: skip
        self._source_gradient = Launch(
            source_gradient_kernel, (len(source_blocks), batch), inputs, *numbers,
            PIXELS=_PIXELS, DEPTH=_DEPTH, **constants,
        )  # fmt: skip
        self._weight_gradient = Launch(
            weight_gradient_kernel, (len(products),), (dtype, dtype, torch.float32, *inputs[3:]), *numbers,
            DEPTH=depth, **constants,
        )  # fmt: skip
        rows = min(block, _SUMMED // block)
        self._sum_parts = Launch(
            sum_parts_kernel, (len(sums), block // rows), (torch.float32, *inputs[3:]), channels,
            BLOCK=block, ROWS=rows, PARTS=_PARTS, **weight,
        )  # fmt: skip
        self.forward_launches = [self._round_weights, self._project]
        self.backward_launches = [
            *self.forward_launches,
            *([self._source_gradient] if source_blocks else []),
            *([self._weight_gradient, self._sum_parts] if products else []),
        ]

    def addresses_of(self, addresses: tuple[int, ...]) -> Tensor:
        """The addresses on the device, ADDRESSES for every feature.

        From step to step, tensors mostly have the same addresses, so the last tables are kept.
        """
        # a table of its own for every stream, in which it is copied before it is read
        stream = torch.cuda.current_stream(self._device).cuda_stream if self._device.type == "cuda" else 0
        return self._copy_addresses(addresses, stream)

    def _copy_addresses_to_device(self, addresses: tuple[int, ...], stream: int) -> Tensor:
        is_cuda = self._device.type == "cuda"
        if is_cuda and torch.cuda.is_current_stream_capturing():
            raise NotImplementedError("the Triton kernels cannot be recorded in a CUDA graph")
        # pinned memory is not given to others before the copy, for which the CPU does not wait
        table = torch.tensor(addresses, dtype=torch.int64, pin_memory=is_cuda)
        return table.to(self._device, non_blocking=True)

    def project(self, addresses: Tensor, rounded: Memory, values: Memory, full: Memory) -> None:
        """Round all weights to `rounded`, and project all features.

        The interpolated ones are projected to `values` (B, cells, C), the others to `full` (F, B, C, *S).
        """
        shapes, blocks, *_ = self._table_memory
        table = memory_of(addresses)
        self._round_weights(rounded, table, shapes)
        self._project(rounded, values, full, table, shapes, blocks)

    def backward(self, addresses: Tensor, rounded: Memory, d_values: Memory, d_full: Memory, partial: Memory) -> None:
        """Write all gradients that are needed, from the rounded weights and those of the projected features."""
        shapes, _, source_blocks, products, sums = self._table_memory
        table = memory_of(addresses)
        if len(self._tables[2]):
            self._source_gradient(rounded, d_values, d_full, table, shapes, source_blocks)
        if self.partial_shape[0]:
            self._weight_gradient(d_values, d_full, partial, table, shapes, products)
            self._sum_parts(partial, table, shapes, sums)


class Projections:
    """The features, weights and biases of one call, with the kernels that project them.

    Args:
        kernels: the kernels for their shapes.
        sources: K features (B, C_k, *S_k).
        weights, biases: K tensors (C, C_k) and (C,), or None for the identity.
        of_weights: whether the gradients of a weight and of its bias are needed.
        d_sources: where `backward` writes the gradients of the sources, K tensors, or None where they are not needed.
    """

    def __init__(
        self,
        kernels: ProjectionKernels,
        sources: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        biases: Sequence[Tensor | None],
        of_weights: Sequence[bool] | None = None,
        d_sources: Sequence[Tensor | None] | None = None,
    ):
        self.kernels = kernels
        none: list[Tensor | None] = [None] * len(sources)
        self._d_sources = none if d_sources is None else list(d_sources)
        self._written = [None if d is None else as_result(d, kernels.dtype) for d in self._d_sources]
        self.d_weights, self.d_biases = none, none
        if of_weights is not None:
            self.d_weights, self.d_biases = (
                [
                    torch.empty_like(t, dtype=torch.float32, memory_format=torch.contiguous_format)
                    if t is not None and needed
                    else None
                    for t, needed in zip(parameters, of_weights, strict=True)
                ]
                for parameters in (weights, biases)
            )
        # the addresses are those of these tensors, which must live as long as the kernels read them
        self._tensors: tuple[list[Tensor | None], ...] = (
            [as_operand(source, kernels.dtype) for source in sources],
            [None if t is None else as_operand(t, kernels.weight_dtype) for t in weights],
            [None if t is None else as_operand(t, kernels.weight_dtype) for t in biases],
            self._written, self.d_weights, self.d_biases,
        )  # fmt: skip
        self._addresses = kernels.addresses_of(
            tuple([0 if t is None else t.data_ptr() for row in zip(*self._tensors, strict=True) for t in row])
        )

    def project(self, rounded: Memory, values: Memory, full: Memory) -> None:
        """Round all weights, and project all features, as in `ProjectionKernels`."""
        self.kernels.project(self._addresses, rounded, values, full)

    def backward(self, rounded: Memory, d_values: Memory, d_full: Memory, partial: Memory) -> None:
        """Write the gradients of sources, weights and biases from those of the projected features."""
        self.kernels.backward(self._addresses, rounded, d_values, d_full, partial)
        copy_results(self._written, self._d_sources)


def parameter_dtype(parameters: Sequence[Tensor | None]) -> torch.dtype:
    """The dtype in which the kernels read weights and biases: theirs, or float32 where they have several."""
    dtypes = {t.dtype for t in parameters if t is not None}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32
