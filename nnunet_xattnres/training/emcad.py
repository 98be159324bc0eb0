"""Trainers of EMCAD, with and without XAttnRes in its decoder."""

import os
from typing import ClassVar

import torch.distributed as dist
from torch import nn

from ..utils.paths import WEIGHTS_VARIABLE
from .losses import SubsetsLoss
from .names import ROUTINGS, Routing, variants
from .trainer import XAttnResTrainer


class nnUNetTrainerEMCADXAttnRes(XAttnResTrainer):
    """Trains EMCAD with XAttnRes in every decoder stage, skips kept; 2-D.

    The encoder starts from ImageNet weights: from `encoder_weights`, else from the file that the environment variable
    XATTNRES_ENCODER_WEIGHTS names, else through timm, from the network; where that fails the log says loudly that it
    starts from random ones. All four heads are supervised at full resolution (`SubsetsLoss`).

    Attributes:
        network_options: keywords of `EMCAD`: skip, decoder, init, backend.
        encoder_weights: a file of ImageNet weights, or "random"; None for the environment's.
        subsets, subset_reduction: of `SubsetsLoss`.

    Raises:
        ValueError: if the file with the weights does not exist or does not fit.
    """

    network_name = "EMCAD"
    routing = ROUTINGS["XAttnRes"].text
    dims = (2,)
    any_size = True
    encoder_weights: ClassVar[str | None] = None
    subsets: ClassVar[str] = "all"
    # of 15 losses, as SGD's step grows with their sum
    subset_reduction: ClassVar[str] = "mean"

    @classmethod
    def build_network(cls, configuration, num_input_channels, num_output_channels, deep_supervision):
        from ..networks.emcad import EMCAD  # timm is imported for this network only

        return EMCAD(num_input_channels, num_output_channels, deep_supervision, **cls.network_options)

    def on_train_start(self) -> None:
        """nnU-Net's; a new training first takes the encoder's ImageNet weights."""
        # initialised already: a checkpoint, or the file of -pretrained_weights, is in the network
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
            self.print_to_log_file("EMCAD's encoder starts from random weights, as asked for")
        elif self.local_rank == 0:
            if source is None:
                self.print_to_log_file(
                    f"EMCAD's encoder: fetching ImageNet weights; without a network this takes a minute, export "
                    f"{WEIGHTS_VARIABLE}=/a/file spares it"
                )
            try:
                origin = load_imagenet(encoder, source)
                self.print_to_log_file(f"EMCAD's encoder starts from ImageNet weights: {origin}")
            except NotAvailableError as reason:
                self.print_to_log_file(
                    f"WARNING: EMCAD's encoder starts from RANDOM weights, because its ImageNet weights cannot be "
                    f"fetched ({reason}). export {WEIGHTS_VARIABLE}=/a/file, or =random if that is what you want"
                )
        if self.is_ddp:
            for tensor in encoder.state_dict().values():
                dist.broadcast(tensor, 0)

    def _get_deep_supervision_scales(self):
        """One target, at full resolution, for all heads."""
        return [[1.0, 1.0]] if self.enable_deep_supervision else None

    def _build_loss(self) -> nn.Module:
        """The loss of one output, for subsets of the heads."""
        deep_supervision, self.enable_deep_supervision = self.enable_deep_supervision, False
        loss = super()._build_loss()
        self.enable_deep_supervision = deep_supervision
        return SubsetsLoss(loss, self.subsets, self.subset_reduction) if deep_supervision else loss


# the gates and the additions are the skips, and the encoder is pretrained: nothing else of ROUTINGS applies
_ROUTINGS = {
    "": Routing(ROUTINGS[""].text, {"decoder": False}),
    "NoSkip": Routing(ROUTINGS["NoSkip"].text, {"decoder": False, "skip": False}),
    "XAttnRes": ROUTINGS["XAttnRes"],
    "XAttnResReplace": ROUTINGS["XAttnResReplace"],
}
TRAINERS = variants("nnUNetTrainerEMCAD", nnUNetTrainerEMCADXAttnRes, _ROUTINGS)
globals().update(TRAINERS)  # so that they can be pickled
