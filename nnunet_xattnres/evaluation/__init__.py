"""Predictions against references: overlap and surface distance, per case and label, under a named protocol.

from nnunet_xattnres.evaluation import PROTOCOLS, compare

compare(prediction, reference, {"liver": (6,)}, spacing=(3, 0.8, 0.8), protocol=PROTOCOLS["default"], tolerance=1.0)
"""

from .metrics import METRICS, compare
from .protocols import PROTOCOLS, Protocol
from .surfaces import SurfaceDistances, surface_distances

__all__ = ["METRICS", "PROTOCOLS", "Protocol", "SurfaceDistances", "compare", "surface_distances"]
