"""Trainers of the network that nnU-Net planned, PlainConvUNet or ResidualEncoderUNet, with XAttnRes in its stages."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ..networks import build_from_plans
from ..networks.connections import refuse_unknown_options
from ..networks.planned_unet import XATTNRES_UNETS, XAttnResUNetMixin
from ..networks.plans import find_replacement
from .names import NETWORKS, ROUTINGS
from .trainer import XAttnResTrainer
from .trainer_classes import module_attribute, module_names


class PlannedNetworkTrainer(XAttnResTrainer):
    """Base class of the trainers whose network derives from the planned one.

    Attributes:
        networks: the networks, by the name of the stock class that they derive from.
        network_options: options of these networks.

    Raises:
        ValueError: if there is no network for the planned one, or it does not have one of the options.
    """

    networks: ClassVar[Mapping[str, type[XAttnResUNetMixin]]]

    @classmethod
    def check_patches(cls, configuration):
        network = find_replacement(configuration.network_arch_class_name, cls.networks)  # raises for another network
        refuse_unknown_options(cls.network_options, network.allowed_options)
        super().check_patches(configuration)

    @classmethod
    def norm_name(cls, configuration):
        return str(configuration.network_arch_init_kwargs.get("norm_op")).rpartition(".")[2]

    @classmethod
    def options(cls) -> dict[str, Any]:
        """All options of the network: those that the routing does not choose, too."""
        return dict(cls.network_options)

    @classmethod
    def build_network(cls, configuration, num_input_channels, num_output_channels, deep_supervision):
        return build_from_plans(
            configuration, num_input_channels, num_output_channels, deep_supervision, cls.networks, **cls.options()
        )


class nnUNetTrainerXAttnRes(PlannedNetworkTrainer):
    """Trains the planned network with XAttnRes in every stage and skip connections (arXiv 2604.03297).

    Attributes:
        network_options: options of `Connections`: skip, encoder, decoder, decoder_input, init, backend, gate,
            checkpoint.

    Raises:
        ValueError: if there is no XAttnRes network for the planned one.
    """

    network_name = NETWORKS[""].label
    routing = ROUTINGS["XAttnRes"].label
    dims = NETWORKS[""].dims
    networks = XATTNRES_UNETS


def __getattr__(name: str) -> type[XAttnResTrainer]:
    return module_attribute(__name__, name)  # the other trainers of this network


def __dir__() -> list[str]:
    return [*globals(), *module_names(__name__)]
