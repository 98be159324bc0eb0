"""Kernels are compiled side by side before the first launch, once for arguments of the same shapes."""

import os
import subprocess
import sys

import pytest
import torch

from nnunet_xattnres.ops import triton_launch
from nnunet_xattnres.ops.triton_launch import compile_and_call, launch


class Kernel:
    """Writes down what is done with it."""

    def __init__(self, name, events):
        self.name, self.events = name, events

    def warmup(self, *arguments, grid, **options):
        self.events.append(("compile", self.name, grid, options))

    def __getitem__(self, grid):
        return lambda *arguments, **options: self.events.append(("launch", self.name, grid, options))


@pytest.fixture
def events(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(triton_launch, "_compiled", set())
    return []


@pytest.fixture
def function(events):
    first, second = Kernel("first", events), Kernel("second", events)

    def run(tensors, number):
        launch(first, (3,), tensors[0], BLOCK=number)
        launch(second, (1, 2), tensors[1], num_warps=2)
        return number

    return run


EXPECTED = [("first", (3,), {"BLOCK": 4}), ("second", (1, 2), {"num_warps": 2})]


def test_all_kernels_are_compiled_before_the_first_launch(events, function):
    assert compile_and_call(function, [torch.zeros(2), torch.zeros(3)], 4) == 4
    assert events == [(event, *call) for event in ("compile", "launch") for call in EXPECTED]


@pytest.mark.parametrize(
    ("tensors", "number", "expected"),
    [
        ([torch.ones(2), torch.ones(3)], 4, False),
        ([torch.zeros(2), torch.zeros(4)], 4, True),
        ([torch.zeros(2), torch.zeros(3).half()], 4, True),
        ([torch.zeros(2), torch.zeros(3)], 5, True),
        ([torch.zeros(2), torch.zeros(3), None], 4, True),
    ],
)
def test_kernels_are_compiled_again_for_other_shapes_only(events, function, tensors, number, expected):
    compile_and_call(function, [torch.zeros(2), torch.zeros(3)], 4)
    events.clear()
    compile_and_call(function, tensors, number)
    assert any(event == "compile" for event, *_ in events) == expected


def test_arguments_that_are_no_tensors(events, function):
    assert compile_and_call(lambda tensors, text: function(tensors, 4), [torch.zeros(2)] * 2, "text") == 4


def test_after_an_error_the_kernels_are_compiled_again(events, function):
    def fail(tensors):
        function(tensors, 4)
        raise IndexError

    for _ in range(2):
        events.clear()
        with pytest.raises(IndexError):
            compile_and_call(fail, [torch.zeros(2), torch.zeros(3)])
        assert [event for event, *_ in events] == ["compile"] * 2
    events.clear()
    launch(Kernel("first", events), (3,))
    assert events == [("launch", "first", (3,), {})]


def test_a_version_of_triton_without_this_mode_launches_only(events, function, monkeypatch):
    monkeypatch.delattr("triton.AsyncCompileMode", raising=False)
    compile_and_call(function, [torch.zeros(2), torch.zeros(3)], 4)
    assert events == [("launch", *call) for call in EXPECTED]


# in a new process, without the interpreter, whose launches are replaced by a look-up of the compiled kernel
SCRIPT = """
import contextlib
import torch, triton
from triton.backends.compiler import GPUTarget
from nnunet_xattnres.ops import triton_backend, triton_launch, triton_projection

class Driver:
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device=0: 0
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(Driver())
torch.cuda.device_of = lambda tensor: contextlib.nullcontext()
compile_kernel, late = triton.runtime.jit.JITFunction._do_compile, []

def compile_and_record(self, *arguments, **options):
    if not triton_launch._only_compile.get():
        late.append(self.__name__)
    return compile_kernel(self, *arguments, **options)

triton.runtime.jit.JITFunction._do_compile = compile_and_record

launched = set()

def launch(kernel, grid, *arguments, **options):
    kernel.warmup(*arguments, grid=grid, **options)
    if not triton_launch._only_compile.get():
        launched.add(kernel.__name__)

triton_backend.launch = triton_projection.launch = launch
sources = [torch.zeros(2, 16, 32, 32).half(), torch.zeros(2, 32, 16, 16).half(), torch.zeros(2, 16, 8, 8).half()]
x, weights = [torch.zeros(2, 32, 32, 32).half()], [torch.zeros(32, 16), None, torch.zeros(32, 16)]
operands = sources, x, weights, [torch.zeros(32), None, torch.zeros(32)], torch.zeros(32), torch.ones(1), 1e-6
triton_backend.forward(*operands)
triton_backend.backward(torch.zeros_like(x[0]), None, *operands)
print(len(launched), *late)
"""


@pytest.mark.slow
def test_no_kernel_of_the_operator_is_compiled_in_a_launch(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # all but the two of max pooling
    assert run.stdout.split() == ["14"]
