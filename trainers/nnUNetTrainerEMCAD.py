"""EMCAD, 2-D: nnUNetTrainerEMCAD, nnUNetTrainerEMCADXAttnRes and more.

nnUNetTrainerEMCAD<routing>[_<recipe>][_<length>]; `xattnres trainers --list` shows them all.
"""

from nnunet_xattnres.training.emcad import TRAINERS

globals().update(TRAINERS)
