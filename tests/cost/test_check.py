"""The comparison with the reference equations accepts a correct network and refuses a wrong one, in every precision."""

from dataclasses import replace

import pytest
import torch
from support.plans_file import write_plans

from nnunet_xattnres.cost.cases import from_plans
from nnunet_xattnres.cost.check import FLOAT64_BOUND, Comparison, TensorError, compare_with_reference
from nnunet_xattnres.cost.networks import XATTNRES, MeasuredNetwork
from nnunet_xattnres.ops import custom_op, torch_backend
from nnunet_xattnres.ops.reference import conv1x1
from nnunet_xattnres.ops.resize import resize

CPU = torch.device("cpu")
OURS = [MeasuredNetwork("XAttnRes", XATTNRES, "torch")]
CONFIGURATIONS = ["2d", "3d_fullres"]
MIXED_PRECISIONS = [torch.float16, torch.bfloat16]
# layers by the length of their history
LAYERS = [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)]


@pytest.fixture(params=[None, *MIXED_PRECISIONS], ids=["float32", "float16", "bfloat16"])
def amp(request):
    """Whether mixed precision is compared; autocast takes float16, as on CUDA, or bfloat16."""
    before = torch.get_autocast_dtype("cpu")
    if request.param is not None:
        torch.set_autocast_dtype("cpu", request.param)
    # oneDNN's gradient of a 3-D convolution's weight in bfloat16 holds uninitialised memory on some CPUs (PyTorch 2.14)
    flags = torch.backends.mkldnn.set_flags(request.param != torch.bfloat16)
    yield request.param is not None
    torch.backends.mkldnn.set_flags(*flags)
    torch.set_autocast_dtype("cpu", before)


def compare(tmp_path, configuration, amp):
    case = from_plans(write_plans(tmp_path), configuration)
    (comparisons,) = compare_with_reference(case, OURS, CPU, amp).values()
    assert [c.precision for c in comparisons] == ["float64", "mixed precision" if amp else "float32"]
    return comparisons


def change_results(monkeypatch, function, change, num_sources=None):
    """Replace the result of `function` of the operator, in one layer of the network or in all."""
    compute = custom_op._compute

    def changed(called, backend, *arguments):
        result = compute(called, backend, *arguments)
        sources, x, weights, biases = arguments[2:6] if called == "backward" else arguments[:4]
        if called != function or num_sources not in (None, len(sources)):
            return result
        return change(result, sources, x, weights, biases)

    monkeypatch.setattr(custom_op, "_compute", changed)


def exchange_first_two_weights(result, sources, x, weights, biases):
    """out for alpha_0 and alpha_1 exchanged: out + (alpha_1 - alpha_0) (V_0 - V_1)."""
    out, alpha = result
    size = tuple(x[0].shape[2:])
    values = []
    for source, weight, bias in list(zip(sources, weights, biases, strict=True))[:2]:
        projection = None
        if weight is not None:
            projection = weight.view(*weight.shape, *(1,) * len(size)).to(source.dtype), bias.to(source.dtype)
        values.append(resize(conv1x1(source, projection), size))
    return out + ((alpha[:, 1:2] - alpha[:, :1]) * (values[0] - values[1])).to(out.dtype), alpha


