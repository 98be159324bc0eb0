"""Time and memory of several networks. They are measured in turns, so that a busy machine slows all of them down."""

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._dynamo
from torch import nn

from ..utils.errors import is_out_of_memory, last_line
from ..utils.multiply_adds import count_multiply_adds
from .cases import Case
from .networks import STOCK, MeasuredNetwork, plain, start_training

_REFERENCE_MEMORY_FACTOR = 30
"""The memory of the reference equations, relative to what the stock network keeps for backward (an estimate)."""

_MAX_OVERFLOWS = 20
"""The number of steps in which the gradient scaler may search for its scale during the warm-up."""

PHASES = ("forward", "backward", "step", "inference")


@dataclass(frozen=True)
class MeasureOptions:
    """The options of a measurement.

    Attributes:
        device: where they run.
        amp: whether they run in mixed precision.
        compile: whether they run through torch.compile.
        repeats: the number of measured steps.
        reference_repeats: the number of measured steps of the reference equations, which are slow.
        first_step: whether the first step of every network is measured in a process of its own.
        checkpoint: whether the networks of this package compute some stages again in the backward pass.
    """

    device: torch.device
    amp: bool
    compile: bool
    repeats: int
    reference_repeats: int
    first_step: bool = False
    checkpoint: bool = False


@dataclass
class FirstStep:
    """The first training step of a network in a process of its own, with empty caches of the compilers.

    Attributes:
        seconds: from the call of the step to its end, with compilation and warm-up.
        peak_allocated, peak_reserved: the largest memory in bytes, on CUDA only.
        failure: the reason why the step could not be measured, or None.
    """

    seconds: float | None = None
    peak_allocated: int | None = None
    peak_reserved: int | None = None
    failure: str | None = None


@dataclass
class Measurement:
    """The measurement of one network.

    Attributes:
        name: name of the network, for tables.
        trainer: name of its trainer.
        parameters: the number of parameters.
        flops: floating point operations of a forward pass: convolutions, matrix products, attention.
        saved_bytes: bytes that a forward pass keeps for backward, without the parameters.
        seconds: the seconds of every repeat by phase.
        peak_allocated, peak_reserved: the largest memory of a training step in bytes, on CUDA only.
        first_step: the first training step, if it was measured.
        failure: the reason why the network could not be run, or None.
    """

    name: str
    trainer: str = ""
    parameters: int = 0
    flops: int = 0
    saved_bytes: int = 0
    seconds: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    peak_allocated: int | None = None
    peak_reserved: int | None = None
    first_step: FirstStep | None = None
    failure: str | None = None

    def median(self, phase: str) -> float:
        """The median of the seconds of a phase."""
        return statistics.median(self.seconds[phase])


