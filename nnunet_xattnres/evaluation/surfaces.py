"""Distances between the surfaces of two masks, computed with SciPy's k-d tree."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree


@dataclass(frozen=True)
class SurfaceDistances:
    """The distance of every surface voxel of two masks to the surface of the other mask.

    Attributes:
        a_to_b: one distance per surface voxel of the first mask, in the unit of the spacing.
        b_to_a: one distance per surface voxel of the second mask.
    """

    a_to_b: np.ndarray
    b_to_a: np.ndarray


def surface_distances(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> SurfaceDistances:
    """The distances between the surfaces of two non-empty masks.

        d(p, B) = min over the surface voxels q of B of |spacing * (p - q)|

    for every surface voxel p of A, and likewise from B to A. A voxel is on the surface if it is in the mask and one of
    its 4 (2-D) or 6 (3-D) neighbours is not. Voxels outside the array are not in the mask.

    Example:
        >>> a, b = np.zeros((2, 5), bool)
        >>> a[:2] = b[3:] = True
        >>> surface_distances(a, b, spacing=(0.5,)).a_to_b
        array([1.5, 1. ])

    Args:
        a: boolean mask (*spatial).
        b: boolean mask of the same shape.
        spacing: mm per voxel, one value per axis.

    Raises:
        ValueError: if a mask is empty, or the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"the masks must have the same shape, got {a.shape} and {b.shape}")
    if not (a.any() and b.any()):
        raise ValueError("an empty mask has no surface: both masks must be non-empty")
    points_a, points_b = (np.argwhere(mask & ~binary_erosion(mask)) * np.asarray(spacing, float) for mask in (a, b))
    return SurfaceDistances(KDTree(points_b).query(points_a)[0], KDTree(points_a).query(points_b)[0])
