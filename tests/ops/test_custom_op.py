"""Every backend against the reference: results, gradients, rounding, layouts, memory, and how PyTorch sees the op."""

import itertools
import json
from collections import defaultdict
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from support.operator import BACKENDS, DEVICE, SHAPES, assert_all_close, directions, everything, make, runs
from torch import nn
from torch.profiler import ProfilerActivity, profile

from nnunet_xattnres import History, XAttnRes
from nnunet_xattnres.ops import custom_op as op
from nnunet_xattnres.ops import torch_backend, triton_backend, xattnres
from nnunet_xattnres.ops.reference import xattnres as reference

HALVES = [torch.float16, torch.bfloat16]
# both ways of x, projected and not, pooled and interpolated, two and three axes
VARIED = ["decoder", "two parts", "3-D anisotropic", "3-D two parts"]
FEW = ["two parts"]


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    """A backend, and afterwards the proof that it was this one that computed."""
    name = request.param
    ran = Mock(wraps=op._compute)
    monkeypatch.setattr(op, "_compute", ran)
    if name == "triton" and DEVICE == "cpu":
        # for the interpreter it is programs that take time, not their size
        monkeypatch.setattr(triton_backend, "_PIXELS", 256)
    yield name
    assert ran.call_args_list, "nothing was computed"
    assert {call.args[1] for call in ran.call_args_list} == {name}
    assert not op._failed, "Triton failed, and PyTorch stood in"


@pytest.fixture
def operator(backend):
    return partial(xattnres, backend=backend)


# results and gradients


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(operator, shape):
    case = make(shape)
    assert_all_close(everything(operator, case), everything(reference, case), 1e-10)


