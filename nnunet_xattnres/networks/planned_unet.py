"""Cross-stage attention residuals around the stages of nnU-Net's U-Nets (Eqs. 10 and 11 of arXiv 2604.03297).

The stock class builds the stock network, so every stock parameter keeps its name and its initialisation. This mix-in
adds the XAttnRes layers beside it and carries the history pool through the stages.
"""

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import Tensor, nn

from ..ops import History
from .connections import OPTIONS, Connections


class XAttnResRouting(nn.Module):
    """Mix-in for a U-Net with nnU-Net's `encoder` and `decoder`: every stage reads from all stages before it.

    The pool H holds the outputs e_1..e_S of the encoder stages, then d_1.. of the decoder stages, in order.

    Encoder stage i >= 2 (Eq. 10): e_i = rest_i(XAttnRes(H, down_i(e_{i-1}))), where down_i is the stage's first,
    strided block. Decoder stage (Eq. 11): d_j = stage_j(XAttnRes(H, [up_j(d_{j-1}); e_match])), where up_j is the
    transposed convolution.

    Args (keywords, beside those of the stock network):
        skip, encoder, decoder, decoder_input, init, backend: see `Connections`.

    Shapes:
        input (B, input_channels, *spatial) -> (B, num_classes, *spatial), or with deep supervision one such tensor
        per decoder stage, full resolution first. The blocks inside `encoder` and `decoder` are called one by one, so
        forward hooks belong on the blocks and not on these two.

    Raises:
        ValueError: for an option that does not exist, or an input that is not (B, C, *spatial).
    """

    def __init__(self, *args, **kwargs):
        connections = Connections(**{option: kwargs.pop(option) for option in OPTIONS if option in kwargs})
        super().__init__(*args, **kwargs)
        self.connections = connections
        self.dim = convert_conv_op_to_dim(self.encoder.conv_op)
        if not connections.skip:
            self._narrow_decoder(kwargs.get("nonlin_first", False))
        widths = list(self.encoder.output_channels)
        mirrored = widths[-2::-1]  # decoder stages are as wide as the encoder stages they mirror
        self.xattnres = connections.layers(widths, widths[1:], mirrored, mirrored, self.dim)

    def _narrow_decoder(self, nonlin_first: bool) -> None:
        """Decoder stages that take the upsampled feature alone: C input channels where stock has 2C."""
        e = self.encoder
        for s, stage in enumerate(self.decoder.stages):
            width = e.output_channels[-(s + 2)]
            self.decoder.stages[s] = StackedConvBlocks(
                len(stage.convs), e.conv_op, width, width, e.kernel_sizes[-(s + 2)], 1, e.conv_bias,
                e.norm_op, e.norm_op_kwargs, e.dropout_op, e.dropout_op_kwargs, e.nonlin, e.nonlin_kwargs, nonlin_first,
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if x.ndim != self.dim + 2:
            raise ValueError(
                f"{type(self).__name__}: input must be {self.dim + 2}-D (B, C, {self.dim} spatial axes), "
                f"got shape {tuple(x.shape)}"
            )
        return self._decode(self._encode(x))

    def _encode(self, x: Tensor) -> History:
        """(B, input_channels, *S) -> the pool [e_1, ..., e_S]."""
        history = History()
        stem = getattr(self.encoder, "stem", None)
        if stem is not None:
            x = stem(x)
        for stage in self.encoder.stages:
            down, *rest = _blocks(stage)
            x = self.xattnres(history, down(x))
            for block in rest:
                x = block(x)
            history.append(x)
        return history

    def _decode(self, history: History) -> Tensor | list[Tensor]:
        """The pool [e_1, ..., e_S] -> logits, one tensor per stage with deep supervision."""
        decoder, outputs = self.decoder, []
        stages = zip(decoder.transpconvs, history[-2::-1], decoder.stages, decoder.seg_layers, strict=True)
        for s, (up, skip, stage, head) in enumerate(stages):
            x = stage(self.connections.join(self.xattnres, history, up(history[-1]), skip))
            history.append(x)
            if decoder.deep_supervision or s == len(decoder.stages) - 1:
                outputs.append(head(x))
        return outputs[::-1] if decoder.deep_supervision else outputs[-1]

    def compute_conv_feature_map_size(self, input_size) -> int:
        """Feature-map elements per sample: the stock network's, every layer's output and the pooled copies it reads.

        That is what training keeps for the layers. nnU-Net's planner estimates VRAM from it, for a planner whose
        `UNet_class` is this class; the planners that nnU-Net ships count the stock network. As in nnU-Net's own count,
        what a pass holds for a moment, and bytes per element, do not enter.
        """
        sizes = []
        size = tuple(input_size)
        for stride in self.encoder.strides:
            size = tuple(i // j for i, j in zip(size, stride, strict=True))
            sizes.append(size)
        layers = self.xattnres.count_kept_elements(sizes + sizes[-2::-1])
        return super().compute_conv_feature_map_size(input_size) + layers


class XAttnResUNet(XAttnResRouting, PlainConvUNet):
    """PlainConvUNet in which every stage reads from all stages before it; options and shapes: `XAttnResRouting`."""


class XAttnResResidualEncoderUNet(XAttnResRouting, ResidualEncoderUNet):
    """ResidualEncoderUNet (all ResEnc presets) with the same routing; options and shapes: `XAttnResRouting`."""


def _blocks(stage: nn.Module) -> nn.Sequential:
    """The blocks of an encoder stage in order: convolutions (plain) or residual blocks; the first one downsamples."""
    if isinstance(stage, nn.Sequential):  # PlainConvEncoder wraps each
        (stage,) = stage
    return stage.convs if hasattr(stage, "convs") else stage.blocks
