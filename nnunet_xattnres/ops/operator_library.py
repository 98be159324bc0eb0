"""Define PyTorch operators that cost the CPU little.

`torch.library.custom_op` puts Python of its own around every call of an operator, which checks its results and takes
longer than to launch its kernels. The functions below register the same things without that.
"""

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "nnunet_xattnres"


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
        backward, setup_context: its gradient, as for `torch.library.register_autograd`. Without it, it is an error to
            differentiate the operator.
        tags: PyTorch's tags of the operator, beside the one for operators that work with `torch.compile`.
    """
    name = function.__name__.lstrip("_")
    qualified = f"{NAMESPACE}::{name}"
    schema = torch.library.infer_schema(function, mutates_args=())
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag, *tags))
    torch.library.impl(qualified, "default", function)
    torch.library.register_fake(qualified, fake)
    torch.library.register_autograd(qualified, backward or _raise_not_differentiable, setup_context=setup_context)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def _raise_not_differentiable(ctx: Any, *grads: Any) -> None:
    raise RuntimeError("XAttnRes: second derivatives are not implemented; the backend 'reference' has them")
