"""The operator as PyTorch operators: `nnunet_xattnres::forward` and `nnunet_xattnres::backward`.

`torch.compile`, autocast and DistributedDataParallel see these two opaque operators. The backend that computes them is
an argument. Exported graphs do not hold them (`export_backend.py`).
"""

import logging
import math
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import cpp_backend, torch_backend
from .autocast import without_autocast
from .needed_gradients import NeededGradients
from .operator_library import define_operator, not_differentiable
from .upsampling import upsample

_log = logging.getLogger("nnunet_xattnres")

T = TypeVar("T")

# why PyTorch has computed instead of Triton in this process: inputs that the kernels do not support on this GPU
triton_refusals: set[str] = set()
# the backends that have computed in this process
used_backends: set[str] = set()


def _compute(function: str, backend: str, *arguments):
    """Call `forward` or `backward` of a backend.

    If the Triton kernels do not support the inputs on this GPU, the PyTorch backend computes the call, and one warning
    says why. Any other error is raised: it is a fault of the kernels, which must not be hidden.
    """
    device = next(argument for argument in arguments if isinstance(argument, Tensor)).device.type
    with without_autocast(device):
        if backend == "triton":
            try:
                results = _call_triton(function, *arguments)
                used_backends.add("triton")
                return results
            except NotImplementedError as error:
                if str(error) not in triton_refusals:
                    triton_refusals.add(str(error))
                    _log.warning("XAttnRes: %s; using the slower PyTorch backend for this layer", error)
            backend = "torch"
        used_backends.add(backend)
        return getattr(cpp_backend if backend == "cpp" else torch_backend, function)(*arguments)


def _call_triton(function: str, *arguments):
    """Call the Triton backend; raises NotImplementedError where it does not support the inputs on this GPU."""
    from triton.runtime.errors import OutOfResources

    try:
        return getattr(import_module(".triton_backend", __package__), function)(*arguments)
    except (torch.OutOfMemoryError, NotImplementedError):
        raise
    except OutOfResources as error:
        raise NotImplementedError(f"the Triton kernels need more than this GPU has: {error}") from error
    except Exception as error:
        raise RuntimeError(
            f"XAttnRes: the Triton kernels failed ({type(error).__name__}: {error}). Please report this; "
            "XATTNRES_BACKEND=torch computes with the slower PyTorch backend"
        ) from error


