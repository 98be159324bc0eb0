"""Every call of the operator in one training step, replayed alone: time, memory traffic and kernel launches."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from ..ops import custom_op
from ..utils.errors import is_out_of_memory
from .cases import Case
from .measure import MeasureOptions, NetworkRunner, free_memory
from .networks import MeasuredNetwork

_COPY_BYTES = {"cpu": 2**27, "cuda": 2**30}
"""The size of the copy that measures the bandwidth; larger than all caches."""

_FLUSH_BYTES = 2**28
"""What is written before every replay on CUDA, so that the inputs are not in the cache of the device."""


@dataclass(frozen=True)
class LayerCall:
    """One call of the operator.

    Attributes:
        layer: the name of the XAttnRes layer.
        function: "forward" or "backward".
        channels: C.
        size: the spatial size.
        history: the number of features in the history.
        seconds: the seconds of every replay.
        bytes: the bytes of all different tensors that go in or come out, each counted once.
        launches: the number of kernels, copies and fills that are started on CUDA, None where the profiler sees none;
            the number of PyTorch operators elsewhere.
    """

    layer: str
    function: str
    channels: int
    size: tuple[int, ...]
    history: int
    seconds: list[float]
    bytes: int
    launches: int | None

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)


@dataclass
class LayerMeasurement:
    """All calls of one training step.

    Attributes:
        bandwidth: bytes per second that a large copy reads and writes.
        on_cuda: whether the device is a GPU.
        calls: the calls in the order in which they ran.
    """

    bandwidth: float
    on_cuda: bool
    calls: list[LayerCall] = field(default_factory=list)

    def floor(self, call: LayerCall) -> float:
        """The seconds in which the device reads and writes the bytes of a call."""
        return call.bytes / self.bandwidth


def measure_layers(
    case: Case,
    network: MeasuredNetwork,
    options: MeasureOptions,
    show_progress: Callable[[str], None] = lambda message: None,
) -> LayerMeasurement:
    """Replay every call of the operator in one training step, where it happens.

    So the inputs of one call at a time are needed, and nothing is kept. The network is not compiled: the operator is
    the same code there.

    Args:
        case: plans, patch size and batch size.
        network: a network with XAttnRes.
        options: how the network is run, and the number of replays.
        show_progress: called with one line before each replay.
    """
    free_memory()
    measurement = LayerMeasurement(_measure_bandwidth(options.device), options.device.type == "cuda")
    runner = NetworkRunner(case, network, replace(options, compile=False))
    runner.warm_up(1)
    current = ""
    names: dict[tuple, str] = {}  # of the layers, by the shapes of what they compute on

    def remember(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            nonlocal current
            current = name

        return hook

    def record(function: str, compute: Callable[[], Any], arguments: tuple, result: Any) -> None:
        features, parts = _tensor_lists(arguments)[:2]
        key = tuple(tuple(t.shape) for t in (*features, *parts))
        name = names.setdefault(key, current) if function == "forward" else names.get(key, "?")
        show_progress(f"{case.name}: {function} of {name}")
        measurement.calls.append(
            LayerCall(
                name,
                function,
                sum(part.shape[1] for part in parts),
                tuple(parts[0].shape[2:]),
                len(features),
                time_repeats(compute, options.device, options.repeats, flush=True),
                _count_bytes(arguments) + _count_bytes(result),
                _count_launches(compute, options.device),
            )
        )

    with contextlib.ExitStack() as stack:
        for name, module in runner.plain.named_modules():
            if hasattr(module, "pseudo_query"):
                stack.callback(module.register_forward_pre_hook(remember(name)).remove)
        stack.enter_context(_intercept(record))
        # in this thread, whose profiler and settings apply
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        runner.train_step()
    return measurement


@contextlib.contextmanager
def _intercept(record: Callable[[str, Callable[[], Any], tuple, Any], None]) -> Iterator[None]:
    """Call `record` after every call of the operator, with a function that repeats it, its arguments and its result."""
    compute = custom_op._compute

    def intercepted(function: str, backend: str, *arguments: Any, **options: Any) -> Any:
        def again() -> Any:
            return compute(function, backend, *arguments, **options)

        result = again()
        record(function, again, (*arguments, *options.values()), result)
        return result

    custom_op._compute = intercepted
    try:
        yield
    finally:
        custom_op._compute = compute


def time_repeats(compute: Callable[[], Any], device: torch.device, repeats: int, flush: bool = False) -> list[float]:
    """The seconds of every repeat, after one that is not timed.

    Args:
        flush: whether something large is written on CUDA before each.
    """
    seconds = []
    if device.type != "cuda":
        for _ in range(repeats + 1):
            start = time.perf_counter()
            compute()
            seconds.append(time.perf_counter() - start)
        return seconds[1:]
    with torch.cuda.device(device):
        cache = torch.empty(_FLUSH_BYTES if flush else 0, dtype=torch.int8, device=device)
        for _ in range(repeats + 1):
            cache.zero_()
            start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start_event.record()
            compute()
            end_event.record()
            end_event.synchronize()
            seconds.append(start_event.elapsed_time(end_event) / 1000)
    return seconds[1:]


def _measure_bandwidth(device: torch.device) -> float:
    """The bytes per second that one large copy reads and writes."""
    source = torch.ones(_COPY_BYTES.get(device.type, 2**27) // 4, device=device)
    target = torch.empty_like(source)
    seconds = time_repeats(lambda: target.copy_(source), device, repeats=5)
    return 2 * source.nbytes / statistics.median(seconds)


def _tensor_lists(arguments: tuple) -> list[list[Tensor]]:
    """The lists of tensors among the arguments: first the history, then the parts of x."""
    return [
        list(argument)
        for argument in arguments
        if isinstance(argument, (list, tuple)) and argument and all(isinstance(t, Tensor) for t in argument)
    ]


def _count_bytes(values: Any) -> int:
    """The bytes of the tensors in nested lists; tensors on the same memory, such as a skip connection, count once."""
    tensors: dict[tuple, int] = {}

    def collect(value: Any) -> None:
        if isinstance(value, Tensor):
            size = min(value.nbytes, value.untyped_storage().nbytes())
            tensors[value.data_ptr(), tuple(value.shape)] = size
        elif isinstance(value, (list, tuple)):
            for item in value:
                collect(item)

    collect(values)
    return sum(tensors.values())


class _OperatorCounter(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def _count_launches(compute: Callable[[], Any], device: torch.device) -> int | None:
    if device.type != "cuda":
        with _OperatorCounter() as counter:
            compute()
        return counter.count
    torch.cuda.synchronize(device)
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            compute()
            torch.cuda.synchronize(device)
        events = profiler.events() or []
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return None  # the profiler cannot be used on this machine
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events) or None
