"""Patch and batch sizes with which a network takes no more memory than planned."""

import math
from collections.abc import Callable, Sequence

MIN_BATCH_SIZE = 2
"""The smallest batch that nnU-Net plans."""

MIN_EDGE_LENGTH = 4
"""The smallest side of the deepest features that nnU-Net plans, in voxels."""


def fit_sizes(
    patch_size: Sequence[int],
    batch_size: int,
    memory_of: Callable[[Sequence[int]], float],
    budget: float,
    strides: Sequence[int],
    image_size: Sequence[float],
) -> tuple[list[int], int] | None:
    """Find the largest sizes for which a batch takes no more than a budget of memory.

    The batch becomes smaller first. If even the smallest batch does not fit, the patch becomes smaller, as in nnU-Net's
    planner: along the axis where it is longest relative to the images. The network keeps its strides.

    Args:
        patch_size: the planned patch size in voxels.
        batch_size: the planned batch size.
        memory_of: the memory that one patch of a size takes.
        budget: the memory for a batch, in the unit of `memory_of`.
        strides: the ratio of the patch to the deepest features of the network, along every axis.
        image_size: the median size of the images in voxels.

    Returns:
        The patch size and the batch size, neither of them larger than planned; None if nothing fits.

    Example:
        The memory is the number of voxels here. A budget of 5 patches allows 5 of them in a batch; a budget of one and
        a half allows no batch of two, so the patch becomes smaller::

            >>> fit_sizes([64, 64], 8, math.prod, 5 * 64 * 64, [8, 8], [64, 128])
            ([64, 64], 5)
            >>> fit_sizes([64, 64], 8, math.prod, 1.5 * 64 * 64, [8, 8], [64, 128])
            ([48, 64], 2)
    """
    patch, smallest = list(patch_size), min(MIN_BATCH_SIZE, batch_size)
    while memory_of(patch) * smallest > budget:
        reducible = [axis for axis, side in enumerate(patch) if side - strides[axis] >= _shortest(side, strides[axis])]
        if not reducible:
            return None
        axis = max(reducible, key=lambda axis: patch[axis] / image_size[axis])
        patch[axis] -= strides[axis]
    return patch, min(batch_size, math.floor(budget / memory_of(patch)))


def _shortest(side: int, stride: int) -> int:
    """The shortest side of a patch along an axis; an axis that is shorter already keeps its side."""
    shortest = MIN_EDGE_LENGTH * stride
    return shortest if side >= shortest else side
