"""The Triton kernels of `triton_backend.py`.

Feature maps of the size of x are (B, C, pixels). The features that are interpolated have been projected at their own
resolution. Their cells follow each other in one buffer, (B, cells, C), with the channels of a cell next to each other.
Scalars per pixel are (B, K+1, pixels), with the K features of the history first and x at the end; scalars per cell are
(B, cells, MAPS). `tiles.py` describes the tables: `columns`, `weights`, `features`, `feature_of_cell`, `readers` ...

In 2-D, the depth is 1 and DIM is 2. x comes in two parts, `first` with `width` channels and `second` with the others,
if any. A block of pixels with all scalars is (PIXELS, VALUES), where VALUES is a power of two above K. Sums are in
float32 and in a fixed order.

Sets of axes are bits: 1 is the width, 2 the height, 4 the depth.
"""

import triton
import triton.language as tl

from . import tiles

FIELDS = tl.constexpr(tiles.FIELDS)

# Arguments whose values would only make more kernels to compile.
_TILE_ARGUMENTS = ["num_values", "num_full", "num_cells", "full_z", "full_y", "tiles_y", "tiles_x", "batch"]


@triton.jit
def _size_and_start(features, row):
    """The size (depth, height, width) and the first cell of an interpolated feature."""
    row = features + row * FIELDS
    return tl.load(row + 2), tl.load(row + 3), tl.load(row + 4), tl.load(row + 1)


@triton.jit
def _numerator(position, length, target):
    """The position of a pixel on an axis of `length` cells that is interpolated to `target` pixels, times 2 target."""
    numerator = (2 * position + 1) * length - target
    return tl.minimum(tl.maximum(numerator, 0), 2 * target * (length - 1))


@triton.jit
def _tap(position, length, target):
    """The lower neighbour of a pixel along an axis that is interpolated from `length` to `target`, and the distance."""
    numerator = _numerator(position, length, target)
    scale = 0.5 / target
    # rounding may give the next neighbour, from where the distance is then 0 or 1
    lower = tl.minimum((numerator.to(tl.float32) * scale).to(tl.int32), tl.maximum(length - 2, 0))
    return lower, (numerator - 2 * target * lower).to(tl.float32) * scale


@triton.jit
def _hats(position, cell, length, target):
    """The weights of the cells `cell` and `cell` + 1 at a pixel."""
    distance = (_numerator(position, length, target) - 2 * target * cell).to(tl.float32) * (0.5 / target)
    return tl.maximum(1 - tl.abs(distance), 0), tl.maximum(1 - tl.abs(distance - 1), 0)


