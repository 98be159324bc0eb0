"""Define PyTorch operators that cost the CPU little.

`torch.library.custom_op` puts Python of its own around every call of an operator, which checks its results and takes
longer than to launch its kernels. The functions below register the same things without that.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "nnunet_xattnres"

_NO_SECOND_DERIVATIVES = (
    b"XAttnRes: second derivatives are implemented by the backend 'reference' only (environment variable "
    b"XATTNRES_BACKEND)"
)


def define_operator(
    function: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
    tags: tuple[torch.Tag, ...] = (),
) -> Any:
    """The operator `nnunet_xattnres::NAME`, where NAME is that of the function without underscores in front.

    Args:
        function: what it computes, on any device. Its annotations give the schema. It must not change its arguments,
            and its results must share no memory with them or with each other.
        fake: the same for tensors without values, for `torch.compile`.
        backward, setup_context: its gradient, as for `torch.library.register_autograd`, or None for operators that are
            called in `torch.no_grad()`: PyTorch then needs no Python to find out that there is no gradient.
        tags: PyTorch's tags of the operator, beside the one for operators that work with `torch.compile`.
    """
    name = function.__name__.lstrip("_")
    qualified = f"{NAMESPACE}::{name}"
    schema = torch.library.infer_schema(function, mutates_args=())
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag, *tags))
    torch.library.impl(qualified, "default", function)
    torch.library.register_fake(qualified, fake)
    if backward is not None:
        torch.library.register_autograd(qualified, backward, setup_context=setup_context)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def not_differentiable(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Gradients that were computed in `torch.no_grad()`, such that it is an error to differentiate them."""
    if not (gradients and torch.is_grad_enabled()):
        return list(gradients)
    # without it, second derivatives would silently be zero
    error: Any = torch._C._functions.DelayedError(_NO_SECOND_DERIVATIVES, len(gradients))
    results = error(*[gradient.requires_grad_() for gradient in gradients])
    return [results] if isinstance(results, Tensor) else list(results)
