"""Linear interpolation with align_corners=False as a product with a small matrix U along every axis, and its transpose.

The transpose of every step costs as much as the step and sums in a fixed order, so gradients are the same in every run
on every device. `torch.nn.functional.interpolate` does not guarantee that on CUDA.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

# On a CPU the product with U is computed in blocks of rows; the rows of a block read about this many columns, so that
# what it reads and writes stays in the cache.
_COLUMNS = 32
# Up to this integer ratio an axis other than the last is interpolated phase by phase, beyond it by the matrix U.
_PHASES = 4


def taps(length: int, target: int) -> tuple[Tensor, Tensor]:
    """The lower one of the two neighbours that each of `target` positions reads, and the distance to it, in [0, 1]."""
    position = (torch.arange(target, dtype=torch.float64) + 0.5) * (length / target) - 0.5
    position = position.clamp(0, length - 1)
    lower = position.floor().clamp(max=max(length - 2, 0))
    return lower.long(), position - lower


@lru_cache(maxsize=256)
def interpolation_matrix(length: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix U (target, length) for which U @ v is v interpolated from `length` to `target` elements."""
    lower, fraction = taps(length, target)
    rows = torch.arange(target)
    u = torch.zeros(target, length, dtype=torch.float64)
    u[rows, lower] = 1 - fraction
    if length > 1:
        u[rows, lower + 1] += fraction
    return u.to(dtype).to(device)  # not at once: some devices have no float64


