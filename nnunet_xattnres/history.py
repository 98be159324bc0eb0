"""The history of stage outputs that the XAttnRes layers of a network attend to."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, overload

import torch
from torch import Tensor

from .ops.pooling import max_pool
from .ops.resize import pooled_size


class _Copy(NamedTuple):
    """A pooled copy of a feature, and how it was made."""

    tensor: Tensor
    length: int  # of the history
    version: int | None  # of the feature


class History(Sequence[Tensor]):
    """The outputs h_1, ..., h_K of the stages that have run, oldest first, each (B, C_k, *S_k).

    Every layer accepts a plain list as well. A `History` also keeps the max-pooled copies of its features (Eq. 4), so
    that layers at the same or at a lower resolution share them instead of pooling the same feature again. A layer gets
    the same values and gradients from a `History` as from a list: a copy that was made without a gradient, or before
    the feature was changed in place, is not used where that matters. The one exception is a feature that is changed in
    place between two layers of one compiled function, where PyTorch does not tell.

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
        self._features: list[Tensor] = []
        # the pooled copies of every feature, in the order in which they were made
        self._copies: list[list[_Copy]] = []
        for feature in features:
            self.append(feature)

    def append(self, feature: Tensor) -> None:
        """Add the output of the stage that has just run."""
        self._features.append(feature)
        self._copies.append([])

    def __len__(self) -> int:
        return len(self._features)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index):
        return self._features[index]

    def first(self, n: int) -> "History":
        """The first n features as a `History` of their own, for stages that may run again (activation checkpointing).

        It shares the pooled copies that were made while the history had fewer than n features. So it is the same
        whenever it is asked for, whatever has been appended and pooled since then. What is appended to it, and the
        copies that are made in it, are its own.

        Raises:
            ValueError: if there are fewer than n features.
        """
        if not 0 <= n <= len(self):
            raise ValueError(f"History: there are {len(self)} features, but the first {n} are asked for")
        history = History(self._features[:n])
        history._copies = [[copy for copy in copies if copy.length < n] for copies in self._copies[:n]]
        return history

    def pooled(self, size: tuple[int, ...]) -> list[Tensor]:
        """All features, max-pooled along every axis that is longer than in `size`.

        A feature that is nowhere longer is returned as it is. A new copy is made from the smallest existing copy whose
        size is a multiple of the new one along every axis, because pooling in two steps is exact there.
        """
        targets = [pooled_size(feature.shape[2:], size) for feature in self._features]
        pooled = [self._smallest_source(k, target) for k, target in enumerate(targets)]
        longer = [k for k, target in enumerate(targets) if tuple(pooled[k].shape[2:]) != target]
        copies = max_pool([pooled[k] for k in longer], [targets[k] for k in longer])
        for k, copy in zip(longer, copies, strict=True):
            pooled[k] = copy
            self._keep(k, copy)
        return pooled

    def _smallest_source(self, k: int, target: tuple[int, ...]) -> Tensor:
        """Feature k or its smallest copy that can be pooled to a size; a copy of that size, if there is one."""
        feature = source = self._features[k]
        for copy in self._copies[k]:
            shape = copy.tensor.shape[2:]
            divisible = all(s % t == 0 for s, t in zip(shape, target, strict=True))
            if divisible and copy.tensor.numel() < source.numel() and _is_usable(copy, feature):
                source = copy.tensor
        return source

    def _keep(self, k: int, made: Tensor) -> None:
        """Keep a copy of feature k, unless it may be right for this call only: in no_grad() or inference_mode()."""
        feature = self._features[k]
        if made.requires_grad == feature.requires_grad and _is_inference(made) == _is_inference(feature):
            self._copies[k].append(_Copy(made, len(self), _version(feature)))


def _is_usable(copy: _Copy, feature: Tensor) -> bool:
    """Whether the copy has the values and the gradient that pooling the feature now would have."""
    return (
        copy.tensor.requires_grad == feature.requires_grad
        and copy.version == _version(feature)
        # outside inference mode, autograd cannot save tensors that were made in it
        and (not _is_inference(copy.tensor) or torch.is_inference_mode_enabled())
    )


def _is_inference(tensor: Tensor) -> bool:
    """Whether the tensor was made in inference mode, which does not change within a compiled function."""
    return not torch.compiler.is_compiling() and tensor.is_inference()


def _version(feature: Tensor) -> int | None:
    """The number of changes of the feature in place, which inference tensors do not count.

    None in a compiled function, so that it uses no copies but those that it has made.
    """
    if torch.compiler.is_compiling():
        return None
    return -1 if feature.is_inference() else feature._version
