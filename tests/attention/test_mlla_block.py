"""The block: agreement with its equations, initialisation, precision, memory, compilation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunet_xattnres.attention import SEMA, MLLABlock


def make(dim=2, **options):
    torch.manual_seed(0)
    block = MLLABlock(8, dim, window=3, head_width=4, **options).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block, torch.randn(2, 8, *(5, 4, 3)[:dim], dtype=torch.float64, requires_grad=True)


def literal(block, x):
    """The equations, on images (B, C, *S), with 1x1 convolutions for linear layers."""
    conv = {4: F.conv2d, 5: F.conv3d}[x.ndim]

    def linear(layer, x):
        return conv(x, layer.weight.view(*layer.weight.shape, *(1,) * (x.ndim - 2)), layer.bias)

    def depthwise(layer, x):
        return conv(x, layer.weight, layer.bias, padding=1, groups=x.shape[1])

    def norm(layer, x):
        mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
        gain, bias = (p.view(1, -1, *(1,) * (x.ndim - 2)) for p in (layer.weight, layer.bias))
        return (x - mean) / (variance + 1e-5).sqrt() * gain + bias

    x = x + depthwise(block.position1, x)
    y = norm(block.norm1, x)
    gate = F.silu(linear(block.gate, y))
    y = block.attention(F.silu(depthwise(block.conv, linear(block.input, y))))
    x = x + linear(block.output, y * gate)
    x = x + depthwise(block.position2, x)
    return x + linear(block.mlp[2], F.gelu(linear(block.mlp[0], norm(block.norm2, x))))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_outputs_and_gradients_are_those_of_the_equations(dim, channels_last):
    block, x = make(dim)
    if channels_last:
        formats = {2: torch.channels_last, 3: torch.channels_last_3d}
        x = x.detach().to(memory_format=formats[dim]).requires_grad_()
    inputs = [x, *block.parameters()]
    results = []
    for function in (block, lambda x: literal(block, x)):
        out = function(x)
        results.append([out, *torch.autograd.grad(out.sin().sum(), inputs)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_a_sample_whose_path_is_dropped_has_no_residual_branches():
    block, x = make(drop_path=1 - 1e-9)
    after_first = x + block.position1(x)
    torch.testing.assert_close(block(x), after_first + block.position2(after_first))
    torch.testing.assert_close(block.eval()(x), literal(block, x), rtol=1e-9, atol=1e-9)


def test_initialisation():
    torch.manual_seed(0)
    block = MLLABlock(64, 2)
    for parameter in block.parameters():
        nn.init.constant_(parameter, 7)
    block.reset_parameters()
    for module in block.modules():
        if isinstance(module, nn.Linear):
            assert 0.018 < module.weight.std() < 0.022
            assert not module.bias.any()
        elif isinstance(module, nn.Conv2d):  # uniform between -1/3 and 1/3, as PyTorch's
            bound = 1 / math.sqrt(9)
            assert 0.9 * bound < module.weight.abs().max() <= bound
            assert module.bias.abs().max() <= bound
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all() and not module.bias.any()


@pytest.mark.parametrize("dim", [2, 3])
def test_kept_elements_are_those_that_the_layers_write(dim):
    block, x = make(dim, mlp_ratio=2.5)
    written = []
    for module in block.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d | nn.LayerNorm | SEMA):
            module.register_forward_hook(lambda module, args, out: written.append(out[0].numel()))
    attend = block.attention.attend
    block.attention.attend = lambda tokens: (out := attend(tokens), written.append(out[0].numel()))[0]
    block(x)
    assert block.count_kept_elements(x.shape[2:]) == sum(written)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_of_large_activations_stays_finite(dtype):
    torch.manual_seed(0)
    block = MLLABlock(32, 2)
    with torch.autocast("cpu", dtype):
        out = block(1e3 * torch.randn(2, 32, 9, 9))
    out.float().mean().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in block.parameters())


def test_a_head_width_that_does_not_divide():
    with pytest.raises(ValueError, match="head_width 32 for 48 channels"):
        MLLABlock(48, 2)
