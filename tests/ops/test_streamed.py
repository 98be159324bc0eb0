"""The trained path against the reference: output, attention, every gradient, memory, precision, compilation."""

import pytest
import torch
from torch import nn

from nnunet_xattnres.ops.reference import xattnres as reference
from nnunet_xattnres.ops.streamed import attention
from nnunet_xattnres.ops.streamed import xattnres as streamed

# name: history (channels, size), channels, size, batch
SHAPES = {
    "history of one": ([(5, (8, 8))], 5, (8, 8), 2),
    "one below": ([(6, (4, 4))], 3, (8, 8), 2),
    "one above": ([(6, (16, 16))], 3, (8, 8), 2),
    "decoder": ([(4, (16, 16)), (8, (8, 8)), (16, (4, 4)), (8, (8, 8))], 8, (16, 16), 2),
    "identity at low resolution": ([(5, (4, 4)), (5, (2, 2))], 5, (8, 8), 2),
    "odd sizes": ([(3, (7, 11)), (4, (3, 5))], 5, (7, 11), 1),
    "no whole ratio": ([(3, (5, 3)), (4, (9, 13))], 7, (8, 7), 2),
    "up and down at once": ([(3, (4, 12)), (4, (12, 4))], 3, (8, 8), 2),
    "one voxel": ([(3, (1, 1)), (4, (1, 5))], 2, (6, 5), 2),
    "one channel": ([(1, (4, 4)), (2, (8, 8))], 1, (8, 8), 2),
    "3-D": ([(3, (8, 8, 8)), (6, (2, 2, 2))], 4, (4, 4, 4), 2),
    "3-D anisotropic": ([(3, (4, 12, 12)), (6, (4, 6, 6)), (5, (2, 3, 3))], 6, (4, 12, 12), 1),
    "gradcheck 2-D": ([(2, (2, 3)), (3, (5, 4))], 2, (4, 4), 1),
    "gradcheck 3-D": ([(2, (1, 2, 2)), (1, (3, 2, 4))], 2, (2, 2, 3), 1),
    "3-D no whole ratio": ([(3, (2, 5, 3)), (4, (7, 1, 4))], 3, (5, 3, 7), 2),
}


def make(name, dtype=torch.float64, scale=1.0):
    """Leaf tensors and projections for one of SHAPES."""
    history, channels, size, batch = SHAPES[name]
    torch.manual_seed(0)
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[len(size)]
    projections = nn.ModuleList(
        nn.Identity() if width == channels else conv(width, channels, 1) for width, _ in history
    ).to(dtype)

    def leaf(*shape):
        return torch.randn(*shape, dtype=dtype).mul_(scale).requires_grad_()

    features = [leaf(batch, width, *s) for width, s in history]
    query, gain = (torch.randn(channels, dtype=dtype).requires_grad_() for _ in range(2))
    return features, leaf(batch, channels, *size), projections, query, gain


