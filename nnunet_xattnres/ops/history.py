"""The growing pool H of earlier stage outputs, with the pooled copies that its readers share."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from .pooling import max_pool


class History(Sequence[Tensor]):
    """The stage outputs h_1, ..., h_K, oldest first, each (B, C_k, *S_k): what every `XAttnRes` layer reads.

    A list does as well; this one remembers the pooled copies it makes, so that several layers at a resolution, and
    those below it, do not pool the same feature again (Eq. 4 of arXiv 2604.03297).
    """

    def __init__(self, features: Iterable[Tensor] = ()):
        self._copies: list[list[Tensor]] = []
        for feature in features:
            self.append(feature)

    def append(self, feature: Tensor) -> None:
        """Add the output of a stage."""
        self._copies.append([feature])

    def __len__(self) -> int:
        return len(self._copies)

    def __getitem__(self, k):
        return [copies[0] for copies in self._copies[k]] if isinstance(k, slice) else self._copies[k][0]

    def pooled(self, size: tuple[int, ...]) -> list[Tensor]:
        """Every feature with no axis longer than in `size`, by adaptive max pooling; the others as they are.

        A copy is made from the smallest one at hand whose sides are multiples of its own: pooling composes there.
        """
        return [_fit(copies, size) for copies in self._copies]


def _fit(copies: list[Tensor], size: tuple[int, ...]) -> Tensor:
    """The copy that fits `size`; made, and kept in `copies`, where there is none yet."""
    target = tuple(min(s, t) for s, t in zip(copies[0].shape[2:], size, strict=True))
    source = copies[0]
    for copy in copies:
        shape = tuple(copy.shape[2:])
        if shape == target:
            return copy
        if all(s % t == 0 for s, t in zip(shape, target, strict=True)) and copy.numel() < source.numel():
            source = copy
    copies.append(max_pool(source, target))
    return copies[-1]
