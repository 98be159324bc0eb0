"""Activation checkpointing: stages that are computed again in the backward pass, so that less is kept for it."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

CHECKPOINT_VARIABLE = "XATTNRES_CHECKPOINT"
"""The environment variable that switches checkpointing on where no argument decides."""

_VALUES = {"1": True, "true": True, "t": True, "0": False, "false": False, "f": False, "": False}


def checkpoints_by_variable() -> bool:
    """Whether the environment variable XATTNRES_CHECKPOINT switches checkpointing on.

    Raises:
        ValueError: if it has an unknown value.
    """
    value = os.environ.get(CHECKPOINT_VARIABLE, "")
    if value.lower() not in _VALUES:
        raise ValueError(
            f"{CHECKPOINT_VARIABLE} must be 1, true or t to switch activation checkpointing on, or 0, false or f to "
            f"switch it off, got {value!r}"
        )
    return _VALUES[value.lower()]


def run_stage(function: Callable[..., Any], *arguments: Any, modules: Sequence[nn.Module], checkpointed: bool) -> Any:
    """Call a function that runs a stage; under checkpointing, the backward pass calls it again.

    Results, gradients and running statistics are the same in both cases, bit for bit. Random numbers, as for dropout,
    are the same in both calls. Without gradients, and in evaluation mode, the function is just called.

    Args:
        function: what runs the stage. It must not depend on anything that changes before the backward pass.
        *arguments: its arguments; tensors among them are kept.
        modules: the modules of the stage.
        checkpointed: whether the backward pass calls it again.
    """
    training = any(module.training for module in modules)
    if not (checkpointed and training and torch.is_grad_enabled()):
        return function(*arguments)
    if torch.compiler.is_compiling():
        # the compiler takes what is computed again from one graph, in which running statistics are updated once
        return checkpoint(function, *arguments, use_reentrant=False)

    def contexts() -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
        return contextlib.nullcontext(), _running_statistics_kept(modules)

    return checkpoint(function, *arguments, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def _running_statistics_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let normalisations update copies of their running statistics, because the first call has updated them already."""
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, _NormBase)]
    originals = [(norm, dict(norm._buffers)) for norm in norms]
    for norm, buffers in originals:
        norm._buffers.update({name: buffer if buffer is None else buffer.clone() for name, buffer in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in originals:
            norm._buffers.update(buffers)
