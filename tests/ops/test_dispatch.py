"""The selection of a backend, the code that then runs, and the warnings."""

import logging
import sys

import pytest
import torch
from support.operator import DEVICE, FLOAT64_BACKENDS, interpreter
from triton.runtime.errors import OutOfResources

from nnunet_xattnres import XAttnRes, ops
from nnunet_xattnres.ops import (
    BACKENDS,
    cpp_backend,
    cpp_library,
    custom_op,
    dispatch,
    reference,
    torch_backend,
    triton_backend,
    xattnres,
)
from nnunet_xattnres.ops.dispatch import resolve_backend


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    """No environment variable, no backend resolved yet and nothing computed, as in a new process."""
    monkeypatch.delenv("XATTNRES_BACKEND", raising=False)
    dispatch._resolve.cache_clear()
    monkeypatch.setattr(custom_op, "triton_refusals", set())
    monkeypatch.setattr(custom_op, "used_backends", set())
    yield
    dispatch._resolve.cache_clear()


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.INFO, "nnunet_xattnres")
    return lambda: [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.fixture
def triton_works(monkeypatch):
    """Skip the small example with which Triton is tested, which takes its interpreter seconds."""
    monkeypatch.setattr(dispatch, "why_triton_unavailable", lambda device_type: None)


@pytest.fixture
def calls(monkeypatch):
    """The backends that have computed, in order; the reference is recognised by its call of `resize`."""
    calls = []

    def record(module, name, label):
        original = getattr(module, name)

        def recorded(*args, **kwargs):
            calls.append(label)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, recorded)

    record(reference, "resize", "reference")
    record(cpp_backend, "forward", "cpp")
    record(cpp_backend, "backward", "cpp backward")
    record(torch_backend, "forward", "torch")
    record(torch_backend, "backward", "torch backward")
    record(triton_backend, "forward", "triton")
    record(triton_backend, "backward", "triton backward")
    return calls


def to_device(argument):
    if isinstance(argument, list):
        return [to_device(a) for a in argument]
    return argument.detach().to(DEVICE).requires_grad_() if isinstance(argument, torch.Tensor) else argument


def replace_probe(monkeypatch, reason):
    """Let Triton be unavailable for a reason, or available; returns the list of devices for which this was asked."""
    probed = []

    def why_triton_unavailable(device_type):
        probed.append(device_type)
        return reason

    monkeypatch.setattr(dispatch, "why_triton_unavailable", why_triton_unavailable)
    return probed


def arguments():
    torch.manual_seed(0)
    history = torch.randn(1, 3, 2, 2, requires_grad=True)
    return [history], torch.randn(1, 3, 4, 4, requires_grad=True), [None], torch.randn(3), torch.randn(3)


def test_names():
    assert BACKENDS == ("auto", "cpp", "reference", "torch", "triton")


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_reference_and_torch_are_used_as_named(monkeypatch, warnings, backend, device):
    probed = replace_probe(monkeypatch, "it is broken")
    assert resolve_backend(backend, device) == backend
    assert probed == []
    assert warnings() == []