@triton.jit(do_not_specialize=["num_cells"])
def maps_kernel(
    values, query, maps, features, feature_of_cell, num_cells, channels,
    DIM: tl.constexpr, CELLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The scalar maps of the interpolated features at their own resolutions, (B, cells, MAPS).

    Map 0 is q.P, map 1 + b is |d_b P|^2, where d_b is the difference of neighbours along the axes in the bits of b, or
    0 at the edge. Grid: (blocks of cells, B).
    """
    r = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    b = tl.program_id(1).to(tl.int64)
    inside = r < num_cells
    feature = tl.load(feature_of_cell + r, mask=inside, other=0)
    size_z, size_y, size_x, start = _size_and_start(features, feature)
    x, y = (r - start) % size_x, (r - start) // size_x % size_y
    next_x = tl.where(x + 1 < size_x, 1, 0)
    next_y = tl.where(y + 1 < size_y, size_x, 0)
    next_z = tl.zeros_like(next_x)
    if DIM == 3:
        next_z = tl.where((r - start) // (size_x * size_y) + 1 < size_z, size_x * size_y, 0)
    product = tl.zeros((CELLS,), tl.float32)
    m0 = tl.zeros((CELLS,), tl.float32)
    m1 = tl.zeros((CELLS,), tl.float32)
    m2 = tl.zeros((CELLS,), tl.float32)
    m3 = tl.zeros((CELLS,), tl.float32)
    m4 = tl.zeros((CELLS,), tl.float32)
    m5 = tl.zeros((CELLS,), tl.float32)
    m6 = tl.zeros((CELLS,), tl.float32)
    m7 = tl.zeros((CELLS,), tl.float32)
    values += b * num_cells * channels
    for begin in range(0, channels, BLOCK):
        c = (begin + tl.arange(0, BLOCK))[None]
        mask = inside[:, None] & (c < channels)
        near = values + r[:, None] * channels + c
        step_x, step_y = (next_x * channels)[:, None], (next_y * channels)[:, None]
        v0 = tl.load(near, mask=mask, other=0).to(tl.float32)
        d1 = tl.load(near + step_x, mask=mask, other=0).to(tl.float32) - v0
        d2 = tl.load(near + step_y, mask=mask, other=0).to(tl.float32) - v0
        v3 = tl.load(near + step_x + step_y, mask=mask, other=0).to(tl.float32)
        # zero at the edge, where one of the two neighbours is the cell itself
        d3 = tl.where((next_x * next_y > 0)[:, None], v3 - v0 - d1 - d2, 0)
        product += tl.sum(v0 * tl.load(query + c, mask=c < channels, other=0), 1)
        m0 += tl.sum(v0 * v0, 1)
        m1 += tl.sum(d1 * d1, 1)
        m2 += tl.sum(d2 * d2, 1)
        m3 += tl.sum(d3 * d3, 1)
        if DIM == 3:
            near += (next_z * channels)[:, None]
            u0 = tl.load(near, mask=mask, other=0).to(tl.float32)
            e1 = tl.load(near + step_x, mask=mask, other=0).to(tl.float32) - u0
            e2 = tl.load(near + step_y, mask=mask, other=0).to(tl.float32) - u0
            u3 = tl.load(near + step_x + step_y, mask=mask, other=0).to(tl.float32)
            e3 = tl.where((next_x * next_y > 0)[:, None], u3 - u0 - e1 - e2, 0)
            m4 += tl.sum((u0 - v0) * (u0 - v0), 1)
            m5 += tl.sum((e1 - d1) * (e1 - d1), 1)
            m6 += tl.sum((e2 - d2) * (e2 - d2), 1)
            m7 += tl.sum((e3 - d3) * (e3 - d3), 1)
    maps += (b * num_cells + r) * (8 if DIM == 2 else 12)
    tl.store(maps, product, mask=inside)
    tl.store(maps + 1, m0, mask=inside)
    tl.store(maps + 2, m1, mask=inside)
    tl.store(maps + 3, m2, mask=inside)
    tl.store(maps + 4, m3, mask=inside)
    if DIM == 3:
        tl.store(maps + 5, m4, mask=inside)
        tl.store(maps + 6, m5, mask=inside)
        tl.store(maps + 7, m6, mask=inside)
        tl.store(maps + 8, m7, mask=inside)


@triton.jit
def _along(lower, fraction, length, stride, CORNER: tl.constexpr):
    """Where a corner of a cell is along one axis, and its weight."""
    if CORNER:
        step = tl.where(length > 1, stride, 0)
        weight = fraction
    else:
        step = 0 * stride
        weight = 1 - fraction
    return lower * stride + step, weight


@triton.jit
def _interpolate_maps(maps, features, row, z, y, x, full_z, full_y, full_x, DIM: tl.constexpr):
    """q.U(P) and |U(P)|^2 of a feature, from its scalar maps.

    Between neighbours u and v, |(1-a) u + a v|^2 = (1-a) |u|^2 + a |v|^2 - a (1-a) |v - u|^2. So a map of differences
    along an axis has the weight a (a-1) at the lower corner, and none at the upper one.
    """
    stride = 8 if DIM == 2 else 12
    size_z, size_y, size_x, start = _size_and_start(features, row)
    lower_x, fraction_x = _tap(x, size_x, full_x)
    lower_y, fraction_y = _tap(y, size_y, full_y)
    lower_z, fraction_z = y, fraction_y
    if DIM == 3:
        lower_z, fraction_z = _tap(z, size_z, full_z)
    d_x, d_y, d_z = fraction_x * (fraction_x - 1), fraction_y * (fraction_y - 1), fraction_z * (fraction_z - 1)
    # four maps at a time are one load
    column = tl.arange(0, 4)[None]
    total = fraction_x[:, None] * tl.zeros((1, 4), tl.float32)
    with_z = total
    none = tl.zeros_like(fraction_x)
    rest = none
    for corner in tl.static_range(4 if DIM == 2 else 8):
        cell, w_x = _along(lower_x, fraction_x, size_x, 1, corner % 2)
        cell_y, w_y = _along(lower_y, fraction_y, size_y, size_x, corner // 2 % 2)
        near = maps + (start + cell + cell_y) * stride
        # what the other axes contribute to the weights of the maps of products and of differences along x and y
        w_yz, d_yz, d_xy = w_y, d_y, d_x * d_y
        if DIM == 3:
            cell_z, w_z = _along(lower_z, fraction_z, size_z, size_x * size_y, corner // 4)
            near += cell_z * stride
            w_yz, d_yz, d_xy = w_y * w_z, d_y * w_z, d_xy * w_z
        # q.P and |P|^2, and the maps of the differences along x and y
        of_x = d_x * w_yz if corner % 2 == 0 else none
        of_y = w_x * d_yz if corner // 2 % 2 == 0 else none
        weight = tl.where(column == 2, of_x[:, None], of_y[:, None])
        total += tl.where(column < 2, (w_x * w_yz)[:, None], weight) * tl.load(near[:, None] + column)
        if DIM == 3 and corner < 4:
            # the maps of the differences along (x, y), z, (x, z), (y, z)
            of_xy = d_xy if corner % 4 == 0 else none
            of_xz = d_x * w_y * d_z if corner % 2 == 0 else none
            of_yz = w_x * d_y * d_z if corner // 2 % 2 == 0 else none
            weight = tl.where(column == 2, of_xz[:, None], of_yz[:, None])
            weight = tl.where(column == 1, (w_x * w_y * d_z)[:, None], weight)
            weight = tl.where(column == 0, of_xy[:, None], weight)
            with_z += weight * tl.load(near[:, None] + 4 + column)
            if corner == 0:
                rest += d_x * d_y * d_z * tl.load(near + 8)
        elif corner % 4 == 0:
            # that of the differences along (x, y); in 3-D at the upper corner along z, where the others have no weight
            rest += d_xy * tl.load(near + 4)
    product = tl.sum(tl.where(column == 0, total, 0), 1)
    squared_norm = tl.sum(tl.where(column == 0, 0, total) + with_z, 1) + rest
    # rounding may make a squared norm negative
    return product, tl.maximum(squared_norm, 0)


@triton.jit
def _products(
    feature, query, grad_out, p, pixels, inside, channels,
    BACKWARD: tl.constexpr, SPREAD: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """q.V, |V|^2 and, for backward, the product of V and the gradient of the output, each (PIXELS,).

    With SPREAD, the channels of a pixel are spread over threads, which exchange their sums once, at the end. Otherwise,
    a thread has all channels of its pixels, and nothing is exchanged.
    """
    # the rows of the sums: all channels together, or each of a block for itself
    rows: tl.constexpr = BLOCK if SPREAD else 1
    product = tl.zeros((rows, PIXELS), tl.float32)
    squared_norm = tl.zeros((rows, PIXELS), tl.float32)
    with_gradient = tl.zeros((rows, PIXELS), tl.float32)
    for begin in range(0, channels, BLOCK):
        c = begin + tl.arange(0, BLOCK)
        mask = (c < channels)[:, None] & inside[None]
        offsets = c[:, None] * pixels + p[None]
        v = tl.load(feature + offsets, mask=mask, other=0).to(tl.float32)
        product += _sum_rows(v * tl.load(query + c, mask=c < channels, other=0)[:, None], SPREAD)
        squared_norm += _sum_rows(v * v, SPREAD)
        if BACKWARD:
            with_gradient += _sum_rows(v * tl.load(grad_out + offsets, mask=mask, other=0).to(tl.float32), SPREAD)
    return tl.sum(product, 0), tl.sum(squared_norm, 0), tl.sum(with_gradient, 0)


@triton.jit
def _sum_rows(block, SPREAD: tl.constexpr):
    """The sum over the channels of a block, as one row, or with SPREAD the block itself."""
    return block if SPREAD else tl.sum(block, 0, keep_dims=True)


@triton.jit
def _store_score(products, rstd, offsets, product, squared_norm, inside, channels, eps, BACKWARD: tl.constexpr):
    """Store a logit of Eq. 6, or for backward its factors, q.V and 1 / RMS(V), and return the logit."""
    r = tl.rsqrt(squared_norm / channels + eps)
    logit = product * r
    if BACKWARD:
        tl.store(products + offsets, product, mask=inside)
        tl.store(rstd + offsets, r, mask=inside)
    else:
        tl.store(products + offsets, logit, mask=inside)
    return logit


@triton.jit(do_not_specialize=["num_full", "num_values", "batch"])
def full_scores_kernel(
    full, first, second, query, grad_out, products, rstd, d_alpha, full_index,
    channels, width, num_full, num_values, pixels, eps, batch,
    BACKWARD: tl.constexpr, SPREAD: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The logits of Eq. 6 of x and of the features of its size, (B, K+1, pixels), in `products`.

    For backward, their factors in `products` and `rstd`, and the gradient of the attention to them in `d_alpha`. In
    `full`, the distance of two features is `batch` samples. Grid: (blocks of pixels x (1 + num_full), B). The programs
    of a block of pixels follow each other, that of x before those of the features, so that all but one read `grad_out`
    from the cache.
    """
    part = tl.program_id(0) % (1 + num_full)
    p = tl.program_id(0) // (1 + num_full) * PIXELS + tl.arange(0, PIXELS)
    b = tl.program_id(1).to(tl.int64)
    inside = p < pixels
    scalars = b * num_values * pixels + p
    grad_out += b * channels * pixels
    if part == 0:
        offsets = scalars + (num_values - 1) * pixels
        product, squared_norm, with_gradient = _products(
            first + b * width * pixels, query, grad_out, p, pixels, inside, width, BACKWARD, SPREAD, PIXELS, BLOCK
        )
        if width < channels:
            more_product, more_squared_norm, more_with_gradient = _products(
                second + b * (channels - width) * pixels, query + width, grad_out + width * pixels,
                p, pixels, inside, channels - width, BACKWARD, SPREAD, PIXELS, BLOCK,
            )  # fmt: skip
            product += more_product
            squared_norm += more_squared_norm
            with_gradient += more_with_gradient
    else:
        offsets = scalars + tl.load(full_index + part - 1) * pixels
        product, squared_norm, with_gradient = _products(
            full + ((part - 1) * batch + b) * channels * pixels, query, grad_out,
            p, pixels, inside, channels, BACKWARD, SPREAD, PIXELS, BLOCK,
        )  # fmt: skip
    _store_score(products, rstd, offsets, product, squared_norm, inside, channels, eps, BACKWARD)
    if BACKWARD:
        tl.store(d_alpha + offsets, with_gradient, mask=inside)


@triton.jit
def _logit(products, rstd, offsets, inside, BACKWARD: tl.constexpr):
    logit = tl.load(products + offsets, mask=inside, other=0)
    if BACKWARD:
        logit *= tl.load(rstd + offsets, mask=inside, other=0)
    return logit


@triton.jit
def _add_exponential(largest, total, logit):
    """The largest logit and the sum of exp(logit - largest), with one more logit."""
    larger = tl.maximum(largest, logit)
    return larger, total * tl.exp(largest - larger) + tl.exp(logit - larger)


@triton.jit(do_not_specialize=["num_interpolated", "num_values", "num_cells", "full_z", "full_y"])
def attention_kernel(
    products, rstd, gate, attention, maps, features, full_index,
    channels, num_interpolated, num_values, num_cells, full_z, full_y, full_x, eps,
    BACKWARD: tl.constexpr, GATED: tl.constexpr, DIM: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Eqs. 6 and 7: the logits of the interpolated features, and the attention, (B, K+1, pixels), from all logits.

    The logits are in `products`, or for backward their factors in `products` and `rstd`; there, those of the
    interpolated features are added to those of the others. `attention` may be `products`. With GATED, the attention is
    alpha' = g alpha, plus 1 - g for x. Grid: (blocks of pixels, B).
    """
    pixels = full_z * full_y * full_x
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    b = tl.program_id(1).to(tl.int64)
    inside = p < pixels
    scalars = b * num_values * pixels + p
    largest = tl.full((PIXELS,), -3e38, tl.float32)
    total = tl.zeros((PIXELS,), tl.float32)
    near = tl.minimum(p, pixels - 1)
    z, y, x = near // (full_y * full_x), near // full_x % full_y, near % full_x
    maps += b * num_cells * (8 if DIM == 2 else 12)
    for i in range(num_interpolated):
        product, squared_norm = _interpolate_maps(maps, features, i, z, y, x, full_z, full_y, full_x, DIM)
        offsets = scalars + tl.load(features + i * FIELDS) * pixels
        logit = _store_score(products, rstd, offsets, product, squared_norm, inside, channels, eps, BACKWARD)
        largest, total = _add_exponential(largest, total, logit)
    for i in range(num_values - num_interpolated):
        logit = _logit(products, rstd, scalars + tl.load(full_index + i) * pixels, inside, BACKWARD)
        largest, total = _add_exponential(largest, total, logit)
    # other threads of the program may have stored the logits that a thread loads
    tl.debug_barrier()
    scale = 1 / total
    for n in range(num_values):
        alpha = tl.exp(_logit(products, rstd, scalars + n * pixels, inside, BACKWARD) - largest) * scale
        if GATED:
            g = tl.load(gate)
            alpha = g * alpha + tl.where(n == num_values - 1, 1 - g, 0)
        tl.store(attention + scalars + n * pixels, alpha, mask=inside)


@triton.jit
def _pixels_of_tile(t, full_y, full_x, tiles_y, tiles_x, TILE_Y: tl.constexpr, TILE_X: tl.constexpr):
    """The plane of tile t and its place along height and width, its pixels, and which of these are in the image."""
    plane, tile_y, tile_x = t // (tiles_y * tiles_x), t // tiles_x % tiles_y, t % tiles_x
    r = tl.arange(0, TILE_Y * TILE_X)
    y, x = tile_y * TILE_Y + r // TILE_X, tile_x * TILE_X + r % TILE_X
    return plane, tile_y, tile_x, (plane * full_y + y) * full_x + x, (y < full_y) & (x < full_x)


@triton.jit
def _numbers(weights, k, row, table_columns):
    """The two numbers of the columns k in a row of `weights`."""
    if weights.dtype.element_ty == tl.int32:
        # both in half precision: one load, and two weights are one operation
        both = tl.load(weights + row * table_columns + k)
        first = (both & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True)
        second = (both >> 16).to(tl.int16).to(tl.float16, bitcast=True)
    else:
        both = weights + 2 * (row * table_columns + k)
        first, second = tl.load(both), tl.load(both + 1)
    return first, second


@triton.jit
def _hat_along(weights, k, row, position, table_columns):
    """The weights along one axis of the columns k at some pixels of a tile, (pixels, columns)."""
    slope, offset = _numbers(weights, k, row, table_columns)
    zero, one = tl.zeros((1, 1), slope.dtype), tl.full((1, 1), 1, slope.dtype)
    return tl.maximum(one - tl.abs(tl.fma(position[:, None].to(slope.dtype), slope[None], offset[None])), zero)


@triton.jit
def _linear_weights(
    weights, k, tile_y, tile_x, planes, tiles_y, table_columns, TILE_Y: tl.constexpr, TILE_X: tl.constexpr
):
    """The weights along height and width, (pixels of the tile, columns k), in half precision if the table is."""
    r = tl.arange(0, TILE_Y * TILE_X)
    w = _hat_along(weights, k, planes + tiles_y + tile_x, r % TILE_X, table_columns)
    return w * _hat_along(weights, k, planes + tile_y, r // TILE_X, table_columns)


@triton.jit
def _values_of_columns(
    values, columns, weights, k, c, plane, tile_y, tile_x, planes, tiles_y, tiles_x, channels, table_columns,
    DIM: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """The channels c of the columns k, (columns, channels): of a cell, or in 3-D of two, interpolated along depth."""
    cell = tl.load(columns + (1 + plane) * table_columns + k)
    cell += tl.load(columns + (1 + planes + tile_y) * table_columns + k)
    cell += tl.load(columns + (1 + planes + tiles_y + tile_x) * table_columns + k)
    offsets = cell[:, None] * channels + c[None]
    mask = (c < channels)[None]
    v = tl.load(values + offsets, mask=mask, other=0)
    if DIM == 3:
        step = tl.load(columns + (1 + planes + tiles_y + tiles_x + plane) * table_columns + k)
        upper = tl.load(values + (offsets + step[:, None] * channels), mask=mask, other=0)
        of_lower, of_upper = _numbers(weights, k, plane, table_columns)
        if v.dtype != of_lower.dtype:
            v, upper = v.to(tl.float32), upper.to(tl.float32)
            of_lower, of_upper = of_lower.to(tl.float32), of_upper.to(tl.float32)
        v = tl.fma(upper, of_upper[:, None], v * of_lower[:, None])
        # as all features are in this dtype, so are the interpolated ones
        v = v.to(values.dtype.element_ty)
    return v.to(OPERAND)


@triton.jit
def _pick_columns(attention, n, feature, weights, PICK: tl.constexpr, PRECISION: tl.constexpr):
    """The attention to the features of some columns, (pixels, columns), in the dtype of the linear weights."""
    pick = (n[:, None] == feature[None]).to(PICK)
    if weights.dtype.element_ty == tl.int32:
        picked = tl.dot(attention, pick, out_dtype=tl.float16)
    else:
        picked = tl.dot(attention, pick, input_precision=PRECISION)
    return picked


@triton.jit
def _odd_columns_last(j):
    """The columns in a new order: in every group of eight, those with odd numbers come after the others."""
    return j // 8 * 8 + j % 4 * 2 + j % 8 // 4


@triton.jit
def _move_odd_columns_last(matrix):
    """A matrix with its columns in that order.

    On tensor cores, a thread has two columns of a result next to each other, and in the first operand of a product in
    float32 two that are four apart. In this order they are the same, so no data is exchanged between threads.
    """
    rows: tl.constexpr = matrix.shape[0]
    columns: tl.constexpr = matrix.shape[1]
    return tl.reshape(tl.permute(tl.reshape(matrix, (rows, columns // 8, 4, 2)), (0, 1, 3, 2)), (rows, columns))


@triton.jit
def _load_x(first, second, b, c, p, mask, width, channels, pixels):
    """The channels c of x from its two parts."""
    x = tl.load(first + b * width * pixels + c * pixels + p, mask=mask & (c < width), other=0)
    second += b * (channels - width) * pixels
    # one of the two is zero, so the sum is exact
    return (x + tl.load(second + (c - width) * pixels + p, mask=mask & (c >= width), other=0)).to(tl.float32)


@triton.jit(do_not_specialize=_TILE_ARGUMENTS)
def weighted_sum_kernel(
    values, full, first, second, attention, out, columns, weights, full_index,
    channels, width, num_columns, table_columns, num_full, num_values, num_cells, full_z, full_y, full_x,
    tiles_y, tiles_x, batch,
    DIM: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr, VALUES: tl.constexpr,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr, OPERAND: tl.constexpr, PICK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Eq. 8: the weighted sum. `num_columns` is a multiple of COLUMNS. Grid: (tiles, blocks of channels, B)."""
    pixels = full_z * full_y * full_x
    plane, tile_y, tile_x, p, inside = _pixels_of_tile(
        tl.program_id(0), full_y, full_x, tiles_y, tiles_x, TILE_Y, TILE_X
    )
    b = tl.program_id(2).to(tl.int64)
    n = tl.arange(0, VALUES)
    attention += b * num_values * pixels
    present = inside[:, None] & (n < num_values)[None]
    picked = tl.load(attention + (n[None] * pixels + p[:, None]), mask=present, other=0).to(PICK)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    values += b * num_cells * channels
    # x and the features of its size first: all loads that do not depend on others are under way together
    mask = inside[:, None] & (c < channels)[None]
    offsets = c[None] * pixels + p[:, None]
    alpha = tl.load(attention + (num_values - 1) * pixels + p, mask=inside, other=0)
    total = alpha[:, None] * _load_x(first, second, b, c[None], p[:, None], mask, width, channels, pixels)
    for i in range(num_full):
        alpha = tl.load(attention + tl.load(full_index + i) * pixels + p, mask=inside, other=0)
        sample = full + (i * batch + b) * channels * pixels
        total += alpha[:, None] * tl.load(sample + offsets, mask=mask, other=0).to(tl.float32)
    for begin in range(0, num_columns, COLUMNS):
        k = begin + tl.arange(0, COLUMNS)
        v = _values_of_columns(
            values, columns, weights, k, c, plane, tile_y, tile_x, full_z, tiles_y, tiles_x, channels, table_columns,
            DIM, OPERAND,
        )  # fmt: skip
        w = _pick_columns(picked, n, tl.load(columns + k), weights, PICK, PRECISION)
        w *= _linear_weights(weights, k, tile_y, tile_x, full_z, tiles_y, table_columns, TILE_Y, TILE_X)
        # as all features are in this dtype, so are the weights
        w = w.to(values.dtype.element_ty).to(OPERAND)
        total = tl.dot(w, v, total, input_precision=PRECISION)
    tl.store(out + b * channels * pixels + offsets, total.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=[*_TILE_ARGUMENTS, "first_tile"])
def sum_backward_kernel(
    values, attention, gate, grad_out, d_alpha, partial, columns, weights, is_interpolated,
    channels, num_columns, table_columns, num_values, num_cells, full_z, full_y, full_x, tiles_y, tiles_x, first_tile,
    DIM: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr, VALUES: tl.constexpr,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr, OPERAND: tl.constexpr, PICK: tl.constexpr, PRECISION: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """The gradients of Eq. 8: of the attention to interpolated features, and of the columns of a tile.

    `d_alpha` is (blocks of channels, B, K+1, pixels), what every block of channels contributes. `partial` is (B, tiles,
    columns, C): the gradient of a cell that several tiles read is the sum of several columns. The tiles begin with
    `first_tile`. Grid: (tiles, blocks of channels, B).
    """
    pixels = full_z * full_y * full_x
    plane, tile_y, tile_x, p, inside = _pixels_of_tile(
        first_tile + tl.program_id(0), full_y, full_x, tiles_y, tiles_x, TILE_Y, TILE_X
    )
    b = tl.program_id(2).to(tl.int64)
    n = tl.arange(0, VALUES)
    scalars = (b * num_values + n[None]) * pixels + p[:, None]
    alpha = tl.load(attention + scalars, mask=inside[:, None] & (n < num_values)[None], other=0)
    if GATED:
        alpha *= tl.load(gate)
    picked = alpha.to(PICK)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = inside[:, None] & (c < channels)[None]
    grad = tl.load(grad_out + b * channels * pixels + (c[None] * pixels + p[:, None]), mask=mask, other=0).to(OPERAND)
    values += b * num_cells * channels
    partial += (b * tl.num_programs(0) + tl.program_id(0)) * num_columns * channels
    d = tl.zeros((TILE_Y * TILE_X, VALUES), tl.float32)
    for begin in range(0, num_columns, COLUMNS):
        k = begin + tl.arange(0, COLUMNS)
        v = _values_of_columns(
            values, columns, weights, k, c, plane, tile_y, tile_x, full_z, tiles_y, tiles_x, channels, table_columns,
            DIM, OPERAND,
        )  # fmt: skip
        linear = _linear_weights(weights, k, tile_y, tile_x, full_z, tiles_y, table_columns, TILE_Y, TILE_X)
        interpolated = tl.dot(grad, tl.trans(v), input_precision=PRECISION) * linear.to(tl.float32)
        # the sum over the columns of every feature
        feature = tl.load(columns + begin + _odd_columns_last(tl.arange(0, COLUMNS)))
        sums = (feature[:, None] == n[None]).to(tl.float32)
        d = tl.dot(_move_odd_columns_last(interpolated), sums, d, input_precision=PRECISION)
        w = _pick_columns(picked, n, tl.load(columns + k), weights, PICK, PRECISION) * linear
        w = w.to(values.dtype.element_ty).to(OPERAND)
        d_column = tl.dot(tl.trans(w), grad, input_precision=PRECISION)
        tl.store(partial + k[:, None] * channels + c[None], d_column, mask=(c < channels)[None])
    block = tl.program_id(1).to(tl.int64) * tl.num_programs(2)
    present = tl.load(is_interpolated + n, mask=n < num_values, other=0) != 0
    tl.store(d_alpha + block * num_values * pixels + scalars, d, mask=inside[:, None] & present[None])


@triton.jit
def _attention_gradient(
    d_alpha, grad_attention, offsets, inside, pixels_of_samples, num_blocks, GRAD_ATTENTION: tl.constexpr,
):  # fmt: skip
    """The gradient of the attention to one value, from all blocks of channels and from the attention itself."""
    d = tl.load(d_alpha + offsets, mask=inside, other=0)
    for i in range(1, num_blocks):
        d += tl.load(d_alpha + i * pixels_of_samples + offsets, mask=inside, other=0)
    if GRAD_ATTENTION:
        d += tl.load(grad_attention + offsets, mask=inside, other=0)
    return d


@triton.jit(do_not_specialize=["num_values", "num_blocks"])
def scores_backward_kernel(
    products, rstd, attention, gate, d_alpha, grad_attention, d_gate, is_interpolated,
    channels, num_values, num_blocks, pixels,
    GRAD_ATTENTION: tl.constexpr, GATED: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """The gradients of Eqs. 6 and 7: that of q.V replaces `products`, and twice that of |V|^2 replaces `rstd`.

    `d_gate`, (B, blocks of pixels), is what the pixels contribute to the gradient of the gate. Of the values that are
    not interpolated, `d_alpha` has one block of channels. Grid: (blocks of pixels, B).
    """
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = p < pixels
    scalars = tl.program_id(1).to(tl.int64) * num_values * pixels + p
    pixels_of_samples = tl.num_programs(1).to(tl.int64) * num_values * pixels
    # the sum of alpha times its gradient over all values
    mean = tl.zeros((PIXELS,), tl.float32)
    d = tl.zeros((PIXELS,), tl.float32)
    for n in range(num_values):
        offsets = scalars + n * pixels
        blocks = tl.where(tl.load(is_interpolated + n) != 0, num_blocks, 1)
        d = _attention_gradient(d_alpha, grad_attention, offsets, inside, pixels_of_samples, blocks, GRAD_ATTENTION)
        mean += tl.load(attention + offsets, mask=inside, other=0) * d
    if GATED:
        # the last value is x
        total = tl.sum(tl.where(inside, mean - d, 0), 0)
        tl.store(d_gate + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), total)
    for n in range(num_values):
        offsets = scalars + n * pixels
        blocks = tl.where(tl.load(is_interpolated + n) != 0, num_blocks, 1)
        d = _attention_gradient(d_alpha, grad_attention, offsets, inside, pixels_of_samples, blocks, GRAD_ATTENTION)
        d_logit = tl.load(attention + offsets, mask=inside, other=0) * (d - mean)
        if GATED:
            d_logit *= tl.load(gate)
        product = tl.load(products + offsets, mask=inside, other=0)
        r = tl.load(rstd + offsets, mask=inside, other=0)
        d_product = d_logit * r
        tl.store(products + offsets, d_product, mask=inside)
        tl.store(rstd + offsets, -d_product * product * r * r / channels, mask=inside)


@triton.jit
def _value_gradient(
    value, d_value, grad_out, query, d_query, alpha, d_product, d_squared_norm, p, pixels, inside, channels, first,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Store the gradient of CHANNELS channels of a feature of the size of x: from Eq. 8, from q.V and from |V|^2.

    CHANNELS is a multiple of BLOCK.
    """
    for begin in range(first, tl.minimum(first + CHANNELS, channels), BLOCK):
        c = begin + tl.arange(0, BLOCK)
        mask = (c < channels)[:, None] & inside[None]
        offsets = c[:, None] * pixels + p[None]
        q = tl.load(query + c, mask=c < channels, other=0)
        grad = tl.load(grad_out + offsets, mask=mask, other=0).to(tl.float32)
        v = tl.load(value + offsets, mask=mask, other=0).to(tl.float32)
        gradient = alpha[None] * grad + d_product[None] * q[:, None] + d_squared_norm[None] * v
        tl.store(d_value + offsets, gradient.to(d_value.dtype.element_ty), mask=mask)
        tl.store(d_query + c, tl.sum(d_product[None] * v, 1), mask=c < channels)


@triton.jit(do_not_specialize=["num_full", "num_values", "batch"])
def full_backward_kernel(
    full, first, second, query, d_products, d_squared_norms, attention, gate, grad_out,
    d_full, d_first, d_second, d_query, full_index,
    channels, width, num_full, num_values, pixels, batch,
    GATED: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradients of x and of the features of its size. `d_full` may be `full`, `d_first` may be `first`.

    `d_query`, (B, blocks of pixels, 1 + num_full, C), is what they contribute to the gradient of the query.
    Grid: (blocks of pixels x groups of CHANNELS channels of both parts of x and of the features, B). The programs of a
    block of pixels follow each other, so that all features but one read `grad_out` from the cache.
    """
    groups_of_first, groups_of_second = tl.cdiv(width, CHANNELS), tl.cdiv(channels - width, CHANNELS)
    groups_of_x, groups_of_feature = groups_of_first + groups_of_second, tl.cdiv(channels, CHANNELS)
    groups = groups_of_x + num_full * groups_of_feature
    group, block = tl.program_id(0) % groups, tl.program_id(0) // groups
    p = block * PIXELS + tl.arange(0, PIXELS)
    b = tl.program_id(1).to(tl.int64)
    inside = p < pixels
    of_full = group - groups_of_x
    i = of_full // groups_of_feature
    n = num_values - 1
    if of_full >= 0:
        n = tl.load(full_index + i)
    offsets = (b * num_values + n) * pixels + p
    alpha = tl.load(attention + offsets, mask=inside, other=0)
    if GATED:
        g = tl.load(gate)
        alpha = g * alpha + tl.where(n == num_values - 1, 1 - g, 0)
    d_product = tl.load(d_products + offsets, mask=inside, other=0)
    d_squared_norm = tl.load(d_squared_norms + offsets, mask=inside, other=0)
    d_query += (b * tl.cdiv(pixels, PIXELS) + block) * (num_full + 1) * channels
    grad_out += b * channels * pixels
    if of_full >= 0:
        sample = (i * batch + b) * channels * pixels
        _value_gradient(
            full + sample, d_full + sample, grad_out, query, d_query + (1 + i) * channels,
            alpha, d_product, d_squared_norm, p, pixels, inside, channels,
            of_full % groups_of_feature * CHANNELS, BLOCK, CHANNELS,
        )  # fmt: skip
    elif group < groups_of_first:
        sample = b * width * pixels
        _value_gradient(
            first + sample, d_first + sample, grad_out, query, d_query,
            alpha, d_product, d_squared_norm, p, pixels, inside, width, group * CHANNELS, BLOCK, CHANNELS,
        )  # fmt: skip
    else:
        sample = b * (channels - width) * pixels
        _value_gradient(
            second + sample, d_second + sample, grad_out + width * pixels, query + width, d_query + width,
            alpha, d_product, d_squared_norm, p, pixels, inside, channels - width,
            (group - groups_of_first) * CHANNELS, BLOCK, CHANNELS,
        )  # fmt: skip


@triton.jit
def _transpose_maps(
    d_product, d_squared_norm, after, first, outer, length, target, inner, total_before, total_after,
    AXIS: tl.constexpr, OUTPUTS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """OUTPUTS results of the transpose of a feature along one axis, from `first` on, for WINDOW pixels at a time.

    The pixels are (outer, target, inner), the results (outer, length, inner).
    """
    j = first + tl.arange(0, OUTPUTS)
    is_result = j < outer * length * inner
    cell, i, o = j // inner % length, j % inner, j // (inner * length)
    # pixels below the lower neighbour's position have no weight
    start = tl.maximum(((2 * cell - 1) * target - length) // (2 * length), 0)
    for map in tl.static_range(AXIS):
        product = tl.zeros((OUTPUTS, WINDOW), tl.float32)
        own = tl.zeros((OUTPUTS, WINDOW), tl.float32)
        pair = tl.zeros((OUTPUTS, WINDOW), tl.float32)
        for w in range(0, 2 * target // length + 2, WINDOW):
            x = start[:, None] + w + tl.arange(0, WINDOW)[None]
            mask = is_result[:, None] & (x < target)
            offsets = (o[:, None] * target + x) * inner + i[:, None]
            weight, next_weight = _hats(x, cell[:, None], length, target)
            if map == 0:
                product += weight * tl.load(d_product + offsets, mask=mask, other=0)
            d = weight * tl.load(d_squared_norm + map * total_before + offsets, mask=mask, other=0)
            own += weight * d
            pair += next_weight * d
        if map == 0:
            tl.store(after + j, tl.sum(product, 1), mask=is_result)
        tl.store(after + (1 + map) * total_after + j, tl.sum(own, 1), mask=is_result)
        tl.store(after + (1 + AXIS + map) * total_after + j, tl.sum(pair, 1), mask=is_result)


@triton.jit(do_not_specialize=["num_values", "full_z", "full_y", "total_before", "total_after"])
def transpose_maps_kernel(
    d_products, d_squared_norms, before, after, features, blocks,
    full_z, full_y, full_x, total_before, total_after, num_values,
    AXIS: tl.constexpr, OUTPUTS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """The transpose of `_interpolate_maps` along one axis, for all interpolated features.

    AXIS is 1, 2 or 4, and the axes follow each other in this order. The maps before the first are `d_products` and
    `d_squared_norms`, (B, K+1, pixels). After an axis they are (B, 1 + 2 AXIS, total): the transpose of q.U(P), then
    for every set of the axes so far, what |U(P)|^2 has to do with the products of P with its neighbour along the axes
    in the set. The features follow each other in `total`. `blocks`, (programs, 2), has the feature and the first result
    of every program. Grid: (programs, B).
    """
    feature = features + tl.load(blocks + 2 * tl.program_id(0)) * FIELDS
    first = tl.load(blocks + 2 * tl.program_id(0) + 1)
    b = tl.program_id(1).to(tl.int64)
    size_y, size_x = tl.load(feature + 3), tl.load(feature + 4)
    if AXIS == 1:
        length, target, outer, inner = size_x, full_x, full_z * full_y, 1
        start_after = tl.load(feature + 7)
        pixels = full_z * full_y * full_x
        sample = (b * num_values + tl.load(feature)) * pixels
        d_product, d_squared_norm = d_products + sample, d_squared_norms + sample
    else:
        start_before = tl.load(feature + 7)
        if AXIS == 2:
            length, target, outer, inner = size_y, full_y, full_z, size_x
            start_after = tl.load(feature + 8)
        else:
            length, target, outer, inner = tl.load(feature + 2), full_z, 1, size_y * size_x
            start_before = tl.load(feature + 8)
            start_after = tl.load(feature + 1)
        d_product = before + b * (1 + AXIS) * total_before + start_before
        d_squared_norm = d_product + total_before
    after += b * (1 + 2 * AXIS) * total_after + start_after
    # Neighbouring threads have neighbouring results. Where their pixels are far apart, as those of small features along
    # the width, or where there are few results, they have neighbouring pixels of a result instead.
    if target <= WINDOW * length if AXIS == 1 else inner >= WINDOW:
        _transpose_maps(
            d_product, d_squared_norm, after, first, outer, length, target, inner, total_before, total_after,
            AXIS, OUTPUTS, 1,
        )  # fmt: skip
    else:
        _transpose_maps(
            d_product, d_squared_norm, after, first, outer, length, target, inner, total_before, total_after,
            AXIS, OUTPUTS, WINDOW,
        )  # fmt: skip


@triton.jit
def _sum_columns(
    partial, sums, is_new, features, feature_of_cell, readers,
    channels, num_cells, first_row, num_rows, plane_rows, full_z, first_cell, end_cell, first_item, end_item,
    DIM: tl.constexpr, CELLS: tl.constexpr, ITEMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the columns of CELLS cells from `first_cell` on, or up to `end_cell`, and store or add the sums.

    Of the readers of each cell, none before `first_item` and from `end_item` on are in these rows, and not all between.
    In 3-D, a column has the weight of the cell along the depth.
    """
    b = tl.program_id(2).to(tl.int64)
    c = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None]
    # every cell once for each item
    item = first_item + tl.arange(0, CELLS * ITEMS) % ITEMS
    cell = first_cell + tl.arange(0, CELLS * ITEMS) // ITEMS
    inside = cell < end_cell
    feature = features + tl.load(feature_of_cell + cell, mask=inside, other=0) * FIELDS
    count = tl.load(feature + 6)
    of_feature = cell - tl.load(feature + 1)
    readers += tl.load(feature + 5) + of_feature * count + item
    size_z = tl.load(feature + 2)
    z = of_feature // (tl.load(feature + 3) * tl.load(feature + 4))
    partial += b * num_rows * channels
    total = tl.zeros((CELLS * ITEMS, BLOCK), tl.float32)
    next_row = tl.load(readers, mask=inside & (item < count), other=-1)
    for begin in range(0, end_item - first_item, ITEMS):
        row = next_row - first_row
        # on its way while the columns are loaded
        following = begin + ITEMS
        next_row = tl.load(readers + following, mask=inside & (following + item < count), other=-1)
        exists = (row >= 0) & (row < num_rows)
        columns = partial + row.to(tl.int64)[:, None] * channels + c
        column = tl.load(columns, mask=exists[:, None] & (c < channels), other=0)
        if DIM == 3:
            weight, _ = _hats((first_row + row) // plane_rows, z, size_z, full_z)
            column *= weight[:, None]
        total += column
    total = tl.sum(tl.reshape(total, (CELLS, ITEMS, BLOCK)), 1)
    r = first_cell + tl.arange(0, CELLS)
    mask = (r < end_cell)[:, None] & (c < channels)
    sums += (b * num_cells + r)[:, None] * channels + c
    total += tl.load(sums, mask=mask & (is_new == 0), other=0)
    tl.store(sums, total, mask=mask)


@triton.jit(do_not_specialize=["num_cells", "first_row", "num_rows", "num_few", "plane_rows", "full_z"])
def sum_columns_kernel(
    partial, sums, blocks, features, feature_of_cell, readers,
    channels, num_cells, first_row, num_rows, num_few, plane_rows, full_z,
    DIM: tl.constexpr, CELLS: tl.constexpr, FEW_CELLS: tl.constexpr, ITEMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradients of Eq. 8 of the interpolated features, (B, cells, C): sums over the tiles that read a cell.

    A program has CELLS of the first `num_few` cells, which few tiles read, or FEW_CELLS of the others, ITEMS tiles at a
    time. `partial` has the columns of some tiles, (B, num_rows, C), of which `first_row` is the first. All tiles of a
    plane together have `plane_rows` columns. `blocks`, (programs, 4), has the number of a block of cells that these
    tiles read; 1 if no tiles before have read it, or 0 if the columns are added to what `sums` has; and the first and
    the end of the readers of its cells that are among these tiles. Grid: (programs, blocks of channels, B).
    """
    row = blocks + 4 * tl.program_id(0)
    block, is_new, first_item, end_item = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
    of_few = tl.cdiv(num_few, CELLS)
    if block < of_few:
        _sum_columns(
            partial, sums, is_new, features, feature_of_cell, readers, channels, num_cells, first_row, num_rows,
            plane_rows, full_z, block * CELLS, num_few, first_item, end_item, DIM, CELLS, 1, BLOCK,
        )  # fmt: skip
    else:
        _sum_columns(
            partial, sums, is_new, features, feature_of_cell, readers, channels, num_cells, first_row, num_rows,
            plane_rows, full_z, num_few + (block - of_few) * FEW_CELLS, num_cells, first_item, end_item,
            DIM, FEW_CELLS, ITEMS, BLOCK,
        )  # fmt: skip


@triton.jit(do_not_specialize=["num_cells"])
def values_backward_kernel(
    sums, values, d_maps, query, d_values, d_query, features, feature_of_cell, channels, num_cells,
    DIM: tl.constexpr, CELLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradients of the interpolated features: what comes from Eq. 8 (`sums`), from q.V and from |V|^2.

    `d_query`, (B, blocks of cells, C), is what these features contribute to the gradient of the query.
    Grid: (blocks of cells, blocks of channels, B).
    """
    r = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    b = tl.program_id(2).to(tl.int64)
    c = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None]
    inside = r < num_cells
    mask = inside[:, None] & (c < channels)
    row = tl.load(feature_of_cell + r, mask=inside, other=0)
    size_z, size_y, size_x, start = _size_and_start(features, row)
    x, y, z = (r - start) % size_x, (r - start) // size_x % size_y, (r - start) // (size_x * size_y)
    offsets = r[:, None] * channels + c
    sample = b * num_cells * channels
    values += sample
    d_maps += b * (1 + (4 if DIM == 2 else 8)) * num_cells
    total = tl.load(sums + sample + offsets, mask=mask, other=0)
    d_product = tl.load(d_maps + r, mask=inside, other=0)[:, None]
    total += d_product * tl.load(query + c, mask=c < channels, other=0)
    for step_z in tl.static_range(-1 if DIM == 3 else 0, 2 if DIM == 3 else 1):
        for step_y in tl.static_range(-1, 2):
            for step_x in tl.static_range(-1, 2):
                map = 1 + (1 if step_x else 0) + (2 if step_y else 0) + (4 if step_z else 0)
                exists = inside & (x + step_x >= 0) & (x + step_x < size_x)
                exists &= (y + step_y >= 0) & (y + step_y < size_y)
                exists &= (z + step_z >= 0) & (z + step_z < size_z)
                neighbour = r + (step_z * size_y + step_y) * size_x + step_x
                lower = r + (min(step_z, 0) * size_y + min(step_y, 0)) * size_x + min(step_x, 0)
                pair = tl.load(d_maps + map * num_cells + lower, mask=exists, other=0)
                v = tl.load(values + neighbour[:, None] * channels + c, mask=mask & exists[:, None], other=0)
                total += pair[:, None] * v.to(tl.float32)
    v = tl.load(values + offsets, mask=mask, other=0).to(tl.float32)
    d_query += (b * tl.num_programs(0) + tl.program_id(0)) * channels
    tl.store(d_query + c, tl.sum(d_product * v, 0)[None], mask=c < channels)
    tl.store(d_values + sample + offsets, total.to(d_values.dtype.element_ty), mask=mask)
