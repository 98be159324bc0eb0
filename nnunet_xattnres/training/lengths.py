"""Kept for trainer files that import `with_lengths` from here; new ones import it from `nnunet_xattnres.training`."""

from .trainer_classes import with_lengths

__all__ = ["with_lengths"]
