"""xattnres doctor: check that nnU-Net will find and run the trainers on this machine.

The command checks the versions of the packages, nnU-Net's environment variables, nnU-Net's own search for a trainer, a
training step of a small network, the device, the compiler that torch.compile needs on a GPU, and the backend that
computes XAttnRes there. Every problem comes with a hint on how to fix it.

The exit code is 1 if something is broken. Warnings do not change it.
"""

import argparse
import importlib.metadata
import os
import platform
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..utils.paths import PATH_VARIABLES, WEIGHTS_VARIABLE, trainers_path

TRAINER = "nnUNetTrainerXAttnRes"
"""The trainer that is searched for if --trainer names no other."""

_THIS_PACKAGE = "nnunet-xattnres"
# nnU-Net's search imports all of its own trainers, which import timm and torchvision
_PACKAGES = (
    _THIS_PACKAGE, "nnunetv2", "torch", "torchvision", "timm", "triton", "dynamic-network-architectures",
    "batchgenerators", "SimpleITK", "numpy",
)  # fmt: skip

# nnU-Net converts the values of these to integers when it is imported or starts a training
_NUMBER_VARIABLES = ("nnUNet_def_n_proc", "nnUNet_n_proc_DA")


class Level(Enum):
    """How serious a result is; the value is the mark in front of its line."""

    OK = "  ok     "
    WARNING = "! warning"
    BROKEN = "X BROKEN "


@dataclass
class CheckResult:
    """One line of the report.

    Attributes:
        level: how serious it is.
        subject: the package, variable, trainer or device that was checked.
        text: one line for the user.
        hint: how to fix it, unless the level is OK.
    """

    level: Level
    subject: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.level.value} {self.text}" + (f"\n            hint: {self.hint}" if self.hint else "")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trainer", metavar="NAME", help=f"let nnU-Net search for this trainer (default: {TRAINER}, as an example)"
    )


def run(arguments: argparse.Namespace) -> int:
    num_broken = 0
    for title, check in {
        "versions": check_versions,
        "environment": check_environment,
        "trainers": lambda: check_trainers(arguments.trainer),
        "network": check_network,
        "device": check_device,
    }.items():
        print(title)
        for result in _catch_errors(title, check):
            print(result, flush=True)
            num_broken += result.level is Level.BROKEN
    print(f"\n{num_broken} problem(s) found" if num_broken else "\nNo problem found.")
    return 1 if num_broken else 0


def _catch_errors(title: str, check: Callable[[], Iterator[CheckResult]]) -> Iterator[CheckResult]:
    """The results of a check. If it raises an exception, that is a result too."""
    try:
        yield from check()
    except Exception as error:
        yield CheckResult(Level.BROKEN, title, f"this check fails: {_reason(error)}", "fix the versions above first")


def _reason(error: Exception) -> str:
    """The first line of an error's message, and the file that raised it."""
    lines = str(error).splitlines()
    text = type(error).__name__ + (f": {lines[0]}" if lines else "")
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else text


def check_versions() -> Iterator[CheckResult]:
    """The installed packages against the requirements of this package."""
    from packaging.requirements import Requirement

    yield CheckResult(Level.OK, "python", f"Python {platform.python_version()} on {platform.platform()}")
    requirements: dict[str, Requirement] = {}
    for package in _PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package != "triton":
                hint = "pip install . in the checkout" if package == _THIS_PACKAGE else f"pip install {package}"
                yield CheckResult(Level.BROKEN, package, f"{package} is not installed", hint)
            continue
        if package == _THIS_PACKAGE:
            own = map(Requirement, importlib.metadata.requires(package) or ())
            requirements = {r.name.lower(): r for r in own if r.marker is None}
        requirement = requirements.get(package.lower())
        if requirement and not requirement.specifier.contains(version, prereleases=True):
            text = f"{package} {version} is installed, but {requirement} is required"
            yield CheckResult(Level.BROKEN, package, text, f"pip install '{requirement}'")
        else:
            yield CheckResult(Level.OK, package, f"{package} {version}")


