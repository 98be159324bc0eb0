"""What a measurement ends with: a table, JSON, and for a scaling run a picture."""

import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from ..utils.tables import format_table
from .cases import Case
from .measure import PHASES, Measured, MeasureOptions


def table(results: list[Measured]) -> str:
    """Medians as aligned text, one row a network; in brackets the ratio to the first row, stock nnU-Net."""
    stock = results[0]
    cuda = stock.peak_allocated is not None
    rows = [
        ["", "parameters", "GFLOP", "kept for backward", *(f"{phase} s" for phase in PHASES)]
        + (["peak allocated", "reserved"] if cuda else [])
    ]
    for r in results:
        if r.failure:
            rows.append([r.name, r.failure])
            continue
        row = [
            r.name,
            _ratio(r.parameters, stock.parameters, "{:.2f} M", 1e6),
            _ratio(r.flops, stock.flops, "{:.1f}", 1e9),
            _ratio(r.saved_bytes, stock.saved_bytes, "{:.2f} GB", 1e9),
            *(_ratio(r.median(phase), stock.median(phase), "{:.3f}", 1) for phase in PHASES),
        ]
        if cuda:
            row += [
                _ratio(r.peak_allocated, stock.peak_allocated, "{:.2f} GB", 1e9),
                _ratio(r.peak_reserved, stock.peak_reserved, "{:.2f} GB", 1e9),
            ]
        rows.append(row)
    return format_table(rows)


def _ratio(value: float, stock: float, form: str, unit: float) -> str:
    return f"{form.format(value / unit)} ({value / stock:.2f}x)"


def about(setting: MeasureOptions) -> dict:
    """What the figures were measured on."""
    cuda = setting.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(setting.device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "amp": setting.amp,
        "compile": setting.compile,
        "repeats": setting.repeats,
        "versions": {name: version(name) for name in ("nnunet-xattnres", "nnunetv2", "torch")},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def to_dict(case: Case, results: list[Measured], errors: dict[str, float]) -> dict:
    """A case as JSON takes it: every repeat, nothing rounded."""
    planned = asdict(case)
    return {
        "case": {**planned, "network_class_name": case.network_class_name.rpartition(".")[2]},
        "largest_relative_error": errors,
        "results": [asdict(r) for r in results],
    }


def save(path: Path, setting: MeasureOptions, cases: list[dict]) -> None:
    """Writes what was measured as JSON."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps({"about": about(setting), "cases": cases}, indent=1) + "\n")
    partial.replace(path)


def picture(path: Path, series: dict[str, list[tuple[float, list[Measured]]]], title: str) -> None:
    """Step time and bytes kept for backward against what grows, one column for each of `series`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(series), figsize=(3.4 * len(series), 6), squeeze=False, layout="constrained")
    names = [r.name for r in next(iter(series.values()))[0][1]]
    colours = dict(zip(names, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=False))
    for column, (axis, points) in enumerate(series.items()):
        for name in names:
            found = [(x, r) for x, results in points for r in results if r.name == name and r.seconds["step"]]
            for row, value in enumerate((lambda r: r.median("step"), lambda r: r.saved_bytes / 1e9)):
                axes[row][column].plot(
                    [x for x, _ in found], [value(r) for _, r in found], marker="o", label=name, color=colours[name]
                )
        for row in range(2):
            axes[row][column].set_xscale("log", base=2)
            axes[row][column].set_yscale("log")
            axes[row][column].grid(alpha=0.3, which="both")
            ticks = [x for x, _ in points]
            axes[row][column].set_xticks(ticks, [str(t) for t in ticks])
            axes[row][column].minorticks_off()
        axes[1][column].set_xlabel(axis)
    axes[0][0].set_ylabel("training step, s")
    axes[1][0].set_ylabel("kept for backward, GB")
    axes[0][0].legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
