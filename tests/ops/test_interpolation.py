"""Interpolation, its transpose and the squared norms against `torch.nn.functional.interpolate`."""

import pytest
import torch
import torch.nn.functional as F

from nnunet_xattnres.ops import interpolation
from nnunet_xattnres.ops.interpolation import (
    interpolation_matrix,
    squared_norm_matrix,
    taps,
    upsample,
    upsample_transposed,
)

CPU = torch.device("cpu")
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}

# length, target along one axis: integer ratios by phases and by the matrix, and others
LENGTHS = [
    *((3, 3 * ratio) for ratio in (1, 2, 3, 4, 5, 6, 8, 16, 64)),
    (1, 2), (1, 3), (1, 7), (1, 64), (2, 4), (2, 3), (3, 4), (5, 8), (7, 11), (10, 11), (13, 40),
    # long enough for several blocks of columns
    (100, 200), (100, 300), (100, 101), (100, 199), (70, 640), (33, 66), (65, 195),
]  # fmt: skip

# cases that cover the code paths; the combinations with the other ones are marked slow
FEW_LENGTHS = {(3, 3), (3, 6), (3, 12), (3, 15), (1, 7), (7, 11), (100, 200), (100, 199)}
FEW_SIZES = {
    ((4, 4), (8, 8)),
    ((2, 3), (8, 48)),
    ((5, 100), (7, 300)),
    ((1, 3, 3), (8, 12, 24)),
    ((2, 5, 3), (5, 6, 7)),
}

SIZES = [
    ((4, 4), (8, 8)),
    ((4, 4), (4, 8)),
    ((4, 4), (8, 4)),
    ((3, 2), (9, 10)),
    ((2, 3), (8, 48)),
    ((2, 2), (16, 32)),
    ((2, 1), (128, 3)),
    ((1, 1), (5, 4)),
    ((1, 5), (2, 15)),
    ((5, 3), (8, 7)),
    ((4, 5), (4, 5)),
    ((3, 100), (6, 200)),
    ((5, 100), (7, 300)),
    ((100, 3), (300, 4)),
    ((2, 3, 4), (4, 6, 8)),
    ((2, 3, 4), (2, 6, 8)),
    ((2, 3, 4), (6, 3, 4)),
    ((2, 3, 4), (2, 15, 4)),
    ((1, 3, 3), (8, 12, 24)),
    ((3, 1, 2), (5, 4, 2)),
    ((2, 5, 3), (5, 6, 7)),
    ((2, 3, 100), (4, 6, 200)),
]


def few(cases, default):
    """The cases, marked slow if they are not in `default`."""
    return [pytest.param(*case, marks=[] if case in default else pytest.mark.slow) for case in cases]


def interpolated(value, size):
    return F.interpolate(value, size, mode=MODES[len(size)], align_corners=False)


def transposed(grad, shape):
    """The transpose of `interpolated`, by autograd."""
    value = grad.new_zeros(*grad.shape[:2], *shape, requires_grad=True)
    return torch.autograd.grad(interpolated(value, grad.shape[2:]), value, grad)[0]


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("length", "target"), LENGTHS)
def test_matrix_interpolates(length, target):
    u = interpolation_matrix(length, target, torch.float64, CPU)
    assert_equal(u, interpolated(torch.eye(length, dtype=torch.float64).unsqueeze(0), (target,))[0].T)


@pytest.mark.parametrize(("length", "target"), LENGTHS)
def test_taps(length, target):
    lower, fraction = taps(length, target)
    upper = (lower + 1).clamp(max=length - 1)
    value = draw(length)
    assert_equal(
        (1 - fraction) * value[lower] + fraction * value[upper], interpolated(value.view(1, 1, -1), (target,))[0, 0]
    )
    assert lower.min() >= 0
    assert ((fraction >= 0) & (fraction <= 1)).all()


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_upsample(shape, size):
    value = draw(2, 3, *shape)
    assert_equal(upsample(value, size), interpolated(value, size))


@pytest.mark.parametrize("axis", [-1, -2, -3])
@pytest.mark.parametrize(("length", "target"), few(LENGTHS, FEW_LENGTHS))
def test_upsample_along_every_axis(length, target, axis):
    shape, size = [2, 2, 2], [2, 2, 2]
    shape[axis], size[axis] = length, target
    value = draw(1, 2, *shape)
    assert_equal(upsample(value, tuple(size)), interpolated(value, size))


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_transpose(shape, size):
    grad = draw(2, 3, *size)
    assert_equal(upsample_transposed(grad, shape), transposed(grad, shape))


