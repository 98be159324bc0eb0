"""xattnres cost: measure the time and memory of networks: stock nnU-Net, XAttnRes and the others of this package.

Without --trainer and --all-networks, the networks are that of stock nnU-Net, that with XAttnRes, and the reference
equations taken literally. The table shows the parameters, the FLOPs of a forward pass (convolutions, matrix products
and attention), the bytes that it keeps for backward, and the median seconds of the forward pass, the backward pass, the
whole training step (the trainer's loss, clipping, optimiser) and inference; on CUDA also the peak memory. The networks
are measured in turns, so that other work on the machine slows all of them down. A second table has the first training
step of each network in a process of its own, with compilation and empty caches. --layers adds a table of every call of
the operator: its time, the bytes that it reads and writes at least, and the time that a copy of them takes.

Before this, the logits and the gradients of XAttnRes are compared with the reference equations, in float64 and in the
precision that is measured; in the latter, at most twice the error that the reference itself has there is accepted. If
they differ, nothing is measured and the exit code is 1. Networks that do not follow the plans are not compared.

A trainer that cannot train a case is left out of it, with one line. If a trainer that --trainer names is measured in no
case, the exit code is 1.

examples:
  xattnres cost                                       2d, 256x256, batch size 2: some minutes on two CPU cores
  xattnres cost --all-networks                        every network of this package beside stock nnU-Net
  xattnres cost --trainer nnUNetTrainerEMCAD nnUNetTrainerEMCADXAttnRes
  xattnres cost --device cuda                         mixed precision and torch.compile, as nnU-Net trains
  xattnres cost --case 2d-512 3d-128 --no-reference   other typical plans, without the slow reference equations
  xattnres cost --device cuda --case 2d-512 --no-reference --layers --out 2d-512.json
  xattnres cost --plans $nnUNet_preprocessed/Dataset004_Hippocampus/nnUNetPlans.json -c 2d
  xattnres cost --scaling scaling.png                 the cost against stages, width, batch size and patch size
  xattnres cost --pixels pixels.png --out pixels.json the cost of USEMA and of a SEMA block against the pixels
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.errors import StepFailedError, UserError, is_out_of_memory
from ..utils.tables import format_size
from .arguments import positive_int
from .devices import add_device_option, find_device

if TYPE_CHECKING:
    from ..cost.cases import Case
    from ..cost.check import Comparison
    from ..cost.layers import LayerMeasurement
    from ..cost.measure import FirstStep, Measurement, MeasureOptions
    from ..cost.networks import MeasuredNetwork

_CASES = ("2d-256", "2d-512", "3d-64", "3d-128", "resencm-2d-512", "resencm-3d-128")


def configure(parser: argparse.ArgumentParser) -> None:
    measured = parser.add_argument_group("networks, beside stock nnU-Net")
    trainers = measured.add_mutually_exclusive_group()
    trainers.add_argument(
        "--trainer", nargs="+", metavar="NAME",
        help="measure the networks of these trainers, any that nnUNetv2_train -tr finds",
    )  # fmt: skip
    trainers.add_argument(
        "--all-networks", action="store_true",
        help="measure every network of this package without XAttnRes and with it",
    )  # fmt: skip
    measured.add_argument(
        "--backend", nargs="+", default=["auto"], choices=["auto", "cpp", "torch", "triton"],
        help="one or several backends of XAttnRes (default: auto)",
    )  # fmt: skip
    measured.add_argument(
        "--no-reference", action="store_true",
        help="do not measure the reference equations, which are slow; they are not with --trainer and --all-networks",
    )  # fmt: skip
    networks = parser.add_argument_group("plans")
    source = networks.add_mutually_exclusive_group()
    source.add_argument(
        "--case", nargs="+", choices=_CASES, metavar="CASE",
        help=f"measure typical plans: {', '.join(_CASES)} (default: 2d-256)",
    )  # fmt: skip
    source.add_argument("--plans", type=Path, metavar="FILE", help="measure the networks of a plans file")
    source.add_argument(
        "--scaling",
        type=Path,
        metavar="PNG",
        help="measure series of small networks and draw them into this file",
    )
    source.add_argument(
        "--pixels", type=Path, metavar="PNG",
        help="measure small 2-D networks (default: USEMA) and a SEMA block against the number of pixels and draw them "
        "into this file",
    )  # fmt: skip
    networks.add_argument(
        "-c", "--configuration", nargs="+", default=["2d"], metavar="NAME",
        help="the configurations of the plans file (default: 2d)",
    )  # fmt: skip
    networks.add_argument(
        "--classes", type=positive_int, default=3, metavar="N",
        help="the number of output channels with --plans (default: %(default)s)",
    )  # fmt: skip
    networks.add_argument("--batch-size", type=positive_int, metavar="N", help="replace the planned batch size")
    measurement = parser.add_argument_group("measurement")
    add_device_option(measurement, "cpu", "the device to measure on", numbered=True)
    measurement.add_argument(
        "--amp", action=argparse.BooleanOptionalAction, help="use mixed precision (default: only on CUDA)"
    )
    measurement.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="use torch.compile (default: only on CUDA)"
    )
    measurement.add_argument(
        "--checkpoint", action="store_true",
        help="let the networks of this package compute some stages again in the backward pass, to keep less for it",
    )  # fmt: skip
    measurement.add_argument(
        "--first-step", action=argparse.BooleanOptionalAction,
        help="measure the first step of every network with empty caches of the compilers (default: only on CUDA)",
    )  # fmt: skip
    measurement.add_argument(
        "--layers", action="store_true", help="measure every call of the operator in a training step, too"
    )
    measurement.add_argument(
        "--repeats", type=positive_int, default=7, metavar="N", help="measured steps (default: %(default)s)"
    )
    measurement.add_argument(
        "--reference-repeats", type=positive_int, default=1, metavar="N",
        help="measured steps of the reference equations (default: %(default)s)",
    )  # fmt: skip
    measurement.add_argument(
        "--threads", type=positive_int, metavar="N", help="the number of CPU threads (default: PyTorch's choice)"
    )
    parser.add_argument("--out", type=Path, metavar="JSON", help="write all results, with every repeat, to this file")


def run(arguments: argparse.Namespace) -> int:
    for path in (arguments.out, arguments.scaling, arguments.pixels):
        if path is not None and not path.absolute().parent.is_dir():
            raise UserError(f"the folder {path.absolute().parent} does not exist: make it first")

    import torch

    from ..cost import report
    from ..cost.measure import MeasureOptions

    device = find_device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    cuda = device.type == "cuda"
    options = MeasureOptions(
        device=device,
        amp=cuda if arguments.amp is None else arguments.amp,
        compile=cuda if arguments.compile is None else arguments.compile,
        repeats=arguments.repeats,
        reference_repeats=arguments.reference_repeats,
        first_step=cuda if arguments.first_step is None else arguments.first_step,
        checkpoint=arguments.checkpoint,
    )
    _check_backends(arguments.backend, options)
    trainers = _find_trainers(arguments)
    # kept until all is measured, because compiled code is loaded from it
    with tempfile.TemporaryDirectory(prefix="xattnres-cost-", ignore_cleanup_errors=True) as folder:
        measure_all = _measure_scaling if arguments.scaling else _measure_pixels if arguments.pixels else _measure_cases
        measured = measure_all(arguments, options, trainers, Path(folder))
    if not _triton_was_used():
        return 1
    if arguments.out:
        report.save_json(arguments.out, options, measured)
        print(f"\nwritten: {arguments.out}")
    succeeded = {result["trainer"] for case in measured["cases"] for result in case["results"] if not result["failure"]}
    return int(not set(arguments.trainer or []) <= succeeded)


def _find_trainers(arguments: argparse.Namespace) -> list[str]:
    """The trainers to measure beside stock nnU-Net. What is wrong with a name goes to stderr, and it is left out.

    Raises:
        UserError: if no trainer is left.
    """
    from ..cost.networks import STOCK, USEMA, XATTNRES, all_trainers, trainer_class_of

    if arguments.all_networks:
        return all_trainers()
    default = USEMA if arguments.pixels else XATTNRES
    found = []
    problems = []
    for name in dict.fromkeys(arguments.trainer or [default]):
        try:
            trainer_class_of(name)
            found.append(name)
        except UserError as error:
            problems.append(error)
    if not found:
        raise problems[0]
    for problem in problems:
        print(f"xattnres cost: {problem}", file=sys.stderr)
    return [name for name in found if name != STOCK.trainer]


def _show_progress(message: str) -> None:
    """Overwrite the last line of a terminal; print nothing into a log."""
    if sys.stderr.isatty():
        print(f"\r\033[K{message}", end="", file=sys.stderr, flush=True)


def _measure_cases(
    arguments: argparse.Namespace, options: "MeasureOptions", trainers: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Measure the cases of --case or --plans; returns what --out writes."""
    from dataclasses import replace

    from ..cost import cases

    if arguments.plans is None:
        chosen = [cases.TYPICAL_CASES[name] for name in arguments.case or ["2d-256"]]
    else:
        chosen = [cases.from_plans(arguments.plans, c, arguments.classes) for c in arguments.configuration]
    if arguments.batch_size:
        chosen = [replace(case, batch_size=arguments.batch_size) for case in chosen]
    measured = []
    for case in chosen:
        title = f"{case.name}: patch {format_size(case.patch_size)}, batch size {case.batch_size}"
        measured.append(_measure_case(case, title, arguments, options, trainers, folder)[1])
    return {"cases": measured}


