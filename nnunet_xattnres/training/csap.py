"""Trainers of CSAP."""

from typing import Any

from .names import NETWORKS, ROUTINGS, TrainerName
from .pretrained_encoder import PretrainedEncoderTrainer
from .trainer import XAttnResTrainer
from .trainer_classes import module_attribute, module_names


class nnUNetTrainerCSAP(PretrainedEncoderTrainer):
    """Trains CSAP (arXiv 2604.05431), without XAttnRes; 2-D, without deep supervision.

    A new training initialises the encoder with ImageNet weights from a file, which `encoder_weights` or the environment
    variable XATTNRES_ENCODER_WEIGHTS names: MSCAN-T, as the authors of SegNeXt publish it. Without a file, the encoder
    starts from random weights, and a warning in the log says so.

    Attributes:
        network_options: options of `CSAP`: decoder, init, backend, gate, checkpoint.
        encoder_weights: a file of ImageNet weights, or "random"; None for XATTNRES_ENCODER_WEIGHTS.

    Raises:
        ValueError: if the file of weights does not exist, cannot be read or does not fit the encoder.
    """

    network_name = NETWORKS["CSAP"].label
    routing = ROUTINGS[""].label
    network_options = TrainerName("CSAP").network_options
    dims = NETWORKS["CSAP"].dims
    deep_supervision = False
    published_file = "mscan_t.pth"
    downloads = False

    @classmethod
    def build_network(cls, configuration, num_input_channels, num_output_channels, deep_supervision):
        from ..networks.csap import CSAP  # imports timm, which takes seconds

        # the network has one head, so nnU-Net's switch for deep supervision has no effect
        options: dict[str, Any] = cls.network_options
        return CSAP(num_input_channels, num_output_channels, **options)

    @staticmethod
    def load_encoder_weights(encoder, file):
        from ..networks.imagenet import load_mscan

        return load_mscan(encoder, file)


def __getattr__(name: str) -> type[XAttnResTrainer]:
    return module_attribute(__name__, name)  # the other trainers of this network


def __dir__() -> list[str]:
    return [*globals(), *module_names(__name__)]
