"""xattnres benchmark: train stock nnU-Net and others alike, and report whether they differ.

Datasets x configurations x plans x trainers x folds, with nnU-Net's own commands, so that everything lies where
nnU-Net always puts it. The first trainer is the baseline. What is finished is never done again; what was killed goes
on from its checkpoint; trainings made by hand count.

  xattnres benchmark run       plan, preprocess and train what is not done yet, then write the report
  xattnres benchmark status    what is done, what runs, what is left and how long that may take
  xattnres benchmark report    the report alone, from what lies in nnUNet_results

What is compared is kept in OUT/benchmark.json (OUT is xattnres_benchmark, or --out), so status and report need no
options after a run.

examples:
  xattnres benchmark run -d 4 -tr nnUNetTrainer_50epochs nnUNetTrainerXAttnRes_50epochs
  xattnres benchmark run -d 4 27 -c 2d 3d_fullres -p nnUNetResEncUNetMPlans -tr nnUNetTrainer nnUNetTrainerXAttnRes
  xattnres benchmark run --grid benchmark.yaml --dry-run      print the commands and do nothing
  xattnres benchmark status
  xattnres benchmark report -d 4 -tr nnUNetTrainer nnUNetTrainerXAttnRes --out report_of_old_trainings

benchmark.yaml, every entry but the first two optional:
  datasets: [4, Dataset501_Nuclei]
  trainers: [nnUNetTrainer_50epochs, nnUNetTrainerXAttnRes_50epochs]
  configurations: [2d]
  plans: [nnUNetPlans]
  folds: [0, 1, 2, 3, 4]
  repeats: 1

exit codes: 0 fine, 1 a command failed or something is left to do, 2 the arguments or the input are wrong
"""

import argparse
import json
import os
import shlex
import sys
from dataclasses import fields
from pathlib import Path

from ..utils.errors import UserError
from ..utils.workers import default_workers
from .arguments import positive_int

_OUT = Path("xattnres_benchmark")


