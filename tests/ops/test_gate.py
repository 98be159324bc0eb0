"""The gate, y = x + g (XAttnRes(H, x) - x): every backend against the reference, which says the formula literally."""

from collections import defaultdict
from functools import partial

import pytest
import torch
from support.operator import (
    DEVICE,
    FLOAT64_BACKENDS,
    HALF_PRECISION_BACKENDS,
    all_needed,
    all_results,
    assert_all_close,
    assert_equal_results,
    make,
    op_arguments,
    random_gradients,
    runs,
)

from nnunet_xattnres.ops import xattnres
from nnunet_xattnres.ops.reference import xattnres as reference

VARIED = ["history of one", "decoder", "two parts", "3-D anisotropic", "3-D two parts"]
# those for Triton
TRITON = ["decoder", "two parts", "3-D two parts"]
GATES = [-0.4, 0.0, 0.3, 1.0, 1.7]


HALVES = [torch.float16, torch.bfloat16]


def on_backends(*shapes):
    """The parameters of a test that runs on every backend, for shapes of VARIED."""
    pairs = runs(shapes, [shape for shape in shapes if shape in TRITON])
    return pytest.mark.parametrize(("backend", "shape"), pairs, indirect=["backend"])


def on_backends_in_every_precision(*shapes):
    """The parameters of a test that runs on every backend in every dtype that it has, for shapes of VARIED."""
    parameters = [
        pytest.param(*run.values, dtype, marks=run.marks)
        for dtype in (torch.float32, *HALVES)
        for run in runs(shapes, [shape for shape in shapes if shape in TRITON], half_precision=dtype in HALVES)
    ]
    return pytest.mark.parametrize(("backend", "shape", "dtype"), parameters, indirect=["backend"])


@pytest.mark.parametrize("gate", GATES)
@on_backends(*VARIED)
def test_equals_the_reference(operator, backend, shape, gate):
    case = make(shape, gate=gate)
    assert_equal_results(backend, all_results(operator, case), all_results(reference, case))


@on_backends(*VARIED)
def test_a_gate_of_one_is_no_gate(operator, backend, shape):
    gated, without = all_results(operator, make(shape, gate=1.0)), all_results(operator, make(shape))
    del gated["gate"]
    assert_equal_results(backend, gated, without)


@on_backends_in_every_precision(*VARIED)
def test_a_closed_gate_gives_x_bit_for_bit(operator, shape, dtype):
    case = in_precision(make(shape, torch.float32, gate=0.0), dtype)
    for function in (operator, reference):
        out, alpha = case.run(function)
        assert torch.equal(out, torch.cat(case.x, 1))
        assert torch.equal(alpha[:, -1], torch.ones_like(alpha[:, -1]))
        assert torch.equal(alpha[:, :-1], torch.zeros_like(alpha[:, :-1]))


@pytest.mark.parametrize("gate", GATES)
@on_backends("two parts")
def test_the_attention_sums_to_one_and_gives_the_output(operator, shape, gate):
    case = make(shape, gate=gate)
    out, alpha = case.run(operator)
    torch.testing.assert_close(alpha.sum(1), torch.ones_like(alpha[:, 0]), rtol=1e-5, atol=1e-5)
    # the sum is x + g (out - x) of the same call without a gate
    x, (ungated, _) = torch.cat(case.x, 1), operator(*case)
    torch.testing.assert_close(out, x + gate * (ungated - x), rtol=1e-5, atol=1e-5)


# without Triton, which has no float64: its gradients are compared with those of the reference
@pytest.mark.parametrize("backend", ["reference", *FLOAT64_BACKENDS])
@pytest.mark.parametrize("shape", ["gradcheck 2-D", pytest.param("gradcheck parts", marks=pytest.mark.slow)])
def test_gradcheck(backend, shape):
    case, function = make(shape, gate=0.6), partial(xattnres, backend=backend)

    def of_tensors(*tensors):
        return case.replace(tensors).run(function)

    assert torch.autograd.gradcheck(of_tensors, tuple(case.named().values()))


@pytest.mark.parametrize("output", [0, 1], ids=["output alone", "attention alone"])
@on_backends(*VARIED)
def test_gradients_of_one_output_alone(operator, backend, shape, output):
    case = make(shape, gate=0.3)
    inputs = case.named()
    gradients = []
    for function in (operator, reference):
        result = case.run(function)[output]
        values = torch.autograd.grad(result, list(inputs.values()), random_gradients(result))
        gradients.append(dict(zip(inputs, values, strict=True)))
    assert_equal_results(backend, *gradients)


@pytest.mark.parametrize("name", ["gate", "x", "history", "pseudo_query"])
@on_backends("two parts")
def test_gradients_where_only_some_inputs_require_them(operator, backend, shape, name):
    case = make(shape, gate=0.3)
    for key, tensor in case.named().items():
        tensor.requires_grad_(key.startswith(name))
    assert_equal_results(backend, all_results(operator, case), all_results(reference, case))


