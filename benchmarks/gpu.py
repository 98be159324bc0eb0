#!/usr/bin/env python
"""Everything that has to be measured on a GPU after the kernels have changed, with one command.

python benchmarks/gpu.py FOLDER [STEP ...] [--dataset ID] [--seconds N]

The tests of the operator and the compilations of the networks run side by side; then everything that is timed runs
alone, one step after the other. The output of every step is FOLDER/STEP.txt, with the command, its time and its exit
code; environment.txt has the GPU and the versions. These files belong into benchmarks/results/.

examples:
python benchmarks/gpu.py measured                          tests, kernels and cost of 2d-512 and 3d-128
python benchmarks/gpu.py measured --dataset 4              the same, and two trainings of a preprocessed dataset
python benchmarks/gpu.py measured tests kernels-3d-128     some steps
python benchmarks/gpu.py measured --seconds 450            what does not fit is named, and can be run by name later
python benchmarks/gpu.py --list                            all steps, with their commands
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from nnunet_xattnres.cli.main import exit_on_signals
from nnunet_xattnres.utils.nnunet_cli import kill_with_workers, last_log_line
from nnunet_xattnres.utils.paths import trainers_path

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
CASES = ("3d-128", "2d-512")
EXIT_TIMEOUT = 124
_POLL_SECONDS = 0.2


class Step(NamedTuple):
    """One command.

    Attributes:
        name: of the step, and of its file.
        command: the program and its arguments; {folder} and {dataset} are filled in.
        seconds: after which it is ended.
        alone: whether nothing else may run at the same time.
        default: whether it runs if no steps are named.
    """

    name: str
    command: tuple[str, ...]
    seconds: int
    alone: bool = True
    default: bool = True

    @property
    def needs_dataset(self) -> bool:
        return "{dataset}" in self.command

    def line(self, folder: Path, dataset: str | None) -> list[str]:
        """The command with what is filled in."""
        return [word.format(folder=folder, dataset=dataset) for word in self.command]


def _steps() -> list[Step]:
    xattnres = (PYTHON, "-m", "nnunet_xattnres")
    cost = (*xattnres, "cost", "--device", "cuda")
    fast = (*cost, "--no-reference")
    tests = ("-m", "pytest", "-q", "-n", "5", "-p", "no:cacheprovider", "tests/ops", "tests/test_layer.py")
    # other sizes of blocks that are expected to be better
    others = {"2d-512": ("channels=128,warps=8,registers=128",), "3d-128": ()}
    return [
        Step("tests", (PYTHON, *tests), 240, alone=False),
        *(
            Step(f"compile-{case}", (*fast, "--case", case, "--no-first-step", "--repeats", "1"), 300, alone=False)
            for case in CASES
        ),
        *(Step(f"kernels-{c}", (PYTHON, "benchmarks/kernels.py", c, *others[c]), 180) for c in CASES),
        *(
            Step(
                f"cost-{case}",
                (*fast, "--case", case, "--no-first-step", "--layers", "--repeats", "9",
                 "--out", f"{{folder}}/cost-{case}.json"),
                180,
            )
            for case in CASES
        ),
        *(
            Step(
                f"train-{name}",
                (PYTHON, "-m", "nnunetv2.run.run_training", "{dataset}", "2d", "0", "-tr", f"{trainer}_5epochs"),
                300,
            )
            for name, trainer in (("stock", "nnUNetTrainer"), ("xattnres", "nnUNetTrainerXAttnRes"))
        ),
        Step("first-steps", (*fast, "--case", *CASES, "--repeats", "1"), 600, default=False),
        Step("literal", (*cost, "--case", "2d-512", "--no-compile"), 600, default=False),
        Step("networks", (*cost, "--case", *CASES, "--all-networks", "--no-first-step"), 900, default=False),
        Step("plan", (*xattnres, "plan", "-d", "{dataset}", "--measure", "--dry-run"), 600, default=False),
    ]  # fmt: skip


STEPS = _steps()


class _Running:
    """A step that has begun, with its file."""

    def __init__(self, step: Step, folder: Path, dataset: str | None, environment: dict[str, str], seconds: float):
        self.step, self.path = step, folder / f"{step.name}.txt"
        command = step.line(folder.resolve(), dataset)
        self._begin = time.monotonic()
        self._end = self._begin + seconds
        with self.path.open("x", encoding="utf-8") as file:
            file.write(f"$ {shlex.join(command)}\n")
            file.flush()
            # a session of its own, so that what it starts can be ended with it
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def poll(self) -> int | None:
        """The exit code, which is EXIT_TIMEOUT if there is no time left, or None while it runs."""
        code = self._process.poll()
        if code is None and time.monotonic() > self._end:
            self.kill()
            code = EXIT_TIMEOUT
        return code

    def kill(self) -> None:
        """End the command and all that it has started."""
        kill_with_workers(self._process)
        self._process.wait()

    def finish(self, code: int) -> str:
        """Write the time and the exit code to the file; returns them with the last line of the output."""
        end = f"{time.monotonic() - self._begin:.0f} s, exit code {code}"
        last = last_log_line(self.path)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n# {end}\n")
        return f"{end}: {last[:120]}"


class Session:
    """The steps of one call.

    Args:
        folder: for their output.
        dataset: the number of a dataset that nnU-Net has preprocessed, or None.
        seconds: for all steps together, or None.
    """

    def __init__(self, folder: Path, dataset: str | None, seconds: float | None):
        self._folder, self._dataset, self._seconds = folder, dataset, seconds
        self._begin = time.monotonic()
        # trained models are part of the output, and replace none of the user's
        self._environment = {
            **os.environ,
            "nnUNet_results": str(folder.resolve() / "nnUNet_results"),
            "nnUNet_extTrainer": str(trainers_path()),
        }

    def run(self, steps: Sequence[Step]) -> bool:
        """Run steps and report them; returns whether all of them succeeded."""
        results = self._run_together([step for step in steps if not step.alone])
        for step in steps:
            if step.alone:
                results += self._run_together([step])
        return all(results)

    def _run_together(self, steps: Sequence[Step]) -> list[bool]:
        """Run steps at the same time; returns for every one whether it succeeded."""
        running, results = [], []
        try:
            for step in steps:
                seconds = step.seconds if self._seconds is None else min(step.seconds, self._seconds - self._elapsed())
                if seconds <= 0:
                    self._report(f"{step.name}: not run, there is no time left")
                    results.append(False)
                    continue
                self._report(f"{step.name} begins")
                running.append(_Running(step, self._folder, self._dataset, self._environment, seconds))
            while running:
                time.sleep(_POLL_SECONDS)
                for one in list(running):
                    if (code := one.poll()) is not None:
                        self._report(f"{one.step.name}: {one.finish(code)}")
                        results.append(code == 0)
                        running.remove(one)
        finally:
            for one in running:
                one.kill()
        return results

    def _elapsed(self) -> float:
        return time.monotonic() - self._begin

    def _report(self, text: str) -> None:
        print(f"{self._elapsed():5.0f} s  {text}", flush=True)


def describe_environment() -> str:
    """The GPU, the versions of the packages and the commit; ends the program if there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        fail(f"PyTorch {torch.__version__} finds no GPU")
    import triton

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    ).stdout.strip()
    versions = f"PyTorch {torch.__version__}, Triton {triton.__version__}, Python {sys.version.split()[0]}"
    return f"{torch.cuda.get_device_name()}, {versions}, commit {commit or 'unknown'}, {time.strftime('%Y-%m-%d')}"


