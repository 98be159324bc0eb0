"""Trainers of EMCAD."""

import os
from typing import ClassVar

import torch.distributed as dist
from torch import nn

from ..utils.paths import WEIGHTS_VARIABLE
from .losses import SubsetsLoss
from .names import NETWORKS, ROUTINGS
from .trainer import XAttnResTrainer
from .trainer_classes import module_attribute, module_names


class nnUNetTrainerEMCADXAttnRes(XAttnResTrainer):
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
    any_size = True
    encoder_weights: ClassVar[str | None] = None
    subsets: ClassVar[str] = "all"
    # the step of SGD would grow with the sum of the 15 losses
    subset_reduction: ClassVar[str] = "mean"

    @classmethod
    def build_network(cls, configuration, num_input_channels, num_output_channels, deep_supervision):
        from ..networks.emcad import EMCAD  # imports timm, which takes seconds

        return EMCAD(num_input_channels, num_output_channels, deep_supervision, **cls.network_options)

    @classmethod
    def total_strides(cls, configuration):
        return [32, 32]

    @classmethod
    def norm_name(cls, configuration):
        return "BatchNorm2d"

    def on_train_start(self) -> None:
        """Load the encoder's ImageNet weights if the training is new, then start as nnU-Net does."""
        # if the network is initialised, it has the weights of a checkpoint or of -pretrained_weights
        if not self.was_initialized:
            self.initialize()
            self._load_encoder_weights()
        super().on_train_start()

    def _load_encoder_weights(self) -> None:
        from ..networks.imagenet import NotAvailableError, load_imagenet

        network = self.network.module if self.is_ddp else self.network
        encoder = getattr(network, "_orig_mod", network).encoder
        source = self.encoder_weights or os.environ.get(WEIGHTS_VARIABLE) or None
        if source == "random":
            self.print_to_log_file("EMCAD's encoder starts from random weights, as requested")
        elif self.local_rank == 0:
            if source is None:
                self.print_to_log_file(
                    "EMCAD's encoder: downloading ImageNet weights. Without internet access this fails after a minute; "
                    f"to use a local file, export {WEIGHTS_VARIABLE}=/path/to/pvt_v2_b2.pth"
                )
            try:
                origin = load_imagenet(encoder, source)
                self.print_to_log_file(f"EMCAD's encoder starts from ImageNet weights: {origin}")
            except NotAvailableError as reason:
                self.print_to_log_file(
                    "WARNING: EMCAD's encoder starts from RANDOM weights, because the ImageNet weights cannot be "
                    f"downloaded ({reason}). To use a local file, export {WEIGHTS_VARIABLE}=/path/to/pvt_v2_b2.pth; to "
                    f"train from random weights without this warning, export {WEIGHTS_VARIABLE}=random"
                )
        if self.is_ddp:
            for tensor in encoder.state_dict().values():
                dist.broadcast(tensor, 0)

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
