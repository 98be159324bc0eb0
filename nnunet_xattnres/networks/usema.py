"""USEMA (arXiv 2605.11131) on nnU-Net's plans: the planned U-Net with SEMA blocks behind stages of its encoder."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ..attention import MLLABlock
from ..attention.sema import HEAD_WIDTH, WINDOW, count_heads
from ..history import History
from .checkpointing import run_stage
from .connections import OPTIONS
from .planned_unet import XAttnResResidualEncoderUNet, XAttnResUNet, XAttnResUNetMixin

BLOCKS = ("encoder", "bottleneck")
"""The possible places of the blocks."""

USEMA_OPTIONS = ("blocks", "window", "head_width", "scale")
"""Names of the options of the blocks."""


class USEMAMixin(XAttnResUNetMixin):
    r"""Mix-in that adds a SEMA block behind encoder stages of nnU-Net's U-Net, with or without XAttnRes.

    .. math:: e_i = \text{MLLABlock}_i\big(\text{stage}_i(e_{i-1})\big)

    USEMA's paper (arXiv 2605.11131) merges SEMA into a convolutional U-Net with deep supervision; its widths and stages
    could not be found. Ours: the planned network is kept, as stock nnU-Net builds it, and the blocks are added where
    U-Mamba adds its own (arXiv 2401.04722), behind every second stage of the encoder ending with the last, or behind
    the last alone. The first stage has none, whose resolution is that of the image: a block there would need more
    memory than the stock network.

    Args:
        *args: the arguments of the stock network.
        blocks: "encoder", behind stages S-1, S-3, ... of S stages, but not stage 0, or "bottleneck", behind stage S-1.
        window, head_width, scale: as in `SEMA`.
        **kwargs: the keyword arguments of the stock network, and the fields of `Connections`. XAttnRes is applied if
            `encoder` or `decoder` is True, as by default.

    Raises:
        ValueError: if an option has an unknown value, or the head width does not divide the channels of a stage with a
            block; and as in `XAttnResUNetMixin`.

    Note:
        With `checkpoint`, the blocks run again in the backward pass, beside the stages that `XAttnResUNetMixin` names.
    """

    allowed_options: ClassVar[tuple[str, ...]] = (*OPTIONS, *USEMA_OPTIONS)

    def __init__(
        self,
        *args,
        blocks: str = "encoder",
        window: int = WINDOW,
        head_width: int = HEAD_WIDTH,
        scale: bool = False,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        widths = list(self.encoder.output_channels)
        check_blocks(widths, blocks, head_width)
        self.sema = nn.ModuleDict(
            {
                str(s): MLLABlock(widths[s], self.dim, window, head_width, scale)
                for s in stages_with_blocks(len(widths), blocks)
            }
        )

    @classmethod
    def initialize(cls, module: nn.Module) -> None:
        """Initialise a module as stock nnU-Net does, and a SEMA block in its own way; for `network.apply`."""
        if isinstance(module, MLLABlock):
            module.reset_parameters()  # `apply` has reached its convolutions before
        else:
            stock: Any = super()
            stock.initialize(module)

    def _run_encoder_stage(self, s: int, history: History, x: Tensor) -> Tensor:
        x = super()._run_encoder_stage(s, history, x)
        if str(s) not in self.sema:
            return x
        block = self.sema[str(s)]
        x = run_stage(block, x, modules=[block], checkpointed=self.checkpoint)
        return x.contiguous()  # the block leaves the channels last in memory, but several layers read the feature

    def _count_added_elements(self, sizes: Sequence[tuple[int, ...]]) -> int:
        """As in `XAttnResUNetMixin`, with what the blocks write."""
        blocks: Any = self.sema
        written = sum(block.count_kept_elements(sizes[int(s)]) for s, block in blocks.items())
        return super()._count_added_elements(sizes) + written


class USEMAUNet(USEMAMixin, XAttnResUNet):
    """nnU-Net's PlainConvUNet with SEMA blocks; options and shapes as in `USEMAMixin`."""


class USEMAResidualEncoderUNet(USEMAMixin, XAttnResResidualEncoderUNet):
    """nnU-Net's ResidualEncoderUNet (all ResEnc presets) with SEMA blocks; options and shapes as in `USEMAMixin`."""


USEMA_UNETS: Mapping[str, type[XAttnResUNetMixin]] = {
    "PlainConvUNet": USEMAUNet,
    "ResidualEncoderUNet": USEMAResidualEncoderUNet,
}
"""The networks with SEMA blocks, by the name of the stock class that they derive from."""


def stages_with_blocks(stages: int, blocks: str) -> list[int]:
    """The numbers of the encoder stages that have a block, in order.

    >>> stages_with_blocks(7, "encoder"), stages_with_blocks(6, "encoder"), stages_with_blocks(6, "bottleneck")
    ([2, 4, 6], [1, 3, 5], [5])
    """
    last = stages - 1
    return [last] if blocks == "bottleneck" else list(range(last, 0, -2))[::-1]


def check_blocks(widths: Sequence[int], blocks: str, head_width: int) -> None:
    """Check the options of the blocks for a network whose encoder stages have these widths.

    Raises:
        ValueError: if `blocks` is unknown, or the head width does not divide the width of a stage with a block.
    """
    if blocks not in BLOCKS:
        raise ValueError(f"blocks must be one of {', '.join(BLOCKS)}, got {blocks!r}")
    for s in stages_with_blocks(len(widths), blocks):
        try:
            count_heads(widths[s], head_width)
        except ValueError as error:
            raise ValueError(f"encoder stage {s}: {error}") from None
