#!/usr/bin/env python
"""The time on a GPU of every kernel of every XAttnRes layer, for the default sizes of blocks and for others.

python benchmarks/kernels.py [CASE] [NAME=VALUE,NAME=VALUE ...]

CASE is one of those of `xattnres cost`, by default 2d-512. Every further argument is a set of sizes to compare with the
default ones: fields of `BlockSizes` in triton_layer.py. Every layer is computed alone, in float16, with random inputs.
The times are sums over the kernels of one call, the least of REPEATS calls.

example:
python benchmarks/kernels.py 3d-128 stages=2 cells=16,few_cells=2
"""

import sys
from collections import Counter, defaultdict
from functools import partial

import torch
from launches import arguments_of, layers
from torch.profiler import ProfilerActivity, profile

from nnunet_xattnres.cost.cases import TYPICAL_CASES
from nnunet_xattnres.ops import triton_backend
from nnunet_xattnres.ops.triton_layer import BlockSizes

REPEATS = 4
SHOWN = 20


def kernel_times(function):
    """The milliseconds of every kernel of a call by its name."""
    function()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(REPEATS):
            function()
        torch.cuda.synchronize()
    durations = defaultdict(list)
    for event in sorted(profiler.events(), key=lambda event: event.time_range.start):
        if event.device_type == torch.autograd.DeviceType.CUDA:
            durations[event.name].append(event.time_range.elapsed_us() / 1000)
    times = {}
    for name, each in durations.items():
        count = len(each) // REPEATS
        times[name] = min(sum(each[i * count : (i + 1) * count]) for i in range(REPEATS))
    return times


def measure(case, sizes, show_layers):
    """Print the times of all layers with some sizes of blocks."""
    triton_backend.BLOCK_SIZES = sizes
    total, make = Counter(), partial(torch.randn, device="cuda")
    for name, channels, size, history in layers(case):
        arguments = arguments_of(channels, size, history, name.startswith("decoder"), case.batch_size, make)
        gradient = make(case.batch_size, channels, *size, dtype=torch.float16)
        line = f"{name:10s} C {channels:4d}  {'x'.join(map(str, size)):11s}"
        for direction, function in (
            ("forward", lambda arguments=arguments: triton_backend.forward(*arguments)),
            ("backward", lambda arguments=arguments, g=gradient: triton_backend.backward(g, None, *arguments)),
        ):
            times = kernel_times(function)
            total.update({(direction, kernel): ms for kernel, ms in times.items()})
            line += f"  {direction} {sum(times.values()):7.3f} ms"
        if show_layers:
            print(line, flush=True)
    for (direction, kernel), ms in total.most_common(SHOWN):
        print(f"  {ms:8.3f} ms  {direction:8s}  {kernel[:70]}")
    print(f"  {total.total():8.3f} ms  all", flush=True)


def main():
    name, *sets = sys.argv[1:] or ["2d-512"]
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {name}")
    for number, changes in enumerate(["", *sets]):
        print(f"\n{changes or 'default sizes'}")
        values = dict(change.split("=") for change in changes.split(",") if change)
        sizes = BlockSizes()._replace(**{field: int(value) for field, value in values.items()})
        measure(TYPICAL_CASES[name], sizes, show_layers=number == 0)


if __name__ == "__main__":
    main()