@pytest.fixture
def cpp_works(monkeypatch):
    """A machine with a C++ compiler and Linux; nothing is compiled."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(dispatch, "why_cpp_unavailable", lambda device_type: None)


@pytest.mark.parametrize("backend", [None, "auto"])
def test_auto_on_a_cpu(cpp_works, warnings, backend):
    assert resolve_backend(backend, "cpu") == "cpp"
    assert resolve_backend(backend, "cpu", torch.float64) == "cpp"
    assert warnings() == []


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_the_cpp_kernels_are_compiled_on_other_systems_only_where_they_are_named(monkeypatch, warnings, platform):
    monkeypatch.setattr(sys, "platform", platform)
    compiled = []
    monkeypatch.setattr(cpp_library, "load_library", lambda: compiled.append(True))
    assert resolve_backend("auto", "cpu") == "torch"
    assert not compiled
    assert resolve_backend("cpp", "cpu") == "cpp"
    assert compiled
    assert warnings() == []


@pytest.mark.parametrize("backend", ["auto", "cpp"])
def test_unavailable_cpp_kernels_are_replaced_by_torch_with_one_warning(monkeypatch, warnings, backend):
    def load_library():
        raise cpp_library.LibraryUnavailableError("there is no C++ compiler")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(cpp_library, "load_library", load_library)
    assert [resolve_backend(backend, "cpu") for _ in range(3)] == ["torch"] * 3
    (message,) = warnings()
    assert "there is no C++ compiler" in message
    assert "\n" not in message


def test_the_cpp_kernels_on_cuda_are_replaced_by_torch_with_one_warning(warnings):
    assert [resolve_backend("cpp", "cuda") for _ in range(3)] == ["torch"] * 3
    (message,) = warnings()
    assert "cuda" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_on_a_cpu_is_computed_by_torch(cpp_works, warnings, calls, dtype):
    history, x, *rest = arguments()
    xattnres([h.to(dtype) for h in history], x.to(dtype), *rest, backend="cpp")
    assert calls == ["torch"]
    assert resolve_backend("cpp", "cpu", dtype) == "torch"
    assert warnings() == []


def test_auto_on_cuda(monkeypatch, warnings):
    probed = replace_probe(monkeypatch, None)
    assert [resolve_backend("auto", "cuda") for _ in range(3)] == ["triton"] * 3
    assert probed == ["cuda"]
    assert warnings() == []


def test_float64_is_computed_by_torch(monkeypatch, warnings, calls):
    replace_probe(monkeypatch, None)
    history, x, *rest = arguments()
    xattnres([h.double() for h in history], x.double(), *rest, backend="triton")
    assert calls == ["torch"]
    assert resolve_backend("triton", "cuda", torch.float64) == "torch"
    assert resolve_backend("reference", "cuda", torch.float64) == "reference"
    assert resolve_backend("triton", "cuda", torch.float16) == "triton"
    assert warnings() == []


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_unavailable_triton_on_cuda_is_replaced_by_torch_with_one_warning(monkeypatch, warnings, backend):
    probed = replace_probe(monkeypatch, "no compiler was found")
    assert [resolve_backend(backend, "cuda") for _ in range(3)] == ["torch"] * 3
    assert probed == ["cuda"]
    (message,) = warnings()
    assert "no compiler was found" in message
    assert "\n" not in message


def test_triton_on_a_cpu_is_replaced_by_torch_with_one_warning(monkeypatch, warnings):
    monkeypatch.setattr(triton_backend, "is_interpreted", lambda: False)
    assert [resolve_backend("triton", "cpu") for _ in range(3)] == ["torch"] * 3
    (message,) = warnings()
    assert "Triton" in message
    assert "\n" not in message


def test_triton_that_cannot_be_imported_is_replaced_by_torch(monkeypatch, warnings):
    monkeypatch.delattr(ops, "triton_backend", raising=False)
    monkeypatch.setitem(sys.modules, "nnunet_xattnres.ops.triton_backend", None)
    assert resolve_backend("triton", "cuda") == "torch"
    (message,) = warnings()
    assert "ModuleNotFoundError" in message


def test_the_operator_computes_without_triton(monkeypatch, warnings, calls):
    monkeypatch.delattr(ops, "triton_backend", raising=False)
    monkeypatch.setitem(sys.modules, "nnunet_xattnres.ops.triton_backend", None)
    torch.testing.assert_close(
        xattnres(*arguments(), backend="triton"), reference.xattnres(*arguments()), rtol=1e-5, atol=1e-6
    )
    assert "torch" in calls
    assert len(warnings()) == 1


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_environment_variable(monkeypatch, backend):
    monkeypatch.setenv("XATTNRES_BACKEND", backend)
    assert resolve_backend(None, "cpu") == backend


def test_argument_has_precedence_over_the_environment(monkeypatch, cpp_works):
    monkeypatch.setenv("XATTNRES_BACKEND", "reference")
    assert resolve_backend("torch", "cpu") == "torch"
    assert resolve_backend("auto", "cpu") == "cpp"


def test_an_empty_environment_variable_is_ignored(monkeypatch, cpp_works):
    monkeypatch.setenv("XATTNRES_BACKEND", "")
    assert resolve_backend(None, "cpu") == "cpp"


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_unknown_name(monkeypatch, source):
    monkeypatch.setenv("XATTNRES_BACKEND", "cudnn" if source == "environment" else "torch")
    with pytest.raises(ValueError, match=r"backend.*'cudnn'") as error:
        xattnres(*arguments(), backend="cudnn" if source == "argument" else None)
    assert "\n" not in str(error.value)


EXPECTED = {
    "reference": {"reference"},
    "torch": {"torch", "torch backward"},
    "triton": {"triton", "triton backward"},
}
if "cpp" in FLOAT64_BACKENDS:
    EXPECTED["cpp"] = {"cpp", "cpp backward"}


@pytest.mark.parametrize("backend", EXPECTED)
def test_the_operator_runs_the_named_backend(triton_works, calls, backend):
    xattnres(*(to_device(a) for a in arguments()), backend=backend)[0].sum().backward()
    assert set(calls) == EXPECTED[backend]


@pytest.mark.parametrize("backend", EXPECTED)
@pytest.mark.parametrize("source", ["argument", "environment", "argument over environment"])
def test_the_layer_runs_the_named_backend(monkeypatch, triton_works, calls, backend, source):
    if source == "environment":
        monkeypatch.setenv("XATTNRES_BACKEND", backend)
    elif source == "argument over environment":
        monkeypatch.setenv("XATTNRES_BACKEND", "torch" if backend == "reference" else "reference")
    layer = XAttnRes([3], 3, backend=None if source == "environment" else backend).to(DEVICE)
    history, x, *_ = (to_device(a) for a in arguments())
    layer(history, x).sum().backward()
    assert set(calls) == EXPECTED[backend]


def test_the_environment_is_read_at_every_call(monkeypatch, calls):
    layer = XAttnRes([3], 3)
    history, x, *_ = arguments()
    for backend in ("torch", "reference", "torch"):
        monkeypatch.setenv("XATTNRES_BACKEND", backend)
        layer(history, x)
    assert calls == ["torch", "reference", "torch"]


@pytest.mark.parametrize("error", [NotImplementedError("5-D"), OutOfResources(200_000, 100_000, "shared memory")])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_inputs_that_triton_does_not_support_are_computed_by_torch_with_one_warning(
    monkeypatch, triton_works, warnings, direction, error
):
    def refuse(*args):
        raise error

    assert resolve_backend("triton", DEVICE) == "triton"
    monkeypatch.setattr(triton_backend, direction, refuse)
    for _ in range(2):
        history, x, *rest = (to_device(a) for a in arguments())
        out, alpha = xattnres(history, x, *rest, backend="triton")
        expected = reference.xattnres(history, x, *rest)
        torch.testing.assert_close((out, alpha), expected, rtol=1e-5, atol=1e-6)
        gradients = (torch.autograd.grad(o.square().sum(), [*history, x]) for o in (out, expected[0]))
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    (message,) = warnings()
    assert str(error) in message
    assert "torch" in custom_op.used_backends


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_other_errors_of_triton_are_raised_with_a_way_out(monkeypatch, triton_works, direction):
    def fail(*args):
        raise IndexError("a fault of a kernel")

    assert resolve_backend("triton", DEVICE) == "triton"
    monkeypatch.setattr(triton_backend, direction, fail)
    with pytest.raises(RuntimeError, match="a fault of a kernel") as raised:
        history, x, *rest = (to_device(a) for a in arguments())
        xattnres(history, x, *rest, backend="triton")[0].sum().backward()
    assert "XATTNRES_BACKEND=torch" in str(raised.value)
    assert "torch" not in custom_op.used_backends


def test_out_of_memory_is_raised(monkeypatch, triton_works, warnings):
    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert resolve_backend("triton", DEVICE) == "triton"
    monkeypatch.setattr(triton_backend, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        xattnres(*(to_device(a) for a in arguments()), backend="triton")
    assert warnings() == []


def test_probe():
    assert triton_backend.probe_triton(DEVICE) is None


@pytest.mark.parametrize(
    ("direction", "factor"),
    [
        ("forward", 1.1),
        pytest.param("forward", float("nan"), marks=interpreter),
        pytest.param("backward", 1.1, marks=interpreter),
        ("backward", float("nan")),
    ],
)
def test_kernels_with_wrong_results_are_not_used(monkeypatch, direction, factor):
    original = getattr(triton_backend, direction)

    def wrong(*args):
        first, *others = original(*args)
        first = first * factor if direction == "forward" else [gradient * factor for gradient in first]
        return first, *others

    monkeypatch.setattr(triton_backend, direction, wrong)
    assert "differ" in triton_backend.probe_triton(DEVICE)
