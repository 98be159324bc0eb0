"""Propagated attention: against the literal formulas, its gradients, and half precision."""

import pytest
import torch
from torch import nn

from nnunet_xattnres.attention import AttentionMap, AttentionPropagation, PooledTokens
from nnunet_xattnres.attention import propagation_reference as reference
from nnunet_xattnres.attention.propagation import attention_map, propagate_attention

SIZES = {
    # grid of the queries, size of the stage, tokens of the pooled grid
    "2d": ((3, 4), (12, 16), 6),
    "2d, sizes that are no multiples": ((3, 4), (7, 9), 5),
    "3d, anisotropic": ((2, 3, 2), (2, 6, 8), 4),
    "one pixel": ((1, 1), (4, 4), 1),
    "the deepest stage": ((3, 4), None, 6),
}


def inputs(grid, tokens, channels=8, heads=4, batch=2):
    """Attention, values, weight and bias."""
    torch.manual_seed(0)
    n = torch.Size(grid).numel()
    attention = torch.randn(batch, heads, n, tokens, dtype=torch.float64).softmax(3)
    values = torch.randn(batch, tokens, channels, dtype=torch.float64)
    weight = torch.randn(channels, channels, dtype=torch.float64)
    return [t.requires_grad_() for t in (attention, values, weight, torch.randn(channels, dtype=torch.float64))]


@pytest.mark.parametrize(("grid", "size", "tokens"), SIZES.values(), ids=SIZES.keys())
def test_it_equals_the_attention_that_is_upsampled(grid, size, tokens):
    """Up(A V W + b) = Up(A) V W + b, the outputs and every gradient."""
    tensors = inputs(grid, tokens)
    results = []
    for function in (propagate_attention, reference.propagate_attention):
        out = function(*tensors, grid, size)
        assert out.shape == (2, 8, *(grid if size is None else size))
        results.append([out, *torch.autograd.grad(out.sin().sum(), tensors)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_attention_map():
    torch.manual_seed(0)
    tensors = [torch.randn(2, n, 12, dtype=torch.float64, requires_grad=True) for n in (5, 7)]
    results = []
    for function in (attention_map, reference.attention_map):
        out = function(*tensors, 3)
        results.append([out, *torch.autograd.grad(out.sin().sum(), tensors)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_attention_map_is_that_of_pytorch():
    torch.manual_seed(0)
    x, y, layer = torch.randn(2, 5, 12), torch.randn(2, 7, 12), AttentionMap(12, 3)
    theirs = nn.MultiheadAttention(12, 3, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight[:24] = torch.cat([layer.query.weight, layer.key.weight])
    _, expected = theirs(x, y, y, average_attn_weights=False)
    torch.testing.assert_close(layer(x, y), expected)


def test_gradients_are_those_of_finite_differences():
    grid, size, tokens = (2, 2), (3, 4), 3
    attention, values, weight, bias = inputs(grid, tokens, channels=4, heads=2, batch=1)
    query, key = (torch.randn(1, n, 4, dtype=torch.float64, requires_grad=True) for n in (4, tokens))
    assert torch.autograd.gradcheck(lambda q, k: attention_map(q, k, 2), (query, key))
    assert torch.autograd.gradcheck(
        lambda a, v, w, b: propagate_attention(a, v, w, b, grid, size), (attention, values, weight, bias)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_activations_under_autocast(dtype):
    """Products of 1e3 * 1e3 overflow in float16; the attention is float32, and the rest stays close to it."""
    torch.manual_seed(0)
    grid, size = (4, 4), (8, 8)
    feature = 1e3 * torch.randn(1, 16, *grid)
    tokens, attend, propagate = PooledTokens(16), AttentionMap(16, 4), AttentionPropagation(16, 4)
    nn.init.eye_(attend.query.weight)
    nn.init.eye_(attend.key.weight)
    x = feature.flatten(2).transpose(1, 2)
    with torch.autocast("cpu", dtype):
        attention = attend(x, 1e3 * tokens(feature))
        out = propagate(attention, tokens(feature), grid, size)
        out.float().square().mean().backward()
    assert attention.dtype == torch.float32
    assert (attention.sum(3) - 1).abs().max() < 1e-5
    assert out.isfinite().all()
    for module in (tokens, attend, propagate):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("layer", [AttentionMap, AttentionPropagation])
def test_heads_that_do_not_divide_the_channels(layer):
    with pytest.raises(ValueError, match=rf"^{layer.__name__}: .* 8 heads and 12 channels$"):
        layer(12, 8)
