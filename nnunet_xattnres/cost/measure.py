"""Times and sizes of several networks, interleaved, so that whatever slows the machine slows them all."""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .cases import Case

# what the literal equations keep for backward, beside gradients of the same size, roughly
_LITERAL_TIMES_STOCK = 30

PHASES = ("forward", "backward", "step", "inference")


@dataclass(frozen=True)
class MeasureOptions:
    """How a network is run: where, in which precision, compiled or not, and how often."""

    device: torch.device
    amp: bool
    compile: bool
    repeats: int
    literal_repeats: int


@dataclass
class Measured:
    """One network: sizes, seconds of every repeat by phase, bytes; or the reason why it could not be run."""

    name: str
    parameters: int = 0
    flops: int = 0
    saved_bytes: int = 0
    seconds: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    peak_allocated: int | None = None
    peak_reserved: int | None = None
    failure: str | None = None

    def median(self, phase: str) -> float:
        return statistics.median(self.seconds[phase])


class _Runner:
    """A network with everything a training step of nnU-Net has: loss at all scales, optimiser, scaler, clipping."""

    def __init__(self, case: Case, backend: str | None, setting: MeasureOptions):
        self.setting = setting
        device = setting.device
        torch.manual_seed(0)
        network = case.build(backend).to(device)
        self.plain = network
        self.network = torch.compile(network) if setting.compile else network
        self.optimizer = torch.optim.SGD(network.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)
        self.scaler = torch.amp.GradScaler(device.type) if setting.amp and device.type == "cuda" else None
        self.image = torch.randn(case.batch_size, case.input_channels, *case.patch_size, device=device)
        with torch.no_grad(), self._autocast():
            shapes = [scale.shape for scale in network(self.image)]
        self.target = [torch.randint(case.num_classes, (s[0], 1, *s[2:]), device=device).float() for s in shapes]
        loss = DC_and_CE_loss(
            {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}, {},
            dice_class=MemoryEfficientSoftDiceLoss,
        )  # fmt: skip
        if setting.compile:
            loss.dc = torch.compile(loss.dc)
        weights = np.array([1 / 2**i for i in range(len(shapes))])
        weights[-1] = 0 if len(shapes) > 1 else 1
        self.loss = DeepSupervisionWrapper(loss, weights / weights.sum())

    def _autocast(self):
        setting = self.setting
        return torch.autocast(setting.device.type) if setting.amp else contextlib.nullcontext()

    def forward(self) -> torch.Tensor:
        with self._autocast():
            return self.loss(self.network(self.image), self.target)

    def step(self) -> dict[str, float]:
        """One training step, seconds by phase."""
        self.network.train()
        self.plain.decoder.deep_supervision = True
        self.optimizer.zero_grad(set_to_none=True)
        started = self._now()
        loss = self.forward()
        forward = self._now()
        if self.scaler:
            self.scaler.scale(loss).backward()
        else:
            loss.backward()
        backward = self._now()
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        return {"forward": forward - started, "backward": backward - forward, "step": self._now() - started}

    def infer(self) -> dict[str, float]:
        """One prediction of the batch, seconds."""
        self.network.eval()
        self.plain.decoder.deep_supervision = False
        started = self._now()
        with torch.inference_mode(), self._autocast():
            self.network(self.image)
        return {"inference": self._now() - started}

    def _now(self) -> float:
        if self.setting.device.type == "cuda":
            torch.cuda.synchronize(self.setting.device)
        return time.perf_counter()

    def held_bytes(self) -> int:
        """What stays between steps: parameters, their gradients and momenta, image and target."""
        momenta = [t for state in self.optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
        parameters = list(self.plain.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        return sum(t.nbytes for t in (*parameters, *gradients, *momenta, self.image, *self.target))

    def sizes(self, measured: Measured) -> None:
        """Parameters, FLOPs of a forward pass, and bytes it keeps for backward beside the parameters."""
        measured.parameters = sum(p.numel() for p in self.plain.parameters())
        own = {p.untyped_storage().data_ptr() for p in self.plain.parameters()}
        kept: dict[int, int] = {}
        alive = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor)  # else an address could be used twice
            return tensor

        counter = FlopCounterMode(display=False)
        with counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), self._autocast():
            self.plain(self.image)
        measured.flops = counter.get_total_flops()
        measured.saved_bytes = sum(kept.values())


def measure(
    case: Case, variants: dict[str, str | None], setting: MeasureOptions, tell: Callable[[str], None]
) -> list[Measured]:
    """Stock and others on one case, taking turns; `variants` maps a name to a backend, None for the stock network."""
    # as nnU-Net trains; and no shape of an earlier case makes this one's graphs dynamic
    torch.backends.cudnn.benchmark = True
    torch.compiler.reset()
    runners: dict[str, _Runner] = {}
    results = {name: Measured(name) for name in variants}
    for name, backend in variants.items():
        tell(f"{case.name}: {name}: sizes and warm-up")
        if backend == "reference" and _too_large_for_cpu(results.get("stock"), setting.device):
            results[name].failure = "not tried: it would take most of this machine's memory"
            continue
        with _failing_softly(results[name]):
            runners[name] = _Runner(case, backend, setting)
            runners[name].sizes(results[name])
            for _ in range(1 if backend == "reference" else 2):
                runners[name].step()
                runners[name].infer()
    for turn in range(setting.repeats):
        for name, runner in runners.items():
            result = results[name]
            if result.failure or (variants[name] == "reference" and turn >= setting.literal_repeats):
                continue
            tell(f"{case.name}: {name}: {turn + 1}/{setting.repeats}")
            with _failing_softly(result), _peak(result, runner):
                for phase, seconds in (runner.step() | runner.infer()).items():
                    result.seconds[phase].append(seconds)
    return list(results.values())


def _too_large_for_cpu(stock: Measured | None, device: torch.device) -> bool:
    """On a CPU too large a network is not refused memory but killed, and the whole run with it."""
    if stock is None or device.type != "cpu" or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return False
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _LITERAL_TIMES_STOCK * stock.saved_bytes > available


@contextlib.contextmanager
def _failing_softly(measured: Measured) -> Iterator[None]:
    """Out of memory is a result; the others go on."""
    try:
        yield
    except RuntimeError as error:
        # a CPU's allocator has no error of its own
        if not isinstance(error, torch.OutOfMemoryError) and "not enough memory" not in str(error):
            raise
        measured.failure = "out of memory"


@contextlib.contextmanager
def _peak(measured: Measured, runner: _Runner) -> Iterator[None]:
    """The largest memory of a repeat on CUDA; what the other networks hold there is not counted."""
    device = runner.setting.device
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    others = torch.cuda.memory_allocated(device) - runner.held_bytes()
    yield
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    measured.peak_allocated = max(measured.peak_allocated or 0, allocated - others)
    measured.peak_reserved = max(measured.peak_reserved or 0, reserved - others)
