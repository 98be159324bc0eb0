"""The scores of one case."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import find_objects

from .protocols import Protocol, Scores
from .surfaces import surface_distances

METRICS = {"dice": "Dice", "iou": "IoU", "hd95": "HD95", "assd": "ASSD", "surface_dice": "surface Dice"}
"""Keys of the scores and their names in print."""


def compare(
    prediction: np.ndarray,
    reference: np.ndarray,
    regions: Mapping[str, Sequence[int]],
    spacing: Sequence[float],
    protocol: Protocol,
    tolerance: float,
    ignore: int | None = None,
) -> dict[str, Scores]:
    """Scores of a label map against its reference, by region.

    With P and R the voxels of a region, d the distances between their surfaces S_P and S_R, and tau the tolerance:

        Dice = 2 |P & R| / (|P| + |R|)        IoU = |P & R| / |P | R|
        HD95 = max(P95 of d(S_P, R), P95 of d(S_R, P))        (`published`: P95 of all of them together)
        ASSD = mean of all d
        surface Dice = (|{d(S_P, R) <= tau}| + |{d(S_R, P) <= tau}|) / (|S_P| + |S_R|)

    Args:
        prediction, reference: label maps (*spatial) of non-negative integers. Axes of size 1 are left out.
        regions: the label values that make up each region, by its name.
        spacing: mm per voxel, along each axis.
        protocol: what empty masks count and whether the spacing does.
        tolerance: tau, in mm (in voxels where the protocol does not use the spacing).
        ignore: a value of the reference where nothing is compared.

    Raises:
        ValueError: if the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"the label maps must have one shape, got {prediction.shape} and {reference.shape}")
    extended = [axis for axis, size in enumerate(reference.shape) if size > 1] or [0]
    spacing = [float(spacing[axis]) if protocol.uses_spacing else 1.0 for axis in extended]
    shape = [reference.shape[axis] for axis in extended]
    prediction, reference = prediction.reshape(shape), reference.reshape(shape)
    if ignore is not None:
        ignored = reference == ignore
        prediction, reference = (np.where(ignored, -1, label_map) for label_map in (prediction, reference))
    boxes = [(tuple(slice(0, n) for n in shape), *find_objects(m)) for m in (prediction, reference)]
    scores = {}
    for name, values in regions.items():
        # everything of the region lies in this box; its surroundings cost time and change nothing
        box = _union([found[v] for found in boxes for v in values if v < len(found) and found[v]])
        masks = [np.isin(label_map[box], values) for label_map in (prediction, reference)] if box else None
        scores[name] = _score(*masks, spacing, protocol, tolerance) if masks else dict(protocol.both_empty)
    return scores


_ROUNDING = 1 + 1e-6
"""Spacings are float32 in NIfTI: what lies at the tolerance is within it."""


def _union(boxes: list[tuple[slice, ...]]) -> tuple[slice, ...]:
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def _score(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], protocol: Protocol, tolerance: float
) -> Scores:
    p, r = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    if not p or not r:
        return dict(protocol.only_prediction if p else protocol.only_reference)
    both = int(np.count_nonzero(prediction & reference))
    distances = surface_distances(prediction, reference, spacing)
    reach = tolerance * _ROUNDING
    within = int((distances.a_to_b <= reach).sum() + (distances.b_to_a <= reach).sum())
    return {
        "dice": 2 * both / (p + r),
        "iou": both / (p + r - both),
        "hd95": protocol.hd95(distances),
        "assd": float(np.concatenate((distances.a_to_b, distances.b_to_a)).mean()),
        "surface_dice": within / (len(distances.a_to_b) + len(distances.b_to_a)),
    }
