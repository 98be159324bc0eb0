"""XAttnRes in every encoder and decoder stage, skips kept: the paper's "both", and the default.

nnUNetTrainerXAttnRes and, by length, nnUNetTrainerXAttnRes_1epoch, _5epochs, _10epochs, ... as nnU-Net has them.
"""

from nnunet_xattnres.training.lengths import with_lengths
from nnunet_xattnres.training.trainer import nnUNetTrainerXAttnRes

globals().update(with_lengths(nnUNetTrainerXAttnRes))
