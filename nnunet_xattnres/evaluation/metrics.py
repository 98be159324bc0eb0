"""Dice, IoU, HD95, ASSD and surface Dice of one case."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import find_objects

from .protocols import Protocol, Scores
from .surfaces import surface_distances

METRICS = {"dice": "Dice", "iou": "IoU", "hd95": "HD95", "assd": "ASSD", "surface_dice": "surface Dice"}
"""The keys of the scores, and their names in tables."""

_ROUNDING = 1 + 1e-6
"""NIfTI stores the spacing as float32, so a distance that exceeds the tolerance by rounding alone is within it."""


def compare(
    prediction: np.ndarray,
    reference: np.ndarray,
    regions: Mapping[str, Sequence[int]],
    spacing: Sequence[float],
    protocol: Protocol,
    tolerance: float,
    ignore: int | None = None,
) -> dict[str, Scores]:
    """Compare a label map with its reference.

    With the voxels P and R of a region, the distances d between their surfaces S_P and S_R, and the tolerance tau:

        Dice = 2 |P & R| / (|P| + |R|)
        IoU = |P & R| / |P | R|
        HD95 = max(P95 of d(S_P, S_R), P95 of d(S_R, S_P))     (protocol `published`: P95 of both together)
        ASSD = mean of d(S_P, S_R) and d(S_R, S_P) together
        surface Dice = (|{d(S_P, S_R) <= tau}| + |{d(S_R, S_P) <= tau}|) / (|S_P| + |S_R|)

    Example:
        >>> from nnunet_xattnres.evaluation.protocols import PROTOCOLS
        >>> reference, prediction = np.zeros((2, 4, 6), int)
        >>> reference[1:3, 1:3] = prediction[1:3, 2:4] = 1  # one pixel too far to the right
        >>> scores = compare(prediction, reference, {"cell": (1,)}, (1.0, 0.5), PROTOCOLS["default"], tolerance=0.4)
        >>> {metric: round(value, 3) for metric, value in scores["cell"].items()}
        {'dice': 0.5, 'iou': 0.333, 'hd95': 0.5, 'assd': 0.25, 'surface_dice': 0.5}

    Args:
        prediction: label map (*spatial) of non-negative integers. Axes of size 1 are removed, so that a volume of one
            slice is compared as an image.
        reference: label map of the same shape.
        regions: the label values of each region by its name.
        spacing: mm per voxel, one value per axis.
        protocol: the conventions for empty masks, for the unit of distances and for HD95.
        tolerance: tau, in mm (in voxels if the protocol does not use the spacing).
        ignore: a value of the reference. Voxels with this value are not compared.

    Returns:
        The scores by region. None means undefined.

    Raises:
        ValueError: if the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"the label maps must have the same shape, got {prediction.shape} and {reference.shape}")
    axes = [axis for axis, size in enumerate(reference.shape) if size > 1] or [0]
    spacing = [float(spacing[axis]) if protocol.uses_spacing else 1.0 for axis in axes]
    shape = [reference.shape[axis] for axis in axes]
    prediction, reference = prediction.reshape(shape), reference.reshape(shape)
    if ignore is not None:
        ignored = reference == ignore
        prediction, reference = (np.where(ignored, -1, label_map) for label_map in (prediction, reference))
    # the bounding boxes by label value; the background can be anywhere
    boxes = [(tuple(slice(0, n) for n in shape), *find_objects(m)) for m in (prediction, reference)]
    scores = {}
    for name, values in regions.items():
        # only the bounding box of the region is compared, which is faster and gives the same scores
        region_boxes = [by_value[v] for by_value in boxes for v in values if v < len(by_value) and by_value[v]]
        if region_boxes:
            box = _union(region_boxes)
            masks = np.isin(prediction[box], values), np.isin(reference[box], values)
            scores[name] = _score(*masks, spacing, protocol, tolerance)
        else:
            scores[name] = dict(protocol.both_empty)
    return scores


def _union(boxes: list[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box that contains all boxes."""
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def _score(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], protocol: Protocol, tolerance: float
) -> Scores:
    num_predicted, num_reference = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    if not num_predicted or not num_reference:
        return dict(protocol.only_prediction if num_predicted else protocol.only_reference)
    num_common = int(np.count_nonzero(prediction & reference))
    distances = surface_distances(prediction, reference, spacing)
    threshold = tolerance * _ROUNDING
    num_within = int((distances.a_to_b <= threshold).sum() + (distances.b_to_a <= threshold).sum())
    return {
        "dice": 2 * num_common / (num_predicted + num_reference),
        "iou": num_common / (num_predicted + num_reference - num_common),
        "hd95": protocol.hd95(distances),
        "assd": float(np.concatenate((distances.a_to_b, distances.b_to_a)).mean()),
        "surface_dice": num_within / (len(distances.a_to_b) + len(distances.b_to_a)),
    }