@pytest.mark.parametrize("axis", [-1, -2, -3])
@pytest.mark.parametrize(("length", "target"), few(LENGTHS, FEW_LENGTHS))
def test_transpose_along_every_axis(length, target, axis):
    shape, size = [2, 2, 2], [2, 2, 2]
    shape[axis], size[axis] = length, target
    grad = draw(1, 2, *size)
    assert_equal(upsample_transposed(grad, tuple(shape)), transposed(grad, shape))


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_transpose_has_the_same_inner_products(shape, size):
    value, grad = draw(2, 3, *shape), draw(2, 3, *size)
    product = (upsample(value, size) * grad).sum()
    transposed_product = (value * upsample_transposed(grad, shape)).sum()
    torch.testing.assert_close(product, transposed_product, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize(("shape", "size"), [((4, 6), (8, 18)), ((2, 3, 4), (2, 6, 32)), ((3, 50), (6, 100))])
def test_memory_layout_does_not_change_the_results(shape, size):
    for values, expected in (
        (draw(2, 3, *shape), lambda v: (upsample(v, size), interpolated(v, size))),
        (draw(2, 3, *size), lambda g: (upsample_transposed(g, shape), transposed(g, shape))),
    ):
        last = values.movedim(1, -1).contiguous().movedim(-1, 1)
        slices = values.repeat_interleave(2, -1)[..., ::2]
        for other in (last, slices, values[:1].expand_as(values)):
            assert not other.is_contiguous()
            assert_equal(*expected(other))


@pytest.mark.parametrize("columns", [1, 2, 7])
@pytest.mark.parametrize(("shape", "size"), few(SIZES, FEW_SIZES))
def test_size_of_blocks_does_not_change_the_results(monkeypatch, shape, size, columns):
    monkeypatch.setattr(interpolation, "_COLUMNS", columns)
    value, grad = draw(2, 3, *shape), draw(2, 3, *size)
    assert_equal(upsample(value, size), interpolated(value, size))
    assert_equal(upsample_transposed(grad, shape), transposed(grad, shape))


@pytest.mark.parametrize("phases", [0, 2, 64])
@pytest.mark.parametrize(("shape", "size"), few(SIZES, FEW_SIZES))
def test_number_of_phases_does_not_change_the_results(monkeypatch, shape, size, phases):
    monkeypatch.setattr(interpolation, "_PHASES", phases)
    value, grad = draw(2, 3, *shape), draw(2, 3, *size)
    assert_equal(upsample(value, size), interpolated(value, size))
    assert_equal(upsample_transposed(grad, shape), transposed(grad, shape))


@pytest.mark.parametrize(("length", "target"), [(100, 200), (100, 300), (100, 101)])
def test_a_long_axis_takes_several_products_that_each_read_a_few_columns(monkeypatch, length, target):
    """Most elements of U are zero."""
    read = []
    product = torch.mm

    def mm(rows, columns, **options):
        read.append(rows.shape[1])
        return product(rows, columns, **options)

    monkeypatch.setattr(torch, "mm", mm)
    upsample(draw(1, 2, 3, length), (3, target))
    assert len(read) > 1
    assert max(read) <= length / 2


@pytest.mark.parametrize(("length", "target"), LENGTHS)
def test_squared_norm_matrix(length, target):
    """The squared norms of vectors of 5 channels and of their differences give those of the interpolated vectors."""
    value = draw(1, 5, length)
    squares = torch.cat((value, value.diff(dim=-1)), -1).square().sum(1)[0]
    squared_norms = squared_norm_matrix(length, target, torch.float64, CPU) @ squares
    torch.testing.assert_close(squared_norms, interpolated(value, (target,)).square().sum(1)[0], rtol=1e-12, atol=1e-12)


def test_dtype_of_the_matrices():
    for function in (interpolation_matrix, squared_norm_matrix):
        in_float64 = function(3, 7, torch.float64, CPU)
        assert in_float64.dtype == torch.float64
        in_float32 = function(3, 7, torch.float32, CPU)
        assert in_float32.dtype == torch.float32
        assert torch.equal(in_float32, in_float64.float())