def _forward(
    sources: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    projected: Sequence[int],
    query: Tensor,
    gate: Tensor | None,
    eps: float,
    backend: str,
    upsampling: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Compute Eqs. 4-8 for features that have been max-pooled.

    Args:
        sources: K features (B, C_k, *S_k), where no axis is longer than in x.
        x: tensors (B, *, *S) whose concatenation along the channels is x, (B, C, *S).
        weights, biases: (C, C_k) and (C,) of the features that are projected.
        projected: the indices of these features, ascending.
        query: the pseudo-query times the gain of RMSNorm, (C,).
        gate: g, a tensor of one element, or None for no gate.
        eps: added to the mean square under the root of RMSNorm.
        backend: "cpp", "torch" or "triton".
        upsampling: the arguments of `upsample` that give the first part of x, which is then not kept for the backward
            pass; or nothing.

    Returns:
        out (B, C, *S) in the dtype of x, and alpha (B, K+1, *S) in float32, or float64 for float64 inputs.
        With a gate, alpha is g times the attention, plus 1 - g for x, and out the sum with these weights.
    """
    per_source = (_per_source(parameters, projected, len(sources)) for parameters in (weights, biases))
    return _compute("forward", backend, sources, x, *per_source, query, gate, eps)


def _forward_fake(sources, x, weights, biases, projected, query, gate, eps, backend, upsampling):
    first = x[0]
    acc_dtype = torch.promote_types(first.dtype, torch.float32)
    out = first.new_empty((first.shape[0], query.shape[0], *first.shape[2:]))
    return out, first.new_empty((first.shape[0], len(sources) + 1, *first.shape[2:]), dtype=acc_dtype)


def _backward(
    grad_out: Tensor | None,
    grad_alpha: Tensor | None,
    sources: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    projected: Sequence[int],
    query: Tensor,
    gate: Tensor | None,
    eps: float,
    backend: str,
    upsampling: Sequence[Tensor],
    needed: Sequence[bool],
) -> list[Tensor]:
    """Compute the gradients that are needed of `sources`, `x`, `weights`, `biases`, `query` and `gate`, in this order.

    Args:
        grad_out, grad_alpha: the gradients of out and alpha; one of them may be None for zero.
        x: as in `_forward`, without the part that `upsampling` gives.
        needed: for each of these tensors, in this order, whether its gradient is needed, also of that part; the last
            one is for the gate, also where there is none.

    The other arguments are those of `_forward`.
    """
    x = _all_parts(x, upsampling)
    per_source = (_per_source(parameters, projected, len(sources)) for parameters in (weights, biases))
    lengths = [len(sources), len(x), len(weights), len(biases), 1, 1]
    needs_sources, needs_x, needs_weights, needs_biases, (needs_query,), (needs_gate,) = _split(needed, lengths)
    needed_gradients = NeededGradients(
        needs_sources,
        needs_x,
        [bool(need) for need in _per_source(needs_weights, projected, len(sources))],
        [bool(need) for need in _per_source(needs_biases, projected, len(sources))],
        needs_query,
        needs_gate,
    )
    d_sources, d_x, d_weights, d_biases, d_query, d_gate = _compute(
        "backward", backend, grad_out, grad_alpha, sources, x, *per_source, query, gate, eps, needed_gradients,
        bool(upsampling),
    )  # fmt: skip
    d_weights, d_biases = ([gradients[n] for n in projected] for gradients in (d_weights, d_biases))
    gradients = [*d_sources, *d_x, *d_weights, *d_biases, d_query, d_gate]
    inputs = [*sources, *x, *weights, *biases, query, gate]
    return [
        d if d.dtype == t.dtype else d.to(t.dtype)
        for d, t, need in zip(gradients, inputs, needed, strict=True)
        if need and t is not None
    ]


def _backward_fake(
    grad_out, grad_alpha, sources, x, weights, biases, projected, query, gate, eps, backend, upsampling, needed
):
    inputs = [*sources, *_all_parts(x, upsampling), *weights, *biases, query, gate]
    return [
        torch.empty_like(t, memory_format=torch.contiguous_format)
        for t, need in zip(inputs, needed, strict=True)
        if need
    ]


def _all_parts(kept: Sequence[Tensor], upsampling: Sequence[Tensor]) -> list[Tensor]:
    """All parts of x, from those that are kept for the backward pass."""
    return [upsample(*upsampling), *kept] if upsampling else list(kept)


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    sources, x, weights, biases, ctx.projected, query, gate, ctx.eps, ctx.backend, upsampling = inputs
    kept = x[1:] if upsampling else x
    ctx.lengths = [len(sources), len(kept), len(weights), len(biases), 1, 1, len(upsampling)]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*sources, *kept, *weights, *biases, query, gate, *upsampling)


def _autograd_backward(ctx: Any, grad_out: Tensor | None, grad_alpha: Tensor | None) -> tuple:
    sources, x, weights, biases, (query,), (gate,), upsampling = _split(ctx.saved_tensors, ctx.lengths)
    needs_sources, needs_x, needs_weights, needs_biases, _, needs_query, needs_gate, *_ = ctx.needs_input_grad
    needed = [*needs_sources, *needs_x, *needs_weights, *needs_biases, needs_query, needs_gate]
    operands = sources, x, weights, biases, ctx.projected, query, gate, ctx.eps, ctx.backend, upsampling
    with torch.no_grad():
        computed = backward(grad_out, grad_alpha, *operands, needed)
    computed = iter(not_differentiable(computed))
    gradients = [next(computed) if need else None for need in needed]
    lengths = [len(needs_sources), len(needs_x), len(needs_weights), len(needs_biases), 1, 1]
    grad_sources, grad_x, grad_weights, grad_biases, (grad_query,), (grad_gate,) = _split(gradients, lengths)
    # `projected` has no gradient, but PyTorch takes an empty list for a list of tensors and expects a list
    grad_projected: list | None = None if ctx.projected else []
    return (
        grad_sources, grad_x, grad_weights, grad_biases, grad_projected, grad_query, grad_gate, None, None,
        [None] * len(upsampling),
    )  # fmt: skip


# the tables of the Triton backend hold addresses, which a CUDA graph would not update; older versions lack the tag
_TAGS = (torch.Tag.cudagraph_unsafe,) if hasattr(torch.Tag, "cudagraph_unsafe") else ()

backward = define_operator(_backward, _backward_fake, tags=_TAGS)
forward = define_operator(_forward, _forward_fake, _autograd_backward, _setup_context, tags=_TAGS)


@register_flop_formula([torch.ops.nnunet_xattnres.forward])
def _flops(sources, x, weights, biases, projected, *args, out_shape=None, **kwargs) -> int:
    """The operations of the projections, because PyTorch counts only matrix products and convolutions."""
    return sum(_projection_flops(sources, weights, projected))


@register_flop_formula([torch.ops.nnunet_xattnres.backward])
def _backward_flops(
    grad_out, grad_alpha, sources, x, weights, biases, projected, query, gate, eps, backend, upsampling, needed, *args,
    out_shape=None, **kwargs,
) -> int:  # fmt: skip
    """The upsampling and the projections, which are computed again, and those of the two gradients that are needed."""
    flops = _projection_flops(sources, weights, projected)
    needs_sources, _, needs_weights, *_ = _split(needed, [len(sources), len(x) + bool(upsampling), len(weights)])
    return _upsampling_flops(*upsampling) + sum(
        (1 + needs_sources[n] + needs_weight) * f
        for n, needs_weight, f in zip(projected, needs_weights, flops, strict=True)
    )


def _projection_flops(sources, weights, projected) -> list[int]:
    """The operations of every projection, from the shapes of the features and of the weights."""
    return [
        2 * math.prod(weight) * sources[n][0] * math.prod(sources[n][2:])
        for n, weight in zip(projected, weights, strict=True)
    ]


def _upsampling_flops(source=(), weight=(), bias=None) -> int:
    """The operations of `upsample`, from the shapes of its arguments."""
    return 2 * math.prod(weight) * source[0] * math.prod(source[2:]) if source else 0


def _split(values: Sequence[T], lengths: Sequence[int]) -> Iterator[list[T]]:
    """Split a flat list into consecutive lists of the given lengths."""
    start = 0
    for length in lengths:
        yield list(values[start : start + length])
        start += length


def _per_source(values: Sequence[T], indices: Sequence[int], length: int) -> list[T | None]:
    """One value per source, or None for the sources that are not in `indices`."""
    per_source: list[T | None] = [None] * length
    for index, value in zip(indices, values, strict=True):
        per_source[index] = value
    return per_source
