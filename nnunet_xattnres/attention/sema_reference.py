"""SEMA's attention literally, with the n x n matrix of all pairs of tokens: the specification of `sema.py`.

Window attention and mean are those of arXiv 2506.08297. The rotary positions are those of MLLA (arXiv 2405.16605).
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def sema(
    q: Tensor, k: Tensor, v: Tensor, size: Sequence[int], window: int, head_width: int, scale: bool = False
) -> Tensor:
    r"""SEMA of n tokens, which are the pixels of an image in the order of memory; arguments as in `sema.SEMA`.

    .. math:: \text{out} = \text{softmax}(M + q k^\top)\, v + \tfrac{1}{n} 1 1^\top v, \quad
              M_{ij} = 0 \text{ within a window}, -\infty \text{ elsewhere}

    Args:
        q, k, v: (B, n, C); q and k before the rotation.
        size: the spatial size, whose product is n.
        scale: divide q k^T by the root of the head width.

    Returns:
        (B, n, C).
    """
    position = torch.tensor(list(itertools.product(*map(range, size))), device=q.device)  # (n, axes)
    q, k = rotate(q, position), rotate(k, position)
    same_window = (position[:, None] // window == position[None] // window).all(-1)
    heads = []
    for q_h, k_h, v_h in zip(*(x.split(head_width, -1) for x in (q, k, v)), strict=True):
        logits = q_h @ k_h.mT / (head_width**0.5 if scale else 1)
        attention = logits.masked_fill(~same_window, -torch.inf).softmax(-1)
        heads.append(attention @ v_h + v_h.mean(1, keepdim=True))
    return torch.cat(heads, -1)


def rotate(x: Tensor, position: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary positions: channels 2j and 2j + 1 of x (B, n, C) are a complex number, turned by an angle of its own.

    With F = floor(C / (2 axes)) frequencies, the first F numbers turn with the position along the first axis, the
    next F along the second axis, and so on; numbers that are left over do not turn.
    """
    channels, axes = x.shape[-1], position.shape[-1]
    frequencies = channels // (2 * axes)
    out = x.clone()
    for axis, f in itertools.product(range(axes), range(frequencies)):
        angle = position[:, axis].to(x.dtype) / base ** (f / frequencies)
        j = 2 * (axis * frequencies + f)
        turned = torch.complex(x[..., j], x[..., j + 1]) * torch.polar(torch.ones_like(angle), angle)
        out[..., j], out[..., j + 1] = turned.real, turned.imag
    return out
