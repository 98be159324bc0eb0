"""Kernels are compiled side by side before the first launch, once for a function, and found once for a launch."""

import contextlib
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import triton

from nnunet_xattnres.ops.triton_launch import CompileFirst, Launch


class Kernel:
    """Writes down what is done with it; what it compiles knows the alignment of the tensors."""

    arg_names = ("tensor", "number", "FIRST", "SECOND")

    def __init__(self, name, events):
        self.name, self.events = name, events

    def warmup(self, tensor, number, *, grid, **options):
        self.events.append(("compile", self.name, number, grid, options))
        return Compiled(self, tensor.data_ptr() % 16)


class Compiled:
    function, packed_metadata = "function", "metadata"

    def __init__(self, kernel, alignment):
        self.kernel, self.alignment = kernel, alignment

    def run(self, x, y, z, stream, function, metadata, launch_metadata, enter_hook, exit_hook, address, *arguments):
        assert (stream, function, metadata) == (5, "function", "metadata")
        assert launch_metadata is enter_hook is exit_hook is None
        assert address % 16 == self.alignment
        self.kernel.events.append(("launch", self.kernel.name, (x, y, z), arguments))


@pytest.fixture
def events(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    active = SimpleNamespace(get_current_device=lambda: 3, get_current_stream={3: 5}.get)
    monkeypatch.setattr(triton.runtime, "driver", SimpleNamespace(active=active))
    # the oldest versions of Triton do not have it
    monkeypatch.setattr("triton.AsyncCompileMode", lambda executor: contextlib.nullcontext(), raising=False)
    return []


@pytest.fixture
def function(events):
    first = Launch(Kernel("first", events), (3,), 7, SECOND=2, FIRST=1)
    second = Launch(Kernel("second", events), (1, 2), 8, FIRST=3, SECOND=4, num_warps=2)

    def run(tensors, other=None):
        first(tensors[0])
        second(tensors[1])
        if other == "fail":
            raise IndexError
        return other

    return CompileFirst(run)


COMPILED = [
    ("compile", "first", 7, (3, 1, 1), {"FIRST": 1, "SECOND": 2}),
    ("compile", "second", 8, (1, 2, 1), {"FIRST": 3, "SECOND": 4, "num_warps": 2}),
]
LAUNCHED = [("launch", "first", (3, 1, 1), (7, 1, 2)), ("launch", "second", (1, 2, 1), (8, 3, 4))]


def test_all_kernels_are_compiled_before_the_first_launch(events, function):
    assert function([torch.zeros(2), torch.zeros(3)], 4) == 4
    assert events[:2] == COMPILED
    assert [event for event in events[2:] if event[0] == "launch"] == LAUNCHED


@pytest.mark.parametrize("others", [(), (5,)])
def test_kernels_are_found_once(events, function, others):
    function([torch.zeros(2), torch.zeros(3)], *others)
    events.clear()
    function([torch.ones(2), torch.ones(3)], *others)
    assert events == LAUNCHED


def test_a_function_compiles_again_where_other_arguments_are_none(events, function):
    function([torch.zeros(2), torch.zeros(3)], 4)
    events.clear()
    function([torch.zeros(2), torch.zeros(3)], None)
    assert events[:2] == COMPILED


def test_another_alignment_is_another_kernel(events):
    launch = Launch(Kernel("first", events), (3,), 7, FIRST=1, SECOND=2)
    aligned = torch.zeros(8)
    for tensor in (aligned, aligned[1:], aligned[4:], aligned[5:]):
        launch(tensor)
    assert [event for event, *_ in events] == ["compile", "launch", "compile", "launch", "launch", "launch"]


def test_after_an_error_the_kernels_are_compiled_again(events, function):
    tensors = [torch.zeros(2), torch.zeros(3)]
    for _ in range(2):
        events.clear()
        with pytest.raises(IndexError):
            function(tensors, "fail")
        assert events == COMPILED
    events.clear()
    # and then launches are no longer compiled only
    function(tensors, 4)
    assert events[:2] == COMPILED
    assert [event for event in events if event[0] == "launch"] == LAUNCHED


def test_a_version_of_triton_without_this_mode_compiles_in_the_launch(events, function, monkeypatch):
    monkeypatch.delattr("triton.AsyncCompileMode", raising=False)
    function([torch.zeros(2), torch.zeros(3)])
    assert events == [COMPILED[0], LAUNCHED[0], COMPILED[1], LAUNCHED[1]]


# in a new process, without the interpreter, with a driver that launches nothing
SCRIPT = """
import contextlib
from types import SimpleNamespace
import torch, triton
from triton.backends.compiler import GPUTarget
from nnunet_xattnres.ops import triton_backend, triton_launch

launched = set()

class Launcher:
    def __init__(self, source, metadata):
        self.name, self.number = metadata.name, len(source.signature)
    def __call__(self, x, y, z, stream, function, metadata, launch_metadata, enter_hook, exit_hook, *arguments):
        # Triton passes the compile-time arguments, too
        assert len(arguments) == self.number and min(x, y, z) > 0
        launched.add(self.name)

class Driver:
    launcher_cls = Launcher
    utils = SimpleNamespace(
        load_binary=lambda name, *arguments: (name, name, 100, 0, 1024),
        get_device_properties=lambda device: {"max_shared_mem": 227 * 1024},
    )
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
sources = [torch.zeros(2, 16, 32, 32).half(), torch.zeros(2, 32, 16, 16).half(), torch.zeros(2, 16, 8, 8).half()]
x, weights = [torch.zeros(2, 32, 32, 32).half()], [torch.zeros(32, 16), None, torch.zeros(32, 16)]
operands = sources, x, weights, [torch.zeros(32), None, torch.zeros(32)], torch.zeros(32), torch.ones(1), 1e-6
triton_backend.forward(*operands)
triton_backend.backward(torch.zeros_like(x[0]), None, *operands)
print(len(launched), *late)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(triton, "AsyncCompileMode"), reason="this version compiles one kernel after the other")
def test_no_kernel_of_the_operator_is_compiled_in_a_launch(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # all but the two of max pooling
    assert run.stdout.split() == ["13"]
