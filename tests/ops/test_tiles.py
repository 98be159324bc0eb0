"""The tables of the Triton kernels against PyTorch's linear interpolation."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nnunet_xattnres.ops.tiles import CellReaders, make_tables

# the size of x, and those of the features: powers of two, other ratios, one axis only, one cell
CASES = {
    "2-D": ((1, 32, 48), [(1, 16, 24), (1, 8, 12), (1, 32, 48), (1, 2, 3), (1, 1, 1)]),
    "2-D odd": ((1, 13, 37), [(1, 5, 36), (1, 13, 9), (1, 6, 18)]),
    "3-D": ((8, 8, 16), [(4, 4, 8), (2, 2, 4), (8, 4, 8), (1, 1, 1)]),
    "3-D odd": ((5, 7, 19), [(2, 3, 19), (5, 1, 4)]),
}


def pixels_of(tables, size):
    """For every tile its pixels, as (coordinates in the tile along height and width, coordinates)."""
    for tile in itertools.product(*map(range, tables.tiles)):
        inside = []
        for offset in itertools.product(*map(range, tables.tile)):
            row, column = (t * n + o for t, n, o in zip(tile[1:], tables.tile, offset, strict=True))
            if row < size[1] and column < size[2]:
                inside.append((offset, (tile[0], row, column)))
        yield tile, inside


def columns_of_tile(tables, tile):
    """The lower and the upper cells of the columns of a tile, (2, columns), and their weights along the depth.

    Then for height and width the slopes and the offsets of the distances of these cells.
    """
    plane, row, column = tile
    planes, rows, columns = tables.tiles
    cells = tables.columns[1 + plane] + tables.columns[1 + planes + row] + tables.columns[1 + planes + rows + column]
    upper = cells + tables.columns[1 + planes + rows + columns + plane]
    depth, *axes = (tables.weights[i] for i in (plane, planes + row, planes + rows + column))
    return torch.stack((cells, upper)), depth.T, [axis.unbind(1) for axis in axes]


@pytest.mark.parametrize("pixels", [32, 128])
@pytest.mark.parametrize("case", CASES)
def test_product_with_the_weights_is_linear_interpolation(case, pixels):
    size, sizes = CASES[case]
    tables = make_tables(tuple(sizes), size, pixels, 16, torch.device("cpu"))
    assert np.prod(tables.tile) == pixels
    interpolated = {n: torch.rand(1, 1, *s, dtype=torch.float64) for n, s in enumerate(sizes) if s != size}
    assert tables.full[:-1].tolist() == [n for n, s in enumerate(sizes) if s == size]
    buffer = torch.empty(tables.num_cells, dtype=torch.float64)
    for n, value in interpolated.items():
        buffer[tables.cells[n] : tables.cells[n] + value.numel()] = value.flatten()
    expected = {n: F.interpolate(v, size, mode="trilinear", align_corners=False)[0, 0] for n, v in interpolated.items()}
    for tile, inside in pixels_of(tables, size):
        cells, depth, axes = columns_of_tile(tables, tile)
        values = (depth.double() * buffer[cells]).sum(0)
        for offset, pixel in inside:
            weight = torch.ones(tables.table_columns, dtype=torch.float64)
            for o, (slope, start) in zip(offset, axes, strict=True):
                weight *= (1 - (o * slope.double() + start.double()).abs()).clamp_min(0)
            for n in interpolated:
                columns = tables.columns[0] == n
                actual = (weight[columns] * values[columns]).sum()
                torch.testing.assert_close(actual, expected[n][pixel], rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_padding_reads_only_what_the_tile_reads_anyway(case):
    size, sizes = CASES[case]
    tables = make_tables(tuple(sizes), size, 32, 64, torch.device("cpu"))
    is_padding = tables.columns[0] < 0
    assert is_padding.any()
    for tile in itertools.product(*map(range, tables.tiles)):
        cells, _, _ = columns_of_tile(tables, tile)
        assert set(cells[:, is_padding].flatten().tolist()) <= set(cells[:, ~is_padding].flatten().tolist())


@pytest.mark.parametrize(
    ("size", "sizes"),
    [((1, 32, 512), [(1, 16, 256), (1, 8, 64), (1, 1, 4), (1, 4, 2)]), CASES["3-D"]],
)
def test_weights_are_exact_in_half_precision_for_powers_of_two(size, sizes):
    half, single = (make_tables(tuple(sizes), size, 128, 16, torch.device("cpu"), half) for half in (True, False))
    assert half.weights.dtype == torch.float16
    assert torch.equal(half.weights.float(), single.weights)
    for tile, inside in pixels_of(half, size):
        for axis, (slope, start) in enumerate(columns_of_tile(half, tile)[2]):
            offsets = torch.tensor([offset[axis] for offset, _ in inside])[:, None]
            distances = offsets * slope.double() + start.double()
            # the fused multiply and add of the kernels rounds once
            rounded = (1 - distances.half().abs()).clamp_min(0)
            assert torch.equal(rounded.double(), (1 - distances.abs()).clamp_min(0))


@pytest.mark.parametrize("case", ["2-D odd", "3-D odd"])
def test_other_weights_are_in_single_precision(case):
    size, sizes = CASES[case]
    half, single = (make_tables(tuple(sizes), size, 128, 16, torch.device("cpu"), half) for half in (True, False))
    assert half.weights.dtype == torch.float32
    assert torch.equal(half.weights, single.weights)


@pytest.mark.parametrize("case", CASES)
def test_every_cell_lists_the_columns_that_read_it(case):
    size, sizes = CASES[case]
    tables = make_tables(tuple(sizes), size, 32, 16, torch.device("cpu"))
    # the cells and columns with a weight that is not zero at some pixel of the tile, the weights along depth included
    expected = set()
    for t, (tile, inside) in enumerate(pixels_of(tables, size)):
        cells, depth, axes = columns_of_tile(tables, tile)
        offsets = torch.tensor([offset for offset, _ in inside])
        weight = torch.ones(len(inside), tables.table_columns)
        for axis, (slope, start) in enumerate(axes):
            weight *= (1 - (offsets[:, axis, None] * slope + start).abs()).clamp_min(0)
        used = (depth * weight.amax(0) > 1e-6) & (tables.columns[0] >= 0)
        expected |= {(int(cells[i, k]), t * tables.num_columns + int(k)) for i, k in used.nonzero()}
    actual = []
    for feature in tables.features.tolist():
        _, first_cell, depth, height, width, start, count, _, _ = feature
        number = depth * height * width
        readers = tables.readers[start : start + number * count].view(number, count)
        actual += [(first_cell + i, r) for i, row in enumerate(readers.tolist()) for r in row if r >= 0]
        for row in readers.tolist():
            listed = [r for r in row if r >= 0]
            assert row == [*sorted(listed), *[-1] * (len(row) - len(listed))]
        few = first_cell + number <= tables.num_few
        assert few or first_cell >= tables.num_few, "a feature lies on both sides of num_few"
    assert len(actual) == len(set(actual))
    assert expected <= set(actual)
    # columns that are listed although they have no weight would only cost time, but there should be few
    assert len(actual) <= 1.5 * len(expected)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("block", [1, 3])
def test_the_readers_of_blocks_of_cells_among_some_tiles(case, block):
    size, sizes = CASES[case]
    tables = make_tables(tuple(sizes), size, 32, 16, torch.device("cpu"))
    of_cell = []
    for _, _, depth, height, width, start, count, _, _ in tables.features.tolist():
        number = depth * height * width
        of_cell += tables.readers[start : start + number * count].view(number, count).tolist()
    starts = range(0, tables.num_cells, block)
    readers = CellReaders(tables, starts)
    last = math.prod(tables.tiles) * tables.num_columns
    for first, end in ((0, last), (last // 3, last // 2), (last - tables.num_columns, last)):
        expected = {}
        for number, cell in enumerate(starts):
            places = [i for r in of_cell[cell : cell + block] for i, column in enumerate(r) if first <= column < end]
            if places:
                expected[number] = [min(places), max(places) + 1]
        assert {number: places for number, *places in readers.between(first, end).tolist()} == expected


@pytest.mark.parametrize("size", [(1, 64, 64), (32, 32, 32)])
def test_few_tiles_read_a_cell_of_a_feature_of_half_the_size(size):
    """Sums of columns take many of these cells at a time, and single ones of smaller features."""
    sizes = [tuple(max(1, n // r) for n in size) for r in (2, 4, 32)]
    tables = make_tables(tuple(sizes), size, 128, 32, torch.device("cpu"))
    assert math.prod(sizes[0]) <= tables.num_few < tables.num_cells
