"""The tables of the Triton kernels: which cells of the interpolated features a tile of pixels reads, with what weights.

A tile is a rectangle of pixels in one plane of x; in 2-D, x is one plane. Linear interpolation lets it read a rectangle
of cells of every interpolated feature, in 3-D of two neighbouring planes of the feature. All these cells, feature after
feature, are the columns of the tile. In 3-D, the values of a column are interpolated along the depth first, which is
the same for all pixels of the tile: with the fraction f of the feature,

    V[k] = (1 - f) lower[k] + f upper[k].

With V the values of the columns, (columns, C), a tile of interpolated and weighted values is one matrix product, W V.
The weight of column k at pixel p is

    W[p, k] = alpha_n(p) prod_a max(0, 1 - |s_a p_a + o_a|),

where n is the feature of the column and a runs over height and width: s_a p_a + o_a is the distance of the pixel from
the cell in units of the cells. Its slope s_a depends on the feature only, its offset o_a also on the tile. Cells beyond
the edge are clamped to the edge, which is linear interpolation with align_corners=False for every ratio of the sizes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

FIELDS = 9
"""The integers that describe an interpolated feature in `Tables.features`."""

OUTPUTS = 128
"""The results that a program of the transposes computes."""

TILE_WIDTH = 16
"""The pixels of a tile along the width: in half precision, they are one memory transaction."""

_MOST_CELLS = 64
"""More cells than a tile reads along one axis."""

_NO_COLUMN = 2**31 - 1
"""Greater than the number of every column, so that readers that do not exist are sorted to the end."""

_FEW_READERS = 24
"""The gradients of cells that at most this many tiles read are summed for many cells at a time."""


@dataclass(frozen=True)
class Tables:
    """What the kernels must know about the sizes; int32 and float32 tensors on the device.

    Attributes:
        tile: the pixels of a tile along height and width.
        tiles: the number of tiles along depth, where it is the number of planes, height and width.
        num_columns: the number of columns of a tile, a multiple of the block of columns.
        table_columns: the number of columns in the tables, a multiple of two blocks; the last ones may be padding, with
            the cells of the last column before it.
        num_cells: the number of cells of all interpolated features together.
        num_few: the number of leading cells that few tiles read.
        totals: how many values the transposes along the width, along width and height, and along all axes have.
        transposes: for each of them the programs, (programs, 2): the row in `features` and the first result.
        cells: the first cell of every interpolated feature, by its index in the history.
        columns: (1 + 2 planes + tiles, table_columns): the feature of every column as an index of the history, or -1
            for padding; then for every plane, and every tile along height and width, what the cell contributes to its
            number, for a plane in the lower of two planes of the feature; then for every plane the distance of the cell
            in the upper one from that in the lower one, or 0 where it has no weight.
        weights: (planes + tiles, table_columns, 2): for every plane the weights 1 - f and f of every column, then for
            every tile along height and width its slope s_a and its offset o_a; float16 where it was asked for and has
            all weights exactly, otherwise float32.
        features: (features, FIELDS): index in the history, first cell, size (depth, height, width), where its readers
            begin, the number of readers of a cell, where the results of the transpose along the width begin, and those
            along width and height.
        feature_of_cell: for every cell, the row in `features`.
        readers: for every feature the columns that belong to each of its cells, (cells, readers), as tile
            num_columns + column in ascending order, then -1.
        full: the indices of the values that are not interpolated: features of the size of x, then x itself.
        is_interpolated: for every value, (K+1,), whether it is interpolated; x is the last one.
    """

    tile: tuple[int, int]
    tiles: tuple[int, int, int]
    num_columns: int
    table_columns: int
    num_cells: int
    num_few: int
    totals: tuple[int, int, int]
    transposes: tuple[Tensor, Tensor, Tensor]
    cells: dict[int, int]
    columns: Tensor
    weights: Tensor
    features: Tensor
    feature_of_cell: Tensor
    readers: Tensor
    full: Tensor
    is_interpolated: Tensor


@dataclass(frozen=True)
class _Axis:
    """One axis of an interpolated feature: for every tile the cells that it reads, and what gives their weights.

    For the depth, where a tile is a plane, a tile has one of two cells, the lower one, and the weights of both.
    """

    length: int
    cells: np.ndarray  # (tiles, box), clamped
    numbers: np.ndarray  # (tiles, box, 2): slopes and offsets, or weights
    readers: np.ndarray  # (length, items): _MOST_CELLS tile + which of the cells of that tile, then -1
    is_exact_in_half: bool  # whether float16 has these numbers and all weights exactly

    @property
    def box(self) -> int:
        return self.cells.shape[1]


class CellReaders:
    """Finds which blocks of cells some tiles read, and at which places in the lists of readers of these cells.

    Args:
        tables: the tables.
        starts: the first cell of every block, ascending; together the blocks have all cells.
    """

    def __init__(self, tables: Tables, starts: Sequence[int]):
        self._starts = np.asarray(starts)
        self._sizes = np.diff([*starts, tables.num_cells])
        readers = tables.readers.cpu().numpy()
        self._features: list[tuple[int, np.ndarray]] = []
        lowest, highest = [], []
        for _, first_cell, *size, start, count, _, _ in tables.features.tolist():
            of_cells = readers[start : start + math.prod(size) * count].reshape(-1, count)
            lowest.append(of_cells[:, 0])
            highest.append(of_cells.max(1))
            self._features.append((first_cell, np.where(of_cells < 0, _NO_COLUMN, of_cells)))
        self._lowest = np.minimum.reduceat(np.concatenate(lowest), self._starts)
        self._highest = np.maximum.reduceat(np.concatenate(highest), self._starts)

    def between(self, first: int, end: int) -> np.ndarray:
        """The blocks that have columns from `first` up to `end`, as integers (blocks, 3).

        Returns:
            the number of a block, and the first and the end of the places in the lists of readers at which its cells
            have these columns; some cells may have others there.
        """
        blocks = np.flatnonzero((self._highest >= first) & (self._lowest < end))
        sizes = self._sizes[blocks]
        begins = np.cumsum(sizes) - sizes
        cells = np.arange(sizes.sum()) + np.repeat(self._starts[blocks] - begins, sizes)
        before, until = self._count_below(cells, first), self._count_below(cells, end)
        has_columns = before < until
        starts = np.minimum.reduceat(np.where(has_columns, before, np.iinfo(before.dtype).max), begins)
        ends = np.maximum.reduceat(np.where(has_columns, until, 0), begins)
        # some blocks have columns before and after only
        return np.stack((blocks, starts, ends), 1)[starts < ends]

    def _count_below(self, cells: np.ndarray, column: int) -> np.ndarray:
        """The number of readers of every cell that are less than `column`."""
        counts = np.zeros(len(cells), int)
        for first_cell, of_cells in self._features:
            here = (cells >= first_cell) & (cells < first_cell + len(of_cells))
            counts[here] = (of_cells[cells[here] - first_cell] < column).sum(1)
        return counts


def three_axes(size: Sequence[int]) -> tuple[int, int, int]:
    """A spatial size as (depth, height, width), where the depth is 1 in 2-D."""
    depth, height, width = (1,) * (3 - len(size)) + tuple(size)
    return depth, height, width


@lru_cache(maxsize=256)
def make_tables(
    sizes: tuple[tuple[int, int, int], ...],
    size: tuple[int, int, int],
    pixels: int,
    block: int,
    device: torch.device,
    half: bool = False,
) -> Tables:
    """The tables for features of `sizes` and x of `size`, each (depth, height, width).

    Args:
        sizes: of all features in the order of the history; features of the size of x are not interpolated.
        size: the size of x.
        pixels: the number of pixels of a tile, a multiple of TILE_WIDTH.
        block: the number of columns is a multiple of it.
        device: where the tables are used.
        half: store `weights` in float16 if all weights are exact. They are for ratios that are powers of two.
    """
    depth, height, width = size
    tile = pixels // TILE_WIDTH, TILE_WIDTH
    tiles = depth, -(-height // tile[0]), -(-width // tile[1])
    # those that many tiles read at the end
    interpolated = sorted((n for n, s in enumerate(sizes) if s != size), key=lambda n: (-math.prod(sizes[n]), n))
    axes = {
        n: [_make_depth(sizes[n][0], depth), *map(_make_axis, sizes[n][1:], (height, width), tile)]
        for n in interpolated
    }
    num_columns = -(-sum(math.prod(a.box for a in axes[n]) for n in interpolated) // block) * block
    table_columns = -(-num_columns // (2 * block)) * 2 * block
    columns = [np.full((1, table_columns), -1)] + [np.zeros((t, table_columns), int) for t in (*tiles, depth)]
    weights = [np.zeros((t, table_columns, 2)) for t in tiles]
    features, readers, feature_of_cell = [], [], []
    programs: tuple[list[tuple[int, int]], ...] = ([], [], [])
    cells: dict[int, int] = {}
    first_column = first_cell = first_reader = after_width = after_height = num_few = 0
    for i, n in enumerate(interpolated):
        box = [a.box for a in axes[n]]
        here = slice(first_column, first_column + math.prod(box))
        columns[0][0, here] = n
        for a, axis in enumerate(axes[n]):
            cell = np.unravel_index(np.arange(math.prod(box)), box)[a]
            stride = math.prod(b.length for b in axes[n][a + 1 :])
            columns[1 + a][:, here] = axis.cells[:, cell] * stride + (first_cell if a == 0 else 0)
            weights[a][:, here] = axis.numbers[:, cell]
            if a == 0:
                columns[4][:, here] = (axis.numbers[..., 1] > 0) * stride
        of_cells = _readers(axes[n], tiles, num_columns, first_column)
        readers.append(of_cells.ravel())
        features.append([n, first_cell, *sizes[n], first_reader, of_cells.shape[1], after_width, after_height])
        first_reader += of_cells.size
        feature_of_cell.append(np.full(math.prod(sizes[n]), i))
        results = size[0] * size[1] * sizes[n][2], size[0] * sizes[n][1] * sizes[n][2], math.prod(sizes[n])
        for of_axis, count in zip(programs, results, strict=True):
            of_axis += [(i, start) for start in range(0, count, OUTPUTS)]
        cells[n] = first_cell
        # features whose cells many tiles read are at the end
        if of_cells.shape[1] <= _FEW_READERS and num_few == first_cell:
            num_few += len(of_cells)
        first_column, first_cell = here.stop, first_cell + math.prod(sizes[n])
        after_width, after_height = after_width + results[0], after_height + results[1]
    if first_column:
        # padding has no weight, but 0 times infinity is NaN: it may be so where the tile reads an infinite cell only
        for table in (*columns[1:], *weights):
            table[:, first_column:] = table[:, first_column - 1 : first_column]

    def integers(values) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.int32).to(device)

    half = half and all(axis.is_exact_in_half for of_feature in axes.values() for axis in of_feature)
    along_width, along_height, along_depth = (integers(np.reshape(of_axis, (-1, 2))) for of_axis in programs)
    empty = np.zeros(1, int)
    return Tables(
        tile, tiles, num_columns, table_columns, first_cell, num_few,
        (after_width, after_height, first_cell),
        (along_width, along_height, along_depth),
        cells,
        integers(np.concatenate(columns)),
        torch.as_tensor(np.concatenate(weights), dtype=torch.float16 if half else torch.float32).to(device),
        integers(features or empty), integers(np.concatenate([*feature_of_cell, empty])),
        integers(np.concatenate([*readers, empty])),
        integers([*(n for n, s in enumerate(sizes) if s == size), len(sizes)]),
        integers([*(s != size for s in sizes), False]),
    )  # fmt: skip


def _readers(axes: Sequence[_Axis], tiles: Sequence[int], num_columns: int, first_column: int) -> np.ndarray:
    """The columns that belong to every cell of a feature, (cells, readers): tile num_columns + column, then -1."""
    tile = column = np.zeros((1,) * 6, int)
    exists = np.ones((1,) * 6, bool)
    for a, axis in enumerate(axes):
        shape = [1] * 6
        shape[a], shape[3 + a] = axis.readers.shape
        reader = axis.readers.reshape(shape)
        tile, column = tile * tiles[a] + reader // _MOST_CELLS, column * axis.box + reader % _MOST_CELLS
        exists = exists & (reader >= 0)
    readers = np.where(exists, tile * num_columns + first_column + column, _NO_COLUMN)
    readers = np.sort(readers.reshape(math.prod(axis.length for axis in axes), -1), 1)
    return np.where(readers == _NO_COLUMN, -1, readers)


def _make_depth(length: int, planes: int) -> _Axis:
    """The cells of an axis of `length` that every one of `planes` planes of pixels reads."""
    position = np.clip([_position(z, length, planes) for z in range(planes)], 0, 2 * planes * (length - 1))
    lower = position // (2 * planes)
    fraction = (position - 2 * planes * lower) / (2 * planes)
    weights = np.stack((1 - fraction, fraction), 1)
    reading: list[list[int]] = [[] for _ in range(length)]
    for plane, cell in enumerate(lower.tolist()):
        for place in np.flatnonzero(weights[plane]).tolist():
            reading[cell + place].append(_MOST_CELLS * plane)
    return _Axis(length, lower[:, None], weights[:, None], _as_array(reading), _is_exact_in_half(weights))


def _make_axis(length: int, target: int, tile: int) -> _Axis:
    """The cells of an axis of `length` that every tile of an axis of `target` pixels reads."""
    # the position of pixel x on the axis of cells is position(x) / (2 target)
    starts = range(0, target, tile)
    first = [_position(x, length, target) // (2 * target) for x in starts]
    last = [-(-_position(min(x + tile, target) - 1, length, target) // (2 * target)) for x in starts]
    box = max(b - a + 1 for a, b in zip(first, last, strict=True))
    cells = np.asarray(first)[:, None] + np.arange(box)
    position = np.asarray([_position(x, length, target) / (2 * target) for x in starts])
    reading: list[list[int]] = [[] for _ in range(length)]
    for t, (a, b) in enumerate(zip(first, last, strict=True)):
        for d in range(b - a + 1):
            reading[min(max(a + d, 0), length - 1)].append(_MOST_CELLS * t + d)
    slope, offsets = length / target, position[:, None] - cells
    distances = np.abs(np.arange(tile) * slope + offsets[..., None])
    numbers = np.stack((np.full_like(offsets, slope), offsets), -1)
    is_exact_in_half = _is_exact_in_half(numbers) and _is_exact_in_half(1 - distances[distances < 1])
    return _Axis(length, cells.clip(0, length - 1), numbers, _as_array(reading), is_exact_in_half)


def _as_array(reading: Sequence[Sequence[int]]) -> np.ndarray:
    """Lists of different lengths as the rows of an array, which end with -1."""
    rows = np.full((len(reading), max(map(len, reading))), -1)
    for row, items in zip(rows, reading, strict=True):
        row[: len(items)] = items
    return rows


def _is_exact_in_half(numbers: np.ndarray) -> bool:
    return np.array_equal(numbers.astype(np.float16), numbers)


def _position(x: int, length: int, target: int) -> int:
    """The position of pixel x on an axis of `length` cells, times 2 `target`."""
    return (2 * x + 1) * length - target
