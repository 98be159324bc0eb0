"""Max pooling in C++ against PyTorch's adaptive max pooling: values, gradients, rows of several tasks, and NaN."""

import ctypes

import pytest
import torch
import torch.nn.functional as F

from nnunet_xattnres.ops import cpp_pooling, pooling
from nnunet_xattnres.ops.cpp_library import find_compiler, load_library

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler")

ADAPTIVE = {2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}

# windows of 2, of other lengths, and of some axes alone; the last has rows for several tasks
SIZES = [
    ((4, 6), (2, 3)),
    ((6, 15), (2, 3)),
    ((8, 6), (1, 2)),
    ((4, 34), (4, 17)),
    ((4, 4, 6), (2, 2, 3)),
    ((2, 6, 8), (1, 2, 8)),
    ((6, 4, 9), (2, 4, 3)),
    ((64, 128, 36), (16, 64, 18)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["distinct", "ties"])
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_values_and_gradients(shape, size, kind, dtype):
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, 3, *shape, dtype=dtype, generator=generator).requires_grad_()
    if kind == "ties":
        feature = (feature > 0).to(dtype).detach().requires_grad_()
    expected = ADAPTIVE[len(size)](feature, size)
    gradient = torch.randn(expected.shape, dtype=dtype, generator=generator)
    (expected_gradient,) = torch.autograd.grad(expected, feature, gradient)
    pooled = cpp_pooling.max_pool(feature.detach(), size)
    assert torch.equal(pooled, expected)
    assert torch.equal(cpp_pooling.max_pool_backward(gradient, feature.detach(), pooled), expected_gradient)


@pytest.mark.parametrize(("shape", "size"), SIZES[:7])
def test_nan_stays_in_its_window(shape, size):
    feature = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    for index in (0, 5, feature.numel() - 1):
        feature.view(-1)[index] = torch.nan
    expected = ADAPTIVE[len(size)](feature, size)
    assert expected.isnan().any() and not expected.isnan().all()
    torch.testing.assert_close(cpp_pooling.max_pool(feature, size), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("backend", "dtype", "size", "kernels"),
    [
        ("auto", torch.float32, (3, 3), cpp_pooling),
        ("cpp", torch.float64, (3, 2), cpp_pooling),
        ("cpp", torch.float16, (3, 3), None),
        ("cpp", torch.float32, (4, 3), None),
        ("torch", torch.float32, (3, 3), None),
    ],
)
def test_pools_where_the_cpp_kernels_are_selected(monkeypatch, backend, dtype, size, kernels):
    """Windows that overlap and other dtypes are left to PyTorch."""
    monkeypatch.setenv("XATTNRES_BACKEND", backend)
    monkeypatch.setattr("sys.platform", "linux")
    assert pooling._pooling_kernels(torch.zeros(1, 1, 6, 6, dtype=dtype), size, pooling._backend("cpu")) is kernels


def test_the_structure_has_the_size_of_that_of_the_kernels():
    function = load_library().size_of_pooling
    function.restype = ctypes.c_int64
    assert function() == ctypes.sizeof(cpp_pooling._Pooling)
