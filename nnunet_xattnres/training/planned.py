"""Trainers of the network that nnU-Net planned, PlainConvUNet or ResEnc, with XAttnRes between its stages."""

from ..networks import build_from_plans
from .names import ROUTINGS, variants
from .trainer import XAttnResTrainer


class nnUNetTrainerXAttnRes(XAttnResTrainer):
    """Trains the planned network with XAttnRes in every stage, skips kept (arXiv 2604.03297).

    Attributes:
        network_options: keywords of `Connections`: skip, encoder, decoder, decoder_input, init, backend.

    Raises:
        ValueError: if the plans name a network without an XAttnRes counterpart.
    """

    network_name = "planned"
    routing = ROUTINGS["XAttnRes"].text

    @classmethod
    def build_network(cls, configuration, num_input_channels, num_output_channels, deep_supervision):
        return build_from_plans(
            configuration, num_input_channels, num_output_channels, deep_supervision, **cls.network_options
        )


TRAINERS = variants("nnUNetTrainer", nnUNetTrainerXAttnRes, ROUTINGS)
globals().update(TRAINERS)  # so that they can be pickled
