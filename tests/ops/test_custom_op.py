"""Every backend against the reference: results, gradients, rounding, layouts, memory, and torch.library's checks."""

import itertools
import json
from collections import defaultdict
from dataclasses import replace
from functools import partial

import pytest
import torch
from support.operator import (
    DEVICE,
    DTYPES,
    FLOAT64_BACKENDS,
    HALF_PRECISION_BACKENDS,
    SHAPES,
    all_needed,
    all_results,
    assert_all_close,
    assert_equal_results,
    interpreter,
    make,
    op_arguments,
    random_gradients,
    runs,
    triton_in_float32,
)
from torch import nn
from torch.profiler import ProfilerActivity, profile

from nnunet_xattnres import History
from nnunet_xattnres.ops import cpp_backend, torch_backend, triton_backend, xattnres
from nnunet_xattnres.ops.reference import xattnres as reference
from nnunet_xattnres.ops.triton_launch import is_interpreted
from nnunet_xattnres.ops.triton_layer import BlockSizes

HALVES = [torch.float16, torch.bfloat16]
# x in one part and in two; features with and without projection, pooled and interpolated; two and three axes
VARIED = ["decoder", "two parts", "3-D anisotropic", "3-D two parts"]
FEW = ["two parts"]
# those that Triton's interpreter runs in the default run: 2-D and 3-D, odd sizes, channels that are no power of two
DEFAULT = ["7 channels", "odd sizes", "three parts", "3-D two parts"]


# results and gradients


# in float32 without "one channel": RMSNorm of one channel is its sign, which rounding can change
@pytest.mark.parametrize(
    ("backend", "shape"),
    runs(SHAPES, [shape for shape in SHAPES if shape != "one channel"], default=DEFAULT),
    indirect=["backend"],
)
def test_equals_the_reference(operator, backend, shape):
    case = make(shape)
    assert_equal_results(backend, all_results(operator, case), all_results(reference, case))


def test_x_in_parts_is_their_concatenation(operator, backend):
    case = make("two parts")
    expected = all_results(operator, case)
    x = torch.cat([part.detach() for part in case.x], 1).requires_grad_()
    actual = all_results(operator, replace(case, x=[x]))
    actual["x[0]"], actual["x[1]"] = actual["x[0]"].split([part.shape[1] for part in case.x], 1)
    assert_equal_results(backend, actual, expected)


@pytest.mark.parametrize("first", [torch.float16, torch.float32])
def test_parts_of_two_precisions_promote_as_their_concatenation_does(operator, first):
    """Under autocast, a GroupNorm returns float32 and a transposed convolution float16."""
    second = torch.float32 if first == torch.float16 else torch.float16
    case = make("two parts", torch.float32).map(
        lambda name, t: t.to({"x[0]": first, "x[1]": second}.get(name, torch.float32))
    )
    expected, actual = all_results(reference, case), all_results(operator, case)
    assert {n: t.dtype for n, t in actual.items()} == {n: t.dtype for n, t in expected.items()}
    assert_all_close(actual, expected, 4 * 2**-10)


def test_a_history_equals_a_list(operator):
    case = make("no whole ratio")
    expected = all_results(operator, case)
    pooled = all_results(lambda history, *rest: operator(History(history), *rest), case)
    assert_all_close(pooled, expected, 0)


def test_eps_argument(operator, backend):
    case = make("decoder", scale=1e-2)
    large = all_results(partial(operator, eps=0.5), case)
    assert_equal_results(backend, large, all_results(partial(reference, eps=0.5), case))
    assert not torch.allclose(large["attention"], operator(*case)[1], atol=1e-3)


# without Triton, which has no float64: its gradients are compared with those of the reference
@pytest.mark.parametrize("shape", ["gradcheck 2-D", "gradcheck 3-D", "gradcheck parts"])
@pytest.mark.parametrize("backend", FLOAT64_BACKENDS, indirect=True)
def test_gradcheck(operator, shape):
    case = make(shape)

    def function(*tensors):
        replaced = iter(tensors)
        history, x = [next(replaced) for _ in case.history], [next(replaced) for _ in case.x]
        projections = [None if p is None else (next(replaced), next(replaced)) for p in case.projections]
        return operator(history, x, projections, *replaced)

    inputs = tuple(case.named().values())
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("output", [0, 1], ids=["output alone", "attention alone"])
@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_gradients_of_one_output_alone(operator, backend, shape, output):
    case = make(shape)
    inputs = case.named()
    gradients = []
    for function in (operator, reference):
        result = function(*case)[output]
        values = torch.autograd.grad(result, list(inputs.values()), random_gradients(result))
        gradients.append(dict(zip(inputs, values, strict=True)))
    assert_equal_results(backend, *gradients)


