"""The Triton kernels of `triton_backend.py`. Feature maps are (B, C, D, H, W) and contiguous; in 2-D, D is 1.

The K features of the history are called entries. They follow each other in one buffer, those that are interpolated
first. `table` describes every entry in a row of COLUMNS integers: its offset in the buffer, the offset of its scalar
maps, its D, H and W, and its column in the attention. A loop over the rows of the table serves any history, and the
kernels stay small.

AXES, `axes` and `corner` are sets of axes as bits: 1 is the width, 2 the height, 4 the depth. A tile is
(pixels, channels). Scalars per pixel and entry are (pixels, ENTRIES), where ENTRIES is a power of two and x follows the
K entries. x comes in two parts, `first` with WIDTH channels and `second` with the others, if any. All sums are in ACC,
float32 or float64, and in a fixed order.

Among the arguments, b is the index of the sample, c are the channels and p the pixels of the tile, and `inside` is the
mask of the pixels that are in the image.
"""

import triton
import triton.language as tl

COLUMNS = tl.constexpr(6)


@triton.jit
def _tap(position, length, target, ACC: tl.constexpr):
    """The lower neighbour of a position along an axis that is interpolated from `length` to `target`, and the distance.

    The position is an integer fraction up to the last division, so that it is never rounded to another neighbour.
    """
    numerator = (2 * position + 1) * length - target  # of the position in units of the lower resolution, times 2 target
    numerator = tl.minimum(tl.maximum(numerator, 0), 2 * target * (length - 1))
    lower = tl.minimum(numerator // (2 * target), tl.maximum(length - 2, 0))
    return lower, (numerator - 2 * target * lower).to(ACC) / (2 * target)


@triton.jit
def _taps(z, y, x, size_z, size_y, size_x, full_z, full_y, full_x, AXES: tl.constexpr, ACC: tl.constexpr):
    """`_tap` along the three axes. Along an axis that is not in AXES, the position itself and a distance of 0."""
    lower_z, fraction_z = z, tl.zeros_like(z).to(ACC)
    lower_y, fraction_y = y, tl.zeros_like(y).to(ACC)
    lower_x, fraction_x = x, tl.zeros_like(x).to(ACC)
    if AXES & 4:
        lower_z, fraction_z = _tap(z, size_z, full_z, ACC)
    if AXES & 2:
        lower_y, fraction_y = _tap(y, size_y, full_y, ACC)
    if AXES & 1:
        lower_x, fraction_x = _tap(x, size_x, full_x, ACC)
    return lower_z, fraction_z, lower_y, fraction_y, lower_x, fraction_x


@triton.jit
def _corner_index(z, y, x, size_z, size_y, size_x, CORNER: tl.constexpr):
    """The index of a corner of the cell at (z, y, x), clamped to the last index along every axis."""
    z = tl.minimum(z + CORNER // 4, size_z - 1)
    y = tl.minimum(y + CORNER // 2 % 2, size_y - 1)
    x = tl.minimum(x + CORNER % 2, size_x - 1)
    return (z * size_y + y) * size_x + x


@triton.jit
def _corner_weight(fraction_z, fraction_y, fraction_x, CORNER: tl.constexpr, AXES: tl.constexpr, ACC: tl.constexpr):
    """The weight of a corner of a cell in linear interpolation along AXES."""
    weight = tl.full(fraction_x.shape, 1, ACC)
    if AXES & 4:
        weight *= fraction_z if CORNER & 4 else 1 - fraction_z
    if AXES & 2:
        weight *= fraction_y if CORNER & 2 else 1 - fraction_y
    if AXES & 1:
        weight *= fraction_x if CORNER & 1 else 1 - fraction_x
    return weight


@triton.jit
def _difference_sign(MINUS: tl.constexpr):
    """-1 for an odd number of bits, else 1: the sign of a corner in a difference of neighbours along several axes."""
    return 1 - 2 * ((MINUS // 4 + MINUS // 2 + MINUS) % 2)


@triton.jit
def _interpolate(
    values, row, z, y, x, full_z, full_y, full_x, b, c, mask,
    CHANNELS: tl.constexpr, AXES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """U(P), (pixels, channels), of the entry in a row of the table, for the channels `c` of sample `b`."""
    size_z, size_y, size_x = tl.load(row + 2).to(tl.int32), tl.load(row + 3).to(tl.int32), tl.load(row + 4).to(tl.int32)
    size = size_z * size_y * size_x
    lower_z, fraction_z, lower_y, fraction_y, lower_x, fraction_x = _taps(
        z, y, x, size_z, size_y, size_x, full_z, full_y, full_x, AXES, ACC
    )
    sample = values + tl.load(row) + b * CHANNELS * size
    tile = tl.zeros(mask.shape, ACC)
    for corner in tl.static_range(8):
        if (corner & AXES) == corner:
            offsets = c[None] * size + _corner_index(lower_z, lower_y, lower_x, size_z, size_y, size_x, corner)[:, None]
            weight = _corner_weight(fraction_z, fraction_y, fraction_x, corner, AXES, ACC)
            tile += weight[:, None] * tl.load(sample + offsets, mask=mask, other=0).to(ACC)
    return tile


@triton.jit
def _interpolate_maps(maps, row, z, y, x, full_z, full_y, full_x, b, inside, AXES: tl.constexpr, ACC: tl.constexpr):
    """q.U(P) and |U(P)|^2 of an entry, from its scalar maps.

    Between neighbours u and v, |(1-a) u + a v|^2 = (1-a) |u|^2 + a |v|^2 - a (1-a) |v - u|^2, along axis after axis.
    """
    size_z, size_y, size_x = tl.load(row + 2).to(tl.int32), tl.load(row + 3).to(tl.int32), tl.load(row + 4).to(tl.int32)
    size = size_z * size_y * size_x
    lower_z, fraction_z, lower_y, fraction_y, lower_x, fraction_x = _taps(
        z, y, x, size_z, size_y, size_x, full_z, full_y, full_x, AXES, ACC
    )
    sample = maps + tl.load(row + 1) + b * 9 * size
    squared_norm = tl.zeros(fraction_x.shape, ACC)
    product = tl.zeros(fraction_x.shape, ACC)
    for axes in tl.static_range(8):
        if (axes & AXES) == axes:
            curvature_weight = tl.full(fraction_x.shape, 1, ACC)
            if axes & 4:
                curvature_weight *= fraction_z * (fraction_z - 1)
            if axes & 2:
                curvature_weight *= fraction_y * (fraction_y - 1)
            if axes & 1:
                curvature_weight *= fraction_x * (fraction_x - 1)
            for corner in tl.static_range(8):
                if (corner & AXES & ~axes) == corner:
                    weight = curvature_weight * _corner_weight(
                        fraction_z, fraction_y, fraction_x, corner, AXES & ~axes, ACC
                    )
                    offsets = _corner_index(lower_z, lower_y, lower_x, size_z, size_y, size_x, corner)
                    squared_norm += weight * tl.load(sample + axes * size + offsets, mask=inside, other=0)
                    if axes == 0:
                        product += weight * tl.load(sample + 8 * size + offsets, mask=inside, other=0)
    # rounding may make a squared norm negative
    return product, tl.maximum(squared_norm, 0)


@triton.jit
def maps_kernel(
    values, query, maps, table,
    CHANNELS: tl.constexpr, AXES: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The nine scalar maps of every interpolated entry at its own resolution, (B, 9, *S_n).

    Map b < 8 is |d_b P|^2, where d_b is the difference of neighbours along the axes in the bits of b. Map 8 is q.P.
    Grid: (tiles of the largest entry, B, interpolated entries).
    """
    row = table + tl.program_id(2) * COLUMNS
    size_z, size_y, size_x = tl.load(row + 2).to(tl.int32), tl.load(row + 3).to(tl.int32), tl.load(row + 4).to(tl.int32)
    size = size_z * size_y * size_x
    if tl.program_id(0) * PIXELS < size:
        p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
        b = tl.program_id(1).to(tl.int64)
        inside = p < size
        z, y, x = p // (size_y * size_x), p // size_x % size_y, p % size_x
        values += tl.load(row) + b * CHANNELS * size
        maps += tl.load(row + 1) + b * 9 * size
        for axes in tl.static_range(8):
            if (axes & AXES) == axes:
                squared_norm = tl.zeros((PIXELS,), ACC)
                product = tl.zeros((PIXELS,), ACC)
                for begin in range(0, CHANNELS, BLOCK):
                    c = begin + tl.arange(0, BLOCK)
                    mask = inside[:, None] & (c < CHANNELS)[None]
                    tile = tl.zeros((PIXELS, BLOCK), ACC)
                    for corner in tl.static_range(8):
                        if (corner & axes) == corner:
                            offsets = c[None] * size + _corner_index(z, y, x, size_z, size_y, size_x, corner)[:, None]
                            tile += _difference_sign(axes ^ corner) * tl.load(values + offsets, mask=mask, other=0).to(
                                ACC
                            )
                    squared_norm += tl.sum(tile * tile, 1)
                    if axes == 0:
                        q = tl.load(query + c, mask=c < CHANNELS, other=0).to(ACC)
                        product += tl.sum(tile * q[None], 1)
                tl.store(maps + axes * size + p, squared_norm, mask=inside)
                if axes == 0:
                    tl.store(maps + 8 * size + p, product, mask=inside)


@triton.jit
def _product_and_squared_norm(
    feature, query, p, pixels, inside,
    WIDTH: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """q.V and |V|^2 of a feature at full resolution, each (pixels,)."""
    product = tl.zeros((PIXELS,), ACC)
    squared_norm = tl.zeros((PIXELS,), ACC)
    for begin in range(0, WIDTH, BLOCK):
        c = begin + tl.arange(0, BLOCK)
        tile = tl.load(feature + (c[None] * pixels + p[:, None]), mask=inside[:, None] & (c < WIDTH)[None], other=0)
        tile = tile.to(ACC)
        product += tl.sum(tile * tl.load(query + c, mask=c < WIDTH, other=0).to(ACC)[None], 1)
        squared_norm += tl.sum(tile * tile, 1)
    return product, squared_norm


@triton.jit
def _scores(
    values, maps, first, second, query, table, num_interpolated, num_entries, full_z, full_y, full_x, b, p, inside, eps,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, AXES: tl.constexpr, ENTRIES: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Eqs. 6 and 7: q.V, 1 / RMS(V) and the attention, each (pixels, ENTRIES)."""
    pixels = full_z * full_y * full_x
    z, y, x = p // (full_y * full_x), p // full_x % full_y, p % full_x
    column = tl.arange(0, ENTRIES)[None]
    products = tl.zeros((PIXELS, ENTRIES), ACC)
    squared_norms = tl.zeros((PIXELS, ENTRIES), ACC)
    for n in range(0, num_interpolated):
        row = table + n * COLUMNS
        product, squared_norm = _interpolate_maps(maps, row, z, y, x, full_z, full_y, full_x, b, inside, AXES, ACC)
        is_column = column == tl.load(row + 5).to(tl.int32)
        products = tl.where(is_column, product[:, None], products)
        squared_norms = tl.where(is_column, squared_norm[:, None], squared_norms)
    for n in range(num_interpolated, num_entries):
        row = table + n * COLUMNS
        sample = values + tl.load(row) + b * CHANNELS * pixels
        product, squared_norm = _product_and_squared_norm(
            sample, query, p, pixels, inside, CHANNELS, PIXELS, BLOCK, ACC
        )
        is_column = column == tl.load(row + 5).to(tl.int32)
        products = tl.where(is_column, product[:, None], products)
        squared_norms = tl.where(is_column, squared_norm[:, None], squared_norms)
    sample = first + b * WIDTH * pixels
    product, squared_norm = _product_and_squared_norm(sample, query, p, pixels, inside, WIDTH, PIXELS, BLOCK, ACC)
    if WIDTH < CHANNELS:
        sample = second + b * (CHANNELS - WIDTH) * pixels
        second_product, second_squared_norm = _product_and_squared_norm(
            sample, query + WIDTH, p, pixels, inside, CHANNELS - WIDTH, PIXELS, BLOCK, ACC
        )
        product += second_product
        squared_norm += second_squared_norm
    products = tl.where(column == num_entries, product[:, None], products)
    squared_norms = tl.where(column == num_entries, squared_norm[:, None], squared_norms)
    rstd = tl.rsqrt(squared_norms / CHANNELS + eps)
    logits = tl.where(column <= num_entries, products * rstd, float("-inf"))
    alpha = tl.exp(logits - tl.max(logits, 1)[:, None])
    return products, rstd, alpha / tl.sum(alpha, 1)[:, None]


@triton.jit
def _select_column(scalars, n, ENTRIES: tl.constexpr):
    """Column n of (pixels, ENTRIES), as (pixels, 1)."""
    return tl.sum(tl.where(tl.arange(0, ENTRIES)[None] == n, scalars, 0), 1)[:, None]


@triton.jit
def _sum_values(
    part, values, out, table, alpha, num_interpolated, num_entries, z, y, x, full_z, full_y, full_x, b, p, inside,
    WIDTH: tl.constexpr, OFFSET: tl.constexpr, CHANNELS: tl.constexpr, AXES: tl.constexpr, ENTRIES: tl.constexpr,
    BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Eq. 8 for one part of x."""
    pixels = full_z * full_y * full_x
    for begin in range(0, WIDTH, BLOCK):
        c = begin + tl.arange(0, BLOCK)
        mask = inside[:, None] & (c < WIDTH)[None]
        offsets = c[None] * pixels + p[:, None]
        tile = tl.load(part + b * WIDTH * pixels + offsets, mask=mask, other=0).to(ACC) * _select_column(
            alpha, num_entries, ENTRIES
        )
        for n in range(0, num_interpolated):
            row = table + n * COLUMNS
            value = _interpolate(values, row, z, y, x, full_z, full_y, full_x, b, OFFSET + c, mask, CHANNELS, AXES, ACC)
            tile += _select_column(alpha, tl.load(row + 5).to(tl.int32), ENTRIES) * value
        for n in range(num_interpolated, num_entries):
            row = table + n * COLUMNS
            sample = values + tl.load(row) + (b * CHANNELS + OFFSET) * pixels
            value = tl.load(sample + offsets, mask=mask, other=0).to(ACC)
            tile += _select_column(alpha, tl.load(row + 5).to(tl.int32), ENTRIES) * value
        tl.store(out + (b * CHANNELS + OFFSET) * pixels + offsets, tile.to(out.dtype.element_ty), mask=mask)


@triton.jit
def forward_kernel(
    values, maps, first, second, query, table,
    num_interpolated, num_entries, full_z, full_y, full_x, eps, out, attention,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, AXES: tl.constexpr, ENTRIES: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Eqs. 6-8, with x read from its two parts. Grid: (tiles of pixels, B)."""
    pixels = full_z * full_y * full_x
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    b = tl.program_id(1).to(tl.int64)
    inside = p < pixels
    z, y, x = p // (full_y * full_x), p // full_x % full_y, p % full_x
    _, _, alpha = _scores(
        values, maps, first, second, query, table,
        num_interpolated, num_entries, full_z, full_y, full_x, b, p, inside, eps,
        CHANNELS, WIDTH, AXES, ENTRIES, PIXELS, BLOCK, ACC,
    )  # fmt: skip
    column = tl.arange(0, ENTRIES)[None]
    offsets = (b * (num_entries + 1) + column) * pixels + p[:, None]
    tl.store(attention + offsets, alpha, mask=inside[:, None] & (column <= num_entries))
    _sum_values(
        first, values, out, table, alpha, num_interpolated, num_entries, z, y, x, full_z, full_y, full_x, b, p, inside,
        WIDTH, 0, CHANNELS, AXES, ENTRIES, BLOCK, ACC,
    )  # fmt: skip
    if WIDTH < CHANNELS:
        _sum_values(
            second, values, out, table, alpha,
            num_interpolated, num_entries, z, y, x, full_z, full_y, full_x, b, p, inside,
            CHANNELS - WIDTH, WIDTH, CHANNELS, AXES, ENTRIES, BLOCK, ACC,
        )  # fmt: skip


@triton.jit
def _attention_gradient(
    part, values, grad_out, table, num_interpolated, num_entries, z, y, x, full_z, full_y, full_x, b, p, inside,
    WIDTH: tl.constexpr, OFFSET: tl.constexpr, CHANNELS: tl.constexpr, AXES: tl.constexpr, ENTRIES: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The gradient of alpha by Eq. 8 from the channels of one part of x, (pixels, ENTRIES)."""
    pixels = full_z * full_y * full_x
    column = tl.arange(0, ENTRIES)[None]
    d_alpha = tl.zeros((PIXELS, ENTRIES), ACC)
    for begin in range(0, WIDTH, BLOCK):
        c = begin + tl.arange(0, BLOCK)
        mask = inside[:, None] & (c < WIDTH)[None]
        offsets = c[None] * pixels + p[:, None]
        grad = tl.load(grad_out + (b * CHANNELS + OFFSET) * pixels + offsets, mask=mask, other=0).to(ACC)
        value = tl.load(part + b * WIDTH * pixels + offsets, mask=mask, other=0).to(ACC)
        d_alpha += tl.where(column == num_entries, tl.sum(grad * value, 1)[:, None], 0)
        for n in range(0, num_interpolated):
            row = table + n * COLUMNS
            value = _interpolate(values, row, z, y, x, full_z, full_y, full_x, b, OFFSET + c, mask, CHANNELS, AXES, ACC)
            d_alpha += tl.where(column == tl.load(row + 5).to(tl.int32), tl.sum(grad * value, 1)[:, None], 0)
        for n in range(num_interpolated, num_entries):
            row = table + n * COLUMNS
            sample = values + tl.load(row) + (b * CHANNELS + OFFSET) * pixels
            value = tl.load(sample + offsets, mask=mask, other=0).to(ACC)
            d_alpha += tl.where(column == tl.load(row + 5).to(tl.int32), tl.sum(grad * value, 1)[:, None], 0)
    return d_alpha


@triton.jit
def _value_gradients(
    part, d_part, values, d_values, grad_out, query, d_query, table, alpha, d_product, d_squared_norm,
    num_interpolated, num_entries, pixels, b, p, inside,
    WIDTH: tl.constexpr, OFFSET: tl.constexpr, CHANNELS: tl.constexpr, ENTRIES: tl.constexpr, GRAD_OUT: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Store the gradients of one part of x and, in the same channels, of the entries at full resolution.

    Each is the sum of what comes from Eq. 8, from q.V and from |V|^2. What these values contribute to the gradient of
    the query is stored as well.
    """
    for begin in range(0, WIDTH, BLOCK):
        c = begin + tl.arange(0, BLOCK)
        mask = inside[:, None] & (c < WIDTH)[None]
        offsets = c[None] * pixels + p[:, None]
        q = tl.load(query + OFFSET + c, mask=c < WIDTH, other=0).to(ACC)
        grad = tl.zeros((PIXELS, BLOCK), ACC)
        if GRAD_OUT:
            grad = tl.load(grad_out + (b * CHANNELS + OFFSET) * pixels + offsets, mask=mask, other=0).to(ACC)
        value = tl.load(part + b * WIDTH * pixels + offsets, mask=mask, other=0).to(ACC)
        d_own_product = _select_column(d_product, num_entries, ENTRIES)
        gradient = _select_column(alpha, num_entries, ENTRIES) * grad + d_own_product * q[None]
        gradient += _select_column(d_squared_norm, num_entries, ENTRIES) * value
        tl.store(d_part + b * WIDTH * pixels + offsets, gradient.to(d_part.dtype.element_ty), mask=mask)
        query_gradient = tl.sum(d_own_product * value, 0)
        for n in range(num_interpolated, num_entries):
            row = table + n * COLUMNS
            column = tl.load(row + 5).to(tl.int32)
            start = tl.load(row) + (b * CHANNELS + OFFSET) * pixels
            value = tl.load(values + start + offsets, mask=mask, other=0).to(ACC)
            d_own_product = _select_column(d_product, column, ENTRIES)
            gradient = (
                _select_column(alpha, column, ENTRIES) * grad
                + d_own_product * q[None]
                + _select_column(d_squared_norm, column, ENTRIES) * value
            )
            tl.store(d_values + start + offsets, gradient.to(d_values.dtype.element_ty), mask=mask)
            query_gradient += tl.sum(d_own_product * value, 0)
        tl.store(d_query + OFFSET + c, query_gradient, mask=c < WIDTH)


@triton.jit
def backward_kernel(
    values, maps, first, second, query, table, num_interpolated, num_entries, full_z, full_y, full_x, eps,
    grad_out, grad_attention, d_values, d_first, d_second, d_query, alphas, d_products, d_squared_norms,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, AXES: tl.constexpr, ENTRIES: tl.constexpr,
    GRAD_OUT: tl.constexpr, GRAD_ATTENTION: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The part of the backward pass at full resolution. Grid: (tiles of pixels, B).

    Stores the complete gradients of x and of the entries at full resolution; what these contribute to the gradient of
    the query, one row per program; and for the interpolated entries the attention, the gradient of q.V and twice the
    gradient of |V|^2, each (B, K+1, pixels).
    """
    pixels = full_z * full_y * full_x
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    b = tl.program_id(1).to(tl.int64)
    inside = p < pixels
    z, y, x = p // (full_y * full_x), p // full_x % full_y, p % full_x
    column = tl.arange(0, ENTRIES)[None]
    products, rstd, alpha = _scores(
        values, maps, first, second, query, table,
        num_interpolated, num_entries, full_z, full_y, full_x, b, p, inside, eps,
        CHANNELS, WIDTH, AXES, ENTRIES, PIXELS, BLOCK, ACC,
    )  # fmt: skip
    offsets = (b * (num_entries + 1) + column) * pixels + p[:, None]
    present = inside[:, None] & (column <= num_entries)
    # Eq. 8
    d_alpha = tl.zeros((PIXELS, ENTRIES), ACC)
    if GRAD_ATTENTION:
        d_alpha += tl.load(grad_attention + offsets, mask=present, other=0).to(ACC)
    if GRAD_OUT:
        d_alpha += _attention_gradient(
            first, values, grad_out, table,
            num_interpolated, num_entries, z, y, x, full_z, full_y, full_x, b, p, inside,
            WIDTH, 0, CHANNELS, AXES, ENTRIES, PIXELS, BLOCK, ACC,
        )  # fmt: skip
        if WIDTH < CHANNELS:
            d_alpha += _attention_gradient(
                second, values, grad_out, table,
                num_interpolated, num_entries, z, y, x, full_z, full_y, full_x, b, p, inside,
                CHANNELS - WIDTH, WIDTH, CHANNELS, AXES, ENTRIES, PIXELS, BLOCK, ACC,
            )  # fmt: skip
    # Eqs. 7 and 6; outside of the image, rstd is infinite if eps is zero
    rstd = tl.where(present, rstd, 0)
    d_product = alpha * (d_alpha - tl.sum(alpha * d_alpha, 1)[:, None]) * rstd
    d_squared_norm = -d_product * products * rstd * rstd / CHANNELS
    tl.store(alphas + offsets, alpha, mask=present)
    tl.store(d_products + offsets, d_product, mask=present)
    tl.store(d_squared_norms + offsets, d_squared_norm, mask=present)
    d_query += (b * tl.num_programs(0) + tl.program_id(0)) * CHANNELS
    _value_gradients(
        first, d_first, values, d_values, grad_out, query, d_query, table, alpha, d_product, d_squared_norm,
        num_interpolated, num_entries, pixels, b, p, inside, WIDTH, 0, CHANNELS, ENTRIES, GRAD_OUT, PIXELS, BLOCK, ACC,
    )  # fmt: skip
    if WIDTH < CHANNELS:
        _value_gradients(
            second, d_second, values, d_values, grad_out, query, d_query, table, alpha, d_product, d_squared_norm,
            num_interpolated, num_entries, pixels, b, p, inside,
            CHANNELS - WIDTH, WIDTH, CHANNELS, ENTRIES, GRAD_OUT, PIXELS, BLOCK, ACC,
        )  # fmt: skip


@triton.jit
def _first_position(cell, length, target):
    """The first position on the axis of `target` elements that is above cell - 1 on the axis of `length` elements."""
    # `target` is added inside the quotient and subtracted again: Triton's compiler and interpreter may round a negative
    # quotient differently
    return (2 * target * (cell - 1) + target - length + 2 * length * target) // (2 * length) - target + 1


@triton.jit
def rows_kernel(
    grad_out, alphas, row_gradients, table, first_entry, end_entry, num_entries, rows, width,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, CELLS: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """The transpose of the interpolation along rows of alpha_n grad, from (B, C, rows, width) to (B, C, rows, W_n).

    The entries are those in the rows first_entry, ..., end_entry - 1 of the table; their results follow each other in
    `row_gradients`. Each is a product with a banded matrix. Grid: (rows, tiles of channels, B).
    """
    r = tl.program_id(0)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    b = tl.program_id(2).to(tl.int64)
    batch = tl.num_programs(2)
    grad_out += b * CHANNELS * rows * width
    for n in range(first_entry, end_entry):
        row = table + n * COLUMNS
        length = tl.load(row + 4).to(tl.int32)
        sample = row_gradients + b * CHANNELS * rows * length
        weights = alphas + ((b * (num_entries + 1) + tl.load(row + 5)) * rows + r) * width
        for begin in range(0, length, CELLS):
            cell = begin + tl.arange(0, CELLS)
            tile = tl.zeros((BLOCK, CELLS), ACC)
            start = tl.maximum(_first_position(begin, length, width), 0)
            stop = tl.minimum(_first_position(begin + CELLS + 1, length, width), width)
            for begin_x in range(start, stop, STEP):
                x = begin_x + tl.arange(0, STEP)
                offsets = (c[:, None] * rows + r) * width + x[None]
                grad = tl.load(grad_out + offsets, mask=(c < CHANNELS)[:, None] & (x < stop)[None], other=0)
                alpha = tl.load(weights + x, mask=x < stop, other=0)
                lower, fraction = _tap(x, length, width, ACC)
                linear_weight = tl.where(lower[:, None] == cell[None], 1 - fraction[:, None], 0)
                linear_weight += tl.where(lower[:, None] + 1 == cell[None], fraction[:, None], 0)
                weight = alpha[:, None] * linear_weight
                if tl.float64 == ACC:  # not every version of Triton has tl.dot in float64
                    tile += tl.sum(grad[:, :, None] * weight[None], 1)
                else:
                    tile += tl.dot(grad.to(ACC), weight, input_precision=PRECISION, out_dtype=ACC)
            offsets = (c[:, None] * rows + r) * length + cell[None]
            tl.store(sample + offsets, tile, mask=(c < CHANNELS)[:, None] & (cell < length)[None])
        row_gradients += batch.to(tl.int64) * CHANNELS * rows * length


@triton.jit
def finish_kernel(
    value, row_gradients, d_product, d_pairs, query, d_value, size_z, size_y, size_x,
    CHANNELS: tl.constexpr, AXES: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The gradient of an interpolated entry: the sum of what comes from Eq. 8, from q.V and from |V|^2.

    `d_pairs` (B, 3 D, 3 H, 3 W), with the factor 3 only along AXES, has at index i + (j + 1) length along an axis the
    gradient of the product of P at i and at its neighbour i + j, for j = -1, 0, 1. Grid: (tiles of pixels, tiles of
    channels, B).
    """
    pixels = size_z * size_y * size_x
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    b = tl.program_id(2).to(tl.int64)
    inside = p < pixels
    mask = inside[:, None] & (c < CHANNELS)[None]
    z, y, x = p // (size_y * size_x), p // size_x % size_y, p % size_x
    pairs_z: tl.constexpr = 3 if AXES & 4 else 1
    pairs_y: tl.constexpr = 3 if AXES & 2 else 1
    pairs_x: tl.constexpr = 3 if AXES & 1 else 1
    sample = b * CHANNELS * pixels
    q = tl.load(query + c, mask=c < CHANNELS, other=0).to(ACC)
    offsets = c[None] * pixels + p[:, None]
    tile = tl.load(row_gradients + sample + offsets, mask=mask, other=0).to(ACC)
    tile += tl.load(d_product + b * pixels + p, mask=inside, other=0)[:, None] * q[None]
    d_pairs += b * (pairs_z * pairs_y * pairs_x) * pixels
    for k_z in range(pairs_z):
        for k_y in range(pairs_y):
            for k_x in range(pairs_x):
                neighbour_z, neighbour_y, neighbour_x = (
                    z + k_z - pairs_z // 2,
                    y + k_y - pairs_y // 2,
                    x + k_x - pairs_x // 2,
                )
                in_bounds = (
                    (neighbour_z >= 0)
                    & (neighbour_z < size_z)
                    & (neighbour_y >= 0)
                    & (neighbour_y < size_y)
                    & (neighbour_x >= 0)
                    & (neighbour_x < size_x)
                )
                pair = ((k_z * size_z + z) * pairs_y * size_y + k_y * size_y + y) * pairs_x * size_x + k_x * size_x + x
                pair = tl.load(d_pairs + pair, mask=inside & in_bounds, other=0)
                neighbour_offsets = (
                    c[None] * pixels + ((neighbour_z * size_y + neighbour_y) * size_x + neighbour_x)[:, None]
                )
                neighbour = tl.load(value + sample + neighbour_offsets, mask=mask & in_bounds[:, None], other=0).to(ACC)
                tile += pair[:, None] * neighbour
    tl.store(d_value + sample + offsets, tile.to(d_value.dtype.element_ty), mask=mask)
