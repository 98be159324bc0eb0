"""Kernels are compiled side by side for the dtypes of their tensors, once, and launched with addresses."""

import contextlib
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl
from support.operator import DEVICE
from triton.runtime.errors import OutOfResources

from nnunet_xattnres.ops import triton_launch
from nnunet_xattnres.ops.triton_launch import Launch, as_operand, compile_launches, memory_of


class Kernel:
    """Writes down what is done with it."""

    arg_names = ("tensor", "other", "number", "FIRST", "SECOND")

    def __init__(self, name, events):
        self.name, self.events = name, events

    def warmup(self, *arguments, grid, **options):
        for pointer in arguments[:2]:
            # aligned, and of any size: the compiler must not compute offsets with 32 bits
            assert pointer.data_ptr() == 0
            assert pointer.ptr_range() > 2**31
        arguments = *(pointer.dtype for pointer in arguments[:2]), *arguments[2:]
        self.events.append(("compile", self.name, arguments, grid, options))
        return Compiled(self)


class Compiled:
    function, packed_metadata = "function", "metadata"

    def __init__(self, kernel):
        self.kernel = kernel

    def run(self, x, y, z, stream, function, metadata, launch_metadata, enter_hook, exit_hook, *arguments):
        assert (stream, function, metadata) == (5, "function", "metadata")
        assert launch_metadata is enter_hook is exit_hook is None
        self.kernel.events.append(("launch", self.kernel.name, (x, y, z), arguments))


@pytest.fixture
def events(monkeypatch):
    monkeypatch.setattr(triton_launch, "_IS_INTERPRETED", False)
    active = SimpleNamespace(get_current_device=lambda: 3, get_current_stream={3: 5}.get)
    monkeypatch.setattr(triton.runtime, "driver", SimpleNamespace(active=active))
    # the oldest versions of Triton do not have it
    monkeypatch.setattr("triton.AsyncCompileMode", lambda executor: side_by_side(events), raising=False)
    events = []
    return events


@contextlib.contextmanager
def side_by_side(events):
    """In its body, kernels are compiled in threads."""
    events.append("begin")
    yield
    events.append("end")


@pytest.fixture
def launches(events):
    halves, single = (torch.float16, torch.float16), (torch.float32, torch.int32)
    return [
        Launch(Kernel("first", events), (3,), halves, 7, SECOND=2, FIRST=1),
        Launch(Kernel("second", events), (1, 2), single, 8, FIRST=3, SECOND=4, num_warps=2),
    ]


COMPILED = [
    ("compile", "first", (torch.float16, torch.float16, 7), (3, 1, 1), {"FIRST": 1, "SECOND": 2}),
    ("compile", "second", (torch.float32, torch.int32, 8), (1, 2, 1), {"FIRST": 3, "SECOND": 4, "num_warps": 2}),
]
LAUNCHED = [("launch", "first", (3, 1, 1), (16, 32, 7, 1, 2)), ("launch", "second", (1, 2, 1), (48, 64, 8, 3, 4))]


def launch_all(launches):
    launches[0](16, 32)
    launches[1](48, 64)


def test_kernels_are_compiled_side_by_side_for_the_dtypes_of_their_tensors_and_then_loaded(events, launches):
    compile_launches(launches)
    # to load a kernel is to ask for it once more
    assert events == ["begin", *COMPILED, "end", *COMPILED]
    events.clear()
    compile_launches(launches)
    assert events == []


def test_a_version_of_triton_without_this_mode_compiles_one_after_the_other(events, launches, monkeypatch):
    monkeypatch.delattr("triton.AsyncCompileMode")
    compile_launches(launches)
    assert events == [*COMPILED, *COMPILED]


def test_launches_have_addresses_and_the_values_of_compile_time_arguments(events, launches):
    compile_launches(launches)
    events.clear()
    launch_all(launches)
    assert events == LAUNCHED


def test_a_launch_compiles_its_kernel_itself_if_nobody_has(events, launches):
    launch_all(launches)
    assert events == [COMPILED[0], LAUNCHED[0], COMPILED[1], LAUNCHED[1]]


def test_nothing_is_launched_if_one_of_the_kernels_cannot_be_loaded(events, launches, monkeypatch):
    def out_of_resources(compiled):
        if compiled.kernel.name == "second":
            raise OutOfResources(2, 1, "registers")
        return "function"

    monkeypatch.setattr(Compiled, "function", property(out_of_resources))
    for _ in range(2):
        with pytest.raises(OutOfResources):
            compile_launches(launches)
    assert not [event for event in events if event[0] == "launch"]


