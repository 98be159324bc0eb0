"""Comparison of a network with the reference equations, before its speed is measured.

In float64, a correct backend agrees with the reference to a few digits of rounding. In the precision that is measured,
rounding is magnified by the rest of the network, for the reference as well. So there both run in this precision, both
are compared with the reference in float64, and the error of the backend is held against that of the reference.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .cases import Case
from .networks import MeasuredNetwork, start_training

FLOAT64_BOUND = 1e-8
"""The largest accepted error in float64."""

FACTOR = 2.0
"""The largest accepted error in float32 or mixed precision, relative to the error of the reference."""

FLOORS = {"float32": 1e-4, "mixed precision": 1e-3}
"""What is added to this bound."""

_SEEDS = 3
"""The number of networks and images that are compared in float32 or mixed precision."""

_QUERY_STD = 1.0
"""The standard deviation of the logits of the attention. Larger ones magnify rounding."""

_LOSS_SCALE = 2.0**12
"""By what the loss is multiplied first in mixed precision, because small gradients vanish in float16."""


@dataclass(frozen=True)
class TensorError:
    """The error of the logits of one scale, or of the gradients of one stage or layer.

    Attributes:
        name: "logits 0", or the name of a module, such as "xattnres.3".
        error: |t - t_64| / |t_64|, Euclidean norms, t_64 from the reference in float64. For gradients, the root mean
            square over the module's parameters; over several networks likewise.
        reference_error: the same for the reference in the same precision.
        bound: the largest accepted error.
    """

    name: str
    error: float
    reference_error: float
    bound: float

    @property
    def accepted(self) -> bool:
        """Whether the error is at most the bound; NaN is not."""
        return self.error <= self.bound

    @property
    def excess(self) -> float:
        """The error relative to the bound, infinite for NaN."""
        return math.inf if math.isnan(self.error) else self.error / self.bound


@dataclass(frozen=True)
class Comparison:
    """The comparison of one backend with the reference in one precision.

    Attributes:
        precision: "float64", "float32" or "mixed precision".
        tensors: the errors of all logits and gradients.
    """

    precision: str
    tensors: list[TensorError]

    @property
    def accepted(self) -> bool:
        """Whether all errors are accepted."""
        return all(tensor.accepted for tensor in self.tensors)

    @property
    def worst(self) -> TensorError:
        """The tensor with the largest error relative to its bound."""
        return max(self.tensors, key=lambda tensor: tensor.excess)


def compare_with_reference(
    case: Case, networks: Sequence[MeasuredNetwork], device: torch.device, amp: bool
) -> dict[str, list[Comparison]]:
    """Compare backends of one network with the reference equations in float64, and in float32 or mixed precision.

    The networks are `case.small()`. Their pseudo-queries are random: with the initial value of zero, all attention
    weights would be equal, and wrong weights would not be noticed. Gates are half open for the same reason.

    Args:
        case: plans.
        networks: the networks, of one trainer, which differ in the backend of XAttnRes.
        device: where they are computed.
        amp: whether mixed precision takes the place of float32.

    Returns:
        The two comparisons of every network by its name.

    Raises:
        Exception: of any type, if the trainer cannot train the small case.
    """
    small, (trainer, *_) = case.small(), networks
    backends = {network.name: network.backend for network in networks}
    precision = "mixed precision" if amp else "float32"
    float64: dict[str, list[TensorError]] = {}
    errors: dict[str, list[dict[str, float]]] = {name: [] for name in ("reference", *backends)}
    with _without_cudnn_benchmark():
        for seed in range(_SEEDS):
            sample = _Sample(small, trainer, seed, device, amp)
            exact = sample.compute("reference", torch.float64)
            errors["reference"].append(_errors(sample.compute("reference", torch.float32), exact))
            for name, backend in backends.items():
                if name not in float64:
                    actual = _errors(sample.compute(backend, torch.float64), exact)
                    float64[name] = [TensorError(t, error, 0.0, FLOAT64_BOUND) for t, error in actual.items()]
                errors[name].append(_errors(sample.compute(backend, torch.float32), exact))
    own = _root_mean_square(errors["reference"])
    # an error of the reference that is small by chance must not make the bound small
    typical = sorted(own.values())[len(own) // 2]
    bounds = {t: FACTOR * max(error, typical) + FLOORS[precision] for t, error in own.items()}
    return {
        name: [
            Comparison("float64", float64[name]),
            Comparison(
                precision,
                [TensorError(t, e, own[t], bounds[t]) for t, e in _root_mean_square(errors[name]).items()],
            ),
        ]
        for name in backends
    }


class _Sample:
    """Random weights, a random image and a random loss, on which all backends and precisions are computed."""

    def __init__(self, case: Case, measured: MeasuredNetwork, seed: int, device: torch.device, amp: bool):
        self.case, self.measured, self.seed, self.device, self.amp = case, measured, seed, device, amp
        torch.manual_seed(seed)
        network = self._build("reference")
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.endswith("pseudo_query"):
                    parameter.normal_(std=_QUERY_STD / math.sqrt(parameter.numel()))
                elif name.rpartition(".")[2] == "gate":
                    parameter.fill_(0.5)
        self.image = torch.randn(case.batch_size, case.input_channels, *case.patch_size)
        self.state = network.state_dict()
        self.loss_scale = _LOSS_SCALE

    def _build(self, backend: str | None) -> nn.Module:
        return start_training(replace(self.measured, backend=backend), self.case, torch.device("cpu")).network

    def compute(self, backend: str | None, dtype: torch.dtype) -> dict[str, list[Tensor]]:
        """The logits of every scale, and the gradients of the parameters of every stage and layer.

        The reference in mixed precision lowers the loss scale until no gradient overflows, as nnU-Net's gradient
        scaler does.
        """
        network = self._build(backend)
        network.load_state_dict(self.state)
        network.to(self.device, dtype)
        amp = self.amp and dtype != torch.float64
        while True:
            results = self._compute(network, dtype, amp)
            finite = all(bool(tensor.isfinite().all()) for tensors in results.values() for tensor in tensors)
            if finite or not amp or backend != "reference" or self.loss_scale < 1:
                return results
            self.loss_scale /= 4

    def _compute(self, network: nn.Module, dtype: torch.dtype, amp: bool) -> dict[str, list[Tensor]]:
        scale = self.loss_scale if amp else 1.0
        network.zero_grad(set_to_none=True)
        torch.manual_seed(self.seed)  # of dropout
        with torch.autocast(self.device.type) if amp else contextlib.nullcontext():
            logits = network(self.image.to(self.device, dtype))
        logits = [logits] if isinstance(logits, Tensor) else logits
        # A loss that is linear in the logits: its gradient has no rounding errors. The mean square would hardly depend
        # on what comes before the last normalisation.
        generator = torch.Generator().manual_seed(self.seed)
        results = {f"logits {i}": [tensor.double()] for i, tensor in enumerate(logits)}
        directions = [torch.randn(tensor.shape, generator=generator).to(self.device) for tensor in logits]
        losses = [(t * d).mean() for (t,), d in zip(results.values(), directions, strict=True)]
        (torch.stack(losses).sum() * scale).backward()
        results = {name: [tensor.detach()] for name, (tensor,) in results.items()}
        for (group, _), gradients in _group_gradients(network).items():
            results.setdefault(group, []).append(torch.cat(gradients).double() / scale)
        return results


def _group_gradients(network: nn.Module) -> dict[tuple[str, str], list[Tensor]]:
    """The gradients by stage or layer and, in it, by module, or by name for a layer's bare parameters.

    A module's weight and bias belong together, because the gradient of a bias before a normalisation is zero apart
    from rounding.
    """
    gradients: dict[tuple[str, str], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            parts = name.split(".")
            is_layer = parts[0] == "xattnres"
            group = ".".join(parts[: 2 if is_layer else 3])
            module = name if is_layer and len(parts) == 3 else name.rpartition(".")[0]
            gradients.setdefault((group, module), []).append(parameter.grad.flatten())
    return gradients


def _errors(actual: Mapping[str, list[Tensor]], expected: Mapping[str, list[Tensor]]) -> dict[str, float]:
    """The root mean square of the relative errors of the tensors by group."""
    errors = {}
    for group, tensors in expected.items():
        squares = [_relative_error(a, e) ** 2 for a, e in zip(actual[group], tensors, strict=True)]
        errors[group] = math.sqrt(sum(squares) / len(squares))
    return errors


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    tiny = torch.finfo(torch.float64).tiny
    return ((actual - expected).norm() / expected.norm().clamp_min(tiny)).item()


def _root_mean_square(errors: list[dict[str, float]]) -> dict[str, float]:
    return {group: math.sqrt(sum(e[group] ** 2 for e in errors) / len(errors)) for group in errors[0]}


@contextlib.contextmanager
def _without_cudnn_benchmark() -> Iterator[None]:
    """Do not let cuDNN try all its algorithms, which takes longer than the comparison."""
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
