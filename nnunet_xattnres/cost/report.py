"""The results of a measurement as a table, as JSON, and as a figure of a scaling series."""

import itertools
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..utils.files import write_atomic
from ..utils.plotting import new_figure
from ..utils.tables import format_size, format_table
from .cases import Case
from .check import Comparison
from .layers import LayerCall, LayerMeasurement
from .measure import PHASES, FirstStep, Measurement, MeasureOptions
from .networks import short_name

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def format_results(results: Sequence[Measurement]) -> str:
    """A table with one row per network: medians, and in brackets the ratio to stock nnU-Net in the first row."""
    stock = results[0]
    head = ["", "parameters", "GFLOP", "kept for backward", *(f"{phase} s" for phase in PHASES)]
    on_cuda = any(result.peak_allocated is not None for result in results)
    head += ["peak allocated", "reserved"] if on_cuda else []
    rows = [head]
    for result in results:
        if result.failure:
            rows.append([result.name, result.failure])
            continue
        cells = [
            _cell(result.parameters, stock.parameters, "{:.2f} M", 1e6),
            _cell(result.flops, stock.flops, "{:.1f}", 1e9),
            _cell(result.saved_bytes, stock.saved_bytes, "{:.2f} GB", 1e9),
            *(_cell(result.median(phase), _median(stock, phase), "{:.3f}", 1) for phase in PHASES),
        ]
        rows.append([result.name, *cells, *_peak_cells(result, stock)])
    return format_table(rows)


def format_first_steps(results: Sequence[Measurement]) -> str:
    """A table of the first training steps, one row per network for which it was measured; empty if there is none."""
    measured = [(result.name, result.first_step) for result in results if result.first_step is not None]
    if not measured:
        return ""
    stock = measured[0][1]
    rows = [["first step", "s", "later than stock, s"]]
    if any(step.peak_allocated is not None for _, step in measured):
        rows[0] += ["peak allocated", "reserved"]
    for name, step in measured:
        if step.seconds is None:
            rows.append([name, step.failure or ""])
            continue
        cells = [f"{step.seconds:.1f}", "" if stock.seconds is None else f"{step.seconds - stock.seconds:.1f}"]
        rows.append([name, *cells, *_peak_cells(step, stock)])
    return format_table(rows)


def format_left_out(left_out: Mapping[str, str]) -> list[str]:
    """One line for every reason why trainers cannot train a case."""
    return [
        f"left out: {', '.join(short_name(name) for name, why in left_out.items() if why == reason)}: {reason}"
        for reason in dict.fromkeys(left_out.values())
    ]


def format_layers(measurement: LayerMeasurement) -> str:
    """A table with one row per call of the operator, and the sums of all forward and all backward calls."""
    launches = "launches" if measurement.on_cuda else "operators"
    rows = [["layer", "", "channels", "size", "history", "ms", "MB", "floor ms", "floor / time", launches]]
    calls = measurement.calls
    for call in calls:
        size, history = format_size(call.size), str(call.history)
        rows.append([call.layer, call.function, str(call.channels), size, history, *_costs(measurement, [call])])
    for function in ("forward", "backward"):
        rows.append(["all", function, "", "", "", *_costs(measurement, [c for c in calls if c.function == function])])
    return f"bandwidth of a copy: {measurement.bandwidth / 1e9:.0f} GB/s\n{format_table(rows)}"


def _costs(measurement: LayerMeasurement, calls: Sequence[LayerCall]) -> list[str]:
    seconds, floor = sum(call.median for call in calls), sum(measurement.floor(call) for call in calls)
    launches = [call.launches for call in calls]
    return [
        f"{1e3 * seconds:.3f}",
        f"{sum(call.bytes for call in calls) / 1e6:.1f}",
        f"{1e3 * floor:.3f}",
        f"{100 * floor / seconds:.1f} %" if seconds else "",
        "unknown" if None in launches else str(sum(n for n in launches if n is not None)),
    ]


def _median(result: Measurement, phase: str) -> float | None:
    return None if result.failure else result.median(phase)


def _cell(value: float, stock: float | None, form: str, unit: float) -> str:
    """A value in its unit, with the ratio to stock nnU-Net where that is known."""
    return form.format(value / unit) + (f" ({value / stock:.2f}x)" if stock else "")


