"""Trainers whose networks have an encoder that starts from ImageNet weights."""

import os
from typing import ClassVar

import torch.distributed as dist
from torch import nn

from ..utils.paths import WEIGHTS_VARIABLE
from .trainer import XAttnResTrainer


class PretrainedEncoderTrainer(XAttnResTrainer):
    """Base class of the trainers whose network has a pretrained `encoder`, with features from stride 4 to stride 32.

    A new training initialises the encoder from the first of these sources: `encoder_weights`, the file that the
    environment variable XATTNRES_ENCODER_WEIGHTS names, and a download if there is one. If there is none or it fails,
    the log says that the encoder starts from random weights, and how to name a file.

    Attributes:
        encoder_weights: a file of ImageNet weights, or "random"; None for XATTNRES_ENCODER_WEIGHTS or the download.
        published_file: name of the published file, for the log.
        downloads: whether the weights can be downloaded.

    Raises:
        ValueError: if the file of weights does not exist, cannot be read or does not fit the encoder.
    """

    encoder_weights: ClassVar[str | None] = None
    published_file: ClassVar[str]
    downloads: ClassVar[bool]
    any_size = True  # the networks pad the image

    @classmethod
    def total_strides(cls, configuration):
        return [32, 32]

    @classmethod
    def norm_name(cls, configuration):
        return "BatchNorm2d"

    @staticmethod
    def load_encoder_weights(encoder: nn.Module, file: str | None) -> str:
        """Load the weights in `file`, or those of a download if it is None, and return their source for the log.

        Raises:
            NotAvailableError: if `file` is None and there is no download, or it fails.
            ValueError: if the file does not exist, cannot be read or does not fit the encoder.
        """
        raise NotImplementedError

    def on_train_start(self) -> None:
        """Load the encoder's ImageNet weights if the training is new, then start as nnU-Net does."""
        # if the network is initialised, it has the weights of a checkpoint or of -pretrained_weights
        if not self.was_initialized:
            self.initialize()
            self._initialize_encoder()
        super().on_train_start()

    def _initialize_encoder(self) -> None:
        from ..networks.imagenet import NotAvailableError

        network = self.network.module if self.is_ddp else self.network
        encoder = getattr(network, "_orig_mod", network).encoder
        name = f"{self.network_name}'s encoder"
        use_file = f"to use a local file, export {WEIGHTS_VARIABLE}=/path/to/{self.published_file}"
        source = self.encoder_weights or os.environ.get(WEIGHTS_VARIABLE) or None
        if source == "random":
            self.print_to_log_file(f"{name} starts from random weights, as requested")
        elif self.local_rank == 0:
            if source is None and self.downloads:
                self.print_to_log_file(
                    f"{name}: downloading ImageNet weights. Without internet access this fails after a minute; "
                    f"{use_file}"
                )
            try:
                origin = self.load_encoder_weights(encoder, source)
                self.print_to_log_file(f"{name} starts from ImageNet weights: {origin}")
            except NotAvailableError as reason:
                self.print_to_log_file(
                    f"WARNING: {name} starts from RANDOM weights, because the ImageNet weights cannot be downloaded "
                    f"({reason}). {use_file[0].upper()}{use_file[1:]}; to train from random weights without this "
                    f"warning, export {WEIGHTS_VARIABLE}=random"
                )
        if self.is_ddp:
            for tensor in encoder.state_dict().values():
                dist.broadcast(tensor, 0)
