"""nnU-Net's two U-Nets with cross-stage attention residuals; a plans file may name them as its network class."""

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

from .routing import XAttnResRouting


class XAttnResUNet(XAttnResRouting, PlainConvUNet):
    __doc__ = f"""PlainConvUNet in which every stage reads from all stages before it.\n\n{XAttnResRouting.__doc__}"""


class XAttnResResidualEncoderUNet(XAttnResRouting, ResidualEncoderUNet):
    __doc__ = f"""ResidualEncoderUNet, all ResEnc presets, with the same routing.\n\n{XAttnResRouting.__doc__}"""
