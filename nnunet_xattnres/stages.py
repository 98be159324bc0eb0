"""The XAttnRes layers of a whole network."""

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from .history import History
from .layer import XAttnRes, refuse_newer_version
from .ops.resize import pooled_size
from .ops.upsampling import Parts, features_of


class XAttnResStages(nn.ModuleDict):
    r"""The XAttnRes layers of an encoder-decoder, one for each stage that attends to the outputs of earlier stages.

    .. math:: h_n = \text{stage}_n\big(\text{XAttnRes}_n([h_0, \ldots, h_{n-1}], x_n)\big)

    Stages are numbered from 0 in the order in which they run, encoder first. The length of the history is the number
    of the next stage, so a network calls this module before a stage and appends the output of the stage after it::

        history = History()
        for stage in stages:
            x = stage(self.xattnres(history, x))
            history.append(x)

    A stage that may run again needs its number as an argument, because the history is longer then. This is the case for
    activation checkpointing, where the backward pass runs the stage a second time::

        def run(self, history, x, n):
            return self.stages[n](self.xattnres(history, x, stage=n))

        x = torch.utils.checkpoint.checkpoint(self.run, history, x, n, use_reentrant=False)
        history.append(x)

    Args:
        stage_channels: the output channels of every stage, in order.
        query_channels: for every stage that has a layer, its number n and the channels of its input x_n. The other
            stages compute on their input as it is.
        dim, init, eps, backend, gate: as in `XAttnRes`.

    Shapes:
        history: the outputs so far, (B, C_k, *S_k), in a `History` or a list. x: (B, C, *S), or several tensors
        whose concatenation along the channels is x. Output: (B, C, *S).

    Raises:
        ValueError: for a layer at stage 0, which has no earlier stage, or at a stage that does not exist; in forward,
            for a history that already holds the outputs of all stages, or for the number of a stage that does not exist
            or whose earlier stages have not run; and as in `XAttnRes`.

    Example:
        >>> import torch
        >>> from nnunet_xattnres import History
        >>> xattnres = XAttnResStages(stage_channels=[8, 16, 8], query_channels={1: 8, 2: 24})
        >>> history = History([torch.randn(1, 8, 32, 32), torch.randn(1, 16, 16, 16)])
        >>> upsampled, skip = torch.randn(1, 16, 32, 32), history[0]
        >>> xattnres(history, (upsampled, skip)).shape
        torch.Size([1, 24, 32, 32])

    Source: arXiv 2604.03297, Eqs. 3, 10 and 11.
    """

    # The layout version of the state dict.
    # 1: the keys are encoder.1, ... and decoder.0, ..., as in the nn.ModuleDict of early development versions
    # 2: the keys are the numbers of the stages
    _version = 2

    def __init__(
        self,
        stage_channels: Sequence[int],
        query_channels: Mapping[int, int],
        dim: int = 2,
        init: str = "zero",
        eps: float = 1e-6,
        backend: str | None = None,
        gate: bool = False,
    ):
        super().__init__()
        self.stage_channels = tuple(stage_channels)
        for n, channels in sorted(query_channels.items()):
            if not 0 < n < len(stage_channels):
                raise ValueError(
                    f"XAttnResStages: query_channels must name stages from 1 to {len(stage_channels) - 1}, "
                    f"because there are {len(stage_channels)} stages and the first has no earlier one, got stage {n}"
                )
            self[str(n)] = XAttnRes(stage_channels[:n], channels, dim, init, eps, backend, gate)

    def forward(self, history: Sequence[Tensor], x: Parts, stage: int | None = None) -> Tensor:
        """The input of stage n: XAttnRes_n([h_0, ..., h_(n-1)], x) where the stage has a layer, else x itself.

        Args:
            history: the outputs of the stages that have run.
            x: the input x_n.
            stage: the number n. None takes the length of the history. With a number, the layer reads the first n
                features, and its pooled copies are its own (`History.first`).
        """
        stages, length = len(self.stage_channels), len(history)
        if stage is not None:
            if not 0 <= stage < stages or stage > length:
                raise ValueError(
                    f"XAttnResStages: stage must be from 0 to {min(stages - 1, length)}, because there are {stages} "
                    f"stages and the history holds {length} outputs, got {stage}"
                )
            history = history.first(stage) if isinstance(history, History) else history[:stage]
        elif length >= stages:
            raise ValueError(
                f"XAttnResStages: there are {stages} stages, but the history already holds {length} outputs: start "
                f"every forward pass with a new history and append one output per stage; where a stage runs again, as "
                f"in activation checkpointing, pass its number: stage=n"
            )
        n = str(len(history))
        if n in self:
            return self[n](history, x)
        features = features_of(x)
        return features[0] if len(features) == 1 else torch.cat(features, 1)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args) -> None:
        refuse_newer_version(self, local_metadata)
        self._rename_keys_of_version_1(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _rename_keys_of_version_1(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Rename `encoder.s` to `s` and `decoder.s` to `S + s`, for S encoder stages and S - 1 decoder stages.

        The keys show whether it is necessary: nnU-Net drops the version when it continues a training.
        """
        offsets = {"encoder": 0, "decoder": (len(self.stage_channels) + 1) // 2}
        for key in list(state_dict):
            part, _, rest = key.removeprefix(prefix).partition(".")
            if key.startswith(prefix) and part in offsets:
                if len(self.stage_channels) % 2 == 0:
                    raise RuntimeError(
                        f"XAttnResStages: {key} is from a development version, whose U-Nets had one decoder stage less "
                        f"than encoder stages, but this network has {len(self.stage_channels)} stages: train it again"
                    )
                n, _, name = rest.partition(".")
                state_dict[f"{prefix}{int(n) + offsets[part]}.{name}"] = state_dict.pop(key)

    def count_kept_elements(self, sizes: Sequence[tuple[int, ...]], replacing: Collection[int] = ()) -> int:
        """Count the elements that the layers keep for backward, per sample: their outputs and the pooled copies.

        Args:
            sizes: the spatial size of every stage's output, in order. The input of a stage with a layer must have the
                size of its output.
            replacing: the stages where the output of the layer takes the place of a tensor that would be kept without
                the layer; these outputs do not count.
        """
        outputs = 0
        copies: dict[tuple[int, tuple[int, ...]], int] = {}
        for n, layer in self.items():
            assert isinstance(layer, XAttnRes)
            size = sizes[int(n)]
            outputs += 0 if int(n) in replacing else layer.channels * math.prod(size)
            for k, channels in enumerate(layer.history_channels):
                pooled = pooled_size(sizes[k], size)
                if pooled != tuple(sizes[k]):
                    copies[k, pooled] = channels * math.prod(pooled)
        return outputs + sum(copies.values())
