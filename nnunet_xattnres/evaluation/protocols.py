"""The conventions on which published figures differ: what empty masks count, the unit, how directions are joined."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .surfaces import SurfaceDistances

Scores = dict[str, float | None]


@dataclass(frozen=True)
class Protocol:
    """How scores are made of overlaps and surface distances.

    Attributes:
        name: as on the command line.
        uses_spacing: distances in mm; else in voxels, whatever their size.
        hd95: the 95th percentile Hausdorff distance of both directions.
        both_empty, only_prediction, only_reference: scores where a mask is empty; None is undefined, and not counted.
    """

    name: str
    uses_spacing: bool
    hd95: Callable[[SurfaceDistances], float]
    both_empty: Scores
    only_prediction: Scores
    only_reference: Scores


def _scores(overlap: float | None, distance: float | None) -> Scores:
    return {"dice": overlap, "iou": overlap, "hd95": distance, "assd": distance, "surface_dice": overlap}


def _larger_percentile(d: SurfaceDistances) -> float:
    return float(max(np.percentile(d.a_to_b, 95), np.percentile(d.b_to_a, 95)))


def _joint_percentile(d: SurfaceDistances) -> float:
    return float(np.percentile(np.concatenate((d.a_to_b, d.b_to_a)), 95))


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol(
            "default", uses_spacing=True, hd95=_larger_percentile,
            both_empty=_scores(None, None), only_prediction=_scores(0.0, None), only_reference=_scores(0.0, None),
        ),
        Protocol(
            "published", uses_spacing=False, hd95=_joint_percentile,
            both_empty=_scores(0.0, 0.0), only_prediction=_scores(1.0, 0.0), only_reference=_scores(0.0, 0.0),
        ),
    )
}  # fmt: skip
"""`default`, and `published`: the conventions behind the paper's tables, for standing beside them only."""
