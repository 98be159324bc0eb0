"""SEMA: agreement with the literal formula, windows, sizes, precision, compilation and bad input."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunet_xattnres import SEMA
from nnunet_xattnres.attention import sema_reference
from nnunet_xattnres.attention.sema import count_heads, window_attention

CASES = {
    # axes, channels, head width, window, size
    "2-D": (2, 8, 4, 3, (7, 9)),
    "2-D, no padding": (2, 8, 4, 3, (6, 3)),
    "2-D, smaller than a window": (2, 8, 8, 7, (5, 2)),
    "2-D, one side smaller than a window": (2, 6, 2, 4, (3, 10)),
    "2-D, channels that are not rotated": (2, 10, 10, 3, (4, 5)),
    "2-D, fewer channels than a head": (2, 6, 32, 3, (4, 5)),
    "3-D": (3, 12, 6, 2, (3, 4, 5)),
    "3-D, smaller than a window": (3, 12, 4, 5, (1, 6, 3)),
    "3-D, channels that are not rotated": (3, 8, 4, 3, (4, 3, 2)),
}


def make(case, scale=False, batch=2):
    """A layer with weights large enough for an attention far from uniform, and an image, in float64."""
    dim, channels, head_width, window, size = CASES[case]
    torch.manual_seed(0)
    layer = SEMA(channels, dim, window, head_width, scale).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer, torch.randn(batch, channels, *size, dtype=torch.float64, requires_grad=True)


def literal(layer, x):
    """The layer from the formula, with its parameters."""
    tokens = x.flatten(2).mT
    q, k = layer.qk(tokens).chunk(2, -1)
    v = layer.v(tokens)
    head_width = layer.channels // layer.heads
    out = sema_reference.sema(q, k, v, x.shape[2:], layer.window, head_width, layer.scale)
    return out.mT.reshape(x.shape) + layer.lepe(v.mT.reshape(x.shape))


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_the_formula(case, scale):
    layer, x = make(case, scale)
    inputs = [x, *layer.parameters()]
    results = []
    for function in (layer, lambda x: literal(layer, x)):
        out = function(x)
        results.append([out, *torch.autograd.grad(out.sin().sum(), inputs)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", ["2-D", "3-D"])
def test_gradcheck(case):
    layer, x = make(case, batch=1)
    assert torch.autograd.gradcheck(layer, x, fast_mode=True)


@pytest.mark.parametrize("size", [(7, 7), (4, 6)])
def test_a_window_that_covers_the_image_gives_full_attention_plus_mean(size):
    torch.manual_seed(0)
    layer = SEMA(8, 2, window=7, head_width=4).double()
    nn.init.zeros_(layer.lepe.weight)
    nn.init.zeros_(layer.lepe.bias)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    tokens = x.flatten(2).mT
    position = torch.cartesian_prod(*map(torch.arange, size))
    q, k = (sema_reference.rotate(half, position) for half in layer.qk(tokens).chunk(2, -1))
    v = layer.v(tokens)
    q, k, values = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
    full = F.scaled_dot_product_attention(q, k, values, scale=1.0).transpose(1, 2).flatten(2)
    expected = (full + v.mean(1, keepdim=True)).mT.reshape(x.shape)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("size", "window"), [((6, 9), 3), ((4, 2, 6), 2)])
def test_attention_follows_a_permutation_of_whole_windows(size, window):
    torch.manual_seed(0)
    heads = 2
    q, k, v = torch.randn(3, 2, *size, 8, dtype=torch.float64)

    def permute(tokens):
        """Roll the image by whole windows along its last axis, and flip the order of the windows along the first."""
        rolled = tokens.roll(window, -2)
        return rolled.unflatten(1, (-1, window)).flip(1).flatten(1, 2)

    expected = permute(window_attention(q, k, v, window, heads))
    actual = window_attention(*map(permute, (q, k, v)), window, heads)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_pixel_sees_its_window_and_the_mean_only():
    """The gradient of one pixel is that of the mean outside its window, the same at all pixels."""
    torch.manual_seed(0)
    layer = SEMA(8, 2, window=3, head_width=4).double()
    nn.init.zeros_(layer.lepe.weight)
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x)[..., 7, 7].sum(), x)
    outside = layer.v.weight.sum(0) / 64
    for row, column in ((0, 0), (5, 7), (7, 5)):
        torch.testing.assert_close(gradient[0, :, row, column], outside)
    assert not torch.allclose(gradient[0, :, 6, 6], outside)


def test_channels_last_input():
    layer, x = make("2-D")
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ["2-D", "3-D"])
def test_attention_is_computed_in_float32_under_autocast(case, dtype):
    """Logits of about 1e6 would be infinite in float16."""
    layer, x = make(case)
    layer, x = layer.float(), (1e3 * x.float()).detach().requires_grad_()
    with torch.autocast("cpu", dtype):
        out = layer(x)
    out.float().mean().backward()
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in [x, *layer.parameters()])
    with torch.autocast("cpu", dtype):
        v = layer.v(x.movedim(1, -1))
        assert window_attention(v, v, v, layer.window, layer.heads).dtype == torch.float32


@pytest.mark.slow  # with symbols for the sizes, PyTorch takes minutes
def test_it_compiles_to_one_graph_for_every_size():
    torch.compiler.reset()
    layer = SEMA(8, 2, window=3, head_width=4)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for size in ((7, 9), (6, 6)):
        x = torch.randn(2, 8, *size)
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("channels", "head_width", "heads"), [(64, 32, 2), (32, 32, 1), (20, 32, 1)])
def test_number_of_heads(channels, head_width, heads):
    assert count_heads(channels, head_width) == heads


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ({"channels": 48}, ("head_width 32", "48 channels")),
        ({"channels": 9, "head_width": 3}, ("even", "head_width 3", "9 channels")),
        ({"channels": 7}, ("even", "7 channels")),
        ({"channels": 8, "dim": 1}, ("dim", "2 or 3", "got 1")),
        ({"channels": 8, "window": 0}, ("window", "positive", "0")),
    ],
)
def test_invalid_arguments(arguments, facts):
    with pytest.raises(ValueError) as error:
        SEMA(**{"dim": 2} | arguments)
    assert all(fact in str(error.value) for fact in facts) and "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(1, 8, 4), (1, 4, 4, 8), (8, 4, 4)])
def test_an_input_of_another_shape(shape):
    with pytest.raises(ValueError) as error:
        SEMA(8, 2)(torch.zeros(shape))
    assert all(fact in str(error.value) for fact in ("(B, 8, *, *)", str(shape)))