class _Stopwatch:
    """The times of consecutive parts of a step.

    On CUDA they are measured by events: waiting for the device between the parts would slow the step down.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._marks: list[Any] = []
        self._synchronize()
        self.mark()
        self._start = time.perf_counter()

    def mark(self) -> None:
        """End a part and begin the next."""
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                event = torch.cuda.Event(enable_timing=True)
                event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def stop(self) -> float:
        """End the last part; returns the seconds of all parts together."""
        self._synchronize()
        return time.perf_counter() - self._start

    def parts(self) -> list[float]:
        """The seconds between the marks."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if self._device.type == "cuda":
            return [start.elapsed_time(end) / 1000 for start, end in pairs]
        return [end - start for start, end in pairs]

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class NetworkRunner:
    """A network with what its trainer's training step has: loss at all scales, optimiser, gradient scaler, clipping.

    Nothing is computed before the first call of a method.

    Args:
        case: plans, patch size and batch size.
        network: the network.
        options: how it is run.

    Raises:
        Exception: of any type, if its trainer cannot train the case.
    """

    def __init__(self, case: Case, network: MeasuredNetwork, options: MeasureOptions):
        self.backend = network.backend
        self.options = options
        device = options.device
        torch.manual_seed(0)
        self.trainer = start_training(network, case, device, options.compile, options.checkpoint)
        self.network, self.plain = self.trainer.network, plain(self.trainer)
        self.scaler = torch.amp.GradScaler(device.type) if options.amp and device.type == "cuda" else None
        self.image = torch.randn(case.batch_size, case.input_channels, *case.patch_size, device=device)
        scales = self.trainer._get_deep_supervision_scales()
        targets = [
            torch.randint(max(case.num_classes, 2), (case.batch_size, 1, *size), device=device).float()
            for size in target_sizes(case.patch_size, scales)
        ]
        self.target = targets[0] if scales is None else targets

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.options.device.type) if self.options.amp else contextlib.nullcontext()

    def _set_mode(self, training: bool) -> None:
        self.plain.train(training)
        self.trainer.set_deep_supervision_enabled(training and self.trainer.enable_deep_supervision)

    def train_step(self) -> dict[str, float]:
        """Run one training step; returns its seconds by phase."""
        self._set_mode(training=True)
        optimizer = self.trainer.optimizer
        stopwatch = _Stopwatch(self.options.device)
        with self._autocast():
            loss = self.trainer.loss(self.network(self.image), self.target)
        stopwatch.mark()
        if self.scaler:
            self.scaler.scale(loss).backward()
        else:
            loss.backward()
        stopwatch.mark()
        if self.scaler:
            self.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(self.plain.parameters(), 12)
        if self.scaler:
            self.scaler.step(optimizer)
            self.scaler.update()
        else:
            optimizer.step()
        step = stopwatch.stop()
        optimizer.zero_grad(set_to_none=True)  # the other networks may need the memory
        forward, backward = stopwatch.parts()
        return {"forward": forward, "backward": backward, "step": step}

    def predict(self) -> dict[str, float]:
        """Predict the batch once; returns the seconds."""
        self._set_mode(training=False)
        stopwatch = _Stopwatch(self.options.device)
        with torch.inference_mode(), self._autocast():
            self.network(self.image)
        return {"inference": stopwatch.stop()}

    def warm_up(self, steps: int) -> None:
        """Train and predict `steps` times, not counting steps that the gradient scaler skips to find its scale."""
        for _ in range(steps + _MAX_OVERFLOWS):
            scale = self.scaler.get_scale() if self.scaler else 1.0
            self.train_step()
            if self.scaler is None or self.scaler.get_scale() >= scale:
                self.predict()
                steps -= 1
            if steps == 0:
                break

    def record_sizes(self, measurement: Measurement) -> None:
        """Record the parameters, the FLOPs of a forward pass, and the bytes that it keeps for backward."""
        measurement.parameters = sum(p.numel() for p in self.plain.parameters())
        parameter_storages = {p.untyped_storage().data_ptr() for p in self.plain.parameters()}
        saved: dict[int, int] = {}  # bytes by the address of the storage
        alive = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameter_storages:
                saved[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor)  # otherwise another tensor could get the same address
            return tensor

        self._set_mode(training=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), self._autocast():
            self.plain(self.image)
        measurement.saved_bytes = sum(saved.values())
        alive.clear()
        with self._autocast():
            measurement.flops = 2 * sum(count_multiply_adds(self.plain, self.image))


def target_sizes(patch_size: Sequence[int], scales: Sequence[Sequence[float]] | None) -> list[tuple[int, ...]]:
    """The spatial sizes of the label maps that nnU-Net makes for a trainer's `_get_deep_supervision_scales`."""
    if scales is None:
        return [tuple(patch_size)]
    return [tuple(round(side * factor) for side, factor in zip(patch_size, scale, strict=True)) for scale in scales]


