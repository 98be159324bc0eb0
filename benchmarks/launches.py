#!/usr/bin/env python
"""Kernels that every XAttnRes layer launches on CUDA, and the time of the CPU to launch them. No GPU is needed.

python benchmarks/launches.py [CASE] [SOURCE]

CASE is one of those of `xattnres cost`, by default 2d-512. SOURCE is another copy of this project, to compare with. The
kernels are compiled for an H100, but the driver launches nothing, and the sums over the programs, which PyTorch
computes, are left out. The time is the least of 50 calls.
"""

import sys
import time
from collections import Counter
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget

CALLS = 50
launches: Counter[str] = Counter()


class Launcher:
    """Counts what Triton launches."""

    def __init__(self, source, metadata):
        self.name = metadata.name

    def __call__(self, *arguments):
        launches[self.name] += 1


class Driver:
    """The driver of an H100 that is not there."""

    launcher_cls = Launcher
    utils = SimpleNamespace(
        load_binary=lambda name, *arguments: (name, name, 100, 0, 1024),
        get_device_properties=lambda device: {"max_shared_mem": 227 * 1024},
    )
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device=0: 0)
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))


def layers(case):
    """Name, channels, size and the channels and sizes of the pooled history of every layer of a plain U-Net."""
    widths = case.arch_kwargs["features_per_stage"]
    sizes = [tuple(n // 2**s for n in case.patch_size) for s in range(len(widths))]
    history = [(widths[0], sizes[0])]
    for name, s, channels in [
        *((f"encoder {s}", s, widths[s]) for s in range(1, len(widths))),
        *((f"decoder {len(widths) - 2 - s}", s, 2 * widths[s]) for s in range(len(widths) - 2, -1, -1)),
    ]:
        yield name, channels, sizes[s], [(c, tuple(map(min, size, sizes[s]))) for c, size in history]
        history.append((widths[s], sizes[s]))


def arguments_of(channels, size, history, is_decoder, batch=1, make=torch.empty):
    """Arguments of a call. By default the memory of large tensors is never touched."""
    sources = [make(batch, c, *s, dtype=torch.float16) for c, s in history]
    parts = [channels // 2] * 2 if is_decoder else [channels]
    x = [make(batch, c, *size, dtype=torch.float16) for c in parts]
    weights = [None if c == channels else make(channels, c) for c, _ in history]
    biases = [None if weight is None else make(channels) for weight in weights]
    return sources, x, weights, biases, make(channels), None, 1e-6


def measure(function):
    """The kernels that a call launches, and the seconds of the fastest call."""
    function()
    launches.clear()
    function()
    kernels, seconds = launches.copy(), []
    for _ in range(CALLS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return kernels, min(seconds)


def main():
    name, *source = [*sys.argv[1:], "2d-512"][: max(1, len(sys.argv) - 1)]
    sys.path[:0] = source
    triton.runtime.driver.set_active(Driver())
    from nnunet_xattnres.cost.cases import TYPICAL_CASES
    from nnunet_xattnres.ops import triton_backend

    add = torch.Tensor.sum
    torch.Tensor.sum = lambda self, *axes: self.new_empty(self.shape[1:]) if axes == (0,) else add(self, *axes)
    print(f"PyTorch {torch.__version__}, Triton {triton.__version__}, {name}: kernels and microseconds of the CPU")
    total = Counter()
    for layer, channels, size, history in layers(TYPICAL_CASES[name]):
        arguments = arguments_of(channels, size, history, layer.startswith("decoder"))
        out, _ = triton_backend.forward(*arguments)
        line = f"{layer:10s} C {channels:4d}  {'x'.join(map(str, size)):11s}"
        for direction, function in (
            ("forward", lambda arguments=arguments: triton_backend.forward(*arguments)),
            ("backward", lambda arguments=arguments, out=out: triton_backend.backward(out, None, *arguments)),
        ):
            kernels, seconds = measure(function)
            total[f"{direction} launches"] += kernels.total()
            total[f"{direction} us"] += round(1e6 * seconds)
            line += f"  {direction} {kernels.total():3d} {1e6 * seconds:6.0f}"
        print(line, flush=True)
    print(", ".join(f"{key} {value}" for key, value in total.items()))


if __name__ == "__main__":
    main()