def check_environment() -> Iterator[CheckResult]:
    """nnU-Net's four environment variables, and those of this package."""
    from ..networks.checkpointing import CHECKPOINT_VARIABLE, checkpoints_by_variable
    from ..ops.dispatch import BACKEND_VARIABLE, BACKENDS

    try:
        checkpoints_by_variable()
    except ValueError as error:
        yield CheckResult(Level.BROKEN, CHECKPOINT_VARIABLE, str(error), f"export {CHECKPOINT_VARIABLE}=0 (or 1)")
    if (name := os.environ.get(BACKEND_VARIABLE)) and name not in BACKENDS:
        hint = f"export {BACKEND_VARIABLE}=auto (or {', '.join(BACKENDS[1:])})"
        yield CheckResult(Level.BROKEN, BACKEND_VARIABLE, f"{BACKEND_VARIABLE}={name} is not a backend", hint)
    weights = os.environ.get(WEIGHTS_VARIABLE)
    if weights and weights != "random" and not Path(weights).is_file():
        hint = f"export {WEIGHTS_VARIABLE}=/path/to/a/file, or unset {WEIGHTS_VARIABLE}"
        yield CheckResult(Level.BROKEN, WEIGHTS_VARIABLE, f"{WEIGHTS_VARIABLE}={weights} is not a file", hint)
    for variable in _NUMBER_VARIABLES:
        value = os.environ.get(variable)
        if value is not None and not value.strip().isdecimal():
            hint = f"export {variable}=8, or unset {variable}"
            yield CheckResult(Level.BROKEN, variable, f"{variable}={value} is not a whole number", hint)
    yield from _check_folders()
    yield from _check_trainer_folders()


def _check_folders() -> Iterator[CheckResult]:
    """nnU-Net's three folders."""
    folders: dict[Path, str] = {}
    for variable in PATH_VARIABLES:
        value = os.environ.get(variable)
        if value is None:
            yield CheckResult(Level.BROKEN, variable, f"{variable} is not set", f"export {variable}=/path/to/a/folder")
        elif fault := _folder_fault(value):
            reason, hint = fault
            yield CheckResult(Level.BROKEN, variable, f"{variable}={value} {reason}", hint)
        elif variable != "nnUNet_raw" and not os.access(value, os.W_OK):
            hint = f"chmod u+w '{value}', or choose another folder"
            yield CheckResult(Level.BROKEN, variable, f"{variable}={value} is not writable", hint)
        elif not Path(value).is_absolute():
            text = f"{variable}={value} is relative: commands that start in another folder do not find it"
            yield CheckResult(Level.WARNING, variable, text, f"export {variable}='{Path(value).resolve()}'")
        elif (other := folders.setdefault(Path(value).resolve(), variable)) != variable:
            text = f"{variable} and {other} are the same folder, so nnU-Net mixes their data sets"
            yield CheckResult(Level.WARNING, variable, text, f"export {variable}=/path/to/another/folder")
        else:
            yield CheckResult(Level.OK, variable, f"{variable}={value}")


def _folder_fault(value: str) -> tuple[str, str] | None:
    """Why a value of a variable names no folder, and a hint; None if it does."""
    path, bare = Path(value), value.strip(" \t\r\n\"'")
    if not bare:
        return "is empty, which nnU-Net takes for the folder where a command starts", "name a folder"
    if path.is_dir():
        return None
    if value.startswith("~"):
        return "begins with ~, which nnU-Net does not expand", f"write {Path(value).expanduser()}"
    if bare != value:
        return "begins or ends with quotes or blanks, which belong to the name for nnU-Net", f"write {bare}"
    if path.is_symlink():
        return "is a link to a folder that does not exist", f"mkdir -p '{path.resolve()}', or name another folder"
    if path.exists():
        return "is not a folder but a file", "name a folder"
    return "is not a folder", f"mkdir -p '{value}', or correct the name"


def _check_trainer_folders() -> Iterator[CheckResult]:
    """The folders in which nnU-Net searches for trainers; it passes over those that do not exist in silence."""
    variable, hint = "nnUNet_extTrainer", 'export nnUNet_extTrainer="$(xattnres trainers)"'
    value = os.environ.get(variable)
    if value is None:
        yield CheckResult(Level.BROKEN, variable, f"{variable} is not set, so nnU-Net does not find the trainers", hint)
        return
    entries = [entry for entry in value.split(os.pathsep) if entry.strip()]
    if trainers_path().resolve() in (Path(entry).resolve() for entry in entries):
        yield CheckResult(Level.OK, variable, f"{variable}={value}")
    else:
        yield CheckResult(Level.BROKEN, variable, f"{variable}={value} does not include {trainers_path()}", hint)
    for entry in entries:
        if fault := _folder_fault(entry):
            text = f"{variable}: {entry} {fault[0]}; nnU-Net finds no trainers there and does not say so"
            yield CheckResult(Level.WARNING, variable, text, fault[1])
        elif not Path(entry).is_absolute():
            text = f"{variable}: {entry} is relative: commands that start in another folder find no trainers there"
            yield CheckResult(Level.WARNING, variable, text, f"write {Path(entry).resolve()}")