def measure(
    case: Case,
    networks: Sequence[MeasuredNetwork],
    options: MeasureOptions,
    show_progress: Callable[[str], None] = lambda message: None,
) -> list[Measurement]:
    """Measure several networks of one case in turns.

    A network whose trainer cannot train the case, or that does not fit into the memory, is recorded as such, and the
    others are still measured.

    Args:
        case: plans, patch size and batch size.
        networks: the networks, with different names.
        options: how the networks are run.
        show_progress: called with one line before each part of the work.

    Returns:
        One measurement per network, in their order.
    """
    torch.backends.cudnn.benchmark = True  # as nnU-Net trains
    torch.compiler.reset()  # otherwise the shapes of an earlier case make the compiled graphs dynamic
    # the networks share the code that is compiled, and each has two modes
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(networks))
    runners: dict[str, NetworkRunner] = {}
    results = {network.name: Measurement(network.name, network.trainer) for network in networks}
    for network in networks:
        result = results[network.name]
        show_progress(f"{case.name}: {network.name}: sizes and warm-up")
        if network.backend == "reference" and _exceeds_cpu_memory(results.get(STOCK.name), options.device):
            result.failure = "not tried: it would take most of this machine's memory"
            continue
        before = _memory_in_use(options.device)
        with _record_out_of_memory(result, runners), _record_what_a_trainer_raises(result, runners):
            runners[network.name] = NetworkRunner(case, network, options)
            runners[network.name].record_sizes(result)
        if result.failure:
            continue
        with _record_out_of_memory(result, runners):
            runners[network.name].warm_up(1 if network.backend == "reference" else 2)
            _record_peak_memory(result, runners[network.name], before)
    for repeat in range(options.repeats):
        for name in list(runners):
            result = results[name]
            if runners[name].backend == "reference" and repeat >= options.reference_repeats:
                continue
            show_progress(f"{case.name}: {name}: {repeat + 1}/{options.repeats}")
            with _record_out_of_memory(result, runners):
                if repeat == 0 and options.device.type == "cuda":
                    runners[name].train_step()  # the allocator's cache is empty after the measurement of the memory
                for phase, seconds in (runners[name].train_step() | runners[name].predict()).items():
                    result.seconds[phase].append(seconds)
    return list(results.values())


def _exceeds_cpu_memory(stock: Measurement | None, device: torch.device) -> bool:
    """Whether the reference equations would exceed the memory of a CPU, where the system kills the whole process."""
    if stock is None or device.type != "cpu" or "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return False
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _REFERENCE_MEMORY_FACTOR * stock.saved_bytes > available


@contextlib.contextmanager
def _record_out_of_memory(measurement: Measurement, runners: dict[str, NetworkRunner]) -> Iterator[None]:
    """Record an out-of-memory error as the failure of a network, and free it for the others, instead of raising."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        measurement.failure = "out of memory"
    if measurement.failure:
        runners.pop(measurement.name, None)
        free_memory()


@contextlib.contextmanager
def _record_what_a_trainer_raises(measurement: Measurement, runners: dict[str, NetworkRunner]) -> Iterator[None]:
    """Record any error but a lack of memory as the failure of a network: its trainer cannot train the case."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        measurement.failure = last_line(error)
    if measurement.failure:
        runners.pop(measurement.name, None)
        free_memory()


def free_memory() -> None:
    """Give memory that is no longer used back to the device."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _memory_in_use(device: torch.device) -> tuple[int, int]:
    """The bytes that other networks have allocated and reserved on CUDA."""
    free_memory()
    if device.type != "cuda":
        return 0, 0
    # matrix products have a workspace, which the first of them would have to bear
    half = torch.ones(16, 16, device=device, dtype=torch.float16)
    torch.mm(half, half)
    return torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)


def _record_peak_memory(measurement: Measurement, runner: NetworkRunner, before: tuple[int, int]) -> None:
    """Record the largest memory of a training step on CUDA, without what was in use before the network was made.

    In a step that is not timed: the allocator's cache is emptied before it.
    """
    device = runner.options.device
    if device.type != "cuda":
        return
    free_memory()
    torch.cuda.reset_peak_memory_stats(device)
    runner.train_step()
    measurement.peak_allocated = torch.cuda.max_memory_allocated(device) - before[0]
    measurement.peak_reserved = torch.cuda.max_memory_reserved(device) - before[1]
