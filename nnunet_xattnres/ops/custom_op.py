"""The operator as PyTorch sees it: one opaque op forward, one backward, whatever computes inside.

`torch.compile`, autocast, DistributedDataParallel and `torch.export` meet `nnunet_xattnres::forward` and
`nnunet_xattnres::backward`; the backend that computes them travels as an argument.
"""

import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import torch_backend

_log = logging.getLogger("nnunet_xattnres")
_failed: list[Exception] = []
_refused: set[str] = set()


def _compute(function: str, backend: str, *arguments):
    """`forward` or `backward` of a backend; where Triton fails, PyTorch's, from then on, with one warning."""
    device = arguments[-2].device.type
    # logits would overflow in the half precision that autocast chooses for matrix products
    available = torch.amp.is_autocast_available(device)
    with torch.autocast(device, enabled=False) if available else nullcontext():
        if backend == "triton" and not _failed:
            try:
                return getattr(import_module(".triton_backend", __package__), function)(*arguments)
            except torch.OutOfMemoryError:
                raise
            except NotImplementedError as error:
                if str(error) not in _refused:
                    _refused.add(str(error))
                    _log.warning("XAttnRes: %s, so PyTorch computes this layer, slower", error)
            except Exception as error:  # a training is worth more than its speed
                _failed.append(error)
                _log.warning("XAttnRes: Triton failed (%r), so PyTorch computes from here on, slower", error)
        return getattr(torch_backend, function)(*arguments)


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
    r"""Eqs. 4-8 behind the pooling.

    Args:
        sources: K tensors (B, C_k, *S_k), no axis longer than in x.
        x: tensors (B, *, *S) whose concatenation along the channels is x, (B, C, *S).
        weights, biases: (C, C_k) and (C,) for the entries in `projected`.
        projected: which entries are projected, ascending.
        query: w times the gain, (C,).
        eps: added to the mean square under the root of RMSNorm.
        backend: "torch" or "triton".

    Returns:
        out (B, C, *S) in the dtype of x, and alpha (B, K+1, *S) in float32 or better.
    """
    weights, biases = (_spread(p, projected, len(sources)) for p in (weights, biases))
    return _compute("forward", backend, sources, x, weights, biases, query, eps)


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
    """Gradients of `sources`, `x`, `weights`, `biases` and `query`, one after the other."""
    spread = (_spread(p, projected, len(sources)) for p in (weights, biases))
    *lists, grad_query = _compute("backward", backend, grad_out, grad_alpha, sources, x, *spread, query, eps)
    gradients = [g for of_list in lists for g in of_list if g is not None] + [grad_query]
    inputs = (*sources, *x, *weights, *biases, query)
    return [g.to(t.dtype) for g, t in zip(gradients, inputs, strict=True)]


@backward.register_fake
def _(grad_out, grad_alpha, sources, x, weights, biases, projected, query, eps, backend):
    inputs = (*sources, *x, *weights, *biases, query)
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs]


def _setup(ctx, inputs, output):
    sources, x, weights, biases, ctx.projected, query, ctx.eps, ctx.backend = inputs
    ctx.lengths = [len(sources), len(x), len(weights), len(biases)]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*sources, *x, *weights, *biases, query)


def _gradients(ctx, grad_out, grad_alpha):
    *tensors, query = ctx.saved_tensors
    lists = _split(tensors, ctx.lengths)[:-1]
    gradients = backward(grad_out, grad_alpha, *lists, ctx.projected, query, ctx.eps, ctx.backend)
    sources, x, weights, biases, (query,) = _split(gradients, ctx.lengths)
    # torch.library takes an empty list for a list of tensors
    return sources, x, weights, biases, None if ctx.projected else [], query, None, None


forward.register_autograd(_gradients, setup_context=_setup)


@register_flop_formula([torch.ops.nnunet_xattnres.forward])
def _flops(sources, x, weights, biases, projected, query, eps, backend, *args, out_shape=None, **kwargs) -> int:
    """The projections: PyTorch counts matrix products and convolutions, nothing else."""
    return sum(
        2 * math.prod(weight) * sources[n][0] * math.prod(sources[n][2:])
        for n, weight in zip(projected, weights, strict=True)
    )


@register_flop_formula([torch.ops.nnunet_xattnres.backward])
def _backward_flops(grad_out, grad_alpha, *args, out_shape=None, **kwargs) -> int:
    """The projections once more, and their two gradients."""
    return 3 * _flops(*args)


def _split(flat: Sequence[Tensor], lengths: Sequence[int]) -> list[list[Tensor]]:
    """Consecutive lists of the given lengths, and the rest."""
    flat, lists = list(flat), []
    for length in lengths:
        lists.append(flat[:length])
        flat = flat[length:]
    return [*lists, flat]


def _spread(tensors: Sequence[Tensor], where: Sequence[int], length: int) -> list[Tensor | None]:
    spread: list[Tensor | None] = [None] * length
    for n, tensor in zip(where, tensors, strict=True):
        spread[n] = tensor
    return spread
