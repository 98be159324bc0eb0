"""The operator as PyTorch operators: `nnunet_xattnres::forward` and `nnunet_xattnres::backward`.

`torch.compile`, autocast, DistributedDataParallel and `torch.export` see these two opaque operators. The backend that
computes them is an argument.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import torch_backend

_log = logging.getLogger("nnunet_xattnres")

# why PyTorch has computed instead of Triton in this process: inputs that the kernels do not support on this GPU
triton_refusals: set[str] = set()
# the backends that have computed in this process
used_backends: set[str] = set()


def _compute(function: str, backend: str, *arguments):
    """Call `forward` or `backward` of a backend.

    If the Triton kernels do not support the inputs on this GPU, the PyTorch backend computes the call, and one warning
    says why. Any other error is raised: it is a fault of the kernels, which must not be hidden.
    """
    device = arguments[-2].device.type
    # autocast would compute matrix products in half precision, in which logits can overflow
    available = torch.amp.is_autocast_available(device)
    with torch.autocast(device, enabled=False) if available else nullcontext():
        if backend == "triton":
            try:
                results = _call_triton(function, *arguments)
                used_backends.add("triton")
                return results
            except NotImplementedError as error:
                if str(error) not in triton_refusals:
                    triton_refusals.add(str(error))
                    _log.warning("XAttnRes: %s; using the slower PyTorch backend for this layer", error)
        used_backends.add("torch")
        return getattr(torch_backend, function)(*arguments)


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


@torch.library.custom_op("nnunet_xattnres::forward", mutates_args=())
def forward(
    sources: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    projected: Sequence[int],
    query: Tensor,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Compute Eqs. 4-8 for features that have been max-pooled.

    Args:
        sources: K features (B, C_k, *S_k), where no axis is longer than in x.
        x: tensors (B, *, *S) whose concatenation along the channels is x, (B, C, *S).
        weights, biases: (C, C_k) and (C,) of the features that are projected.
        projected: the indices of these features, ascending.
        query: the pseudo-query times the gain of RMSNorm, (C,).
        eps: added to the mean square under the root of RMSNorm.
        backend: "torch" or "triton".

    Returns:
        out (B, C, *S) in the dtype of x, and alpha (B, K+1, *S) in float32, or float64 for float64 inputs.
    """
    per_source = (_per_source(parameters, projected, len(sources)) for parameters in (weights, biases))
    return _compute("forward", backend, sources, x, *per_source, query, eps)


@forward.register_fake
def _(sources, x, weights, biases, projected, query, eps, backend):
    first = x[0]
    acc_dtype = torch.promote_types(first.dtype, torch.float32)
    out = first.new_empty((first.shape[0], query.shape[0], *first.shape[2:]))
    return out, first.new_empty((first.shape[0], len(sources) + 1, *first.shape[2:]), dtype=acc_dtype)


@torch.library.custom_op("nnunet_xattnres::backward", mutates_args=())
def backward(
    grad_out: Tensor | None,
    grad_alpha: Tensor | None,
    sources: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    projected: Sequence[int],
    query: Tensor,
    eps: float,
    backend: str,
) -> list[Tensor]:
    """Compute the gradients of `sources`, `x`, `weights`, `biases` and `query`, in one flat list.

    `grad_out` or `grad_alpha` may be None for zero. The other arguments are those of `forward`.
    """
    per_source = (_per_source(parameters, projected, len(sources)) for parameters in (weights, biases))
    *lists, grad_query = _compute("backward", backend, grad_out, grad_alpha, sources, x, *per_source, query, eps)
    gradients = [grad for grads in lists for grad in grads if grad is not None] + [grad_query]
    inputs = (*sources, *x, *weights, *biases, query)
    return [grad.to(tensor.dtype) for grad, tensor in zip(gradients, inputs, strict=True)]


@backward.register_fake
def _(grad_out, grad_alpha, sources, x, weights, biases, projected, query, eps, backend):
    inputs = (*sources, *x, *weights, *biases, query)
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs]


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    sources, x, weights, biases, ctx.projected, query, ctx.eps, ctx.backend = inputs
    ctx.lengths = [len(sources), len(x), len(weights), len(biases)]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*sources, *x, *weights, *biases, query)


def _autograd_backward(ctx: Any, grad_out: Tensor | None, grad_alpha: Tensor | None) -> tuple:
    *tensors, query = ctx.saved_tensors
    sources, x, weights, biases = _split(tensors, ctx.lengths)
    gradients = backward(grad_out, grad_alpha, sources, x, weights, biases, ctx.projected, query, ctx.eps, ctx.backend)
    *lists, (grad_query,) = _split(gradients, [*ctx.lengths, 1])
    grad_sources, grad_x, grad_weights, grad_biases = lists
    # `projected` has no gradient, but PyTorch takes an empty list for a list of tensors and expects a list
    grad_projected: list | None = None if ctx.projected else []
    return grad_sources, grad_x, grad_weights, grad_biases, grad_projected, grad_query, None, None


forward.register_autograd(_autograd_backward, setup_context=_setup_context)


@register_flop_formula([torch.ops.nnunet_xattnres.forward])
def _flops(sources, x, weights, biases, projected, query, eps, backend, *args, out_shape=None, **kwargs) -> int:
    """The operations of the projections, because PyTorch counts only matrix products and convolutions."""
    return sum(
        2 * math.prod(weight) * sources[n][0] * math.prod(sources[n][2:])
        for n, weight in zip(projected, weights, strict=True)
    )


@register_flop_formula([torch.ops.nnunet_xattnres.backward])
def _backward_flops(grad_out, grad_alpha, *args, out_shape=None, **kwargs) -> int:
    """The projections, which are computed again, and their two gradients."""
    return 3 * _flops(*args)


def _split(tensors: Sequence[Tensor], lengths: Sequence[int]) -> Iterator[list[Tensor]]:
    """Split a flat list into consecutive lists of the given lengths."""
    start = 0
    for length in lengths:
        yield list(tensors[start : start + length])
        start += length


def _per_source(parameters: Sequence[Tensor], indices: Sequence[int], length: int) -> list[Tensor | None]:
    """One parameter per source, or None for the sources that are not in `indices`."""
    per_source: list[Tensor | None] = [None] * length
    for index, parameter in zip(indices, parameters, strict=True):
        per_source[index] = parameter
    return per_source
