"""Max pooling against PyTorch's adaptive max pooling: values, gradients, ties, memory, and as an operator."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import profile

from nnunet_xattnres.ops import pooling

ADAPTIVE = {2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}

SIZES = [
    ((4, 6), (2, 3)),
    ((6, 9), (2, 3)),
    ((6, 4), (3, 4)),
    ((4, 6), (4, 6)),
    ((6, 6), (1, 1)),
    ((8, 6), (1, 2)),
    ((1, 8), (1, 2)),
    ((7, 6), (3, 3)),
    ((7, 11), (4, 5)),
    ((5, 8), (5, 3)),
    ((4, 4, 6), (2, 2, 3)),
    ((3, 4, 6), (3, 2, 2)),
    ((2, 6, 4), (1, 2, 4)),
    ((3, 5, 4), (2, 5, 2)),
    ((1, 6, 6), (1, 3, 3)),
]
DIVIDING = [(shape, size) for shape, size in SIZES if not any(s % t for s, t in zip(shape, size, strict=True))]


@pytest.fixture(autouse=True, params=["cpp", "torch"])
def backend(request, monkeypatch):
    """Windows of equal lengths are pooled by C++ kernels or by PyTorch, and others always by PyTorch."""
    monkeypatch.setenv("XATTNRES_BACKEND", request.param)


def max_pool(feature, size):
    return pooling.max_pool([feature], [size])[0]


def distinct(*shape):
    """Values that are all different."""
    count = torch.Size(shape).numel()
    return torch.randperm(count, generator=torch.Generator().manual_seed(0)).double().view(shape) / count


def values_and_gradient(pool, feature, size):
    feature = feature.detach().requires_grad_()
    pooled = pool(feature, size)
    grad = torch.arange(1.0, 1 + pooled.numel(), dtype=feature.dtype).view(pooled.shape)
    return pooled, torch.autograd.grad(pooled, feature, grad)[0]


def assert_pools(feature, size):
    expected = values_and_gradient(ADAPTIVE[len(size)], feature.contiguous(), size)
    actual = values_and_gradient(max_pool, feature, size)
    for result, reference in zip(actual, expected, strict=True):
        assert torch.equal(result, reference)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_values_and_gradients(shape, size, dtype):
    # in half precision, some of the values are equal
    assert_pools(distinct(2, 3, *shape).to(dtype), size)


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_the_first_of_equal_maxima_gets_the_gradient(shape, size):
    generator = torch.Generator().manual_seed(0)
    assert_pools(torch.zeros(2, 3, *shape), size)
    # with two different values, nearly every window has its maximum more than once
    assert_pools(torch.randint(2, (4, 5, *shape), generator=generator).double(), size)


def test_the_first_of_equal_maxima_gets_all_of_the_gradient():
    feature = torch.tensor([[[[1.0, 3.0], [3.0, 3.0]]]], requires_grad=True)
    pooled = max_pool(feature, (1, 1))
    (gradient,) = torch.autograd.grad(pooled, feature, torch.full_like(pooled, 5))
    assert pooled.tolist() == [[[[3]]]]
    assert gradient.tolist() == [[[[0, 5], [0, 0]]]]


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_minus_infinity(shape, size):
    feature = distinct(2, 3, *shape)
    # half of the values, and every value of one channel
    feature[feature < 0.5] = -torch.inf
    feature[:, 1] = -torch.inf
    assert_pools(feature, size)


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_gradcheck(shape, size):
    feature = distinct(1, 2, *shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: max_pool(f, size), feature)


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_memory_layout_does_not_change_the_results(shape, size):
    feature = distinct(2, 3, *shape)
    assert_pools(feature.movedim(1, -1).contiguous().movedim(-1, 1), size)
    assert_pools(feature.repeat_interleave(2, -1)[..., ::2], size)
    assert_pools(feature[:1].expand_as(feature), size)


@pytest.mark.parametrize(("shape", "size"), DIVIDING)
def test_gradients_in_other_memory_layouts(shape, size):
    feature = distinct(2, 3, *shape).requires_grad_()
    pooled, expected = max_pool(feature, size), ADAPTIVE[len(size)](feature, size)
    gradient = torch.randn(2, *size, 3, dtype=torch.float64).movedim(-1, 1)
    for grad in (gradient, gradient[:1, :1].expand_as(gradient)):
        result, reference = (
            torch.autograd.grad(out, feature, grad, retain_graph=True)[0] for out in (pooled, expected)
        )
        assert torch.equal(result, reference)


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_only_the_feature_and_its_pooled_copy_are_kept(shape, size):
    feature = torch.randn(2, 3, *shape, requires_grad=True)
    kept = set()

    def pack(tensor):
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        pooled = max_pool(feature, size)
    assert kept == {feature.untyped_storage().data_ptr(), pooled.untyped_storage().data_ptr()}


@pytest.mark.parametrize(("shape", "size"), SIZES)
@pytest.mark.parametrize("kind", ["distinct", "ties"])
def test_gradients_from_indices(monkeypatch, shape, size, kind):
    """The way of other devices than CPUs, where PyTorch's own gradient is not the same in every run."""
    monkeypatch.setattr(pooling, "_pools_by_elements", lambda feature, size: False)
    generator = torch.Generator().manual_seed(0)
    feature = distinct(4, 5, *shape) if kind == "distinct" else torch.randint(2, (4, 5, *shape), generator=generator)
    assert_pools(feature.double(), size)


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_gradients_do_not_need_pytorchs_backward(monkeypatch, shape, size):
    """On CUDA it adds the gradients of overlapping windows in any order."""
    feature = distinct(1, 2, *shape).requires_grad_()
    with profile() as profiler:
        max_pool(feature, size).sum().backward()
    names = {event.key for event in profiler.key_averages()}
    assert not [name for name in names if "max_pool" in name and "backward" in name and "nnunet_xattnres" not in name]


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_windows_of_a_group_do_not_overlap(shape, size):
    windows = torch.arange(torch.Size(size).numel()).view(1, 1, *size)
    seen = []
    for group in pooling._groups(shape, size):
        taken: list[tuple[int, ...]] = []
        for window in windows[group].flatten().tolist():
            position = torch.unravel_index(torch.tensor(window), size)
            # the window of an output, as PyTorch defines it
            bounds = [
                range(int(p) * s // t, -((-(int(p) + 1) * s) // t))
                for p, s, t in zip(position, shape, size, strict=True)
            ]
            taken += itertools.product(*bounds)
            seen.append(window)
        assert len(set(taken)) == len(taken)
    assert sorted(seen) == windows.flatten().tolist()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")
@pytest.mark.parametrize(
    ("shape", "size"), [((4, 6), (2, 3)), ((7, 6), (3, 3)), ((4, 6), (4, 6)), ((2, 6, 4), (1, 2, 4))]
)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_operators_pass_the_checks_of_torch_library(shape, size, layout):
    feature = distinct(2, 3, *shape)
    if layout == "channels last":
        feature = feature.movedim(1, -1).contiguous().movedim(-1, 1)
    features = [feature.clone().requires_grad_(), torch.randn(2, 3, *shape)]
    arguments = (features, [*size, *(1 for _ in size)])
    torch.library.opcheck(torch.ops.nnunet_xattnres.max_pool.default, arguments)
    features = [f.detach() for f in features]
    pooled = torch.ops.nnunet_xattnres.max_pool(*arguments)
    arguments = ([torch.ones_like(p) for p in pooled], features, [p.detach() for p in pooled])
    torch.library.opcheck(torch.ops.nnunet_xattnres.max_pool_backward.default, arguments)


def test_features_that_need_no_gradient_get_none():
    features = [distinct(2, 3, 4, 6), distinct(2, 1, 8, 4).requires_grad_(), distinct(1, 2, 4, 4).requires_grad_()]
    pooled = pooling.max_pool(features, [(2, 3), (4, 2), (1, 4)])
    assert [p.requires_grad for p in pooled] == [False, True, True]
    for actual, feature in zip(pooled, features, strict=True):
        assert torch.equal(actual, F.adaptive_max_pool2d(feature, actual.shape[2:]))
    # the third has no part in the result
    (pooled[0].sum() + pooled[1].sum()).backward()
    assert features[0].grad is None
    assert features[1].grad.sum() == pooled[1].numel()
    assert features[2].grad is None


def test_a_large_window_takes_few_operations():
    """In PyTorch, the way of small windows runs several operations per element of the window."""
    feature = torch.randn(1, 1, 64, 64, requires_grad=True)
    with profile() as profiler:
        max_pool(feature, (1, 1)).sum().backward()
    assert sum(event.count for event in profiler.key_averages()) < 50
