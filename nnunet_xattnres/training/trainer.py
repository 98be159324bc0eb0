"""nnU-Net's trainer with a network of this package in the place of the planned one; everything else is nnU-Net's."""

import os
from typing import ClassVar

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from ..layer import XAttnRes
from ..ops.dispatch import resolve_backend


class XAttnResTrainer(nnUNetTrainer):
    """Base of all trainers in the box: a subclass says which network to build, and may have another recipe.

    nnU-Net names the results folder by the class, so each variant needs a class of its own; `variants` makes them.

    Attributes:
        network_name, routing, recipe: what the catalogue says of the class.
        network_options: keywords of the network.
        dims: numbers of spatial axes it can train.
        deep_supervision: whether the network has outputs at several scales.
        any_size: whether the network takes patches of any size; a planned one takes multiples of its strides.
        epochs: number of epochs, None for nnU-Net's 1000.

    Raises:
        RuntimeError: if nnUNet_results is not set.
        ValueError: if the configuration or the labels are not for this trainer, before anything is written.
    """

    network_name: ClassVar[str]
    routing: ClassVar[str]
    recipe: ClassVar[str] = "nnU-Net"
    network_options: ClassVar[dict] = {}
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    deep_supervision: ClassVar[bool] = True
    any_size: ClassVar[bool] = False
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
        planned = PlansManager(plans)
        self.check_configuration(planned.get_configuration(configuration))
        self.check_labels(planned.get_label_manager(dataset_json))
        super().__init__(plans, configuration, fold, dataset_json, device)
        if not self.deep_supervision:
            self.enable_deep_supervision = False
        if self.epochs is not None:
            self.num_epochs = self.epochs

    @classmethod
    def check_configuration(cls, configuration: ConfigurationManager) -> None:
        """Raise a ValueError if this trainer cannot train a configuration of the plans."""
        dim = len(configuration.patch_size)
        if dim not in cls.dims:
            raise ValueError(
                f"{cls.__name__} works in {' and '.join(f'{d}-D' for d in cls.dims)} only, but this configuration "
                f"plans {dim}-D patches ({' x '.join(map(str, configuration.patch_size))}): use configuration 2d"
            )

    @classmethod
    def check_labels(cls, labels: LabelManager) -> None:
        """Raise a ValueError if the recipe cannot train these labels; nnU-Net's trains all."""

    @classmethod
    def build_network(
        cls, configuration: ConfigurationManager, num_input_channels: int, num_output_channels: int,
        deep_supervision: bool,
    ) -> nn.Module:  # fmt: skip
        """The network with `network_options`, untrained."""
        raise NotImplementedError

    # nnU-Net's is static; as a classmethod it is called the same way and knows its variant
    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network, for training and for inference."""
        cls.check_configuration(configuration_manager)
        return cls.build_network(
            configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )

    def initialize(self) -> None:
        """nnU-Net's; its log file also says what computes XAttnRes."""
        super().initialize()
        layers = [module for module in self.network.modules() if isinstance(module, XAttnRes)]
        if layers:
            backend = resolve_backend(layers[0].backend, self.device.type)
            self.print_to_log_file(f"XAttnRes is computed by backend '{backend}' on {self.device.type}")

    def output_loss(self) -> nn.Module | None:
        """The recipe's loss of one output; None for nnU-Net's."""
        return None

    def _build_loss(self) -> nn.Module:
        """nnU-Net's, or the recipe's with nnU-Net's weights of the scales."""
        loss, own = super()._build_loss(), self.output_loss()
        if own is None:
            return loss
        if not isinstance(loss, DeepSupervisionWrapper):
            return own
        loss.loss = own
        return loss
