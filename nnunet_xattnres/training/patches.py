"""Checks that a network can be trained with the patches of nnU-Net's plans, before anything is built.

Where they fail, a layer would raise an error in the first training step, in words that name neither plans nor patch.
"""

import math
from collections.abc import Sequence

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager


def describe_size(size: Sequence[int]) -> str:
    """A size in words.

    >>> describe_size([96, 160])
    '96 x 160'
    """
    return " x ".join(map(str, size))


def planned_strides(configuration: ConfigurationManager) -> list[int]:
    """The ratio of the patch to the deepest features of the planned network, along every axis.

    Raises:
        ValueError: if the strides of the plans are not those of a U-Net for these patches.
    """
    strides, dim = configuration.pool_op_kernel_sizes, len(configuration.patch_size)
    if len(strides) < 2:
        raise ValueError("the network of these plans has one stage, so it has no decoder")
    if any(len(stride) != dim for stride in strides):
        raise ValueError(
            f"the strides of these plans must have {dim} axes, because the patches are "
            f"{describe_size(configuration.patch_size)}, but they are {strides}"
        )
    return [math.prod(axis) for axis in zip(*strides, strict=True)]


def check_divisible(patch_size: Sequence[int], strides: Sequence[int]) -> None:
    """Check that the network can halve the patch as often as planned.

    Raises:
        ValueError: if a side of the patch is no multiple of the stride; the message has the nearest sizes.
    """
    if any(side % stride for side, stride in zip(patch_size, strides, strict=True)):
        smaller = [max(side // stride, 1) * stride for side, stride in zip(patch_size, strides, strict=True)]
        larger = [-(-side // stride) * stride for side, stride in zip(patch_size, strides, strict=True)]
        nearest = " or ".join(dict.fromkeys(map(str, (smaller, larger))))
        raise ValueError(
            f"the sides of the patches must be multiples of {describe_size(strides)}, the strides of the planned "
            f"network, but patch_size is {describe_size(patch_size)}: set it to {nearest} in the plans file"
        )


def check_normalisation(norm: str, batch_size: int, patch_size: Sequence[int], strides: Sequence[int]) -> None:
    """Check that the deepest features have more than one value per channel, over which they are normalised.

    Args:
        norm: the name of the normalisation. BatchNorm normalises over the batch and all voxels, InstanceNorm over all
            voxels. Others are not checked.
        batch_size: the number of patches.
        patch_size: the size of the patches.
        strides: the ratio of the patch to the deepest features, along every axis.

    Raises:
        ValueError: if there is one value.
    """
    deepest = [-(-side // stride) for side, stride in zip(patch_size, strides, strict=True)]
    samples = batch_size if norm.startswith("BatchNorm") else 1
    if norm.startswith(("BatchNorm", "InstanceNorm")) and samples * math.prod(deepest) < 2:
        batch = f"batches of {batch_size} and " if norm.startswith("BatchNorm") else ""
        remedy = "batch_size or patch_size" if batch else "patch_size"
        raise ValueError(
            f"{norm} needs more than one value per channel, but with {batch}patches of {describe_size(patch_size)} the "
            f"deepest features have one: increase {remedy} in the plans file"
        )


def check_scales(patch_sizes: Sequence[Sequence[int]], scales: Sequence[float]) -> None:
    """Check that the scaled patches, one size for every scale, differ in all their sides.

    Raises:
        ValueError: if the sizes have been rounded to the same.
    """
    if any(len(set(sides)) < len(scales) for sides in zip(*patch_sizes, strict=True)):
        sizes = ", ".join(map(describe_size, patch_sizes))
        raise ValueError(
            f"the scales {', '.join(f'{scale:g}' for scale in scales)} need patches of different sizes, but these are "
            f"too small, the sizes are {sizes}: increase patch_size in the plans file to at least three times the "
            "strides of the network"
        )
