"""Patch and batch sizes with which a network takes no more memory than planned."""

from collections.abc import Callable, Sequence

MIN_BATCH_SIZE = 2
"""The smallest batch that nnU-Net plans."""

MIN_EDGE_LENGTH = 4
"""The smallest side of the deepest features that nnU-Net plans, in voxels."""


def fit_sizes(
    patch_size: Sequence[int],
    batch_size: int,
    fits: Callable[[Sequence[int], int], bool],
    strides: Sequence[int],
    image_size: Sequence[float],
) -> tuple[list[int], int] | None:
    """Find the largest sizes that fit into the memory.

    The batch becomes smaller first. If even the smallest batch does not fit, the patch becomes smaller, as in nnU-Net's
    planner: along the axis where it is longest relative to the images. The network keeps its strides.

    Args:
        patch_size: the planned patch size in voxels.
        batch_size: the planned batch size.
        fits: whether a batch of patches fits, by patch size and batch size.
        strides: the ratio of the patch to the deepest features of the network, along every axis.
        image_size: the median size of the images in voxels.

    Returns:
        The patch size and the batch size, neither of them larger than planned; None if nothing fits.

    Example:
        The memory is the number of voxels here. A budget of 5 patches allows 5 of them in a batch; a budget of one and
        a half allows no batch of two, so the patch becomes smaller::

            >>> budget = 5 * 64 * 64
            >>> fit_sizes([64, 64], 8, lambda p, n: p[0] * p[1] * n <= budget, [8, 8], [64, 128])
            ([64, 64], 5)
            >>> budget = 1.5 * 64 * 64
            >>> fit_sizes([64, 64], 8, lambda p, n: p[0] * p[1] * n <= budget, [8, 8], [64, 128])
            ([48, 64], 2)
    """
    patch, smallest = list(patch_size), min(MIN_BATCH_SIZE, batch_size)
    while not fits(patch, smallest):
        reducible = [axis for axis, side in enumerate(patch) if side - strides[axis] >= _shortest(side, strides[axis])]
        if not reducible:
            return None
        axis = max(reducible, key=lambda axis: patch[axis] / image_size[axis])
        patch[axis] -= strides[axis]
    if fits(patch, batch_size):
        return patch, batch_size
    # a larger batch takes more memory: bisection, because a measurement takes long
    low, high = smallest, batch_size
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(patch, middle) else (low, middle)
    return patch, low


def _shortest(side: int, stride: int) -> int:
    """The shortest side of a patch along an axis; an axis that is shorter already keeps its side."""
    shortest = MIN_EDGE_LENGTH * stride
    return shortest if side >= shortest else side
