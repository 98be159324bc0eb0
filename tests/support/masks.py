"""Pairs of masks, including degenerate ones, and their scores by the equations, without the package's libraries."""

from fractions import Fraction

import numpy as np
from scipy.ndimage import gaussian_filter

SPACINGS = {
    "1": ((1, 1, 1), 1),
    "binary": ((3, "0.75", "0.5"), "1.5"),  # some distances are exactly the tolerance
    "decimal": (("2.7", "0.7", "0.9"), "1.3"),
}
"""Spacing and tolerance of the surface Dice, by name."""


def blobs(shape, seed):
    """Two random smooth masks that overlap."""
    rng = np.random.default_rng(seed)
    common, a, b = (gaussian_filter(rng.normal(size=shape), 1.5) for _ in range(3))
    return common + 0.6 * a > 0.05, common + 0.6 * b > 0.05


def noise(shape, seed):
    """Two random masks without structure."""
    return tuple(np.random.default_rng(seed).random((2, *shape)) > 0.7)


def box(shape, *boxes):
    """A mask that is the union of boxes; a box has an index or a (start, stop) pair for every axis."""
    mask = np.zeros(shape, bool)
    for axes in boxes:
        mask[tuple(slice(*axis) if isinstance(axis, tuple) else axis for axis in axes)] = True
    return mask


_CUBE = (9, 8, 7)
_CENTRE = box(_CUBE, [(1, 8), (1, 7), (1, 6)])
_FLAT = blobs((16, 14), 4)
PAIRS = {
    "blobs 3-D": blobs((11, 10, 12), 0),
    "blobs 2-D": blobs((26, 21), 1),
    "noise 3-D": noise((5, 6, 7), 2),
    "noise 2-D": noise((13, 17), 3),
    "volume of one slice, axis 0": tuple(m[None] for m in _FLAT),
    "volume of one slice, axis 1": tuple(m[:, None] for m in _FLAT),
    "volume of one slice, axis 2": tuple(m[:, :, None] for m in _FLAT),
    "one slice of several": tuple(np.stack([np.zeros_like(m), m, np.zeros_like(m)]) for m in _FLAT),
    "row": (box((1, 1, 9), [0, 0, (1, 4)]), box((1, 1, 9), [0, 0, (2, 9)])),
    "lines 3-D": (box(_CUBE, [(0, 9), 3, 3]), box(_CUBE, [2, (3, 8), 4])),
    "lines 2-D": (box((9, 8), [(0, 9), 3]), box((9, 8), [2, (3, 8)])),
    "voxels 3-D": (box(_CUBE, [1, 2, 3]), box(_CUBE, [7, 5, 4])),
    "voxels 2-D": (box((9, 8), [1, 2]), box((9, 8), [7, 5])),
    "the same voxel": (box(_CUBE, [4, 4, 4]), box(_CUBE, [4, 4, 4])),
    "voxel in a box": (box(_CUBE, [4, 4, 3]), _CENTRE),
    "nested": (_CENTRE, box(_CUBE, [(3, 6), (3, 5), (2, 5)])),
    "box and its shell": (_CENTRE, _CENTRE & ~box(_CUBE, [(2, 7), (2, 6), (2, 5)])),
    "full and full": (np.ones(_CUBE, bool), np.ones(_CUBE, bool)),
    "full and hollow": (np.ones(_CUBE, bool), ~box(_CUBE, [4, 4, 3])),
    "full and a voxel": (np.ones((9, 8), bool), box((9, 8), [0, 7])),
    "opposite corners": (box(_CUBE, [(0, 2), (0, 3), 0]), box(_CUBE, [(7, 9), (6, 8), (5, 7)])),
    "opposite faces": (box(_CUBE, [0, (0, 8), (0, 7)]), box(_CUBE, [8, (0, 8), (0, 7)])),
    "two pieces and one": (box(_CUBE, [0, 0, 0], [8, 7, 6]), box(_CUBE, [4, 4, 3])),
}


def spacing_of(name, mask):
    """Spacing along every axis of a mask, and the tolerance, as fractions."""
    spacing, tolerance = SPACINGS[name]
    return [Fraction(s) for s in spacing][-mask.ndim :], Fraction(tolerance)


def surface(mask):
    """Indices of the voxels of a mask that have a face in common with a voxel outside of the mask or of the array."""
    inside = {tuple(map(int, p)) for p in np.argwhere(mask)}
    steps = [(axis, step) for axis in range(mask.ndim) for step in (-1, 1)]
    return np.array([p for p in sorted(inside) if any((*p[:a], p[a] + s, *p[a + 1 :]) not in inside for a, s in steps)])


def squared_distances(a, b, spacing):
    """The squared distance from every surface voxel of `a` to the nearest one of `b`: integers, and their unit."""
    unit = Fraction(1, int(np.lcm.reduce([s.denominator for s in spacing])))
    steps = np.array([int(s / unit) for s in spacing])
    p, q = (surface(mask) * steps for mask in (a, b))
    return ((p[:, None] - q[None]) ** 2).sum(-1).min(1), unit**2


def distances(a, b, spacing):
    """The distance from every surface voxel of `a` to the nearest one of `b`."""
    squared, unit = squared_distances(a, b, spacing)
    return np.sqrt(squared * float(unit))


def percentile(values, percent):
    """The percentile with linear interpolation between the two closest ranks."""
    values = sorted(values)
    rank = percent / 100 * (len(values) - 1)
    low = int(rank)
    return values[low] + (rank - low) * (values[min(low + 1, len(values) - 1)] - values[low])


def scores(a, b, spacing, tolerance):
    """The scores of the protocol `default` for two masks that are not empty."""
    spacing = [s for s, size in zip(spacing, a.shape, strict=True) if size > 1]
    a, b = a.squeeze(), b.squeeze()
    forward, backward = distances(a, b, spacing), distances(b, a, spacing)
    both = [*forward, *backward]
    within = sum(int((d <= tolerance**2 / unit).sum()) for d, unit in (
        squared_distances(a, b, spacing), squared_distances(b, a, spacing)))  # fmt: skip
    return {
        "dice": 2 * int((a & b).sum()) / int(a.sum() + b.sum()),
        "iou": int((a & b).sum()) / int((a | b).sum()),
        "hd95": max(percentile(forward, 95), percentile(backward, 95)),
        "assd": sum(both) / len(both),
        "surface_dice": within / len(both),
    }
