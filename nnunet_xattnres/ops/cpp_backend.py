"""Eqs. 4-8 of arXiv 2604.03297 on a CPU, in float32 and float64, by the kernels in `cpp_kernels.cpp`.

PyTorch projects every feature at its own resolution, because a 1x1 convolution commutes with linear interpolation. The
kernels then compute everything else in one pass over the pixels, without the interpolated values. Nothing is kept for
backward but the arguments: it computes projections, logits and attention again.
"""

import ctypes
import math
import threading
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .cpp_library import load_library
from .needed_gradients import NeededGradients
from .projection import project_channels_last, project_channels_last_backward
from .torch_backend import empty, sample_groups, zeros

DTYPES = (torch.float32, torch.float64)
"""The dtypes of x that the kernels compute."""

# Channels are padded to a multiple of this many bytes, which the kernels read at once.
_ALIGNMENT = 64
# The most bytes that a thread keeps between calls for intermediate results.
_WORKSPACE = 256 * 2**20
# The slabs of a sample, which threads take one after the other, and the least planes of a slab: a slab has sums of its
# own for all planes that it reads, and thin slabs have many of them in common.
_SLABS, _LEAST_PLANES = 16, 4


# The structures of cpp_kernels.cpp
class _Axis(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("lower", "upper", "fraction"))


class _Feature(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("axes", _Axis * 3),
        ("length", ctypes.c_int64 * 3),
        ("planes", ctypes.c_int64),
    )


class _Part(ctypes.Structure):
    _fields_ = (("value", ctypes.c_void_p), ("gradient", ctypes.c_void_p), ("channels", ctypes.c_int64))


class _Arguments(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("features", "parts", "query", "gate", "out", "alpha")),
        *((name, ctypes.c_void_p) for name in ("grad_out", "grad_alpha", "grad_query", "grad_gate")),
        *((name, ctypes.c_int64) for name in ("samples", "threads", "feature_count", "part_count")),
        *((name, ctypes.c_int64) for name in ("channels", "padded_channels")),
        ("size", ctypes.c_int64 * 3),
        ("planes_per_slab", ctypes.c_int64),
        ("eps", ctypes.c_double),
    )


