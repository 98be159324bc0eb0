"""Attention layers of other systems, as modules of PyTorch alone, in 2-D and 3-D."""

from .mlla_block import MLLABlock
from .propagation import AttentionMap, AttentionPropagation, PooledTokens
from .sema import SEMA

__all__ = ["SEMA", "AttentionMap", "AttentionPropagation", "MLLABlock", "PooledTokens"]
