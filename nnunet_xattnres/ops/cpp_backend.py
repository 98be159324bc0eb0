"""Eqs. 4-8 of arXiv 2604.03297 on a CPU, in float32 and float64, by the kernels in `cpp_kernels.cpp`.

PyTorch projects every feature at its own resolution, because a 1x1 convolution commutes with linear interpolation. The
kernels then compute everything else in one pass over the pixels, without the interpolated values. Nothing is kept for
backward but the arguments: it computes projections, logits and attention again.
"""

import ctypes
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .cpp_library import DTYPES, call, pointer
from .needed_gradients import NeededGradients
from .projection import project_channels_last, project_channels_last_backward
from .torch_backend import empty, sample_groups, zeros

__all__ = ["DTYPES", "backward", "forward"]

# Channels are padded to a multiple of this many bytes, which the kernels read at once.
_ALIGNMENT = 64
# The most bytes that a thread keeps between calls for intermediate results.
_WORKSPACE = 256 * 2**20
# The least planes of a slab, and the most slabs of a sample in the backward pass. Threads take slabs one after the
# other. In the backward pass, a slab has sums of its own for all planes that it reads, and thin slabs have many of them
# in common.
_LEAST_PLANES, _SLABS = 4, 16


# The structures of cpp_kernels.cpp
class _Axis(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("lower", "upper", "fraction"))


class _Feature(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("source", "value", "gradient", "grad_source", "sums", "grad_bias")),
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
        ("slabs", ctypes.c_int64),
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
        features = _project(sources, weights, biases, rows, x[0].dtype, channels)
        _Kernels(features, x, rows, query, gate, eps).forward(out[rows], alpha[rows])
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
    overwrite: bool = False,
) -> tuple[
    list[Tensor | None], list[Tensor | None], list[Tensor | None], list[Tensor | None], Tensor | None, Tensor | None
]:
    """Compute the gradients of sources, x, weights, biases, query and gate; arguments as in `torch_backend.backward`.

    Those of the query and the gate are always computed, because they cost nothing beside the others.
    `overwrite` changes nothing here.
    """
    needed = NeededGradients.all(sources, x, weights, biases, gate) if needed is None else needed
    dtype, channels = x[0].dtype, query.numel()
    if grad_out is None:
        grad_out = x[0].new_zeros((len(x[0]), channels, *x[0].shape[2:]))
    grad_sources, grad_x = empty(sources, needed.sources, dtype), empty(x, needed.x, dtype)
    grad_weights, grad_biases = zeros(weights, needed.weights, dtype), zeros(biases, needed.biases, dtype)
    grad_query, grad_gate = torch.zeros(channels, dtype=dtype), torch.zeros((), dtype=dtype)
    for rows in sample_groups(sources, x, _padded(channels, dtype), dtype):
        features = _project(sources, weights, biases, rows, dtype, channels)
        for n, (feature, grad_source) in enumerate(zip(features, grad_sources, strict=True)):
            if needed.value(n):
                feature.gradient = _workspace.take(feature.value.shape, dtype)
            if grad_source is not None and weights[n] is None:
                feature.grad_source = grad_source[rows]
        d_query, d_biases, d_gate = _Kernels(features, x, rows, query, gate, eps).backward(
            grad_out[rows],
            None if grad_alpha is None else grad_alpha[rows],
            [None if gradient is None else gradient[rows] for gradient in grad_x],
            needed.biases,
        )
        grad_query += d_query
        grad_gate += d_gate
        for total, d_bias in zip(grad_biases, d_biases, strict=True):
            if total is not None and d_bias is not None:
                total += d_bias
        for feature, source, weight, grad_source, grad_weight in zip(
            features, sources, weights, grad_sources, grad_weights, strict=True
        ):
            if feature.gradient is None or weight is None:
                continue
            project_channels_last_backward(
                feature.gradient.flatten(1, 3)[..., :channels],
                source[rows],
                weight,
                None if grad_source is None else grad_source[rows],
                grad_weight,
            )
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


@dataclass
class _FeatureTensors:
    """A feature for the kernels, with three axes. Tensors that are channels-last have padded channels.

    Attributes:
        value: the projected feature, (B, *length, C), channels-last.
        source: the feature, (B, C, *length), where it is not projected, and the kernels copy it to `value`.
        gradient: memory for the gradient of `value`, or None where it is not needed.
        grad_source: memory for the gradient of `source`, or None.
    """

    value: Tensor
    source: Tensor | None = None
    gradient: Tensor | None = None
    grad_source: Tensor | None = None