@pytest.mark.parametrize("name", ["history[0]", "history[1]", "x", "weight", "bias", "pseudo_query", "norm_weight"])
@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_gradients_where_only_some_inputs_require_them(operator, backend, shape, name):
    case = make(shape)
    for key, tensor in case.named().items():
        tensor.requires_grad_(key.startswith(name))
    assert_equal_results(backend, all_results(operator, case), all_results(reference, case))


def test_outputs_require_no_gradient_without_need(operator):
    case = make("two parts")
    with torch.no_grad():
        assert [t.requires_grad for t in operator(*case)] == [False, False]
    for tensor in case.named().values():
        tensor.requires_grad_(False)
    assert [t.requires_grad for t in operator(*case)] == [False, False]


def test_second_derivatives_are_an_error(operator):
    """They are not implemented, and must not silently be zero."""
    case = make("gradcheck 2-D")
    (gradient,) = torch.autograd.grad(operator(*case)[0].square().sum(), case.x[0], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        gradient.sum().backward()


@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_two_runs_are_bitwise_equal(operator, shape):
    first, second = (all_results(operator, make(shape, torch.float32)) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# rounding

# without "one channel": RMSNorm of one channel is its sign, and rounding can change the sign of an interpolated value
ROUNDED = [shape for shape in SHAPES if shape != "one channel"]


# The errors are random: of a gradient with three elements, many are needed. In Triton's interpreter, these take long.
SEEDS = 4 if is_interpreted() else 32


def root_mean_square(errors):
    return torch.cat(errors).square().mean().sqrt().item()


def largest(errors):
    return torch.cat(errors).abs().max().item()


@pytest.mark.parametrize(
    ("backend", "shape", "dtype", "size_of"),
    [
        *(
            pytest.param(*run.values, dtype, root_mean_square, marks=run.marks)
            for dtype in (torch.float32, *HALVES)
            for run in runs(ROUNDED, FEW, half_precision=dtype in HALVES)
        ),
        # the largest error is only compared where there are enough values, and in float32, because it is random
        *(pytest.param(*run.values, torch.float32, largest, marks=run.marks) for run in runs(VARIED, FEW)),
    ],
    ids=lambda value: str(value) if isinstance(value, torch.dtype) else None,
    indirect=["backend"],
)
def test_rounding_errors_are_at_most_twice_those_of_the_reference(operator, shape, dtype, size_of):
    reference_errors, errors, values = defaultdict(list), defaultdict(list), defaultdict(list)
    for seed in range(SEEDS):
        # pseudo_query and norm_weight stay in float32, as under autocast
        case = make(shape, torch.float32, seed=seed).map(
            lambda name, t: t if name in ("pseudo_query", "norm_weight") else t.to(dtype)
        )
        in_float64 = all_results(reference, case.to(torch.float64))
        for differences, function in ((reference_errors, reference), (errors, operator)):
            for name, value in all_results(function, case).items():
                differences[name].append((value - in_float64[name]).flatten())
        for name, value in in_float64.items():
            values[name].append(value.flatten())
    for name in values:
        allowed = max(2 * size_of(reference_errors[name]), 1e-6 * largest(values[name]))
        assert size_of(errors[name]) <= allowed, name


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize(("shape", "entry"), [("decoder", 0), ("decoder", 2), ("no whole ratio", 0), ("3-D", 1)])
@pytest.mark.parametrize("backend", FLOAT64_BACKENDS, indirect=True)
def test_a_value_that_is_not_finite_spreads_no_further_than_in_the_reference(operator, shape, entry, value):
    case = make(shape)
    with torch.no_grad():
        case.history[entry][0, 0].view(-1)[0] = value
        expected = case.run(reference)[0]
        actual = case.run(operator)[0]
    assert expected.isnan().any()
    assert expected.isfinite().any()
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("backend", HALF_PRECISION_BACKENDS, indirect=True)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_pseudo_query_and_gain_in_half_precision_are_multiplied_in_float32(operator, dtype):
    """Without a projection, nothing is rounded to half precision before the attention, which is in float32."""
    case = make("history of one").to(dtype)
    torch.testing.assert_close(operator(*case)[1], reference(*case)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW, half_precision=True), indirect=["backend"])
def test_autocast_does_not_change_the_results(operator, shape, dtype):
    """The operator disables autocast inside, because it chooses the dtype of every step itself."""
    case = make(shape, torch.float32).map(lambda name, t: t.to(dtype) if name.startswith(("history", "x")) else t)
    expected = all_results(operator, case)
    with torch.autocast(DEVICE, dtype):
        actual = all_results(operator, case)
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


@pytest.mark.parametrize("backend", HALF_PRECISION_BACKENDS, indirect=True)
@pytest.mark.parametrize("shape", ["decoder", "3-D anisotropic"])
def test_large_activations_are_finite_under_float16_autocast(operator, shape):
    case = make(shape, torch.float32, scale=1e3).map(
        lambda name, t: t.half() if name.startswith(("history", "x")) else t
    )
    with torch.autocast(DEVICE, torch.float16):
        out, alpha = operator(*case)
        (out.float().mean() + alpha.square().mean()).backward()
    assert out.dtype == torch.float16
    assert alpha.dtype == torch.float32
    assert out.isfinite().all()
    assert alpha.isfinite().all()
    for name, tensor in case.named().items():
        assert tensor.grad.isfinite().all(), name


@pytest.mark.parametrize("backend", HALF_PRECISION_BACKENDS, indirect=True)
def test_autocast_logits_of_512_channels_do_not_overflow(operator):
    # |V|^2 = 512 * 1e6 and w.V = 5e5 are both larger than the largest float16
    x = torch.full((1, 512, 4, 4), 1e3, dtype=torch.float16, device=DEVICE)
    ones = torch.ones(512, device=DEVICE)
    with torch.autocast(DEVICE, torch.float16):
        out, alpha = operator([x[..., :2, :2]], x, [None], ones, ones)
    # the two logits, 512, are summed in different orders, and rounded to 6e-5
    torch.testing.assert_close(alpha, torch.full_like(alpha, 0.5), rtol=0, atol=1e-4)
    assert torch.equal(out, x)


@pytest.mark.parametrize("backend", ["torch", "triton"], indirect=True)  # Triton's interpreter in the default run, too
@pytest.mark.parametrize(("dtype", "unit"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-7)])
def test_half_precision_gradients_are_accumulated_in_float32(operator, dtype, unit):
    """Values and gradients of about 300: the products exceed the largest float16, the results do not."""
    history = torch.full((1, 8, 2, 2), 300.0, dtype=dtype, device=DEVICE, requires_grad=True)
    x = torch.full((1, 8, 4, 4), 290.0, dtype=dtype, device=DEVICE, requires_grad=True)
    query = torch.full((8,), 0.01, device=DEVICE, requires_grad=True)
    results = []
    for function in (reference, operator):
        out, _ = function([history], x, [None], query, torch.ones(8, device=DEVICE))
        results.append(torch.autograd.grad(out, (history, x, query), torch.full_like(out, 300)))
    for expected, actual in zip(*results, strict=True):
        assert actual.isfinite().all()
        torch.testing.assert_close(actual, expected, rtol=4 * unit, atol=0)


