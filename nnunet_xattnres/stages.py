"""XAttnRes for a whole network: the layer of every stage that reads from the history pool."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .layer import XAttnRes


class XAttnResStages(nn.ModuleDict):
    r"""The XAttnRes layers of an encoder-decoder, one for each stage that reads from the stages before it.

    .. math:: h_n = \text{stage}_n\big(\text{XAttnRes}_n([h_0, \ldots, h_{n-1}], x_n)\big)

    Stages are numbered from 0 in the order in which they run, encoder first. The number of features in the history
    says which stage is next, so a network calls this module before a stage and appends the output after it::

        history = History()
        for stage in stages:
            history.append(stage(self.xattnres(history, x)))

    Args:
        outputs: width of every stage's output, in order.
        inputs: width of x_n by the number n of the stage, for the stages that read; the others take x as it is.
        dim, init, eps, backend: as of `XAttnRes`.

    Shapes:
        history: the outputs so far, n tensors (B, C_k, *S_k), in a `History` or a list; x: (B, C, *S), or several
        tensors to be concatenated along the channels; output: (B, C, *S).

    Raises:
        ValueError: for a stage that has nothing to read or does not exist, for a history of all stages or more, and as
            `XAttnRes` does.

    Source: arXiv 2604.03297, Eqs. 3, 10 and 11.
    """

    def __init__(
        self,
        outputs: Sequence[int],
        inputs: Mapping[int, int],
        dim: int = 2,
        init: str = "zero",
        eps: float = 1e-6,
        backend: str | None = None,
    ):
        super().__init__()
        self.outputs = tuple(outputs)
        for n, channels in sorted(inputs.items()):
            if not 0 < n < len(outputs):
                raise ValueError(
                    f"XAttnResStages: of {len(outputs)} stages, 1 to {len(outputs) - 1} can read from earlier ones, "
                    f"but inputs names stage {n}"
                )
            self[str(n)] = XAttnRes(outputs[:n], channels, dim, init, eps, backend)

    def forward(self, history: Sequence[Tensor], x: Tensor | Sequence[Tensor]) -> Tensor:
        """What the next stage computes on: Eq. 8 where it reads, x itself where it does not."""
        if len(history) >= len(self.outputs):
            raise ValueError(
                f"XAttnResStages: there are {len(self.outputs)} stages, but the history already holds "
                f"{len(history)} outputs: append one after every stage, to a new history in every forward pass"
            )
        n = str(len(history))
        if n in self:
            return self[n](history, x)
        return x if isinstance(x, Tensor) else torch.cat(list(x), 1)

    def count_kept_elements(self, sizes: Sequence[tuple[int, ...]]) -> int:
        """Elements per sample that training keeps for the layers: their outputs and the pooled copies they read.

        Args:
            sizes: spatial size of every stage, in order; a stage that reads has x at the size of its output.
        """
        outputs, copies = 0, {}
        for n, layer in self.items():
            size = sizes[int(n)]
            outputs += layer.channels * math.prod(size)
            for k, width in enumerate(layer.history_channels):
                copy = tuple(map(min, sizes[k], size))
                if copy != sizes[k]:
                    copies[k, copy] = width * math.prod(copy)
        return outputs + sum(copies.values())