def _project(sources, weights, biases, rows: slice, dtype: torch.dtype, channels: int) -> list[_FeatureTensors]:
    """The K features of some samples, projected at their own resolutions.

    They are the first intermediate results of a call.
    """
    _workspace.start()
    features = []
    for source, weight, bias in zip(sources, weights, biases, strict=True):
        samples = source[rows]
        value = _workspace.take((len(samples), *_three_axes(source), _padded(channels, dtype)), dtype)
        if weight is None:
            features.append(_FeatureTensors(value, samples.to(dtype).contiguous()))
        else:
            project_channels_last(samples, weight, bias, value.flatten(1, 3))
            features.append(_FeatureTensors(value))
    return features


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
        features: the features.
        x, query, gate, eps: as in `forward`.
        rows: the samples.
    """

    def __init__(
        self,
        features: list[_FeatureTensors],
        x: Sequence[Tensor],
        rows: slice,
        query: Tensor,
        gate: Tensor | None,
        eps: float,
    ):
        self.dtype = x[0].dtype
        self.features = features
        self.current = [part[rows].contiguous() for part in x]
        self.channels, self.padded_channels = query.numel(), features[0].value.shape[-1]
        self.query = F.pad(query.to(self.dtype), (0, self.padded_channels - self.channels))
        self.gate = None if gate is None else gate.to(self.dtype)
        self.eps = eps
        self.size = _three_axes(x[0])
        # of every feature, for every axis that is interpolated
        self.taps = [
            [None if s == t else _taps(s, t, self.dtype) for s, t in zip(f.value.shape[1:4], self.size, strict=True)]
            for f in features
        ]

    def forward(self, out: Tensor, alpha: Tensor) -> None:
        """Write out (B, C, *S) and alpha (B, K+1, *S)."""
        nothing: list[None] = [None] * len(self.features)
        self._run(
            "forward", _LEAST_PLANES, nothing, nothing, [None] * len(self.current), out=out, alpha=alpha
        )  # fmt: skip

    def backward(
        self,
        grad_out: Tensor,
        grad_alpha: Tensor | None,
        grad_current: list[Tensor | None],
        needed_biases: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None], Tensor]:
        """Write the gradients of the features, and those of x to `grad_current`, except to None.

        Returns:
            the gradients of the query, of the biases, which are None where they are not needed, and of the gate.
        """
        planes_per_slab = max(_LEAST_PLANES, -(-self.size[0] // _SLABS))
        slabs = -(-self.size[0] // planes_per_slab)
        batch = len(grad_out)

        def sums() -> Tensor:
            return torch.empty((batch, slabs, self.padded_channels), dtype=self.dtype)

        grad_query, grad_gate = sums(), torch.empty((batch, slabs), dtype=self.dtype)
        grad_biases = [sums() if need else None for need in needed_biases]
        self._run(
            "backward", planes_per_slab, [self._sums(n, planes_per_slab) for n in range(len(self.features))],
            grad_biases, grad_current, grad_out=grad_out.contiguous(),
            grad_alpha=None if grad_alpha is None else grad_alpha.contiguous(), grad_query=grad_query,
            grad_gate=grad_gate,
        )  # fmt: skip
        d_query, *d_biases = (
            None if total is None else total.sum((0, 1))[: self.channels] for total in (grad_query, *grad_biases)
        )
        assert d_query is not None
        return d_query, d_biases, grad_gate.sum()

    def _sums(self, n: int, planes_per_slab: int) -> Tensor | None:
        """Memory for the gradient of feature n in every slab, or None where every slab reads planes of its own."""
        taps = self.taps[n][0]
        if taps is None or self.features[n].gradient is None:
            return None
        lower, upper, _ = taps
        starts = range(0, self.size[0], planes_per_slab)
        ends = (min(start + planes_per_slab, self.size[0]) for start in starts)
        planes = max(int(upper[end - 1] - lower[start]) + 1 for start, end in zip(starts, ends, strict=True))
        batch, _, *others = self.features[n].value.shape
        return _workspace.take((batch, len(starts), planes, *others), self.dtype)

    def _run(
        self, function: str, planes_per_slab: int, sums: Sequence[Tensor | None], grad_biases: Sequence[Tensor | None],
        grad_current: Sequence[Tensor | None], **tensors: Tensor | None,
    ) -> None:  # fmt: skip
        """Call a kernel for all samples."""
        features = (_Feature * len(self.features))(
            *(self._feature(n, *memory) for n, memory in enumerate(zip(sums, grad_biases, strict=True)))
        )
        parts = (_Part * len(self.current))(
            *(_Part(pointer(p), pointer(g), p.shape[1]) for p, g in zip(self.current, grad_current, strict=True))
        )
        arguments = _Arguments(
            features=ctypes.addressof(features), parts=ctypes.addressof(parts), query=pointer(self.query),
            gate=pointer(self.gate), samples=len(self.current[0]), threads=torch.get_num_threads(),
            feature_count=len(features), part_count=len(parts), channels=self.channels,
            padded_channels=self.padded_channels, size=self.size, slabs=-(-self.size[0] // planes_per_slab),
            planes_per_slab=planes_per_slab, eps=self.eps, **{name: pointer(t) for name, t in tensors.items()},
        )  # fmt: skip
        call(function, self.dtype, arguments)

    def _feature(self, n: int, sums: Tensor | None, grad_bias: Tensor | None) -> _Feature:
        tensors = self.features[n]
        axes = [_Axis() if taps is None else _Axis(*map(pointer, taps)) for taps in self.taps[n]]
        return _Feature(
            pointer(tensors.source), pointer(tensors.value), pointer(tensors.gradient), pointer(tensors.grad_source),
            pointer(sums), pointer(grad_bias), (_Axis * 3)(*axes), tuple(tensors.value.shape[1:4]),
            0 if sums is None else sums.shape[2],
        )  # fmt: skip
