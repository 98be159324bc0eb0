"""Images whose sides a network cannot halve often enough: padded on the way in, cropped on the way out."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(B, C, *S) -> (B, C, *S'), every side the next whole multiple, by repeating the last row of voxels."""
    missing = [-side % multiple for side in x.shape[2:]]
    if not any(missing):
        return x
    return F.pad(x, [n for side in reversed(missing) for n in (0, side)], mode="replicate")


def crop(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, *S') -> (B, C, *size), the beginning of every axis: undoes `pad_to_multiple`."""
    return x[(..., *(slice(side) for side in size))]
