"""nnU-Net's U-Nets with cross-stage attention residuals between their stages (Eqs. 10 and 11 of arXiv 2604.03297).

The stock class builds the stock network, so every stock parameter keeps its name and its initialisation. The mix-in
adds the XAttnRes layers under `xattnres` and runs the stages with the history.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import Tensor, nn

from ..history import History
from ..ops.upsampling import run_transposed_convolution
from .checkpointing import run_stage
from .connections import OPTIONS, Connections


class XAttnResUNetMixin(nn.Module):
    r"""Mix-in for a U-Net with nnU-Net's `encoder` and `decoder` that adds XAttnRes to its stages.

    .. math:: e_i = \text{rest}_i\big(\text{XAttnRes}(H, \text{down}_i(e_{i-1}))\big), \quad
              d_j = \text{stage}_j\big(\text{XAttnRes}(H, [\text{up}_j(d_{j-1}); e_\text{match}])\big)

    Encoder stages from the second on follow Eq. 10, where down_i is the stage's first, strided block and rest_i the
    other blocks. Decoder stages follow Eq. 11, where up_j is the transposed convolution and e_match the skip feature.
    The history H holds the outputs e_1, ..., e_S of the encoder stages, then d_1, d_2, ... of the decoder stages.

    Args:
        *args: the arguments of the stock network.
        **kwargs: the keyword arguments of the stock network, and the fields of `Connections`: `skip`, `encoder`,
            `decoder`, `decoder_input`, `init`, `backend`, `gate` and `checkpoint`.

    Shapes:
        input (B, input_channels, *spatial) -> (B, num_classes, *spatial), or with deep supervision one such tensor
        per decoder stage, full resolution first.

    Raises:
        ValueError: if an option has an unknown value, or an input is not (B, C, *spatial).

    Note:
        `forward` calls the blocks inside `encoder` and `decoder` one by one, so forward hooks must be registered on
        the blocks, not on `encoder` or `decoder`.

        With `checkpoint`, the first encoder stage and all decoder stages but the last run again in the backward pass.
        The backward pass begins with the last one, so to compute it again would not lower the peak of memory. The other
        encoder stages make the pooled copies that all layers share.
    """

    allowed_options: ClassVar[tuple[str, ...]] = OPTIONS
    """Names of the options that the network takes besides the arguments of the stock network."""

    # built by dynamic_network_architectures, which has no type annotations
    encoder: Any
    decoder: Any

    def __init__(self, *args, **kwargs):
        connections = Connections(**{option: kwargs.pop(option) for option in OPTIONS if option in kwargs})
        super().__init__(*args, **kwargs)
        self.connections = connections
        self.checkpoint = connections.uses_checkpoints()
        self.dim = convert_conv_op_to_dim(self.encoder.conv_op)
        if not connections.skip:
            self._rebuild_decoder_stages(kwargs.get("nonlin_first", False))
        channels = list(self.encoder.output_channels)
        mirrored = channels[-2::-1]  # a decoder stage is as wide as the encoder stage that it mirrors
        self.xattnres = connections.build_layers(channels, channels[1:], mirrored, mirrored, self.dim)

    def _rebuild_decoder_stages(self, nonlin_first: bool) -> None:
        """Replace the decoder stages by ones without a skip feature: C input channels instead of 2C."""
        e = self.encoder
        for s, stage in enumerate(self.decoder.stages):
            channels = e.output_channels[-(s + 2)]
            self.decoder.stages[s] = StackedConvBlocks(
                len(stage.convs), e.conv_op, channels, channels, e.kernel_sizes[-(s + 2)], 1, e.conv_bias,
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
        """(B, input_channels, *spatial) -> the history [e_1, ..., e_S]."""
        history = History()
        for s in range(len(self.encoder.stages)):
            checkpointed = self.checkpoint and s == 0
            x = run_stage(self._run_encoder_stage, s, history, x, modules=[self.encoder], checkpointed=checkpointed)
            history.append(x)
        return history

    def _run_encoder_stage(self, s: int, history: History, x: Tensor) -> Tensor:
        """The output of encoder stage s, from the history and the output x of the stage before it, or the image."""
        if s == 0:  # no layer, as there is no history; when the stage runs again, the history is longer
            stem = getattr(self.encoder, "stem", None)
            return self.encoder.stages[0](x if stem is None else stem(x))
        down, *rest = _blocks(self.encoder.stages[s])
        x = self.xattnres(history, down(x))
        for block in rest:
            x = block(x)
        return x

    def _decode(self, history: History, *extra: Tensor) -> Tensor | list[Tensor]:
        """The history [e_1, ..., e_S] -> logits, with deep supervision one tensor per stage.

        Args:
            history: the outputs of the encoder stages.
            *extra: what a subclass passes to every call of `_run_decoder_stage`.
        """
        # a history of its own, because the decoder may run again, under activation checkpointing
        history = history.first(len(self.encoder.stages))
        decoder, outputs = self.decoder, []
        for s, head in enumerate(decoder.seg_layers):
            modules = [decoder.transpconvs[s], decoder.stages[s]]
            checkpointed = self._runs_again(s)
            x = run_stage(
                self._run_decoder_stage, s, history, history[-1], *extra, modules=modules, checkpointed=checkpointed
            )
            history.append(x)
            if decoder.deep_supervision or s == len(decoder.stages) - 1:
                outputs.append(head(x))
        return outputs[::-1] if decoder.deep_supervision else outputs[-1]

    def _runs_again(self, s: int) -> bool:
        """Whether the backward pass runs decoder stage s again, as it does with `checkpoint` for all but the last."""
        return self.checkpoint and s < len(self.decoder.stages) - 1

    def _run_decoder_stage(self, s: int, history: History, x: Tensor) -> Tensor:
        """The output of decoder stage s, from the history and the output x of the stage before it."""
        # the history holds the outputs of later stages when the stage runs again
        history = history.first(len(self.encoder.stages) + s)
        up = self.decoder.transpconvs[s]
        # the backward pass runs a stage again with its upsampling: once is enough
        upsampled = up(x) if self._runs_again(s) else run_transposed_convolution(up, x)
        skip = history[len(self.encoder.stages) - 2 - s]
        return self.decoder.stages[s](self.connections.merge_skip(self.xattnres, history, upsampled, skip))

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Feature-map elements per sample, from which nnU-Net's planner estimates GPU memory.

        nnU-Net counts the output of every convolution once, although training keeps it twice, before and after its
        normalisation. What is added to the stock network is kept once, so it counts half. A planner uses it if its
        `UNet_class` is this class; the planners of nnU-Net itself count the stock network.

        Args:
            input_size: patch size in voxels, one number per spatial axis.
        """
        sizes = []
        size = tuple(input_size)
        for stride in self.encoder.strides:
            size = tuple(i // j for i, j in zip(size, stride, strict=True))
            sizes.append(size)
        stock: Any = super()  # the U-Net that this class is mixed into
        return stock.compute_conv_feature_map_size(input_size) + self._count_added_elements(sizes) // 2

    def _count_added_elements(self, sizes: Sequence[tuple[int, ...]]) -> int:
        """Elements that a training step takes per sample beside those of the stock network.

        They are the pooled copies, the outputs of the layers in the encoder, and as much as x for the temporary tensors
        of the last layer, whose backward pass is the peak of memory on CUDA. The output of a layer in the decoder takes
        the place of the concatenation that the stock network keeps, and the upsampled feature is computed again.

        Args:
            sizes: the spatial size of every encoder stage's output; the decoder mirrors them.
        """
        layers: Any = self.xattnres
        last = str(2 * len(sizes) - 2)
        temporary = layers[last].channels * math.prod(sizes[0]) if last in layers else 0
        decoder = range(len(sizes), 2 * len(sizes) - 1)
        return temporary + layers.count_kept_elements([*sizes, *sizes[-2::-1]], replacing=decoder)


class XAttnResUNet(XAttnResUNetMixin, PlainConvUNet):
    """nnU-Net's PlainConvUNet with XAttnRes in its stages; options and shapes as in `XAttnResUNetMixin`."""


class XAttnResResidualEncoderUNet(XAttnResUNetMixin, ResidualEncoderUNet):
    """nnU-Net's ResidualEncoderUNet (all ResEnc presets) with XAttnRes in its stages; as `XAttnResUNetMixin`."""


XATTNRES_UNETS: Mapping[str, type[XAttnResUNetMixin]] = {
    "PlainConvUNet": XAttnResUNet,
    "ResidualEncoderUNet": XAttnResResidualEncoderUNet,
}
"""The networks with XAttnRes, by the name of the stock class that they derive from."""


def _blocks(stage: Any) -> nn.Sequential:
    """The blocks of an encoder stage in order, convolutions or residual blocks; the first one downsamples."""
    if isinstance(stage, nn.Sequential):  # PlainConvEncoder wraps every stage
        (stage,) = stage
    return stage.convs if hasattr(stage, "convs") else stage.blocks
