"""CSAP (arXiv 2604.05431): an MSCAN-T encoder and a decoder that computes attention once, at the deepest stage."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn

from ..attention.propagation import AttentionMap, AttentionPropagation, PooledTokens, to_tokens
from ..history import History
from ..stages import XAttnResStages
from .checkpointing import run_stage
from .connections import Connections
from .mscan import CHANNELS, MSCAN, init_weights
from .padding import crop, pad_to_multiple

HEADS = 8
"""Heads of the attention."""

FUSED_CHANNELS = 128
"""Channels of the sum of all stages, from which the logits are computed."""

_POOL_RATIOS = (2, 4, 8)
"""The ratios of the decoder stages to the common grid, deepest first."""


class CSAP(nn.Module):
    r"""CSAP-Tiny (arXiv 2604.05431), with XAttnRes in its decoder stages as an option (arXiv 2604.03297).

    .. math:: y_i = \text{XAttnRes}(H, e_i), \quad A = \text{softmax}(Q_4 K_4^\top / \sqrt d), \quad
              d_i = \text{MLP}\big(y_i + \text{Up}(A V_i)\big), \quad i = 4, 3, 2

    The queries come from the deepest stage, keys and values from features that are average-pooled to one grid, of
    stride 64. All d_i are upsampled to stride 8, concatenated and fused, and the logits are upsampled by 8.

    From the paper: attention at the deepest stage alone, and stages that project values only. Its code is not public.
    The block (normalisation, pooling, MLP, drop path) and the fusion (ReLU, dropout) are therefore those of the public
    MetaSeg head of the same author. Ours: one grid for the values of all stages, padding, and XAttnRes, for which the
    history H holds the encoder's e_1, ..., e_4, then d_4 and d_3.

    Args:
        input_channels: channels of the image.
        num_classes: channels of the logits.
        deep_supervision: must be False, as the network has one segmentation head.
        decoder: apply XAttnRes; without it y_i = e_i, which is the paper's network.
        init: initialisation of the pseudo-queries, see `XAttnRes`.
        backend: the implementation that computes the layers, see `XAttnRes`.
        gate: give every layer a gate, with which the network starts as the one without layers, see `XAttnRes`.
        checkpoint: keep less for the backward pass, which computes the blocks of the encoder and the decoder stages but
            the last again, see `Connections`.

    Shapes:
        input (B, input_channels, H, W) -> (B, num_classes, H, W). Images whose sides are not multiples of 32 are
        padded, and the logits cropped. Features are padded likewise where the pooling does not divide their size.

    Raises:
        ValueError: if an option is unknown, `deep_supervision` is True, or an input is not (B, C, H, W).

    Example:
        >>> import torch
        >>> network = CSAP(input_channels=1, num_classes=2, decoder=False).eval()
        >>> network(torch.zeros(1, 1, 32, 40)).shape
        torch.Size([1, 2, 32, 40])
    """

    def __init__(self, input_channels: int, num_classes: int, deep_supervision: bool = False, **options):
        super().__init__()
        if deep_supervision:
            raise ValueError("CSAP has one segmentation head: build it with deep_supervision=False")
        self.connections = c = Connections.from_options(options, ("decoder", "init", "backend", "gate", "checkpoint"))
        self.checkpoint = c.uses_checkpoints()
        self.encoder = MSCAN(input_channels, checkpoint=self.checkpoint)
        channels = CHANNELS[:0:-1]
        query_channels = dict(enumerate(channels, len(CHANNELS))) if c.decoder else {}
        xattnres = XAttnResStages([*CHANNELS, *channels], query_channels, init=c.init, backend=c.backend, gate=c.gate)
        self.decoder = CSAPDecoder(num_classes, xattnres, self.checkpoint)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"CSAP: input must be 4-D (B, C, H, W), got shape {tuple(x.shape)}")
        padded = pad_to_multiple(x, 32)
        logits = self.decoder(self.encoder(padded))
        return crop(F.interpolate(logits, size=padded.shape[2:], mode="bilinear", align_corners=False), x.shape[2:])


class CSAPDecoder(nn.Module):
    """CSAP's decoder with XAttnRes: [e_1, ..., e_4] -> logits (B, num_classes, *S), where S is the size of e_2.

    Args:
        num_classes: channels of the logits.
        xattnres: the XAttnRes layers of encoder and decoder.
        checkpoint: compute the stages but the last again in the backward pass.
    """

    def __init__(self, num_classes: int, xattnres: XAttnResStages, checkpoint: bool = False):
        super().__init__()
        channels = CHANNELS[:0:-1]
        self.checkpoint = checkpoint
        self.blocks = nn.ModuleList(
            PropagationBlock(c, ratio, computes_attention=s == 0)
            for s, (c, ratio) in enumerate(zip(channels, _POOL_RATIOS, strict=True))
        )
        self.fuse = nn.Sequential(
            nn.Conv2d(sum(channels), FUSED_CHANNELS, 1, bias=False), nn.BatchNorm2d(FUSED_CHANNELS),
            nn.ReLU(inplace=True), nn.Dropout2d(0.1),
        )  # fmt: skip
        # nnU-Net's -pretrained_weights leaves out parameters of this name
        head = nn.Conv2d(FUSED_CHANNELS, num_classes, 1)
        self.seg_layers = nn.ModuleList([head])
        init_weights(self)
        nn.init.normal_(head.weight, std=0.01)  # a fan-out of two or three classes would give large logits
        self.xattnres = xattnres  # after init_weights: the layers have an initialisation of their own

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        history = History(features)
        attention: Tensor | None = None
        for s, block in enumerate(self.blocks):
            # the backward pass begins with the last stage: to compute it again would not lower the peak of memory
            checkpointed = self.checkpoint and s != len(self.blocks) - 1
            x, attention = run_stage(
                self._run_stage, s, history, features[-1 - s], attention, modules=[block], checkpointed=checkpointed
            )
            history.append(x)
        size = features[1].shape[2:]
        *deeper, finest = history[len(CHANNELS) :]
        maps = [F.interpolate(d, size=size, mode="bilinear", align_corners=False) for d in deeper]
        (head,) = self.seg_layers
        return head(self.fuse(torch.cat([*maps, finest], 1)))

    def _run_stage(self, s: int, history: History, x: Tensor, attention: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output of stage s and the attention, from the history and the output x of the encoder stage."""
        # the history holds the outputs of later stages when the stage runs again
        x = self.xattnres(history.first(len(CHANNELS) + s), x)
        return self.blocks[s](x, history[len(CHANNELS) - 1].shape[2:], attention)


