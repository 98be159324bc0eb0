"""A network of this package in place of the one in an nnU-Net plans file."""

import pydoc
from collections.abc import Mapping
from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from .connections import refuse_unknown_options
from .planned_unet import XATTNRES_UNETS, XAttnResUNetMixin

_STOCK_PACKAGE = "dynamic_network_architectures."


def planned_network(network_class_name: str) -> type[XAttnResUNetMixin] | None:
    """The network of this package that plans name (`xattnres plan`), None if they name another one."""
    planned = pydoc.locate(network_class_name)
    return planned if isinstance(planned, type) and issubclass(planned, XAttnResUNetMixin) else None


def find_replacement(
    network_class_name: str, networks: Mapping[str, type[XAttnResUNetMixin]] = XATTNRES_UNETS
) -> type[XAttnResUNetMixin]:
    """The network that replaces a planned network.

    Args:
        network_class_name: the import path in the plans file, that of a stock network or of one of this package.
        networks: the possible networks, by the name of the stock class that they derive from.

    Returns:
        The network with the same stock class.

    Raises:
        ValueError: if there is none.

    Example:
        >>> find_replacement("dynamic_network_architectures.architectures.unet.PlainConvUNet")
        <class 'nnunet_xattnres.networks.planned_unet.XAttnResUNet'>
    """
    # the module is not compared: nnU-Net finds a stock network by its class name if a release has moved it
    name = network_class_name.rpartition(".")[2]
    if network_class_name.startswith(_STOCK_PACKAGE) and name in networks:
        return networks[name]
    planned = planned_network(network_class_name)
    for base in planned.__mro__ if planned else ():
        if base.__name__ in networks:
            return networks[base.__name__]
    raise ValueError(
        f"this trainer can replace {' and '.join(networks)}, but these plans name the network "
        f"'{network_class_name}': plan with nnU-Net's default planner or a ResEnc preset"
    )


def import_path(network: type[nn.Module]) -> str:
    """The import path of a network for a plans file: from `nnunet_xattnres.networks` where it is public.

    Example:
        >>> import_path(XATTNRES_UNETS["PlainConvUNet"])
        'nnunet_xattnres.networks.XAttnResUNet'
    """
    public = f"{__package__}.{network.__qualname__}"
    return public if pydoc.locate(public) is network else f"{network.__module__}.{network.__qualname__}"


def planned_architecture(
    configuration: ConfigurationManager,
    networks: Mapping[str, type[XAttnResUNetMixin]] = XATTNRES_UNETS,
    **options: Any,
) -> dict[str, Any]:
    """The entry `architecture` of a plans file for the network that replaces the planned one.

    Args:
        configuration: a configuration of nnU-Net's plans; it is not changed.
        networks: the possible networks, see `find_replacement`.
        options: options of the network, see `build_from_plans`.

    Raises:
        ValueError: if there is no network for the planned one, or an option is unknown.
    """
    network = find_replacement(configuration.network_arch_class_name, networks)
    refuse_unknown_options(options, network.allowed_options)  # before anything is built
    planned = planned_network(configuration.network_arch_class_name)
    left_out = planned.allowed_options if planned else ()
    arguments = {k: v for k, v in configuration.network_arch_init_kwargs.items() if k not in left_out}
    return {
        "network_class_name": import_path(network),
        "arch_kwargs": {**arguments, **options},
        "_kw_requires_import": list(configuration.network_arch_init_kwargs_req_import),
    }


def build_from_plans(
    configuration: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    deep_supervision: bool,
    networks: Mapping[str, type[XAttnResUNetMixin]] = XATTNRES_UNETS,
    **options: Any,
) -> nn.Module:
    """Build the network that replaces the planned one, initialised as nnU-Net initialises it.

    Args:
        configuration: a configuration of nnU-Net's plans.
        num_input_channels: channels of the image.
        num_output_channels: channels of the logits.
        deep_supervision: return the logits of every decoder stage.
        networks: the possible networks, see `find_replacement`.
        options: options of the network, such as those of `Connections` (skip, encoder, decoder, decoder_input, init,
            backend, gate, checkpoint). Those of plans that name a network of this package are left out, because they
            belong to that network.

    Raises:
        ValueError: if there is no network for the planned one, or an option is unknown.
    """
    architecture = planned_architecture(configuration, networks, **options)
    return get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        num_input_channels,
        num_output_channels,
        allow_init=True,
        deep_supervision=deep_supervision,
    )
