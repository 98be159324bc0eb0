"""xattnres doctor: check that nnU-Net will find and run the trainers here.

Looks at the versions, nnU-Net's four environment variables, the trainers (through nnU-Net's own look-up), the
device, the compiler that nnU-Net's torch.compile needs on a GPU, and what computes XAttnRes there. Each problem comes
with its cure.

Exit code 1 if something is broken; warnings alone leave it at 0.
"""

import argparse
import importlib.metadata
import os
import platform
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from ..utils.paths import PATH_VARIABLES, WEIGHTS_VARIABLE, trainers_path

# nnU-Net's look-up imports all of its own trainers, and with them timm and torchvision
_PACKAGES = (
    "nnunet-xattnres", "nnunetv2", "torch", "torchvision", "timm", "triton", "dynamic-network-architectures",
    "batchgenerators", "SimpleITK", "numpy",
)  # fmt: skip


@dataclass
class Finding:
    """One line of the report: `level` is ok, warning or broken; a finding that is not ok has a cure."""

    level: str
    text: str
    cure: str = ""

    def __str__(self) -> str:
        mark = {"ok": "  ok     ", "warning": "! warning", "broken": "X BROKEN "}[self.level]
        return f"{mark} {self.text}" + (f"\n            cure: {self.cure}" if self.cure else "")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trainer", metavar="NAME", help="check this trainer only, instead of every one in the box")


def run(arguments: argparse.Namespace) -> int:
    broken = 0
    for title, check in {
        "versions": versions,
        "environment": environment_variables,
        "trainers": lambda: trainers(arguments.trainer),
        "network": network,
        "device": device,
    }.items():
        print(title)
        for finding in _guarded(check):
            print(finding, flush=True)
            broken += finding.level == "broken"
    print(f"\n{broken} problem(s) found" if broken else "\nEverything is in place.")
    return 1 if broken else 0


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; one that cannot even run is a finding, too."""
    try:
        yield from check()
    except Exception as error:
        yield Finding("broken", f"this check fails: {_reason(error)}", "mend the versions above first")


def _reason(error: Exception) -> str:
    """What an error says first, and the file it comes from."""
    lines = str(error).splitlines()
    file = traceback.extract_tb(error.__traceback__)[-1].filename
    return f"{type(error).__name__}: {lines[0] if lines else ''} ({file})"


def versions() -> Iterator[Finding]:
    """Installed packages against this package's own requirements."""
    yield Finding("ok", f"Python {platform.python_version()} on {platform.platform()}")
    wanted = {}
    for package in _PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package != "triton":
                cure = "pip install . in the checkout" if package == _PACKAGES[0] else f"pip install {package}"
                yield Finding("broken", f"{package} is not installed", cure)
            continue
        if package == _PACKAGES[0]:
            requirements = map(Requirement, importlib.metadata.requires(package) or ())
            wanted = {r.name.lower(): r for r in requirements if r.marker is None}
        requirement = wanted.get(package.lower())
        if requirement and not requirement.specifier.contains(version, prereleases=True):
            yield Finding("broken", f"{package} {version}, but {requirement} is needed", f"pip install '{requirement}'")
        else:
            yield Finding("ok", f"{package} {version}")


def environment_variables() -> Iterator[Finding]:
    """nnU-Net's four environment variables, and ours."""
    from ..ops.dispatch import BACKENDS, VARIABLE

    if (asked_for := os.environ.get(VARIABLE)) and asked_for not in BACKENDS:
        yield Finding(
            "broken", f"{VARIABLE}={asked_for} names no backend",
            f"export {VARIABLE}=auto (or {', '.join(BACKENDS[1:])})",
        )  # fmt: skip
    weights = os.environ.get(WEIGHTS_VARIABLE)
    if weights and weights != "random" and not Path(weights).is_file():
        cure = f"export {WEIGHTS_VARIABLE}=/a/file, or unset {WEIGHTS_VARIABLE}"
        yield Finding("broken", f"{WEIGHTS_VARIABLE}={weights} is no file", cure)
    for variable in PATH_VARIABLES:
        value = os.environ.get(variable)
        if value is None:
            yield Finding("broken", f"{variable} is not set", f"export {variable}=/a/folder/of/yours")
        elif not Path(value).is_dir():
            yield Finding("broken", f"{variable}={value} is not a folder", f"mkdir -p '{value}'")
        elif variable != "nnUNet_raw" and not os.access(value, os.W_OK):
            yield Finding(
                "broken", f"{variable}={value} cannot be written to", f"chmod u+w '{value}', or choose another"
            )
        else:
            yield Finding("ok", f"{variable}={value}")
    value = os.environ.get("nnUNet_extTrainer")
    export = 'export nnUNet_extTrainer="$(xattnres trainers)"'
    if value is None:
        yield Finding("broken", "nnUNet_extTrainer is not set, so nnU-Net does not see the trainers", export)
    elif trainers_path().resolve() not in [
        Path(folder).resolve() for folder in value.split(os.pathsep) if folder.strip()
    ]:
        yield Finding("broken", f"nnUNet_extTrainer={value} does not lead to {trainers_path()}", export)
    else:
        yield Finding("ok", f"nnUNet_extTrainer={value}")


