"""Linear interpolation, corners not aligned, as what it is: one small matrix U for every axis that grows.

The transpose of each step is as cheap as the step and adds in a fixed order, so that gradients are the same in every
run on every device, which `torch.nn.functional.interpolate` does not promise on CUDA.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

# on a CPU, a block of U's rows that reads so many columns keeps the product in the cache
_COLUMNS = 32
# up to this ratio, rows are mixed one phase at a time; beyond it by a matrix
_PHASES = 4


def taps(length: int, target: int) -> tuple[Tensor, Tensor]:
    """Where each of `target` positions reads: the lower of its two neighbours, and how far it is to the upper one."""
    position = (torch.arange(target, dtype=torch.float64) + 0.5) * (length / target) - 0.5
    position = position.clamp(0, length - 1)
    low = position.floor().clamp(max=max(length - 2, 0))
    return low.long(), position - low


@lru_cache(maxsize=256)
def interpolation_matrix(length: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """U (target, length): U @ v interpolates v."""
    low, fraction = taps(length, target)
    rows = torch.arange(target)
    u = torch.zeros(target, length, dtype=torch.float64)
    u[rows, low] = 1 - fraction
    if length > 1:
        u[rows, low + 1] += fraction
    return u.to(device, dtype)


@lru_cache(maxsize=256)
def squared_norm_matrix(length: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[U, -N] (target, 2 length - 1), which takes the squares of v and of its differences to the squares of U @ v.

    Between neighbours u and v, |(1-a) u + a v|^2 = (1-a) |u|^2 + a |v|^2 - a (1-a) |v - u|^2.
    """
    low, fraction = taps(length, target)
    n = torch.zeros(target, length - 1, dtype=torch.float64)
    if length > 1:
        n[torch.arange(target), low] = fraction * (1 - fraction)
    return torch.cat((interpolation_matrix(length, target, torch.float64, torch.device("cpu")), -n), 1).to(
        device, dtype
    )


