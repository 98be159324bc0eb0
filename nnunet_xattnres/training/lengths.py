"""An alias for older trainer files; new ones import `with_lengths` from `nnunet_xattnres.training`."""

from .trainer_classes import with_lengths

__all__ = ["with_lengths"]
