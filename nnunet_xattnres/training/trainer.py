"""nnU-Net's trainer with cross-stage attention residuals in the planned network; everything else is nnU-Net's."""

import os
from typing import ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from ..layer import XAttnRes
from ..networks import build_from_plans
from ..ops.backends import choose
from .lengths import with_lengths


class nnUNetTrainerXAttnRes(nnUNetTrainer):
    """Trains the planned PlainConvUNet or ResEnc U-Net with XAttnRes in every stage (arXiv 2604.03297).

    A variant is a subclass that sets `network_options`; a shorter training is one that sets `epochs`. nnU-Net names
    the results folder by the class, so each needs a name of its own.

    Attributes:
        network_options: keywords of the network: skip, encoder, decoder, decoder_input, init, backend.
        epochs: number of epochs, None for nnU-Net's 1000.

    Raises:
        RuntimeError: if nnUNet_results is not set.
        ValueError: if the plans name a network without an XAttnRes counterpart.
    """

    network_options: ClassVar[dict] = {}
    epochs: ClassVar[int | None] = None

    # nnU-Net reads the names of these arguments: they are its own
    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),
    ):
        if "nnUNet_results" not in os.environ:
            raise RuntimeError(
                "nnUNet_results is not set, so there is nowhere to train to: export nnUNet_results=/a/folder"
            )
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.epochs is not None:
            self.num_epochs = self.epochs

    def initialize(self) -> None:
        """nnU-Net's; its log file also says what computes XAttnRes."""
        super().initialize()
        asked_for = next((m.backend for m in self.network.modules() if isinstance(m, XAttnRes)), None)
        backend = choose(asked_for, self.device.type)
        self.print_to_log_file(f"XAttnRes is computed by backend '{backend}' on {self.device.type}")

    # nnU-Net's is static; as a classmethod it is called the same way and knows its variant
    @classmethod
    def build_network_architecture(
        cls,
        plans_manager,
        configuration_manager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> torch.nn.Module:
        """The network of the plans with XAttnRes, for training and for inference."""
        return build_from_plans(
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
            **cls.network_options,
        )


# here too, so that they can be pickled
globals().update(with_lengths(nnUNetTrainerXAttnRes))