@on_backends("two parts")
def test_a_gate_of_shape_one(operator, backend, shape):
    case = make(shape, gate=0.3)
    expected = all_results(operator, case)
    actual = all_results(operator, case.map(lambda name, t: t.view(1) if name == "gate" else t))
    assert actual["gate"].shape == (1,)
    assert_equal_results(backend, {**actual, "gate": actual["gate"][0]}, expected)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_gate_of_two_elements_is_an_error(backend):
    with pytest.raises(ValueError, match=r"gate must have one element, got shape \(2,\)"):
        xattnres(*make("two parts"), backend=backend, gate=torch.zeros(2))


@on_backends("two parts", "3-D two parts")
def test_two_runs_are_bitwise_equal(operator, shape):
    first, second = (all_results(operator, make(shape, torch.float32, gate=0.3)) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@on_backends_in_every_precision(*VARIED)
def test_rounding_errors_are_at_most_twice_those_of_the_reference(operator, shape, dtype):
    """That of the gate, one number, is at most one rounding of its summands."""
    reference_errors, errors, values = defaultdict(list), defaultdict(list), defaultdict(list)
    for seed in range(4):
        case = in_precision(make(shape, torch.float32, seed=seed, gate=0.3), dtype)
        exact = case.to(torch.float64)
        in_float64, actual = all_results(reference, exact), all_results(operator, case)
        for name, value in all_results(reference, case).items():
            reference_errors[name].append((value - in_float64[name]).flatten())
            errors[name].append((actual[name] - in_float64[name]).flatten())
            values[name].append(in_float64[name].flatten())
        summands = gate_summands(exact)
        torch.testing.assert_close(summands.sum(), in_float64["gate"], rtol=1e-10, atol=1e-10)
        assert errors.pop("gate")[0].abs() <= torch.finfo(dtype).eps * summands.abs().sum()
    for name, own in errors.items():
        allowed = max(2 * torch.cat(reference_errors[name]).norm(), 1e-6 * torch.cat(values[name]).norm())
        assert torch.cat(own).norm() <= allowed, name


def in_precision(case, dtype):
    """The vectors and the gate stay in float32, as under autocast."""
    vectors = ("pseudo_query", "norm_weight", "gate")
    return case.map(lambda name, t: t if name in vectors else t.to(dtype))


def gate_summands(case):
    """dout (out - x) and dalpha (alpha - [0, ..., 0, 1]), without a gate: their sum is the gradient of the gate."""
    with torch.no_grad():
        (gated, _), (out, alpha) = case.run(reference), reference(*case)
        grad_out, grad_alpha = random_gradients(gated, alpha)
        alpha[:, -1] -= 1
        return torch.cat([(grad_out * (out - torch.cat(case.x, 1))).flatten(), (grad_alpha * alpha).flatten()])


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-7)], ids=str)
@pytest.mark.parametrize("backend", HALF_PRECISION_BACKENDS, indirect=True)
def test_the_gradient_of_the_gate_is_accumulated_in_float32(operator, dtype, unit):
    """The products of values and gradients of about 300, and their sum, exceed the largest float16."""
    history = torch.full((1, 8, 2, 2), 300.0, dtype=dtype, device=DEVICE)
    x = torch.full((1, 8, 4, 4), -290.0, dtype=dtype, device=DEVICE)
    gate = torch.tensor(0.25, device=DEVICE, requires_grad=True)
    query, ones = torch.full((8,), 0.01, device=DEVICE), torch.ones(8, device=DEVICE)
    gradients = []
    for function in (reference, operator):
        out, _ = function([history], x, [None], query, ones, gate=gate)
        gradients += torch.autograd.grad(out, gate, torch.full_like(out, 300))
    assert gradients[0] > 1e7
    torch.testing.assert_close(gradients[1], gradients[0], rtol=4 * unit, atol=0)


# torch.library and torch.compile


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")
@on_backends("history of one")
def test_ops_pass_the_checks_of_torch_library(backend, shape):
    case = make(shape, torch.float32 if backend == "triton" else torch.float64, gate=0.3)
    forward, backward = torch.ops.nnunet_xattnres.forward, torch.ops.nnunet_xattnres.backward
    torch.library.opcheck(forward.default, op_arguments(case, backend))
    arguments = op_arguments(case, backend, requires_grad=False)
    grads = random_gradients(*forward(*arguments))
    torch.library.opcheck(backward.default, (*grads, *arguments, all_needed(case)))


@on_backends("two parts")
def test_compiles_to_one_graph(operator, shape):
    case = make(shape, gate=0.3)
    torch.compiler.reset()
    compiled = torch.compile(operator, backend="aot_eager", fullgraph=True)
    assert_all_close(all_results(compiled, case), all_results(operator, case), 1e-12)
