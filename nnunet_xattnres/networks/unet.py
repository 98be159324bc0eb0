"""nnU-Net's two U-Nets with cross-stage attention residuals; a plans file may name them as its network class."""

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

from .routing import XAttnResRouting


class XAttnResUNet(XAttnResRouting, PlainConvUNet):
    """PlainConvUNet in which every stage reads from all stages before it; options and shapes: `XAttnResRouting`."""


class XAttnResResidualEncoderUNet(XAttnResRouting, ResidualEncoderUNet):
    """ResidualEncoderUNet (all ResEnc presets) with the same routing; options and shapes: `XAttnResRouting`."""
