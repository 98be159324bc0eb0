"""xattnres cost: measure what XAttnRes costs, in one run, beside stock nnU-Net and the literal equations.

For networks as nnU-Net plans them: parameters, FLOPs (convolutions and projections), bytes kept for backward, and
the median seconds of forward, backward, whole training step (loss at all scales, clipping, optimiser) and inference;
on CUDA also the peak memory. The networks take turns, so that a busy machine is busy for all of them. First, logits and
gradients are compared with the literal equations, in float64 and in the precision that is timed; if they differ,
nothing is timed.

examples:
  xattnres cost                                     2d, 256x256, batch 2: some minutes on two CPU cores
  xattnres cost --device cuda                       mixed precision and torch.compile, as nnU-Net trains
  xattnres cost --case 2d-512 3d-128 --no-literal   other typical plans, without the slow literal form
  xattnres cost --plans $nnUNet_preprocessed/Dataset004_Hippocampus/nnUNetPlans.json -c 2d
  xattnres cost --scaling scaling.png               how the cost grows with stages, width, batch and resolution
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from ..utils.errors import UserError

_CASES = ("2d-256", "2d-512", "3d-128", "resencm-2d-512", "resencm-3d-128")


def configure(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to measure")
    source = what.add_mutually_exclusive_group()
    source.add_argument(
        "--case", nargs="+", choices=_CASES, metavar="CASE",
        help=f"typical plans: {', '.join(_CASES)} (default: 2d-256)",
    )  # fmt: skip
    source.add_argument("--plans", type=Path, metavar="FILE", help="a plans file instead")
    what.add_argument("-c", "--configuration", nargs="+", default=["2d"], help="of the plans file (default: 2d)")
    what.add_argument("--classes", type=int, default=3, help="output channels with --plans (default: %(default)s)")
    what.add_argument("--batch-size", type=int, metavar="N", help="instead of the planned one")
    source.add_argument("--scaling", type=Path, metavar="PNG", help="a series of small networks and a picture instead")
    how = parser.add_argument_group("how")
    how.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    how.add_argument(
        "--backend", nargs="+", default=["auto"], choices=["auto", "torch", "triton"],
        help="what computes XAttnRes, one or several (default: %(default)s)",
    )  # fmt: skip
    how.add_argument("--no-literal", action="store_true", help="leave out the literal equations, which are slow")
    how.add_argument("--amp", action=argparse.BooleanOptionalAction, help="mixed precision (default: on CUDA)")
    how.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile (default: on CUDA)")
    how.add_argument("--repeats", type=int, default=7, metavar="N", help="of every phase (default: %(default)s)")
    how.add_argument(
        "--literal-repeats", type=int, default=1, metavar="N", help="of the literal form (default: %(default)s)"
    )
    how.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write every figure there")


def run(arguments: argparse.Namespace) -> int:
    for option in ("repeats", "literal_repeats", "batch_size", "threads", "classes"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')} must be at least 1, got {value}")
    for path in (arguments.out, arguments.scaling):
        if path is not None and not path.absolute().parent.is_dir():
            raise UserError(f"{path.absolute().parent} is no folder: create it first, or put {path.name} elsewhere")

    if arguments.scaling and importlib.util.find_spec("matplotlib") is None:
        raise UserError("--scaling draws with matplotlib, which is not installed: pip install matplotlib")

    import torch

    from ..cost import report
    from ..cost.measure import MeasureOptions

    device = _device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    cuda = device.type == "cuda"
    setting = MeasureOptions(
        device=device,
        amp=cuda if arguments.amp is None else arguments.amp,
        compile=cuda if arguments.compile is None else arguments.compile,
        repeats=arguments.repeats,
        literal_repeats=arguments.literal_repeats,
    )
    variants: dict[str, str | None] = {"stock": None}
    if not arguments.no_literal:
        variants["literal"] = "reference"
    variants |= {"XAttnRes" if b == "auto" else f"XAttnRes {b}": b for b in arguments.backend}
    done = (_scaling if arguments.scaling else _typical)(arguments, setting, variants)
    if done is None or not _ran_as_asked(variants, device):
        return 1
    if arguments.out:
        report.save(arguments.out, setting, done)
        print(f"\n{arguments.out}")
    return 0


def _device(name: str):
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name}: PyTorch {torch.__version__} finds no such device here") from None
    return device


def _tell(message: str) -> None:
    """Progress, overwritten in place on a terminal and left out of logs."""
    if sys.stderr.isatty():
        print(f"\r\033[K{message}", end="", file=sys.stderr, flush=True)


def _typical(arguments, setting, variants) -> list[dict] | None:
    from dataclasses import replace

    from ..cost import cases, report
    from ..cost.measure import measure

    if arguments.plans is None:
        chosen = [cases.TYPICAL[name] for name in arguments.case or ["2d-256"]]
    else:
        chosen = [cases.from_plans(arguments.plans, c, arguments.classes) for c in arguments.configuration]
    if arguments.batch_size:
        chosen = [replace(case, batch_size=arguments.batch_size) for case in chosen]
    done = []
    for case in chosen:
        errors = _check(case, variants, setting)
        if errors is None:
            return None
        results = measure(case, variants, setting, _tell)
        _tell("")
        patch = "x".join(map(str, case.patch_size))
        print(f"\n{case.name}: patch {patch}, batch {case.batch_size}\n{report.table(results)}", flush=True)
        done.append(report.to_dict(case, results, errors))
    return done


def _scaling(arguments, setting, variants) -> list[dict] | None:
    from ..cost import cases, report
    from ..cost.measure import measure

    done, series = [], {}
    for axis, points in cases.scaling().items():
        series[axis] = []
        for value, case in points:
            errors = _check(case, variants, setting)
            if errors is None:
                return None
            results = measure(case, variants, setting, _tell)
            _tell("")
            print(f"\n{case.name}\n{report.table(results)}", flush=True)
            series[axis].append((value, results))
            done.append(report.to_dict(case, results, errors))
    about = report.about(setting)
    report.picture(arguments.scaling, series, f"{about['device']}, {about['threads']} threads")
    print(f"\n{arguments.scaling}")
    return done


def _ran_as_asked(variants, device) -> bool:
    """Whether no Triton that was chosen was replaced by PyTorch on the way; said on stderr if it was."""
    from ..ops import custom_op
    from ..ops.dispatch import resolve_backend

    replaced = [f"it failed: {error!r}" for error in custom_op._failed] + sorted(custom_op._refused)
    if "triton" in variants.values() and resolve_backend("triton", device.type) != "triton":
        replaced.append("it cannot be used here")
    for reason in replaced:
        print(f"xattnres cost: the figures are PyTorch's and not Triton's ({reason}): not kept", file=sys.stderr)
    return not replaced


def _check(case, variants, setting) -> dict[str, float] | None:
    """Largest relative errors by backend, or None, said on stderr, if one is too large."""
    import torch

    from ..cost.check import TOLERANCE, TOLERANCE_AS_TIMED, largest_error

    errors, right = {}, True
    for name, backend in variants.items():
        if backend in (None, "reference"):
            continue
        _tell(f"{case.name}: {name}: comparing with the literal equations")
        for precision, allowed, error in (
            ("float64", TOLERANCE, largest_error(case, backend, setting.device)),
            (
                "mixed precision" if setting.amp else "float32",
                TOLERANCE_AS_TIMED[setting.amp],
                largest_error(case, backend, setting.device, torch.float32, setting.amp),
            ),
        ):
            errors[f"{name}, {precision}"] = error
            if not error <= allowed:
                right = False
                print(
                    f"xattnres cost: {case.name}: {name} differs in {precision} from the literal equations by "
                    f"{error:.1e} of the largest value, {allowed:.0e} is allowed: nothing was timed",
                    file=sys.stderr,
                )
    _tell("")
    return errors if right else None