def trainers(only: str | None = None) -> Iterator[Finding]:
    """Every trainer in the box through nnU-Net's own look-up."""
    from ..training.catalogue import catalogue
    from ..training.lookup import look_up, nearest

    names = list(catalogue(lengths=only is not None))
    resolved, failed = [], {}
    for name in [only] if only else names:
        try:
            look_up(name)
        except Exception as error:  # a trainer file may break in any way
            failed[name] = _reason(error)
        else:
            resolved.append(name)
    if resolved:
        found = only or f"{len(resolved)}, listed by: xattnres trainers --list"
        yield Finding("ok", f"found by nnU-Net's look-up: {found}")
    if not only and not resolved:
        yield Finding(
            "broken", f"nnU-Net's look-up finds none of them: {failed[names[0]]}",
            "see nnUNet_extTrainer above; one broken file in any of its folders breaks the look-up of every trainer",
        )  # fmt: skip
        return
    for name, reason in failed.items():
        near = nearest(name, names)
        cure = f"did you mean {near}?" if near else "see nnUNet_extTrainer above"
        yield Finding("broken", f"{name}: {reason}", cure)


def network() -> Iterator[Finding]:
    """One training step of a small network on the CPU."""
    import torch

    from .. import XAttnResUNet

    width = [4, 8]
    net = XAttnResUNet(
        input_channels=1, n_stages=2, features_per_stage=width, conv_op=torch.nn.Conv2d, kernel_sizes=3, strides=[1, 2],
        n_conv_per_stage=2, num_classes=2, n_conv_per_stage_decoder=2, nonlin=torch.nn.LeakyReLU,
    )  # fmt: skip
    net(torch.randn(1, 1, 16, 16)).square().mean().backward()
    if all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters()):
        yield Finding("ok", "a training step of a small network gives every parameter a finite gradient")
    else:
        yield Finding(
            "broken", "a training step of a small network leaves parameters without a gradient", "reinstall torch"
        )


def device() -> Iterator[Finding]:
    """Where nnU-Net will train, and the compiler it wants there."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield Finding(
                "ok", f"CUDA {torch.version.cuda}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
            )
        yield from compiler()
        yield from backend()
    elif torch.backends.mps.is_available():
        yield Finding("ok", "Apple GPU: train with -device mps; nnU-Net does not compile there")
    else:
        yield Finding(
            "warning", f"no GPU: {os.cpu_count()} CPU cores",
            "train with -device cpu, and only as a trial: nnU-Net's trainings are meant for a GPU",
        )  # fmt: skip


def backend() -> Iterator[Finding]:
    """What computes XAttnRes on CUDA."""
    from ..ops.dispatch import VARIABLE, resolve_backend, why_triton_unavailable

    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted in ("torch", "reference"):
        yield Finding("ok", f"XAttnRes is computed by '{resolve_backend(None, 'cuda')}', as {VARIABLE} says")
    elif reason := why_triton_unavailable("cuda"):
        yield Finding(
            "warning", f"XAttnRes is computed by PyTorch, slower: Triton cannot be used ({reason})",
            "see the compiler above, or update PyTorch and the driver",
        )  # fmt: skip
    else:
        yield Finding("ok", "XAttnRes is computed by Triton")


def compiler() -> Iterator[Finding]:
    """What torch.compile, which nnU-Net switches on for CUDA, needs: Triton and a C compiler."""
    if os.environ.get("nnUNet_compile", "t").lower() not in ("true", "1", "t"):
        yield Finding("ok", "torch.compile is switched off (nnUNet_compile)")
        return
    cure = "install it, or train without torch.compile: export nnUNet_compile=f"
    try:
        importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("broken", "Triton is not installed, but nnU-Net compiles on CUDA", cure)
    found = [c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)]
    if found:
        yield Finding("ok", f"C compiler for torch.compile: {shutil.which(found[0])}")
    else:
        yield Finding("broken", "no C compiler, but nnU-Net compiles on CUDA", cure)