def double_gradient_of_first_source(result, *arguments):
    (first, *others), *lists = result
    return ([2 * first, *others], *lists)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_correct_network(tmp_path, configuration, amp):
    float64, measured = compare(tmp_path, configuration, amp)
    assert float64.worst.error < FLOAT64_BOUND / 1000
    # the network does not magnify rounding: float16 has errors of 0.0005, bfloat16 of 0.004
    typical = sorted(tensor.reference_error for tensor in measured.tensors)[len(measured.tensors) // 2]
    assert typical < (0.05 if amp else 1e-5)
    # the bound leaves room
    assert measured.worst.excess < 0.8


@pytest.mark.parametrize("num_sources", LAYERS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_two_exchanged_attention_weights_in_one_layer_are_refused(
    tmp_path, configuration, num_sources, amp, monkeypatch
):
    change_results(monkeypatch, "forward", exchange_first_two_weights, num_sources)
    for comparison in compare(tmp_path, configuration, amp):
        assert comparison.worst.excess > 10


@pytest.mark.parametrize("num_sources", LAYERS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_doubled_gradient_of_one_source_in_one_layer_is_refused(
    tmp_path, configuration, num_sources, amp, monkeypatch
):
    change_results(monkeypatch, "backward", double_gradient_of_first_source, num_sources)
    for comparison in compare(tmp_path, configuration, amp):
        refused = {tensor.name for tensor in comparison.tensors if not tensor.accepted}
        assert refused
        # the first stage computes the source; no later layer and no logit depends on the gradient
        assert not any(name.startswith(("logits", "decoder")) for name in refused)


@pytest.mark.parametrize("name", ["pseudo_query", "projections"])
def test_a_wrong_parameter_gradient_names_the_layer(tmp_path, name, amp, monkeypatch):
    def change(result, *arguments):
        sources, x, weights, *others = result
        if name == "projections":
            weights = [None if weight is None else 1.5 * weight for weight in weights]
        else:
            others[1] = 1.5 * others[1]
        return sources, x, weights, *others

    change_results(monkeypatch, "backward", change, num_sources=3)
    for comparison in compare(tmp_path, "2d", amp):
        assert [tensor.name for tensor in comparison.tensors if not tensor.accepted] == ["xattnres.3"]


def test_a_small_error_is_refused_in_float64(tmp_path, monkeypatch):
    change_results(monkeypatch, "forward", lambda result, *_: (result[0] * (1 + 1e-6), result[1]), num_sources=4)
    float64, float32 = compare(tmp_path, "2d", amp=False)
    assert not float64.accepted
    assert float32.accepted


def test_nan_is_refused(tmp_path, amp, monkeypatch):
    change_results(monkeypatch, "forward", lambda result, *_: (result[0] * torch.nan, result[1]), num_sources=2)
    for comparison in compare(tmp_path, "2d", amp):
        assert not comparison.accepted
        assert comparison.worst.error != comparison.worst.error


def test_gradients_that_overflow_in_float16_are_scaled_down(tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_xattnres.cost.check._LOSS_SCALE", 2.0**26)
    before = torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.float16)
    try:
        assert all(comparison.accepted for comparison in compare(tmp_path, "2d", amp=True))
    finally:
        torch.set_autocast_dtype("cpu", before)


def test_several_backends_are_compared_with_one_reference(tmp_path):
    case = from_plans(write_plans(tmp_path), "2d")
    networks = [replace(*OURS, name=name) for name in "ab"]
    first, second = compare_with_reference(case, networks, CPU, amp=False).values()
    assert first == second


def test_the_worst_tensor():
    small, large = TensorError("a", 0.2, 0.1, 0.4), TensorError("b", 0.1, 0.01, 0.02)
    nan = TensorError("c", float("nan"), 0.1, 0.4)
    assert Comparison("float32", [small, large]).worst is large
    assert not Comparison("float32", [small, large]).accepted
    assert Comparison("float32", [small]).accepted
    assert Comparison("float32", [small, large, nan]).worst is nan


@pytest.mark.parametrize("configuration", [CONFIGURATIONS[0], pytest.param(CONFIGURATIONS[1], marks=pytest.mark.slow)])
def test_a_gated_network_is_accepted_and_a_wrong_gate_is_not(tmp_path, configuration, monkeypatch):
    case = from_plans(write_plans(tmp_path), configuration)
    gated = replace(case, arch_kwargs={**case.arch_kwargs, "gate": True})
    (comparisons,) = compare_with_reference(gated, OURS, CPU, amp=False).values()
    assert all(comparison.accepted for comparison in comparisons)
    monkeypatch.setattr(torch_backend, "_apply_gate_", lambda alpha, gate: alpha)
    (comparisons,) = compare_with_reference(gated, OURS, CPU, amp=False).values()
    assert not any(comparison.accepted for comparison in comparisons)