def _peak_cells(step: Measurement | FirstStep, stock: Measurement | FirstStep) -> list[str]:
    """The peak memory that a step has allocated, and that it has reserved, where these were measured."""
    peaks = (step.peak_allocated, stock.peak_allocated), (step.peak_reserved, stock.peak_reserved)
    return [_cell(peak, stock_peak, "{:.2f} GB", 1e9) for peak, stock_peak in peaks if peak is not None]


def describe_setup(options: MeasureOptions) -> dict[str, Any]:
    """The device, the options and the versions of a measurement, for JSON."""
    cuda = options.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(options.device) if cuda else _processor_name(),
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "amp": options.amp,
        "compile": options.compile,
        "checkpoint": options.checkpoint,
        "repeats": options.repeats,
        "versions": {name: _version(name) for name in ("nnunet-xattnres", "nnunetv2", "torch", "triton")},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _version(package: str) -> str | None:
    """The version of a package, or None if it is not installed: then no results are lost."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def format_rejected(comparison: Comparison) -> str:
    """A table of the tensors whose errors are not accepted, the worst first: error, bound, error of the reference."""
    rejected = sorted((t for t in comparison.tensors if not t.accepted), key=lambda t: -t.excess)
    rows = [["tensor", "error", "largest accepted", "error of the reference itself"]]
    rows += [[t.name, *(f"{value:.1e}" for value in (t.error, t.bound, t.reference_error))] for t in rejected]
    return format_table(rows)


def to_dict(
    case: Case,
    results: Sequence[Measurement],
    comparisons: Mapping[str, Sequence[Comparison]],
    layers: Mapping[str, LayerMeasurement] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One case for JSON, with the seconds of every repeat.

    Args:
        case: the measured case.
        results: one measurement per network.
        comparisons: the comparisons with the reference equations by network; the worst tensor of each is kept.
        layers: the calls of the operator by network, if they were measured.
        left_out: the reasons why trainers cannot train the case, by their names.
    """
    return {
        "case": {**asdict(case), "network_class_name": case.network_class_name.rpartition(".")[2]},
        "comparison_with_reference": {
            name: {comparison.precision: asdict(comparison.worst) for comparison in compared}
            for name, compared in comparisons.items()
        },
        "results": [asdict(result) for result in results],
        **({"layers": {name: asdict(measurement) for name, measurement in layers.items()}} if layers else {}),
        **({"left_out": dict(left_out)} if left_out else {}),
    }


def save_json(path: Path, options: MeasureOptions, results: Mapping[str, Any]) -> None:
    """Write the setup and the results, such as "cases" as `to_dict` gives them, to a JSON file."""
    write_atomic(path, json.dumps({"about": describe_setup(options), **results}, indent=1) + "\n")


def draw_scaling(path: Path, series: Mapping[str, Sequence[tuple[float, Sequence[Measurement]]]], title: str) -> None:
    """Draw step time and bytes kept for backward against the varied quantity, one column per series, into a PNG file.

    Args:
        path: the PNG file.
        series: (value, measurements) pairs by the name of the varied quantity.
        title: the title of the figure.
    """
    figure = new_figure(3.4 * len(series), 6)
    axes = figure.subplots(2, len(series), squeeze=False)
    names = [result.name for result in next(iter(series.values()))[0][1]]
    colours = dict(zip(names, itertools.cycle(_COLOURS), strict=False))
    for column, (quantity, points) in enumerate(series.items()):
        for name in names:
            measured = [(x, r) for x, results in points for r in results if r.name == name and r.seconds["step"]]
            x = [value for value, _ in measured]
            heights = [r.median("step") for _, r in measured], [r.saved_bytes / 1e9 for _, r in measured]
            for row, y in enumerate(heights):
                axes[row][column].plot(x, y, marker="o", label=name, color=colours[name])
        ticks = [x for x, _ in points]
        for axis in axes[:, column]:
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.grid(alpha=0.3, which="both")
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.minorticks_off()
        axes[1][column].set_xlabel(quantity)
    axes[0][0].set_ylabel("training step, s")
    axes[1][0].set_ylabel("kept for backward, GB")
    axes[0][0].legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
