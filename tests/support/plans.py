"""Small plans of every kind that nnU-Net makes."""

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunet_xattnres import XAttnResResidualEncoderUNet, XAttnResUNet

XATTNRES = {"PlainConvUNet": XAttnResUNet, "ResidualEncoderUNet": XAttnResResidualEncoderUNet}
PLANS = {
    # name: class of the network, spatial axes, strides and kernel sizes of the stages
    "plain 2d": ("PlainConvUNet", 2, [[1, 1], [2, 2], [2, 2]], [[3, 3]] * 3),
    "plain 3d anisotropic": ("PlainConvUNet", 3, [[1, 1, 1], [1, 2, 2], [2, 2, 2]], [[1, 3, 3], [3, 3, 3], [3, 3, 3]]),
    "resenc 2d": ("ResidualEncoderUNet", 2, [[1, 1], [2, 2], [2, 1]], [[3, 3]] * 3),
    "resenc 3d": ("ResidualEncoderUNet", 3, [[1, 1, 1], [2, 2, 2], [1, 2, 2]], [[3, 3, 3]] * 3),
}


def arch_kwargs(kind: str) -> dict:
    """The arch_kwargs of a plans file: three stages of 4, 8 and 12 features."""
    name, dim, strides, kernels = PLANS[kind]
    conv, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[dim]
    blocks = {"n_conv_per_stage": [2, 2, 3]} if name == "PlainConvUNet" else {"n_blocks_per_stage": [1, 3, 2]}
    return {
        "n_stages": 3, "features_per_stage": [4, 8, 12], "conv_op": f"{conv.__module__}.{conv.__name__}",
        "kernel_sizes": kernels, "strides": strides, **blocks, "n_conv_per_stage_decoder": [2, 1], "conv_bias": True,
        "norm_op": f"{norm.__module__}.{norm.__name__}", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip


REQUIRES_IMPORT = ["conv_op", "norm_op", "dropout_op", "nonlin"]


def build(
    kind: str, classes: dict = XATTNRES, deep_supervision: bool = True, input_channels: int = 2, **options
) -> nn.Module:
    """The network of one of PLANS, built by nnU-Net's function; `classes` maps the planned class name to a class."""
    cls = classes[PLANS[kind][0]]
    return get_network_from_plans(
        f"{cls.__module__}.{cls.__name__}", {**arch_kwargs(kind), **options}, REQUIRES_IMPORT,
        input_channels, 3, allow_init=True, deep_supervision=deep_supervision,
    )  # fmt: skip
