"""The XAttnRes counterpart of the network that a plans file names."""

import pytest
import torch
from support.plans import REQUIRES_IMPORT, arch_kwargs

from nnunet_xattnres.networks import XAttnResResidualEncoderUNet, XAttnResUNet, build_from_plans
from nnunet_xattnres.networks.plans import find_replacement

UNETS = "dynamic_network_architectures.architectures.unet"


class Configuration:
    """The attributes of nnU-Net's ConfigurationManager that describe a network."""

    def __init__(self, name, kind="plain 2d", **kwargs):
        self.network_arch_class_name = name
        self.network_arch_init_kwargs = arch_kwargs(kind) | kwargs
        self.network_arch_init_kwargs_req_import = REQUIRES_IMPORT


@pytest.mark.parametrize(
    ("planned", "kind", "expected"),
    [
        (f"{UNETS}.PlainConvUNet", "plain 2d", XAttnResUNet),
        (f"{UNETS}.ResidualEncoderUNet", "resenc 3d", XAttnResResidualEncoderUNet),
        # nnU-Net gives plans of older versions this name
        ("dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet", "resenc 2d",
         XAttnResResidualEncoderUNet),
        ("nnunet_xattnres.networks.XAttnResUNet", "plain 3d anisotropic", XAttnResUNet),
        ("nnunet_xattnres.XAttnResUNet", "plain 2d", XAttnResUNet),
        ("nnunet_xattnres.networks.XAttnResResidualEncoderUNet", "resenc 2d", XAttnResResidualEncoderUNet),
    ],
)  # fmt: skip
def test_counterpart(planned, kind, expected):
    assert type(build_from_plans(Configuration(planned, kind), 1, 2, True)) is expected


def test_options_of_plans_belong_to_the_network_of_the_plans():
    configuration = Configuration("nnunet_xattnres.networks.XAttnResUNet", skip=False, encoder=False)
    network = build_from_plans(configuration, 1, 2, True, decoder_input="upsampled")
    assert network.connections.skip and network.connections.decoder_input == "upsampled"
    assert list(network.xattnres) == ["1", "2", "3", "4"]


def test_plans_are_not_changed():
    configuration = Configuration(f"{UNETS}.PlainConvUNet")
    before = dict(configuration.network_arch_init_kwargs)
    build_from_plans(configuration, 1, 2, False, init="normal")
    assert configuration.network_arch_init_kwargs == before


def test_initialisation_is_nnunets():
    network = build_from_plans(Configuration(f"{UNETS}.PlainConvUNet"), 1, 2, True)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions
    assert all(not c.bias.any() for c in convolutions)  # PyTorch's own initialisation would leave them random


@pytest.mark.parametrize(
    "planned", ["dynamic_network_architectures.architectures.primus.Primus", "my.own.PlainConvUNet"]
)
def test_unknown_network(planned):
    with pytest.raises(ValueError, match=f"PlainConvUNet.*ResidualEncoderUNet.*'{planned}'") as error:
        find_replacement(planned)
    assert "\n" not in str(error.value)
