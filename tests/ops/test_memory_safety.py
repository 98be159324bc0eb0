"""Every memory access of every Triton kernel, in the interpreter: within its tensor, aligned, and without conflicts.

What a GPU makes of a fault depends on what else is in its memory, so these tests do not run on one. New tensors are
full of NaN, so that results show if an element is read that nobody has written.
"""

import ast
import inspect
import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any, NamedTuple

import pytest
import torch

from nnunet_xattnres.ops import triton_backend, triton_kernels, triton_layer, triton_pooling, triton_projection
from nnunet_xattnres.ops.needed_gradients import NeededGradients
from nnunet_xattnres.ops.triton_launch import is_interpreted
from nnunet_xattnres.ops.triton_layer import BlockSizes
from nnunet_xattnres.ops.triton_workspace import Workspace

if not is_interpreted():
    pytest.skip("accesses are checked in Triton's interpreter, which does not run here", allow_module_level=True)

from support.addresses import launched_by_address
from support.memory_checker import MemoryChecker, checked_memory

FLOAT16, FLOAT32, BFLOAT16 = torch.float16, torch.float32, torch.bfloat16
Size = tuple[int, ...]


@contextmanager
def new_tensors_of_nan() -> Iterator[None]:
    """Fill the memory of new tensors with NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def separate_workspace(device, kept, *alternatives) -> Workspace:
    """A workspace whose alternatives do not share their memory."""
    return Workspace(device, reduce(operator.or_, alternatives, kept))


class Case(NamedTuple):
    """A call of the operator.

    Attributes:
        history: the channels and the size of every feature; those with the channels of x are not projected.
        widths: the channels of the parts of x.
        size: that of x.
        blocks: fields of `BlockSizes` that are not the defaults. Fewer programs take the interpreter less time.
        projection: constants of `triton_projection.py` that are not the defaults.
        weight_dtype: of weights and biases.
        of_attention: whether the attention has a gradient.
        frozen: the features that need no gradient, and in `frozen_weights` those whose weights and biases need none.
        overwrite: whether the gradient of the first part takes its place in memory.
        is_aligned: whether tensors begin at the addresses that PyTorch gives them, or one element later.
    """

    history: list[tuple[int, Size]]
    widths: Size
    size: Size
    batch: int = 2
    dtype: torch.dtype = FLOAT16
    blocks: dict[str, int] = {}  # noqa: RUF012 - never changed
    projection: dict[str, int] = {}  # noqa: RUF012 - never changed
    weight_dtype: torch.dtype = FLOAT32
    is_gated: bool = False
    of_attention: bool = True
    frozen: tuple[int, ...] = ()
    frozen_weights: tuple[int, ...] = ()
    overwrite: bool = False
    is_aligned: bool = True

    def run(self) -> list[torch.Tensor]:
        """Compute the results and the gradients."""
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int, dtype: torch.dtype = self.dtype) -> torch.Tensor:
            count, start = math.prod(shape), 0 if self.is_aligned else 1
            return torch.randn(start + count, generator=generator).to(dtype)[start:].view(shape)

        channels = sum(self.widths)
        sources = [draw(self.batch, width, *size) for width, size in self.history]
        x = [draw(self.batch, width, *self.size) for width in self.widths]
        weights = [
            None if w == channels else draw(channels, w, dtype=self.weight_dtype).div_(w) for w, _ in self.history
        ]
        biases = [None if w is None else draw(channels, dtype=self.weight_dtype) for w in weights]
        gate = torch.tensor(0.4) if self.is_gated else None
        operands = sources, x, weights, biases, draw(channels, dtype=FLOAT32).div_(4), gate, 1e-6
        of_weights = [w is not None and k not in self.frozen_weights for k, w in enumerate(weights)]
        needed = NeededGradients.all(sources, x, weights, biases, gate)._replace(
            sources=[k not in self.frozen for k in range(len(sources))], weights=of_weights, biases=of_weights
        )
        inputs = [*sources, *x, *(t for t in (*weights, *biases, gate) if t is not None)]
        before = [t.clone() for t in inputs]
        with new_tensors_of_nan():
            out, alpha = triton_backend.forward(*operands)
            gradients = draw(*out.shape), draw(*alpha.shape, dtype=FLOAT32) if self.of_attention else None
            d_sources, d_x, *others = triton_backend.backward(*gradients, *operands, needed, self.overwrite)
        of_weights, of_biases, d_query, d_gate = others
        results = [t for t in (out, alpha, *d_sources, *d_x, *of_weights, *of_biases, d_query, d_gate) if t is not None]
        for result in results:
            assert result.isfinite().all(), "an element was read before it was written"
        for n, (tensor, copy) in enumerate(zip(inputs, before, strict=True)):
            if not (self.overwrite and n == len(sources)):
                assert torch.equal(tensor, copy), f"input {n} was changed"
        return results


@pytest.fixture
def check(monkeypatch) -> Iterator[Callable[[Case], MemoryChecker]]:
    """Check a case."""

    def check_case(case: Case) -> MemoryChecker:
        monkeypatch.setattr(triton_backend, "BLOCK_SIZES", BlockSizes(**case.blocks))
        constants = dict(case.projection)
        if "_SPLITS" in constants:
            kernels = partial(triton_projection.ProjectionKernels, splits=constants.pop("_SPLITS"))
            monkeypatch.setattr(triton_layer, "ProjectionKernels", kernels)
        for name, value in constants.items():
            assert hasattr(triton_projection, name)
            monkeypatch.setattr(triton_projection, name, value)
        # the kernels that are kept have other constants
        triton_layer.layer_kernels.cache_clear()
        # without shared memory, all elements that nobody has written are NaN
        monkeypatch.setattr(triton_layer, "Workspace", separate_workspace)
        with checked_memory() as checker:
            case.run()
        return checker

    yield check_case
    triton_layer.layer_kernels.cache_clear()


FEW_PROGRAMS = {"sum_cells": 32, "few_cells": 32, "few_pixels": 256, "score_pixels": 256}
IN_PARTS = {"partial": 1, "samples": 2**30}
ONE_SAMPLE = {"samples": 1}
PLANE = [(8, (16, 16)), (20, (8, 8)), (12, (3, 5))]
HALVES = [(8, (16, 16)), (20, (8, 8)), (12, (4, 16)), (3, (1, 1))]
VOLUME = [(20, (3, 5, 17)), (8, (3, 2, 7)), (6, (1, 1, 17)), (20, (2, 5, 3))]

SMALL = {
    "2-D": Case(HALVES, (8, 12), (16, 16), blocks=FEW_PROGRAMS | IN_PARTS | {"channels": 16}, is_gated=True),
    "3-D": Case(
        [(20, (2, 5, 9)), (8, (1, 2, 9)), (6, (1, 5, 3))], (20,), (2, 5, 9), dtype=FLOAT32, blocks=FEW_PROGRAMS,
        of_attention=False,
    ),
}  # fmt: skip

CASES = {
    # of the shapes that once ended with an illegal memory access on a GPU
    "136 channels": Case([(24, (64, 64)), (40, (32, 32)), (136, (16, 16)), (40, (4, 4))], (68, 68), (64, 64), 1),
    "136 channels in one part": Case([(24, (8, 32)), (136, (4, 16)), (136, (8, 32)), (7, (1, 1))], (136,), (8, 32), 3),
    "136 channels in float32": Case(
        [(24, (8, 16)), (136, (4, 8)), (40, (1, 3))], (68, 68), (8, 16), dtype=FLOAT32, is_gated=True
    ),
    "default blocks in 2-D": Case(PLANE, (8, 12), (16, 16)),
    "default blocks in 3-D": Case(VOLUME, (8, 12), (3, 5, 17), dtype=FLOAT32),
    "many pixels": Case([(8, (64, 66)), (12, (7, 9))], (8,), (64, 66), 1),
    "8 channels": Case([(8, (9, 21)), (3, (4, 7)), (8, (1, 21))], (5, 3), (9, 21), 3, blocks=FEW_PROGRAMS),
    "64 channels": Case([(64, (8, 16)), (32, (8, 16)), (64, (4, 4)), (72, (2, 2))], (32, 32), (8, 16)),
    "64 channels of weights in half precision": Case(
        [(64, (8, 16)), (32, (8, 16)), (72, (2, 2))], (64,), (8, 16), weight_dtype=FLOAT16
    ),
    "bfloat16": Case(HALVES, (20,), (16, 16), dtype=BFLOAT16, blocks=FEW_PROGRAMS, weight_dtype=BFLOAT16),
    "3-D in half precision": Case(
        [(20, (4, 8, 16)), (8, (2, 4, 8)), (6, (1, 8, 4))], (8, 12), (4, 8, 16), blocks=FEW_PROGRAMS | IN_PARTS
    ),
    "3-D anisotropic": Case(
        [(8, (3, 12, 12)), (6, (3, 6, 6)), (5, (3, 3, 3)), (4, (1, 3, 3))], (6, 2), (3, 12, 12), 1, blocks=FEW_PROGRAMS
    ),
    "one slice": Case([(8, (1, 9, 9)), (6, (1, 5, 3))], (8,), (1, 9, 9), dtype=FLOAT32, blocks=FEW_PROGRAMS),
    "one voxel": Case([(20, (1, 1)), (3, (1, 1))], (19, 1), (1, 1), 3),
    "one row": Case([(20, (1, 37)), (3, (1, 5))], (1, 19), (1, 37), 3, blocks=FEW_PROGRAMS),
    "one column": Case([(20, (37, 1)), (3, (5, 1))], (20,), (37, 1), dtype=FLOAT32, blocks=FEW_PROGRAMS),
    "all of the size of x": Case([(20, (9, 21)), (3, (9, 21))], (8, 12), (9, 21), is_gated=True),
    "one feature": Case([(20, (4, 7))], (20,), (9, 21), blocks=FEW_PROGRAMS),
    "more values than a block has": Case(
        [(4, (4, 4 - k % 4)) for k in range(17)], (4,), (4, 4), 1, blocks=FEW_PROGRAMS
    ),
    "a gate without a gradient of the attention": Case(
        PLANE, (8, 12), (16, 16), blocks=FEW_PROGRAMS, is_gated=True, of_attention=False
    ),
    "frozen features": Case(HALVES, (8, 12), (16, 16), blocks=FEW_PROGRAMS, frozen=(0, 1), frozen_weights=(2,)),
    "everything frozen": Case(
        HALVES, (20,), (16, 16), blocks=FEW_PROGRAMS, frozen=(0, 1, 2, 3), frozen_weights=(0, 1, 2, 3)
    ),
    "gradient in place": Case(HALVES, (8, 12), (16, 16), blocks=FEW_PROGRAMS, overwrite=True),
    "tiles in parts": Case(PLANE, (8, 12), (36, 40), 1, dtype=FLOAT32, blocks=FEW_PROGRAMS | {"partial": 40_000}),
    "samples in parts": Case(HALVES, (8, 12), (16, 16), 3, blocks=FEW_PROGRAMS | ONE_SAMPLE, is_gated=True),
    "any addresses": Case(
        [(8, (8, 16)), (24, (4, 8)), (16, (2, 2))], (8, 16), (8, 16), blocks=FEW_PROGRAMS, is_gated=True,
        is_aligned=False,
    ),
    "any addresses in float32": Case(
        [(8, (8, 16)), (24, (4, 8))], (24,), (8, 16), dtype=FLOAT32, blocks=FEW_PROGRAMS | ONE_SAMPLE, is_aligned=False
    ),
    "7 channels": Case([(7, (8, 16)), (5, (4, 8))], (7,), (8, 16), blocks=FEW_PROGRAMS),
    "samples of odd sizes in parts": Case(
        [(7, (5, 9)), (20, (3, 5)), (3, (2, 9))], (7, 13), (5, 9), 3, blocks=FEW_PROGRAMS | ONE_SAMPLE
    ),
    "tiles and samples in parts": Case(
        VOLUME, (8, 12), (3, 5, 17), 3, blocks=FEW_PROGRAMS | IN_PARTS | ONE_SAMPLE, is_gated=True, overwrite=True
    ),
}  # fmt: skip

BLOCKS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": 64, "columns": 64},
    "tiles with few columns": {"tile": 256, "columns": 16},
    "few channels": {"channels": 16, "map_channels": 16},
    "32 channels": {"channels": 32, "map_channels": 8},
    "128 channels": {"channels": 128, "map_channels": 128},
    "cells": {"cells": 8, "sum_cells": 4, "few_cells": 1, "tiles": 4},
    "many cells": {"cells": 128, "sum_cells": 64, "few_cells": 16, "tiles": 64},
    "many pixels": {"many": 1, "pixels": 64, "block": 8, "block_backward": 16},
    "few pixels": {"few_pixels": 32, "few_block": 128, "attention_pixels": 64},
    "few pixels of scores": {"score_pixels": 16, "score_block": 4, "score_block_backward": 128},
    "pixels beyond the image": {"few_pixels": 1024, "score_pixels": 1024, "attention_pixels": 1024},
    "channel groups": {"channel_group": 16, "few_block": 16},
    "channel groups smaller than blocks": {"channel_group": 8, "few_block": 32},
    "channel groups of one block and a half": {"channel_group": 24, "few_block": 16},
}

PROJECTIONS: dict[str, dict[str, int]] = {
    "pixels": {"_PIXELS": 32, "_DEPTH": 16, "_LONG_DEPTH": 16},
    "many pixels": {"_PIXELS": 256, "_DEPTH": 64, "_LONG_DEPTH": 128},
    "channels": {"_CHANNELS": 16, "_CHANNELS_FLOAT32": 16, "_SUMMED": 64},
    "one part": {"_SPLITS": 1},
    "many parts": {"_SPLITS": 1000, "_LONG_DEPTH": 16, "_SUMMED": 512},
    "enough parts": {"_ENOUGH_ELEMENTS": 2 * 128**2, "_LONG_DEPTH": 16, "_DEPTH": 16},
    "rounded weights": {"_ROUNDED": 64},
}

# windows, in blocks of 16
POOLING = [
    ((2, 3, 4, 6), (2, 3)), ((3, 1, 6, 9), (2, 3)), ((1, 5, 7, 4), (7, 4)), ((2, 3, 5, 4), (1, 1)),
    ((2, 3, 4, 4, 6), (2, 2, 3)), ((1, 1, 3, 4, 6), (3, 2, 2)), ((3, 5, 2, 6, 5), (1, 2, 5)),
]  # fmt: skip


def pool(shape: Size, size: Size, dtype: torch.dtype) -> None:
    feature = torch.randn(shape).to(dtype)
    with new_tensors_of_nan():
        pooled = triton_pooling.max_pool(feature, size)
        gradient = triton_pooling.max_pool_backward(torch.randn_like(pooled), feature, pooled)
    assert pooled.isfinite().all()
    assert gradient.isfinite().all()


def accesses(module: Any) -> Iterator[tuple[str, range]]:
    """The file and the lines of every load and store in the kernels of a module."""
    file = inspect.getsourcefile(module)
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tl.load", "tl.store"):
            yield file, range(node.lineno, node.end_lineno + 1)


def test_small_cases_reach_every_access(check, monkeypatch):
    """So no load and no store of a kernel, and no new one, is left out of the check."""
    monkeypatch.setattr(triton_pooling, "_WINDOWS", 16)
    reached, launched = set(), set()
    for case in SMALL.values():
        checker = check(case)
        reached |= checker.lines
        launched |= checker.launches.keys()
    with checked_memory() as checker:
        pool((2, 3, 4, 6), (2, 3), FLOAT16)
    reached |= checker.lines
    launched |= checker.launches.keys()
    modules = triton_kernels, triton_pooling, triton_projection
    kernels = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert launched == kernels
    everything = [access for module in modules for access in accesses(module)]
    assert len(everything) > 100
    assert [(f, lines) for f, lines in everything if not any((f, line) in reached for line in lines)] == []


@pytest.mark.interpreter
@pytest.mark.parametrize("name", CASES)
def test_cases(name, check):
    check(CASES[name])


@pytest.mark.interpreter
@pytest.mark.parametrize("name", BLOCKS)
def test_sizes_of_blocks(name, check):
    check(Case([(8, (9, 21)), (72, (9, 21)), (24, (4, 7)), (72, (1, 3))], (50, 22), (9, 21), blocks=BLOCKS[name]))


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", [FLOAT16, FLOAT32], ids=str)
@pytest.mark.parametrize("name", PROJECTIONS)
def test_sizes_of_blocks_of_projections(name, dtype, check):
    history = [(8, (9, 21)), (72, (9, 21)), (24, (4, 7)), (136, (1, 3)), (16, (8, 8))]
    check(Case(history, (50, 22), (9, 21), 3, dtype, blocks=FEW_PROGRAMS, projection=PROJECTIONS[name]))


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16, FLOAT32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "size"), POOLING)
def test_max_pooling(shape, size, dtype, monkeypatch):
    monkeypatch.setattr(triton_pooling, "_WINDOWS", 16)
    with checked_memory() as checker:
        pool(shape, size, dtype)
    assert checker.launches == {"max_pool_kernel": 1, "max_pool_backward_kernel": 1}


@pytest.mark.parametrize("name", ["7 channels", "any addresses", "samples of odd sizes in parts"])
def test_launches_by_address_read_and_write_tensors_that_live(name):
    """On a GPU, a launch takes addresses, and nothing keeps a tensor alive but the code that calls it."""
    case = CASES[name]
    expected = case.run()
    with launched_by_address() as launches:
        actual = case.run()
    assert launches["sum_backward_kernel"] > 0
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)
