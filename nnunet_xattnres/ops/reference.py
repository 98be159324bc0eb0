"""Eqs. 4-8 of "XAttnRes: Cross-Stage Attention Residuals" (arXiv 2604.03297), word by word.

This is the specification that every other path is tested against. It builds all K+1 values at full resolution:
do not train with it.
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
) -> tuple[Tensor, Tensor]:
    r"""Mix a feature with everything computed before it, by a softmax over stages at every pixel.

    .. math:: \text{out}(p) = \sum_n \alpha_n(p) V_n(p), \quad
              \alpha(p) = \text{softmax}_n\big(w^\top \text{RMSNorm}(V_n(p))\big), \quad
              V = [\phi_1(h_1); \ldots; \phi_K(h_K); x]

    Args:
        history: K >= 1 stage outputs h_k, each (B, C_k, *S_k), oldest first.
        x: the current feature, (B, C, *S), two or three spatial axes; or tensors whose concatenation it is.
        projections: for every entry the weight (C, C_k, 1, ...) and the bias (C,) of a 1x1 convolution, or None for
            the identity.
        pseudo_query: w, (C,).
        norm_weight: the gain of RMSNorm, (C,).
        eps: added to the mean square under the root of RMSNorm.

    Returns:
        out (B, C, *S) in x's dtype, and alpha (B, K+1, *S) in float32 or better, x last.
    """
    x = x if isinstance(x, Tensor) else torch.cat(list(x), 1)
    size = tuple(x.shape[2:])
    acc_dtype = torch.promote_types(x.dtype, torch.float32)

    # Eq. 4: h_k -> Conv1x1(Resize(h_k)).    Eq. 5: V = [h_1; ...; h_K; x], (K+1, B, C, *S).
    format_table = [_conv1x1(resize(h, size), projection) for h, projection in zip(history, projections, strict=True)]
    values = torch.stack([v.to(acc_dtype) for v in (*format_table, x)])

    # Eq. 6: l_n(p) = w . RMSNorm(V_n(p)), normalised over the channels.
    per_channel = (1, 1, -1) + (1,) * len(size)
    keys = (
        values * torch.rsqrt(values.square().mean(2, keepdim=True) + eps) * norm_weight.to(acc_dtype).view(per_channel)
    )
    logits = (pseudo_query.to(acc_dtype).view(per_channel) * keys).sum(2)

    # Eq. 7: a softmax over the K+1 entries, for every pixel.
    alpha = logits.softmax(0)

    # Eq. 8: the sum of the values as they are, not normalised.
    out = (alpha.unsqueeze(2) * values).sum(0)
    return out.to(x.dtype), alpha.transpose(0, 1)


def _conv1x1(h: Tensor, projection: tuple[Tensor, Tensor] | None) -> Tensor:
    if projection is None:
        return h
    weight, bias = projection
    return (F.conv2d if h.ndim == 4 else F.conv3d)(h, weight, bias)
