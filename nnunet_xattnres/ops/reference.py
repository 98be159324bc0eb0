"""Eqs. 4-8 of "XAttnRes: Cross-Stage Attention Residuals" (arXiv 2604.03297), literally.

This is the specification that the other backends are tested against. It computes all K+1 values at full resolution and
keeps them for backward, so it is not meant for training.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .resize import resize


def xattnres(
    history: Sequence[Tensor],
    x: Tensor | Sequence[Tensor],
    projections: Sequence[tuple[Tensor, Tensor] | None],
    pseudo_query: Tensor,
    norm_weight: Tensor,
    eps: float = 1e-6,
    gate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Attend, at every pixel, to the outputs of all earlier stages and to x; arguments as in `dispatch.xattnres`.

    Args:
        history: h_k, (B, C_k, *S_k), K tensors.
        x: (B, C, *S), or several tensors whose concatenation it is.
        projections: weight (C, C_k, 1, ...) and bias (C,) of K 1x1 convolutions, or None for the identity.
        pseudo_query: w, (C,).
        norm_weight: the gain of RMSNorm, (C,).
        gate: g, a tensor of one element, or None for no gate.

    Returns:
        out (B, C, *S) and alpha (B, K+1, *S), the weights of the K+1 values in out.
    """
    x = x if isinstance(x, Tensor) else torch.cat(list(x), 1)
    size = tuple(x.shape[2:])
    acc_dtype = torch.promote_types(x.dtype, torch.float32)
    w, gain = (vector.to(acc_dtype).view(-1, *(1,) * len(size)) for vector in (pseudo_query, norm_weight))

    # Eq. 4: \hat h_k = Conv1x1_k(Resize(h_k, S))
    aligned = [conv1x1(resize(h, size), projection) for h, projection in zip(history, projections, strict=True)]

    # Eq. 5: V = [\hat h_1; ...; \hat h_K; x], (B, K+1, C, *S)
    v = torch.stack([value.to(acc_dtype) for value in (*aligned, x)], 1)

    # Eq. 6: l_n(p) = w^T RMSNorm(V_n(p)), where RMSNorm normalises over the channels
    keys = v * torch.rsqrt(v.square().mean(2, keepdim=True) + eps) * gain
    logits = (w * keys).sum(2)

    # Eq. 7: alpha(p) = softmax(l(p)) over the K+1 values
    alpha = logits.softmax(1)

    # Eq. 8: out(p) = sum_n alpha_n(p) V_n(p), of the values before normalisation
    out = (alpha.unsqueeze(2) * v).sum(1)

    # not in the paper: y = x + g (out - x), in which the history has the weights g alpha, and x has g alpha + 1 - g
    if gate is not None:
        g, current = gate.to(acc_dtype).view(()), v[:, -1]
        out = current + g * (out - current)
        alpha = torch.cat([g * alpha[:, :-1], g * alpha[:, -1:] + (1 - g)], 1)
    return out.to(x.dtype), alpha


def conv1x1(h: Tensor, projection: tuple[Tensor, Tensor] | None) -> Tensor:
    """The 1x1 convolution of Eq. 4 with a (weight, bias) pair; None is the identity."""
    if projection is None:
        return h
    weight, bias = projection
    return (F.conv2d if h.ndim == 4 else F.conv3d)(h, weight, bias)
