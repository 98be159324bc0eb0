"""The 1x1 convolution of a history entry, as a matrix product, and its gradients."""

import torch
from torch import Tensor


def project(
    source: Tensor, weight: Tensor | None, bias: Tensor | None, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """(B, C_k, *S) -> (B, C, *S) in `dtype`, which is also what the product is computed in; None is the identity.

    `out`, if given, is contiguous, and the result is written there.
    """
    if weight is None:
        return source.to(dtype) if out is None else out.copy_(source)
    weight, flat = weight.to(dtype).expand(len(source), -1, -1), source.to(dtype).flatten(2)
    product = torch.baddbmm(bias.to(dtype).view(1, -1, 1), weight, flat, out=None if out is None else out.flatten(2))
    return product.view(len(source), -1, *source.shape[2:])


def project_backward(
    grad: Tensor, source: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of the source, in the source's dtype, and of weight and bias, in float32 or better."""
    if weight is None:
        return grad.to(source.dtype), None, None
    acc_dtype = torch.promote_types(grad.dtype, torch.float32)
    flat = grad.flatten(2)
    # not `weight.T @ flat`, which copies
    d_source = torch.bmm(weight.T.to(flat.dtype).expand(len(flat), -1, -1), flat).to(source.dtype)
    # one product a sample: half precision would lose what it adds up over the batch
    d_weight = torch.bmm(flat, source.flatten(2).transpose(1, 2).to(flat.dtype)).sum(0, dtype=acc_dtype)
    return d_source.view(source.shape), d_weight, flat.sum((0, 2), dtype=acc_dtype)