def test_x_in_parts_is_their_concatenation(operator):
    history, x, *rest = make("two parts")
    (whole,) = torch.autograd.grad(operator(history, x, *rest)[0].sum(), x[0])
    joined = torch.cat([part.detach() for part in x], 1).requires_grad_()
    out, alpha = operator(history, joined, *rest)
    torch.testing.assert_close((out, alpha), operator(history, x, *rest), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(out.sum(), joined)
    torch.testing.assert_close(gradient[:, : x[0].shape[1]], whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("first", [torch.float16, torch.float32])
def test_parts_of_two_precisions_promote_as_their_concatenation_does(operator, first):
    """As after a GroupNorm under autocast, whose output is in float32 beside the transposed convolution's half."""
    second = torch.float32 if first == torch.float16 else torch.float16
    case = make("two parts", torch.float32).map(
        lambda name, t: t.to({"x[0]": first, "x[1]": second}.get(name, torch.float32))
    )
    expected, actual = everything(reference, case), everything(operator, case)
    assert {n: t.dtype for n, t in actual.items()} == {n: t.dtype for n, t in expected.items()}
    assert_all_close(actual, expected, 4 * 2**-10)


def test_history_is_a_sequence_or_a_pool(operator):
    case = make("no whole ratio")
    expected = everything(operator, case)
    pooled = everything(lambda history, *rest: operator(History(history), *rest), case)
    assert_all_close(pooled, expected, 0)


def test_given_eps_reaches_the_root(operator):
    case = make("decoder", scale=1e-2)
    large = everything(partial(operator, eps=0.5), case)
    assert_all_close(large, everything(partial(reference, eps=0.5), case), 1e-10)
    assert not torch.allclose(large["attention"], operator(*case)[1], atol=1e-3)


@pytest.mark.parametrize(
    ("backend", "shape"),
    runs(["gradcheck 2-D", "gradcheck 3-D", "gradcheck parts"], ["gradcheck 2-D", "gradcheck 3-D"]),
    indirect=["backend"],
)
def test_gradcheck(operator, backend, shape):
    case = make(shape)

    def function(*tensors):
        replaced = iter(tensors)
        history, x = [next(replaced) for _ in case.history], [next(replaced) for _ in case.x]
        projections = [None if p is None else (next(replaced), next(replaced)) for p in case.projections]
        return operator(history, x, projections, *replaced)

    inputs = tuple(case.named().values())
    # along random directions where every evaluation takes long
    assert torch.autograd.gradcheck(function, inputs, fast_mode=backend == "triton")


@pytest.mark.parametrize("output", [0, 1], ids=["output alone", "attention alone"])
@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_gradients_of_one_output_alone(operator, shape, output):
    case = make(shape)
    inputs = list(case.named().values())
    gradients = []
    for function in (operator, reference):
        result = function(*case)[output]
        gradients.append(torch.autograd.grad(result, inputs, directions(result)))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("wanted", ["history[0]", "history[1]", "x", "weight", "bias", "pseudo_query", "norm_weight"])
@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_gradients_where_only_some_inputs_require_them(operator, shape, wanted):
    case = make(shape)
    for name, tensor in case.named().items():
        tensor.requires_grad_(name.startswith(wanted))
    assert_all_close(everything(operator, case), everything(reference, case), 1e-10)


def test_nothing_is_recorded_where_no_gradient_is_wanted(operator):
    case = make("two parts")
    with torch.no_grad():
        assert [t.requires_grad for t in operator(*case)] == [False, False]
    for tensor in case.named().values():
        tensor.requires_grad_(False)
    assert [t.requires_grad for t in operator(*case)] == [False, False]


def test_second_derivatives_are_refused(operator):
    """They are not implemented: they must not come out as zero."""
    case = make("gradcheck 2-D")
    (gradient,) = torch.autograd.grad(operator(*case)[0].square().sum(), case.x[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.sum().backward()


@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_two_runs_are_the_same_to_the_last_bit(operator, shape):
    first, second = (everything(operator, make(shape, torch.float32)) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# rounding

# RMSNorm of one channel is its sign: where an interpolated value passes zero, so does the precision of its square
ROUNDED = [shape for shape in SHAPES if shape != "one channel"]


def root_mean_square(errors):
    return torch.cat(errors).square().mean().sqrt().item()


def largest(errors):
    return torch.cat(errors).abs().max().item()


@pytest.mark.parametrize(
    ("backend", "shape", "dtype", "size_of"),
    [
        *((*run, dtype, root_mean_square) for run in runs(ROUNDED, FEW) for dtype in (torch.float32, *HALVES)),
        # in half precision and in the smallest cases, the largest of a few errors is a matter of luck
        *((*run, torch.float32, largest) for run in runs(VARIED, FEW)),
    ],
    ids=lambda value: str(value) if isinstance(value, torch.dtype) else None,
    indirect=["backend"],
)
def test_rounds_no_worse_than_the_reference_in_the_same_precision(operator, shape, dtype, size_of):
    plain, ours, values = defaultdict(list), defaultdict(list), defaultdict(list)
    for seed in range(4):
        # the two vectors stay in float32, as under autocast
        case = make(shape, torch.float32, seed=seed).map(
            lambda name, t: t if name in ("pseudo_query", "norm_weight") else t.to(dtype)
        )
        acc_dtype = everything(reference, case.to(torch.float64))
        for errors, function in ((plain, reference), (ours, operator)):
            for name, value in everything(function, case).items():
                errors[name].append((value - acc_dtype[name]).flatten())
        for name, value in acc_dtype.items():
            values[name].append(value.flatten())
    for name in values:
        allowed = max(2 * size_of(plain[name]), 1e-6 * largest(values[name]))
        assert size_of(ours[name]) <= allowed, name


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_vectors_in_half_precision_are_multiplied_in_float32(operator, dtype):
    """Without a projection nothing before the attention, itself in float32, rounds to half."""
    case = make("history of one").to(dtype)
    torch.testing.assert_close(operator(*case)[1], reference(*case)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_autocast_changes_nothing_inside(operator, shape, dtype):
    """The op decides itself what it computes in which precision."""
    case = make(shape, torch.float32).map(lambda name, t: t.to(dtype) if name.startswith(("history", "x")) else t)
    expected = everything(operator, case)
    with torch.autocast(DEVICE, dtype):
        actual = everything(operator, case)
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


@pytest.mark.parametrize("shape", ["decoder", "3-D anisotropic"])
def test_float16_autocast_survives_large_activations(operator, shape):
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


def test_autocast_logits_of_512_channels_do_not_overflow(operator):
    # |V|^2 = 512 * 1e6 and w.V = 5e5 are both beyond float16
    x = torch.full((1, 512, 4, 4), 1e3, dtype=torch.float16, device=DEVICE)
    ones = torch.ones(512, device=DEVICE)
    with torch.autocast(DEVICE, torch.float16):
        out, alpha = operator([x[..., :2, :2]], x, [None], ones, ones)
    assert torch.equal(alpha, torch.full_like(alpha, 0.5))
    assert torch.equal(out, x)


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-7)])
def test_half_precision_gradients_are_accumulated_in_float32(operator, dtype, unit):
    """Values of 300 under gradients of 300: every product is beyond float16, every result within it."""
    history = torch.full((1, 8, 2, 2), 300.0, dtype=dtype, device=DEVICE, requires_grad=True)
    x = torch.full((1, 8, 4, 4), 290.0, dtype=dtype, device=DEVICE, requires_grad=True)
    query = torch.full((8,), 0.01, device=DEVICE, requires_grad=True)
    results = []
    for function in (reference, operator):
        out, _ = function([history], x, [None], query, torch.ones(8, device=DEVICE))
        results.append(torch.autograd.grad(out, (history, x, query), torch.full_like(out, 300)))
    for plain, ours in zip(*results, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, plain, rtol=4 * unit, atol=0)


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
def test_layout_of_the_inputs_changes_nothing(operator, shape, layout):
    case = make(shape)
    strange = case.map(lambda name, t: layout(t))
    assert any(not t.is_contiguous() for t in strange.named().values())
    assert_all_close(everything(operator, strange), everything(reference, case), 1e-10)


@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_expanded_inputs(operator, shape):
    case = make(shape).map(lambda name, t: t[:1].expand_as(t))
    whole = case.map(lambda name, t: t.contiguous())
    assert_all_close(everything(operator, case), everything(reference, whole), 1e-10)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_layout_of_the_gradients_changes_nothing(operator, shape, layout):
    case = make(shape)
    laid_out = everything(operator, case, lambda *outputs: [layout(d) for d in directions(*outputs)])
    assert_all_close(laid_out, everything(reference, case), 1e-10)


@pytest.mark.parametrize(("backend", "shape"), runs(VARIED, FEW), indirect=["backend"])
def test_expanded_gradients(operator, shape):
    """What `out.sum().backward()` sends: one number with strides of zero."""
    case = make(shape)

    def expanded(out, alpha):
        return [out.new_tensor(0.5).expand_as(out), directions(alpha[:1, :, :1])[0].expand_as(alpha)]

    whole = everything(reference, case, lambda *outputs: [d.contiguous() for d in expanded(*outputs)])
    assert_all_close(everything(operator, case, expanded), whole, 1e-10)
    operator(*case)[0].sum().backward()
    ours = [t.grad.clone() for t in case.named().values()]
    expected = torch.autograd.grad(reference(*case)[0].sum(), list(case.named().values()))
    torch.testing.assert_close(ours, list(expected), rtol=1e-10, atol=1e-10)


# memory


def memory_of(function, trace):
    """Bytes on the CPU that a function takes at most at any time, and that are left while its results live."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        results = function()
    profiler.export_chrome_trace(str(trace))
    del results
    changes = [e for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "[memory]"]
    taken = peak = 0
    for change in sorted(changes, key=lambda e: e["ts"]):
        taken += change["args"]["Bytes"]
        peak = max(peak, taken)
    return peak, taken


def test_the_measure_of_memory(tmp_path):
    """Sums over 1000 numbers one after the other, then all the numbers at once."""
    trace = tmp_path / "trace.json"
    peak, left = memory_of(lambda: [torch.ones(1000).sum() for _ in range(3)], trace)
    assert 4000 <= peak < 8000
    assert left == 3 * 4
    assert memory_of(lambda: [torch.ones(1000) for _ in range(3)], trace) == (12000, 12000)


class Pool:
    """A large entry, projected after it is pooled, and `entries` below x, every second one projected."""

    channels, size = 8, (16, 16)
    pooled = 4 * 2 * 4 * 16 * 16  # bytes of the large entry's copy
    output = 4 * 2 * 8 * 16 * 16

    def __init__(self, entries, device):
        def leaf(*shape):
            return torch.randn(*shape, device=device, requires_grad=True)

        widths = [4] + [self.channels if k % 2 else 6 for k in range(entries)]
        sizes = [(32, 32)] + [(8, 4)] * entries
        self.features = [leaf(2, width, *s) for width, s in zip(widths, sizes, strict=True)]
        self.x = [leaf(2, 3, *self.size), leaf(2, 5, *self.size)]
        self.projections = [
            None if width == self.channels else (leaf(self.channels, width, 1, 1), leaf(self.channels))
            for width in widths
        ]
        self.vectors = leaf(self.channels), leaf(self.channels)


@pytest.mark.parametrize("entries", [1, 6])
def test_nothing_is_saved_for_backward_but_arguments_and_pooled_copies(operator, entries):
    pool = Pool(entries, DEVICE)
    convolutions = [t for projection in pool.projections if projection is not None for t in projection]
    arguments = (*pool.features, *pool.x, *convolutions, *pool.vectors)
    given = {t.untyped_storage().data_ptr() for t in arguments}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    history = History(pool.features)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # what is kept stays alive, so that addresses stay distinct
        results = [operator(history, pool.x, pool.projections, *pool.vectors) for _ in range(2)]
    assert all(out.requires_grad for out, _ in results)
    # the copy is shared by the two calls; each multiplies the query with the gain
    assert sum(kept.values()) == pool.pooled + 2 * 4 * pool.channels


@pytest.mark.parametrize("entries", [1, 6])
def test_nothing_lives_on_for_backward_but_pooled_copies(tmp_path, entries):
    """As above, by the bytes: also what is kept in other ways than PyTorch's."""
    pool = Pool(entries, "cpu")

    def output():
        return xattnres(pool.features, pool.x, pool.projections, *pool.vectors, backend="torch")[0]

    output()  # the interpolation matrices
    _, left = memory_of(output, tmp_path / "trace.json")
    needed = pool.output + pool.pooled
    assert needed <= left <= needed + 16 * 4 * pool.channels


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_an_entry_is_never_held_at_full_resolution(tmp_path, direction):
    """The K+1 values of Eq. 5 never exist together: one more entry costs less than half of one of them."""
    batch, channels, size = 2, 64, (32, 32)
    feature = 4 * batch * channels * size[0] * size[1]
    x, query = torch.randn(batch, channels, *size), torch.randn(channels)
    peaks = {}
    for entries in (4, 12):
        history = [torch.randn(batch, channels, 8, 8) for _ in range(entries)]
        arguments = (history, [x], [None] * entries, [None] * entries, query, 1e-6)
        if direction == "backward":
            arguments = (torch.randn_like(x), torch.randn(batch, entries + 1, *size), *arguments)
        peaks[entries], _ = memory_of(partial(getattr(torch_backend, direction), *arguments), tmp_path / "trace.json")
    assert peaks[12] - peaks[4] < 8 * feature / 2
    assert peaks[12] < 13 * feature


@pytest.mark.parametrize("shape", ["two parts", "3-D two parts"])
def test_triton_does_not_depend_on_the_tile(monkeypatch, shape):
    results = []
    for pixels, block, cells, step in ((256, 32, 32, 64), (32, 4, 16, 16)):
        for name, value in {"_PIXELS": pixels, "_BLOCK": block, "_CELLS": cells, "_STEP": step}.items():
            monkeypatch.setattr(triton_backend, name, value)
        results.append(everything(partial(xattnres, backend="triton"), make(shape)))
    assert_all_close(*results, 1e-12)


@pytest.mark.parametrize("shape", ["7 channels", "batch of three", "two parts", "3-D two parts", "3-D two axes grow"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("samples", [1, 2])
def test_results_do_not_depend_on_how_the_work_is_cut(monkeypatch, shape, channels, samples):
    case = make(shape, device="cpu")
    batch, _, *size = case.x[0].shape
    channel = 8 * torch.Size(size).numel()
    # of all entries, none larger than x, and of x
    sample = sum(8 * torch.Size(map(min, f.shape[2:], size)).numel() for f in (*case.history, case.x[0]))
    taken = set()

    def upsample(value, size, original=torch_backend.upsample):
        taken.add(tuple(value.shape[:2]))
        return original(value, size)

    monkeypatch.setattr(torch_backend, "upsample", upsample)
    results = []
    for slab, group in ((2**40, 2**40), (channel * channels * samples, sample * len(case.norm_weight) * samples)):
        monkeypatch.setattr(torch_backend, "_SLAB", slab)
        monkeypatch.setattr(torch_backend, "_SAMPLES", group)
        taken.clear()
        results.append(everything(partial(xattnres, backend="torch"), case))
        assert max(taken) == (
            (batch, max(part.shape[1] for part in case.x)) if slab == 2**40 else (min(batch, samples), channels)
        )
    assert_all_close(*results, 1e-12)


# the op as PyTorch sees it


def op_arguments(case, backend):
    """The arguments of `torch.ops.nnunet_xattnres.forward`, no entry of which may be larger than x."""
    projected = [k for k, projection in enumerate(case.projections) if projection is not None]
    weights = [case.projections[k][0].detach().flatten(1).requires_grad_() for k in projected]
    biases = [case.projections[k][1] for k in projected]
    return (case.history, case.x, weights, biases, projected, case.pseudo_query, 1e-6, backend)


# torch hides this one of its own warnings, which turning warnings into errors forestalls
opcheck_warns = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")
OPCHECKED = ["history of one", "identity at low resolution", "one below", "decoder", "3-D two axes grow"]


@opcheck_warns
@pytest.mark.parametrize(("backend", "shape"), runs(OPCHECKED, ["one below"]), indirect=["backend"])
def test_forward_op_passes_the_checks_of_torch_library(backend, shape):
    arguments = op_arguments(make(shape), backend)
    torch.library.opcheck(torch.ops.nnunet_xattnres.forward.default, arguments)


@opcheck_warns
def test_forward_op_with_parts_passes_the_checks_of_torch_library(backend):
    case = make("two parts")
    # without the entry that would have to be pooled first
    del case.history[2], case.projections[2]
    torch.library.opcheck(torch.ops.nnunet_xattnres.forward.default, op_arguments(case, backend))


@pytest.mark.parametrize("given", ["both", "output alone", "attention alone"])
@pytest.mark.parametrize(("backend", "shape"), runs(OPCHECKED, ["one below"]), indirect=["backend"])
def test_backward_op_passes_the_checks_of_torch_library(backend, shape, given):
    case = make(shape)
    for tensor in case.named().values():
        tensor.requires_grad_(False)
    arguments = op_arguments(case, backend)
    weights = [w.detach() for w in arguments[2]]
    arguments = (*arguments[:2], weights, *arguments[3:])
    grad_out, grad_alpha = directions(*torch.ops.nnunet_xattnres.forward(*arguments))
    torch.library.opcheck(
        torch.ops.nnunet_xattnres.backward.default,
        (None if given == "attention alone" else grad_out, None if given == "output alone" else grad_alpha, *arguments),
    )


@pytest.mark.parametrize(
    ("backend", "dtype", "layout"),
    [
        *itertools.product(
            ["torch"], [torch.float64, torch.float32, *HALVES], ["channels last", "every second column"]
        ),
        ("triton", torch.float16, "channels last"),
    ],
    indirect=["backend"],
    ids=str,
)
def test_shapes_types_and_strides_are_those_announced_to_the_compiler(backend, dtype, layout):
    """`opcheck` sees contiguous arguments of one type; a wrong stride would be silently wrong in compiled code."""
    case = make("decoder").to(dtype).map(lambda name, t: LAYOUTS[layout](t))
    for tensor in case.named().values():
        tensor.requires_grad_(False)
    arguments = op_arguments(case, backend)
    arguments = (*arguments[:2], [w.detach() for w in arguments[2]], *arguments[3:])
    grads = directions(*torch.ops.nnunet_xattnres.forward(*arguments))
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.nnunet_xattnres.forward.default, arguments, test_utils=tests)
    torch.library.opcheck(torch.ops.nnunet_xattnres.backward.default, (*grads, *arguments), test_utils=tests)


@pytest.mark.parametrize(("backend", "shape"), runs([*VARIED, "no whole ratio"], FEW), indirect=["backend"])
def test_compiles_to_one_graph(operator, shape):
    case = make(shape)
    torch.compiler.reset()
    compiled = torch.compile(operator, backend="aot_eager", fullgraph=True)
    assert_all_close(everything(compiled, case), everything(operator, case), 1e-12)


class Stage(nn.Module):
    """A layer as a network uses it: entries above, at and below the resolution of x, and x in two parts."""

    def __init__(self, backend):
        super().__init__()
        self.down = nn.Conv2d(2, 4, 3, stride=4, padding=1)
        self.layer = XAttnRes([2, 6, 4], 6, init="normal", backend=backend)

    def forward(self, image, x, skip):
        return self.layer(History([image, torch.cat((x, skip), 1), self.down(image)]), (x, skip))


def test_exports(backend):
    torch.manual_seed(0)
    stage = Stage(backend).to(DEVICE)
    arguments = tuple(torch.randn(2, width, n, n, device=DEVICE) for width, n in ((2, 16), (4, 8), (2, 8)))
    exported = torch.export.export(stage, arguments).module()
    others = tuple(torch.randn_like(t) for t in arguments)
    torch.testing.assert_close(exported(*others), stage(*others), rtol=1e-5, atol=1e-6)
