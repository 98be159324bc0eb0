"""The operator, Eqs. 4-8 of the paper, and the ways to compute it.

`reference.py` is the specification; `torch_backend.py` and `triton_backend.py` compute the same function with less
memory and time, behind one opaque PyTorch op (`custom_op.py`); `dispatch.py` chooses between them.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from .custom_op import forward
from .dispatch import BACKENDS, resolve_backend
from .history import History
from .reference import xattnres as _reference

__all__ = ["BACKENDS", "History", "xattnres"]


def xattnres(
    history: Sequence[Tensor],
    x: Tensor | Sequence[Tensor],
    projections: Sequence[tuple[Tensor, Tensor] | None],
    pseudo_query: Tensor,
    norm_weight: Tensor,
    eps: float = 1e-6,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    parts = [x] if isinstance(x, Tensor) else list(x)
    dtype = reduce(torch.promote_types, (part.dtype for part in parts))
    parts = [part.to(dtype) for part in parts]
    chosen = resolve_backend(backend, parts[0].device.type)
    if chosen == "reference":
        return _reference(history, x, projections, pseudo_query, norm_weight, eps)
    pool = history if isinstance(history, History) else History(history)
    sources = pool.pooled(tuple(parts[0].shape[2:]))
    projected = [k for k, projection in enumerate(projections) if projection is not None]
    weights = [projections[k][0].flatten(1) for k in projected]
    biases = [projections[k][1] for k in projected]
    acc_dtype = torch.promote_types(pseudo_query.dtype, torch.float32)
    query = pseudo_query.to(acc_dtype) * norm_weight.to(acc_dtype)
    return forward(sources, parts, weights, biases, projected, query, eps, chosen)


xattnres.__doc__ = (
    _reference.__doc__
    + """
    Also here:
        history: a `History` shares its pooled copies between calls.
        backend: "auto", "reference", "torch" or "triton"; None for the environment's XATTNRES_BACKEND, else "auto".
"""
)
