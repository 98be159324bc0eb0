"""Trainers of the paper's own U-Net, with and without XAttnRes."""

from ..networks.paper_unet import PaperUNet
from .names import ROUTINGS, variants
from .trainer import XAttnResTrainer


class nnUNetTrainerPaperUNetXAttnRes(XAttnResTrainer):
    """Trains the paper's U-Net with XAttnRes in every stage, skips kept; 2-D, without deep supervision.

    Attributes:
        network_options: keywords of `Connections`: skip, encoder, decoder, decoder_input, init, backend.
    """

    network_name = "paper's U-Net"
    routing = ROUTINGS["XAttnRes"].text
    dims = (2,)
    deep_supervision = False
    any_size = True

    @classmethod
    def build_network(cls, configuration, num_input_channels, num_output_channels, deep_supervision):
        # one head: nnU-Net's switch for deep supervision is without effect
        return PaperUNet(num_input_channels, num_output_channels, **cls.network_options)


TRAINERS = variants("nnUNetTrainerPaperUNet", nnUNetTrainerPaperUNetXAttnRes, ROUTINGS)
globals().update(TRAINERS)  # so that they can be pickled
