"""The network of an nnU-Net plans file with cross-stage attention residuals."""

import pydoc
from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from .connections import Connections
from .planned_unet import XAttnResResidualEncoderUNet, XAttnResUNet, XAttnResUNetMixin

_STOCK_PACKAGE = "dynamic_network_architectures."
_COUNTERPARTS = {"PlainConvUNet": XAttnResUNet, "ResidualEncoderUNet": XAttnResResidualEncoderUNet}


def xattnres_class_name(network_class_name: str) -> str:
    """Import path of the XAttnRes network that replaces a planned network.

    Args:
        network_class_name: import path in the plans file; that of an XAttnRes network is returned as it is.

    Raises:
        ValueError: if there is no XAttnRes network for it.

    Example:
        >>> xattnres_class_name("dynamic_network_architectures.architectures.unet.PlainConvUNet")
        'nnunet_xattnres.networks.planned_unet.XAttnResUNet'
    """
    # the module is not compared: nnU-Net finds a stock network by its class name if a release has moved it
    name = network_class_name.rpartition(".")[2]
    if network_class_name.startswith(_STOCK_PACKAGE) and name in _COUNTERPARTS:
        counterpart = _COUNTERPARTS[name]
        return f"{counterpart.__module__}.{counterpart.__qualname__}"
    planned = pydoc.locate(network_class_name)
    if isinstance(planned, type) and issubclass(planned, XAttnResUNetMixin):
        return network_class_name
    raise ValueError(
        f"XAttnRes can replace {' and '.join(_COUNTERPARTS)}, but these plans name the network '{network_class_name}': "
        "plan with nnU-Net's default planner or a ResEnc preset"
    )


def build_from_plans(
    configuration: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    deep_supervision: bool,
    **options: Any,
) -> nn.Module:
    """Build the planned network with XAttnRes in its stages, initialised as nnU-Net initialises it.

    Args:
        configuration: a configuration of nnU-Net's plans.
        num_input_channels: channels of the image.
        num_output_channels: channels of the logits.
        deep_supervision: return the logits of every decoder stage.
        options: options of `Connections` (skip, encoder, decoder, decoder_input, init, backend, gate, checkpoint);
            they take precedence over those in the plans.

    Raises:
        ValueError: if there is no XAttnRes network for the planned one, or an option is unknown.
    """
    Connections.from_options(options)  # raises for an unknown option before anything is built
    return get_network_from_plans(
        xattnres_class_name(configuration.network_arch_class_name),
        {**configuration.network_arch_init_kwargs, **options},
        configuration.network_arch_init_kwargs_req_import,
        num_input_channels,
        num_output_channels,
        allow_init=True,
        deep_supervision=deep_supervision,
    )