class PropagationBlock(nn.Module):
    """A decoder stage: x + Up(A V), then x + MLP(LayerNorm(x)); A and the values are those of LayerNorm(x).

    Args:
        channels: number of channels C.
        pool_ratio: the ratio of the size of x to the common grid, to which keys and values are average-pooled.
        computes_attention: whether the stage is the deepest, which computes A.

    Shapes:
        x (B, C, H, W), A (B, heads, N, M), which the deepest stage does not read -> (B, C, H, W), and A.
    """

    def __init__(self, channels: int, pool_ratio: int, computes_attention: bool):
        super().__init__()
        self.pool_ratio = pool_ratio
        self.attention_norm = LayerNorm2d(channels, eps=1e-5)
        self.tokens = PooledTokens(channels)
        self.attention_map = AttentionMap(channels, HEADS) if computes_attention else None
        self.propagation = AttentionPropagation(channels, HEADS)
        self.mlp_norm = LayerNorm2d(channels, eps=1e-5)
        self.mlp = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1), nn.GELU(), nn.Conv2d(2 * channels, channels, 1))
        self.drop_path = DropPath(0.1)

    def forward(self, x: Tensor, grid: Sequence[int], attention: Tensor | None) -> tuple[Tensor, Tensor]:
        """`grid` is the spatial size of the deepest stage."""
        normed = self.attention_norm(x).contiguous()
        # not ceil_mode, which torch.export supports for images of one size only
        tokens = self.tokens(F.avg_pool2d(pad_to_multiple(normed, self.pool_ratio), self.pool_ratio))
        size: Sequence[int] | None = x.shape[2:]
        if self.attention_map is not None:
            attention, size = self.attention_map(to_tokens(normed), tokens), None
        assert attention is not None
        x = x + self.drop_path(self.propagation(attention, tokens, grid, size))
        return x + self.drop_path(self.mlp(self.mlp_norm(x).contiguous())), attention
