"""Trainers of the U-Net of the XAttnRes paper."""

from ..networks.paper_unet import PaperUNet
from .names import NETWORKS, ROUTINGS
from .trainer import XAttnResTrainer
from .trainer_classes import module_attribute, module_names


class nnUNetTrainerPaperUNetXAttnRes(XAttnResTrainer):
    """Trains the paper's U-Net with XAttnRes in every stage and skip connections; 2-D, without deep supervision.

    Attributes:
        network_options: options of `Connections`: skip, encoder, decoder, decoder_input, init, backend, gate,
            checkpoint.
    """

    network_name = NETWORKS["PaperUNet"].label
    routing = ROUTINGS["XAttnRes"].label
    dims = NETWORKS["PaperUNet"].dims
    deep_supervision = False
    any_size = True

    @classmethod
    def build_network(cls, configuration, num_input_channels, num_output_channels, deep_supervision):
        # the network has one head, so nnU-Net's switch for deep supervision has no effect
        return PaperUNet(num_input_channels, num_output_channels, **cls.network_options)

    @classmethod
    def total_strides(cls, configuration):
        return [16, 16]

    @classmethod
    def norm_name(cls, configuration):
        return "BatchNorm2d"


def __getattr__(name: str) -> type[XAttnResTrainer]:
    return module_attribute(__name__, name)  # the other trainers of this network


def __dir__() -> list[str]:
    return [*globals(), *module_names(__name__)]
