"""CSAP's idea on nnU-Net's U-Nets: the attention of the bottleneck, propagated to every decoder stage. Ours."""

import math
from collections.abc import Mapping, Sequence

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn

from ..attention.propagation import AttentionMap, AttentionPropagation, PooledTokens, to_tokens
from ..history import History
from .planned_unet import XAttnResUNetMixin

MAX_HEADS = 8
"""Heads of the attention, if the channels of all stages can be divided by it."""


class CSAPPlannedMixin(XAttnResUNetMixin):
    r"""Mix-in for a U-Net with nnU-Net's `encoder` and `decoder` that adds propagated attention and XAttnRes.

    .. math:: A = \text{softmax}(Q K^\top / \sqrt d), \quad e_S \leftarrow e_S + \text{proj}(A V), \quad
              d_j \leftarrow d_j + \text{Up}(\text{proj}_j(A V_j))

    From CSAP (arXiv 2604.05431): the attention A is computed once, at the deepest stage, and the other stages project
    values only. Ours: everything else. A is computed at the bottleneck, whose grid is that of queries, keys and values.
    The values V_j come from the decoder stage's output, averaged over the pixels of each bottleneck pixel. The results
    are added as residuals, without an MLP, and the skip connections and heads stay those of nnU-Net.

    The stock parameters keep their names; those of the attention are under `csap`. The history of XAttnRes holds the
    bottleneck and the decoder outputs with their attention.

    The number of heads is 8, or the largest smaller one that divides the channels of all stages, which is 8 for the
    widths of all planners of nnU-Net.

    Arguments, shapes and errors are those of `XAttnResUNetMixin`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        channels = list(self.encoder.output_channels)
        self.csap = PropagatedAttention(channels, [tuple(stride) for stride in self.encoder.strides])

    def _decode(self, history: History, *extra: Tensor) -> Tensor | list[Tensor]:
        bottleneck, attention = self.csap.attend(history[-1])
        history = history.first(len(history) - 1)
        history.append(bottleneck)
        return super()._decode(history, attention, *extra)

    def _run_decoder_stage(self, s: int, history: History, x: Tensor, *extra: Tensor) -> Tensor:
        attention, *rest = extra
        x = super()._run_decoder_stage(s, history, x, *rest)
        return self.csap.propagate(s, attention, x, history[len(self.encoder.stages) - 1].shape[2:])

    def _count_added_elements(self, sizes: Sequence[tuple[int, ...]]) -> int:
        """As in `XAttnResUNetMixin`, with the attention, the values and the outputs to which they have been added."""
        return super()._count_added_elements(sizes) + self.csap.count_kept_elements(sizes)


class PropagatedAttention(nn.Module):
    """The attention layers of a U-Net with S encoder stages and S - 1 decoder stages.

    Args:
        channels: channels of every encoder stage; the decoder stages mirror them.
        strides: stride of every encoder stage along every axis.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[Sequence[int]]):
        super().__init__()
        self.channels, self.strides = list(channels), strides
        self.heads = max(n for n in range(1, MAX_HEADS + 1) if math.gcd(*channels) % n == 0)
        self.norm = nn.LayerNorm(channels[-1])
        self.attention_map = AttentionMap(channels[-1], self.heads)
        # the bottleneck, then the decoder stages
        self.tokens = nn.ModuleList(PooledTokens(c) for c in channels[::-1])
        self.propagations = nn.ModuleList(AttentionPropagation(c, self.heads) for c in channels[::-1])

    def attend(self, bottleneck: Tensor) -> tuple[Tensor, Tensor]:
        """The bottleneck (B, C, *grid) with what it attends to, and the attention (B, heads, N, N)."""
        tokens = self.tokens[0](bottleneck)
        attention = self.attention_map(self.norm(to_tokens(bottleneck)), tokens)
        return bottleneck + self.propagations[0](attention, tokens, bottleneck.shape[2:]), attention

    def propagate(self, s: int, attention: Tensor, x: Tensor, grid: Sequence[int]) -> Tensor:
        """The output x of decoder stage s with what the attention propagates to it; (B, C, *S) -> (B, C, *S)."""
        ratio = [math.prod(axis) for axis in zip(*self.strides[-1 - s :], strict=True)]
        tokens = self.tokens[s + 1](_average_blocks(x, ratio))
        return x + self.propagations[s + 1](attention, tokens, grid, x.shape[2:])

    def count_kept_elements(self, sizes: Sequence[tuple[int, ...]]) -> int:
        """Elements that training keeps per sample: the attention, the values and the outputs of the stages.

        Args:
            sizes: the spatial size of every encoder stage's output.
        """
        pixels = [math.prod(size) for size in sizes]
        kept = sum(c * (n + pixels[-1]) for c, n in zip(self.channels, pixels, strict=True))
        return kept + self.heads * pixels[-1] ** 2


class CSAPPlannedUNet(CSAPPlannedMixin, PlainConvUNet):
    """nnU-Net's PlainConvUNet with propagated attention and XAttnRes; options and shapes as in `CSAPPlannedMixin`."""


class CSAPPlannedResidualEncoderUNet(CSAPPlannedMixin, ResidualEncoderUNet):
    """nnU-Net's ResidualEncoderUNet with propagated attention and XAttnRes; as `CSAPPlannedMixin`."""


CSAP_PLANNED_UNETS: Mapping[str, type[XAttnResUNetMixin]] = {
    "PlainConvUNet": CSAPPlannedUNet,
    "ResidualEncoderUNet": CSAPPlannedResidualEncoderUNet,
}
"""The networks with propagated attention, by the name of the stock class that they derive from."""


def _average_blocks(x: Tensor, ratio: Sequence[int]) -> Tensor:
    """Average pooling, with windows of any size; every axis must be a multiple of its ratio.

    On CUDA, one thread of PyTorch's average pooling reads a whole window, here thousands of pixels. A mean is computed
    by all threads.
    """
    dim = len(ratio)
    for axis in reversed(range(dim)):
        x = x.unflatten(axis + 2, (-1, ratio[axis]))
    return x.mean([3 + 2 * axis for axis in range(dim)])
