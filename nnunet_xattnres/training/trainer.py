"""nnU-Net's trainer with another network than the planned one; everything else is nnU-Net's."""

import os
from typing import Any, ClassVar

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from ..layer import XAttnRes
from ..networks.checkpointing import checkpoints_by_variable
from ..ops import custom_op
from ..ops.dispatch import resolve_backend
from .names import RECIPES
from .patches import check_divisible, check_normalisation, describe_size, planned_strides

GATE_INTERVAL = 50
"""The epochs between two lines of the training log with the gates of the layers."""


class XAttnResTrainer(nnUNetTrainer):
    """Base class of all trainers of this package. A subclass builds its network in `build_network`.

    Attributes:
        network_name: label of the network, as `xattnres trainers --list` shows it.
        routing: label of the routing, the named choice of `network_options`.
        recipe: label of the recipe.
        network_options: keyword arguments of the network.
        dims: numbers of spatial axes that the trainer can train.
        deep_supervision: whether the network has outputs at several scales.
        any_size: whether the network takes patches of any size; a planned network takes multiples of its strides.
        epochs: number of epochs, None for nnU-Net's 1000.

    Raises:
        RuntimeError: if the environment variable nnUNet_results is not set.
        ValueError: if the trainer cannot train the configuration, the channels or the labels, or the environment
            variable XATTNRES_CHECKPOINT has an unknown value; nothing is written in this case.
    """

    network_name: ClassVar[str]
    routing: ClassVar[str]
    recipe: ClassVar[str] = RECIPES[""].label
    network_options: ClassVar[dict[str, Any]] = {}
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    deep_supervision: ClassVar[bool] = True
    any_size: ClassVar[bool] = False
    epochs: ClassVar[int | None] = None

    # nnU-Net saves the arguments in checkpoints by their names, which are those of its own trainer
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
                "the environment variable nnUNet_results is not set: export nnUNet_results=/path/to/results"
            )
        checkpoints_by_variable()  # raises for an unknown value
        planned = PlansManager(plans)
        self.check_configuration(planned.get_configuration(configuration))
        self.check_channels(planned.get_configuration(configuration), dataset_json)
        self.check_labels(planned.get_label_manager(dataset_json))
        super().__init__(plans, configuration, fold, dataset_json, device)
        if not self.deep_supervision:
            self.enable_deep_supervision = False
        if self.epochs is not None:
            self.num_epochs = self.epochs
        self._used_backends_logged = False

    @classmethod
    def check_configuration(cls, configuration: ConfigurationManager) -> None:
        """Check that this trainer can train a configuration of the plans.

        Raises:
            ValueError: if it cannot.
        """
        cls.check_dim(configuration)
        try:
            cls.check_patches(configuration)
        except ValueError as error:
            raise ValueError(f"{cls.__name__}: {error}") from None

    @classmethod
    def check_dim(cls, configuration: ConfigurationManager) -> None:
        """Check the number of spatial axes, on which prediction depends as well.

        Raises:
            ValueError: if the trainer has no network for it.
        """
        dim = len(configuration.patch_size)
        if dim not in cls.dims:
            raise ValueError(
                f"{cls.__name__} trains {' and '.join(f'{d}-D' for d in cls.dims)} configurations only, but this one "
                f"has {dim}-D patches ({describe_size(configuration.patch_size)}): use configuration 2d"
            )

    @classmethod
    def check_patches(cls, configuration: ConfigurationManager) -> None:
        """Check that the network can compute the patches, and normalise its deepest features.

        Raises:
            ValueError: if it cannot.
        """
        strides, norm = cls.total_strides(configuration), cls.norm_name(configuration)
        if not cls.any_size:
            check_divisible(configuration.patch_size, strides)
        for patch_size in cls.patch_sizes(configuration):
            check_normalisation(norm, configuration.batch_size, patch_size, strides)

    @classmethod
    def total_strides(cls, configuration: ConfigurationManager) -> list[int]:
        """The ratio of the patch to the deepest features of the network, along every axis."""
        return planned_strides(configuration)

    @classmethod
    def norm_name(cls, configuration: ConfigurationManager) -> str:
        """The class name of the normalisation of the deepest features; one that is unknown is not checked."""
        return ""

    @classmethod
    def patch_sizes(cls, configuration: ConfigurationManager) -> list[list[int]]:
        """The sizes of the patches of a training step."""
        return [list(configuration.patch_size)]

    @classmethod
    def check_channels(cls, configuration: ConfigurationManager, dataset_json: dict) -> None:
        """Check that the plans are made for images of as many channels as the data set has.

        Raises:
            ValueError: if they are not.
        """
        planned = len(configuration.normalization_schemes)
        channels = dataset_json.get("channel_names", dataset_json.get("modality", {}))
        if len(channels) != planned:
            raise ValueError(
                f"{cls.__name__}: the plans are for images of {planned} channels, but dataset.json has {len(channels)} "
                "channel_names: correct dataset.json, or plan and preprocess the data set again"
            )

    @classmethod
    def check_labels(cls, labels: LabelManager) -> None:
        """Check that the recipe can train these labels; nnU-Net's own can train all that have a foreground.

        Raises:
            ValueError: if it cannot.
        """
        if not (labels.foreground_regions if labels.has_regions else labels.foreground_labels):
            raise ValueError(
                f"{cls.__name__}: dataset.json declares no label but background, so there is nothing to learn: add the "
                "labels of the label maps to it"
            )

    @classmethod
    def build_network(
        cls, configuration: ConfigurationManager, num_input_channels: int, num_output_channels: int,
        deep_supervision: bool,
    ) -> nn.Module:  # fmt: skip
        """Build the network with `network_options`; the weights are its initial ones."""
        raise NotImplementedError

    # a static method in nnU-Net; a class method is called the same way and has the options of its class
    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the network, as nnU-Net does for training and for inference."""
        cls.check_dim(configuration_manager)
        return cls.build_network(
            configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )

    def initialize(self) -> None:
        """Initialise as nnU-Net does, and log the backend that computes XAttnRes and whether there are checkpoints."""
        super().initialize()
        layers = self._layers()
        if layers:
            backend = resolve_backend(layers[0].backend, self.device.type)
            if self.is_ddp:
                backend = self._agree_on_backend(layers, backend)
            self.print_to_log_file(f"XAttnRes is computed by backend '{backend}' on {self.device.type}")
        if any(getattr(module, "checkpoint", None) is True for module in self.network.modules()):
            self.print_to_log_file("Activation checkpointing is on: the backward pass computes some stages again")

    def _layers(self) -> list[XAttnRes]:
        return [module for module in self.network.modules() if isinstance(module, XAttnRes)]

    def _agree_on_backend(self, layers: list[XAttnRes], backend: str) -> str:
        """Let all processes use PyTorch if a faster backend works in some of them only, because these would wait."""
        backends: list[str] = [""] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(backends, backend)
        if len(set(backends)) == 1:
            return backend
        for layer in layers:
            layer.backend = "torch"
        self.print_to_log_file(f"The backends of the processes differ ({', '.join(backends)}); all use 'torch'")
        return "torch"

    def on_epoch_end(self) -> None:
        """As nnU-Net's; log the backends that have computed XAttnRes, after the first epoch, and the gates."""
        super().on_epoch_end()
        if self.current_epoch % GATE_INTERVAL == 0 or self.current_epoch == self.num_epochs:
            self._log_gates()
        if not self._used_backends_logged and self._layers():
            self._log_used_backends()

    def _log_gates(self) -> None:
        """Log the gate g of every layer, in one line, by the number of its stage; nothing where there are no gates."""
        # in the other processes, nnU-Net would print the line
        if self.local_rank != 0:
            return
        # a network that is compiled or wrapped for several GPUs has a prefix in all names
        gates = {
            name.rpartition(".")[2]: module.gate.item()
            for name, module in self.network.named_modules()
            if isinstance(module, XAttnRes) and module.gate is not None
        }
        if gates:
            values = ", ".join(f"{stage}: {gate:.4f}" for stage, gate in gates.items())
            self.print_to_log_file(f"Gates of XAttnRes after epoch {self.current_epoch - 1} (stage: gate): {values}")

    def _log_used_backends(self) -> None:
        self._used_backends_logged = True
        message = f"XAttnRes was computed by {' and '.join(sorted(custom_op.used_backends)) or 'the reference'}"
        self.print_to_log_file("; ".join([message, *sorted(custom_op.triton_refusals)]))

    def output_loss(self) -> nn.Module | None:
        """The recipe's loss for one output of the network; None for nnU-Net's."""
        return None

    def _build_loss(self) -> nn.Module:
        """nnU-Net's loss, or that of the recipe, with nnU-Net's weights for the scales of deep supervision."""
        loss, output_loss = super()._build_loss(), self.output_loss()
        if output_loss is None:
            return loss
        if not isinstance(loss, DeepSupervisionWrapper):
            return output_loss
        loss.loss = output_loss
        return loss
