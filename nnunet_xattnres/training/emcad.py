"""Trainers of EMCAD."""

from typing import ClassVar

from torch import nn

from .losses import SubsetsLoss
from .names import NETWORKS, ROUTINGS
from .pretrained_encoder import PretrainedEncoderTrainer
from .trainer import XAttnResTrainer
from .trainer_classes import module_attribute, module_names


class nnUNetTrainerEMCADXAttnRes(PretrainedEncoderTrainer):
    """Trains EMCAD with XAttnRes in every decoder stage and skip connections; 2-D.

    A new training initialises the encoder with ImageNet weights, from the first of these sources: `encoder_weights`,
    the file that the environment variable XATTNRES_ENCODER_WEIGHTS names, a download by timm. If the download fails, a
    warning in the log says that the encoder starts from random weights. All four heads are supervised at full
    resolution (`SubsetsLoss`).

    Attributes:
        network_options: options of `EMCAD`: skip, decoder, init, backend, gate, checkpoint.
        encoder_weights: a file of ImageNet weights, or "random"; None for XATTNRES_ENCODER_WEIGHTS or the download.
        subsets: subsets of the heads that are supervised, see `SubsetsLoss`.
        subset_reduction: reduction over the subsets, see `SubsetsLoss`.

    Raises:
        ValueError: if the file of weights does not exist, cannot be read or does not fit the encoder.
    """

    network_name = NETWORKS["EMCAD"].label
    routing = ROUTINGS["XAttnRes"].label
    dims = NETWORKS["EMCAD"].dims
    published_file = "pvt_v2_b2.pth"
    downloads = True
    subsets: ClassVar[str] = "all"
    # the step of SGD would grow with the sum of the 15 losses
    subset_reduction: ClassVar[str] = "mean"

    @classmethod
    def build_network(cls, configuration, num_input_channels, num_output_channels, deep_supervision):
        from ..networks.emcad import EMCAD  # imports timm, which takes seconds

        return EMCAD(num_input_channels, num_output_channels, deep_supervision, **cls.network_options)

    @staticmethod
    def load_encoder_weights(encoder, file):
        from ..networks.imagenet import load_imagenet

        return load_imagenet(encoder, file)

    def _get_deep_supervision_scales(self):
        """One scale, full resolution, whose target is used for all heads."""
        return [[1.0, 1.0]] if self.enable_deep_supervision else None

    def _build_loss(self) -> nn.Module:
        """The loss of one output, computed for subsets of the heads."""
        deep_supervision, self.enable_deep_supervision = self.enable_deep_supervision, False
        loss = super()._build_loss()
        self.enable_deep_supervision = deep_supervision
        return SubsetsLoss(loss, self.subsets, self.subset_reduction) if deep_supervision else loss


def __getattr__(name: str) -> type[XAttnResTrainer]:
    return module_attribute(__name__, name)  # the other trainers of this network


def __dir__() -> list[str]:
    return [*globals(), *module_names(__name__)]
