"""The actions of `xattnres benchmark`: run the trainings here or on Slurm, show their progress, write the report."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.errors import StepFailedError, UserError
from ..utils.files import write_atomic
from .folders import NnUNetFolders, find_dataset
from .grid import FOLDS, Grid, from_options, read_options
from .local import Failure, Slot, run_tasks
from .progress import format_status, progress
from .slurm import SlurmOptions, active_jobs, read_jobs, submit
from .state import read_experiment_plans, read_splits
from .tasks import RunOptions, Task, predict_tasks, prepare_tasks, train_tasks


@dataclass(frozen=True)
class Benchmark:
    """A grid, nnU-Net's folders, and the folder `out` for logs, the report and benchmark.json, a copy of the grid."""

    grid: Grid
    folders: NnUNetFolders
    out: Path

    def save_grid(self, overwrite: bool) -> None:
        """Write benchmark.json, from which later calls read the grid.

        Raises:
            UserError: if `out` cannot be written.
        """
        path = self.out / "benchmark.json"
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write to {self.out} ({error.strerror}): choose another folder with --out"
            ) from None
        if overwrite or not path.exists():
            write_atomic(path, json.dumps(self.grid.options(), indent=1) + "\n")


def open_benchmark(options: dict[str, Any], file: Path | None, out: Path, to_run: bool) -> Benchmark:
    """The benchmark of a grid that is given by options, by a file that options override, or by OUT/benchmark.json.

    Args:
        options: values of the command line, by the names of `Grid`'s fields.
        file: YAML file with a grid.
        out: folder for logs and the report.
        to_run: whether trainings are started: every dataset, fold and trainer must exist then.

    Raises:
        UserError: if the grid is missing or wrong, or one of nnU-Net's variables is not set to a folder.
    """
    folders = NnUNetFolders.from_environment()
    os.environ["nnUNet_extTrainer"] = folders.environment()["nnUNet_extTrainer"]
    saved = out / "benchmark.json"
    if file:
        from_options({"datasets": "any", "trainers": "any"} | options, "the command line")
        values, source = read_options(file) | options, str(file)
    elif options or to_run:
        values, source = dict(options), "the command line"
        if "datasets" not in values or "trainers" not in values:
            raise UserError("name datasets with -d and trainers with -tr, or a file with both with --grid")
    elif saved.exists():
        values, source = read_options(saved), str(saved)
    else:
        raise UserError(f"{saved} does not exist: name datasets with -d and trainers with -tr, or choose another --out")
    grid = from_options(values, source)
    names = [_full_name(name, folders, to_run or len(grid.datasets) == 1) for name in grid.datasets]
    grid = from_options(grid.options() | {"datasets": names}, source)
    if len(grid.trainers) < 2:
        raise UserError(f"a benchmark needs a baseline and another trainer, got only {grid.baseline}: add one to -tr")
    if to_run:
        _check_names(grid, folders)
    return Benchmark(grid, folders, out)


def _full_name(name: str, folders: NnUNetFolders, must_exist: bool) -> str:
    """The dataset's full name.

    If it need not exist, the full name of a missing dataset is accepted, so that the report lists it as missing.
    """
    try:
        return find_dataset(name, folders)
    except UserError:
        if must_exist or not name.startswith("Dataset"):
            raise
        return name


def _check_names(grid: Grid, folders: NnUNetFolders) -> None:
    """Check configurations, folds and trainers before anything is started."""
    from ..training.lookup import find_trainer

    for experiment in grid.experiments():
        if folders.plans(experiment).exists():
            read_experiment_plans(experiment, folders)
        splits = read_splits(experiment, folders)
        folds = FOLDS if splits is None else range(len(splits))  # nnU-Net makes five
        if unknown := [fold for fold in grid.folds if fold not in folds]:
            path, existing = folders.splits(experiment.dataset), ", ".join(map(str, folds)) or "none"
            raise UserError(
                f"{path} has the folds {existing}, not {', '.join(map(str, unknown))}: choose with -f "
                "(nnU-Net would train another fold on a random split)"
            )
    for trainer in grid.trainers:
        find_trainer(trainer)


