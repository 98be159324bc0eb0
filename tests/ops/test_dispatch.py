"""The switch between the ways to compute the operator: what is chosen, what that runs, what is said about it."""

import logging
import sys

import pytest
import torch
from support.operator import DEVICE

from nnunet_xattnres import XAttnRes, ops
from nnunet_xattnres.ops import BACKENDS, custom_op, dispatch, reference, torch_backend, triton_backend, xattnres
from nnunet_xattnres.ops.dispatch import resolve_backend


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    """No environment variable and nothing decided yet, before and after."""
    monkeypatch.delenv("XATTNRES_BACKEND", raising=False)
    dispatch._resolve.cache_clear()
    monkeypatch.setattr(custom_op, "_failed", [])
    yield
    dispatch._resolve.cache_clear()


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.INFO, "nnunet_xattnres")
    return lambda: [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.fixture
def ran(monkeypatch):
    """What computed, in order: the reference resizes at full resolution, the streamed path is called by the op."""
    calls = []

    def spy(module, name, label):
        original = getattr(module, name)

        def called(*args, **kwargs):
            calls.append(label)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, called)

    spy(reference, "resize", "reference")
    spy(torch_backend, "forward", "torch")
    spy(torch_backend, "backward", "torch backward")
    spy(triton_backend, "forward", "triton")
    spy(triton_backend, "backward", "triton backward")
    return calls


def to_device(argument):
    if isinstance(argument, list):
        return [to_device(a) for a in argument]
    return argument.detach().to(DEVICE).requires_grad_() if isinstance(argument, torch.Tensor) else argument


def probe_triton(monkeypatch, reason):
    """Let Triton fail for a reason, or work; returns the devices it was tried on."""
    tried = []

    def try_out(device_type):
        tried.append(device_type)
        return reason

    monkeypatch.setattr(dispatch, "why_triton_unavailable", try_out)
    return tried


def arguments():
    torch.manual_seed(0)
    history = torch.randn(1, 3, 2, 2, requires_grad=True)
    return [history], torch.randn(1, 3, 4, 4, requires_grad=True), [None], torch.randn(3), torch.randn(3)


def test_names():
    assert BACKENDS == ("auto", "reference", "torch", "triton")


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_a_name_is_taken_at_its_word(monkeypatch, warnings, backend, device):
    tried = probe_triton(monkeypatch, "it is broken")
    assert resolve_backend(backend, device) == backend
    assert tried == []
    assert warnings() == []


@pytest.mark.parametrize("backend", [None, "auto"])
def test_automatic_choice_on_a_cpu(warnings, backend):
    assert resolve_backend(backend, "cpu") == "torch"
    assert warnings() == []


def test_automatic_choice_on_cuda(monkeypatch, warnings):
    tried = probe_triton(monkeypatch, None)
    assert [resolve_backend("auto", "cuda") for _ in range(3)] == ["triton"] * 3
    assert tried == ["cuda"]
    assert warnings() == []


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_where_triton_fails_on_cuda_pytorch_computes_and_one_warning_says_why(monkeypatch, warnings, backend):
    tried = probe_triton(monkeypatch, "no compiler was found")
    assert [resolve_backend(backend, "cuda") for _ in range(3)] == ["torch"] * 3
    assert tried == ["cuda"]
    (message,) = warnings()
    assert "no compiler was found" in message
    assert "PyTorch" in message
    assert "\n" not in message


def test_triton_asked_for_on_a_cpu_is_pytorch_with_one_warning(monkeypatch, warnings):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert [resolve_backend("triton", "cpu") for _ in range(3)] == ["torch"] * 3
    (message,) = warnings()
    assert "Triton cannot be used" in message
    assert "\n" not in message


def test_triton_that_cannot_be_imported_is_an_obstacle(monkeypatch, warnings):
    monkeypatch.delattr(ops, "triton_backend", raising=False)
    monkeypatch.setitem(sys.modules, "nnunet_xattnres.ops.triton_backend", None)
    assert resolve_backend("triton", "cuda") == "torch"
    (message,) = warnings()
    assert "it cannot be imported" in message


