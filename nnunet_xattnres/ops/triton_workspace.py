"""The temporary tensors of a call in one block of memory.

To allocate a tensor on a GPU takes the CPU nearly as long as to launch a kernel, and a layer needs up to fifteen.
"""

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TypeAlias

import torch

from .triton_launch import Memory, is_interpreted

Specification: TypeAlias = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""The shapes and dtypes of tensors by their names."""

# Tensors begin at multiples of this number of bytes: whole lines of the cache.
_LINE = 128


class Workspace:
    """Tensors of given shapes and dtypes in one block of memory, whose contents are undefined.

    Args:
        device: where they are.
        kept: the tensors.
        alternatives: further tensors. Those of one alternative share their memory with those of the others.

    Attributes:
        size: the size of the block in bytes.
    """

    def __init__(
        self,
        device: torch.device,
        kept: Specification,
        *alternatives: Specification,
    ):
        self._device = device
        self._tensors: list[tuple[int, int, tuple[int, ...], torch.dtype]] = []
        start = self._place(kept, 0)
        self.size = max([start, *(self._place(tensors, start) for tensors in alternatives)])
        self._starts = [start for start, *_ in self._tensors]
        names = [name for tensors in (kept, *alternatives) for name in tensors]
        self._names = [*names, "block"]
        self._is_interpreted = is_interpreted()

    def _place(self, tensors: Specification, start: int) -> int:
        for shape, dtype in tensors.values():
            end = start + math.prod(shape) * dtype.itemsize
            self._tensors.append((start, end, shape, dtype))
            start = -(-end // _LINE) * _LINE
        return start

    def allocate(self) -> SimpleNamespace:
        """Allocate the block.

        Returns:
            the memory of every tensor, as launches take it, under its name, and `block`, which keeps it alive. So the
            result must exist until the last launch; when that runs does not matter, because freed memory is given to
            later launches of the same stream only.
        """
        block = torch.empty(self.size, dtype=torch.uint8, device=self._device)
        if self._is_interpreted:
            memory: list[Memory] = [block[s:e].view(dtype).view(shape) for s, e, shape, dtype in self._tensors]
        else:
            address = block.data_ptr()
            memory = [address + start for start in self._starts]
        return SimpleNamespace(**dict(zip(self._names, [*memory, block], strict=True)))
