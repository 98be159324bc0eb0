"""Which inputs of the operator need a gradient: a frozen encoder, say, needs none."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class NeededGradients(NamedTuple):
    """For every input of a backend's `forward` whether its gradient is needed.

    Attributes:
        sources: one for every feature.
        x: one for every part.
        weights, biases: one for every feature, False for those that are not projected.
        query, gate: one each; False where there is no gate.
    """

    sources: list[bool]
    x: list[bool]
    weights: list[bool]
    biases: list[bool]
    query: bool
    gate: bool

    @classmethod
    def all(
        cls,
        sources: Sequence[Tensor],
        x: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        biases: Sequence[Tensor | None],
        gate: Tensor | None,
    ) -> "NeededGradients":
        """Every gradient there is."""
        weighted, biased = [weight is not None for weight in weights], [bias is not None for bias in biases]
        return cls([True] * len(sources), [True] * len(x), weighted, biased, True, gate is not None)

    def value(self, n: int) -> bool:
        """Whether the gradient of the projected feature n is needed: for the feature, its weight or its bias."""
        return self.sources[n] or self.weights[n] or self.biases[n]