def forward(
    sources: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    query: Tensor,
    gate: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Compute out (B, C, *S) and alpha (B, K+1, *S); arguments as in `torch_backend.forward`."""
    channels = query.numel()
    out = x[0].new_empty((len(x[0]), channels, *x[0].shape[2:]))
    alpha = x[0].new_empty((len(x[0]), len(sources) + 1, *x[0].shape[2:]))
    for rows in sample_groups(sources, x, _padded(channels, x[0].dtype), x[0].dtype):
        values = _project(sources, weights, biases, rows, x[0].dtype, channels)
        _Kernels(values, x, rows, query, gate, eps).forward(out[rows], alpha[rows])
    return out, alpha


def backward(
    grad_out: Tensor | None,
    grad_alpha: Tensor | None,
    sources: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    query: Tensor,
    gate: Tensor | None,
    eps: float,
    needed: NeededGradients | None = None,
) -> tuple[
    list[Tensor | None], list[Tensor | None], list[Tensor | None], list[Tensor | None], Tensor | None, Tensor | None
]:
    """Compute the gradients of sources, x, weights, biases, query and gate; arguments as in `torch_backend.backward`.

    Those of the query and the gate are always computed, because they cost nothing beside the others.
    """
    needed = NeededGradients.all(sources, x, weights, biases, gate) if needed is None else needed
    dtype, channels = x[0].dtype, query.numel()
    if grad_out is None:
        grad_out = x[0].new_zeros((len(x[0]), channels, *x[0].shape[2:]))
    needed_values = [needed.value(n) for n in range(len(sources))]
    grad_sources, grad_x = empty(sources, needed.sources, dtype), empty(x, needed.x, dtype)
    grad_weights, grad_biases = zeros(weights, needed.weights, dtype), zeros(biases, needed.biases, dtype)
    grad_query, grad_gate = torch.zeros(channels, dtype=dtype), torch.zeros((), dtype=dtype)
    for rows in sample_groups(sources, x, _padded(channels, dtype), dtype):
        values = _project(sources, weights, biases, rows, dtype, channels)
        d_values, d_query, d_gate = _Kernels(values, x, rows, query, gate, eps).backward(
            grad_out[rows],
            None if grad_alpha is None else grad_alpha[rows],
            needed_values,
            [None if gradient is None else gradient[rows] for gradient in grad_x],
        )
        grad_query += d_query
        grad_gate += d_gate
        for n, (d_value, source) in enumerate(zip(d_values, sources, strict=True)):
            if d_value is None:
                continue
            grad_source = grad_sources[n]
            d_weight, d_bias = project_channels_last_backward(
                d_value,
                source[rows],
                weights[n],
                None if grad_source is None else grad_source[rows],
                needed.weights[n],
                needed.biases[n],
            )
            for total, gradient in ((grad_weights[n], d_weight), (grad_biases[n], d_bias)):
                if total is not None and gradient is not None:
                    total += gradient
    grad_of_gate = None if gate is None else grad_gate.view_as(gate)
    return grad_sources, grad_x, grad_weights, grad_biases, grad_query, grad_of_gate


class _Workspace(threading.local):
    """Memory for the intermediate results of a call, which the next call uses again.

    New memory is slow, because the operating system clears it page by page: on a virtual machine, 1 GB took 0.6 s.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def start(self) -> None:
        """Use the memory from its beginning. What has been taken from it is no longer valid."""
        size = min(self._used, _WORKSPACE)
        if size > len(self._memory):
            self._memory = self._memory.new_empty(0)  # frees it before the larger one is made
            # a tensor that is made in inference mode could not be changed outside of it
            with torch.inference_mode(False):
                self._memory = torch.empty(size, dtype=torch.uint8)
        self._used = 0

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor with any content."""
        start, size = self._used, math.prod(shape) * dtype.itemsize
        self._used += -(-size // _ALIGNMENT) * _ALIGNMENT
        if self._used > len(self._memory):
            return torch.empty(shape, dtype=dtype)
        return self._memory[start : start + size].view(dtype).view(shape)


_workspace = _Workspace()


def _project(sources, weights, biases, rows: slice, dtype: torch.dtype, channels: int) -> list[Tensor]:
    """The K projected features of some samples at their own resolutions, (B, *length, C) with padded channels.

    They are the first intermediate results of a call.
    """
    _workspace.start()
    values = []
    for source, weight, bias in zip(sources, weights, biases, strict=True):
        samples = source[rows]
        values.append(_workspace.take((len(samples), *_three_axes(source), _padded(channels, dtype)), dtype))
        project_channels_last(samples, weight, bias, values[-1].flatten(1, 3))
    return values


def _padded(channels: int, dtype: torch.dtype) -> int:
    """The number of channels with padding."""
    multiple = _ALIGNMENT // dtype.itemsize
    return -(-channels // multiple) * multiple


def _three_axes(tensor: Tensor) -> tuple[int, int, int]:
    """The spatial size with three axes; two-dimensional images have one line in every plane."""
    size = tensor.shape[2:]
    return (size[0], 1, size[1]) if len(size) == 2 else (size[0], size[1], size[2])


@lru_cache(maxsize=256)
def _taps(length: int, target: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The two elements that each of `target` positions reads, int32, and the weight of the second one.

    They are those of `torch.nn.functional.interpolate` in float64: at the end of an axis, both elements are the last
    one, so that an infinite element reaches the same positions.
    """
    position = ((torch.arange(target, dtype=torch.float64) + 0.5) * (length / target) - 0.5).clamp(min=0)
    lower = position.floor().clamp(max=length - 1)
    return lower.int(), (lower + 1).clamp(max=length - 1).int(), (position - lower).to(dtype)


class _Kernels:
    """The kernels with their arguments, for some samples.

    Args:
        values: the projected features, (B, *length, C) with three axes and padded channels.
        x, query, gate, eps: as in `forward`.
        rows: the samples.
    """

    def __init__(
        self, values: list[Tensor], x: Sequence[Tensor], rows: slice, query: Tensor, gate: Tensor | None, eps: float
    ):
        self.dtype = x[0].dtype
        self.values = values
        self.current = [part[rows].contiguous() for part in x]
        self.channels, self.padded_channels = query.numel(), values[0].shape[-1]
        self.query = F.pad(query.to(self.dtype), (0, self.padded_channels - self.channels))
        self.gate = None if gate is None else gate.to(self.dtype)
        self.eps = eps
        self.size = _three_axes(x[0])
        self.planes_per_slab = max(_LEAST_PLANES, -(-self.size[0] // _SLABS))
        self.slabs = -(-self.size[0] // self.planes_per_slab)
        # of every feature, for every axis that is interpolated
        self.taps = [
            [None if s == t else _taps(s, t, self.dtype) for s, t in zip(value.shape[1:4], self.size, strict=True)]
            for value in values
        ]

    def forward(self, out: Tensor, alpha: Tensor) -> None:
        """Write out (B, C, *S) and alpha (B, K+1, *S)."""
        nothing: list[None] = [None] * len(self.values)
        self._run("forward", nothing, [None] * len(self.current), out=out, alpha=alpha)

    def backward(
        self, grad_out: Tensor, grad_alpha: Tensor | None, needed: Sequence[bool], grad_current: list[Tensor | None]
    ) -> tuple[list[Tensor | None], Tensor, Tensor]:
        """Write the gradients of x to `grad_current`, except to None, and return the others.

        Returns:
            the gradients of those projected features that are needed, (B, pixels, C), of the query and of the gate.
        """
        batch = len(grad_out)
        gradients = [self._gradient(n) if need else None for n, need in enumerate(needed)]
        grad_query = torch.zeros((batch, self.slabs, self.padded_channels), dtype=self.dtype)
        grad_gate = torch.empty((batch, self.slabs), dtype=self.dtype)
        self._run(
            "backward", gradients, grad_current, grad_out=grad_out.contiguous(),
            grad_alpha=None if grad_alpha is None else grad_alpha.contiguous(), grad_query=grad_query,
            grad_gate=grad_gate,
        )  # fmt: skip
        d_values = [None if g is None else self._sum_slabs(n, g) for n, g in enumerate(gradients)]
        d_values = [None if d is None else d.flatten(1, 3)[..., : self.channels] for d in d_values]
        return d_values, grad_query.sum((0, 1))[: self.channels], grad_gate.sum()

    def _planes(self, n: int) -> list[tuple[int, int]] | None:
        """The first plane of feature n that each slab reads, and behind the last; None if every slab reads its own."""
        taps = self.taps[n][0]
        if taps is None:
            return None
        lower, upper, _ = taps
        starts = range(0, self.size[0], self.planes_per_slab)
        ends = (min(start + self.planes_per_slab, self.size[0]) for start in starts)
        return [(int(lower[start]), int(upper[end - 1]) + 1) for start, end in zip(starts, ends, strict=True)]

    def _gradient(self, n: int) -> Tensor:
        """The tensor for the gradient of feature n, or for the sums of all slabs."""
        value, planes = self.values[n], self._planes(n)
        if planes is None:
            gradient = _workspace.take(value.shape, self.dtype)
            return gradient if self.taps[n] == [None] * 3 else gradient.zero_()
        batch, _, *others = value.shape
        most = max(end - first for first, end in planes)
        return _workspace.take((batch, self.slabs, most, *others), self.dtype).zero_()

    def _sum_slabs(self, n: int, gradient: Tensor) -> Tensor:
        """The sum over all slabs, as `values`."""
        planes = self._planes(n)
        if planes is None:
            return gradient
        total = _workspace.take(self.values[n].shape, self.dtype).zero_()
        for slab, (first, end) in enumerate(planes):
            total[:, first:end] += gradient[:, slab, : end - first]
        return total

    def _run(
        self, function: str, gradients: Sequence[Tensor | None], grad_current: Sequence[Tensor | None],
        **tensors: Tensor | None,
    ) -> None:  # fmt: skip
        """Call a kernel for all samples."""
        features = (_Feature * len(self.values))(*(self._feature(n, g) for n, g in enumerate(gradients)))
        parts = (_Part * len(self.current))(
            *(_Part(p.data_ptr(), _pointer(g), p.shape[1]) for p, g in zip(self.current, grad_current, strict=True))
        )
        arguments = _Arguments(
            features=ctypes.addressof(features), parts=ctypes.addressof(parts), query=self.query.data_ptr(),
            gate=_pointer(self.gate), samples=len(self.current[0]), threads=torch.get_num_threads(),
            feature_count=len(features), part_count=len(parts), channels=self.channels,
            padded_channels=self.padded_channels, size=self.size, planes_per_slab=self.planes_per_slab, eps=self.eps,
            **{name: _pointer(tensor) for name, tensor in tensors.items()},
        )  # fmt: skip
        compute = getattr(load_library(), f"{function}_{str(self.dtype).removeprefix('torch.')}")
        if compute(ctypes.addressof(arguments)):
            raise MemoryError("XAttnRes: there is not enough memory for the C++ kernels")

    def _feature(self, n: int, gradient: Tensor | None) -> _Feature:
        value, planes = self.values[n], 0
        if gradient is not None and self.taps[n][0] is not None:
            planes = gradient.shape[2]
        axes = [_Axis() if taps is None else _Axis(*(tensor.data_ptr() for tensor in taps)) for taps in self.taps[n]]
        return _Feature(value.data_ptr(), _pointer(gradient), (_Axis * 3)(*axes), tuple(value.shape[1:4]), planes)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
