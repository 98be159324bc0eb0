"""Inputs for tests of the operator: named sets of shapes, random values in any dtype, and all results to compare."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from nnunet_xattnres import History
from nnunet_xattnres.ops import xattnres
from nnunet_xattnres.ops.cpp_library import find_compiler

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

interpreter: Any = [pytest.mark.interpreter] if DEVICE == "cpu" else []
"""Marks for a test that runs Triton's kernels: on a CPU, its interpreter takes seconds."""

HALF_PRECISION_BACKENDS = ["torch", pytest.param("triton", marks=interpreter)]
"""Those of BACKENDS that compute float16 and bfloat16."""

FLOAT64_BACKENDS = ["torch", *(["cpp"] if DEVICE == "cpu" and find_compiler() else [])]
"""Those of BACKENDS that compute float64."""

BACKENDS = [*FLOAT64_BACKENDS, pytest.param("triton", marks=interpreter)]
"""The backends that must agree with the reference."""

SHAPES = {
    # name: the (channels, size) of the history, the channels of x or of its parts, the size of x, the batch
    "history of one": ([(5, (8, 8))], 5, (8, 8), 2),
    "one below": ([(6, (4, 4))], 3, (8, 8), 2),
    "one above": ([(6, (16, 16))], 3, (8, 8), 2),
    "decoder": ([(4, (16, 16)), (8, (8, 8)), (16, (4, 4)), (8, (8, 8))], 8, (16, 16), 2),
    "identity at low resolution": ([(5, (4, 4)), (5, (2, 2))], 5, (8, 8), 2),
    "batch of three": ([(4, (3, 4)), (6, (12, 16)), (6, (6, 8))], 6, (6, 8), 3),
    "7 channels": ([(7, (4, 4)), (5, (16, 8)), (7, (8, 8))], 7, (8, 8), 3),
    "24 channels": ([(24, (4, 4)), (12, (8, 8)), (40, (2, 2))], 24, (8, 8), 2),
    "several blocks in a row": ([(4, (3, 20)), (3, (5, 13)), (8, (5, 40)), (2, (2, 40))], (5, 3), (5, 40), 2),
    "odd sizes": ([(3, (7, 11)), (4, (3, 5))], 5, (7, 11), 1),
    "no whole ratio": ([(3, (5, 3)), (4, (9, 13))], 7, (8, 7), 2),
    "up and down at once": ([(3, (4, 12)), (4, (12, 4))], 3, (8, 8), 2),
    "ratios 3 and 6": ([(3, (4, 2)), (4, (2, 4)), (4, (12, 2))], 4, (12, 12), 2),
    "ratios 8 and 16": ([(3, (2, 2)), (4, (4, 1)), (4, (2, 16))], 4, (32, 16), 1),
    "one voxel": ([(3, (1, 1)), (4, (1, 5))], 2, (6, 5), 2),
    "one row": ([(3, (1, 4)), (4, (4, 8)), (3, (3, 4))], 3, (1, 8), 2),
    "one channel": ([(1, (4, 4)), (2, (8, 8))], 1, (8, 8), 2),
    "two parts": ([(8, (4, 4)), (6, (8, 8)), (4, (16, 16)), (8, (8, 8))], (3, 5), (8, 8), 2),
    "three parts": ([(7, (4, 4)), (2, (8, 8))], (1, 4, 2), (8, 8), 3),
    "3-D": ([(3, (8, 8, 8)), (6, (2, 2, 2))], 4, (4, 4, 4), 2),
    "3-D anisotropic": ([(3, (4, 12, 12)), (6, (4, 6, 6)), (5, (2, 3, 3))], 6, (4, 12, 12), 1),
    "3-D two axes grow": ([(4, (4, 6, 6)), (5, (4, 3, 3)), (3, (4, 12, 2)), (4, (4, 6, 12))], 4, (4, 12, 12), 2),
    "3-D ratios 3, 6 and 8": ([(3, (1, 2, 2)), (2, (3, 1, 16))], 3, (3, 12, 16), 1),
    "3-D one slice": ([(3, (1, 3, 3)), (4, (2, 6, 6))], 3, (1, 6, 6), 2),
    "3-D no whole ratio": ([(3, (2, 5, 3)), (4, (7, 1, 4))], 3, (5, 3, 7), 2),
    "3-D two parts": ([(8, (2, 4, 4)), (6, (4, 4, 4)), (4, (4, 8, 8))], (5, 3), (4, 4, 4), 2),
    "gradcheck 2-D": ([(2, (2, 3)), (3, (5, 4))], 2, (4, 4), 1),
    "gradcheck 3-D": ([(2, (1, 2, 2)), (1, (3, 2, 4))], 2, (2, 2, 3), 1),
    "gradcheck parts": ([(3, (2, 3)), (2, (4, 3))], (1, 2), (4, 3), 2),
}


