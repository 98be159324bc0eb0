"""The Triton backend where it computes a call in several groups of samples and of tiles, to limit its memory."""

import pytest
import torch
from support.operator import DEVICE, interpreter

from nnunet_xattnres.ops import torch_backend, triton_backend
from nnunet_xattnres.ops.triton_layer import BlockSizes

# the size of x, and the channels and the size of every feature
SIZES = {
    "2-D": ((16, 32), [(8, (16, 32)), (24, (8, 16)), (12, (4, 8))]),
    "3-D": ((4, 8, 16), [(8, (4, 8, 16)), (24, (2, 4, 8)), (12, (4, 2, 4))]),
}
CHANNELS, BATCH = 24, 3


def arguments(name):
    size, history = SIZES[name]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    sources = [draw(BATCH, channels, *shape) for channels, shape in history]
    weights = [None if channels == CHANNELS else draw(CHANNELS, channels) / 3 for channels, _ in history]
    biases = [None if weight is None else draw(CHANNELS) for weight in weights]
    operands = sources, [draw(BATCH, 8, *size), draw(BATCH, 16, *size)], weights, biases, draw(CHANNELS) / 4
    return draw(BATCH, CHANNELS, *size), draw(BATCH, len(history) + 1, *size), *operands, torch.tensor(0.4), 1e-6


def converted(value, function):
    if isinstance(value, (list, tuple)):
        return [converted(v, function) for v in value]
    return function(value) if isinstance(value, torch.Tensor) else value


def flat(results):
    return [t for r in results for t in (flat(r) if isinstance(r, (list, tuple)) else [r]) if t is not None]


@pytest.mark.parametrize(
    ("partial", "part", "samples"), [(2**30, 2**30, 1), (60_000, 2**30, 2**30), (60_000, 2**30, 1), (60_000, 20_000, 1)]
)
@pytest.mark.parametrize("name", [pytest.param(name, marks=interpreter) for name in SIZES])
def test_groups_of_samples_and_tiles_do_not_change_the_gradients(name, partial, part, samples, monkeypatch):
    monkeypatch.setattr(triton_backend, "BLOCK_SIZES", BlockSizes(partial=partial, part=part, samples=samples))
    operands = arguments(name)
    expected = flat(torch_backend.backward(*converted(operands, lambda t: t.double())))
    actual = flat(triton_backend.backward(*converted(operands, lambda t: t.to(DEVICE, torch.float32))))
    for a, e in zip(actual, expected, strict=True):
        largest = e.abs().max().item()
        torch.testing.assert_close(a.cpu().double(), e.view(a.shape), rtol=0, atol=1e-5 * largest)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", [pytest.param(name, marks=interpreter) for name in SIZES])
def test_an_infinite_cell_spreads_no_further_than_the_tiles_that_read_it(name):
    """The first cell, with whose values the kernels could fill up their blocks. A tile has 4 x 16 pixels of a plane."""
    _, _, *operands = converted(arguments(name), lambda t: t.to(DEVICE, torch.float32))
    out = triton_backend.forward(*operands)[0]
    operands[0][1].flatten(2)[..., 0] = torch.inf
    spread = triton_backend.forward(*operands)[0]
    assert not spread[..., :4, :16].isfinite().all()
    assert torch.equal(spread[..., 4:, :], out[..., 4:, :])
    assert torch.equal(spread[..., 16:], out[..., 16:])