def fail(message: str) -> NoReturn:
    """End the program because its arguments or the machine are wrong."""
    print(f"gpu.py: {message}", file=sys.stderr)
    sys.exit(2)


def select(names: list[str], dataset: str | None) -> list[Step]:
    """The steps of these names, or the default ones; exits with a message on a name that does not exist."""
    known = {step.name: step for step in STEPS}
    for name in names:
        if name not in known:
            fail(f"there is no step {name!r}; there are: {', '.join(known)}")
        if known[name].needs_dataset and dataset is None:
            fail(f"{name} needs --dataset ID, a dataset that nnU-Net has preprocessed")
    if names:
        return [step for step in STEPS if step.name in names]
    return [step for step in STEPS if step.default and (dataset is not None or not step.needs_dataset)]


def main() -> int:
    exit_on_signals()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("folder", nargs="?", type=Path, help="for the output; no file in it is overwritten")
    parser.add_argument("steps", nargs="*", metavar="STEP", help="run these steps")
    parser.add_argument("--dataset", metavar="ID", help="the number of a dataset that nnU-Net has preprocessed")
    parser.add_argument("--seconds", type=float, metavar="N", help="for all steps together")
    parser.add_argument("--list", action="store_true", help="print all steps")
    arguments = parser.parse_args()
    if arguments.list:
        for step in STEPS:
            print(f"{step.name:16s} {shlex.join(step.command)}")
        return 0
    if arguments.folder is None:
        fail("a folder for the output is missing; see --help")
    steps = select(arguments.steps, arguments.dataset)
    for step in steps:
        if (path := arguments.folder / f"{step.name}.txt").exists():
            fail(f"{path} exists; name another folder, or other steps")
    environment = describe_environment()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(environment)
    with (arguments.folder / "environment.txt").open("a", encoding="utf-8") as file:
        file.write(f"{environment}\n")
    return 0 if Session(arguments.folder, arguments.dataset, arguments.seconds).run(steps) else 1


if __name__ == "__main__":
    sys.exit(main())
