"""Scores of predictions against references: overlaps and surface distances per case and region.

>>> import numpy as np
>>> from nnunet_xattnres.evaluation import PROTOCOLS, compare
>>> reference = np.array([[0, 1, 1, 0]])
>>> prediction = np.array([[0, 0, 1, 0]])
>>> scores = compare(prediction, reference, {"liver": (1,)}, (3.0, 0.8), PROTOCOLS["default"], tolerance=1.0)
>>> round(scores["liver"]["dice"], 4), scores["liver"]["hd95"] < 0.8
(0.6667, True)
"""

from .metrics import METRICS, compare
from .protocols import PROTOCOLS, Protocol
from .surfaces import SurfaceDistances, surface_distances

__all__ = ["METRICS", "PROTOCOLS", "Protocol", "SurfaceDistances", "compare", "surface_distances"]
