"""The cost against the number of pixels: of whole networks, and of a SEMA block beside attention over all pixels."""

import contextlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..attention import MLLABlock
from ..utils.plotting import new_figure
from ..utils.tables import format_table
from .layers import time_repeats
from .measure import Measurement, MeasureOptions, free_memory

BLOCK_SIDES = (16, 32, 64, 128, 256)
"""The sides of the features for which a block is measured, in pixels."""

CHANNELS = 64
"""The channels of these features."""

_WINDOW = 7
_MAX_PIXELS_OF_FULL_ATTENTION = 64**2
"""The largest features for which attention over all pixels is measured: at 256x256 it would take minutes."""

SEMA_BLOCK, FULL_ATTENTION = "SEMA block", "with one window over all pixels"
"""The names of the blocks."""


@dataclass(frozen=True)
class BlockMeasurement:
    """The times of a block for features of one size.

    Attributes:
        name: name of the block.
        pixels: the number of pixels.
        seconds: the seconds of every repeat, forward and backward.
    """

    name: str
    pixels: int
    seconds: list[float]


def measure_blocks(
    options: MeasureOptions,
    show_progress: Callable[[str], None] = lambda message: None,
) -> list[BlockMeasurement]:
    """Measure a SEMA block, and the same block with one window over all pixels.

    Args:
        options: how they are run.
        show_progress: called with one line before each part of the work.
    """
    measurements = []
    for side in BLOCK_SIDES:
        windows = {SEMA_BLOCK: _WINDOW}
        if side**2 <= _MAX_PIXELS_OF_FULL_ATTENTION:
            windows[FULL_ATTENTION] = side
        for name, window in windows.items():
            show_progress(f"{name}: {side}x{side}")
            free_memory()
            compute = _forward_and_backward(window, side, options)
            seconds = time_repeats(compute, options.device, options.repeats)
            measurements.append(BlockMeasurement(name, side**2, seconds))
    return measurements


def _forward_and_backward(window: int, side: int, options: MeasureOptions) -> Callable[[], None]:
    block = MLLABlock(CHANNELS, 2, window).to(options.device)
    network = torch.compile(block) if options.compile else block
    image = torch.randn(1, CHANNELS, side, side, device=options.device, requires_grad=True)

    def compute() -> None:
        with torch.autocast(options.device.type) if options.amp else contextlib.nullcontext():
            out = network(image)
        out.backward(torch.ones_like(out))

    return compute


def curves_of_networks(points: Sequence[tuple[int, Sequence[Measurement]]]) -> dict[str, list[tuple[int, float]]]:
    """Median seconds against pixels, by network and phase, from (pixels, measurements) pairs."""
    names = [result.name for result in points[0][1]]
    return {
        f"{name}, {label}": [(pixels, r.median(phase)) for pixels, results in points for r in results
                             if r.name == name and not r.failure]
        for name in names
        for phase, label in (("step", "training step"), ("inference", "inference"))
    }  # fmt: skip


def curves_of_blocks(measurements: Sequence[BlockMeasurement]) -> dict[str, list[tuple[int, float]]]:
    """Median seconds against pixels, by block."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for measurement in measurements:
        curves.setdefault(measurement.name, []).append((measurement.pixels, statistics.median(measurement.seconds)))
    return curves


def exponent(curve: Sequence[tuple[int, float]]) -> float:
    """The exponent e of seconds ~ pixels^e over the three largest sizes, where fixed costs count least.

    >>> round(exponent([(1, 9.0), (4, 0.1), (16, 0.4), (64, 1.6)]), 3)
    1.0
    """
    pixels, seconds = np.log(np.array(curve[-3:])).T
    return float(np.polyfit(pixels, seconds, 1)[0])


def format_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """A table with one row per curve: the seconds for every number of pixels, and the exponent."""
    sizes = sorted({pixels for curve in curves.values() for pixels, _ in curve})
    rows = [["seconds", *(f"{pixels} pixels" for pixels in sizes), "exponent"]]
    for name, curve in curves.items():
        found = dict(curve)
        cells = [f"{found[pixels]:.4f}" if pixels in found else "" for pixels in sizes]
        rows.append([name, *cells, f"{exponent(curve):.2f}" if len(curve) > 1 else ""])
    return format_table(rows)


def draw_pixels(path: Path, panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], title: str) -> None:
    """Draw seconds against pixels on logarithmic axes, with lines of slope 1, into a PNG file.

    Args:
        path: the PNG file.
        panels: curves by their names, by the title of the panel.
        title: the title of the figure.
    """
    figure = new_figure(5.2 * len(panels), 4.6)
    for axis, (panel, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, curve in curves.items():
            pixels, seconds = np.array(curve).T
            (line,) = axis.plot(pixels, seconds, marker="o", label=name)
            slope_1 = seconds[-1] * pixels / pixels[-1]
            axis.plot(pixels, slope_1, color=line.get_color(), linestyle=":", linewidth=1)
        axis.plot([], [], color="black", linestyle=":", linewidth=1, label="slope 1: linear in pixels")
        axis.set(xscale="log", yscale="log", xlabel="pixels", ylabel="seconds", title=panel)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