@lru_cache(maxsize=256)
def squared_norm_matrix(length: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix [U, -N] (target, 2 length - 1), which gives the squared norms of interpolated vectors.

    It is applied to the `length` squared norms |v_i|^2, followed by the `length` - 1 squared norms of the differences
    |v_(i+1) - v_i|^2, because between neighbours u and v

        |(1-a) u + a v|^2 = (1-a) |u|^2 + a |v|^2 - a (1-a) |v - u|^2.
    """
    lower, fraction = taps(length, target)
    n = torch.zeros(target, length - 1, dtype=torch.float64)
    if length > 1:
        n[torch.arange(target), lower] = fraction * (1 - fraction)
    u = interpolation_matrix(length, target, torch.float64, torch.device("cpu"))
    return torch.cat((u, -n), 1).to(dtype).to(device)  # not at once: some devices have no float64


def apply_along_axis(matrix: Tensor, maps: Tensor, axis: int) -> Tensor:
    """The product of `matrix` (m, n) with every vector along an axis of length n; `axis` is negative."""
    if axis == -1:
        return maps @ matrix.T
    shape = maps.shape
    product = matrix @ maps.flatten(axis + 1)
    return product.view(*shape[:axis], matrix.shape[0], *shape[axis + 1 :])


def upsampled_axes(shape: Sequence[int], size: Sequence[int]) -> list[int]:
    """The negative indices of the spatial axes along which a tensor of `shape` is interpolated to `size`."""
    return [axis for axis in range(-len(size), 0) if shape[axis] != size[axis]]


def upsample(value: Tensor, size: tuple[int, ...]) -> Tensor:
    """Interpolate (B, C, *S_k) linearly to (B, C, *size)."""
    for axis in _order(value.shape, size):
        value = _upsample_axis(value, axis, size[axis])
    return value


def upsample_matrix_axes(value: Tensor, size: tuple[int, ...]) -> Tensor:
    """The first steps of `upsample`: the axes other than the last that are interpolated by a matrix.

    They are cheaper for all channels at once than for a few channels at a time.
    """
    for axis in _order(value.shape, size):
        if axis != -1 and _phases(value.shape[axis], size[axis]) is None:
            value = _upsample_axis(value, axis, size[axis])
    return value


def upsample_transposed(grad: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The transpose of `upsample`, from (B, C, *size) to (B, C, *shape)."""
    size = tuple(grad.shape[2:])
    for axis in reversed(_order((*grad.shape[:2], *shape), size)):
        grad = _upsample_axis_transposed(grad, axis, shape[axis])
    return grad


def _order(shape: Sequence[int], size: Sequence[int]) -> list[int]:
    """The upsampled axes in the order of the steps: those with a matrix, then the last axis, then those by phases."""

    def rank(axis: int) -> int:
        if axis == -1:
            return 1
        return 0 if _phases(shape[axis], size[axis]) is None else 2

    return sorted(upsampled_axes(shape, size), key=rank)


def _phases(length: int, target: int) -> list[tuple[int, float]] | None:
    """The phases of a small integer ratio r = target / length, or None for another ratio.

    Phase p = 0, ..., r - 1 is (offset, fraction): position r i + p lies between the elements i + offset and
    i + offset + 1, at this distance from the first of them.
    """
    ratio, remainder = divmod(target, length)
    if remainder or ratio > _PHASES:
        return None
    positions = [(p + 0.5) / ratio - 0.5 for p in range(ratio)]
    return [(-1, position + 1) if position < 0 else (0, position) for position in positions]


def _blocks(u: Tensor, length: int, target: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of rows of the banded matrix U, with the columns that are not zero in them."""
    rows = max(1, _COLUMNS * target // length) if u.device.type == "cpu" else target
    for start in range(0, target, rows):
        stop = min(start + rows, target)
        first = int((start + 0.5) * length / target - 0.5)
        last = int((stop - 0.5) * length / target - 0.5) + 1
        yield slice(start, stop), slice(max(first, 0), min(last + 1, length))


def _phase_views(
    upsampled: Tensor, axis: int, length: int, phases: list[tuple[int, float]]
) -> Iterator[tuple[Tensor, float, Tensor, int]]:
    """Views into a map at the larger size, for every phase.

    Yields:
        inner: the length - 1 positions that lie between two elements of the smaller size.
        fraction: their distance from the first of the two elements.
        edge: the one position that lies outside the elements and equals the nearest one.
        index: the index of that element, the first or the last.
    """
    rows = upsampled.unflatten(axis, (length, -1))
    for p, (offset, fraction) in enumerate(phases):
        row, index = rows.select(axis, p), 0 if offset else length - 1
        yield row.narrow(axis, -offset, length - 1), fraction, row.narrow(axis, index, 1), index


def _upsample_axis(value: Tensor, axis: int, target: int) -> Tensor:
    length = value.shape[axis]
    shape = list(value.shape)
    shape[axis] = target
    u = interpolation_matrix(length, target, value.dtype, value.device)
    if axis == -1:
        out = value.new_empty(shape)
        products, vectors = out.view(-1, target), value.reshape(-1, length)
        for rows, columns in _blocks(u, length, target):
            torch.mm(vectors[:, columns], u[rows, columns].T, out=products[:, rows])
        return out
    phases = _phases(length, target)
    if phases is None:
        return apply_along_axis(u, value, axis)
    out = value.new_empty(shape)
    for inner, fraction, edge, index in _phase_views(out, axis, length, phases):
        torch.lerp(value.narrow(axis, 0, length - 1), value.narrow(axis, 1, length - 1), fraction, out=inner)
        edge.copy_(value.narrow(axis, index, 1))
    return out


def _upsample_axis_transposed(grad: Tensor, axis: int, length: int) -> Tensor:
    target = grad.shape[axis]
    shape = list(grad.shape)
    shape[axis] = length
    u = interpolation_matrix(length, target, grad.dtype, grad.device)
    if axis == -1:
        out = grad.new_zeros(shape)
        products, vectors = out.view(-1, length), grad.reshape(-1, target)
        for rows, columns in _blocks(u, length, target):
            products[:, columns].addmm_(vectors[:, rows], u[rows, columns])
        return out
    phases = _phases(length, target)
    if phases is None:
        return apply_along_axis(u.T, grad, axis)
    out = grad.new_zeros(shape)
    for inner, fraction, edge, index in _phase_views(grad, axis, length, phases):
        out.narrow(axis, 0, length - 1).add_(inner, alpha=1 - fraction)
        out.narrow(axis, 1, length - 1).add_(inner, alpha=fraction)
        out.narrow(axis, index, 1).add_(edge)
    return out