def configure(parser: argparse.ArgumentParser) -> None:
    subparsers = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in {
        "run": "do what is not done yet, then write the report",
        "status": "what is done, what runs and what is left",
        "report": "write the report of what is done",
    }.items():
        action = subparsers.add_parser(
            name, help=summary, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        _add_grid(action)
        if name == "run":
            _add_run(action)
        if name == "report":
            action.add_argument(
                "--workers",
                type=positive_int,
                default=default_workers(),
                metavar="N",
                help="processes that score cases",
            )


def _add_grid(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is compared")
    what.add_argument("-d", dest="datasets", nargs="+", metavar="DATASET", help="numbers or full names")
    what.add_argument("-tr", dest="trainers", nargs="+", metavar="TRAINER", help="the first one is the baseline")
    what.add_argument("-c", dest="configurations", nargs="+", metavar="C", help="configurations (default: 2d)")
    what.add_argument("-p", dest="plans", nargs="+", metavar="PLANS", help="plans (default: nnUNetPlans)")
    what.add_argument("-f", dest="folds", nargs="+", metavar="FOLD", help="folds (default: 0 1 2 3 4)")
    what.add_argument(
        "--repeats", type=positive_int, metavar="N",
        help="trainings of each; nnU-Net takes no seed, so they differ by chance; all but the first lie in "
        "nnUNet_results/repeat_1, ... (default: 1)",
    )  # fmt: skip
    what.add_argument("--grid", type=Path, metavar="FILE", help="all of these from a YAML file, options win")
    parser.add_argument(
        "--out", type=Path, default=_OUT, metavar="FOLDER", help="for logs and the report (default: %(default)s)"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how")
    how.add_argument("--dry-run", action="store_true", help="print the commands that are left, and do nothing")
    how.add_argument("--device", choices=["cuda", "cpu", "mps"], default="cuda", help="(default: %(default)s)")
    how.add_argument("--gpus", nargs="+", metavar="GPU", help="one training on each (default: all that are visible)")
    how.add_argument(
        "--num-gpus", type=positive_int, default=1, metavar="N", help="GPUs of one training (DDP; default: 1)"
    )
    how.add_argument(
        "--jobs", type=positive_int, default=1, metavar="N", help="trainings at once on a CPU (default: 1)"
    )
    how.add_argument("--test", action="store_true", help="predict and score imagesTs with the folds together, too")
    how.add_argument(
        "--workers", type=positive_int, default=default_workers(), metavar="N",
        help="processes that preprocess, predict and score (default: %(default)s)",
    )  # fmt: skip

    cluster = parser.add_argument_group("on a Slurm cluster")
    cluster.add_argument("--slurm", action="store_true", help="submit jobs instead; the report is the last of them")
    cluster.add_argument("--partition", metavar="P", help="(default: the cluster's)")
    cluster.add_argument(
        "--time", type=_minutes, default=24 * 60, metavar="H:MM",
        help="limit of a job; what reaches it is requeued and goes on (default: 24:00)",
    )  # fmt: skip
    cluster.add_argument("--cpus", type=positive_int, metavar="N", help="of a job (default: the cluster's)")
    cluster.add_argument("--memory", type=positive_int, metavar="GB", help="of a job (default: the cluster's)")
    cluster.add_argument("--parallel", type=positive_int, default=64, metavar="N", help="jobs at once (default: 64)")
    cluster.add_argument(
        "--slurm-option", type=_option, action="append", default=[], metavar="NAME=VALUE",
        help="another option of sbatch, such as account=lab; may be repeated",
    )  # fmt: skip
    cluster.add_argument(
        "--setup", action="append", default=[], metavar="LINE", help="shell line before a job; may be repeated"
    )


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    if not (hours.isdecimal() and minutes.isdecimal()) or not int(hours) * 60 + int(minutes):
        raise argparse.ArgumentTypeError(f"expected hours and minutes such as 24:00, got {text!r}")
    return int(hours) * 60 + int(minutes)


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE such as account=lab, got {text!r}")
    return name.lstrip("-"), value


def run(arguments: argparse.Namespace) -> int:
    from ..benchmark.folders import NnUNetFolders
    from ..benchmark.grid import Grid, from_options, read_options

    folders = NnUNetFolders.from_environment()
    os.environ["nnUNet_extTrainer"] = folders.environment()["nnUNet_extTrainer"]
    kept = arguments.out / "benchmark.json"
    given = {field.name: value for field in fields(Grid) if (value := getattr(arguments, field.name)) is not None}
    if arguments.grid:
        options, source = read_options(arguments.grid), str(arguments.grid)
        from_options({"datasets": "any", "trainers": "any"} | given, "the command line")
        options |= given
    elif given or arguments.action == "run":
        options, source = given, "the command line"
        if "datasets" not in given or "trainers" not in given:
            raise UserError("name datasets with -d and trainers with -tr, or a file of them with --grid")
    elif kept.exists():
        options, source = read_options(kept), str(kept)
    else:
        raise UserError(f"there is no {kept} of a benchmark: name datasets with -d and trainers with -tr, or --out")
    grid = from_options(options, source)
    found = [
        _find(name, folders, strict=arguments.action == "run" or len(grid.datasets) == 1) for name in grid.datasets
    ]
    grid = from_options(grid.options() | {"datasets": found}, source)
    if len(grid.trainers) < 2:
        raise UserError(f"a benchmark needs a baseline and another trainer, got {grid.baseline} alone: add one to -tr")
    if arguments.action == "run":
        _check(grid, folders)
    action = {"run": _run, "status": _status, "report": _report}[arguments.action]
    return action(grid, folders, arguments)


def _find(name: str, folders, strict: bool) -> str:
    """The full name of a dataset; of several, one that is gone is kept, for the report to name what is missing."""
    from ..benchmark.folders import find_dataset

    try:
        return find_dataset(name, folders)
    except UserError:
        if strict or not name.startswith("Dataset"):
            raise
        return name


def _check(grid, folders) -> None:
    """Names that nothing knows, before anything is started."""
    from ..benchmark.grid import FOLDS
    from ..benchmark.state import read_plans, read_splits
    from ..training.lookup import find_trainer

    for experiment in grid.experiments():
        if folders.plans(experiment).exists():
            read_plans(experiment, folders)
        splits = read_splits(experiment, folders)
        folds = FOLDS if splits is None else range(len(splits))  # nnU-Net makes five
        if unknown := [fold for fold in grid.folds if fold not in folds]:
            there = ", ".join(map(str, folds)) or "none"
            raise UserError(
                f"{folders.preprocessed_dataset(experiment) / 'splits_final.json'} has the folds {there}, not "
                f"{', '.join(map(str, unknown))}: choose with -f (nnU-Net would split at random)"
            )
    for trainer in grid.trainers:
        find_trainer(trainer)


def _keep(grid, out: Path, anew: bool = True) -> None:
    """Keep what is compared, for status and report; unless `anew`, only where nothing is kept."""
    from ..utils.files import write_atomic

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another folder with --out") from None
    if anew or not (out / "benchmark.json").exists():
        write_atomic(out / "benchmark.json", json.dumps(grid.options(), indent=1) + "\n")


def _run(grid, folders, arguments) -> int:
    from ..benchmark.local import run_tasks, slots
    from ..benchmark.progress import progress
    from ..benchmark.tasks import RunOptions, predict_tasks, prepare_tasks, train_tasks

    options = RunOptions(arguments.device, arguments.num_gpus, arguments.workers)
    phases = [list(prepare_tasks(grid)), list(train_tasks(grid))]
    if arguments.test:
        phases.append(list(predict_tasks(grid)))
    if arguments.dry_run:
        return _print_commands(phases, folders, options)
    if arguments.slurm:
        return _submit(grid, phases, folders, options, arguments)
    where = slots(arguments.device, arguments.gpus, arguments.num_gpus, arguments.jobs)
    _keep(grid, arguments.out)
    failures = []
    for number, tasks in enumerate(phases):
        tasks = [task for task in tasks if not any(failure.blocks(task) for failure in failures)]
        with progress(grid, folders, shown=number == 1) as tell:
            failures += run_tasks(tasks, folders, options, where if number else where[:1], arguments.out / "logs", tell)
    for failure in failures:
        print(f"xattnres benchmark: {failure}", file=sys.stderr)
    code = _report(grid, folders, arguments)
    if failures:
        print("xattnres benchmark: the same command goes on with what is left", file=sys.stderr)
    return 1 if failures else code


def _submit(grid, phases, folders, options, arguments) -> int:
    from ..benchmark.slurm import Slurm, submit

    _keep(grid, arguments.out)
    slurm = Slurm(
        time=arguments.time, partition=arguments.partition, memory_gb=arguments.memory, cpus=arguments.cpus,
        parallel=arguments.parallel, options=dict(arguments.slurm_option), setup=tuple(arguments.setup),
    )  # fmt: skip
    said = submit(phases, folders, options, slurm, arguments.out)
    print("\n".join(said) if said else "nothing is left to submit")
    if not said:
        return _report(grid, folders, arguments)
    print(f"xattnres benchmark status --out {arguments.out} says how far they are")
    return 0


def _print_commands(phases, folders, options) -> int:
    """What is left, as a person would type it; what cannot be known yet is said."""
    done = 0
    print(f'export nnUNet_extTrainer="{folders.environment()["nnUNet_extTrainer"]}"')
    for tasks in phases:
        for task in tasks:
            try:
                commands = task.commands(folders, options)
            except UserError as error:
                print(f"# {error}")
                continue
            done += not commands
            for command in commands:
                before = f"nnUNet_results={shlex.quote(str(folders.results_for(task.repeat)))} " if task.repeat else ""
                print(before + shlex.join(command))
    print(f"# {done} of {sum(map(len, phases))} are done already")
    return 0


def _status(grid, folders, arguments) -> int:
    from ..benchmark.progress import status
    from ..benchmark.slurm import active_jobs, read_jobs

    _keep(grid, arguments.out, anew=False)
    jobs = read_jobs(arguments.out)
    active = active_jobs() if jobs else {}
    print(status(grid, folders, {name: active[job].lower() for name, job in jobs.items() if job in active}))
    return 0


def _report(grid, folders, arguments) -> int:
    from ..benchmark.report.report_data import analyse
    from ..benchmark.report.results import read_results
    from ..benchmark.report.write import write_report

    _keep(grid, arguments.out, anew=False)
    results = read_results(grid, folders, arguments.workers)
    content = analyse(grid, folders, results)
    page = write_report(content, arguments.out / "report")
    for paired in content.primary:
        print(f"{paired.results.experiment}: {paired.in_words()}")
    missing = [f"{found.experiment}: {line}" for found in results for line in found.missing]
    for line in missing:
        print(f"missing: {line}", file=sys.stderr)
    for line in [f"{found.experiment}: {line}" for found in results for line in found.warnings]:
        print(f"warning: {line}", file=sys.stderr)
    print(f"Report: {page}")
    return 1 if missing else 0