def test_the_memory_of_a_tensor_is_its_address(events):
    tensor = torch.zeros(3)
    assert memory_of(tensor) == tensor.data_ptr()


def shifted(tensor):
    """The same values, one element later in memory."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


@pytest.mark.parametrize("change", [torch.Tensor.double, shifted, lambda t: t.t().contiguous().t()])
def test_operands_are_copied_only_where_the_kernels_could_not_read_them(change):
    tensor = torch.arange(12.0).view(3, 4)
    assert as_operand(tensor, torch.float32) is tensor
    copy = as_operand(change(tensor), torch.float32)
    assert torch.equal(copy, tensor)
    assert copy.dtype == torch.float32
    assert copy.is_contiguous()
    assert copy.data_ptr() % 16 == 0


@triton.jit
def copy_kernel(source, result, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(result + i, tl.load(source + i))


@pytest.mark.skipif(DEVICE != "cpu", reason="a compiled kernel has addresses only")
@pytest.mark.parametrize("change", [torch.Tensor.double, shifted, lambda t: t.view(4, 4).t()])
def test_the_interpreter_refuses_tensors_for_which_a_compiled_kernel_would_be_wrong(change):
    launch = Launch(copy_kernel, (1,), (torch.float32, torch.float32), BLOCK=16)
    source, result = torch.arange(16.0), torch.zeros(16)
    launch(source, result)
    assert torch.equal(result, source)
    for operands in ((change(source), result), (source, change(result))):
        with pytest.raises(ValueError, match=r"copy_kernel: expected an aligned contiguous tensor in torch\.float32"):
            launch(*operands)


# in a new process, without the interpreter, with a driver that launches nothing: layers of the channels of the parts of
# x, its size, the channels and sizes of the history, and the number of samples
SCRIPT = """
import ast, contextlib, sys
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
load = triton_launch.Launch.load

def load_and_record(self):
    def record(kernel, *arguments, **options):
        late.append(kernel.__name__)
        return compile_kernel(kernel, *arguments, **options)
    triton.runtime.jit.JITFunction._do_compile = record
    load(self)
    triton.runtime.jit.JITFunction._do_compile = compile_kernel

triton_launch.Launch.load = load_and_record
for widths, size, history, batch in ast.literal_eval(sys.argv[1]):
    channels = sum(widths)
    sources = [torch.zeros(batch, c, *s).half() for c, s in history]
    x = [torch.zeros(batch, c, *size).half() for c in widths]
    weights = [None if c == channels else torch.zeros(channels, c) for c, _ in history]
    biases = [None if weight is None else torch.zeros(channels) for weight in weights]
    operands = sources, x, weights, biases, torch.zeros(channels), torch.ones(1), 1e-6
    out, attention = triton_backend.forward(*operands)
    triton_backend.backward(out, attention, *operands)
print(len(launched), *late)
"""


def compile_and_launch(layers, folder):
    """The number of kernels that were launched, and the names of those that were compiled in a launch."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder)}
    environment.pop("TRITON_INTERPRET", None)
    run = subprocess.run([sys.executable, "-c", SCRIPT, repr(layers)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(triton, "AsyncCompileMode"), reason="this version compiles one kernel after the other")
def test_no_kernel_of_the_operator_is_compiled_in_a_launch(tmp_path):
    layer = [32], (32, 32), [(16, (32, 32)), (32, (16, 16)), (16, (8, 8))], 2
    # all kernels but the two of max pooling
    assert compile_and_launch([layer], tmp_path) == ["15"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(triton, "AsyncCompileMode"), reason="this version has another interface of drivers")
def test_kernels_compile_where_arguments_are_one(tmp_path):
    """Triton compiles a kernel of its own for an argument of 1, which is then a constant."""
    layers = [
        ([1], (1, 1), [(1, (1, 1))], 1),
        ([1], (8, 8), [(1, (8, 8)), (3, (4, 4))], 1),
        ([1, 1], (8, 1), [(1, (4, 1)), (2, (2, 1)), (1, (1, 1))], 1),
        ([3], (1, 16), [(5, (1, 4)), (1, (1, 1))], 2),
        ([1], (16, 16, 1), [(1, (8, 8, 1)), (1, (1, 1, 1))], 1),
        ([2, 2], (1, 1, 1), [(1, (1, 1, 1)), (4, (1, 1, 1))], 1),
        ([1], (1, 8, 8), [(2, (1, 4, 4)), (7, (1, 8, 8))], 1),
    ]
    assert compile_and_launch(layers, tmp_path)[0] == "15"
