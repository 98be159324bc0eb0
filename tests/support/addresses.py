"""Launches in Triton's interpreter with addresses, as on a GPU, instead of tensors.

In the interpreter, a launch takes tensors, which cannot be freed too early. Here it takes addresses, too, and finds the
memory that they belong to: it is a fault if that no longer lives.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from nnunet_xattnres.ops import triton_layer, triton_projection
from nnunet_xattnres.ops.triton_launch import Launch
from nnunet_xattnres.ops.triton_workspace import Workspace

_EMPTY = 0


class _Storages:
    """The memory of which addresses were taken."""

    def __init__(self):
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}

    def address_of(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        self._known[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return tensor.data_ptr() if tensor.numel() else _EMPTY

    def tensor_at(self, address: int, dtype: torch.dtype, kernel: str) -> torch.Tensor:
        """All that follows an address in the memory that it belongs to."""
        if address == _EMPTY:
            return torch.empty(0, dtype=dtype)
        for start, (reference, size) in self._known.items():
            if start <= address <= start + size and not reference.expired():
                storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
                count = (start + size - address) // dtype.itemsize
                return torch.empty(0, dtype=dtype).set_(storage, (address - start) // dtype.itemsize, (count,))
        raise AssertionError(f"{kernel}: an address belongs to no tensor that lives")


@contextmanager
def launched_by_address() -> Iterator[dict[str, int]]:
    """In the body, launches of layers take addresses; gives how often each kernel was launched."""
    storages, launches = _Storages(), dict[str, int]()
    allocate = Workspace.allocate

    def allocate_addresses(workspace: Workspace):
        workspace._is_interpreted = False
        memory = allocate(workspace)
        storages.address_of(memory.block)
        return memory

    def call(launch: Launch, *addresses: int) -> None:
        name = launch.kernel.__name__
        tensors = [storages.tensor_at(a, dtype, name) for a, dtype in zip(addresses, launch.dtypes, strict=True)]
        launch.kernel[launch.grid](*tensors, *launch.scalars, **launch.options)
        launches[name] = launches.get(name, 0) + 1

    # the tables of the kernels that are kept are tensors
    triton_layer.layer_kernels.cache_clear()
    with ExitStack() as stack:
        for module in (triton_layer, triton_projection):
            stack.enter_context(patch.object(module, "memory_of", storages.address_of))
        stack.enter_context(patch.object(Workspace, "allocate", allocate_addresses))
        stack.enter_context(patch.object(Launch, "__call__", call))
        yield launches
    triton_layer.layer_kernels.cache_clear()
