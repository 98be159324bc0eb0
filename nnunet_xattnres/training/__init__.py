"""Trainers for nnU-Net; `names` has the grammar of their names."""

from .trainer_classes import with_lengths

__all__ = ["with_lengths"]