def test_a_process_without_triton_still_computes(monkeypatch, warnings, ran):
    monkeypatch.delattr(ops, "triton_backend", raising=False)
    monkeypatch.setitem(sys.modules, "nnunet_xattnres.ops.triton_backend", None)
    torch.testing.assert_close(
        xattnres(*arguments(), backend="triton"), reference.xattnres(*arguments()), rtol=1e-5, atol=1e-6
    )
    assert "torch" in ran
    assert len(warnings()) == 1


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_environment_variable(monkeypatch, backend):
    monkeypatch.setenv("XATTNRES_BACKEND", backend)
    assert resolve_backend(None, "cpu") == backend


def test_argument_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("XATTNRES_BACKEND", "reference")
    assert resolve_backend("torch", "cpu") == "torch"
    assert resolve_backend("auto", "cpu") == "torch"


def test_an_empty_environment_variable_is_none(monkeypatch):
    monkeypatch.setenv("XATTNRES_BACKEND", "")
    assert resolve_backend(None, "cpu") == "torch"


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_unknown_name(monkeypatch, source):
    monkeypatch.setenv("XATTNRES_BACKEND", "cudnn" if source == "environment" else "torch")
    with pytest.raises(ValueError, match="auto, reference, torch, triton, got 'cudnn'") as error:
        xattnres(*arguments(), backend="cudnn" if source == "argument" else None)
    assert "\n" not in str(error.value)


EXPECTED = {
    "reference": {"reference"},
    "torch": {"torch", "torch backward"},
    "triton": {"triton", "triton backward"},
}


@pytest.mark.parametrize("backend", EXPECTED)
def test_the_operator_runs_what_is_named(ran, backend):
    resolve_backend(backend, DEVICE)  # which tries Triton out
    ran.clear()
    xattnres(*(to_device(a) for a in arguments()), backend=backend)[0].sum().backward()
    assert set(ran) == EXPECTED[backend]


@pytest.mark.parametrize("backend", EXPECTED)
@pytest.mark.parametrize("source", ["argument", "environment", "argument over environment"])
def test_the_layer_runs_what_is_named(monkeypatch, ran, backend, source):
    resolve_backend(backend, DEVICE)
    ran.clear()
    if source == "environment":
        monkeypatch.setenv("XATTNRES_BACKEND", backend)
    elif source == "argument over environment":
        monkeypatch.setenv("XATTNRES_BACKEND", "torch" if backend == "reference" else "reference")
    layer = XAttnRes([3], 3, backend=None if source == "environment" else backend).to(DEVICE)
    history, x, *_ = (to_device(a) for a in arguments())
    layer(history, x).sum().backward()
    assert set(ran) == EXPECTED[backend]


def test_the_environment_is_read_at_every_call(monkeypatch, ran):
    layer = XAttnRes([3], 3)
    history, x, *_ = arguments()
    for backend in ("torch", "reference", "torch"):
        monkeypatch.setenv("XATTNRES_BACKEND", backend)
        layer(history, x)
    assert ran == ["torch", "reference", "torch"]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_where_triton_fails_in_mid_training_pytorch_goes_on_with_one_warning(monkeypatch, warnings, direction):
    def fail(*args):
        raise RuntimeError("ptxas exited with an error")

    chosen = resolve_backend("triton", DEVICE)
    assert chosen == "triton"
    monkeypatch.setattr(triton_backend, direction, fail)
    for _ in range(2):
        history, x, *rest = (to_device(a) for a in arguments())
        out, alpha = xattnres(history, x, *rest, backend="triton")
        expected = reference.xattnres(history, x, *rest)
        torch.testing.assert_close((out, alpha), expected, rtol=1e-5, atol=1e-6)
        gradients = (torch.autograd.grad(o.square().sum(), [*history, x]) for o in (out, expected[0]))
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    (message,) = warnings()
    assert "ptxas exited with an error" in message
    assert "PyTorch computes from here on" in message


def test_out_of_memory_is_not_taken_for_a_failure_of_triton(monkeypatch, warnings):
    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert resolve_backend("triton", DEVICE) == "triton"
    monkeypatch.setattr(triton_backend, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        xattnres(*(to_device(a) for a in arguments()), backend="triton")
    assert warnings() == []


@pytest.mark.parametrize("factor", [1.1, float("nan")])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_kernels_that_compute_something_else_are_not_used(monkeypatch, direction, factor):
    original = getattr(triton_backend, direction)

    def wrong(*args):
        first, *others = original(*args)
        first = first * factor if direction == "forward" else [gradient * factor for gradient in first]
        return first, *others

    monkeypatch.setattr(triton_backend, direction, wrong)
    assert "its results differ from PyTorch's by" in triton_backend.probe_triton(DEVICE)
