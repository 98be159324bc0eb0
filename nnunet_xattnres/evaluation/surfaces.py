"""Distances between the surfaces of two masks, by SciPy's k-d tree."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree


@dataclass(frozen=True)
class SurfaceDistances:
    """For every surface voxel of either mask the distance to the other's surface.

    Attributes:
        a_to_b: one value per surface voxel of the first mask, in the unit of the spacing.
        b_to_a: one value per surface voxel of the second.
    """

    a_to_b: np.ndarray
    b_to_a: np.ndarray


def surface_distances(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> SurfaceDistances:
    """Distances between the surfaces of two masks that are not empty.

    d(p, B) = min over the surface voxels q of B of |spacing * (p - q)|, for all surface voxels p of A, and the other
    way round. A voxel is on the surface if one of its 4 (2-D) or 6 (3-D) neighbours is not in the mask; what lies
    outside the array is not.

    Args:
        a, b: boolean (*spatial).
        spacing: distance of neighbouring voxels along each axis, mm.

    Raises:
        ValueError: if a mask is empty, or the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"the masks must have one shape, got {a.shape} and {b.shape}")
    if not (a.any() and b.any()):
        raise ValueError("an empty mask has no surface: ask before")
    points_a, points_b = (np.argwhere(mask & ~binary_erosion(mask)) * np.asarray(spacing, float) for mask in (a, b))
    return SurfaceDistances(KDTree(points_b).query(points_a)[0], KDTree(points_a).query(points_b)[0])
