"""Which code computes the operator: `auto`, `reference`, `torch` or `triton`."""

import logging
import os
from functools import cache

import torch

BACKENDS = ("auto", "reference", "torch", "triton")
VARIABLE = "XATTNRES_BACKEND"

_log = logging.getLogger("nnunet_xattnres")


@torch.compiler.assume_constant_result
def resolve_backend(backend: str | None, device_type: str) -> str:
    """The backend for tensors on a device: the argument, else the environment's XATTNRES_BACKEND, else "auto".

    "auto" is Triton on CUDA wherever it works, PyTorch otherwise; so is a "triton" that does not work, with one
    warning that says why.

    Raises:
        ValueError: for a name that is not one of BACKENDS.
    """
    backend = backend or os.environ.get(VARIABLE) or "auto"
    if backend not in BACKENDS:
        raise ValueError(f"XAttnRes: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    return _resolve(backend, device_type)


@cache
def _resolve(backend: str, device_type: str) -> str:
    """The choice for a process, logged once."""
    chosen = backend
    if backend == "auto" and device_type != "cuda":
        chosen = "torch"
    elif backend in ("auto", "triton"):
        probe_triton = why_triton_unavailable(device_type)
        chosen = "torch" if probe_triton else "triton"
        if probe_triton:
            _log.warning("XAttnRes: Triton cannot be used (%s), so PyTorch computes instead, slower", probe_triton)
    _log.info("XAttnRes: backend %s on %s", chosen, device_type)
    return chosen


def why_triton_unavailable(device_type: str) -> str | None:
    """Why Triton cannot compute on a device, None if it can: found out by computing something small with it."""
    try:
        from . import triton_backend
    except Exception as error:  # a Triton that does not fit PyTorch fails in many ways
        return f"it cannot be imported: {error!r}"
    return triton_backend.probe_triton(device_type)