def runs(
    torch: Collection[str],
    triton: Iterable[str],
    default: Collection[str] = (),
    slow: Collection[str] = (),
    half_precision: bool = False,
) -> list:
    """Pairs of a backend and a shape, as parameters of a test.

    Args:
        torch: the shapes for PyTorch, and for the C++ kernels on a CPU.
        triton: the shapes for Triton, marked `interpreter` on a CPU.
        default: those of the shapes for Triton that are not marked.
        slow: those of the shapes for PyTorch and C++ that are marked `slow`.
        half_precision: without the C++ kernels, which have no float16 and bfloat16.
    """
    backends = ["torch"] if half_precision else FLOAT64_BACKENDS
    pairs = [
        pytest.param(backend, shape, marks=pytest.mark.slow if shape in slow else [])
        for backend in backends
        for shape in torch
    ]
    return pairs + [pytest.param("triton", shape, marks=[] if shape in default else interpreter) for shape in triton]


@dataclass
class Case:
    """Arguments of the operator, all of them leaf tensors; x is always a list of parts."""

    history: list[Tensor]
    x: list[Tensor]
    projections: list[tuple[Tensor, Tensor] | None]
    pseudo_query: Tensor
    norm_weight: Tensor
    gate: Tensor | None = None

    def __iter__(self):
        """The positional arguments of the operator: all but the gate."""
        return iter((self.history, self.x, self.projections, self.pseudo_query, self.norm_weight))

    def run(self, operator: Callable) -> tuple[Tensor, Tensor]:
        """Output and attention of the operator, with the gate if there is one."""
        return operator(*self) if self.gate is None else operator(*self, gate=self.gate)

    def named(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        tensors = {f"history[{k}]": h for k, h in enumerate(self.history)}
        tensors |= {f"x[{n}]": part for n, part in enumerate(self.x)}
        for k, projection in enumerate(self.projections):
            if projection is not None:
                tensors |= {f"weight[{k}]": projection[0], f"bias[{k}]": projection[1]}
        tensors |= {"pseudo_query": self.pseudo_query, "norm_weight": self.norm_weight}
        return tensors if self.gate is None else tensors | {"gate": self.gate}

    def map(self, change: Callable[[str, Tensor], Tensor]) -> "Case":
        """A case with `change(name, tensor)` for every tensor, as leaf tensors with the same `requires_grad`."""
        return self.replace(
            change(name, t.detach()).detach().requires_grad_(t.requires_grad) for name, t in self.named().items()
        )

    def replace(self, values: Iterable[Tensor]) -> "Case":
        """A case with these tensors, in the order of `named`."""
        tensors = iter(values)
        history = [next(tensors) for _ in self.history]
        x = [next(tensors) for _ in self.x]
        projections = [None if p is None else (next(tensors), next(tensors)) for p in self.projections]
        return Case(history, x, projections, *tensors)

    def to(self, dtype: torch.dtype) -> "Case":
        return self.map(lambda name, tensor: tensor.to(dtype))


def make(
    name: str,
    dtype: torch.dtype = torch.float64,
    scale: float = 1.0,
    seed: int = 0,
    device: str = DEVICE,
    gate: float | None = None,
) -> Case:
    """A case with one of SHAPES and normally distributed values; those of the features are multiplied by `scale`."""
    history, channels, size, batch = SHAPES[name]
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape, scale=1.0):
        values = torch.randn(*shape, dtype=torch.float64, generator=generator) * scale
        return values.to(device, dtype).requires_grad_()

    parts = [channels] if isinstance(channels, int) else channels
    channels = sum(parts)
    ones = (1,) * len(size)
    return Case(
        [leaf(batch, width, *s, scale=scale) for width, s in history],
        [leaf(batch, part, *size, scale=scale) for part in parts],
        [
            None if width == channels else (leaf(channels, width, *ones, scale=width**-0.5), leaf(channels))
            for width, _ in history
        ],
        leaf(channels),
        leaf(channels),
        None if gate is None else torch.tensor(gate, dtype=dtype, device=device, requires_grad=True),
    )


