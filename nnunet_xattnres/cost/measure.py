"""Time and memory of several networks. They are measured in turns, so that a busy machine slows all of them down."""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .cases import Case

_REFERENCE_MEMORY_FACTOR = 30
"""The memory of the reference equations, relative to what the stock network keeps for backward (an estimate)."""

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
    """

    device: torch.device
    amp: bool
    compile: bool
    repeats: int
    reference_repeats: int


@dataclass
class Measurement:
    """The measurement of one network.

    Attributes:
        name: name of the network, for tables.
        parameters: the number of parameters.
        flops: floating point operations of a forward pass.
        saved_bytes: bytes that a forward pass keeps for backward, without the parameters.
        seconds: the seconds of every repeat by phase.
        peak_allocated, peak_reserved: the largest memory of a repeat in bytes, on CUDA only.
        failure: the reason why the network could not be run, or None.
    """

    name: str
    parameters: int = 0
    flops: int = 0
    saved_bytes: int = 0
    seconds: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    peak_allocated: int | None = None
    peak_reserved: int | None = None
    failure: str | None = None

    def median(self, phase: str) -> float:
        """The median of the seconds of a phase."""
        return statistics.median(self.seconds[phase])


class _NetworkRunner:
    """A network with what nnU-Net's training step has: loss at all scales, optimiser, gradient scaler, clipping."""

    def __init__(self, case: Case, backend: str | None, options: MeasureOptions):
        self.options = options
        device = options.device
        torch.manual_seed(0)
        network = case.build(backend).to(device)
        self.plain = network
        self.network: Callable[[torch.Tensor], list[torch.Tensor]] = network
        if options.compile:
            self.network = torch.compile(network)
        self.optimizer = torch.optim.SGD(network.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)
        self.scaler = torch.amp.GradScaler(device.type) if options.amp and device.type == "cuda" else None
        self.image = torch.randn(case.batch_size, case.input_channels, *case.patch_size, device=device)
        with torch.no_grad(), self._autocast():
            shapes = [scale.shape for scale in network(self.image)]
        self.target = [torch.randint(case.num_classes, (s[0], 1, *s[2:]), device=device).float() for s in shapes]
        loss = DC_and_CE_loss(
            {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}, {},
            dice_class=MemoryEfficientSoftDiceLoss,
        )  # fmt: skip
        if options.compile:
            loss.dc = torch.compile(loss.dc)
        weights = np.array([1 / 2**i for i in range(len(shapes))])
        weights[-1] = 0 if len(shapes) > 1 else 1
        self.loss = DeepSupervisionWrapper(loss, weights / weights.sum())

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.options.device.type) if self.options.amp else contextlib.nullcontext()

    def _set_mode(self, training: bool) -> None:
        self.plain.train(training)
        decoder: Any = self.plain.decoder
        decoder.deep_supervision = training

    def train_step(self) -> dict[str, float]:
        """Run one training step; returns its seconds by phase."""
        self._set_mode(training=True)
        self.optimizer.zero_grad(set_to_none=True)
        start = self._now()
        with self._autocast():
            loss = self.loss(self.network(self.image), self.target)
        after_forward = self._now()
        if self.scaler:
            self.scaler.scale(loss).backward()
        else:
            loss.backward()
        after_backward = self._now()
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.plain.parameters(), 12)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        return {
            "forward": after_forward - start,
            "backward": after_backward - after_forward,
            "step": self._now() - start,
        }

    def predict(self) -> dict[str, float]:
        """Predict the batch once; returns the seconds."""
        self._set_mode(training=False)
        start = self._now()
        with torch.inference_mode(), self._autocast():
            self.network(self.image)
        return {"inference": self._now() - start}

    def _now(self) -> float:
        if self.options.device.type == "cuda":
            torch.cuda.synchronize(self.options.device)
        return time.perf_counter()

    def persistent_bytes(self) -> int:
        """Bytes that stay allocated between steps: parameters, gradients, momenta, image and target."""
        momenta = [t for state in self.optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
        parameters = list(self.plain.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        return sum(t.nbytes for t in (*parameters, *gradients, *momenta, self.image, *self.target))

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

        counter = FlopCounterMode(display=False)
        with counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), self._autocast():
            self.plain(self.image)
        measurement.flops = counter.get_total_flops()
        measurement.saved_bytes = sum(saved.values())


def measure(
    case: Case,
    backends: Mapping[str, str | None],
    options: MeasureOptions,
    show_progress: Callable[[str], None] = lambda message: None,
) -> list[Measurement]:
    """Measure several networks of one case in turns.

    A network that does not fit into the memory is recorded as such, and the others are still measured.

    Args:
        case: the planned network.
        backends: the backend by the name of each network; None for the stock network, which has no XAttnRes.
        options: how the networks are run.
        show_progress: called with one line before each part of the work.

    Returns:
        One measurement per network, in the order of `backends`.
    """
    torch.backends.cudnn.benchmark = True  # as nnU-Net trains
    torch.compiler.reset()  # otherwise the shapes of an earlier case make the compiled graphs dynamic
    runners: dict[str, _NetworkRunner] = {}
    results = {name: Measurement(name) for name in backends}
    for name, backend in backends.items():
        show_progress(f"{case.name}: {name}: sizes and warm-up")
        if backend == "reference" and _exceeds_cpu_memory(results.get("stock"), options.device):
            results[name].failure = "not tried: it would take most of this machine's memory"
            continue
        with _record_out_of_memory(results[name]):
            runners[name] = _NetworkRunner(case, backend, options)
            runners[name].record_sizes(results[name])
            for _ in range(1 if backend == "reference" else 2):
                runners[name].train_step()
                runners[name].predict()
    for repeat in range(options.repeats):
        for name, runner in runners.items():
            result = results[name]
            if result.failure or (backends[name] == "reference" and repeat >= options.reference_repeats):
                continue
            show_progress(f"{case.name}: {name}: {repeat + 1}/{options.repeats}")
            with _record_out_of_memory(result), _record_peak_memory(result, runner):
                for phase, seconds in (runner.train_step() | runner.predict()).items():
                    result.seconds[phase].append(seconds)
    return list(results.values())


def _exceeds_cpu_memory(stock: Measurement | None, device: torch.device) -> bool:
    """Whether the reference equations would exceed the memory of a CPU, where the system kills the whole process."""
    if stock is None or device.type != "cpu" or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return False
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _REFERENCE_MEMORY_FACTOR * stock.saved_bytes > available


@contextlib.contextmanager
def _record_out_of_memory(measurement: Measurement) -> Iterator[None]:
    """Record an out-of-memory error as the failure of a network instead of raising it."""
    try:
        yield
    except RuntimeError as error:
        # the allocator of the CPU raises a plain RuntimeError
        if not isinstance(error, torch.OutOfMemoryError) and "not enough memory" not in str(error):
            raise
        measurement.failure = "out of memory"


@contextlib.contextmanager
def _record_peak_memory(measurement: Measurement, runner: _NetworkRunner) -> Iterator[None]:
    """Record the largest memory of a repeat on CUDA, without the memory that the other networks hold."""
    device = runner.options.device
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    others = torch.cuda.memory_allocated(device) - runner.persistent_bytes()
    yield
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    measurement.peak_allocated = max(measurement.peak_allocated or 0, allocated - others)
    measurement.peak_reserved = max(measurement.peak_reserved or 0, reserved - others)
