"""The network that nnU-Net planned, with XAttnRes: nnUNetTrainerXAttnRes and its variants.

nnUNetTrainer<routing>[_<recipe>][_<length>]; `xattnres trainers --list` shows them all.
"""

from nnunet_xattnres.training.planned import TRAINERS

globals().update(TRAINERS)
