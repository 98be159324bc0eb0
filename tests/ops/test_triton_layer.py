"""Which calls share the kernels of a layer, which are refused, and how many samples are computed at a time."""

import pytest
import torch

from nnunet_xattnres.ops.needed_gradients import NeededGradients
from nnunet_xattnres.ops.triton_layer import BlockSizes, LayerShapes, layer_kernels

BATCH, CHANNELS, SIZE = 3, 24, (16, 32)


def arguments(batch=BATCH, dtype=torch.float32, parts=(8, 16), weight_dtype=torch.float32, gate=None, second=(8, 16)):
    """Arguments of a call, which differ in their values every time."""
    sources = [torch.rand(batch, 8, *SIZE, dtype=dtype), torch.rand(batch, CHANNELS, *second, dtype=dtype)]
    x = [torch.rand(batch, width, *SIZE, dtype=dtype) for width in parts]
    weights, biases = [torch.rand(CHANNELS, 8, dtype=weight_dtype), None], [torch.rand(CHANNELS), None]
    return sources, x, weights, [None if b is None else b.to(weight_dtype) for b in biases], torch.rand(CHANNELS), gate


def shapes_of(needed=None, eps=1e-6, **changes):
    return LayerShapes.of(*arguments(**changes), eps, needed)


def test_calls_of_the_same_shapes_share_their_kernels():
    assert layer_kernels(shapes_of(), BlockSizes()) is layer_kernels(shapes_of(), BlockSizes())


ALL = NeededGradients([True, True], [True], [True, False], [True, False], True, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 2}, {"dtype": torch.float16}, {"parts": (16, 8)}, {"parts": (24,)}, {"weight_dtype": torch.float16},
        {"gate": torch.zeros(1)}, {"second": (8, 8)}, {"eps": 1e-5}, {"needed": None},
        {"needed": ALL._replace(sources=[True, False])},
        {"needed": ALL._replace(weights=[False, False], biases=[False, False])},
    ],
)  # fmt: skip
def test_other_shapes_dtypes_and_gradients_have_kernels_of_their_own(changes):
    assert shapes_of(**{"needed": ALL, **changes}) != shapes_of(needed=ALL)


def test_sizes_whose_offsets_are_too_large_are_refused():
    with pytest.raises(NotImplementedError, match="too large"):
        layer_kernels(shapes_of()._replace(channels=2**24), BlockSizes())


def test_more_scalars_than_their_offsets_reach_are_refused():
    """One per value and pixel: with few channels, these are more than twice the elements of a feature."""
    size = (2**14, 2**15)
    shapes = shapes_of()._replace(channels=1, widths=(1,), size=size, of_sources=(False,) * 4, of_weights=(False,) * 4)
    with pytest.raises(NotImplementedError, match="too large"):
        layer_kernels(shapes._replace(sources=((1, *size),) * 4), BlockSizes())


def test_a_longer_axis_than_positions_reach_is_refused():
    shapes = shapes_of()._replace(sources=((8, 1, 2**13),), of_sources=(False,), of_weights=(False,))
    layer_kernels(shapes._replace(size=(1, 2**15 - 1)), BlockSizes())
    with pytest.raises(NotImplementedError, match="too large"):
        layer_kernels(shapes._replace(size=(1, 2**15)), BlockSizes())


@pytest.mark.parametrize(("memory", "expected"), [(1, 1), (2**17, None), (2**30, BATCH)])
def test_a_group_has_as_many_samples_as_fit_into_the_memory(memory, expected):
    samples = layer_kernels(shapes_of(), BlockSizes(samples=memory)).samples_at_a_time
    assert 1 <= samples <= BATCH
    assert expected in (None, samples)


def test_the_sums_that_take_longest_come_first():
    """Programs read one column at a time where few tiles read a cell, and `tiles` columns at a time elsewhere."""
    sizes = BlockSizes(sum_cells=4, few_cells=1, tiles=8, tile=32)
    sources, none = ((8, 32, 32), (8, 16, 16), (8, 2, 2)), (False,) * 3
    shapes = shapes_of()._replace(sources=sources, size=(64, 64), of_sources=none, of_weights=none)
    kernels = layer_kernels(shapes, sizes)
    ((_, blocks),) = kernels._sum_columns
    few = -(-kernels.tables.num_few // sizes.sum_cells)
    steps = [-(-(end - first) // (1 if block < few else sizes.tiles)) for block, _, first, end in blocks.tolist()]
    assert steps == sorted(steps, reverse=True)
    assert {block < few for block in blocks[:, 0].tolist()} == {True, False}