# layouts


def channels_last(tensor):
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if tensor.ndim > 2 else tensor


def every_second(tensor, axis):
    return tensor.repeat_interleave(2, axis).unflatten(axis, (-1, 2)).select(axis + (axis >= 0), 1)


LAYOUTS = {
    "channels last": channels_last,
    "every second channel": lambda t: every_second(t, 1) if t.ndim > 1 else t,
    "every second column": lambda t: every_second(t, -1),
    "axes stored in reverse": lambda t: t.permute(*reversed(range(t.ndim))).contiguous().permute(*range(t.ndim)[::-1]),
    "inside a larger tensor": lambda t: nn.functional.pad(t, (1, 2) * t.ndim)[(slice(1, -2),) * t.ndim],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_memory_layout_of_the_inputs_does_not_change_the_results(operator, backend, shape, layout):
    case = make(shape)
    other = case.map(lambda name, t: layout(t))
    assert any(not t.is_contiguous() for t in other.named().values())
    assert_equal_results(backend, all_results(operator, other), all_results(reference, case))


@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_expanded_inputs(operator, backend, shape):
    case = make(shape).map(lambda name, t: t[:1].expand_as(t))
    contiguous = case.map(lambda name, t: t.contiguous())
    assert_equal_results(backend, all_results(operator, case), all_results(reference, contiguous))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_memory_layout_of_the_gradients_does_not_change_the_results(operator, backend, shape, layout):
    case = make(shape)
    actual = all_results(operator, case, lambda *outputs: [layout(d) for d in random_gradients(*outputs)])
    assert_equal_results(backend, actual, all_results(reference, case))


@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_expanded_gradients(operator, backend, shape):
    """`out.sum().backward()` passes a gradient that is one number with strides of zero."""
    case = make(shape)

    def expanded(out, alpha):
        return [out.new_tensor(0.5).expand_as(out), random_gradients(alpha[:1, :, :1])[0].expand_as(alpha)]

    contiguous = all_results(reference, case, lambda *outputs: [d.contiguous() for d in expanded(*outputs)])
    assert_equal_results(backend, all_results(operator, case, expanded), contiguous)
    operator(*case)[0].sum().backward()
    actual = {name: t.grad.clone() for name, t in case.named().items()}
    expected = torch.autograd.grad(reference(*case)[0].sum(), list(case.named().values()))
    assert_equal_results(backend, actual, dict(zip(actual, expected, strict=True)))


# memory


def memory_of(function, trace):
    """The peak of the bytes that a function allocates on the CPU, and the bytes that are left with its results."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        results = function()
    profiler.export_chrome_trace(str(trace))
    del results
    changes = [e for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "[memory]"]
    allocated = peak = 0
    for change in sorted(changes, key=lambda e: e["ts"]):
        allocated += change["args"]["Bytes"]
        peak = max(peak, allocated)
    return peak, allocated


def test_memory_of(tmp_path):
    """Three times 1000 numbers, first one after the other, then at the same time."""
    trace = tmp_path / "trace.json"
    peak, left = memory_of(lambda: [torch.ones(1000).sum() for _ in range(3)], trace)
    assert 4000 <= peak < 8000
    assert left == 3 * 4
    assert memory_of(lambda: [torch.ones(1000) for _ in range(3)], trace) == (12000, 12000)


class HistoryOfManyFeatures:
    """A large feature, which is pooled and projected, and `count` small ones, of which every second is projected."""

    channels, size = 8, (16, 16)
    pooled = 4 * 2 * 4 * 16 * 16  # bytes of the pooled copy of the large feature
    output = 4 * 2 * 8 * 16 * 16

    def __init__(self, count, device):
        def leaf(*shape):
            return torch.randn(*shape, device=device, requires_grad=True)

        widths = [4] + [self.channels if k % 2 else 6 for k in range(count)]
        sizes = [(32, 32)] + [(8, 4)] * count
        self.features = [leaf(2, width, *s) for width, s in zip(widths, sizes, strict=True)]
        self.x = [leaf(2, 3, *self.size), leaf(2, 5, *self.size)]
        self.projections = [
            None if width == self.channels else (leaf(self.channels, width, 1, 1), leaf(self.channels))
            for width in widths
        ]
        self.vectors = leaf(self.channels), leaf(self.channels)


@pytest.mark.parametrize("count", [1, 6])
def test_nothing_is_saved_for_backward_but_arguments_and_pooled_copies(operator, count):
    case = HistoryOfManyFeatures(count, DEVICE)
    convolutions = [t for projection in case.projections if projection is not None for t in projection]
    arguments = (*case.features, *case.x, *convolutions, *case.vectors)
    known = {t.untyped_storage().data_ptr() for t in arguments}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    history = History(case.features)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # the results keep the saved tensors alive, so that no address is used twice
        results = [operator(history, case.x, case.projections, *case.vectors) for _ in range(2)]
    assert all(out.requires_grad for out, _ in results)
    # the two calls share the pooled copy; each has its own product of pseudo-query and gain
    assert sum(kept.values()) == case.pooled + 2 * 4 * case.channels


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("backend", FLOAT64_BACKENDS)
def test_nothing_is_left_in_memory_for_backward_but_pooled_copies(tmp_path, backend, count):
    """Allocated bytes include tensors that are kept without `save_for_backward`."""
    case = HistoryOfManyFeatures(count, "cpu")

    def output():
        return xattnres(case.features, case.x, case.projections, *case.vectors, backend=backend)[0]

    output()  # the first call fills the cache of interpolation weights
    _, left = memory_of(output, tmp_path / "trace.json")
    needed = case.output + case.pooled
    assert needed <= left <= needed + 16 * 4 * case.channels


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("backend", FLOAT64_BACKENDS)
def test_values_are_not_kept_at_full_resolution(tmp_path, monkeypatch, backend, direction):
    """The K+1 values of Eq. 5 never exist together: another feature needs less than half of the memory of a value."""
    # what the C++ kernels keep between calls would not be seen
    monkeypatch.setattr(cpp_backend, "_workspace", cpp_backend._Workspace())
    monkeypatch.setattr(cpp_backend, "_WORKSPACE", 0)
    module = {"cpp": cpp_backend, "torch": torch_backend}[backend]
    batch, channels, size = 2, 64, (32, 32)
    feature = 4 * batch * channels * size[0] * size[1]
    x, query = torch.randn(batch, channels, *size), torch.randn(channels)
    peaks = {}
    for count in (4, 12):
        history = [torch.randn(batch, channels, 8, 8) for _ in range(count)]
        arguments = (history, [x], [None] * count, [None] * count, query, None, 1e-6)
        if direction == "backward":
            arguments = (torch.randn_like(x), torch.randn(batch, count + 1, *size), *arguments)
        peaks[count], _ = memory_of(partial(getattr(module, direction), *arguments), tmp_path / "trace.json")
    assert peaks[12] - peaks[4] < 8 * feature / 2
    assert peaks[12] < 13 * feature


@pytest.mark.parametrize("shape", [pytest.param(s, marks=interpreter) for s in ("two parts", "3-D two parts")])
def test_results_of_triton_do_not_depend_on_the_size_of_the_tiles(monkeypatch, shape):
    results = []
    names = "tile_float32", "columns_float32", "channels", "many", "pixels", "block", "few_pixels", "few_block"
    names += "block_backward", "score_pixels", "score_block", "score_block_backward", "channel_group", "cells"
    names += "attention_pixels", "sum_cells", "few_cells", "tiles"
    large = (128, 32, 64, 1, 256, 32, 0, 0, 16, 0, 0, 0, 64, 32, 256, 64, 4, 8)
    small = (32, 16, 16, 2**20, 0, 0, 32, 2, 0, 16, 4, 2, 2, 16, 32, 8, 2, 16)
    for sizes in (large, small):
        monkeypatch.setattr(triton_backend, "BLOCK_SIZES", BlockSizes(**dict(zip(names, sizes, strict=True))))
        results.append(all_results(triton_in_float32, make(shape)))
    assert_equal_results("triton", *results)


@pytest.mark.parametrize("shape", ["7 channels", "batch of three", "two parts", "3-D two parts", "3-D two axes grow"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("samples", [1, 2])
def test_results_of_torch_do_not_depend_on_the_size_of_slabs_and_groups(monkeypatch, shape, channels, samples):
    case = make(shape, device="cpu", gate=0.7)
    batch, _, *size = case.x[0].shape
    channel = 8 * torch.Size(size).numel()
    # the bytes of one channel of all pooled features and of x
    sample = sum(8 * torch.Size(map(min, f.shape[2:], size)).numel() for f in (*case.history, case.x[0]))
    seen = set()

    def upsample(value, size, original=torch_backend.upsample):
        seen.add(tuple(value.shape[:2]))
        return original(value, size)

    monkeypatch.setattr(torch_backend, "upsample", upsample)
    results = []
    for slab, group in ((2**40, 2**40), (channel * channels * samples, sample * len(case.norm_weight) * samples)):
        monkeypatch.setattr(torch_backend, "_SLAB", slab)
        monkeypatch.setattr(torch_backend, "_SAMPLES", group)
        seen.clear()
        results.append(all_results(partial(xattnres, backend="torch"), case))
        assert max(seen) == (
            (batch, max(part.shape[1] for part in case.x)) if slab == 2**40 else (min(batch, samples), channels)
        )
    assert_all_close(*results, 1e-12)


# torch.library and torch.compile


# opcheck ignores this warning of PyTorch, but here warnings are errors
opcheck_warns = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")
OPCHECKED = ["history of one", "identity at low resolution", "one below", "decoder", "3-D two axes grow"]


@opcheck_warns
@pytest.mark.parametrize(
    ("backend", "shape"),
    runs(OPCHECKED, ["one below"], slow=[s for s in OPCHECKED if s != "3-D two axes grow"]),
    indirect=["backend"],
)
def test_forward_op_passes_the_checks_of_torch_library(backend, shape):
    arguments = op_arguments(make(shape, DTYPES[backend]), backend)
    torch.library.opcheck(torch.ops.nnunet_xattnres.forward.default, arguments)


@opcheck_warns
def test_forward_op_with_parts_passes_the_checks_of_torch_library(backend):
    case = make("two parts", DTYPES[backend])
    # without the feature that is larger than x
    del case.history[2], case.projections[2]
    torch.library.opcheck(torch.ops.nnunet_xattnres.forward.default, op_arguments(case, backend))


@pytest.mark.parametrize("gradients", ["both", "output alone", "attention alone"])
@pytest.mark.parametrize(
    ("backend", "shape"),
    runs(OPCHECKED, ["one below"], slow=[s for s in OPCHECKED if s != "identity at low resolution"]),
    indirect=["backend"],
)
def test_backward_op_passes_the_checks_of_torch_library(backend, shape, gradients):
    case = make(shape, DTYPES[backend])
    arguments = op_arguments(case, backend, requires_grad=False)
    grad_out, grad_alpha = random_gradients(*torch.ops.nnunet_xattnres.forward(*arguments))
    torch.library.opcheck(
        torch.ops.nnunet_xattnres.backward.default,
        (
            None if gradients == "attention alone" else grad_out,
            None if gradients == "output alone" else grad_alpha,
            *arguments,
            all_needed(case),
        ),
    )


@pytest.mark.parametrize(
    ("backend", "dtype", "layout"),
    [
        *itertools.product(
            ["torch"], [torch.float64, torch.float32, *HALVES], ["channels last", "every second column"]
        ),
        *itertools.product(
            set(FLOAT64_BACKENDS) - {"torch"}, [torch.float32], ["channels last", "every second column"]
        ),
        pytest.param("triton", torch.float16, "channels last", marks=interpreter),
    ],
    indirect=["backend"],
    ids=str,
)
def test_fake_tensors_have_the_shapes_dtypes_and_strides_of_the_results(backend, dtype, layout):
    """The tests above have contiguous arguments of one dtype; compiled code relies on the strides of fake tensors."""
    case = make("decoder").to(dtype).map(lambda name, t: LAYOUTS[layout](t))
    arguments = op_arguments(case, backend, requires_grad=False)
    grads = random_gradients(*torch.ops.nnunet_xattnres.forward(*arguments))
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.nnunet_xattnres.forward.default, arguments, test_utils=tests)
    torch.library.opcheck(
        torch.ops.nnunet_xattnres.backward.default, (*grads, *arguments, all_needed(case)), test_utils=tests
    )


@pytest.mark.parametrize(
    ("backend", "shape"),
    runs([*VARIED, "no whole ratio"], FEW, slow=["decoder", "two parts", "3-D anisotropic", "no whole ratio"]),
    indirect=["backend"],
)
def test_compiles_to_one_graph(operator, backend, shape):
    case = make(shape)
    torch.compiler.reset()
    compiled = torch.compile(operator, backend="aot_eager", fullgraph=True)
    assert_all_close(all_results(compiled, case), all_results(operator, case), 1e-12)