def list_phases(grid: Grid, test: bool) -> list[list[Task]]:
    """The tasks: preparation, then training, then, with `test`, prediction of the test cases."""
    phases: list[list[Task]] = [[*prepare_tasks(grid)], [*train_tasks(grid)]]
    return [*phases, [*predict_tasks(grid)]] if test else phases


def run(benchmark: Benchmark, phases: Sequence[Sequence[Task]], options: RunOptions, slots: Sequence[Slot]) -> int:
    """Run what is not done on this machine, then write the report; returns the exit code."""
    benchmark.save_grid(overwrite=True)
    failures: list[Failure] = []
    for number, tasks in enumerate(phases):
        tasks = [task for task in tasks if not any(failure.blocks(task) for failure in failures)]
        preparing = number == 0
        with progress(benchmark.grid, benchmark.folders, shown=number == 1) as echo:
            failures += run_tasks(
                tasks, benchmark.folders, options, slots[:1] if preparing else slots, benchmark.out / "logs", echo
            )
    for failure in failures:
        print(f"xattnres benchmark: {failure}", file=sys.stderr)
    code = report(benchmark, options.processes)
    if failures:
        print("xattnres benchmark: run the same command again to continue", file=sys.stderr)
    return 1 if failures else code


def print_commands(benchmark: Benchmark, phases: Sequence[Sequence[Task]], options: RunOptions) -> int:
    """Print the remaining commands for a shell; tasks that need results of earlier ones are comments."""
    done = 0
    print(f'export nnUNet_extTrainer="{benchmark.folders.environment()["nnUNet_extTrainer"]}"')
    for task in (task for tasks in phases for task in tasks):
        try:
            commands = task.commands(benchmark.folders, options)
        except UserError as error:
            print(f"# {error}")
            continue
        done += not commands
        for command in commands:
            results = shlex.quote(str(benchmark.folders.results_for(task.repeat)))
            print((f"nnUNet_results={results} " if task.repeat else "") + shlex.join(command))
    print(f"# {done} of {sum(map(len, phases))} tasks are done")
    return 0


def run_on_slurm(
    benchmark: Benchmark, phases: Sequence[Sequence[Task]], options: RunOptions, slurm: SlurmOptions
) -> int:
    """Submit what is not done, and the report as the last job; returns the exit code."""
    benchmark.save_grid(overwrite=True)
    out = benchmark.out.absolute()
    messages = submit(phases, benchmark.folders, options, slurm, out, ReportJob(out, options.processes))
    if not messages:
        print("nothing to submit: all tasks are done")
        return report(benchmark, options.processes)
    print("\n".join(messages))
    print(f"xattnres benchmark status --out {benchmark.out} shows the progress")
    return 0


class ReportJob:
    """The report as a job; it fails only if no report can be written, not if trainings are missing in it."""

    def __init__(self, out: Path, processes: int):
        self.out, self.processes = out, processes

    def __call__(self) -> None:
        try:
            report(open_benchmark({}, None, self.out, to_run=False), self.processes)
        except UserError as error:
            raise StepFailedError(f"no report was written: {error}") from None


def status(benchmark: Benchmark) -> int:
    """Print the state of every training."""
    benchmark.save_grid(overwrite=False)
    jobs = read_jobs(benchmark.out)
    active = active_jobs() if jobs else {}
    states = {name: active[job].lower() for name, job in jobs.items() if job in active}
    print(format_status(benchmark.grid, benchmark.folders, states))
    return 0


def report(benchmark: Benchmark, processes: int) -> int:
    """Score what is finished and write the report; returns 1 if anything is missing."""
    from .report.analysis import analyse
    from .report.read import read_results
    from .report.write import write_report

    benchmark.save_grid(overwrite=False)
    data = analyse(benchmark.grid, benchmark.folders, read_results(benchmark.grid, benchmark.folders, processes))
    page = write_report(data, benchmark.out / "report")
    for paired in data.primary:
        print(f"{paired.experiment}: {paired.describe()}")
    for kind in ("missing", "warning"):
        for results in data.results:
            for finding in results.missing if kind == "missing" else results.warnings:
                print(f"{kind}: {results.experiment}: {finding}", file=sys.stderr)
    print(f"Report: {page}")
    return 1 if any(results.missing for results in data.results) else 0
