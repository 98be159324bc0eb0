"""The public operator, `xattnres`, and the selection of the backend that computes it."""

import logging
import math
import os
import sys
from collections.abc import Sequence
from functools import cache, reduce

import torch
from torch import Tensor

from . import cpp_backend, cpp_library, custom_op, export_backend, reference
from .pooling import pool_history
from .upsampling import Parts, features_of, operands_of_first

BACKENDS = ("auto", "cpp", "reference", "torch", "triton")
"""The names that `backend` arguments and the environment variable accept."""

BACKEND_VARIABLE = "XATTNRES_BACKEND"
"""The environment variable that selects a backend where no argument does."""

_log = logging.getLogger("nnunet_xattnres")


def xattnres(
    history: Sequence[Tensor],
    x: Parts,
    projections: Sequence[tuple[Tensor, Tensor] | None],
    pseudo_query: Tensor,
    norm_weight: Tensor,
    eps: float = 1e-6,
    backend: str | None = None,
    gate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Attend, at every pixel, to the outputs of all earlier stages and to the current feature x.

    .. math:: \text{out}(p) = \sum_n \alpha_n(p) V_n(p), \quad
              \alpha(p) = \text{softmax}_n\big(w^\top \text{RMSNorm}(V_n(p))\big), \quad
              V = [\phi_1(h_1); \ldots; \phi_K(h_K); x]

    where phi_k resizes h_k to the size of x (adaptive max pooling or linear interpolation) and projects it to C
    channels by a 1x1 convolution. With a gate g, which is not in the paper, the result is

    .. math:: \text{out}_g(p) = x(p) + g\,(\text{out}(p) - x(p)), \quad
              \alpha_g = g\,\alpha + (1 - g)\,[0; \ldots; 0; 1]

    with the weights alpha_g, so that g = 0 is x itself and g = 1 is the attention without a gate.

    Args:
        history: K >= 1 stage outputs h_k, oldest first, each (B, C_k, *S_k), in a list or a `History`, which shares
            its pooled copies between calls.
        x: the current feature (B, C, *S) with two or three spatial axes, or several tensors whose concatenation along
            the channels is x. The concatenation is not materialised, except by the reference. The first of them may be
            `Upsampled`, which is then not kept for the backward pass.
        projections: for every feature of the history the weight (C, C_k, 1, ...) and the bias (C,) of its 1x1
            convolution, or None where C_k == C and the feature is not projected.
        pseudo_query: w, (C,).
        norm_weight: the gain of RMSNorm, (C,).
        eps: added to the mean square under the root of RMSNorm.
        backend: "auto", "cpp", "reference", "torch" or "triton". None takes the environment variable XATTNRES_BACKEND,
            and "auto" where that is not set. Where a graph is traced or exported, every backend gives the same graph,
            of PyTorch's own operations.
        gate: g, a tensor of one element, or None for no gate.

    Returns:
        out (B, C, *S) in the dtype of x, and alpha (B, K+1, *S) in float32, or float64 for float64 inputs. The last
        entry of alpha is the weight of x. With a gate, they are out_g and alpha_g.

    Raises:
        ValueError: for an unknown backend, or a gate of more than one element.

    Example:
        >>> import torch
        >>> history = [torch.ones(1, 4, 8, 8), torch.ones(1, 4, 2, 2)]
        >>> out, alpha = xattnres(history, torch.zeros(1, 4, 4, 4), [None, None], torch.zeros(4), torch.ones(4))
        >>> out.shape, alpha.shape
        (torch.Size([1, 4, 4, 4]), torch.Size([1, 3, 4, 4]))
        >>> print(f"{alpha[0, 2, 0, 0]:.3f} {out[0, 0, 0, 0]:.3f}")  # a pseudo-query of zeros gives the mean
        0.333 0.667

    Source: arXiv 2604.03297, Eqs. 4-8, except for the gate.
    """
    if gate is not None and math.prod(export_backend.static_shape(gate)) != 1:
        raise ValueError(f"XAttnRes: gate must have one element, got shape {tuple(gate.shape)}")
    features = features_of(x)
    dtype = reduce(torch.promote_types, (feature.dtype for feature in features))
    parts = [feature.to(dtype) for feature in features]
    if export_backend.is_exporting():
        return export_backend.xattnres(history, parts, projections, pseudo_query, norm_weight, eps, gate)
    resolved = resolve_backend(backend, parts[0].device.type, dtype)
    if resolved == "reference":
        whole = x if isinstance(x, Tensor) else features
        return reference.xattnres(history, whole, projections, pseudo_query, norm_weight, eps, gate)
    sources = pool_history(history, tuple(parts[0].shape[2:]))
    indices, weights, biases = [], [], []
    for k, projection in enumerate(projections):
        if projection is not None:
            indices.append(k)
            weights.append(projection[0].flatten(1))
            biases.append(projection[1])
    acc_dtype = torch.promote_types(pseudo_query.dtype, torch.float32)
    query = pseudo_query.to(acc_dtype) * norm_weight.to(acc_dtype)
    upsampling = operands_of_first(x, dtype)
    return custom_op.forward(sources, parts, weights, biases, indices, query, gate, eps, resolved, upsampling)


@torch.compiler.assume_constant_result
def resolve_backend(backend: str | None, device_type: str, dtype: torch.dtype = torch.float32) -> str:
    """The backend that computes on a device: "cpp", "reference", "torch" or "triton".

    "auto" is Triton on CUDA, the C++ kernels on a CPU under Linux, and PyTorch elsewhere. Where Triton or the C++
    kernels are selected but do not work, PyTorch computes, and one warning says why. It also computes the dtypes that
    they do not have: float64 in Triton, and all but float32 and float64 in C++.

    Args:
        backend: one of BACKENDS. None takes the environment variable XATTNRES_BACKEND, and "auto" where that is not
            set.
        device_type: the type of the tensors' device, such as "cpu" or "cuda".
        dtype: the dtype of x.

    Raises:
        ValueError: for a name that is not in BACKENDS.
    """
    backend = backend or os.environ.get(BACKEND_VARIABLE) or "auto"
    if backend not in BACKENDS:
        raise ValueError(f"XAttnRes: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    resolved = _resolve(backend, device_type)
    if (resolved == "triton" and dtype == torch.float64) or (resolved == "cpp" and dtype not in cpp_backend.DTYPES):
        return "torch"
    return resolved


@cache
def _resolve(backend: str, device_type: str) -> str:
    """`resolve_backend` for a valid name; cached, so that a process logs its choice once."""
    resolved = automatic_backend(device_type) if backend == "auto" else backend
    if resolved in ("cpp", "triton"):
        name, why_unavailable = {
            "cpp": ("the C++ kernels", why_cpp_unavailable),
            "triton": ("Triton", why_triton_unavailable),
        }[resolved]
        reason = why_unavailable(device_type)
        if reason is not None:
            _log.warning("XAttnRes: %s cannot be used (%s); using the slower PyTorch backend instead", name, reason)
            resolved = "torch"
    _log.info("XAttnRes: backend %s on %s", resolved, device_type)
    return resolved


def automatic_backend(device_type: str) -> str:
    """The fastest backend for a device, which may not work there."""
    if device_type == "cpu" and sys.platform.startswith("linux"):
        return "cpp"
    return "triton" if device_type == "cuda" else "torch"


def why_cpp_unavailable(device_type: str) -> str | None:
    """Why the C++ kernels cannot compute on a device, or None if they can; they are compiled to find out."""
    if device_type != "cpu":
        return f"they compute on a CPU, not on {device_type}"
    try:
        cpp_library.load_library()
    except cpp_library.LibraryUnavailableError as error:
        return str(error)
    return None


def why_triton_unavailable(device_type: str) -> str | None:
    """Why the Triton backend cannot compute on a device, or None if it can; a small example is computed to find out."""
    try:
        from . import triton_backend
    except Exception as error:  # a Triton that does not match PyTorch raises errors of many kinds
        return f"it cannot be imported: {error!r}"
    return triton_backend.probe_triton(device_type)
