"""Every call of the operator in a training step is replayed: order, sizes, memory traffic, and counted operators."""

import pytest
import torch
from support.plans_file import write_plans

from nnunet_xattnres.cost.cases import from_plans
from nnunet_xattnres.cost.layers import _count_bytes, _intercept, _tensor_lists, measure_layers
from nnunet_xattnres.cost.measure import MeasureOptions
from nnunet_xattnres.cost.networks import XATTNRES, MeasuredNetwork
from nnunet_xattnres.ops import custom_op

OURS = MeasuredNetwork("XAttnRes", XATTNRES, "torch")
OPTIONS = MeasureOptions(torch.device("cpu"), amp=False, compile=False, repeats=3, reference_repeats=1)


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "mixed precision"])
def options(request):
    return MeasureOptions(torch.device("cpu"), amp=request.param, compile=False, repeats=3, reference_repeats=1)


@pytest.fixture(scope="module")
def measurement(tmp_path_factory, options):
    case = from_plans(write_plans(tmp_path_factory.mktemp("plans")), "2d")
    return measure_layers(case, OURS, options)


def test_every_layer_is_called_forward_and_backward(measurement):
    calls = measurement.calls
    assert [(c.function, c.layer) for c in calls] == [
        *(("forward", f"xattnres.{n}") for n in (1, 2, 3, 4)),
        *(("backward", f"xattnres.{n}") for n in (4, 3, 2, 1)),
    ]
    # the query of a decoder stage is the upsampled feature and the skip
    assert [(c.channels, c.size, c.history) for c in calls[:4]] == [
        (8, (8, 8), 1), (12, (4, 4), 2), (16, (8, 8), 3), (8, (16, 16), 4)
    ]  # fmt: skip
    for forward, backward in zip(calls[:4], calls[:3:-1], strict=True):
        assert (forward.channels, forward.size, forward.history) == (backward.channels, backward.size, backward.history)


def test_times_and_operators(measurement):
    assert not measurement.on_cuda
    for call in measurement.calls:
        assert len(call.seconds) == 3
        assert 0 < min(call.seconds) <= call.median <= max(call.seconds)
        assert 5 < call.launches < 2000
        assert measurement.floor(call) == call.bytes / measurement.bandwidth
    assert measurement.bandwidth > 1e7


def test_memory_traffic_computed_by_hand(measurement, options):
    """The last layer: history 4, 8, 12 and 8 channels pooled to 16x16 or smaller, x = upsampled (4) and skip (4)."""
    item = 2 if options.amp else 4
    batch, pixels = 2, 16 * 16
    # features of three encoder stages (the first one is also the skip) and one decoder stage
    history = item * batch * (4 * pixels + 8 * pixels // 4 + 12 * pixels // 16 + 8 * pixels // 4)
    upsampled = item * batch * 4 * pixels
    parameters = 4 * (8 * (4 + 12) + 2 * 8 + 8)
    out, alpha = item * batch * 8 * pixels, 4 * batch * 5 * pixels
    forward, backward = measurement.calls[3:5]
    assert forward.bytes == history + upsampled + parameters + out + alpha
    gradients = history + item * batch * 4 * pixels + upsampled + parameters
    assert backward.bytes == history + upsampled + parameters + out + gradients


def test_tensors_on_the_same_memory_count_once():
    a, b = torch.zeros(2, 3, 4), torch.zeros(5)
    assert _count_bytes([a, (a, [b, None]), 1e-6]) == 4 * (24 + 5)
    assert _count_bytes(torch.zeros(1).expand(100)) == 4


def test_the_step_computes_what_it_computes_without_replays(tmp_path, monkeypatch):
    """The results of the operator are those of its one call, and the operator is as before afterwards."""
    compute, results = custom_op._compute, {}

    def remember(function, backend, *arguments):
        result = compute(function, backend, *arguments)
        results.setdefault(function, []).append(result[0])
        return result

    monkeypatch.setattr(custom_op, "_compute", remember)
    measure_layers(from_plans(write_plans(tmp_path), "2d"), OURS, OPTIONS)
    assert custom_op._compute is remember
    # warm-up of training and prediction, then 4 layers: the call, 1 + 3 replays, and one to count operators
    assert len(results["forward"]) == 8 + 4 * 6
    assert len(results["backward"]) == 4 + 4 * 6
    for first in range(8, 32, 6):
        for again in results["forward"][first + 1 : first + 6]:
            assert torch.equal(results["forward"][first], again)


def test_arguments_of_later_versions(monkeypatch):
    """More arguments than today, at the end or by name, change nothing."""
    compute = custom_op._compute

    def with_more(function, backend, *arguments, later=None):
        assert later is not None
        return compute(function, backend, *arguments[:-1])

    monkeypatch.setattr(custom_op, "_compute", with_more)
    calls = []
    sources, x = [torch.randn(1, 4, 4, 4)], [torch.randn(1, 4, 8, 8)]
    with _intercept(lambda function, again, arguments, result: calls.append((function, again, arguments, result))):
        out, alpha = custom_op._compute(
            "forward", "torch", sources, x, [None], [None], torch.randn(4), None, 1e-6, 7, later=torch.zeros(1)
        )
    ((function, again, arguments, result),) = calls
    assert function == "forward"
    assert [t.shape for tensors in _tensor_lists(arguments) for t in tensors] == [sources[0].shape, x[0].shape]
    assert torch.equal(again()[0], out) and torch.equal(result[1], alpha)
