"""Padding of images to a size that a network can downsample, and the crop that undoes it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.export_backend import is_exporting


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad every spatial axis at its end to the next multiple of `multiple`, repeating the last row of voxels.

    Shapes:
        (B, C, *S) -> (B, C, *S').
    """
    padding = [(size + multiple - 1) // multiple * multiple - size for size in x.shape[2:]]
    # an exported graph pads images of every size
    if not is_exporting() and not any(padding):
        return x
    return F.pad(x, [n for end in reversed(padding) for n in (0, end)], mode="replicate")


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """Keep the first `size` voxels of every spatial axis, which undoes `pad_to_multiple`.

    Shapes:
        (B, C, *S') -> (B, C, *size).
    """
    if is_exporting():
        # a slice asks whether `size` is not larger, which torch.export cannot prove for sizes that are not known
        for axis, length in enumerate(size, start=2):
            x = x.index_select(axis, torch.arange(length, device=x.device))
        return x
    index: tuple[Any, ...] = (..., *map(slice, size))
    return x[index]
