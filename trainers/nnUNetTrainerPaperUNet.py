"""The XAttnRes paper's own U-Net, 2-D: nnUNetTrainerPaperUNet, nnUNetTrainerPaperUNetXAttnRes and more.

nnUNetTrainerPaperUNet<routing>[_<recipe>][_<length>]; `xattnres trainers --list` shows them all.
"""

from nnunet_xattnres.training.paper_unet import TRAINERS

globals().update(TRAINERS)
