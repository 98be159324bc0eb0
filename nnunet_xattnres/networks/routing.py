"""Cross-stage attention residuals around the stages of nnU-Net's U-Nets (Eqs. 10 and 11 of arXiv 2604.03297).

The stock class builds the stock network, so every stock parameter keeps its name and its initialisation. This mix-in
adds the XAttnRes layers beside it and carries the history pool through the stages.
"""

import math

import torch
from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import Tensor, nn

from ..layer import INITS, XAttnRes
from ..ops import BACKENDS, History

DECODER_INPUTS = ("concat", "upsampled")
OPTIONS = ("skip", "encoder", "decoder", "decoder_input", "init", "backend")


class XAttnResRouting(nn.Module):
    """Mix-in for a U-Net with nnU-Net's `encoder` and `decoder`: every stage reads from all stages before it.

    The pool H holds the outputs e_1..e_S of the encoder stages, then d_1.. of the decoder stages, in order.

    Encoder stage i >= 2 (Eq. 10): e_i = rest_i(XAttnRes(H, down_i(e_{i-1}))), where down_i is the stage's first,
    strided block. Decoder stage (Eq. 11): d_j = stage_j(XAttnRes(H, [up_j(d_{j-1}); e_match])), where up_j is the
    transposed convolution.

    Args (keywords, beside those of the stock network):
        skip: keep the skip connections.
        encoder: apply XAttnRes in the encoder stages.
        decoder: apply XAttnRes in the decoder stages.
        decoder_input: what XAttnRes takes for x in a decoder stage with a skip: "concat", the upsampled feature with
            the skip beside it (2C channels), or "upsampled", the upsampled feature alone (C channels), the skip being
            concatenated afterwards. Without skips the two are the same.
        init: how the pseudo-queries start, see `XAttnRes`.
        backend: what computes the layers, see `XAttnRes`.

    Shapes:
        input (B, input_channels, *spatial) -> (B, num_classes, *spatial), or with deep supervision one such tensor
        per decoder stage, full resolution first. The blocks inside `encoder` and `decoder` are called one by one, so
        forward hooks belong on the blocks and not on these two.

    Raises:
        ValueError: for an option that does not exist, or an input that is not (B, C, *spatial).
    """

    def __init__(
        self,
        *args,
        skip: bool = True,
        encoder: bool = True,
        decoder: bool = True,
        decoder_input: str = "concat",
        init: str = "zero",
        backend: str | None = None,
        **kwargs,
    ):
        for option, value, allowed in (
            ("decoder_input", decoder_input, DECODER_INPUTS),
            ("init", init, INITS),
            ("backend", backend or "auto", BACKENDS),
        ):
            if value not in allowed:
                raise ValueError(f"{type(self).__name__}: {option} must be one of {', '.join(allowed)}, got {value!r}")
        super().__init__(*args, **kwargs)
        self.skip = skip
        self.attends_concat = skip and decoder_input == "concat"
        self.dim = convert_conv_op_to_dim(self.encoder.conv_op)
        if not skip:
            self._narrow_decoder(kwargs.get("nonlin_first", False))

        widths = list(self.encoder.output_channels)
        stages = len(widths)
        self.xattnres = nn.ModuleDict({"encoder": nn.ModuleDict(), "decoder": nn.ModuleDict()})
        if encoder:
            for s in range(1, stages):
                self.xattnres["encoder"][str(s)] = XAttnRes(widths[:s], widths[s], self.dim, init, backend=backend)
        if decoder:
            for s in range(stages - 1):
                width = widths[-(s + 2)]
                x_width = 2 * width if self.attends_concat else width
                # decoder stages are as wide as the encoder stages they mirror
                pool = widths + widths[-2 : -(s + 2) : -1]
                self.xattnres["decoder"][str(s)] = XAttnRes(pool, x_width, self.dim, init, backend=backend)

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
        for s, stage in enumerate(self.encoder.stages):
            down, *rest = _blocks(stage)
            x = down(x)
            if str(s) in self.xattnres["encoder"]:
                x = self.xattnres["encoder"][str(s)](history, x)
            for block in rest:
                x = block(x)
            history.append(x)
        return history

    def _decode(self, history: History) -> Tensor | list[Tensor]:
        """The pool [e_1, ..., e_S] -> logits, one tensor per stage with deep supervision."""
        decoder, outputs = self.decoder, []
        skips = history[-2::-1]
        for s, (up, stage, head) in enumerate(
            zip(decoder.transpconvs, decoder.stages, decoder.seg_layers, strict=True)
        ):
            x = [up(history[-1])]
            if self.attends_concat:
                x.append(skips[s])
            if str(s) in self.xattnres["decoder"]:
                # the layer concatenates as it reads
                x = [self.xattnres["decoder"][str(s)](history, x)]
            if self.skip and not self.attends_concat:
                x.append(skips[s])
            x = stage(torch.cat(x, 1) if len(x) > 1 else x[0])
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
        stages = len(sizes)
        sizes += sizes[-2::-1]  # the decoder's
        readers = [(sizes[int(s)], layer) for s, layer in self.xattnres["encoder"].items()]
        readers += [(sizes[stages + int(s)], layer) for s, layer in self.xattnres["decoder"].items()]
        copies = {}
        for size, layer in readers:
            for k, width in enumerate(layer.history_channels):
                copy = tuple(map(min, sizes[k], size))
                if copy != sizes[k]:
                    copies[k, copy] = width * math.prod(copy)
        outputs = sum(layer.channels * math.prod(size) for size, layer in readers)
        return super().compute_conv_feature_map_size(input_size) + outputs + sum(copies.values())


def _blocks(stage: nn.Module) -> nn.Sequential:
    """The blocks of an encoder stage in order: convolutions (plain) or residual blocks; the first one downsamples."""
    if isinstance(stage, nn.Sequential):  # PlainConvEncoder wraps each
        (stage,) = stage
    return stage.convs if hasattr(stage, "convs") else stage.blocks
