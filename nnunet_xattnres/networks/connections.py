"""How the stages of a U-Net are connected: skip connections, XAttnRes, or both (Tables 3 to 5 of the paper)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..layer import INITS
from ..ops import BACKENDS
from ..stages import XAttnResStages

DECODER_INPUTS = ("concat", "upsampled")


@dataclass(frozen=True)
class Connections:
    """The connections between the stages of a U-Net (Eqs. 9 to 11 of arXiv 2604.03297).

    Args:
        skip: keep the skip connections.
        encoder: apply XAttnRes in the encoder stages.
        decoder: apply XAttnRes in the decoder stages.
        decoder_input: what XAttnRes takes for x in a decoder stage with a skip: "concat", the upsampled feature with
            the skip beside it (2C channels), or "upsampled", the upsampled feature alone (C channels), the skip being
            concatenated afterwards. Without skips the two are the same.
        init: how the pseudo-queries start, see `XAttnRes`.
        backend: what computes the layers, see `XAttnRes`.

    Raises:
        ValueError: for a value that does not exist.
    """

    skip: bool = True
    encoder: bool = True
    decoder: bool = True
    decoder_input: str = "concat"
    init: str = "zero"
    backend: str | None = None

    @classmethod
    def of(cls, options: Mapping, allowed: Sequence[str] | None = None) -> "Connections":
        """Connections of keyword options; those that are not `allowed` (default: all there are) are a ValueError."""
        allowed = OPTIONS if allowed is None else allowed
        if unknown := set(options) - set(allowed):
            raise ValueError(f"unknown network option {', '.join(sorted(unknown))}: expected {', '.join(allowed)}")
        return cls(**options)

    def __post_init__(self):
        for option, value, allowed in (
            ("decoder_input", self.decoder_input, DECODER_INPUTS),
            ("init", self.init, INITS),
            ("backend", self.backend or "auto", BACKENDS),
        ):
            if value not in allowed:
                raise ValueError(f"{option} must be one of {', '.join(allowed)}, got {value!r}")

    def layers(
        self, encoder: Sequence[int], encoder_inputs: Sequence[int], decoder: Sequence[int], up: Sequence[int], dim: int
    ) -> XAttnResStages:
        """The XAttnRes layers of a U-Net of S encoder and S-1 decoder stages.

        Args:
            encoder, decoder: width of every stage's output.
            encoder_inputs: width of x in the encoder stages from the second on.
            up: width of the upsampled feature in every decoder stage.
            dim: spatial axes, 2 or 3.
        """
        inputs = {}
        if self.encoder:
            inputs |= {s + 1: width for s, width in enumerate(encoder_inputs)}
        if self.decoder:
            reads_skip = self.skip and self.decoder_input == "concat"
            skips = encoder[-2::-1] if reads_skip else [0] * len(up)
            inputs |= {len(encoder) + s: sum(widths) for s, widths in enumerate(zip(up, skips, strict=True))}
        return XAttnResStages([*encoder, *decoder], inputs, dim, self.init, backend=self.backend)

    def join(self, layers: XAttnResStages, history: Sequence[Tensor], up: Tensor, skip: Tensor) -> Tensor:
        """What a decoder stage computes on, from the upsampled feature (B, C, *S) and the skip (B, C', *S)."""
        if not self.skip:
            return layers(history, up)
        if self.decoder_input == "concat":
            return layers(history, (up, skip))  # the layer concatenates as it reads
        return torch.cat([layers(history, up), skip], 1)


OPTIONS = tuple(field.name for field in fields(Connections))
"""The names of the options, as networks and trainers take them."""
