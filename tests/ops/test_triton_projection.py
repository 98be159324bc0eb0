"""The projections of a whole history in one kernel, and their gradients, against PyTorch's convolution."""

import math

import pytest
import torch
import torch.nn.functional as F
from support.operator import DEVICE

from nnunet_xattnres.ops import triton_projection
from nnunet_xattnres.ops.tiles import make_tables
from nnunet_xattnres.ops.triton_launch import memory_of
from nnunet_xattnres.ops.triton_projection import ProjectionKernels, Projections

SIZE = (1, 8, 16)
CHANNELS = 24
# the width and the size of every feature: projected and not, interpolated and not, odd sizes
HISTORY = [(8, (1, 8, 16)), (CHANNELS, (1, 8, 16)), (40, (1, 4, 8)), (CHANNELS, (1, 2, 4)), (3, (1, 3, 5))]


def make_operands(channels, dtype=torch.float32):
    """Features, weights in float32, and biases."""
    torch.manual_seed(0)
    sources = [
        torch.randn(2, channels if width == CHANNELS else width, *size, device=DEVICE, dtype=dtype)
        for width, size in HISTORY
    ]
    weights = [
        None if source.shape[1] == channels else torch.randn(channels, source.shape[1], device=DEVICE)
        for source in sources
    ]
    biases = [None if w is None else torch.randn(channels, device=DEVICE) for w in weights]
    return sources, weights, biases


@pytest.fixture
def operands():
    return make_operands(CHANNELS)


def features(tables, values, full):
    """Views of the features (B, C, pixels) in their buffers, in the order of the history."""
    rest = iter(full)
    return [
        values[:, tables.cells[n] :][:, : size[0] * size[1] * size[2]].transpose(1, 2)
        if n in tables.cells
        else next(rest).flatten(2)
        for n, (_, size) in enumerate(HISTORY)
    ]


@pytest.mark.parametrize(
    ("splits", "enough", "channels", "dtype"),
    [
        (1, 2048, CHANNELS, torch.float32),
        (256, 2048, CHANNELS, torch.float32),
        (256, 2, CHANNELS, torch.float32),
        # more than one of the larger blocks of channels in half precision
        (256, 2048, 136, torch.float16),
    ],
)
def test_equals_convolutions(splits, enough, channels, dtype, monkeypatch):
    monkeypatch.setattr(triton_projection, "_ENOUGH_ELEMENTS", enough * 64**2)
    sources, weights, biases = make_operands(channels, dtype)
    tables = make_tables(tuple(size for _, size in HISTORY), SIZE, 32, 16, sources[0].device)
    d_sources = [torch.full_like(source, torch.nan) for source in sources]
    of_weights = [weight is not None for weight in weights]
    kernels = ProjectionKernels(
        [source.shape[1] for source in sources], [math.prod(size) for _, size in HISTORY], tables.cells,
        tables.num_cells, [True] * len(HISTORY), of_weights, 2, channels, dtype, torch.float32, sources[0].device,
        splits,
    )  # fmt: skip
    projections = Projections(kernels, sources, weights, biases, of_weights, d_sources)
    values = torch.empty(2, tables.num_cells, channels, device=DEVICE, dtype=dtype)
    full = torch.empty(2, 2, channels, *SIZE, device=DEVICE, dtype=dtype)
    rounded = torch.full((kernels.rounded_size,), torch.nan, device=DEVICE, dtype=dtype)
    projections.project(*(memory_of(t) for t in (rounded, values, full)))

    # weights and biases are rounded before the products
    weights, biases = ([t if t is None else t.to(dtype) for t in tensors] for tensors in (weights, biases))
    leaves = [t.double().requires_grad_() for t in (*sources, *(p for p in (*weights, *biases) if p is not None))]
    rest = iter(leaves[len(sources) :])
    double_weights = [None if w is None else next(rest) for w in weights]
    double_biases = [None if b is None else next(rest) for b in biases]
    expected = [
        s if w is None else F.conv3d(s, w[:, :, None, None, None], b)
        for s, w, b in zip(leaves, double_weights, double_biases, strict=False)
    ]
    # sums are in float32, and are rounded to the dtype of the features once
    rounding = torch.finfo(dtype).eps / 2 if dtype != torch.float32 else 0
    for a, e in zip(features(tables, values, full), expected, strict=True):
        torch.testing.assert_close(a.double(), e.flatten(2), rtol=1.01 * rounding, atol=1e-5)

    d_values, d_full = torch.randn_like(values), torch.randn_like(full)
    gradients = [g.double() for g in features(tables, d_values, d_full)]
    torch.autograd.backward([e.flatten(2) for e in expected], gradients)
    partial = torch.empty(kernels.partial_shape, device=DEVICE)
    projections.backward(*(memory_of(t) for t in (rounded, d_values, d_full, partial)))
    actual = [*d_sources, *(g for g in (*projections.d_weights, *projections.d_biases) if g is not None)]
    for a, leaf in zip(actual, leaves, strict=True):
        assert a.shape == leaf.shape
        rounded_to = rounding if a.dtype == dtype else 0
        torch.testing.assert_close(a.double(), leaf.grad, rtol=1e-5 + 1.01 * rounded_to, atol=1e-4)


def test_addresses_are_aligned_as_the_kernels_take_for_granted(operands):
    """Copies are read and written where samples, or parts of a larger tensor, begin elsewhere."""
    sources, weights, biases = operands

    def shifted(tensor):
        return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)

    sources, weights, biases = sources[:2], weights[:2], biases[:2]
    kernels = ProjectionKernels(
        [8, 24], [128, 128], {}, 0, [True] * 2, [True, False], 2, CHANNELS, torch.float32, torch.float32,
        sources[0].device,
    )  # fmt: skip
    results = []
    for change in (torch.clone, shifted):
        d_sources = [change(torch.zeros_like(source)) for source in sources]
        arguments = [[t if t is None else change(t) for t in tensors] for tensors in (sources, weights, biases)]
        projections = Projections(kernels, *arguments, [True, False], d_sources)
        assert all(address % 16 == 0 for address in projections._addresses.tolist())
        full = torch.empty(2, 2, CHANNELS, *SIZE, device=DEVICE)
        partial = torch.empty(kernels.partial_shape, device=DEVICE)
        rounded = torch.empty(kernels.rounded_size, device=DEVICE)
        projections.project(*(memory_of(t) for t in (rounded, full[:0], full)))
        projections.backward(*(memory_of(t) for t in (rounded, full[:0], full, partial)))
        results.append([full, *d_sources, projections.d_weights[0], projections.d_biases[0]])
    for aligned, unaligned in zip(*results, strict=True):
        torch.testing.assert_close(unaligned, aligned, rtol=0, atol=0)


def test_tables_of_addresses_are_kept(operands):
    sources = operands[0][:2]
    kernels = ProjectionKernels(
        [8, 24], [128, 128], {}, 0, [False] * 2, [False] * 2, 2, CHANNELS, torch.float32, torch.float32,
        sources[0].device,
    )  # fmt: skip
    first, second = kernels.addresses_of((1, 2, 3)), kernels.addresses_of((1, 2, 4))
    assert (first.tolist(), second.tolist()) == ([1, 2, 3], [1, 2, 4])
    assert kernels.addresses_of((1, 2, 3)) is first


def test_a_cuda_graph_would_keep_old_addresses(monkeypatch):
    kernels = ProjectionKernels.__new__(ProjectionKernels)
    kernels._device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(NotImplementedError, match="CUDA graph"):
        kernels._copy_addresses_to_device((1, 2), 0)
