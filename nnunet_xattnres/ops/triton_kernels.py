"""The Triton kernels of `triton_backend.py`. Feature maps are (B, C, D, H, W), contiguous; in 2-D the depth is one.

Entries lie one behind the other in one buffer, those that are interpolated first, and `table` says of each, in a row of
COLUMNS integers: where it begins, where its scalar maps begin, its D, H and W, and which column of the attention it
is. So one short loop serves any history, and a kernel stays small. `axes`, `corner` and AXES count axes by bits
(1 width, 2 height, 4 depth). A tile is (pixels, channels); what belongs to an entry and a pixel is (pixels, ENTRIES),
ENTRIES a power of two, x behind the K entries. x comes in two parts, `first` of WIDTH channels and `second` of the
rest, if any. Sums are taken in ACC, float32 or float64, in a fixed order.
"""

import triton
import triton.language as tl

COLUMNS = tl.constexpr(6)


@triton.jit
def _tap(position, length, target, ACC: tl.constexpr):
    """Lower neighbour, and distance to it, of a position on an axis that grows from `length` to `target`, exactly."""
    place = (2 * position + 1) * length - target
    place = tl.minimum(tl.maximum(place, 0), 2 * target * (length - 1))
    low = tl.minimum(place // (2 * target), tl.maximum(length - 2, 0))
    return low, (place - 2 * target * low).to(ACC) / (2 * target)


@triton.jit
def _taps(z, y, x, size_z, size_y, size_x, full_z, full_y, full_x, AXES: tl.constexpr, ACC: tl.constexpr):
    """`_tap` along the three axes; (the position, 0) along one that no entry grows along."""
    low_z, part_z = z, tl.zeros_like(z).to(ACC)
    low_y, part_y = y, tl.zeros_like(y).to(ACC)
    low_x, part_x = x, tl.zeros_like(x).to(ACC)
    if AXES & 4:
        low_z, part_z = _tap(z, size_z, full_z, ACC)
    if AXES & 2:
        low_y, part_y = _tap(y, size_y, full_y, ACC)
    if AXES & 1:
        low_x, part_x = _tap(x, size_x, full_x, ACC)
    return low_z, part_z, low_y, part_y, low_x, part_x


@triton.jit
def _index(z, y, x, size_z, size_y, size_x, CORNER: tl.constexpr):
    """Where a corner of the cell at (z, y, x) lies; an axis has no corner beyond its end."""
    z = tl.minimum(z + CORNER // 4, size_z - 1)
    y = tl.minimum(y + CORNER // 2 % 2, size_y - 1)
    x = tl.minimum(x + CORNER % 2, size_x - 1)
    return (z * size_y + y) * size_x + x


@triton.jit
def _share(part_z, part_y, part_x, CORNER: tl.constexpr, AXES: tl.constexpr, ACC: tl.constexpr):
    """How much a corner of a cell counts in linear interpolation along AXES."""
    share = tl.full(part_x.shape, 1, ACC)
    if AXES & 4:
        share *= part_z if CORNER & 4 else 1 - part_z
    if AXES & 2:
        share *= part_y if CORNER & 2 else 1 - part_y
    if AXES & 1:
        share *= part_x if CORNER & 1 else 1 - part_x
    return share


@triton.jit
def _sign(MINUS: tl.constexpr):
    """(-1) to the number of bits: how a corner counts in a difference of neighbours along several axes."""
    return 1 - 2 * ((MINUS // 4 + MINUS // 2 + MINUS) % 2)


@triton.jit
def _interpolate(
    values, row, z, y, x, full_z, full_y, full_x, b, c, mask,
    CHANNELS: tl.constexpr, AXES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """U(P), (pixels, channels), of the entry in a row of the table, for the channels `c` of sample `b`."""
    size_z, size_y, size_x = tl.load(row + 2).to(tl.int32), tl.load(row + 3).to(tl.int32), tl.load(row + 4).to(tl.int32)
    size = size_z * size_y * size_x
    low_z, part_z, low_y, part_y, low_x, part_x = _taps(
        z, y, x, size_z, size_y, size_x, full_z, full_y, full_x, AXES, ACC
    )
    sample = values + tl.load(row) + b * CHANNELS * size
    tile = tl.zeros(mask.shape, ACC)
    for corner in tl.static_range(8):
        if (corner & AXES) == corner:
            at = c[None] * size + _index(low_z, low_y, low_x, size_z, size_y, size_x, corner)[:, None]
            share = _share(part_z, part_y, part_x, corner, AXES, ACC)
            tile += share[:, None] * tl.load(sample + at, mask=mask, other=0).to(ACC)
    return tile


@triton.jit
def _interpolate_maps(maps, row, z, y, x, full_z, full_y, full_x, b, inside, AXES: tl.constexpr, ACC: tl.constexpr):
    """q.U(P) and |U(P)|^2 of an entry from its maps: between neighbours u and v, at a share a of v,
    |(1-a) u + a v|^2 = (1-a) |u|^2 + a |v|^2 - a (1-a) |v - u|^2, along one axis after the other."""
    size_z, size_y, size_x = tl.load(row + 2).to(tl.int32), tl.load(row + 3).to(tl.int32), tl.load(row + 4).to(tl.int32)
    size = size_z * size_y * size_x
    low_z, part_z, low_y, part_y, low_x, part_x = _taps(
        z, y, x, size_z, size_y, size_x, full_z, full_y, full_x, AXES, ACC
    )
    sample = maps + tl.load(row + 1) + b * 9 * size
    energy = tl.zeros(part_x.shape, ACC)
    product = tl.zeros(part_x.shape, ACC)
    for axes in tl.static_range(8):
        if (axes & AXES) == axes:
            bend = tl.full(part_x.shape, 1, ACC)
            if axes & 4:
                bend *= part_z * (part_z - 1)
            if axes & 2:
                bend *= part_y * (part_y - 1)
            if axes & 1:
                bend *= part_x * (part_x - 1)
            for corner in tl.static_range(8):
                if (corner & AXES & ~axes) == corner:
                    share = bend * _share(part_z, part_y, part_x, corner, AXES & ~axes, ACC)
                    at = _index(low_z, low_y, low_x, size_z, size_y, size_x, corner)
                    energy += share * tl.load(sample + axes * size + at, mask=inside, other=0)
                    if axes == 0:
                        product += share * tl.load(sample + 8 * size + at, mask=inside, other=0)
    # rounding may take a sum of squares below zero
    return product, tl.maximum(energy, 0)


@triton.jit
def maps_kernel(
    values, query, maps, table,
    CHANNELS: tl.constexpr, AXES: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The scalar maps of every interpolated entry at its own resolution, (B, 9, *S_n): |d_b P|^2 for every set b of
    axes, d_b the difference of neighbours along them, and q.P as the ninth. Grid: (pixels of the largest, B, entries).
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
                energy = tl.zeros((PIXELS,), ACC)
                product = tl.zeros((PIXELS,), ACC)
                for begin in range(0, CHANNELS, BLOCK):
                    c = begin + tl.arange(0, BLOCK)
                    mask = inside[:, None] & (c < CHANNELS)[None]
                    tile = tl.zeros((PIXELS, BLOCK), ACC)
                    for corner in tl.static_range(8):
                        if (corner & axes) == corner:
                            at = c[None] * size + _index(z, y, x, size_z, size_y, size_x, corner)[:, None]
                            tile += _sign(axes ^ corner) * tl.load(values + at, mask=mask, other=0).to(ACC)
                    energy += tl.sum(tile * tile, 1)
                    if axes == 0:
                        q = tl.load(query + c, mask=c < CHANNELS, other=0).to(ACC)
                        product += tl.sum(tile * q[None], 1)
                tl.store(maps + axes * size + p, energy, mask=inside)
                if axes == 0:
                    tl.store(maps + 8 * size + p, product, mask=inside)


@triton.jit
def _dots(feature, query, p, pixels, inside, WIDTH: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr,
          ACC: tl.constexpr):  # fmt: skip
    """q.V and |V|^2 of a feature at full resolution, each (pixels,)."""
    product = tl.zeros((PIXELS,), ACC)
    energy = tl.zeros((PIXELS,), ACC)
    for begin in range(0, WIDTH, BLOCK):
        c = begin + tl.arange(0, BLOCK)
        tile = tl.load(feature + (c[None] * pixels + p[:, None]), mask=inside[:, None] & (c < WIDTH)[None], other=0)
        tile = tile.to(ACC)
        product += tl.sum(tile * tl.load(query + c, mask=c < WIDTH, other=0).to(ACC)[None], 1)
        energy += tl.sum(tile * tile, 1)
    return product, energy


@triton.jit
def _scores(
    values, maps, first, second, query, table, low, entries, full_z, full_y, full_x, b, p, inside, eps,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, AXES: tl.constexpr, ENTRIES: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Eqs. 6 and 7: product and rstd of every logit, and the attention, each (pixels, ENTRIES)."""
    pixels = full_z * full_y * full_x
    z, y, x = p // (full_y * full_x), p // full_x % full_y, p % full_x
    column = tl.arange(0, ENTRIES)[None]
    products = tl.zeros((PIXELS, ENTRIES), ACC)
    energies = tl.zeros((PIXELS, ENTRIES), ACC)
    for n in range(0, low):
        row = table + n * COLUMNS
        product, energy = _interpolate_maps(maps, row, z, y, x, full_z, full_y, full_x, b, inside, AXES, ACC)
        here = column == tl.load(row + 5).to(tl.int32)
        products = tl.where(here, product[:, None], products)
        energies = tl.where(here, energy[:, None], energies)
    for n in range(low, entries):
        row = table + n * COLUMNS
        sample = values + tl.load(row) + b * CHANNELS * pixels
        product, energy = _dots(sample, query, p, pixels, inside, CHANNELS, PIXELS, BLOCK, ACC)
        here = column == tl.load(row + 5).to(tl.int32)
        products = tl.where(here, product[:, None], products)
        energies = tl.where(here, energy[:, None], energies)
    sample = first + b * WIDTH * pixels
    product, energy = _dots(sample, query, p, pixels, inside, WIDTH, PIXELS, BLOCK, ACC)
    if WIDTH < CHANNELS:
        sample = second + b * (CHANNELS - WIDTH) * pixels
        more, energy_more = _dots(sample, query + WIDTH, p, pixels, inside, CHANNELS - WIDTH, PIXELS, BLOCK, ACC)
        product += more
        energy += energy_more
    products = tl.where(column == entries, product[:, None], products)
    energies = tl.where(column == entries, energy[:, None], energies)
    rstd = tl.rsqrt(energies / CHANNELS + eps)
    logits = tl.where(column <= entries, products * rstd, float("-inf"))
    alpha = tl.exp(logits - tl.max(logits, 1)[:, None])
    return products, rstd, alpha / tl.sum(alpha, 1)[:, None]


@triton.jit
def _pick(scalars, n, ENTRIES: tl.constexpr):
    """One column of (pixels, ENTRIES), as (pixels, 1)."""
    return tl.sum(tl.where(tl.arange(0, ENTRIES)[None] == n, scalars, 0), 1)[:, None]


@triton.jit
def _sum_values(
    part, values, out, table, alpha, low, entries, z, y, x, full_z, full_y, full_x, b, p, inside,
    WIDTH: tl.constexpr, OFFSET: tl.constexpr, CHANNELS: tl.constexpr, AXES: tl.constexpr, ENTRIES: tl.constexpr,
    BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Eq. 8 for one part of x."""
    pixels = full_z * full_y * full_x
    for begin in range(0, WIDTH, BLOCK):
        c = begin + tl.arange(0, BLOCK)
        mask = inside[:, None] & (c < WIDTH)[None]
        at = c[None] * pixels + p[:, None]
        tile = tl.load(part + b * WIDTH * pixels + at, mask=mask, other=0).to(ACC) * _pick(alpha, entries, ENTRIES)
        for n in range(0, low):
            row = table + n * COLUMNS
            value = _interpolate(values, row, z, y, x, full_z, full_y, full_x, b, OFFSET + c, mask, CHANNELS, AXES, ACC)
            tile += _pick(alpha, tl.load(row + 5).to(tl.int32), ENTRIES) * value
        for n in range(low, entries):
            row = table + n * COLUMNS
            sample = values + tl.load(row) + (b * CHANNELS + OFFSET) * pixels
            value = tl.load(sample + at, mask=mask, other=0).to(ACC)
            tile += _pick(alpha, tl.load(row + 5).to(tl.int32), ENTRIES) * value
        tl.store(out + (b * CHANNELS + OFFSET) * pixels + at, tile.to(out.dtype.element_ty), mask=mask)


@triton.jit
def forward_kernel(
    values, maps, first, second, query, table, low, entries, full_z, full_y, full_x, eps, out, attention,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, AXES: tl.constexpr, ENTRIES: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Eqs. 6-8 and the concatenation of x. Grid: (pixels, B)."""
    pixels = full_z * full_y * full_x
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    b = tl.program_id(1).to(tl.int64)
    inside = p < pixels
    z, y, x = p // (full_y * full_x), p // full_x % full_y, p % full_x
    _, _, alpha = _scores(
        values, maps, first, second, query, table, low, entries, full_z, full_y, full_x, b, p, inside, eps,
        CHANNELS, WIDTH, AXES, ENTRIES, PIXELS, BLOCK, ACC,
    )  # fmt: skip
    column = tl.arange(0, ENTRIES)[None]
    at = (b * (entries + 1) + column) * pixels + p[:, None]
    tl.store(attention + at, alpha, mask=inside[:, None] & (column <= entries))
    _sum_values(
        first, values, out, table, alpha, low, entries, z, y, x, full_z, full_y, full_x, b, p, inside,
        WIDTH, 0, CHANNELS, AXES, ENTRIES, BLOCK, ACC,
    )  # fmt: skip
    if WIDTH < CHANNELS:
        _sum_values(
            second, values, out, table, alpha, low, entries, z, y, x, full_z, full_y, full_x, b, p, inside,
            CHANNELS - WIDTH, WIDTH, CHANNELS, AXES, ENTRIES, BLOCK, ACC,
        )  # fmt: skip


@triton.jit
def _attention_gradient(
    part, values, grad_out, table, low, entries, z, y, x, full_z, full_y, full_x, b, p, inside,
    WIDTH: tl.constexpr, OFFSET: tl.constexpr, CHANNELS: tl.constexpr, AXES: tl.constexpr, ENTRIES: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What alpha receives by Eq. 8 from the channels of one part of x, (pixels, ENTRIES)."""
    pixels = full_z * full_y * full_x
    column = tl.arange(0, ENTRIES)[None]
    d_alpha = tl.zeros((PIXELS, ENTRIES), ACC)
    for begin in range(0, WIDTH, BLOCK):
        c = begin + tl.arange(0, BLOCK)
        mask = inside[:, None] & (c < WIDTH)[None]
        at = c[None] * pixels + p[:, None]
        grad = tl.load(grad_out + (b * CHANNELS + OFFSET) * pixels + at, mask=mask, other=0).to(ACC)
        value = tl.load(part + b * WIDTH * pixels + at, mask=mask, other=0).to(ACC)
        d_alpha += tl.where(column == entries, tl.sum(grad * value, 1)[:, None], 0)
        for n in range(0, low):
            row = table + n * COLUMNS
            value = _interpolate(values, row, z, y, x, full_z, full_y, full_x, b, OFFSET + c, mask, CHANNELS, AXES, ACC)
            d_alpha += tl.where(column == tl.load(row + 5).to(tl.int32), tl.sum(grad * value, 1)[:, None], 0)
        for n in range(low, entries):
            row = table + n * COLUMNS
            sample = values + tl.load(row) + (b * CHANNELS + OFFSET) * pixels
            value = tl.load(sample + at, mask=mask, other=0).to(ACC)
            d_alpha += tl.where(column == tl.load(row + 5).to(tl.int32), tl.sum(grad * value, 1)[:, None], 0)
    return d_alpha


@triton.jit
def _value_gradients(
    part, d_part, values, d_values, grad_out, query, d_query, table, alpha, d_product, d_energy,
    low, entries, pixels, b, p, inside,
    WIDTH: tl.constexpr, OFFSET: tl.constexpr, CHANNELS: tl.constexpr, ENTRIES: tl.constexpr, GRAD_OUT: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What one part of x receives, and in its channels the entries at full resolution: alpha grad, by q.V, by |V|^2."""
    for begin in range(0, WIDTH, BLOCK):
        c = begin + tl.arange(0, BLOCK)
        mask = inside[:, None] & (c < WIDTH)[None]
        at = c[None] * pixels + p[:, None]
        q = tl.load(query + OFFSET + c, mask=c < WIDTH, other=0).to(ACC)
        grad = tl.zeros((PIXELS, BLOCK), ACC)
        if GRAD_OUT:
            grad = tl.load(grad_out + (b * CHANNELS + OFFSET) * pixels + at, mask=mask, other=0).to(ACC)
        value = tl.load(part + b * WIDTH * pixels + at, mask=mask, other=0).to(ACC)
        by_product = _pick(d_product, entries, ENTRIES)
        share = _pick(alpha, entries, ENTRIES) * grad + by_product * q[None]
        share += _pick(d_energy, entries, ENTRIES) * value
        tl.store(d_part + b * WIDTH * pixels + at, share.to(d_part.dtype.element_ty), mask=mask)
        by_query = tl.sum(by_product * value, 0)
        for n in range(low, entries):
            row = table + n * COLUMNS
            own = tl.load(row + 5).to(tl.int32)
            start = tl.load(row) + (b * CHANNELS + OFFSET) * pixels
            value = tl.load(values + start + at, mask=mask, other=0).to(ACC)
            by_product = _pick(d_product, own, ENTRIES)
            share = _pick(alpha, own, ENTRIES) * grad + by_product * q[None] + _pick(d_energy, own, ENTRIES) * value
            tl.store(d_values + start + at, share.to(d_values.dtype.element_ty), mask=mask)
            by_query += tl.sum(by_product * value, 0)
        tl.store(d_query + OFFSET + c, by_query, mask=c < WIDTH)


@triton.jit
def backward_kernel(
    values, maps, first, second, query, table, low, entries, full_z, full_y, full_x, eps,
    grad_out, grad_attention, d_values, d_first, d_second, d_query, alphas, d_products, d_energies,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, AXES: tl.constexpr, ENTRIES: tl.constexpr,
    GRAD_OUT: tl.constexpr, GRAD_ATTENTION: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Everything of the backward pass that happens at full resolution. Grid: (pixels, B).

    Complete gradients of x and of the entries at full resolution; the query's share of these, one row a program; and
    for the others the attention and the derivatives by q.V and (twice) by |V|^2, each (B, K+1, pixels).
    """
    pixels = full_z * full_y * full_x
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    b = tl.program_id(1).to(tl.int64)
    inside = p < pixels
    z, y, x = p // (full_y * full_x), p // full_x % full_y, p % full_x
    column = tl.arange(0, ENTRIES)[None]
    products, rstd, alpha = _scores(
        values, maps, first, second, query, table, low, entries, full_z, full_y, full_x, b, p, inside, eps,
        CHANNELS, WIDTH, AXES, ENTRIES, PIXELS, BLOCK, ACC,
    )  # fmt: skip
    at = (b * (entries + 1) + column) * pixels + p[:, None]
    present = inside[:, None] & (column <= entries)
    # Eq. 8
    d_alpha = tl.zeros((PIXELS, ENTRIES), ACC)
    if GRAD_ATTENTION:
        d_alpha += tl.load(grad_attention + at, mask=present, other=0).to(ACC)
    if GRAD_OUT:
        d_alpha += _attention_gradient(
            first, values, grad_out, table, low, entries, z, y, x, full_z, full_y, full_x, b, p, inside,
            WIDTH, 0, CHANNELS, AXES, ENTRIES, PIXELS, BLOCK, ACC,
        )  # fmt: skip
        if WIDTH < CHANNELS:
            d_alpha += _attention_gradient(
                second, values, grad_out, table, low, entries, z, y, x, full_z, full_y, full_x, b, p, inside,
                CHANNELS - WIDTH, WIDTH, CHANNELS, AXES, ENTRIES, PIXELS, BLOCK, ACC,
            )  # fmt: skip
    # Eqs. 7 and 6
    # nothing beyond the image, where an eps of zero leaves an infinite rstd
    rstd = tl.where(present, rstd, 0)
    d_product = alpha * (d_alpha - tl.sum(alpha * d_alpha, 1)[:, None]) * rstd
    d_energy = -d_product * products * rstd * rstd / CHANNELS
    tl.store(alphas + at, alpha, mask=present)
    tl.store(d_products + at, d_product, mask=present)
    tl.store(d_energies + at, d_energy, mask=present)
    d_query += (b * tl.num_programs(0) + tl.program_id(0)) * CHANNELS
    _value_gradients(
        first, d_first, values, d_values, grad_out, query, d_query, table, alpha, d_product, d_energy,
        low, entries, pixels, b, p, inside, WIDTH, 0, CHANNELS, ENTRIES, GRAD_OUT, PIXELS, BLOCK, ACC,
    )  # fmt: skip
    if WIDTH < CHANNELS:
        _value_gradients(
            second, d_second, values, d_values, grad_out, query, d_query, table, alpha, d_product, d_energy,
            low, entries, pixels, b, p, inside,
            CHANNELS - WIDTH, WIDTH, CHANNELS, ENTRIES, GRAD_OUT, PIXELS, BLOCK, ACC,
        )  # fmt: skip


@triton.jit
def _first(cell, length, target):
    """The first position on an axis of `target` that lies beyond cell - 1 on the axis of `length`."""
    # shifted by whole axes, for integer division of negative numbers is not the same everywhere
    return (2 * target * (cell - 1) + target - length + 2 * length * target) // (2 * length) - target + 1


@triton.jit
def rows_kernel(
    grad_out, alphas, folded, table, since, until, entries, rows, width,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, CELLS: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """The transpose of interpolation along rows: alpha_n grad (B, C, rows, width) -> (B, C, rows, W_n) for the rows
    `since` to `until` - 1 of the table, one behind the other in `folded`, as products with a banded matrix.
    Grid: (rows, channels, B)."""
    r = tl.program_id(0)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    b = tl.program_id(2).to(tl.int64)
    batch = tl.num_programs(2)
    grad_out += b * CHANNELS * rows * width
    for n in range(since, until):
        row = table + n * COLUMNS
        cells = tl.load(row + 4).to(tl.int32)
        sample = folded + b * CHANNELS * rows * cells
        weights = alphas + ((b * (entries + 1) + tl.load(row + 5)) * rows + r) * width
        for begin in range(0, cells, CELLS):
            cell = begin + tl.arange(0, CELLS)
            tile = tl.zeros((BLOCK, CELLS), ACC)
            start = tl.maximum(_first(begin, cells, width), 0)
            stop = tl.minimum(_first(begin + CELLS + 1, cells, width), width)
            for left in range(start, stop, STEP):
                x = left + tl.arange(0, STEP)
                at = (c[:, None] * rows + r) * width + x[None]
                grad = tl.load(grad_out + at, mask=(c < CHANNELS)[:, None] & (x < stop)[None], other=0)
                alpha = tl.load(weights + x, mask=x < stop, other=0)
                below, part = _tap(x, cells, width, ACC)
                hat = tl.where(below[:, None] == cell[None], 1 - part[:, None], 0)
                hat += tl.where(below[:, None] + 1 == cell[None], part[:, None], 0)
                weight = alpha[:, None] * hat
                if tl.float64 == ACC:  # whose tl.dot not every Triton has
                    tile += tl.sum(grad[:, :, None] * weight[None], 1)
                else:
                    tile += tl.dot(grad.to(ACC), weight, input_precision=PRECISION, out_dtype=ACC)
            at = (c[:, None] * rows + r) * cells + cell[None]
            tl.store(sample + at, tile, mask=(c < CHANNELS)[:, None] & (cell < cells)[None])
        folded += batch.to(tl.int64) * CHANNELS * rows * cells


@triton.jit
def finish_kernel(
    value, folded, by_product, by_pair, query, d_value, size_z, size_y, size_x,
    CHANNELS: tl.constexpr, AXES: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The gradient of an interpolated entry: what came by Eq. 8, by q.V and by |V|^2. Grid: (pixels, channels, B).

    `by_pair` (B, 3 D, 3 H, 3 W), 3 only along AXES, holds at (i + (j + 1) length) how the pair of a cell i and its
    neighbour i + j counts in |V|^2; j = -1, 0, 1.
    """
    pixels = size_z * size_y * size_x
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    b = tl.program_id(2).to(tl.int64)
    inside = p < pixels
    mask = inside[:, None] & (c < CHANNELS)[None]
    z, y, x = p // (size_y * size_x), p // size_x % size_y, p % size_x
    times_z: tl.constexpr = 3 if AXES & 4 else 1
    times_y: tl.constexpr = 3 if AXES & 2 else 1
    times_x: tl.constexpr = 3 if AXES & 1 else 1
    sample = b * CHANNELS * pixels
    q = tl.load(query + c, mask=c < CHANNELS, other=0).to(ACC)
    at = c[None] * pixels + p[:, None]
    tile = tl.load(folded + sample + at, mask=mask, other=0).to(ACC)
    tile += tl.load(by_product + b * pixels + p, mask=inside, other=0)[:, None] * q[None]
    by_pair += b * (times_z * times_y * times_x) * pixels
    for k_z in range(times_z):
        for k_y in range(times_y):
            for k_x in range(times_x):
                to_z, to_y, to_x = z + k_z - times_z // 2, y + k_y - times_y // 2, x + k_x - times_x // 2
                there = (to_z >= 0) & (to_z < size_z) & (to_y >= 0) & (to_y < size_y) & (to_x >= 0) & (to_x < size_x)
                pair = ((k_z * size_z + z) * times_y * size_y + k_y * size_y + y) * times_x * size_x + k_x * size_x + x
                pair = tl.load(by_pair + pair, mask=inside & there, other=0)
                neighbour = c[None] * pixels + ((to_z * size_y + to_y) * size_x + to_x)[:, None]
                other = tl.load(value + sample + neighbour, mask=mask & there[:, None], other=0).to(ACC)
                tile += pair[:, None] * other
    tl.store(d_value + sample + at, tile.to(d_value.dtype.element_ty), mask=mask)
