"""The operator: Eqs. 4-8 of the paper, once word by word and once as it is trained.

Every implementation has the same signature and the same docstring; `reference.xattnres` is the specification.
"""

from .reference import xattnres as reference
from .streamed import xattnres as streamed

__all__ = ["reference", "streamed"]