@lru_cache(maxsize=256)
def pair_matrix(length: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(3 length, target): row i + (j + 1) length holds u_i u_(i+j), j = -1, 0, 1, u_i the columns of U, 0 beyond them.

    It takes the derivative by the squares of U @ v to what the products of neighbours v_i v_(i+j) receive.
    """
    u = interpolation_matrix(length, target, torch.float64, torch.device("cpu")).T
    beyond = u.new_zeros(1, target)
    shifted = torch.cat((beyond, u[:-1])), u, torch.cat((u[1:], beyond))
    return torch.cat([u * v for v in shifted]).to(device, dtype)


def apply(matrix: Tensor, maps: Tensor, axis: int) -> Tensor:
    """`matrix` (m, n) applied to an axis of length n, which counts from the end."""
    if axis == -1:
        return maps @ matrix.T
    shape = maps.shape
    product = matrix @ maps.flatten(axis + 1)
    return product.view(*shape[:axis], matrix.shape[0], *shape[axis + 1 :])


def grown_axes(shape: Sequence[int], size: Sequence[int]) -> list[int]:
    """The spatial axes, counted from the end, along which a map of `shape` is interpolated to `size`."""
    return [axis for axis in range(-len(size), 0) if shape[axis] != size[axis]]


def upsample(value: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, *S_k) -> (B, C, *size), linearly."""
    for axis in _order(value.shape, size):
        value = _upsample_axis(value, axis, size[axis])
    return value


def upsample_far_axes(value: Tensor, size: tuple[int, ...]) -> Tensor:
    """The part of `upsample` that is best done for all channels at once: the axes but the last that grow much."""
    for axis in _order(value.shape, size):
        if axis != -1 and _phases(value.shape[axis], size[axis]) is None:
            value = _upsample_axis(value, axis, size[axis])
    return value


def upsample_transposed(grad: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The transpose of `upsample`: (B, C, *size) -> (B, C, *shape)."""
    size = tuple(grad.shape[2:])
    for axis in reversed(_order((*grad.shape[:2], *shape), size)):
        grad = _shrink(grad, axis, shape[axis])
    return grad


def _order(shape: tuple[int, ...], size: tuple[int, ...]) -> list[int]:
    """The axes that grow, counted from the end: those that grow much, the last one, those that grow little."""

    def turn(axis: int) -> int:
        if axis == -1:
            return 1
        return 0 if _phases(shape[axis], size[axis]) is None else 2

    return sorted(grown_axes(shape, size), key=turn)


def _phases(length: int, target: int) -> list[tuple[int, float]] | None:
    """For a small whole ratio r, how position r i + p mixes rows i + offset and i + offset + 1, for p = 0..r-1."""
    ratio, rest = divmod(target, length)
    if rest or ratio > _PHASES:
        return None
    positions = [(p + 0.5) / ratio - 0.5 for p in range(ratio)]
    return [(-1, position + 1) if position < 0 else (0, position) for position in positions]


def _blocks(u: Tensor, length: int, target: int) -> Iterator[tuple[slice, slice]]:
    """U is banded: blocks of its rows with the columns they need."""
    rows = max(1, _COLUMNS * target // length) if u.device.type == "cpu" else target
    for start in range(0, target, rows):
        stop = min(start + rows, target)
        first = int((start + 0.5) * length / target - 0.5)
        last = int((stop - 0.5) * length / target - 0.5) + 1
        yield slice(start, stop), slice(max(first, 0), min(last + 1, length))


def _rows(
    full: Tensor, axis: int, length: int, phases: list[tuple[int, float]]
) -> Iterator[tuple[Tensor, float, Tensor, int]]:
    """Of a map at the larger size, for every phase: the rows between two neighbours of the smaller one and how far they
    are to the upper, and the row beyond its end, with which end that is."""
    rows = full.unflatten(axis, (length, -1))
    for p, (offset, fraction) in enumerate(phases):
        row, end = rows.select(axis, p), 0 if offset else length - 1
        yield row.narrow(axis, -offset, length - 1), fraction, row.narrow(axis, end, 1), end


def _upsample_axis(value: Tensor, axis: int, target: int) -> Tensor:
    length = value.shape[axis]
    shape = list(value.shape)
    shape[axis] = target
    u = interpolation_matrix(length, target, value.dtype, value.device)
    if axis == -1:
        out = value.new_empty(shape)
        rows, source = out.view(-1, target), value.reshape(-1, length)
        for to, of in _blocks(u, length, target):
            torch.mm(source[:, of], u[to, of].T, out=rows[:, to])
        return out
    phases = _phases(length, target)
    if phases is None:
        return apply(u, value, axis)
    out = value.new_empty(shape)
    for inner, fraction, edge, end in _rows(out, axis, length, phases):
        torch.lerp(value.narrow(axis, 0, length - 1), value.narrow(axis, 1, length - 1), fraction, out=inner)
        edge.copy_(value.narrow(axis, end, 1))
    return out


def _shrink(grad: Tensor, axis: int, length: int) -> Tensor:
    target = grad.shape[axis]
    shape = list(grad.shape)
    shape[axis] = length
    u = interpolation_matrix(length, target, grad.dtype, grad.device)
    if axis == -1:
        out = grad.new_zeros(shape)
        columns, rows = out.view(-1, length), grad.reshape(-1, target)
        for to, of in _blocks(u, length, target):
            columns[:, of].addmm_(rows[:, to], u[to, of])
        return out
    phases = _phases(length, target)
    if phases is None:
        return apply(u.T, grad, axis)
    out = grad.new_zeros(shape)
    for inner, fraction, edge, end in _rows(grad, axis, length, phases):
        out.narrow(axis, 0, length - 1).add_(inner, alpha=1 - fraction)
        out.narrow(axis, 1, length - 1).add_(inner, alpha=fraction)
        out.narrow(axis, end, 1).add_(edge)
    return out
