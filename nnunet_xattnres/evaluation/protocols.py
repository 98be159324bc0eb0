"""The conventions in which published scores differ: empty masks, the unit of distances, and HD95 of two directions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .surfaces import SurfaceDistances

Scores = dict[str, float | None]
"""The scores of one region by metric. None means undefined."""


@dataclass(frozen=True)
class Protocol:
    """Conventions for computing scores.

    Attributes:
        name: the name on the command line.
        uses_spacing: whether distances are in mm. Otherwise they are in voxels.
        hd95: computes the 95th percentile Hausdorff distance from the distances of both directions.
        both_empty: the scores if neither the prediction nor the reference has the region.
        only_prediction: the scores if only the prediction has the region.
        only_reference: the scores if only the reference has the region.
    """

    name: str
    uses_spacing: bool
    hd95: Callable[[SurfaceDistances], float]
    both_empty: Scores
    only_prediction: Scores
    only_reference: Scores


def _constant_scores(overlap: float | None, distance: float | None) -> Scores:
    return {"dice": overlap, "iou": overlap, "hd95": distance, "assd": distance, "surface_dice": overlap}


def _larger_percentile(distances: SurfaceDistances) -> float:
    return float(max(np.percentile(distances.a_to_b, 95), np.percentile(distances.b_to_a, 95)))


def _joint_percentile(distances: SurfaceDistances) -> float:
    return float(np.percentile(np.concatenate((distances.a_to_b, distances.b_to_a)), 95))


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "default",
            uses_spacing=True,
            hd95=_larger_percentile,
            both_empty=_constant_scores(None, None),
            only_prediction=_constant_scores(0.0, None),
            only_reference=_constant_scores(0.0, None),
        ),
        Protocol(
            "published",
            uses_spacing=False,
            hd95=_joint_percentile,
            both_empty=_constant_scores(0.0, 0.0),
            only_prediction=_constant_scores(1.0, 0.0),
            only_reference=_constant_scores(0.0, 0.0),
        ),
    )
}
"""The protocols by name. `published` has the conventions of the paper's tables, only for comparisons with them."""