def _measure_scaling(
    arguments: argparse.Namespace, options: "MeasureOptions", trainers: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Measure the series of --scaling and draw them; returns what --out writes."""
    from ..cost import cases, report

    measured = []
    series: dict[str, list[tuple[float, list[Measurement]]]] = {}
    for quantity, points in cases.scaling_cases().items():
        series[quantity] = []
        for value, case in points:
            results, record = _measure_case(case, case.name, arguments, options, trainers, folder)
            series[quantity].append((value, results))
            measured.append(record)
    setup = report.describe_setup(options)
    report.draw_scaling(arguments.scaling, series, f"{setup['device']}, {setup['threads']} threads")
    print(f"\nwritten: {arguments.scaling}")
    return {"cases": measured}


def _measure_pixels(
    arguments: argparse.Namespace, options: "MeasureOptions", trainers: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Measure the networks and blocks of --pixels and draw them; returns what --out writes."""
    from dataclasses import asdict

    from ..cost import cases, pixels, report

    measured = []
    points: list[tuple[int, list[Measurement]]] = []
    for number, case in cases.pixel_cases():
        results, record = _measure_case(case, case.name, arguments, options, trainers, folder)
        points.append((number, results))
        measured.append(record)
    blocks = pixels.measure_blocks(options, show_progress=_show_progress)
    _show_progress("")
    panels = {
        "networks": pixels.curves_of_networks(points),
        f"block, {pixels.CHANNELS} channels, forward and backward": pixels.curves_of_blocks(blocks),
    }
    for title, curves in panels.items():
        print(f"\n{title}\n{pixels.format_curves(curves)}", flush=True)
    setup = report.describe_setup(options)
    pixels.draw_pixels(arguments.pixels, panels, f"{setup['device']}, {setup['threads']} threads")
    print(f"\nwritten: {arguments.pixels}")
    return {"cases": measured, "blocks": [asdict(block) for block in blocks]}


def _measure_case(
    case: "Case",
    title: str,
    arguments: argparse.Namespace,
    options: "MeasureOptions",
    trainers: Sequence[str],
    folder: Path,
) -> "tuple[list[Measurement], dict[str, Any]]":
    """Check and measure one case and print its table; returns the results, also for JSON."""
    from ..cost import report
    from ..cost.first_step import compiled_code_from
    from ..cost.measure import measure
    from ..cost.networks import STOCK, XATTNRES, MeasuredNetwork, networks_of

    networks, left_out = networks_of(trainers, arguments.backend, case)
    comparisons = _compare_with_reference(case, networks, options)
    networks = [STOCK, *networks]
    if not (arguments.trainer or arguments.all_networks or arguments.no_reference or arguments.pixels):
        networks.insert(1, MeasuredNetwork("reference", XATTNRES, "reference"))
    folder = Path(tempfile.mkdtemp(dir=folder))
    first_steps = _measure_first_steps(case, networks, options, folder) if options.first_step else {}
    with compiled_code_from([folder / name for name in first_steps], folder / "merged"):
        results = measure(case, networks, options, _show_progress)
    for result in results:
        result.first_step = first_steps.get(result.name)
    _show_progress("")
    print(f"\n{title}\n{report.format_results(results)}", flush=True)
    if first_steps:
        print(f"\n{report.format_first_steps(results)}", flush=True)
    for line in report.format_left_out(left_out):
        print(line, flush=True)
    layers = _measure_layers(case, networks, options) if arguments.layers else {}
    return results, report.to_dict(case, results, comparisons, layers, left_out)


def _measure_first_steps(
    case: "Case", networks: "Sequence[MeasuredNetwork]", options: "MeasureOptions", folder: Path
) -> "dict[str, FirstStep]":
    """The first training step of every network but the reference, each with empty caches in a folder of its name."""
    from ..cost.first_step import measure_first_step
    from ..cost.measure import free_memory

    first_steps = {}
    free_memory()
    for network in networks:
        if network.backend != "reference":
            _show_progress(f"{case.name}: {network.name}: first step, with empty caches")
            (folder / network.name).mkdir()
            first_steps[network.name] = measure_first_step(case, network, options, folder / network.name)
    return first_steps


def _measure_layers(
    case: "Case", networks: "Sequence[MeasuredNetwork]", options: "MeasureOptions"
) -> "dict[str, LayerMeasurement]":
    """Measure and print every call of the operator in one training step; returns them by network."""
    from ..cost import report
    from ..cost.layers import measure_layers

    layers = {}
    for network in networks:
        name = network.name
        if network.backend in (None, "reference"):
            continue
        try:
            layers[name] = measure_layers(case, network, options, _show_progress)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            print(f"\n{case.name}: the calls of {name}: out of memory", flush=True)
            continue
        table = report.format_layers(layers[name])
        _show_progress("")
        print(f"\n{case.name}: the calls of {name} in one training step, each alone; {table}", flush=True)
    return layers


def _check_backends(backends: Sequence[str], options: "MeasureOptions") -> None:
    """Refuse a backend that is named but that PyTorch would replace.

    Raises:
        UserError: if there is one.
    """
    import torch

    from ..ops.dispatch import resolve_backend

    device = options.device.type
    dtype = torch.get_autocast_dtype(device) if options.amp else torch.float32
    for name in ("cpp", "triton"):
        if name in backends and resolve_backend(name, device, dtype) != name:
            raise UserError(
                f"--backend {name} does not compute {str(dtype).removeprefix('torch.')} on {device} here, so PyTorch "
                f"would be measured under its name: leave it out"
            )


def _triton_was_used() -> bool:
    """Whether Triton computed all for which it was selected. Else what PyTorch computed goes to stderr."""
    from ..ops import custom_op

    for reason in sorted(custom_op.triton_refusals):
        print(f"xattnres cost: PyTorch replaced Triton ({reason}): the results have the wrong name, so --out is not "
              f"written", file=sys.stderr)  # fmt: skip
    return not custom_op.triton_refusals


def _compare_with_reference(
    case: "Case", networks: "Sequence[MeasuredNetwork]", options: "MeasureOptions"
) -> "dict[str, list[Comparison]]":
    """The comparisons with the reference by network.

    Raises:
        StepFailedError: if one is not accepted.
    """
    from ..cost import report
    from ..cost.check import compare_with_reference
    from ..cost.networks import follows_plans

    comparisons: dict[str, list[Comparison]] = {}
    for trainer in dict.fromkeys(n.trainer for n in networks if n.backend and follows_plans(n.trainer)):
        _show_progress(f"{case.name}: {trainer}: comparing with the reference equations")
        same = [network for network in networks if network.trainer == trainer]
        comparisons |= compare_with_reference(case, same, options.device, options.amp)
    _show_progress("")
    rejected = [
        f"{case.name}: {name} in {comparison.precision} differs from the reference equations: nothing is measured\n"
        f"{report.format_rejected(comparison)}"
        for name, pair in comparisons.items()
        for comparison in pair
        if not comparison.accepted
    ]
    if rejected:
        raise StepFailedError("\n".join(rejected))
    return comparisons
