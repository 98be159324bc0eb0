"""The Triton kernels of max pooling against PyTorch's adaptive max pooling: values, gradients, ties and NaN."""

import pytest
import torch
import torch.nn.functional as F
from support.operator import DEVICE

from nnunet_xattnres.ops import pooling, triton_pooling

SIZES = [
    ((4, 6), (2, 3)),
    ((6, 9), (2, 3)),
    ((6, 4), (3, 4)),
    ((8, 6), (1, 2)),
    ((1, 8), (1, 2)),
    ((4, 4, 6), (2, 2, 3)),
    ((3, 4, 6), (3, 2, 2)),
    ((2, 6, 4), (1, 2, 4)),
]


def values(kind, shape, dtype):
    generator = torch.Generator().manual_seed(0)
    if kind == "distinct":
        feature = torch.randperm(torch.Size(shape).numel(), generator=generator).double().view(shape) / 100
    else:
        feature = torch.randint(-1, 2, shape, generator=generator).double()
    if kind == "not finite":
        feature[feature == -1] = -torch.inf
        # one in a window, because of several the last one has the gradient in PyTorch, here the first
        feature.view(*shape[:2], -1)[:, ::2, 1] = torch.nan
    return feature.to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["distinct", "ties", "not finite"])
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_equals_adaptive_max_pooling(shape, size, kind, dtype, monkeypatch):
    # several programs, and one that is not full
    monkeypatch.setattr(triton_pooling, "_WINDOWS", 16)
    feature = values(kind, (2, 3, *shape), dtype).requires_grad_()
    expected = {2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}[len(size)](feature, size)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    (expected_gradient,) = torch.autograd.grad(expected, feature, gradient)
    pooled = triton_pooling.max_pool(feature.detach(), size)
    actual_gradient = triton_pooling.max_pool_backward(gradient, feature.detach(), pooled)
    torch.testing.assert_close(pooled, expected.detach(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(actual_gradient, expected_gradient, rtol=0, atol=0)


def test_pools_where_triton_is_selected(monkeypatch):
    """Windows that overlap, and more elements than 32-bit offsets reach, are left to PyTorch."""
    monkeypatch.setenv("XATTNRES_BACKEND", "triton")
    calls = []
    monkeypatch.setattr(triton_pooling, "max_pool", lambda *arguments: calls.append(arguments) or arguments[0].clone())
    feature = torch.zeros(1, 1, 6, 6, device=DEVICE)
    for size in ((3, 3), (4, 3)):
        pooling.max_pool([feature], [size])
    assert [size for _, size in calls] == [(3, 3)]
    assert pooling._pooling_kernels(torch.empty(2**16, 2**15, 2, 2, device="meta"), (1, 1), "triton") is None
    monkeypatch.setenv("XATTNRES_BACKEND", "torch")
    pooling.max_pool([feature], [(3, 3)])
    assert len(calls) == 1
