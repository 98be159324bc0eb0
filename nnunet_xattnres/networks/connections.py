"""The connections between the stages of a U-Net: skip connections, XAttnRes, or both (Tables 3 to 5 of the paper).

`Connections` holds the options that every network of this package takes. A *routing* is a named choice of them and part
of a trainer's name; the routings are listed in `nnunet_xattnres.training.names`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..layer import INITS
from ..ops import BACKENDS
from ..ops.upsampling import Upsampled
from ..stages import XAttnResStages
from .checkpointing import checkpoints_by_variable

DECODER_INPUTS = ("concat", "upsampled")
"""The possible inputs x of XAttnRes in a decoder stage with a skip connection."""


@dataclass(frozen=True)
class Connections:
    """The connections between the stages of a U-Net (Eqs. 9 to 11 of arXiv 2604.03297).

    Args:
        skip: keep the skip connections.
        encoder: apply XAttnRes in the encoder stages.
        decoder: apply XAttnRes in the decoder stages.
        decoder_input: the input x of XAttnRes in a decoder stage with a skip connection: "concat", the concatenation of
            the upsampled feature and the skip feature (2C channels), or "upsampled", the upsampled feature alone (C
            channels); then the skip feature is concatenated to the output. Without skip connections, both are the same.
        init: initialisation of the pseudo-queries, see `XAttnRes`.
        backend: the implementation that computes the layers, see `XAttnRes`.
        gate: give every layer a gate, with which the network starts as the one without layers, see `XAttnRes`.
        checkpoint: keep less for the backward pass, which computes some stages again (activation checkpointing).
            Results and gradients are the same. None takes the environment variable XATTNRES_CHECKPOINT when the network
            is built, and False where that is not set.

    Raises:
        ValueError: if `decoder_input`, `init` or `backend` has an unknown value.

    Example:
        The layers of a U-Net whose three encoder stages have 4, 8 and 16 channels and whose decoder mirrors them.
        Without skip connections a decoder stage has the upsampled feature alone for x::

            >>> replace = Connections(skip=False)
            >>> layers = replace.build_layers([4, 8, 16], [4, 8], [8, 4], [8, 4], dim=2)
            >>> {stage: layer.channels for stage, layer in layers.items()}
            {'1': 4, '2': 8, '3': 8, '4': 4}
    """

    skip: bool = True
    encoder: bool = True
    decoder: bool = True
    decoder_input: str = "concat"
    init: str = "zero"
    backend: str | None = None
    gate: bool = False
    checkpoint: bool | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any], allowed: Sequence[str] | None = None) -> "Connections":
        """Connections from keyword options.

        Args:
            options: values by the name of the option.
            allowed: names of the options that the network has, by default all of `OPTIONS`.

        Raises:
            ValueError: if an option is not allowed or has an unknown value.
        """
        refuse_unknown_options(options, OPTIONS if allowed is None else allowed)
        return cls(**options)

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("decoder_input", self.decoder_input, DECODER_INPUTS),
            ("init", self.init, tuple(INITS)),
            ("backend", self.backend or "auto", BACKENDS),
        ):
            if value not in allowed:
                raise ValueError(f"{option} must be one of {', '.join(allowed)}, got {value!r}")

    def uses_checkpoints(self) -> bool:
        """Whether a network that is built now computes stages again in the backward pass.

        Raises:
            ValueError: if the environment variable XATTNRES_CHECKPOINT decides and has an unknown value.
        """
        return checkpoints_by_variable() if self.checkpoint is None else self.checkpoint

    def build_layers(
        self,
        encoder_channels: Sequence[int],
        encoder_query_channels: Sequence[int],
        decoder_channels: Sequence[int],
        upsampled_channels: Sequence[int],
        dim: int,
    ) -> XAttnResStages:
        """Build the XAttnRes layers of a U-Net with S encoder stages and S - 1 decoder stages.

        Args:
            encoder_channels: channels of the output of every encoder stage, S of them.
            encoder_query_channels: channels of x in the encoder stages from the second on, S - 1 of them.
            decoder_channels: channels of the output of every decoder stage, deepest first, S - 1 of them.
            upsampled_channels: channels of the upsampled feature in every decoder stage, S - 1 of them.
            dim: number of spatial axes, 2 or 3.
        """
        query_channels: dict[int, int] = {}
        if self.encoder:
            query_channels |= {s + 1: channels for s, channels in enumerate(encoder_query_channels)}
        if self.decoder:
            concatenates = self.skip and self.decoder_input == "concat"
            skips = encoder_channels[-2::-1] if concatenates else [0] * len(upsampled_channels)
            query_channels |= {
                len(encoder_channels) + s: up + skip
                for s, (up, skip) in enumerate(zip(upsampled_channels, skips, strict=True))
            }
        return XAttnResStages(
            [*encoder_channels, *decoder_channels],
            query_channels,
            dim,
            self.init,
            backend=self.backend,
            gate=self.gate,
        )

    def merge_skip(
        self, layers: XAttnResStages, history: Sequence[Tensor], upsampled: Tensor | Upsampled, skip: Tensor
    ) -> Tensor:
        """Apply the layer of a decoder stage and merge the skip feature, giving the input of the stage's convolutions.

        Args:
            layers: the network's layers, from `build_layers`.
            history: outputs of the stages so far.
            upsampled: the upsampled output of the previous stage, (B, C, *spatial).
            skip: the output of the matching encoder stage, (B, C', *spatial).

        Returns:
            (B, C, *spatial) without skip connections, else (B, C + C', *spatial).
        """
        if not self.skip:
            return layers(history, upsampled)
        if self.decoder_input == "concat":
            return layers(history, (upsampled, skip))  # the layer does not materialise the concatenation
        return torch.cat([layers(history, upsampled), skip], 1)


OPTIONS = tuple(field.name for field in fields(Connections))
"""Names of the options, as networks, trainers and plans files have them."""


def refuse_unknown_options(options: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Check the names of the options of a network.

    Raises:
        ValueError: if one of them is not allowed.
    """
    if unknown := set(options) - set(allowed):
        raise ValueError(f"unknown network option {', '.join(sorted(unknown))}: expected {', '.join(allowed)}")