def random_gradients(*outputs: Tensor) -> list[Tensor]:
    """Random gradients of the outputs, multiples of 1/8 up to 2, which all floating-point dtypes represent exactly."""
    generator = torch.Generator().manual_seed(1)
    return [(torch.randint(-16, 17, t.shape, generator=generator) / 8).to(t.device, t.dtype) for t in outputs]


def all_results(operator: Callable, case: Case, grads: Callable = random_gradients) -> dict[str, Tensor]:
    """Output, attention, and the gradients of all inputs that require one, given `grads(out, alpha)` of the outputs."""
    out, alpha = case.run(operator)
    inputs = {name: tensor for name, tensor in case.named().items() if tensor.requires_grad}
    gradients = torch.autograd.grad((out, alpha), list(inputs.values()), grads(out, alpha))
    return {"output": out.detach(), "attention": alpha.detach()} | dict(zip(inputs, gradients, strict=True))


def assert_all_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        torch.testing.assert_close(
            value, expected[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


DTYPES = {"torch": torch.float64, "cpp": torch.float64, "triton": torch.float32}
"""The precision in which the results of a backend are compared: the kernels of Triton have no float64."""


def triton_in_float32(history, x, projections, *vectors, **options):
    """The Triton kernels, where float64 arguments are rounded to float32."""
    operator = partial(xattnres, backend="triton")
    if (x if isinstance(x, torch.Tensor) else x[0]).dtype != torch.float64:
        return operator(history, x, projections, *vectors, **options)

    def rounded(argument):
        if argument is None or isinstance(argument, torch.Tensor):
            return argument if argument is None else argument.float()
        if isinstance(argument, float):
            return argument
        return (History if isinstance(argument, History) else tuple)(rounded(a) for a in argument)

    arguments = map(rounded, (history, x, projections, *vectors))
    results = operator(*arguments, **{name: rounded(option) for name, option in options.items()})
    return tuple(result.double() for result in results)


def assert_equal_results(backend, actual, expected):
    """Equal up to the rounding of the precision of a backend; that of float32 is relative to the largest value."""
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        largest_value = expected[name].abs().max().item()
        tolerances = (
            {"rtol": 1e-10, "atol": 1e-10} if backend != "triton" else {"rtol": 0, "atol": 1e-5 * largest_value}
        )
        torch.testing.assert_close(value, expected[name], **tolerances, msg=lambda m, n=name: f"{n}: {m}")


def op_arguments(case: Case, backend: str, requires_grad: bool = True) -> tuple:
    """The arguments of `torch.ops.nnunet_xattnres.forward`, for a case with no feature that is larger than x."""
    if not requires_grad:
        case = case.map(lambda name, tensor: tensor)
        for tensor in case.named().values():
            tensor.requires_grad_(False)
    projected = [k for k, projection in enumerate(case.projections) if projection is not None]
    pairs = [case.projections[k] for k in projected]
    weights = [weight.detach().flatten(1).requires_grad_(requires_grad) for weight, _ in pairs]
    biases = [bias for _, bias in pairs]
    return (case.history, case.x, weights, biases, projected, case.pseudo_query, case.gate, 1e-6, backend, [])


def all_needed(case: Case) -> list[bool]:
    """The last argument of `torch.ops.nnunet_xattnres.backward` for all gradients of a case."""
    gated = case.gate is not None
    # pseudo_query and norm_weight are one argument, their product
    return [True] * (len(case.named()) - 1 - gated) + [gated]
