"""From an nnU-Net plans file to a network with cross-stage attention residuals."""

import pydoc

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from .connections import Connections
from .planned_unet import XAttnResResidualEncoderUNet, XAttnResRouting, XAttnResUNet

_STOCK = "dynamic_network_architectures."
_XATTNRES = {"PlainConvUNet": XAttnResUNet, "ResidualEncoderUNet": XAttnResResidualEncoderUNet}


def xattnres_class_name(network_class_name: str) -> str:
    """The import path of the XAttnRes counterpart of a planned network; one that routes already keeps its own.

    Raises:
        ValueError: if the plans name another network.
    """
    # nnU-Net itself finds a stock network by its last name when a release has moved it
    name = network_class_name.rpartition(".")[2]
    if network_class_name.startswith(_STOCK) and name in _XATTNRES:
        counterpart = _XATTNRES[name]
        return f"{counterpart.__module__}.{counterpart.__qualname__}"
    planned = pydoc.locate(network_class_name)
    if isinstance(planned, type) and issubclass(planned, XAttnResRouting):
        return network_class_name
    raise ValueError(
        f"XAttnRes can replace {' and '.join(_XATTNRES)}, but these plans name the network '{network_class_name}': "
        "plan with nnU-Net's default planner or a ResEnc preset"
    )


def build_from_plans(
    configuration, num_input_channels: int, num_output_channels: int, deep_supervision: bool, **options
) -> nn.Module:
    """The planned network with XAttnRes in its stages, initialised as nnU-Net initialises it.

    Args:
        configuration: nnU-Net's ConfigurationManager.
        num_input_channels, num_output_channels, deep_supervision: as nnU-Net passes them.
        options: keywords of `Connections` (skip, encoder, decoder, decoder_input, init, backend); they win over those
            of the plans.

    Raises:
        ValueError: if the plans name a network without an XAttnRes counterpart, or an option does not exist.
    """
    Connections.of(options)  # names an option that does not exist
    return get_network_from_plans(
        xattnres_class_name(configuration.network_arch_class_name),
        {**configuration.network_arch_init_kwargs, **options},
        configuration.network_arch_init_kwargs_req_import,
        num_input_channels,
        num_output_channels,
        allow_init=True,
        deep_supervision=deep_supervision,
    )
