"""The temporary tensors of a call are parts of one block of memory that do not overlap."""

import itertools

import pytest
import torch
from support.operator import DEVICE

from nnunet_xattnres.ops import triton_workspace
from nnunet_xattnres.ops.triton_workspace import Workspace

KEPT = {"a": ((3, 5), torch.float16), "empty": ((0, 4), torch.float32), "b": ((7,), torch.float32)}
FIRST, SECOND = {"c": ((100,), torch.float32)}, {"d": ((2, 9), torch.float16), "e": ((1,), torch.float64)}
SHAPES = KEPT | FIRST | SECOND


@pytest.fixture(params=[True, False], ids=["tensors", "addresses"])
def ranges(request, monkeypatch):
    """The first byte and the end of every tensor in its block, and the size of the block."""
    monkeypatch.setattr(triton_workspace, "is_interpreted", lambda: request.param)
    workspace = Workspace(torch.device(DEVICE), KEPT, FIRST, SECOND)
    memory = workspace.allocate()
    start, result = memory.block.data_ptr(), {}
    for name, (shape, dtype) in SHAPES.items():
        value = getattr(memory, name)
        if request.param:
            assert (value.shape, value.dtype) == (torch.Size(shape), dtype)
            value = value.data_ptr() if value.numel() else start
        length = torch.Size(shape).numel() * dtype.itemsize
        result[name] = value - start, value - start + length
    assert memory.block.numel() == workspace.size
    return result, workspace.size


def test_every_tensor_lies_in_the_block_and_is_aligned(ranges):
    tensors, size = ranges
    for start, end in tensors.values():
        assert 0 <= start <= end <= size
        assert start % 128 == 0


def test_only_alternatives_share_memory(ranges):
    tensors, size = ranges
    for one, other in itertools.combinations(SHAPES, 2):
        (start, end), (other_start, other_end) = tensors[one], tensors[other]
        overlap = start < other_end and other_start < end
        assert overlap == ({one, other} in ({"c", "d"}, {"c", "e"})), (one, other)
    assert size < sum(-(-(end - start) // 128) * 128 for start, end in tensors.values())


def test_every_call_has_memory_of_its_own():
    workspace = Workspace(torch.device(DEVICE), KEPT)
    first, second = workspace.allocate(), workspace.allocate()
    assert first.block.data_ptr() != second.block.data_ptr()