def check_trainers(name: str | None = None) -> Iterator[CheckResult]:
    """nnU-Net's own search for one trainer, which imports the trainer files as nnU-Net's commands do."""
    from ..training.lookup import look_up, nearest
    from ..training.names import trainer_names

    trainer = name or TRAINER
    try:
        look_up(trainer)
    except Exception as error:  # importing a trainer file can raise any exception
        names = trainer_names(lengths=True)
        similar = nearest(trainer, names)
        hint = f"did you mean {similar}?" if similar else (
            "see nnUNet_extTrainer above; one broken file in any of its folders breaks the search for every trainer"
        )  # fmt: skip
        yield CheckResult(Level.BROKEN, trainer, f"nnU-Net does not find {trainer}: {_reason(error)}", hint)
    else:
        yield CheckResult(Level.OK, trainer, f"nnU-Net finds {trainer}; all trainers: xattnres trainers --list")


def check_network() -> Iterator[CheckResult]:
    """The gradients of one training step of a small network on the CPU."""
    import torch

    from .. import XAttnResUNet

    features = [4, 8]
    net = XAttnResUNet(
        input_channels=1, n_stages=2, features_per_stage=features, conv_op=torch.nn.Conv2d, kernel_sizes=3,
        strides=[1, 2], n_conv_per_stage=2, num_classes=2, n_conv_per_stage_decoder=2, nonlin=torch.nn.LeakyReLU,
    )  # fmt: skip
    net(torch.randn(1, 1, 16, 16)).square().mean().backward()
    if all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters()):
        text = "in a training step of a small network, all parameters have finite gradients"
        yield CheckResult(Level.OK, "gradients", text)
    else:
        text = "in a training step of a small network, some parameters have no finite gradient"
        yield CheckResult(Level.BROKEN, "gradients", text, "reinstall torch")


def check_device() -> Iterator[CheckResult]:
    """The GPU, and on CUDA the compiler; and the backend of XAttnRes."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            text = f"CUDA {torch.version.cuda}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
            yield CheckResult(Level.OK, f"cuda:{index}", text)
        yield from check_compiler()
        yield from check_backend("cuda")
    elif torch.backends.mps.is_available():
        yield CheckResult(
            Level.OK, "mps", "Apple GPU: train with -device mps; nnU-Net does not use torch.compile there"
        )
    else:
        hint = "train with -device cpu, but only to try it out: nnU-Net's trainings need a GPU"
        yield CheckResult(Level.WARNING, "cpu", f"no GPU; {os.cpu_count()} CPU cores", hint)
        yield from check_backend("cpu")


def check_backend(device_type: str) -> Iterator[CheckResult]:
    """The backend that computes XAttnRes on a device, "cuda" or "cpu"."""
    from ..ops.dispatch import (
        BACKEND_VARIABLE,
        BACKENDS,
        automatic_backend,
        resolve_backend,
        why_cpp_unavailable,
        why_triton_unavailable,
    )

    name = os.environ.get(BACKEND_VARIABLE) or "auto"
    if name not in BACKENDS:
        return  # the check of the variables names it
    because = "" if name == "auto" else f", because of {BACKEND_VARIABLE}={name}"
    resolved = resolve_backend(None, device_type)
    label, reason, hint = "", None, ""
    selected = automatic_backend(device_type) if name == "auto" else name
    if selected == "triton":
        label, reason = "Triton", why_triton_unavailable(device_type)
        hint = "see the compiler above, or update PyTorch and the driver"
    elif selected == "cpp":
        label, reason, hint = "C++", why_cpp_unavailable(device_type), "install a C++ compiler: apt-get install g++"
    if reason is not None:
        text = f"backend of XAttnRes: torch, which is slower than {label}; {label} cannot be used ({reason})"
        yield CheckResult(Level.WARNING, "backend", text, hint)
    else:
        yield CheckResult(Level.OK, "backend", f"backend of XAttnRes: {resolved}{because}")


def check_compiler() -> Iterator[CheckResult]:
    """Triton and a C compiler, which torch.compile needs; nnU-Net uses torch.compile on CUDA, but not on Windows."""
    if os.name == "nt":
        yield CheckResult(Level.OK, "torch.compile", "nnU-Net does not use torch.compile on Windows")
        return
    if os.environ.get("nnUNet_compile", "t").lower() not in ("true", "1", "t"):
        yield CheckResult(Level.OK, "torch.compile", "torch.compile is switched off by nnUNet_compile")
        return
    hint = "install it, or train without torch.compile: export nnUNet_compile=f"
    try:
        importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        yield CheckResult(
            Level.BROKEN, "triton", "Triton is not installed, but nnU-Net uses torch.compile on CUDA", hint
        )
    compilers = [c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)]
    if compilers:
        yield CheckResult(Level.OK, "compiler", f"C compiler for torch.compile: {shutil.which(compilers[0])}")
    else:
        text = "there is no C compiler, but nnU-Net uses torch.compile on CUDA"
        yield CheckResult(Level.BROKEN, "compiler", text, hint)
