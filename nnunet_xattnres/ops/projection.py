"""The 1x1 convolution of a feature of the history (Eq. 4) as a matrix product, and its gradients."""

import torch
from torch import Tensor


def project(source: Tensor, weight: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Project (B, C_k, *S) to (B, C, *S).

    Args:
        source: (B, C_k, *S).
        weight, bias: (C, C_k) and (C,), or None for the identity.
        dtype: the dtype of the product and of the result.
    """
    if weight is None or bias is None:
        return source.to(dtype)
    weight, flat = weight.to(dtype).expand(len(source), -1, -1), source.to(dtype).flatten(2)
    product = torch.baddbmm(bias.to(dtype).view(1, -1, 1), weight, flat)
    return product.view(len(source), -1, *source.shape[2:])


def project_backward(
    grad: Tensor,
    source: Tensor,
    weight: Tensor | None,
    needs_source: bool = True,
    needs_weight: bool = True,
    needs_bias: bool = True,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of source, in its dtype, and of weight and bias, in float32, or float64 for float64 gradients.

    Those that are not needed are None, and not computed.
    """
    if weight is None:
        return grad.to(source.dtype) if needs_source else None, None, None
    acc_dtype = torch.promote_types(grad.dtype, torch.float32)
    flat = grad.flatten(2)
    grad_source = grad_weight = grad_bias = None
    if needs_source:
        # bmm with an expanded weight, because weight.T @ flat copies the weight for every sample
        grad_source = torch.bmm(weight.T.to(flat.dtype).expand(len(flat), -1, -1), flat).to(source.dtype)
        grad_source = grad_source.view(source.shape)
    if needs_weight:
        # one product per sample, summed in acc_dtype, because a sum over the batch in half precision loses digits
        grad_weight = torch.bmm(flat, source.flatten(2).transpose(1, 2).to(flat.dtype)).sum(0, dtype=acc_dtype)
    if needs_bias:
        grad_bias = flat.sum((0, 2), dtype=acc_dtype)
    return grad_source, grad_weight, grad_bias


def project_channels_last(source: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """Project (B, C_k, *S) to `out`, (B, pixels, channels), where channels beyond C are set to zero; see `project`."""
    flat, channels = source.to(out.dtype).flatten(2).transpose(1, 2), len(weight)
    bias, weight = bias.to(out.dtype).view(1, 1, -1), weight.T.to(out.dtype).expand(len(flat), -1, -1)
    if channels == out.shape[2]:
        torch.baddbmm(bias, flat, weight, out=out)
    else:
        out[..., :channels] = torch.baddbmm(bias, flat, weight)
        out[..., channels:] = 0


def project_channels_last_backward(
    grad: Tensor, source: Tensor, weight: Tensor, grad_source: Tensor | None, grad_weight: Tensor | None
) -> None:
    """Write the gradient of source to `grad_source`, and add that of weight to `grad_weight`, except to None.

    Args:
        grad: the gradient of the projected feature, (B, pixels, C).
        source: (B, C_k, *S).
        weight: (C, C_k).
        grad_source: as `source`, contiguous, in the dtype of `grad`.
        grad_weight: as `weight`, in the dtype of `grad`.
    """
    if grad_source is not None:
        torch.bmm(weight.T.to(grad.dtype).expand(len(grad), -1, -1), grad.transpose(1, 2), out=grad_source.flatten(2))
    if grad_weight is not None:
        # a batched product would write and then sum a gradient for every sample, which takes new memory
        for d_value, sample in zip(grad, source.to(grad.dtype).flatten(2), strict=True):
            grad_weight.addmm_(d_value.T, sample.T)
