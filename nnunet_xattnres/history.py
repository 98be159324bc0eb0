"""The history of stage outputs that the XAttnRes layers of a network attend to."""

from collections.abc import Iterable, Sequence
from typing import overload

from torch import Tensor

from .ops.pooling import max_pool
from .ops.resize import pooled_size


class History(Sequence[Tensor]):
    """The outputs h_1, ..., h_K of the stages that have run, oldest first, each (B, C_k, *S_k).

    Every layer accepts a plain list as well. A `History` also keeps the max-pooled copies of its features (Eq. 4), so
    that layers at the same or at a lower resolution share them instead of pooling the same feature again.

    Args:
        features: the first features, in order.

    Example:
        >>> import torch
        >>> history = History([torch.zeros(1, 8, 32, 32)])
        >>> history.append(torch.zeros(1, 16, 16, 16))
        >>> len(history)
        2
        >>> [tuple(feature.shape) for feature in history.pooled((8, 24))]
        [(1, 8, 8, 24), (1, 16, 8, 16)]

    Source: arXiv 2604.03297, Sec. 3.1.
    """

    def __init__(self, features: Iterable[Tensor] = ()):
        # for every feature: the feature itself, then its pooled copies in the order in which they were made
        self._copies: list[list[Tensor]] = []
        for feature in features:
            self.append(feature)

    def append(self, feature: Tensor) -> None:
        """Add the output of the stage that has just run."""
        self._copies.append([feature])

    def __len__(self) -> int:
        return len(self._copies)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [copies[0] for copies in self._copies[index]]
        return self._copies[index][0]

    def pooled(self, size: tuple[int, ...]) -> list[Tensor]:
        """All features, max-pooled along every axis that is longer than in `size`.

        A feature that is nowhere longer is returned as it is. A new copy is made from the smallest existing copy whose
        size is a multiple of the new one along every axis, because pooling in two steps is exact there.
        """
        return [_pooled_copy(copies, size) for copies in self._copies]


def _pooled_copy(copies: list[Tensor], size: tuple[int, ...]) -> Tensor:
    """The feature `copies[0]` pooled to `size`: the copy that exists, or a new one that is appended to `copies`."""
    feature = copies[0]
    target = pooled_size(feature.shape[2:], size)
    source = feature
    for copy in copies:
        shape = tuple(copy.shape[2:])
        if shape == target:
            return copy
        divisible = all(s % t == 0 for s, t in zip(shape, target, strict=True))
        if divisible and copy.numel() < source.numel():
            source = copy
    copies.append(max_pool(source, target))
    return copies[-1]
