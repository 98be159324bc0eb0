"""Eqs. 4-8 of arXiv 2604.03297 in Triton, without the K+1 values at the size of x.

The features that are interpolated are projected at their own resolution and stored with the channels of a cell next to
each other. Interpolation and weighted sum of a tile of pixels are one product with a banded matrix (`tiles.py`), on
tensor cores, for all features together. As in `torch_backend.py`, the logits of an interpolated feature follow from a
few scalar maps at its own resolution. The projections of all features are one kernel (`triton_projection.py`).

The backward pass computes the gradients of a tile with the same matrix. Every element is written by one program, and
every sum has a fixed order, without atomics, so two runs are bitwise equal. Sums are in float32; there are no kernels
for float64 (`dispatch.py` selects PyTorch for it). Nothing is kept for backward but the arguments.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from . import torch_backend
from .needed_gradients import NeededGradients
from .triton_launch import as_operand, is_interpreted
from .triton_layer import BlockSizes, LayerShapes, layer_kernels

BLOCK_SIZES = BlockSizes()


def probe_triton(device_type: str) -> str | None:
    """Why these kernels cannot be used on a device, in a few words, or None if a small example works."""
    if device_type != "cuda" and not is_interpreted():
        return f"it needs a CUDA device, the tensors are on {device_type}"
    if device_type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability() < (7, 0):
        return f"it needs compute capability 7.0 or higher, {torch.cuda.get_device_name()} has less"
    try:
        # the caller may be under autocast, or may be traced with fake tensors, which have no values
        with unset_fake_temporarily(), torch.autocast(device_type, enabled=False):
            difference = _difference_to_pytorch(device_type)
    except Exception as error:  # a missing driver, C compiler or GPU feature must not end the training
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
    return None if difference < 0.02 else f"its results differ from PyTorch's by {difference:.1e} of the largest value"


def _difference_to_pytorch(device_type: str) -> float:
    """The largest difference to `torch_backend.py` in the results and gradients of a small example.

    It is relative to the largest value of each tensor.
    """
    dtype = torch.float16 if device_type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device_type, dtype)

    sources = [draw(2, 6, 4, 6), draw(2, 20, 2, 3), draw(2, 9, 1, 6)]
    x = [draw(2, 8, 4, 6), draw(2, 12, 4, 6)]
    weights, biases = [draw(20, 6) / 3, None, draw(20, 9) / 3], [draw(20), None, draw(20)]
    operands = sources, x, weights, biases, draw(20).float() / 4, None, 1e-6
    gradients = draw(2, 20, 4, 6), draw(2, 4, 4, 6).float()
    largest = 0.0
    for function, arguments in (("forward", operands), ("backward", (*gradients, *operands))):
        actual, expected = (_flat(getattr(m, function)(*arguments)) for m in (sys.modules[__name__], torch_backend))
        for a, e in zip(actual, expected, strict=True):
            largest = max(largest, ((a - e).abs().max() / e.abs().max()).nan_to_num(torch.inf).item())
    return largest


def _flat(results) -> list[Tensor]:
    if isinstance(results, torch.Tensor):
        return [results.float()]
    return [tensor for result in results if result is not None for tensor in _flat(result)]


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
    parts = _two_parts(x)
    with torch.cuda.device_of(query):
        kernels = layer_kernels(LayerShapes.of(sources, parts, weights, biases, query, gate, eps), BLOCK_SIZES)
        return kernels.forward(sources, parts, weights, biases, query, gate)


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
) -> tuple[list[Tensor | None], list[Tensor], list[Tensor | None], list[Tensor | None], Tensor, Tensor | None]:
    """Compute the gradients of sources, x, weights, biases, query and gate; arguments as in `torch_backend.backward`.

    Gradients of x, query and gate are computed whether they are needed or not.
    """
    needed = NeededGradients.all(sources, x, weights, biases, gate) if needed is None else needed
    parts = _two_parts(x)
    if grad_out is None:
        grad_out = parts[0].new_zeros((len(parts[0]), query.numel(), *parts[0].shape[2:]))
    d_sources = torch_backend.empty(sources, needed.sources)
    # the kernels read every element of x before they write its gradient
    d_parts = [p if i == 0 and overwrite else torch.empty_like(p) for i, p in enumerate(parts)]
    parameters: list[Tensor | None] = []
    with torch.cuda.device_of(query):
        shapes = LayerShapes.of(sources, parts, weights, biases, query, gate, eps, needed)
        step = layer_kernels(shapes, BLOCK_SIZES).samples_at_a_time
        for rows in _groups(shapes.batch, step):
            kernels = layer_kernels(shapes._replace(batch=rows.stop - rows.start), BLOCK_SIZES)
            # to take all samples as they are saves the CPU time
            take: Callable[..., list[Any]] = list if step >= shapes.batch else partial(_take, rows)
            of_out, of_alpha, *tensors = take([grad_out, grad_alpha, *parts, *d_parts])
            gradients = kernels.backward(
                of_out, of_alpha, take(sources), tensors[: len(parts)], weights, biases, query, gate,
                take(d_sources), tensors[len(parts) :],
            )  # fmt: skip
            if parameters:
                torch._foreach_add_(_present(parameters), _present(gradients))
            parameters = parameters or gradients
    # the results of a PyTorch operator must not share memory
    if len(d_parts) != len(x):
        d_parts = [d.clone() for d in d_parts[0].split([p.shape[1] for p in x], 1)]
    d_query, d_gate, *others = parameters
    assert d_query is not None
    return d_sources, d_parts, others[: len(sources)], others[len(sources) :], d_query, d_gate


def _present(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """Those that are not None."""
    return [tensor for tensor in tensors if tensor is not None]


def _groups(batch: int, step: int) -> Iterator[slice]:
    """All samples in order, `step` of them at a time."""
    return (slice(start, min(start + step, batch)) for start in range(0, batch, step))


def _take(rows: slice, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Some samples of all tensors."""
    return [None if tensor is None else tensor[rows] for tensor in tensors]


def _two_parts(x: Sequence[Tensor]) -> list[Tensor]:
    """One or two contiguous tensors whose concatenation is that of `x`."""
    return [as_operand(part) for part in x] if len(x) <= 2 else [torch.cat(list(x), 1)]