def everything(operator, features, x, projections, query, gain):
    """Output, attention, and the gradients of a random functional of both with respect to every input."""
    out, alpha = operator(features, x, projections, query, gain)
    generator = torch.Generator().manual_seed(1)
    loss = sum((t * torch.randn(t.shape, generator=generator, dtype=t.dtype)).sum() for t in (out, alpha))
    inputs = {f"history[{k}]": f for k, f in enumerate(features)} | {"x": x, "pseudo_query": query, "norm_weight": gain}
    inputs |= {f"projections.{n}": p for n, p in projections.named_parameters()}
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    return {"output": out, "attention": alpha} | dict(zip(inputs, gradients, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(shape):
    case = make(shape)
    expected = everything(reference, *case)
    for name, value in everything(streamed, *case).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("shape", ["gradcheck 2-D", "gradcheck 3-D"])
def test_gradcheck(shape):
    features, x, projections, query, gain = make(shape)

    def function(x, query, gain, *rest):
        count = len(features)
        names = [n for n, _ in projections.named_parameters()]
        weights = dict(zip(names, rest[count:], strict=True))
        maps = [
            lambda h, k=k, m=m: torch.func.functional_call(
                m, {n.split(".", 1)[1]: w for n, w in weights.items() if n.startswith(f"{k}.")}, (h,)
            )
            for k, m in enumerate(projections)
        ]
        return streamed(list(rest[:count]), x, maps, query, gain)

    inputs = (x, query, gain, *features, *projections.parameters())
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("shape", ["decoder", "3-D anisotropic"])
def test_channels_last_and_views_change_nothing(shape):
    features, x, projections, query, gain = make(shape)
    expected = everything(reference, features, x, projections, query, gain)
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    strange = [f.detach().to(memory_format=layout).requires_grad_() for f in features]
    # every second channel of a wider tensor
    view = x.detach().repeat_interleave(2, 1)[:, ::2].requires_grad_()
    assert not view.is_contiguous()
    for name, value in everything(streamed, strange, view, projections, query, gain).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("shape", ["decoder", "3-D anisotropic"])
def test_float32_is_as_good_as_the_plain_float32_reference(shape):
    exact = everything(reference, *make(shape))
    case = make(shape)
    as_float32 = (
        [f.detach().float().requires_grad_() for f in case[0]],
        case[1].detach().float().requires_grad_(),
        case[2].float(),
        *(p.detach().float().requires_grad_() for p in case[3:]),
    )
    plain, ours = everything(reference, *as_float32), everything(streamed, *as_float32)
    for name, value in exact.items():
        allowed = max(2 * (plain[name] - value).abs().max().item(), 1e-6 * value.abs().max().item())
        assert (ours[name] - value).abs().max().item() <= allowed, name


@pytest.mark.parametrize("shape", ["decoder", "3-D anisotropic"])
def test_float16_autocast_survives_large_activations(shape):
    features, x, projections, query, gain = make(shape, torch.float32, scale=1e3)
    with torch.autocast("cpu", torch.float16):
        out, alpha = streamed([f.half() for f in features], x.half(), projections, query, gain)
        (out.float().mean() + alpha.square().mean()).backward()
    assert out.dtype == torch.float16
    assert alpha.dtype == torch.float32
    assert out.isfinite().all()
    assert alpha.isfinite().all()
    for parameter in (*features, x, *projections.parameters(), query, gain):
        assert parameter.grad.isfinite().all()


def test_autocast_logits_of_512_channels_do_not_overflow():
    # |V|^2 = 512 * 1e6 and w.V = 5e5 are both beyond float16
    x = torch.full((1, 512, 4, 4), 1e3, dtype=torch.float16)
    query = torch.ones(512)
    with torch.autocast("cpu", torch.float16):
        out, alpha = streamed([x[..., :2, :2]], x, [nn.Identity()], query, torch.ones(512))
    assert torch.equal(alpha, torch.full_like(alpha, 0.5))
    assert torch.equal(out, x)


@pytest.mark.parametrize("shape", ["decoder", "3-D anisotropic"])
def test_attention_alone_is_the_second_result(shape):
    case = make(shape)
    assert torch.equal(attention(*case), streamed(*case)[1])


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-7)])
def test_half_precision_gradients_are_accumulated_in_float32(dtype, unit):
    """Values of 300 under gradients of 300: every product is beyond float16, every result within it."""
    history = torch.full((1, 8, 2, 2), 300.0, dtype=dtype, requires_grad=True)
    x = torch.full((1, 8, 4, 4), 290.0, dtype=dtype, requires_grad=True)
    query = torch.full((8,), 0.01, requires_grad=True)
    inputs = (history, x, query)
    results = []
    for operator in (reference, streamed):
        out, _ = operator([history], x, [nn.Identity()], query, torch.ones(8))
        results.append(torch.autograd.grad(out, inputs, torch.full_like(out, 300)))
    for plain, ours in zip(*results, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, plain, rtol=4 * unit, atol=0)


@pytest.mark.parametrize("entries", [2, 8])
def test_memory_kept_for_backward_does_not_grow_by_full_resolution_entries(entries):
    channels, size = 8, (64, 64)
    history = [torch.randn(1, channels, 8, 8, requires_grad=True) for _ in range(entries)]
    x = torch.randn(1, channels, *size, requires_grad=True)
    query, gain = torch.randn(channels, requires_grad=True), torch.ones(channels, requires_grad=True)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        streamed(history, x, [nn.Identity()] * entries, query, gain)
    pixel = 4 * 64 * 64
    # x, the weights of K+1 entries (before and after the softmax), and the small entries themselves
    assert sum(kept.values()) <= pixel * (channels + 2 * (entries + 1)) + entries * 4 * channels * 64 + 4096


def test_compiles_to_one_graph():
    features, x, projections, query, gain = make("decoder", torch.float32)
    compiled = torch.compile(streamed, backend="aot_eager", fullgraph=True)
    expected = everything(streamed, features, x, projections, query, gain)
    for name, value in everything(compiled, features, x, projections, query, gain).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
